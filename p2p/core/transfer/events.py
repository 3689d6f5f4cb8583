"""What the transfer machines tell whoever composes them, and what they want of the disk."""

from __future__ import annotations

from dataclasses import dataclass

from p2p.core.datagram import Buffer
from p2p.core.errors import ExitCode
from p2p.core.transfer.entries import File, Folder, Hardlink, Symlink
from p2p.core.transfer.messages import PIECE, Offer


@dataclass(frozen=True, slots=True)
class Progress:
    """How far it is. Bytes and files are of content handed out (sender) or received (receiver).

    `kept` of the bytes were there already and did not cross. `total` and `files_total` grow until `is_final`; `total`
    is None for a pipe. `path` is the file under way.
    """

    done: int
    kept: int
    files: int
    total: int | None
    files_total: int
    is_final: bool
    path: str
    holes: int = 0
    """Those of the bytes that had no place on the disk over there, and did not cross either."""
    holes_total: int = 0
    things: int = 0
    """Files, folders and links that are announced, or came."""

    @property
    def crossed(self) -> int:
        """Bytes."""
        return self.done - self.kept - self.holes

    @property
    def left(self) -> int | None:
        """Bytes that may still have to cross."""
        if self.total is None:
            return None
        return max(0, self.total - self.done - max(0, self.holes_total - self.holes))


# what the sender wants


@dataclass(frozen=True, slots=True)
class WantEntries:
    """More of the walk: to be answered by `handle_entries`, now or later."""


@dataclass(frozen=True, slots=True)
class ReadWhole:
    """The whole content of each of these small files: `handle_whole`."""

    files: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Read:
    """Bytes [offset, offset + length) of a file, as pieces of PIECE bytes, the last one of what is left: `handle_read`.

    Each is placed `DATA_HEADER` bytes into a record of its own. Where `may_be_hole` and the file has none of these
    bytes on its disk, `handle_hole` says so instead; where a hole begins within them, `shorten` leaves it out.
    """

    file: int
    offset: int
    length: int
    may_be_hole: bool = False

    @property
    def pieces(self) -> int:
        return -(-self.length // PIECE)

    @property
    def last(self) -> int:
        """Bytes of the last piece."""
        return self.length - (self.pieces - 1) * PIECE


@dataclass(frozen=True, slots=True)
class ReadPipe:
    """At most `length` bytes of what comes next: `handle_pipe`, now or later."""

    file: int
    length: int


Wanted = WantEntries | ReadWhole | Read | ReadPipe


@dataclass(frozen=True, slots=True)
class Unreadable:
    """Why a file's content will not come. `reason` is told to the other side."""

    exit_code: ExitCode
    reason: str


# what the sender tells


@dataclass(frozen=True, slots=True)
class Accepted:
    """The other side said yes. `answers`: it has something of these files already."""

    answers: bool


@dataclass(frozen=True, slots=True)
class Refused:
    """The other side said no. `reason` is its text: escape it where it is printed."""

    exit_code: ExitCode
    reason: str


@dataclass(frozen=True, slots=True)
class FileSent:
    """Every byte of a file was handed out. `kept`: bytes of it that the other side had already."""

    path: str
    size: int
    digest: bytes
    kept: int


# what the receiver wants of the disk, in this order


@dataclass(frozen=True, slots=True)
class MakeFolder:
    """In the folder `parent` (None: where everything is received). `handle_stored` follows after LeaveFolder."""

    number: int
    parent: int | None
    entry: Folder


@dataclass(frozen=True, slots=True)
class LeaveFolder:
    """Nothing new will be named in it; what was, may still be on its way to the disk."""

    number: int


@dataclass(frozen=True, slots=True)
class Announced:
    """A file will come. When the machine `answers`, `handle_have` says what of it is there."""

    number: int
    parent: int | None
    path: str
    entry: File


@dataclass(frozen=True, slots=True)
class MakeSymlink:
    number: int
    parent: int | None
    entry: Symlink


@dataclass(frozen=True, slots=True)
class MakeHardlink:
    """Another name of the file `entry.to`, which was announced before and may not be stored yet."""

    number: int
    parent: int | None
    entry: Hardlink


@dataclass(frozen=True, slots=True)
class Write:
    """`pieces`, from `offset` on, are views of the records that were handed in, MAX_PIECES at most."""

    number: int
    offset: int
    pieces: list[Buffer]


@dataclass(frozen=True, slots=True)
class LeaveHole:
    """These bytes are zero, and need no place on the disk."""

    number: int
    offset: int
    length: int


@dataclass(frozen=True, slots=True)
class Keep:
    """These bytes are what `handle_have` said is there."""

    number: int
    offset: int
    length: int


@dataclass(frozen=True, slots=True)
class Complete:
    """All is written. Make it durable, name it, then call `handle_stored`.

    `must_verify`: some of it was kept, so what lies on the disk has to be read, and to have this digest.
    """

    number: int
    size: int
    digest: bytes
    must_verify: bool


@dataclass(frozen=True, slots=True)
class Whole:
    """A small file, verified. Store it as a whole, make it durable, name it, then call `handle_stored`."""

    number: int
    content: Buffer
    digest: bytes


@dataclass(frozen=True, slots=True)
class Drop:
    """The rest of this file will not come: forget what is written of it."""

    number: int


FileAction = (
    MakeFolder
    | LeaveFolder
    | Announced
    | MakeSymlink
    | MakeHardlink
    | Write
    | LeaveHole
    | Keep
    | Complete
    | Whole
    | Drop
)


# what the receiver tells


@dataclass(frozen=True, slots=True)
class Offered:
    """To be answered by `accept` or `refuse`. The names in it are safe to use in a directory."""

    offer: Offer


@dataclass(frozen=True, slots=True)
class FileStored:
    """One file is verified and bears the name `saved_as`, in its folder. `kept`: bytes that were there before."""

    path: str
    size: int
    digest: bytes
    saved_as: str
    kept: int


@dataclass(frozen=True, slots=True)
class OtherStored:
    """A folder or a link is complete under a name that is not the one it was sent under."""

    path: str
    saved_as: str


# what both tell


@dataclass(frozen=True, slots=True)
class NotTransferred:
    """One thing did not cross; the rest goes on. When `by_peer`, `reason` is foreign text: escape it.

    `path` is empty where the reason names the thing. Only the first MAX_LISTED are told.
    """

    path: str
    reason: str
    exit_code: ExitCode
    by_peer: bool


@dataclass(frozen=True, slots=True)
class Finished:
    """Everything that can arrive has arrived, is verified and bears its name.

    `digest` is the file's own BLAKE3 hash when there is one file, else BLAKE3 over the digests in order.
    `exit_code` is DONE, or the gravest of what did not cross; `missed`: how many things that were.
    """

    digest: bytes
    exit_code: ExitCode
    missed: int = 0


@dataclass(frozen=True, slots=True)
class Aborted:
    """The transfer ended without success. When `by_peer`, `reason` is foreign text: escape it."""

    exit_code: ExitCode
    reason: str
    by_peer: bool


SenderEvent = Accepted | Refused | FileSent | NotTransferred | Finished | Aborted
ReceiverEvent = Offered | FileStored | OtherStored | NotTransferred | Finished | Aborted
