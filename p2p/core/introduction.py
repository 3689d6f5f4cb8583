"""How two peers are introduced to each other, whoever does it: a server, or the network that both are on."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Protocol, TypeAlias, TypeVar, assert_never

from p2p.core.address import Address
from p2p.core.datagram import MAIN, Transmit
from p2p.core.errors import CallerError

MAX_NAME = 64  # bytes of UTF-8
MAX_NAMEPLATE = 32  # bytes of UTF-8
MAX_PAYLOAD = 1024  # bytes: with all headers below the 1232 bytes that every IPv6 path carries (RFC 8200 section 5)


@dataclass(frozen=True, slots=True)
class NamePair:
    """Who we are and whom we want to meet.

    Names are 1 to 64 bytes of UTF-8 each and differ. Raises CallerError otherwise.
    """

    me: str
    friend: str

    def __post_init__(self) -> None:
        if self.me == self.friend:
            raise CallerError("both names are the same")
        _check_text("name", self.me, MAX_NAME)
        _check_text("name", self.friend, MAX_NAME)


@dataclass(frozen=True, slots=True)
class Nameplate:
    """The public half of a one-time code, 1 to 32 bytes of UTF-8. Raises CallerError otherwise."""

    text: str

    def __post_init__(self) -> None:
        _check_text("nameplate", self.text, MAX_NAMEPLATE)


Pairing: TypeAlias = NamePair | Nameplate


def pairing_context(pairing: Pairing) -> tuple[bytes, ...]:
    """What is the same on both sides of a pairing: the two names in ascending order, or the nameplate."""
    match pairing:
        case NamePair(me, friend):
            return tuple(sorted((me.encode(), friend.encode())))
        case Nameplate(text):
            return (text.encode(),)
        case _:
            assert_never(pairing)


class RefusedReason(IntEnum):
    TAKEN = 1
    SAME_ROLE = 2
    SERVER_FULL = 3
    NETWORK_FULL = 4
    BAD_NAMES = 5
    NOT_JOINED = 6


@dataclass(frozen=True, slots=True)
class Waiting:
    """We hold a seat; the friend is not there yet. `mapped`: where the server sees us, if there is a server."""

    mapped: Address | None


@dataclass(frozen=True, slots=True)
class Paired:
    """The friend is there. Another tag later is another run of the friend.

    `address` is where its UDP socket is, when we know it: on our own network.
    """

    peer_tag: bytes
    address: Address | None = None


@dataclass(frozen=True, slots=True)
class PeerLeft:
    """The friend went away. We still wait."""


@dataclass(frozen=True, slots=True)
class Message:
    """A payload from the friend of that tag."""

    peer_tag: bytes
    payload: bytes


@dataclass(frozen=True, slots=True)
class Contested:
    """Not the end: why we have to wait.

    SAME_ROLE after Waiting: the friend asked in our role; we keep our seat. Otherwise the server refuses
    us for this reason; it is asked again until the seat of a crashed predecessor would have expired.
    """

    reason: RefusedReason


@dataclass(frozen=True, slots=True)
class Refused:
    """The end: there is no seat for us."""

    reason: RefusedReason


@dataclass(frozen=True, slots=True)
class Gone:
    """The end: we have left, with the server's answer or after a second without."""


Event: TypeAlias = Waiting | Paired | PeerLeft | Message | Contested | Refused | Gone
Said_co = TypeVar("Said_co", covariant=True)


class Introduction(Protocol[Said_co]):
    """Finds the friend of one pairing, keeps our place, and carries small messages to the friend and back."""

    @property
    def is_closed(self) -> bool:
        """Nothing more will be sent; the last event said why."""

    def start(self, now: float) -> None:
        """Raises CallerError the second time."""

    def forward(self, payload: bytes, now: float) -> None:
        """Sends `payload` (1 to 1024 bytes) to the friend, once and without acknowledgement.

        Without a friend it is dropped: the friend may have gone this moment. Raises CallerError for the size.
        """

    def leave(self, now: float) -> None:
        """Gives up the place. Gone follows, after a second at the latest."""

    def handle_datagram(self, data: bytes, source: Address, now: float, local: int = MAIN) -> None: ...

    def handle_timeout(self, now: float) -> None: ...

    def poll_transmit(self) -> Transmit | None: ...

    def poll_event(self) -> Said_co | None: ...

    def poll_timeout(self) -> float | None: ...


def _check_text(what: str, text: str, limit: int) -> None:
    try:
        length = len(text.encode())
    except UnicodeEncodeError as error:
        raise CallerError(f"a {what} that is not Unicode text") from error
    if not 1 <= length <= limit:
        raise CallerError(f"a {what} of {length} bytes where 1 to {limit} are allowed")
