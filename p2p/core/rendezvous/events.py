"""What the client machine tells its owner."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from p2p.core.address import Address
from p2p.core.datagram import MAIN
from p2p.core.rendezvous.messages import RefusedReason, RelayState


@dataclass(frozen=True, slots=True)
class Mapped:
    """Our server-reflexive address as seen from the server's two ports.

    `second` is None when the alternate port has not answered in a second; if it does later, or the
    address changes, Mapped comes again. With `local` TUNNEL it is that of our TCP connection, and tells nothing of UDP.
    """

    first: Address
    second: Address | None
    local: int = MAIN


@dataclass(frozen=True, slots=True)
class Waiting:
    """We hold a seat; the friend is not there yet."""

    mapped: Address


@dataclass(frozen=True, slots=True)
class Paired:
    """The friend is there. Another tag later is another run of the friend."""

    peer_tag: bytes


@dataclass(frozen=True, slots=True)
class PeerLeft:
    """The friend went away. We still wait."""


@dataclass(frozen=True, slots=True)
class Message:
    """A payload from the friend of that tag."""

    peer_tag: bytes
    payload: bytes


@dataclass(frozen=True, slots=True)
class Relayed:
    """How the relay stands that we asked for; said at every answer, so every few seconds.

    `rate` (bytes a second) and `left` (bytes) are what both directions together may carry, headers included; 0: no
    limit.
    """

    state: RelayState
    rate: int
    left: int


@dataclass(frozen=True, slots=True)
class Contested:
    """Not the end: why we have to wait.

    SAME_ROLE after Waiting: the friend asked in our role; we keep our seat. Otherwise the server refuses
    us for this reason; it is asked again until the seat of a crashed predecessor would have expired.
    """

    reason: RefusedReason


@dataclass(frozen=True, slots=True)
class Refused:
    """The end: the server gives us no seat."""

    reason: RefusedReason


@dataclass(frozen=True, slots=True)
class Silent:
    """The server has not answered for so long. It is still being asked."""

    since_seconds: float


@dataclass(frozen=True, slots=True)
class Answering:
    """The server answers (again), after Silent or ServerUnreachable."""


@dataclass(frozen=True, slots=True)
class ServerUnreachable:
    """The server's machine says that nobody listens at the port. It is still being asked."""


@dataclass(frozen=True, slots=True)
class Outdated:
    """The end: the server speaks this version and not ours."""

    version: int


@dataclass(frozen=True, slots=True)
class Gone:
    """The end: we have left, with the server's answer or after a second without."""


Event: TypeAlias = (
    Mapped
    | Waiting
    | Paired
    | PeerLeft
    | Message
    | Relayed
    | Contested
    | Refused
    | Silent
    | Answering
    | ServerUnreachable
    | Outdated
    | Gone
)
