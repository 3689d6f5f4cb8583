"""What a tree is made of, one name at a time (docs/transfer.md, "The stream of entries")."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum
from typing import Final, assert_never

from p2p.core.errors import DecodeError, ExitCode
from p2p.core.wire import Reader, text16, uint

MAX_NAME_BYTES: Final = 4096  # PATH_MAX: a longer name cannot be opened anywhere
MAX_REASON_BYTES: Final = 1024  # a reason is a sentence or two that a person reads
UNKNOWN_SIZE: Final = 2**64 - 1  # on the wire, of a pipe
_LINKED: Final = 0x8000

_TIME = struct.Struct(">q")
_FOLDER = struct.Struct(">BHqH")  # the last field of these is the length of the name
_FILE = struct.Struct(">BHqQH")


class Kind(IntEnum):
    FOLDER = 1
    LEAVE = 2
    FILE = 3
    SYMLINK = 4
    HARDLINK = 5
    SKIPPED = 6


@dataclass(frozen=True, slots=True)
class Folder:
    """mode(2) mtime(8, ns, signed) name:text16

    What follows lies in it, until the Leave.
    """

    name: str
    mode: int
    mtime_ns: int


@dataclass(frozen=True, slots=True)
class Leave:
    """–"""


@dataclass(frozen=True, slots=True)
class File:
    """mode(2) mtime(8) size(8) name:text16

    `size` is None for a pipe: until its FILE_END. `is_linked`, bit 15 of the mode: a Hardlink to it may follow.
    """

    name: str
    mode: int
    mtime_ns: int
    size: int | None
    is_linked: bool = False


@dataclass(frozen=True, slots=True)
class Symlink:
    """mtime(8) name:text16 target:text16"""

    name: str
    mtime_ns: int
    target: str


@dataclass(frozen=True, slots=True)
class Hardlink:
    """to(4) name:text16

    `to` is the number of an earlier File.
    """

    name: str
    to: int


@dataclass(frozen=True, slots=True)
class Skipped:
    """exit_code(1) name:text16 reason:text16"""

    name: str
    reason: str
    exit_code: ExitCode = ExitCode.STORAGE


Entry = Folder | Leave | File | Symlink | Hardlink | Skipped
Numbered = Folder | File | Symlink | Hardlink


def encode_entry(entry: Entry) -> bytes:
    match entry:
        case File(name, mode, mtime_ns, size, is_linked):
            encoded = name.encode("utf-8")
            mode |= _LINKED if is_linked else 0
            wide = UNKNOWN_SIZE if size is None else size
            return _FILE.pack(Kind.FILE, mode, mtime_ns, wide, len(encoded)) + encoded
        case Folder(name, mode, mtime_ns):
            encoded = name.encode("utf-8")
            return _FOLDER.pack(Kind.FOLDER, mode, mtime_ns, len(encoded)) + encoded
        case Leave():
            return bytes([Kind.LEAVE])
        case Symlink(name, mtime_ns, target):
            return bytes([Kind.SYMLINK]) + _TIME.pack(mtime_ns) + text16(name) + text16(target)
        case Hardlink(name, to):
            return bytes([Kind.HARDLINK]) + uint(to, 4) + text16(name)
        case Skipped(name, why, exit_code):
            return bytes([Kind.SKIPPED, exit_code]) + text16(name) + reason(why)
        case _:
            assert_never(entry)


def decode_entry(reader: Reader) -> Entry:
    """Raises DecodeError. What the names may be is not looked at."""
    match reader.member(Kind):
        case Kind.FILE:
            mode, mtime_ns, size = reader.uint(2), _time(reader), reader.uint(8)
            name, size_or_none = reader.text16(MAX_NAME_BYTES), None if size == UNKNOWN_SIZE else size
            return File(name, mode & ~_LINKED, mtime_ns, size_or_none, bool(mode & _LINKED))
        case Kind.FOLDER:
            mode, mtime_ns = reader.uint(2), _time(reader)
            return Folder(reader.text16(MAX_NAME_BYTES), mode, mtime_ns)
        case Kind.LEAVE:
            return Leave()
        case Kind.SYMLINK:
            mtime_ns = _time(reader)
            return Symlink(reader.text16(MAX_NAME_BYTES), mtime_ns, reader.text16(MAX_NAME_BYTES))
        case Kind.HARDLINK:
            to = reader.uint(4)
            return Hardlink(reader.text16(MAX_NAME_BYTES), to)
        case Kind.SKIPPED:
            code = read_exit_code(reader)
            return Skipped(reader.text16(MAX_NAME_BYTES), reader.text16(MAX_REASON_BYTES), code)
        case kind:
            assert_never(kind)


def read_exit_code(reader: Reader) -> ExitCode:
    """The other side never decides that this side has succeeded, so 0 is no exit code here."""
    code = reader.member(ExitCode)
    if code is ExitCode.DONE:
        raise DecodeError("an ending without success cannot have exit code 0")
    return code


def reason(text: str) -> bytes:
    """Cuts between characters; a lone surrogate, from a path that is not UTF-8, becomes a question mark."""
    data = text.encode("utf-8", "replace")[:MAX_REASON_BYTES]
    return text16(data.decode("utf-8", "ignore"))


def _time(reader: Reader) -> int:
    return int.from_bytes(reader.take(8), "big", signed=True)
