"""Files that are arriving: under temporary names in the receiving folder, or without any name."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import threading
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from p2p.core.datagram import Buffer
from p2p.core.transfer.messages import CHUNK
from p2p.core.transfer.names import is_temporary
from p2p.io.locks import try_lock
from p2p.io.receiving.folders import Folder
from p2p.io.receiving.journal import MAX_AGE, Node
from p2p.io.receiving.naming import component
from p2p.io.receiving.storage_errors import ENDED, StorageError
from p2p.io.receiving.taken import another_took_its_place, same_inode
from p2p.io.sending.sources import behind

KeptIn = Callable[[int], Collection[str] | None]
"""The temporary names in a folder, by its descriptor, that journals need; None: they cannot be asked."""

COPY = 2**24  # bytes copied within the disk by one system call

_ZEROS = bytes(2**20)
_NO_COPY = frozenset([errno.EXDEV, errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP, errno.EBADF, errno.EPERM])


@dataclass(frozen=True, slots=True)
class Found:
    """What an announced file may have in common with one that is here. `name` lies in `folder`."""

    folder: Folder
    name: str
    node: Node
    size: int
    mtime_ns: int
    is_part: bool
    """It is a part that an earlier run began: what is missing is written into it."""
    is_ours: bool
    """An earlier run of this transfer made it: it may be replaced."""
    begun: Found | None = None
    """The part that a later run began, to replace it."""
    in_begun: bytes = b""
    """Of each chunk that was told to be here: whether that part has it, and not the whole file."""


class Part:
    """One file that is arriving. Methods raise OSError."""

    def __init__(self, number: int, path: str, found: Found | None, begin: Callable[[Part], None]) -> None:
        self.number = number
        self.path = path
        self.found = found
        self.temporary = ""
        self.fd = -1
        self.old_size = 0
        """Bytes that an earlier run left in it."""
        self.kept: list[tuple[int, int]] = []
        """What is to be copied from the whole file that was found: offset, length."""
        self._begin = begin

    @property
    def has_begun(self) -> bool:
        return self.fd >= 0

    def begin(self) -> None:
        """Makes the temporary file, if there is none yet."""
        if self.fd < 0:
            self._begin(self)

    def write(self, offset: int, pieces: Sequence[Buffer]) -> None:
        """One pwritev."""
        self.begin()
        write_all(self.fd, pieces, offset)

    def leave_hole(self, offset: int, length: int) -> None:
        """Nothing, but where an earlier run has written. The end of the file is set when it is whole."""
        self.begin()
        end = min(offset + length, self.old_size)
        while offset < end:
            count = min(len(_ZEROS), end - offset)
            write_all(self.fd, [memoryview(_ZEROS)[:count]], offset)
            offset += count

    def keep(self, offset: int, length: int) -> None:
        """What is there of an old part stays there; of a whole file it is copied in the end, in another thread."""
        if self.found is None:
            raise another_took_its_place()
        if self.found.is_part:
            self.begin()
            if not self.old_size:
                raise another_took_its_place()
        elif not self.found.in_begun:
            self._copy_later(offset, length)
        else:
            while length:
                number, within = divmod(offset, CHUNK)
                count = min(length, CHUNK - within)
                if number < len(self.found.in_begun) and self.found.in_begun[number]:
                    self.begin()
                    if offset + count > self.old_size:
                        raise another_took_its_place()
                else:
                    self._copy_later(offset, count)
                offset, length = offset + count, length - count

    def _copy_later(self, offset: int, length: int) -> None:
        if self.kept and sum(self.kept[-1]) == offset:
            self.kept[-1] = (self.kept[-1][0], self.kept[-1][1] + length)
        else:
            self.kept.append((offset, length))

    def is_all_kept(self, size: int) -> bool:
        """Whether the whole file that was found is what was sent, if its content is what it was."""
        return self.fd < 0 and self.found is not None and self.found.size == size and self.kept == [(0, size)]


class Gate:
    """Whether the transfer still goes on. Whatever makes or gives a name passes it; shutting it waits for one such."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.is_shut = False

    def __enter__(self) -> None:
        """Raises StorageError."""
        self.lock.acquire()
        if self.is_shut:
            self.lock.release()
            raise StorageError(ENDED, ENDED)

    def __exit__(self, *_: object) -> None:
        self.lock.release()


