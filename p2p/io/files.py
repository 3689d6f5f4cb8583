"""The file side of a transfer: a directory in which nothing is ever half there, and (sources.py) what is sent.

Decisions. No preallocation: pieces arrive in order, so delayed allocation lays them out well, and glibc's
posix_fallocate writes zeros where a file system cannot do better. Permission bits are the sender's without
setuid, setgid and sticky, narrowed by the umask, because a stranger does not decide who else may write here;
the owner can always read. Where a file system keeps no such bits or times, the content counts.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import secrets
import stat
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TypeVar

from p2p.core.datagram import Buffer
from p2p.core.errors import CallerError
from p2p.core.text import escape
from p2p.core.transfer.messages import Entry
from p2p.core.transfer.names import is_temporary, numbered, temporary_name
from p2p.io.naming import can_name, name_exclusively, open_nameless, rename_exclusively
from p2p.io.sources import FileError, PathLike, Source, SourceError, behind, open_sources

__all__ = ["Destination", "FileError", "Part", "Source", "SourceError", "StorageError", "open_sources"]

MAX_NUMBER = 9_999  # taken names tried for one file; each try is a system call
ENDED = "the transfer was ended"
TEMPORARY_ENTROPY = 8  # bytes; nobody guesses the name, and no two transfers meet

Result = TypeVar("Result")

_SPACE_ERRORS = frozenset([errno.ENOSPC, errno.EDQUOT])
_NO_DIRECTORY_SYNC = frozenset([errno.EINVAL, errno.EOPNOTSUPP, errno.EACCES])


class StorageError(FileError):
    """The receiving directory takes no file: full, read-only, not permitted, broken."""


class Part:
    """One file that is arriving, under its temporary name."""

    def __init__(self, entry: Entry, temporary: str, fd: int, describe: Callable[[OSError, str], StorageError]) -> None:
        self.entry = entry
        self.temporary = temporary
        self.final_name: str | None = None
        self.written = 0
        self.fd = fd
        self._describe = describe

    def write(self, offset: int, pieces: Sequence[Buffer]) -> None:
        """One pwritev. Raises StorageError."""
        try:
            self.written += write_all(self.fd, pieces, offset)
        except OSError as error:
            raise self._describe(error, self.entry.name) from error


class Destination:
    """The directory that receives files, opened once. `close` (or leaving `with`) removes what is unfinished.

    `finish` may run in another thread than the rest.
    """

    def __init__(self, directory: PathLike, random_bytes: Callable[[int], bytes] = secrets.token_bytes) -> None:
        """Creates the directory if it is missing, and tries whether it can be written. Raises StorageError.

        Removes the temporary files of runs that were killed: those whose lock nobody holds.
        """
        self.path = os.path.abspath(directory)
        self._random_bytes = random_bytes
        self._parts: set[Part] = set()
        self._promised = 0  # bytes accepted, whether written yet or not
        self._written = 0  # bytes of them in parts that are finished
        self._next_number: dict[str, int] = {}
        self._lock = threading.Lock()  # finish against close
        self._umask = _umask()
        self._created: list[Path] = []
        self._fd = -1
        self._nameless: bool | None = None  # whether this file system has files without a name; None: not tried yet
        try:
            self._created = _make_directories(Path(self.path))
            self._fd = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            self.leftovers_removed = self._remove_leftovers()
            temporary, fd = self._create_temporary()
            os.unlink(temporary, dir_fd=self._fd)
            os.close(fd)
        except OSError as error:
            self.close()
            raise self._storage_error(error, "") from error

    def __enter__(self) -> Destination:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def reserve(self, sizes: Iterable[int]) -> None:
        """Raises StorageError unless files of these sizes fit beside what was promised before."""
        try:
            status = os.fstatvfs(self._fd)
        except OSError as error:
            raise self._storage_error(error, "") from error
        block = status.f_frsize or 4096
        needed = sum(-(-size // block) * block for size in sizes)
        with self._lock:
            outstanding = self._promised - self._written - sum(part.written for part in self._parts)
        free = max(0, status.f_bavail * block - max(0, outstanding))
        if needed > free and status.f_blocks:  # a file system that reports no blocks at all does not count them
            numbers = f"needed {_size(needed)}, free {_size(free)}"
            raise StorageError(
                f"not enough space in {escape(self.path)}: {numbers}; free some, or choose another with --out",
                f"not enough space on the receiver's disk: {numbers}",
            )
        self._promised += needed

    def open(self, entry: Entry) -> Part:
        """Creates the temporary file of an offered file. Raises StorageError."""
        try:
            temporary, fd = self._create_temporary()
        except OSError as error:
            raise self._storage_error(error, entry.name) from error
        part = Part(entry, temporary, fd, self._storage_error)
        with self._lock:
            self._parts.add(part)
        return part

    def finish(self, parts: Sequence[Part]) -> list[str]:
        """Makes whole files durable, then names them; returns the final names. Never overwrites anything.

        Blocks on the disk. Several files at once share one fsync of the directory. Raises StorageError; a part
        that bears its name already then has `final_name` set.
        """
        with self._lock:
            if any(part not in self._parts or part.fd < 0 for part in parts):
                raise CallerError("only open parts can be finished")
            owned = [(part, part.fd) for part in parts]  # from here on `close` leaves the descriptors to us
            for part in parts:
                part.fd = -1
        try:
            # First all metadata and the start of all writing, then all waiting: a journal commits once, not per file.
            # 2000 files of 1 kB on ext4: 506 a second one by one, 914 in groups of 100.
            for part, fd in owned:
                self._restore_metadata(fd, part.entry)
                if len(owned) > 1:
                    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
            for part, fd in owned:
                self._explained(part.entry, partial(os.fsync, fd))
            names = [self._explained(part.entry, partial(self._name, fd, part)) for part, fd in owned]
        finally:
            for _, fd in owned:
                os.close(fd)
        self._sync_directory()
        return names

    def store(self, files: Sequence[tuple[Entry, Buffer]]) -> list[str]:
        """Writes small files whole, makes them durable, then names them; returns the final names.

        Like `open`, `write` and `finish` together, and half the system calls: until it is named, a file has no name
        at all. Blocks on the disk. Raises StorageError; files before the one it names may bear their names already.
        """
        with self._directory() as directory:
            if not self._has_nameless(directory):
                return self._store_as_parts(files)
            owned: list[tuple[Entry, int]] = []
            try:
                for entry, content in files:
                    fd = self._explained(entry, partial(open_nameless, directory))
                    assert fd is not None
                    owned.append((entry, fd))
                    self._explained(entry, partial(write_all, fd, [content], 0))
                    self._restore_metadata(fd, entry)
                    if len(files) > 1:
                        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
                for entry, fd in owned:
                    self._explained(entry, partial(os.fsync, fd))
                names = [self._explained(entry, partial(self._name_nameless, fd, entry)) for entry, fd in owned]
            finally:
                for _, fd in owned:
                    os.close(fd)
        self._sync_directory()
        return names

    def close(self) -> None:
        """Removes every temporary file, and the directory if it was made for nothing. Raises nothing."""
        with self._lock:
            for part in self._parts:
                with contextlib.suppress(OSError):
                    os.unlink(part.temporary, dir_fd=self._fd)
                if part.fd >= 0:
                    os.close(part.fd)
                    part.fd = -1
            self._parts.clear()
            if self._fd >= 0:
                os.close(self._fd)
                self._fd = -1
        for path in reversed(self._created):
            with contextlib.suppress(OSError):  # not empty: it was of use
                path.rmdir()
        self._created.clear()

    def _create_temporary(self) -> tuple[str, int]:
        """The lock tells other runs that the file is alive; it goes with the process, however that ends."""
        while True:
            name = temporary_name(self._random_bytes(TEMPORARY_ENTROPY))
            flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC
            fd = os.open(name, flags, 0o600, dir_fd=self._fd)
            if _try_lock(fd) is not False and os.fstat(fd).st_nlink:
                return name, fd
            os.close(fd)  # another run swept it up between its creation and its lock

    def _remove_leftovers(self) -> int:
        removed = 0
        for name in filter(is_temporary, os.listdir(self._fd)):
            with contextlib.suppress(OSError):
                fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=self._fd)
                try:
                    status = os.fstat(fd)
                    if stat.S_ISREG(status.st_mode) and status.st_uid == os.geteuid() and _try_lock(fd):
                        os.unlink(name, dir_fd=self._fd)
                        removed += 1
                finally:
                    os.close(fd)
        return removed

    def _restore_metadata(self, fd: int, entry: Entry) -> None:
        with contextlib.suppress(OSError):
            os.fchmod(fd, entry.mode & 0o777 & ~self._umask | stat.S_IRUSR)
        with contextlib.suppress(OSError, OverflowError):
            os.utime(fd, ns=(entry.mtime_ns, entry.mtime_ns))

    def _explained(self, entry: Entry, call: Callable[[], Result]) -> Result:
        try:
            return call()
        except OSError as error:
            raise self._storage_error(error, entry.name) from error

    @contextlib.contextmanager
    def _directory(self) -> Iterator[int]:
        """A copy of the descriptor: `close` does not wait for the disk. Raises StorageError after `close`."""
        with self._lock:
            if self._fd < 0:
                raise StorageError(ENDED, ENDED)
            fd = os.dup(self._fd)
        try:
            yield fd
        finally:
            os.close(fd)

    def _sync_directory(self) -> None:
        with contextlib.suppress(StorageError), self._directory() as fd:
            try:
                os.fsync(fd)
            except OSError as error:
                if error.errno not in _NO_DIRECTORY_SYNC:
                    raise self._storage_error(error, "") from error

    def _has_nameless(self, directory: int) -> bool:
        if self._nameless is None:
            fd = open_nameless(directory)
            self._nameless = fd is not None and can_name(fd)
            if fd is not None:
                os.close(fd)
        return self._nameless

    def _store_as_parts(self, files: Sequence[tuple[Entry, Buffer]]) -> list[str]:
        parts = []
        for entry, content in files:
            parts.append(self.open(entry))
            parts[-1].write(0, [content])
        return self.finish(parts)

    def _name(self, fd: int, part: Part) -> str:
        """Gives the file the first name that is free, atomically."""
        with self._lock:
            if part not in self._parts:
                raise StorageError(ENDED, ENDED)
            status, named = os.fstat(fd), os.stat(part.temporary, dir_fd=self._fd, follow_symlinks=False)
            if (status.st_dev, status.st_ino) != (named.st_dev, named.st_ino):
                raise OSError(errno.ESTALE, "another file took the place of the temporary file")
            name = self._free_name(part.entry, lambda name: rename_exclusively(part.temporary, name, self._fd))
            self._parts.discard(part)
            self._written += part.written
            part.final_name = name
            return name

    def _name_nameless(self, fd: int, entry: Entry) -> str:
        with self._lock:
            if self._fd < 0:
                raise StorageError(ENDED, ENDED)
            self._written += entry.size
            return self._free_name(entry, lambda name: name_exclusively(fd, name, self._fd))

    def _free_name(self, entry: Entry, give: Callable[[str], None]) -> str:
        offered = entry.name
        for number in range(self._next_number.get(offered, 0), MAX_NUMBER + 1):
            name = numbered(offered, number) if number else offered
            with contextlib.suppress(FileExistsError):
                give(name)
                self._next_number[offered] = number + 1
                return name
        raise OSError(errno.EEXIST, f"{MAX_NUMBER} names like it are taken")

    def _storage_error(self, error: OSError, name: str) -> StorageError:
        here, file = escape(self.path), escape(name) or "a file"
        if error.errno in _SPACE_ERRORS:
            what, advice = "the disk is full", "free some space, or choose another folder with --out"
            if error.errno == errno.EDQUOT:
                what = "the disk quota is used up"
        elif error.errno == errno.EFBIG:
            what, advice = "the file is larger than that file system, or ulimit -f, allows", "choose another with --out"
        elif error.errno == errno.EROFS:
            what, advice = "the file system is read-only", "choose another folder with --out"
        elif error.errno in (errno.EACCES, errno.EPERM):
            what, advice = "this user may not write there", "choose another folder with --out"
        elif error.errno in (errno.ENOTDIR, errno.EEXIST) and not name:
            what, advice = "that is not a folder", "choose a folder with --out"
        elif error.errno == errno.ENOENT and not name:
            what, advice = "the folder cannot be made there", "choose another with --out"
        elif error.errno == errno.ENOENT:
            what, advice = "the folder or the temporary file was removed by someone else", "receive it again"
        elif error.errno == errno.EMFILE:
            what, advice = "too many open files", "raise the limit with ulimit -n"
        else:
            what, advice = (error.strerror or str(error)), "check the disk"
        return StorageError(
            f"cannot store {file} in {here}: {what}; {advice}", f"the receiver cannot store {file}: {what}"
        )


def write_all(fd: int, pieces: Sequence[Buffer], offset: int) -> int:
    """One pwritev, unless it is short. Returns the number of bytes."""
    missing = length = sum(map(len, pieces))
    while missing:
        count = os.pwritev(fd, pieces, offset + length - missing)
        missing -= count
        if missing:  # a short write announces a full disk: the next one says so
            pieces = behind(pieces, count)
    return length


def _make_directories(path: Path) -> list[Path]:
    """Returns those that were missing, the outermost first."""
    missing = [each for each in (path, *path.parents) if not each.exists()]
    path.mkdir(parents=True, exist_ok=True)
    return missing[::-1]


def _try_lock(fd: int) -> bool | None:
    """True: locked. False: someone else holds it. None: this file system has no locks."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


def _umask() -> int:
    """Read without being changed where the kernel tells it: another thread may be creating a file."""
    with contextlib.suppress(OSError), open("/proc/self/status") as status:
        for line in status:
            if line.startswith("Umask:"):
                return int(line.split()[1], 8)
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


def _size(count: int) -> str:
    for unit, size in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count} B"
