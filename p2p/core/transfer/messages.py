"""Messages of the transfer, each one the plaintext of one record (docs/protocol.md section 7)."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum
from typing import Final, NamedTuple, assert_never

from p2p.core.datagram import Buffer
from p2p.core.errors import DecodeError, ExitCode, VersionError
from p2p.core.transfer.entries import (
    MAX_NAME_BYTES,
    MAX_REASON_BYTES,
    UNKNOWN_SIZE,
    Entry,
    Kind,
    decode_entry,
    encode_entry,
    read_exit_code,
    reason,
)
from p2p.core.transfer.limits import MAX_HOLE, MAX_PIECES, MAX_ROOTS, SMALL
from p2p.core.wire import Reader, text16, uint

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

_DATA = struct.Struct(">BIQ")
_RANGE = struct.Struct(">BIQQ")
_WHOLE_FILE = struct.Struct(">IH32s")
_FINAL = 0x01  # of OFFER and TOTALS
_ANSWERS = 0x01  # of ACCEPT
_LAST = 0x01  # of HAVE
_LACKING = 4  # of HAVE: the number in the upper four bits


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
    """type(1) flags(1) files(8) bytes(8)

    As counted so far; `size` is None for a pipe.
    """

    files: int
    size: int | None
    is_final: bool


@dataclass(frozen=True, slots=True)
class Offer:
    """type(1) version(1) kind(1) flags(1) token(16) roots(4) files(8) bytes(8) root*, the first 16"""

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


def encode(message: Message) -> bytes:
    """The plaintext of one record. A reason that is too long is cut."""
    match message:
        case Offer(kind, token, totals, roots, shown):
            header = bytes([MessageType.OFFER, VERSION, kind, _FINAL if totals.is_final else 0]) + token
            numbers = uint(roots, 4) + uint(totals.files, 8) + _size(totals.size)
            return header + numbers + b"".join(map(_encode_root, shown[:MAX_ROOTS]))
        case Totals(files, size, is_final):
            return bytes([MessageType.TOTALS, _FINAL if is_final else 0]) + uint(files, 8) + _size(size)
        case Entries(entries):
            return bytes([MessageType.ENTRIES]) + b"".join(map(encode_entry, entries))
        case Accept(answers, rate):
            return bytes([MessageType.ACCEPT, _ANSWERS if answers else 0]) + uint(rate, 8)
        case Refuse(exit_code, why):
            return bytes([MessageType.REFUSE, exit_code]) + reason(why)
        case Data(file, offset, piece):
            return _DATA.pack(MessageType.DATA, file, offset) + bytes(piece)
        case Hole(file, offset, length):
            return _RANGE.pack(MessageType.HOLE, file, offset, length)
        case Same(file, offset, length):
            return _RANGE.pack(MessageType.SAME, file, offset, length)
        case FileEnd(file, digest):
            return bytes([MessageType.FILE_END]) + uint(file, 4) + digest
        case WholeFiles(files):
            parts = [part for f in files for part in (_WHOLE_FILE.pack(f.file, len(f.content), f.digest), f.content)]
            return b"".join([bytes([MessageType.WHOLE_FILES]), *parts])
        case LeftOut(file, exit_code, why):
            return bytes([MessageType.LEFT_OUT]) + uint(file, 4) + bytes([exit_code]) + reason(why)
        case Finish(entries, digest):
            return bytes([MessageType.FINISH]) + uint(entries, 4) + digest
        case Have(file, first, digests, is_last, lacking):
            header = bytes([MessageType.HAVE]) + uint(file, 4) + uint(first, 4)
            return header + bytes([is_last * _LAST | lacking << _LACKING]) + b"".join(digests)
        case Problem(number, why):
            return bytes([MessageType.PROBLEM]) + uint(number, 4) + reason(why)
        case Finished(digest):
            return bytes([MessageType.FINISHED]) + digest
        case Abort(exit_code, why):
            return bytes([MessageType.ABORT, exit_code]) + reason(why)
        case Keepalive():
            return bytes([MessageType.KEEPALIVE])
        case Continue(records):
            return bytes([MessageType.CONTINUE]) + uint(records, 8)
        case Taken(records):
            return bytes([MessageType.TAKEN]) + uint(records, 8)
        case _:
            assert_never(message)


def write_data_header(record: bytearray | memoryview, file: int, offset: int) -> None:
    """Fills in the first `DATA_HEADER` bytes of a record whose piece is already in place."""
    _DATA.pack_into(record, 0, MessageType.DATA, file, offset)


def is_numbered(record: Buffer) -> bool:
    """Whether a record is counted, and sent again on the next path."""
    return record[0] not in UNNUMBERED


def decode(plaintext: Buffer) -> Message:
    """Raises DecodeError, or VersionError for an OFFER of another version. The piece of a DATA is not copied."""
    view = memoryview(plaintext)
    if not view:
        raise DecodeError("empty transfer message")
    if view[0] == MessageType.DATA:
        return _decode_data(view)
    try:
        kind = MessageType(view[0])
    except ValueError:
        raise DecodeError(f"unknown transfer message type {view[0]}") from None
    if len(view) > MAX_MESSAGE:
        raise DecodeError(f"{kind.name} message of {len(view)} bytes")
    if kind is MessageType.WHOLE_FILES:
        return _decode_whole_files(view)
    reader = Reader(view, 1)
    message = _decode_control(kind, reader)
    reader.end()
    return message


def _decode_data(view: memoryview) -> Data:
    if not DATA_HEADER < len(view) <= MAX_MESSAGE:
        raise DecodeError(f"DATA message of {len(view)} bytes")
    _, file, offset = _DATA.unpack_from(view)
    return Data(file, offset, view[DATA_HEADER:])


def _decode_whole_files(view: memoryview) -> WholeFiles:
    """By hand: thousands of small files a second come this way."""
    end = len(view)
    files: list[WholeFile] = []
    start = 1
    while start < end or not files:
        content = start + WHOLE_FILE_HEADER
        if content > end:
            raise DecodeError("WHOLE_FILES is cut short")
        file, length, digest = _WHOLE_FILE.unpack_from(view, start)
        if length > SMALL or content + length > end:
            raise DecodeError(f"small file of {length} bytes")
        files.append(WholeFile(file, digest, view[content : content + length]))
        start = content + length
    return WholeFiles(tuple(files))


def _decode_control(kind: MessageType, reader: Reader) -> Message:
    match kind:
        case MessageType.OFFER:
            return _decode_offer(reader)
        case MessageType.TOTALS:
            is_final = _flag(reader)
            return Totals(reader.uint(8), _read_size(reader), is_final)
        case MessageType.ENTRIES:
            entries: list[Entry] = []
            while reader.remaining or not entries:  # an empty ENTRIES would be a message without end or effect
                entries.append(decode_entry(reader))
            return Entries(tuple(entries))
        case MessageType.ACCEPT:
            return Accept(_flag(reader), reader.uint(8))
        case MessageType.REFUSE:
            return Refuse(read_exit_code(reader), reader.text16(MAX_REASON_BYTES))
        case MessageType.HOLE:
            hole = Hole(reader.uint(4), reader.uint(8), reader.uint(8))
            if not 0 < hole.length <= MAX_HOLE:
                raise DecodeError(f"HOLE of {hole.length} bytes")
            return hole
        case MessageType.SAME:
            return Same(reader.uint(4), reader.uint(8), reader.uint(8))
        case MessageType.FILE_END:
            return FileEnd(reader.uint(4), reader.take(32))
        case MessageType.LEFT_OUT:
            file, code = reader.uint(4), read_exit_code(reader)
            return LeftOut(file, code, reader.text16(MAX_REASON_BYTES))
        case MessageType.FINISH:
            return Finish(reader.uint(4), reader.take(32))
        case MessageType.HAVE:
            return _decode_have(reader)
        case MessageType.PROBLEM:
            return Problem(reader.uint(4), reader.text16(MAX_REASON_BYTES))
        case MessageType.FINISHED:
            return Finished(reader.take(32))
        case MessageType.ABORT:
            return Abort(read_exit_code(reader), reader.text16(MAX_REASON_BYTES))
        case MessageType.KEEPALIVE:
            return Keepalive()
        case MessageType.CONTINUE:
            return Continue(reader.uint(8))
        case MessageType.TAKEN:
            return Taken(reader.uint(8))
        case MessageType.DATA | MessageType.WHOLE_FILES:
            raise DecodeError(f"{kind.name} is not a control message")
        case _:
            assert_never(kind)


def _decode_offer(reader: Reader) -> Offer:
    version = reader.uint(1)
    if version != VERSION:
        raise VersionError(version)
    kind = reader.member(OfferKind)
    is_final, token = _flag(reader), reader.take(TOKEN)
    roots, totals = reader.uint(4), Totals(reader.uint(8), _read_size(reader), is_final)
    shown: list[Root] = []
    while reader.remaining and len(shown) < MAX_ROOTS:
        root_kind, size = reader.member(Kind), _read_size(reader)
        if root_kind not in (Kind.FOLDER, Kind.FILE):
            raise DecodeError(f"a {root_kind.name} is offered")
        shown.append(Root(root_kind, reader.text16(MAX_NAME_BYTES), size))
    return Offer(kind, token, totals, roots, tuple(shown))


def _decode_have(reader: Reader) -> Have:
    file, first, flags = reader.uint(4), reader.uint(4), reader.uint(1)
    is_last, lacking = bool(flags & _LAST), flags >> _LACKING
    if flags != is_last * _LAST | lacking << _LACKING:
        raise DecodeError(f"unknown flags {flags:#04x}")
    if reader.remaining % CHUNK_DIGEST:
        raise DecodeError("HAVE ends within a digest")
    digests = tuple(reader.take(CHUNK_DIGEST) for _ in range(reader.remaining // CHUNK_DIGEST))
    if not digests and not is_last:
        raise DecodeError("HAVE says nothing")
    if lacking and not (digests and is_last):
        raise DecodeError("only the last chunk of a HAVE may be shorter")
    return Have(file, first, digests, is_last, lacking)


def _encode_root(root: Root) -> bytes:
    return bytes([root.kind]) + _size(root.size) + text16(root.name)


def _size(size: int | None) -> bytes:
    return uint(UNKNOWN_SIZE if size is None else size, 8)


def _read_size(reader: Reader) -> int | None:
    size = reader.uint(8)
    return None if size == UNKNOWN_SIZE else size


def _flag(reader: Reader) -> bool:
    """All flags fields but that of HAVE have one flag by now."""
    if (flags := reader.uint(1)) > 1:
        raise DecodeError(f"unknown flags {flags:#04x}")
    return bool(flags)