class Parts:
    """The temporary files of a transfer. Thread-safe."""

    def __init__(self, root: int, new_name: Callable[[], str], gate: Gate, kept_in: KeptIn) -> None:
        self._root = root
        self._kept_in = kept_in
        self._new_name = new_name
        self._gate = gate
        self._alive: dict[str, bool] = {}  # whether it stays when the run ends

    def create(self) -> tuple[str, int]:
        """Raises OSError, and StorageError when the transfer has ended.

        The lock tells other runs that the file is alive; it goes with the process, however that ends.
        """
        with self._gate:
            while True:
                name, fd = create_temporary(self._new_name(), self._root)
                if try_lock(fd) is not False and os.fstat(fd).st_nlink:
                    self._alive[name] = False
                    return name, fd
                os.close(fd)  # another run swept it up between its creation and its lock

    def reopen(self, name: str, node: Node) -> int | None:
        """One of an earlier run, None if it is not there any more or in use. It stays. Raises OSError."""
        try:
            fd = os.open(component(name), os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=self._root)
        except FileNotFoundError:
            return None
        if is_own_file(os.fstat(fd), node) and try_lock(fd) is not False and same_inode(self._root, name, node):
            self._alive[name] = True
            return fd
        os.close(fd)
        return None

    def let_stay(self, name: str) -> None:
        """A journal names it."""
        self._alive[name] = True

    def stays(self, name: str) -> bool:
        """Whether it does when the run ends."""
        return self._alive.get(name, False)

    def forget(self, name: str) -> None:
        """It bears its final name."""
        self._alive.pop(name, None)

    def remove(self, name: str) -> None:
        """Raises nothing."""
        self.forget(name)
        with contextlib.suppress(OSError):
            os.unlink(component(name), dir_fd=self._root)

    def remove_all(self) -> None:
        """But those that stay. To be called when the gate is shut."""
        for name in [name for name, stays in list(self._alive.items()) if not stays]:
            self.remove(name)

    def sweep(self, directory: int) -> int:
        """Removes those of runs that were killed, whose lock nobody holds and that no journal names. Returns how many.

        Where the journals cannot be asked, only what is older than any of them.
        """
        names = list(filter(is_temporary, os.listdir(directory)))
        kept = self._kept_in(directory) if names else ()
        removed = 0
        for name in names:
            if kept is not None and name in kept:
                continue
            with contextlib.suppress(OSError):
                flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
                fd = os.open(component(name), flags, dir_fd=directory)
                try:
                    status = os.fstat(fd)
                    is_ours = stat.S_ISREG(status.st_mode) and status.st_uid == os.geteuid()
                    is_old = kept is not None or status.st_mtime < time.time() - MAX_AGE
                    if is_ours and is_old and try_lock(fd):
                        os.unlink(name, dir_fd=directory)
                        removed += 1
                finally:
                    os.close(fd)
        return removed


def create_temporary(name: str, directory: int) -> tuple[str, int]:
    """Raises OSError."""
    flags = os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC
    return name, os.open(component(name), flags, 0o600, dir_fd=directory)


def is_own_file(status: os.stat_result, node: Node) -> bool:
    return stat.S_ISREG(status.st_mode) and node == (status.st_dev, status.st_ino) and status.st_uid == os.geteuid()


def write_all(fd: int, pieces: Sequence[Buffer], offset: int) -> int:
    """One pwritev, unless it is short. Returns the number of bytes."""
    missing = length = sum(map(len, pieces))
    while missing:
        count = os.pwritev(fd, pieces, offset + length - missing)
        missing -= count
        if missing:  # a short write announces a full disk: the next one says so
            pieces = behind(pieces, count)
    return length


def copy_range(source: int, target: int, offset: int, length: int) -> None:
    """The same bytes in the same place, shared where the disk can do that. Raises OSError, also if they are gone."""
    end, by_kernel = offset + length, hasattr(os, "copy_file_range")
    while offset < end:
        count = 0
        if by_kernel:
            try:
                count = os.copy_file_range(source, target, min(COPY, end - offset), offset, offset)
            except OSError as error:
                if error.errno not in _NO_COPY:
                    raise
                by_kernel = False
                continue
        else:
            data = os.pread(source, min(len(_ZEROS), end - offset), offset)
            count = write_all(target, [data], offset)
        if not count:
            raise another_took_its_place()
        offset += count
