"""The SQLite file of a journal: its tables, its rows, and what lies beside it."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple
from urllib.parse import quote

from blake3 import blake3

from p2p.core.errors import P2PError
from p2p.core.transfer.names import MAX_COMPONENT_BYTES, is_temporary
from p2p.io.locks import try_lock

VERSION: Final = 2
MAX_KEY: Final = 512  # bytes: with MAX_DEPTH names of 255 bytes each, files would cost 16 kB apiece
MAX_PAGES: Final = 2**18  # 1 GiB: some eight million files; what comes behind is not remembered
CACHE: Final = 1024  # KiB a connection; there are two
BUSY_PATIENCE: Final = 5.0  # seconds for which another program, which looks for parts, may have the file

SCHEMA: Final = (
    "CREATE TABLE place (path BLOB, run INTEGER)",
    "CREATE TABLE named (key BLOB PRIMARY KEY, name BLOB, device INTEGER, inode INTEGER, mtime INTEGER, run INTEGER)"
    " WITHOUT ROWID",
    "CREATE TABLE parts (key BLOB PRIMARY KEY, part BLOB, device INTEGER, inode INTEGER,"
    " old_device INTEGER, old_inode INTEGER, old_mtime INTEGER, run INTEGER) WITHOUT ROWID",
    f"PRAGMA user_version = {VERSION}",
    "INSERT INTO place VALUES ('', 0)",
)
PRAGMAS: Final = (
    "trusted_schema = OFF",  # whatever may have got into the file
    "cell_size_check = ON",
    "journal_mode = WAL",
    "synchronous = NORMAL",  # no waiting for the disk, except where it is asked for
    "wal_autocheckpoint = 0",  # it waits for the disk too
    f"cache_size = -{CACHE}",
    f"max_page_count = {MAX_PAGES}",
)

# A damaged schema has no such table (ERROR). CANTOPEN is none: so a full disk, or too many open files, refuse the file
# beside it that SQLite wants.
_DAMAGE = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_ERROR}


class NotAFile(sqlite3.DatabaseError):
    """SQLite would follow a link, and open a pipe."""

    sqlite_errorcode = sqlite3.SQLITE_NOTADB


class VersionMismatch(P2PError):
    """Another version of this program wrote it."""


class Node(NamedTuple):
    """A file or folder, whatever it is called."""

    device: int
    inode: int


@dataclass(frozen=True, slots=True)
class Row:
    """The inode that a path lies in.

    It bears `name`, or still `part` where that is not None; with both, the program was killed when the name was about
    to be given. `replaces`: the whole file of an earlier run that bears `name`, while the inode is a new part which is
    to take its place. `mtime_ns`: of what bears `name`, when it got it, or None for a folder; `old_mtime_ns`: of what
    is to be replaced. Whatever has another one was written to since by somebody here.
    """

    path: str
    name: str | None
    part: str | None
    device: int
    inode: int
    replaces: Node | None = None
    mtime_ns: int | None = None
    old_mtime_ns: int | None = None


@dataclass(frozen=True, slots=True)
class Place:
    """A receiving folder. `system` tells file systems apart, and unlike `device` is the same after a restart."""

    path: str
    device: int
    inode: int
    system: int

    @classmethod
    def of(cls, directory: Path | int) -> Place:
        """`path` is empty for a descriptor. Raises OSError."""
        status, system = os.stat(directory), os.statvfs(directory).f_fsid
        path = "" if isinstance(directory, int) else os.path.realpath(directory)
        return cls(path, status.st_dev, status.st_ino, system or status.st_dev)

    @property
    def identity(self) -> tuple[int, int]:
        """Equal for the same folder."""
        return self.system, self.inode


def connect(file: Path, *, is_alone: bool = False) -> sqlite3.Connection:
    """Opens what exists. `is_alone`: nobody else has it, so SQLite needs no memory that is shared in a file beside it.

    Raises sqlite3.Error, OSError.
    """
    if not stat.S_ISREG(os.lstat(file).st_mode):
        raise NotAFile("it is not a regular file")
    uri = f"file:{quote(os.fsencode(file))}?mode=rw"
    connection = sqlite3.connect(
        uri, timeout=BUSY_PATIENCE, isolation_level=None, check_same_thread=False, uri=True, cached_statements=16
    )
    try:
        for pragma in ("locking_mode = EXCLUSIVE", *PRAGMAS) if is_alone else PRAGMAS:
            connection.execute(f"PRAGMA {pragma}").fetchall()
    except BaseException:
        connection.close()
        raise
    return connection


def parts_of(connection: sqlite3.Connection) -> dict[str, int]:
    """The inodes of the parts by name. Raises sqlite3.Error."""
    found = [(component(part), inode) for part, inode in connection.execute("SELECT part, inode FROM parts")]
    return {part: unsigned(inode) for part, inode in found if part is not None and is_temporary(part)}


def read_parts(file: Path) -> tuple[str, dict[str, int]]:
    """The path of a journal's folder, and its parts. Raises sqlite3.Error, OSError."""
    try:
        return _read_parts(file, is_alone=False)
    except sqlite3.Error as error:
        if is_damage(error):
            raise
        return _read_parts(file, is_alone=True)  # as on a full disk, which whoever looks may want to make room on


