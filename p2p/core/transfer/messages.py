"""Messages of the transfer, each one the plaintext of one record (docs/protocol.md section 7)."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Final, NamedTuple

from p2p.core.datagram import Buffer
from p2p.core.errors import ExitCode
from p2p.core.transfer.entries import Entry, Kind
from p2p.core.transfer.limits import MAX_PIECES

VERSION: Final = 2
TOKEN: Final = 16  # bytes
PIECE: Final = 61_440  # bytes of a file in one DATA message: 60 KiB, whole pages, and with its header within one record
CHUNK: Final = MAX_PIECES * PIECE  # bytes that are compared at a time: one read
CHUNK_DIGEST: Final = 16  # bytes of a chunk's BLAKE3 that are told; nobody gains by a collision with himself
DATA_HEADER: Final = 13  # bytes of a DATA message before the piece
MAX_MESSAGE: Final = DATA_HEADER + PIECE  # bytes; all others keep to it too, so a record never needs to be longer
WHOLE_FILE_HEADER: Final = 38  # bytes of a WHOLE_FILES message before the content of each
HAVE_HEADER: Final = 10
MAX_DIGESTS: Final = (MAX_MESSAGE - HAVE_HEADER) // CHUNK_DIGEST  # in one HAVE


class OfferKind(IntEnum):
    TREE = 0
    PIPE = 1
    TEXT = 2


class MessageType(IntEnum):
    OFFER = 1
    ENTRIES = 2
    ACCEPT = 3
    REFUSE = 4
    DATA = 5
    FILE_END = 6
    FINISH = 7
    FINISHED = 8
    ABORT = 9
    KEEPALIVE = 10
    WHOLE_FILES = 11
    TOTALS = 12
    HOLE = 13
    SAME = 14
    HAVE = 15
    CONTINUE = 16
    TAKEN = 17
    PROBLEM = 18
    LEFT_OUT = 19


CONTACT: Final = 20  # a record that is not of the transfer (docs/contacts.md)
UNNUMBERED: Final = frozenset(
    [MessageType.ABORT, MessageType.KEEPALIVE, MessageType.CONTINUE, MessageType.TAKEN, CONTACT]
)  # all others are counted, and sent again on the next path (docs/transfer.md)


@dataclass(frozen=True, slots=True)
class Root:
    """kind(1) size(8) name:text16

    A folder or a file that the person named; `size` is None where it is not known, 0 for what has none.
    """

    kind: Kind
    name: str
    size: int | None


@dataclass(frozen=True, slots=True)
class Totals:
    """type(1) flags(1) files(8) bytes(8) others(8) holes(8)

    As counted so far; `size` is None for a pipe. `others`: folders, and links of both kinds. `holes`: those of the
    bytes that have no place on the disk, and need not cross.
    """

    files: int
    size: int | None
    is_final: bool
    others: int = 0
    holes: int = 0


@dataclass(frozen=True, slots=True)
class Offer:
    """type(1) version(1) kind(1) flags(1) token(16) roots(4) files(8) bytes(8) others(8) holes(8) root*, 200 at most"""

    kind: OfferKind
    token: bytes
    totals: Totals
    roots: int
    shown: tuple[Root, ...]


@dataclass(frozen=True, slots=True)
class Entries:
    """type(1) {kind(1) entry}*, at least one"""

    entries: tuple[Entry, ...]


@dataclass(frozen=True, slots=True)
class Accept:
    """type(1) flags(1) rate(8)

    `rate`: bytes a second that the receiver wants at most; 0: as fast as it goes.
    """

    answers: bool
    rate: int = 0


@dataclass(frozen=True, slots=True)
class Refuse:
    """type(1) exit_code(1) reason:text16"""

    exit_code: ExitCode
    reason: str


@dataclass(frozen=True, slots=True)
class Data:
    """type(1) file(4) offset(8) bytes(1..61440)

    The piece is a view into the buffer that was decoded.
    """

    file: int
    offset: int
    piece: Buffer


@dataclass(frozen=True, slots=True)
class Hole:
    """type(1) file(4) offset(8) length(8)"""

    file: int
    offset: int
    length: int


@dataclass(frozen=True, slots=True)
class Same:
    """type(1) file(4) offset(8) length(8)"""

    file: int
    offset: int
    length: int


@dataclass(frozen=True, slots=True)
class FileEnd:
    """type(1) file(4) blake3(32)"""

    file: int
    digest: bytes


class WholeFile(NamedTuple):
    """file(4) length(2) blake3(32) bytes(0..16384)"""

    file: int
    digest: bytes
    content: Buffer


@dataclass(frozen=True, slots=True)
class WholeFiles:
    """type(1) whole_file*, at least one

    The contents are views into the buffer that was decoded.
    """

    files: tuple[WholeFile, ...]


@dataclass(frozen=True, slots=True)
class LeftOut:
    """type(1) file(4) exit_code(1) reason:text16"""

    file: int
    exit_code: ExitCode
    reason: str


@dataclass(frozen=True, slots=True)
class Finish:
    """type(1) entries(4) blake3(32)"""

    entries: int
    digest: bytes


@dataclass(frozen=True, slots=True)
class Have:
    """type(1) file(4) first(4) flags(1) digest(16)*

    Of the chunks `first`, `first` + 1, ... of the file. `lacking`: pieces by which the very last one is shorter.
    """

    file: int
    first: int
    digests: tuple[bytes, ...]
    is_last: bool
    lacking: int = 0


@dataclass(frozen=True, slots=True)
class Problem:
    """type(1) number(4) reason:text16"""

    number: int
    reason: str


@dataclass(frozen=True, slots=True)
class Finished:
    """type(1) blake3(32)"""

    digest: bytes


@dataclass(frozen=True, slots=True)
class Abort:
    """type(1) exit_code(1) reason:text16"""

    exit_code: ExitCode
    reason: str


@dataclass(frozen=True, slots=True)
class Keepalive:
    """type(1)"""


@dataclass(frozen=True, slots=True)
class Continue:
    """type(1) records(8)"""

    records: int


@dataclass(frozen=True, slots=True)
class Taken:
    """type(1) records(8)"""

    records: int


SenderMessage = Offer | Totals | Entries | Data | Hole | Same | FileEnd | WholeFiles | LeftOut | Finish
ReceiverMessage = Accept | Refuse | Have | Problem | Finished
Message = SenderMessage | ReceiverMessage | Abort | Keepalive | Continue | Taken
