"""Files that are ready get their names, atomically and by the policy."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Callable
from functools import partial

from p2p.core.transfer.names import is_temporary
from p2p.io.locks import try_lock
from p2p.io.receiving.contents import Contents
from p2p.io.receiving.folders import Folders
from p2p.io.receiving.jobs import Ready
from p2p.io.receiving.journal import Journal, Row
from p2p.io.receiving.naming import component, name_exclusively, rename_exclusively, rename_over
from p2p.io.receiving.parts import Found, Gate, Parts, copy_range, create_temporary
from p2p.io.receiving.taken import Names, another_took_its_place, same_inode, same_time


class FinalNames:
    """Methods raise OSError and Unstorable, for one file, and StorageError when the transfer has ended."""

    def __init__(self, folders: Folders, names: Names, parts: Parts, gate: Gate, contents: Contents) -> None:
        self.journal: Journal | None = None
        self._folders = folders
        self._names = names
        self._parts = parts
        self._gate = gate
        self._contents = contents

    def choose(self, ready: Ready) -> Row | None:
        """The name that it will get, unless somebody else is faster, for the journal; None: it need not know."""
        file, found = ready.file, ready.file.found
        if found is not None and (ready.is_unchanged or (found.is_ours and not found.is_part)):
            ready.noted = found.name
            if not found.is_ours:
                return None
        else:
            ready.noted = self._names.first_free(
                self._folders.descriptor(file.folder), file.folder.place, file.entry.name
            )
        return _row(ready, ready.noted)

    def give(self, ready: Ready) -> str:
        """Returns it."""
        if ready.is_unchanged:
            assert ready.file.found is not None
            return ready.file.found.name
        directory, root = self._folders.descriptor(ready.file.folder), self._folders.root.fd
        try:
            return self._give(ready, directory, root)
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
        return self._give_across(ready, directory)

    def _give(self, ready: Ready, directory: int, home: int) -> str:
        """`home` is where the temporary file lies, if there is one."""
        file, fd, temporary, found = ready.file, ready.fd, ready.temporary, ready.file.found
        over: Callable[[str], None] | None = None

        def exclusively(name: str) -> None:
            if self.journal is not None and name != ready.noted and not is_temporary(name):
                ready.noted = name
                self.journal.note_named([_row(ready, name)])
            if is_temporary(name):
                try_lock(fd)  # so that nobody sweeps it up
            if temporary:
                rename_exclusively(temporary, name, home, directory)
            else:
                name_exclusively(fd, name, directory)

        with self._gate:
            if temporary:
                status = os.fstat(fd)
                if not same_inode(home, temporary, (status.st_dev, status.st_ino)):
                    raise another_took_its_place()
                over = partial(rename_over, temporary, directory=home, into=directory)
            is_replaced = found is not None and found.is_ours and not found.is_part
            if found is not None and is_replaced and _is_untouched(directory, found):
                name = found.name
                if over is not None:
                    over(name)
                else:
                    self._names.over(directory, name, exclusively)
                self._names.note(directory, file.folder.place, name)
            else:
                name = self._names.give(
                    directory, file.folder.place, file.entry.name, exclusively, over=over, first=ready.noted
                )
            self._parts.forget(temporary)
            return name

    def _give_across(self, ready: Ready, directory: int) -> str:
        """Another file system is mounted there: a temporary file in it takes the content."""
        with self._gate:
            temporary, fd = create_temporary(self._names.temporary(), directory)
            try_lock(fd)
        try:
            copy_range(ready.fd, fd, 0, os.fstat(ready.fd).st_size)
            self._contents.restore(fd, ready.file.entry)
            os.fsync(fd)
            name = self._give(Ready(ready.file, fd, temporary, noted=ready.noted), directory, directory)
            self._parts.remove(ready.temporary)
            os.dup2(fd, ready.fd, inheritable=False)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(temporary, dir_fd=directory)
            raise
        finally:
            os.close(fd)
        return name


def _is_untouched(directory: int, found: Found) -> bool:
    """Whether nobody wrote to it since it was looked up, which may have been long ago."""
    try:
        status = os.stat(component(found.name), dir_fd=directory, follow_symlinks=False)
    except OSError:
        return False
    return found.node == (status.st_dev, status.st_ino) and same_time(found.mtime_ns, status.st_mtime_ns)


def _row(ready: Ready, name: str) -> Row:
    status = os.fstat(ready.fd)
    temporary, mtime_ns = ready.temporary or None, status.st_mtime_ns
    return Row(ready.file.path, name, temporary, status.st_dev, status.st_ino, mtime_ns=mtime_ns)
