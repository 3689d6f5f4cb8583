"""The folders of a transfer that have not been left, as descriptors: a name is only ever looked up in one of them.

A folder that somebody exchanges for a link, or for another folder, is not followed: each is opened by its one name in
its parent, never through a link, and has to be the inode that it was.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections import OrderedDict
from dataclasses import dataclass

from p2p.core.transfer.entries import Folder as FolderEntry
from p2p.io.receiving.journal import Node
from p2p.io.receiving.naming import component, folded

# Descriptors: the folders that were entered (MAX_DEPTH), and as many of those that wait for files. 1024 is a usual
# limit, of which 128 unstored parts and 256 small files have theirs. Others are opened again when they are needed.
MAX_OPEN = 128

_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


@dataclass(slots=True, eq=False)
class Folder:
    """One that things are received in. `name` is what it bears, `path` what the sender calls it."""

    number: int | None
    parent: Folder | None
    name: str
    path: str
    depth: int  # folders between it and the receiving folder
    node: Node
    entry: FolderEntry | None = None  # the mode and time that it gets when it is done; None: it was there before
    users: int = 1  # the stream, until it leaves it, and all in it that is under way
    is_lost: bool = False  # it could not be made: nothing in it can
    fd: int = -1

    @property
    def place(self) -> str:
        """The path under which it lies here, alike for names that are one where there is no case."""
        return f"{self.parent.place}/{folded(self.name)}" if self.parent is not None else ""

    def path_of(self, name: str) -> str:
        return f"{self.path}/{name}" if self.path else name


class Folders:
    """Not thread-safe but for `open_apart`."""

    def __init__(self, root: int, umask: int) -> None:
        """`root` is the descriptor of the receiving folder, which stays the caller's."""
        status = os.fstat(root)
        self.root = Folder(None, None, "", "", -1, Node(status.st_dev, status.st_ino), fd=root)
        self._umask = umask
        self._by_number: dict[int | None, Folder] = {None: self.root}
        self._open: OrderedDict[Folder, None] = OrderedDict()  # the one that was used longest ago first

    def find(self, number: int | None) -> Folder | None:
        """None: it could not be made, or is done."""
        folder = self._by_number.get(number)
        return None if folder is None or folder.is_lost else folder

    def descriptor(self, folder: Folder) -> int:
        """Valid until those of MAX_OPEN - 1 others have been asked for. Raises OSError if it is not there any more."""
        if folder.parent is None:
            return folder.fd
        if folder.fd < 0:
            self._keep(folder, _open_same(folder, self.descriptor(folder.parent)))
        self._open.move_to_end(folder)
        return folder.fd

    def make(self, number: int, parent: Folder, name: str, entry: FolderEntry) -> tuple[Folder, os.stat_result]:
        """A new one. Raises FileExistsError, OSError."""
        encoded, directory = component(name), self.descriptor(parent)
        os.mkdir(encoded, 0o700, dir_fd=directory)
        fd = os.open(encoded, _FLAGS, dir_fd=directory)
        return self._enter(number, parent, name, entry, fd, is_new=True)

    def enter(
        self, number: int, parent: Folder, name: str, entry: FolderEntry, node: Node | None
    ) -> tuple[Folder, os.stat_result] | None:
        """One that is there; None: there is none. With `node` it has to be this one, and it is ours. Raises OSError."""
        try:
            fd = os.open(component(name), _FLAGS, dir_fd=self.descriptor(parent))
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
                return None
            raise
        status = os.fstat(fd)
        if node is not None and node != (status.st_dev, status.st_ino):
            os.close(fd)
            return None
        return self._enter(number, parent, name, entry, fd, is_new=node is not None)

    def lose(self, number: int, parent: Folder | None, path: str) -> None:
        """It could not be made. It has to be left like others."""
        lost = Folder(number, parent, "", path, 0, Node(0, 0), is_lost=True)
        if parent is not None:
            parent.users += 1
        self._by_number[number] = lost

    def lost_path(self, number: int | None) -> str:
        """What the sender calls a folder that could not be made."""
        folder = self._by_number.get(number)
        return folder.path if folder is not None else ""

    def leave(self, number: int) -> list[Folder]:
        """Returns those that are done by that, inner ones first."""
        folder = self._by_number.get(number)
        return [] if folder is None else self.release(folder)

    def release(self, folder: Folder) -> list[Folder]:
        """One thing in it is no longer under way. Returns those that are done by that, inner ones first."""
        done: list[Folder] = []
        each: Folder | None = folder
        while each is not None:
            each.users -= 1
            if each.users or each is self.root:
                break
            done.append(each)
            self._by_number.pop(each.number, None)
            each = each.parent
        return done

    def restore(self, folder: Folder) -> None:
        """Gives it the mode and the time that it had over there, as far as the file system keeps such. Raises OSError.

        The owner can always work in it; a set-group bit that this place wants stays.
        """
        if folder.entry is None:
            return
        fd = self.descriptor(folder)
        with contextlib.suppress(OSError):
            given = os.fstat(fd).st_mode & stat.S_ISGID
            os.fchmod(fd, folder.entry.mode & 0o777 & ~self._umask | stat.S_IRWXU | given)
        with contextlib.suppress(OSError, OverflowError):
            os.utime(fd, ns=(folder.entry.mtime_ns, folder.entry.mtime_ns))

    def forget(self, folder: Folder) -> None:
        """Closes its descriptor. It can still be opened again."""
        if folder.parent is not None and folder.fd >= 0:
            os.close(folder.fd)
            folder.fd = -1
            self._open.pop(folder, None)

    def close(self) -> None:
        for folder in list(self._open):
            self.forget(folder)

    def _enter(
        self, number: int, parent: Folder, name: str, entry: FolderEntry, fd: int, *, is_new: bool
    ) -> tuple[Folder, os.stat_result]:
        status = os.fstat(fd)
        node = Node(status.st_dev, status.st_ino)
        folder = Folder(number, parent, name, parent.path_of(entry.name), parent.depth + 1, node)
        folder.entry = entry if is_new else None
        parent.users += 1
        self._by_number[number] = folder
        self._keep(folder, fd)
        return folder, status

    def _keep(self, folder: Folder, fd: int) -> None:
        folder.fd = fd
        self._open[folder] = None
        if len(self._open) > MAX_OPEN:
            self.forget(next(iter(self._open)))


def open_apart(root: int, folder: Folder) -> int:
    """A descriptor of its own, for another thread; uses nothing of a folder that changes. Raises OSError."""
    chain: list[Folder] = []
    while folder.parent is not None:
        chain.append(folder)
        folder = folder.parent
    fd = os.dup(root)
    for each in reversed(chain):
        above = fd
        try:
            fd = _open_same(each, above)
        finally:
            os.close(above)
    return fd


def _open_same(folder: Folder, parent: int) -> int:
    fd = os.open(component(folder.name), _FLAGS, dir_fd=parent)
    status = os.fstat(fd)
    if folder.node != (status.st_dev, status.st_ino):
        os.close(fd)
        raise OSError(errno.ESTALE, "another folder took its place")
    return fd
