"""What the transfer machines tell the loop."""

from __future__ import annotations

from dataclasses import dataclass

from p2p.core.datagram import Buffer
from p2p.core.errors import ExitCode
from p2p.core.transfer.messages import Entry


@dataclass(frozen=True, slots=True)
class Progress:
    """Bytes of file content handed out (sender) or received in order (receiver), of `total`; `file` is under way."""

    done: int
    total: int
    file: int


@dataclass(frozen=True, slots=True)
class Accepted:
    """Sender: the other side said yes."""


@dataclass(frozen=True, slots=True)
class Refused:
    """Sender: the other side said no. `reason` is its text: escape it where it is printed."""

    exit_code: ExitCode
    reason: str


@dataclass(frozen=True, slots=True)
class FileSent:
    """Sender: every byte of the file was handed out; its FILE_END is the next record."""

    file: int
    digest: bytes


@dataclass(frozen=True, slots=True)
class Offered:
    """Receiver: all files are named. The names are already safe to use in a directory."""

    entries: tuple[Entry, ...]
    total: int


@dataclass(frozen=True, slots=True)
class Open:
    """Receiver: the first byte, or the end, of the file is here: open its temporary file."""

    file: int
    entry: Entry


@dataclass(frozen=True, slots=True)
class Write:
    """Receiver: `pieces`, from `offset` on, are views of the records that were handed in, MAX_PIECES at most."""

    file: int
    offset: int
    pieces: list[Buffer]


@dataclass(frozen=True, slots=True)
class Complete:
    """Receiver: the content is whole and verified. Make it durable, name it, then call `handle_stored`."""

    file: int
    digest: bytes


@dataclass(frozen=True, slots=True)
class Whole:
    """Receiver: a small file, verified. Store it as a whole, make it durable, name it, then call `handle_stored`."""

    file: int
    entry: Entry
    content: Buffer
    digest: bytes


@dataclass(frozen=True, slots=True)
class Finished:
    """Both sides: everything arrived, is verified and bears its name.

    `digest` is the file's own BLAKE3 hash when there is one file, else BLAKE3 over the digests in order.
    `names` are the final names on the receiver, in order; empty on the sender.
    """

    digest: bytes
    names: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Aborted:
    """Both sides: the transfer ended without success. When `by_peer`, `reason` is foreign text: escape it."""

    exit_code: ExitCode
    reason: str
    by_peer: bool


SenderEvent = Accepted | Refused | FileSent | Finished | Aborted
ReceiverEvent = Offered | Open | Write | Complete | Whole | Finished | Aborted
