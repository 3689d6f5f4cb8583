"""Messages of the transfer, each one the plaintext of one record (docs/protocol.md section 7)."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple, assert_never

from p2p.core.datagram import Buffer
from p2p.core.errors import DecodeError, ExitCode, VersionError
from p2p.core.transfer.limits import SMALL
from p2p.core.wire import Reader, text16, uint

VERSION = 1
PIECE = 61_440  # bytes of a file in one DATA message: 60 KiB, whole pages, and with its header within one record
DATA_HEADER = 13  # bytes of a DATA message before the piece
MAX_MESSAGE = DATA_HEADER + PIECE  # bytes; ENTRIES keeps to it too, so a record never needs to be longer
WHOLE_FILES_HEADER = 5  # bytes of a WHOLE_FILES message before its files
WHOLE_FILE_HEADER = 34  # bytes of it before the content of each
MAX_NAME_BYTES = 4096  # PATH_MAX: a longer name cannot be opened anywhere
MAX_REASON_BYTES = 1024  # a reason is a sentence or two that a person reads

_DATA = struct.Struct(">BIQ")
_ENTRY = struct.Struct(">IQqHH")  # the last field is the length of the name


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


@dataclass(frozen=True, slots=True)
class Offer:
    """type(1) version(1) files(4) bytes(8)"""

    files: int
    size: int


@dataclass(frozen=True, slots=True)
class Entry:
    """file(4) size(8) mtime(8, ns, signed) mode(2) name:text16"""

    file: int
    size: int
    mtime_ns: int
    mode: int
    name: str


@dataclass(frozen=True, slots=True)
class Entries:
    """type(1) entry*, at least one"""

    entries: tuple[Entry, ...]


@dataclass(frozen=True, slots=True)
class Accept:
    """type(1)"""


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
class FileEnd:
    """type(1) file(4) blake3(32)"""

    file: int
    digest: bytes


class WholeFile(NamedTuple):
    """length(2) blake3(32) bytes"""

    digest: bytes
    content: Buffer


@dataclass(frozen=True, slots=True)
class WholeFiles:
    """type(1) first(4) {length(2) blake3(32) bytes(0..16384)}*, at least one

    Files `first`, `first` + 1, ... from their first byte to their last. The contents are views into the buffer that
    was decoded.
    """

    first: int
    files: tuple[WholeFile, ...]


@dataclass(frozen=True, slots=True)
class Finish:
    """type(1) blake3(32)"""

    digest: bytes


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


Message = Offer | Entries | Accept | Refuse | Data | FileEnd | WholeFiles | Finish | Finished | Abort | Keepalive


def encode(message: Message) -> bytes:
    """The plaintext of one record. A reason that is too long is cut."""
    match message:
        case Offer(files, size):
            return bytes([MessageType.OFFER, VERSION]) + uint(files, 4) + uint(size, 8)
        case Entries(entries):
            return bytes([MessageType.ENTRIES]) + b"".join(map(encode_entry, entries))
        case Accept():
            return bytes([MessageType.ACCEPT])
        case Refuse(exit_code, reason):
            return bytes([MessageType.REFUSE, exit_code]) + _reason(reason)
        case Data(file, offset, piece):
            return _DATA.pack(MessageType.DATA, file, offset) + bytes(piece)
        case FileEnd(file, digest):
            return bytes([MessageType.FILE_END]) + uint(file, 4) + digest
        case WholeFiles(first, files):
            parts = [part for file in files for part in (uint(len(file.content), 2), file.digest, file.content)]
            return b"".join([bytes([MessageType.WHOLE_FILES]), uint(first, 4), *parts])
        case Finish(digest):
            return bytes([MessageType.FINISH]) + digest
        case Finished(digest):
            return bytes([MessageType.FINISHED]) + digest
        case Abort(exit_code, reason):
            return bytes([MessageType.ABORT, exit_code]) + _reason(reason)
        case Keepalive():
            return bytes([MessageType.KEEPALIVE])
        case _:
            assert_never(message)


def encode_entry(entry: Entry) -> bytes:
    name = entry.name.encode("utf-8")
    return _ENTRY.pack(entry.file, entry.size, entry.mtime_ns, entry.mode, len(name)) + name


def write_data_header(record: bytearray | memoryview, file: int, offset: int) -> None:
    """Fills in the first `DATA_HEADER` bytes of a record whose piece is already in place."""
    _DATA.pack_into(record, 0, MessageType.DATA, file, offset)


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
    if not WHOLE_FILES_HEADER < end <= MAX_MESSAGE:
        raise DecodeError(f"WHOLE_FILES message of {end} bytes")
    files: list[WholeFile] = []
    start = WHOLE_FILES_HEADER
    while start < end:
        content = start + WHOLE_FILE_HEADER
        if content > end:
            raise DecodeError("WHOLE_FILES is cut short")
        length = view[start] << 8 | view[start + 1]
        if length > SMALL or content + length > end:
            raise DecodeError(f"small file of {length} bytes")
        files.append(WholeFile(bytes(view[start + 2 : content]), view[content : content + length]))
        start = content + length
    return WholeFiles(int.from_bytes(view[1:WHOLE_FILES_HEADER], "big"), tuple(files))


def _decode_control(kind: MessageType, reader: Reader) -> Message:
    match kind:
        case MessageType.OFFER:
            version = reader.uint(1)
            if version != VERSION:
                raise VersionError(version)
            return Offer(reader.uint(4), reader.uint(8))
        case MessageType.ENTRIES:
            return _decode_entries(reader)
        case MessageType.ACCEPT:
            return Accept()
        case MessageType.REFUSE:
            return Refuse(_exit_code(reader), reader.text16(MAX_REASON_BYTES))
        case MessageType.FILE_END:
            return FileEnd(reader.uint(4), reader.take(32))
        case MessageType.FINISH:
            return Finish(reader.take(32))
        case MessageType.FINISHED:
            return Finished(reader.take(32))
        case MessageType.ABORT:
            return Abort(_exit_code(reader), reader.text16(MAX_REASON_BYTES))
        case MessageType.KEEPALIVE:
            return Keepalive()
        case MessageType.DATA | MessageType.WHOLE_FILES:
            raise DecodeError(f"{kind.name} is not a control message")
        case _:
            assert_never(kind)


def _decode_entries(reader: Reader) -> Entries:
    entries: list[Entry] = []
    while reader.remaining or not entries:  # an empty ENTRIES would be a message without end or effect
        file, size = reader.uint(4), reader.uint(8)
        mtime_ns = int.from_bytes(reader.take(8), "big", signed=True)
        entries.append(Entry(file, size, mtime_ns, reader.uint(2), reader.text16(MAX_NAME_BYTES)))
    return Entries(tuple(entries))


def _exit_code(reader: Reader) -> ExitCode:
    """The other side never decides that this side has succeeded, so 0 is no exit code here."""
    value = reader.uint(1)
    try:
        code = ExitCode(value)
    except ValueError:
        raise DecodeError(f"unknown exit code {value}") from None
    if code is ExitCode.DONE:
        raise DecodeError("an ending without success cannot have exit code 0")
    return code


def _reason(text: str) -> bytes:
    """Cuts between characters; a lone surrogate, from a path that is not UTF-8, becomes a question mark."""
    data = text.encode("utf-8", "replace")[:MAX_REASON_BYTES]
    return text16(data.decode("utf-8", "ignore"))
