"""What is sent: what the person named, its files as they were found, and how a change in the meantime is seen."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from p2p.core.datagram import Buffer
from p2p.core.errors import ExitCode, Failure, P2PError
from p2p.core.text import escape
from p2p.core.transfer.entries import Kind
from p2p.core.transfer.events import Unreadable
from p2p.core.transfer.limits import MAX_HOLE
from p2p.core.transfer.messages import Root
from p2p.core.transfer.names import numbered, portable_component
from p2p.io.sparse import is_sparse, next_data, next_hole

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
    """Something to send is missing, unreadable or nothing that can be sent (STORAGE), or has changed (INTEGRITY)."""

    def __init__(self, path: str, name: str, trouble: Trouble) -> None:
        public = f"{escape(name)} {trouble.what}"
        super().__init__(f"{escape(path)} {trouble}", public, trouble.exit_code)
        self.trouble = trouble

    @property
    def unreadable(self) -> Unreadable:
        """The same for the transfer, which knows the path and goes on without it."""
        return Unreadable(self.code, str(self.trouble))


@dataclass(frozen=True, slots=True)
class Trouble:
    """What is wrong with a thing and what to do about it: the predicate of a sentence that begins with its path."""

    what: str
    advice: str
    exit_code: ExitCode = ExitCode.STORAGE

    def __str__(self) -> str:
        return f"{self.what}: {self.advice}"

    @classmethod
    def of(cls, error: OSError) -> Trouble:
        what, advice = {
            errno.ENOENT: ("does not exist", "check the name"),
            errno.ENOTDIR: ("does not exist", "check the name"),
            errno.EACCES: ("cannot be read by this user", "check its permissions"),
            errno.EPERM: ("cannot be read by this user", "check its permissions"),
            errno.EMFILE: ("cannot be opened: too many open files", "raise the limit with ulimit -n"),
        }.get(error.errno or 0, (f"cannot be read: {error.strerror}", "check the disk"))
        return cls(what, advice)

    @classmethod
    def changed(cls, how: str) -> Trouble:
        advice = "send it again when nothing writes to it"
        return cls(f"{how} while it was being sent", advice, ExitCode.INTEGRITY)


SIZELESS: Final = Trouble("does not tell its size", "copy it and send the copy")  # as files in /proc are


@dataclass(frozen=True, slots=True)
class Named:
    """A file or a folder that the person named. A symbolic link is followed: it was named."""

    path: str
    name: str
    status: os.stat_result

    @property
    def is_folder(self) -> bool:
        return stat.S_ISDIR(self.status.st_mode)

    @property
    def root(self) -> Root:
        if self.is_folder:
            return Root(Kind.FOLDER, self.name, 0)
        return Root(Kind.FILE, self.name, self.status.st_size)


def look_up(paths: Sequence[PathLike]) -> list[Named]:
    """What is named by `paths`, with names to send that are distinct. Raises SourceError for the first that is no use.

    Each is opened once to see that it can be read, and closed again.
    """
    taken: dict[str, int] = {}
    named = []
    for each in paths:
        path = os.fspath(each)
        name = _distinct(portable_component(os.path.basename(os.path.abspath(path))), taken)
        try:
            status = _look_at(path, name)
        except OSError as error:
            raise SourceError(path, name, Trouble.of(error)) from error
        except ValueError as error:  # a NUL
            raise SourceError(path, name, Trouble("is no file name", "check the name")) from error
        named.append(Named(path, name, status))
    return named


class Readable(Protocol):
    """The content of one file, as SendingEnd reads it."""

    number: int

    def read_into(self, buffers: Sequence[memoryview], offset: int) -> None: ...
    def read_whole(self) -> bytes: ...
    def hole_at(self, offset: int) -> int: ...
    def data_until(self, offset: int) -> int: ...
    def close(self) -> None: ...


class Source:
    """A file that is sent, as it was when it was found. All but `close` raise SourceError when it is that no more."""

    __slots__ = ("_data", "_fd", "_follows", "_is_sparse", "_status", "number", "path", "size")

    def __init__(self, number: int, path: str, status: os.stat_result, *, follows: bool = False) -> None:
        """`number` is that of its entry. `follows`: the path was named by the person, and may be a link."""
        self.number = number
        self.path = path
        self.size = status.st_size
        self._status = status
        self._is_sparse = is_sparse(status)
        self._data = range(0)  # of a sparse file: where it is known to have bytes on the disk
        self._follows = follows
        self._fd = -1

    def read_into(self, buffers: Sequence[memoryview], offset: int) -> None:
        """Fills the buffers with the bytes from `offset` on by one preadv. Opens at the first, closes at the end."""
        try:
            if self._fd < 0:
                self._open()
            missing = sum(map(len, buffers))
            end = offset + missing
            while missing:
                count = os.preadv(self._fd, buffers, end - missing)
                if count == 0:
                    raise self._changed("became shorter")
                missing -= count
                if missing:
                    buffers = behind(buffers, count)
            if end >= self.size:
                self._finish()
        except (OSError, SourceError) as error:
            raise self._explain(error) from error

    def read_whole(self) -> bytes:
        """The content of a small file."""
        try:
            if self._fd < 0:
                self._open()
            content = os.pread(self._fd, self.size + 1, 0)
            while len(content) < self.size and (more := os.pread(self._fd, self.size + 1, len(content))):
                content += more
            self._require_unchanged(os.fstat(self._fd))
            if len(content) < self.size:
                raise self._changed("became shorter")
            if len(content) > self.size:  # and yet the size that was found
                raise self._error(SIZELESS if not self.size else Trouble.changed("grew"))
            self.close()
            return content
        except (OSError, SourceError) as error:
            raise self._explain(error) from error

    def hole_at(self, offset: int) -> int:
        """How many bytes from `offset` on have no place on the disk and are zero: MAX_HOLE at most. 0 in most files."""
        if not self._is_sparse or offset in self._data:
            return 0
        try:
            if self._fd < 0:
                self._open()
            length = min(next_data(self._fd, offset, self.size) - offset, MAX_HOLE)
            if 0 < length == self.size - offset:
                self._finish()
            return max(0, length)
        except (OSError, SourceError) as error:
            raise self._explain(error) from error

    def data_until(self, offset: int) -> int:
        """Where the data at `offset` ends and a hole begins. The kernel looks for that once, however long it takes."""
        if not self._is_sparse:
            return self.size
        if offset not in self._data:
            try:
                if self._fd < 0:
                    self._open()
                self._data = range(offset, next_hole(self._fd, offset, self.size))
            except (OSError, SourceError) as error:
                raise self._explain(error) from error
        return self._data.stop

    def close(self) -> None:
        """It is opened again when it is read again."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _open(self) -> None:
        try:
            self._open_at(self.path, None)
        except OSError as error:
            if error.errno != errno.ENAMETOOLONG:
                raise
            folder = _open_folder_of(self.path)
            try:
                self._open_at(os.path.basename(self.path), folder)
            finally:
                os.close(folder)

    def _open_at(self, path: str, folder: int | None) -> None:
        """Looks before it opens: opening a pipe waits for a writer, and opening a device may move a tape."""
        self._require_unchanged(os.stat(path, dir_fd=folder, follow_symlinks=self._follows))
        flags = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | (0 if self._follows else os.O_NOFOLLOW)
        self._fd = os.open(path, flags, dir_fd=folder)
        self._require_unchanged(os.fstat(self._fd))

    def _finish(self) -> None:
        self._require_unchanged(os.fstat(self._fd))
        self.close()

    def _require_unchanged(self, now: os.stat_result) -> None:
        before = self._status
        is_empty = not now.st_size and not before.st_size  # as in /proc, where the time is that of the look
        if now.st_size == before.st_size and (is_empty or now.st_mtime_ns == before.st_mtime_ns):
            if (now.st_ino, now.st_dev) == (before.st_ino, before.st_dev):
                return
            raise self._changed("was replaced")
        if (kind := kind_of(now.st_mode)) is not None:
            raise self._changed(f"became {kind}")
        size = now.st_size - before.st_size
        raise self._changed("became shorter" if size < 0 else "grew" if size > 0 else "was changed")

    def _changed(self, how: str) -> SourceError:
        return self._error(Trouble.changed(how))

    def _error(self, trouble: Trouble) -> SourceError:
        return SourceError(self.path, os.path.basename(self.path), trouble)

    def _explain(self, error: OSError | SourceError) -> SourceError:
        self.close()
        if isinstance(error, SourceError):
            return error
        if error.errno == errno.ELOOP and not self._follows:
            return self._changed("became a link")
        if error.errno in (errno.ENOENT, errno.ENOTDIR):
            return self._error(Trouble("was removed before it was sent", "send it again if it is needed"))
        return self._error(Trouble.of(error))


