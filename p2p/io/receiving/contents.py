"""Files whose content is all there: written, put together, checked, with their mode and time, and not yet named."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Callable

from p2p.core.transfer.entries import File
from p2p.core.transfer.events import Whole
from p2p.io.receiving.checking import digest_of
from p2p.io.receiving.folders import Folder, Folders
from p2p.io.receiving.jobs import Finish, Ready, Waiting
from p2p.io.receiving.naming import can_name, open_nameless
from p2p.io.receiving.parts import Found, Gate, Part, Parts, copy_range, write_all
from p2p.io.receiving.taken import another_took_its_place


class Mismatch(Exception):
    """What lies on the disk is not what was sent."""


class Contents:
    """Methods raise OSError, for one file."""

    def __init__(
        self, folders: Folders, parts: Parts, gate: Gate, umask: int, open_found: Callable[[Found], int | None]
    ) -> None:
        self._folders = folders
        self._parts = parts
        self._gate = gate
        self._umask = umask
        self._open_found = open_found
        self._has_nameless: dict[int, bool] = {}  # by device: whether it has files without a name

    def of_whole(self, job: Whole, file: Waiting) -> Ready:
        """Half the system calls of a part: until it is named, it has no name at all, where there is such."""
        if file.found is not None and (fd := self._open_same(file.found, job)) is not None:
            ready = Ready(file, fd, is_unchanged=True)
        else:
            nameless, temporary = self._open_nameless(file.folder), ""
            if nameless is None:
                temporary, nameless = self._parts.create()
            ready = Ready(file, nameless, temporary)
        try:
            if not ready.is_unchanged and job.content:
                write_all(ready.fd, [job.content], 0)
            self._restore(ready)
        except BaseException:
            os.close(ready.fd)
            if ready.temporary:
                self._parts.remove(ready.temporary)
            raise
        return ready

    def of_part(self, job: Finish, file: Waiting) -> Ready:
        """Raises Mismatch, OSError. The descriptor of a part that has begun stays the part's."""
        part = job.part
        if part.is_all_kept(job.size):
            assert part.found is not None
            ready = Ready(file, self._require_found(part.found), is_unchanged=True)
            self._drop_begun(part.found)
        else:
            part.begin()
            ready = Ready(file, part.fd, part.temporary, part)
        try:
            if not ready.is_unchanged:
                self._complete(part, job.size)
            if job.must_verify:
                self._verify(ready.fd, job)
            self._restore(ready)
        except BaseException:
            if ready.is_unchanged:
                os.close(ready.fd)
            raise
        return ready

    def _verify(self, fd: int, job: Finish) -> None:
        """Raises Mismatch, OSError."""
        if digest_of(fd, lambda: self._gate.is_shut, job.on_reread) != job.digest:
            raise Mismatch

    def restore(self, fd: int, entry: File) -> None:
        """Mode and time, as far as the file system keeps such."""
        with contextlib.suppress(OSError):
            os.fchmod(fd, entry.mode & 0o777 & ~self._umask | stat.S_IRUSR)
        with contextlib.suppress(OSError, OverflowError):
            os.utime(fd, ns=(entry.mtime_ns, entry.mtime_ns))

    def _restore(self, ready: Ready) -> None:
        found = ready.file.found
        if not ready.is_unchanged or (found is not None and found.is_ours):
            self.restore(ready.fd, ready.file.entry)

    def _open_same(self, found: Found, job: Whole) -> int | None:
        """The file that was found, if it has this very content."""
        if found.is_part:
            self._parts.remove(found.name)  # what began as a large file has become a small one
            return None
        self._drop_begun(found)
        if found.size != len(job.content) or (fd := self._open_found(found)) is None:
            return None
        is_same = False
        try:
            is_same = os.pread(fd, found.size + 1, 0) == job.content
        finally:
            if not is_same:
                os.close(fd)
        return fd if is_same else None

    def _drop_begun(self, found: Found) -> None:
        """Nothing comes to replace it."""
        if found.begun is not None:
            self._parts.remove(found.begun.name)

    def _complete(self, part: Part, size: int) -> None:
        """What was kept of a whole file, and a hole at the end."""
        if part.kept:
            assert part.found is not None
            source = self._require_found(part.found)
            try:
                for offset, length in part.kept:
                    copy_range(source, part.fd, offset, length)
            finally:
                os.close(source)
        if os.fstat(part.fd).st_size != size:
            os.ftruncate(part.fd, size)

    def _require_found(self, found: Found) -> int:
        fd = self._open_found(found)
        if fd is None:
            raise another_took_its_place()
        return fd

    def _open_nameless(self, folder: Folder) -> int | None:
        device = folder.node.device
        if self._has_nameless.get(device) is False:
            return None
        fd = open_nameless(self._folders.descriptor(folder))
        if device not in self._has_nameless and fd is not None:
            self._has_nameless[device] = can_name(fd)
            if not self._has_nameless[device]:
                os.close(fd)
                return None
        return fd
