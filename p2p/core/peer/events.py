"""What a peer tells the screen, in the order in which a person wants to know it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from p2p.core.address import Address
from p2p.core.contacts.messages import Why
from p2p.core.datagram import MAIN
from p2p.core.errors import ExitCode, Failure
from p2p.core.introduction import Pairing
from p2p.core.transfer.messages import Offer


@dataclass(frozen=True, slots=True)
class ServerSilent:
    """The server has not answered for `seconds`; `ever` tells whether it had answered before."""

    seconds: float
    ever: bool
    refused: bool


@dataclass(frozen=True, slots=True)
class ServerAnswering:
    """The server answers again."""


@dataclass(frozen=True, slots=True)
class WaitingForPeer:
    """We can be found; the other side is not there yet. `mapped`: our reflexive address, None without a server."""

    pairing: Pairing
    mapped: Address | None


@dataclass(frozen=True, slots=True)
class SeatTaken:
    """Somebody else sits where we want to sit; we ask again until their lease would have run out."""


@dataclass(frozen=True, slots=True)
class PeerFound:
    """Both are at the server, or on this network; keys are being agreed on."""


@dataclass(frozen=True, slots=True)
class PeerGone:
    """The other side left before keys were agreed on; we wait again."""


@dataclass(frozen=True, slots=True)
class PeerSilent:
    """The other side is there, but has not answered for `seconds`. We go on trying."""

    seconds: float


@dataclass(frozen=True, slots=True)
class CodeRejected:
    """Somebody tried a wrong code, or, `is_contact`, came without the key by which we remember the friend.

    `tries` of `limit` are used up. We go on waiting.
    """

    tries: int
    limit: int
    is_contact: bool = False


@dataclass(frozen=True, slots=True)
class Connecting:
    """Keys are agreed on, a path is being looked for. `verification` is set with --no-code.

    `is_contact`: the key by which the two remember each other proved the other side, and no code.
    """

    verification: str | None
    is_contact: bool = False


class PathKind(Enum):
    TCP = "tcp"
    UDP = "udp"
    RELAY = "relay"


@dataclass(frozen=True, slots=True)
class PathChosen:
    """The path that won, and why, in words; again when a better one took over from a relay.

    `rtt` in seconds, None where it was not measured. `local`: the number of the socket.
    """

    kind: PathKind
    address: Address
    rtt: float | None
    description: str
    local: int = MAIN


@dataclass(frozen=True, slots=True)
class PathMoved:
    """The other side is at another address now, and the connection has followed it."""

    address: Address


@dataclass(frozen=True, slots=True)
class Offered:
    """Receiver: what the other side wants to send. To be answered by `accept` or `refuse`."""

    offer: Offer


@dataclass(frozen=True, slots=True)
class OfferSent:
    """Sender: the other side is being asked."""


@dataclass(frozen=True, slots=True)
class TransferStarted:
    """The receiver said yes. `goes_on`: an earlier run left something of it there, which is compared first."""

    goes_on: bool


@dataclass(frozen=True, slots=True)
class FileDone:
    """One file was verified; `saved_as` is the name that it bears in its folder at the receiver (None at the sender).

    `kept`: bytes of it that were there before and did not cross.
    """

    path: str
    size: int
    digest: bytes
    saved_as: str | None
    kept: int


@dataclass(frozen=True, slots=True)
class Renamed:
    """Receiver: a folder or a link bears another name than it was sent under; that one was taken."""

    path: str
    saved_as: str


@dataclass(frozen=True, slots=True)
class NotTransferred:
    """One thing did not cross; the rest goes on. When `by_peer`, both texts are foreign: escape them.

    `path` is empty where the reason names the thing. Only the first MAX_LISTED are told; `Done` has the number.
    """

    path: str
    reason: str
    exit_code: ExitCode
    by_peer: bool


@dataclass(frozen=True, slots=True)
class ContactHeard:
    """The other side wants to remember us, and so do we: its key, to be stored (ContactExchange.handle_held)."""

    public: bytes


@dataclass(frozen=True, slots=True)
class ContactRemembered:
    """Both sides hold the keys: no code is needed between the two from now on."""

    public: bytes


@dataclass(frozen=True, slots=True)
class ContactNotRemembered:
    """One of the two does not remember the other; `by_peer`: the other side said so."""

    why: Why
    by_peer: bool


@dataclass(frozen=True, slots=True)
class Done:
    """Everything that could arrive did, and was verified.

    `digest` is over everything (the file's own, if there is one file); `exit_code` DONE, or the gravest of what did
    not cross; `missed`: how many things that were.
    """

    digest: bytes
    exit_code: ExitCode
    missed: int = 0


@dataclass(frozen=True, slots=True)
class PathLost:
    """The path broke in mid-transfer, which can go on over another one (`Peer.rejoin`). `why` in words.

    `is_open`: the other side is met too if its program is started again.
    """

    why: str
    is_open: bool = False


@dataclass(frozen=True, slots=True)
class PeerRestarted:
    """The other side's program was started again with the same command, and has shown the code: the transfer begins
    anew, with what has arrived."""


@dataclass(frozen=True, slots=True)
class Failed:
    """The end, without success."""

    failure: Failure


OfAMeeting = WaitingForPeer | SeatTaken | PeerFound | PeerGone | PeerSilent | CodeRejected | Connecting
"""What is of no interest while the two look for each other again."""

PeerEvent = (
    ServerSilent
    | ServerAnswering
    | WaitingForPeer
    | SeatTaken
    | PeerFound
    | PeerGone
    | PeerSilent
    | CodeRejected
    | Connecting
    | PathChosen
    | PathMoved
    | Offered
    | OfferSent
    | TransferStarted
    | FileDone
    | Renamed
    | NotTransferred
    | ContactHeard
    | ContactRemembered
    | ContactNotRemembered
    | PathLost
    | PeerRestarted
    | Done
    | Failed
)