def _read_parts(file: Path, *, is_alone: bool) -> tuple[str, dict[str, int]]:
    with contextlib.closing(connect(file, is_alone=is_alone)) as connection:
        if connection.execute("PRAGMA user_version").fetchone()[0] != VERSION:
            return "", {}
        place = connection.execute("SELECT path FROM place").fetchone()
        path = os.fsdecode(place[0]) if place is not None and isinstance(place[0], bytes) else ""
        return path, parts_of(connection)


def remove_parts(directory: int, parts: Mapping[str, int]) -> None:
    """Those that are still the files that were noted, ours, and in nobody's hands. Raises nothing."""
    for name, inode in parts.items():
        with contextlib.suppress(OSError):
            fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=directory)
            try:
                status = os.fstat(fd)
                is_ours = stat.S_ISREG(status.st_mode) and status.st_uid == os.geteuid() and status.st_ino == inode
                if is_ours and is_temporary(name) and try_lock(fd) is not False:
                    os.unlink(name, dir_fd=directory)
            finally:
                os.close(fd)


def remove_files(file: Path, *, with_lock: bool = True) -> None:
    """A journal and what SQLite and we lay beside it. Raises nothing."""
    beside = [Path(f"{file}-wal"), Path(f"{file}-shm")]
    for path in (file, *beside, *([lock_file(file)] if with_lock else [])):
        with contextlib.suppress(OSError):
            path.unlink()


def lock_file(file: Path) -> Path:
    return file.with_suffix(".lock")


def is_damage(error: Exception) -> bool:
    """Whether the file is not what we wrote; else the disk is full, or broken, or the file is in someone's hands."""
    return isinstance(error, sqlite3.Error) and getattr(error, "sqlite_errorcode", 0) & 0xFF in _DAMAGE


def key_of(path: str) -> bytes:
    """In the order of the walk, nearly, so that rows next to each other lie in one page."""
    key = encoded(path)
    if len(key) <= MAX_KEY:
        return key
    digest: bytes = blake3(key).digest()
    return key[: MAX_KEY - len(digest) - 1] + b"\0" + digest


def encoded(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def component(value: object) -> str | None:
    """A single component, or nothing."""
    if not isinstance(value, bytes) or not 0 < len(value) <= MAX_COMPONENT_BYTES or value in (b".", b".."):
        return None
    with contextlib.suppress(UnicodeDecodeError):
        if b"/" not in value and b"\0" not in value:
            return value.decode("utf-8", "surrogatepass")
    return None


def signed(number: int) -> int:
    """SQLite has no unsigned integers of 64 bits; inodes are such."""
    return number - 2**64 if number >= 2**63 else number


def unsigned(number: object) -> int:
    return number % 2**64 if isinstance(number, int) else 0
