"""The one guarded place through which every write of a received thing goes: nothing in it is ever half there.

Decisions. Below the receiving folder no path is ever resolved: each name is one component, looked up in a folder that
is a descriptor, and never through a link (folders.py); so who exchanges a folder for a link meanwhile gains nothing.
No preallocation: pieces arrive in order, so delayed allocation lays them out well, and glibc's posix_fallocate writes
zeros where a file system cannot do better. Permission bits are the sender's without setuid, setgid and sticky, narrowed
by the umask, because a stranger does not decide who else may write here; the owner can always read. Where a file system
keeps no such bits or times, the content counts.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
from collections.abc import Callable, Sequence
from pathlib import Path

from p2p.core.calling import option
from p2p.core.text import escape
from p2p.io.receiving.carrying import Carrier
from p2p.io.receiving.folders import open_apart
from p2p.io.receiving.jobs import Damaged, Discard, Finish, Job, LookedUp, Outcome, Problem, Stored
from p2p.io.receiving.journal import Journal
from p2p.io.receiving.naming import component
from p2p.io.receiving.parts import Found, Gate, KeptIn, Part, Parts
from p2p.io.receiving.storage_errors import StorageError, fatal_cause, storage_error
from p2p.io.receiving.taken import Names, Policy
from p2p.io.sending.sources import PathLike

__all__ = [
    "Damaged",
    "Destination",
    "Discard",
    "Finish",
    "Found",
    "Job",
    "LookedUp",
    "Outcome",
    "Part",
    "Policy",
    "Problem",
    "StorageError",
    "Stored",
]


LONG_AGO = 10**9  # seconds since the epoch, 2001: FAT begins with 1980


class Destination:
    """The directory that receives, opened once. `close` (or leaving `with`) removes what is unfinished.

    `carry_out` may run in another thread than the rest, `open_found` in any.
    """

    def __init__(
        self,
        directory: PathLike,
        *,
        policy: Policy = Policy.RENAME,
        journal: Journal | None = None,
        kept_in: KeptIn = lambda _: (),
        random_bytes: Callable[[int], bytes] = secrets.token_bytes,
    ) -> None:
        """Creates the directory if it is missing, and tries whether it can be written. Raises StorageError.

        Removes the temporary files of runs that were killed, those whose lock nobody holds, but for `kept_in`, which
        are needed by journals: here, and in each folder that was there before, when the transfer enters it.
        """
        self.path = os.path.abspath(directory)
        self.policy = policy
        self.journal: Journal | None = None
        self._gate = Gate()
        self._parts_open: set[Part] = set()
        self._is_busy = False
        self._is_closed = False
        self._created: list[Path] = []
        self._carrier: Carrier | None = None
        self._root = -1
        try:
            self._created = _make_directories(Path(self.path))
            self._root = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            names = Names(policy, random_bytes)
            self._parts = Parts(self._root, names.temporary, self._gate, kept_in)
            self.leftovers_removed = self._parts.sweep(self._root)
            temporary, fd = self._parts.create()
            names.began_ns = os.fstat(fd).st_ctime_ns
            with contextlib.suppress(OSError):
                os.utime(fd, (LONG_AGO, LONG_AGO))
                names.sees_changes = os.fstat(fd).st_ctime_ns >= names.began_ns
            self._parts.remove(temporary)
            os.close(fd)
            self._carrier = Carrier(
                self.path,
                self._root,
                umask=_umask(),
                policy=policy,
                names=names,
                parts=self._parts,
                gate=self._gate,
                open_found=self.open_found,
            )
        except OSError as error:
            failure = storage_error(error, self.path, "")  # as long as the folder is there to be looked at
            self.close()
            raise failure from error
        self.use(journal, answers=journal is not None)

    def __enter__(self) -> Destination:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def use(self, journal: Journal | None, *, answers: bool) -> None:
        """Before the first job: where parts and names are noted; `answers`: each Announced is LookedUp."""
        self.journal = journal
        assert self._carrier is not None
        self._carrier.use(journal, answers=answers)

    def require_room(self, size: int) -> None:
        """Raises StorageError unless so many bytes more fit."""
        try:
            status = os.fstatvfs(self._root)
        except OSError as error:
            raise storage_error(error, self.path, "") from error
        free = status.f_bavail * (status.f_frsize or 4096)
        if size > free and status.f_blocks:  # a file system that reports no blocks at all does not count them
            numbers = f"needed {_size(size)}, free {_size(free)}"
            raise StorageError(
                f"Not enough space in {escape(self.path)}: {numbers}; "
                f"free some, or choose another with {option('--out')}",
                f"not enough space on the receiver's disk: {numbers}",
            )

    def open(self, number: int, path: str, found: Found | None = None) -> Part:
        """A file that comes in pieces. Its temporary file is made when something is written."""
        return Part(number, path, found, self._begin)

    def explain(self, error: OSError, name: str) -> StorageError | None:
        """None: it concerns this file alone."""
        fatal = fatal_cause(error, self._root)
        return None if fatal is None else storage_error(fatal, self.path, name)

    def carry_out(self, jobs: Sequence[Job]) -> list[Outcome]:
        """Does all that, in order; what depends on nothing in it may be done first. Blocks on the disk.

        What is Stored is durable. Raises StorageError: nothing more can be stored; some may bear its name already.
        """
        with self._gate:
            self._is_busy = True
        try:
            assert self._carrier is not None
            return self._carrier.carry_out(jobs)
        finally:
            with self._gate.lock:
                self._is_busy = False
                parts = {job.part for job in jobs if isinstance(job, Finish | Discard) and job.part is not None}
                self._parts_open -= {part for part in parts if not part.has_begun}  # their descriptors are closed
                if self._is_closed:
                    self._release()

    def open_found(self, found: Found) -> int | None:
        """A descriptor to read what was found; None if it is not there any more."""
        with self._gate.lock:
            if self._root < 0:
                return None
            root = os.dup(self._root)
        try:
            directory = open_apart(root, found.folder)
            try:
                flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
                fd = os.open(component(found.name), flags, dir_fd=directory)
            finally:
                os.close(directory)
        except OSError:
            return None
        finally:
            os.close(root)
        status = os.fstat(fd)
        if stat.S_ISREG(status.st_mode) and found.node == (status.st_dev, status.st_ino):
            return fd
        os.close(fd)
        return None

    def stop(self) -> None:
        """From here on nothing gets a name."""
        with self._gate.lock:
            self._gate.is_shut = True

    def close(self) -> None:
        """Removes every temporary file that no journal names, and the directory if it was made for nothing.

        Raises nothing, and does not wait for the disk: descriptors that `carry_out` works with are closed by it.
        """
        with self._gate.lock:
            self._gate.is_shut = True
            if self._root >= 0 and not self._is_closed:
                self._parts.remove_all()
            self._is_closed = True
            if not self._is_busy:
                self._release()
        for path in reversed(self._created):
            with contextlib.suppress(OSError):  # not empty: it was of use
                path.rmdir()
        self._created.clear()

    def _begin(self, part: Part) -> None:
        """Raises OSError, and StorageError when the transfer has ended."""
        found, old = part.found, None
        begun = found if found is None or found.is_part else found.begun
        if begun is not None and (old := self._parts.reopen(begun.name, begun.node)) is not None:
            part.temporary, part.fd, part.old_size = begun.name, old, os.fstat(old).st_size
        else:
            part.temporary, part.fd = self._parts.create()
        self._parts_open.add(part)
        if old is None and self.journal is not None:
            replaces = (found.node, found.mtime_ns) if found is not None and found.is_ours and not found.is_part else ()
            if self.journal.note_part(part.path, part.temporary, os.fstat(part.fd), *replaces):
                self._parts.let_stay(part.temporary)

    def _release(self) -> None:
        for part in self._parts_open:
            if part.fd >= 0:
                os.close(part.fd)
                part.fd = -1
        self._parts_open.clear()
        if self._carrier is not None:
            self._carrier.close()
        if self._root >= 0:
            os.close(self._root)
            self._root = -1


def _make_directories(path: Path) -> list[Path]:
    """Returns those that were missing, the outermost first."""
    missing = [each for each in (path, *path.parents) if not each.exists()]
    path.mkdir(parents=True, exist_ok=True)
    return missing[::-1]


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
