"""Symbolic and hard links, in folders by descriptor."""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass

from p2p.core.transfer.events import MakeHardlink, MakeSymlink
from p2p.core.transfer.limits import MAX_LINKED
from p2p.core.transfer.names import stays_inside
from p2p.io.receiving.folders import Folder, Folders
from p2p.io.receiving.journal import Node
from p2p.io.receiving.naming import NO_LINKS, component, name_exclusively, open_itself, set_link_time
from p2p.io.receiving.storage_errors import Unstorable
from p2p.io.receiving.taken import Names, another_took_its_place, is_inode, same_inode


@dataclass(frozen=True, slots=True)
class Linked:
    """A file that is stored, and may get further names."""

    folder: Folder
    name: str
    node: Node


class Links:
    def __init__(self, folders: Folders, names: Names) -> None:
        self._folders = folders
        self._names = names
        self._linked: dict[int, Linked] = {}
        self._waiting: dict[int, list[MakeHardlink]] = {}
        self._waiting_count = 0

    def wait(self, job: MakeHardlink) -> bool:
        """Until its file is stored. Returns whether there is room for it."""
        if self._waiting_count >= MAX_LINKED:
            return False
        self._waiting_count += 1
        self._waiting.setdefault(job.entry.to, []).append(job)
        return True

    def take_waiting(self, number: int) -> list[MakeHardlink]:
        """Those that waited for this file, which is stored now, or will not be."""
        waiting = self._waiting.pop(number, [])
        self._waiting_count -= len(waiting)
        return waiting

    def remember(self, number: int, folder: Folder, name: str, status: os.stat_result) -> None:
        """A file is stored to which links may come."""
        if len(self._linked) < MAX_LINKED:
            self._linked[number] = Linked(folder, name, Node(status.st_dev, status.st_ino))

    def make(self, job: MakeSymlink | MakeHardlink, folder: Folder) -> str:
        """Returns its name. Raises OSError, Unstorable."""
        try:
            if isinstance(job, MakeHardlink):
                return self._make_hardlink(job, folder)
            return self._make_symlink(job, folder)
        except OSError as error:
            if error.errno in NO_LINKS:
                raise Unstorable("there are no such links on that file system") from error
            if error.errno == errno.EXDEV:
                raise Unstorable("it is to lie on another file system than the file of which it is a name") from error
            raise

    def _make_symlink(self, job: MakeSymlink, folder: Folder) -> str:
        entry, directory = job.entry, self._folders.descriptor(folder)
        if not stays_inside(entry.target, max(0, folder.depth)):
            raise Unstorable("it leads elsewhere")
        target = _encoded(entry.target)

        def make(name: str) -> None:
            os.symlink(target, component(name), dir_fd=directory)
            set_link_time(name, directory, entry.mtime_ns)

        def is_it(name: str) -> bool:
            try:
                return os.readlink(component(name), dir_fd=directory) == target
            except OSError:  # it is no link
                return False

        return self._names.give(directory, folder.place, entry.name, make, is_it=is_it)

    def _make_hardlink(self, job: MakeHardlink, folder: Folder) -> str:
        """Of the very inode that was stored, whatever bears its name by now."""
        linked = self._linked.get(job.entry.to)
        if linked is None:
            raise Unstorable("the file of which it is another name was not stored")
        directory = self._folders.descriptor(folder)
        home = self._folders.descriptor(linked.folder)
        fd = open_itself(linked.name, home)
        try:
            is_same = same_inode(home, linked.name, linked.node) if fd is None else is_inode(fd, linked.node)
            if not is_same:
                raise another_took_its_place()

            def make(name: str) -> None:
                if fd is not None:
                    name_exclusively(fd, name, directory)
                    return
                source = component(linked.name)
                os.link(source, component(name), src_dir_fd=home, dst_dir_fd=directory, follow_symlinks=False)
                if not same_inode(directory, name, linked.node):
                    os.unlink(component(name), dir_fd=directory)
                    raise another_took_its_place()

            def is_it(name: str) -> bool:
                return same_inode(directory, name, linked.node)

            return self._names.give(directory, folder.place, job.entry.name, make, is_it=is_it)
        finally:
            if fd is not None:
                os.close(fd)


def _encoded(target: str) -> bytes:
    try:
        return os.fsencode(target)
    except UnicodeEncodeError:
        return target.encode("utf-8", "replace")
