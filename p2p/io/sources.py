"""Files that are sent: what may be offered, and how a change in the meantime is seen."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterator, Sequence

from p2p.core.datagram import Buffer
from p2p.core.errors import ExitCode, Failure, P2PError
from p2p.core.text import escape
from p2p.core.transfer.limits import MAX_FILES
from p2p.core.transfer.messages import Entry
from p2p.core.transfer.names import numbered, portable_component

PathLike = str | os.PathLike[str]


class FileError(P2PError):
    """A file of this machine is in the way. str() is for the person here; `public` names no folder, for the other."""

    def __init__(self, message: str, public: str, code: ExitCode = ExitCode.STORAGE) -> None:
        super().__init__(message)
        self.public = public
        self.code = code

    @property
    def failure(self) -> Failure:
        return Failure(self.code, str(self))


class SourceError(FileError):
    """A file to send is missing, unreadable, no plain file (STORAGE), or has changed since the offer (INTEGRITY)."""


def open_sources(paths: Sequence[PathLike]) -> list[Source]:
    """The files to offer, in order, with names that are distinct. Raises SourceError for the first that cannot be sent.

    Each is opened once to see that it can be read and closed again: thousands of files need one descriptor.
    """
    if len(paths) > MAX_FILES:
        advice = f"{len(paths)} files are too many for one transfer, {MAX_FILES} is the limit: pack them first"
        raise SourceError(advice, "too many files")
    taken: dict[str, int] = {}
    sources = []
    for number, path in enumerate(paths):
        name = _distinct(portable_component(os.path.basename(os.path.abspath(path))), taken)
        sources.append(Source(path, number, name))
    return sources


class Source:
    """A file that is sent, as it was when it was offered."""

    def __init__(self, path: PathLike, file: int, name: str) -> None:
        """A symbolic link is followed: the person named it. Raises SourceError."""
        self.path = os.fspath(path)
        self._fd = -1
        with self._explained(name):
            fd, status = self._open_regular(name)
            try:
                sizeless = status.st_size == 0 and os.read(fd, 1) != b""
            finally:
                os.close(fd)
        if sizeless:  # as files in /proc are
            what = "does not tell its size"
            raise SourceError(f"{escape(self.path)} {what}: copy it and send the copy", f"{escape(name)} {what}")
        self._identity = _identity(status)
        mtime_ns = max(-(2**63), min(status.st_mtime_ns, 2**63 - 1))
        self.entry = Entry(file, status.st_size, mtime_ns, stat.S_IMODE(status.st_mode) & 0o777, name)

    def read_into(self, buffers: Sequence[memoryview], offset: int) -> None:
        """Fills the buffers with the bytes from `offset` on by one preadv. Opens at the first, closes after the last.

        Raises SourceError when the file is not what was offered.
        """
        with self._explained(self.entry.name):
            if self._fd < 0:
                self._fd, _ = self._open_regular(self.entry.name)
                self._require_unchanged()
            missing = sum(map(len, buffers))
            end = offset + missing
            while missing:
                count = os.preadv(self._fd, buffers, end - missing)
                if count == 0:
                    raise self._changed("became shorter")
                missing -= count
                if missing:
                    buffers = behind(buffers, count)
            if end >= self.entry.size:
                self._require_unchanged()
                self.close()

    def read_whole(self) -> bytes:
        """The content of a small file. Raises SourceError when it is not what was offered."""
        content = bytearray(self.entry.size)
        self.read_into([memoryview(content)], 0)
        return bytes(content)

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _open_regular(self, name: str) -> tuple[int, os.stat_result]:
        """Looks before it opens: opening a pipe waits for a writer, and opening a device may move a tape."""
        path = escape(self.path)
        kind = _kind(os.stat(self.path).st_mode)
        if kind is None:
            fd = os.open(self.path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            status = os.fstat(fd)
            kind = _kind(status.st_mode)
            if kind is None:
                return fd, status
            os.close(fd)
        advice = (
            "pack it first, for example: tar czf NAME.tar.gz " + path if kind == "a folder" else "send a plain file"
        )
        raise SourceError(f"{path} is {kind}, not a file: {advice}", f"{escape(name)} is not a plain file")

    def _require_unchanged(self) -> None:
        now = _identity(os.fstat(self._fd))
        if now != self._identity:
            size = now[2] - self._identity[2]
            raise self._changed("became shorter" if size < 0 else "grew" if size > 0 else "was changed")

    def _changed(self, how: str) -> SourceError:
        what = f"{how} while it was being sent"
        return SourceError(
            f"{escape(self.path)} {what}: send it again when nothing writes to it",
            f"{escape(self.entry.name)} {what}",
            ExitCode.INTEGRITY,
        )

    @contextlib.contextmanager
    def _explained(self, name: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self.close()
            what, advice = {
                errno.ENOENT: ("does not exist", "check the name"),
                errno.ENOTDIR: ("does not exist", "check the name"),
                errno.EACCES: ("cannot be read by this user", "check its permissions"),
                errno.EPERM: ("cannot be read by this user", "check its permissions"),
                errno.EMFILE: ("cannot be opened: too many open files", "raise the limit with ulimit -n"),
            }.get(error.errno or 0, (f"cannot be read: {error.strerror}", "check the disk"))
            raise SourceError(f"{escape(self.path)} {what}: {advice}", f"{escape(name)} {what}") from error
        except (SourceError, ValueError) as error:  # ValueError: a path with a NUL
            self.close()
            if isinstance(error, SourceError):
                raise
            raise SourceError(f"{escape(self.path)} is no file name", "unusable file name") from error


def behind(buffers: Sequence[Buffer], count: int) -> list[memoryview]:
    """What is left of the buffers behind their first `count` bytes, after a read or write that was short."""
    left: list[memoryview] = []
    for buffer in buffers:
        if count < len(buffer):
            left.append(memoryview(buffer)[count:])
        count = max(0, count - len(buffer))
    return left


def _identity(status: os.stat_result) -> tuple[int, int, int, int]:
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def _kind(mode: int) -> str | None:
    """None for a regular file, else what it is, in words."""
    if stat.S_ISREG(mode):
        return None
    return {
        stat.S_IFDIR: "a folder",
        stat.S_IFIFO: "a named pipe",
        stat.S_IFSOCK: "a socket",
        stat.S_IFCHR: "a device",
        stat.S_IFBLK: "a device",
    }.get(stat.S_IFMT(mode), "something special")


def _distinct(name: str, taken: dict[str, int]) -> str:
    """`taken` maps each name in use to the last number tried for it."""
    candidate = name
    while candidate in taken:
        taken[name] += 1
        candidate = numbered(name, taken[name])
    taken[candidate] = 0
    return candidate