class Text:
    """A text that is sent instead of a file."""

    def __init__(self, number: int, content: bytes) -> None:
        self.number = number
        self.content = content

    def read_into(self, buffers: Sequence[memoryview], offset: int) -> None:
        for buffer in buffers:
            buffer[:] = self.content[offset : offset + len(buffer)]
            offset += len(buffer)

    def read_whole(self) -> bytes:
        return self.content

    def hole_at(self, offset: int) -> int:  # noqa: ARG002
        return 0

    def data_until(self, offset: int) -> int:  # noqa: ARG002
        return len(self.content)

    def close(self) -> None:
        pass


def kind_of(mode: int) -> str | None:
    """None for a regular file, else what it is, in words."""
    if stat.S_ISREG(mode):
        return None
    return {
        stat.S_IFDIR: "a folder",
        stat.S_IFIFO: "a named pipe",
        stat.S_IFSOCK: "a socket",
        stat.S_IFCHR: "a device",
        stat.S_IFBLK: "a device",
        stat.S_IFLNK: "a link",
    }.get(stat.S_IFMT(mode), "something special")


def behind(buffers: Sequence[Buffer], count: int) -> list[memoryview]:
    """What is left of the buffers behind their first `count` bytes, after a read or write that was short."""
    left: list[memoryview] = []
    for buffer in buffers:
        if count < len(buffer):
            left.append(memoryview(buffer)[count:])
        count = max(0, count - len(buffer))
    return left


def _look_at(path: str, name: str) -> os.stat_result:
    """Raises SourceError for what is no file or folder, or tells no size; OSError, ValueError."""
    kind = kind_of(os.stat(path).st_mode)
    if kind in (None, "a folder"):
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            status = os.fstat(fd)
            kind = kind_of(status.st_mode)
            if kind is None and status.st_size == 0 and os.read(fd, 1):
                raise SourceError(path, name, SIZELESS)
        finally:
            os.close(fd)
        if kind in (None, "a folder"):
            return status
    raise SourceError(path, name, Trouble(f"is {kind}, not a file or folder", "send a plain file or a folder"))


def _open_folder_of(path: str) -> int:
    """The folder that a path of more than PATH_MAX bytes ends in, which no call takes as a whole."""
    folder = os.open("/" if path.startswith("/") else ".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    for part in filter(None, path.split("/")[:-1]):
        outer = folder
        try:
            folder = os.open(part, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=outer)
        finally:
            os.close(outer)
    return folder


def _distinct(name: str, taken: dict[str, int]) -> str:
    """`taken` maps each name in use to the last number tried for it."""
    candidate = name
    while candidate in taken:
        taken[name] += 1
        candidate = numbered(name, taken[name])
    taken[candidate] = 0
    return candidate
