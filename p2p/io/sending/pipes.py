"""What has no size beforehand: a pipe or the output of a command, read as the transfer asks for it."""

from __future__ import annotations

import contextlib
import errno
import os
import select
import signal
import stat
import subprocess
from concurrent.futures import Future
from typing import NamedTuple

from p2p.core.errors import CallerError, ExitCode
from p2p.core.text import escape
from p2p.core.transfer.messages import CHUNK
from p2p.io.sending.sources import FileError
from p2p.io.worker import Worker

PIPE_SIZE = 1 << 20  # bytes in the kernel; what Linux lets anybody have (/proc/sys/fs/pipe-max-size), and a CHUNK fits
END_PATIENCE = 1.0  # seconds that a command which is no longer wanted gets to end before it is killed


class PipeError(FileError):
    """A pipe of this machine is in the way. `public` is half a sentence, for the other side."""


class PipeData(NamedTuple):
    """The next bytes; `is_end`: nothing comes behind them."""

    data: bytes
    is_end: bool


class PipeReader:
    """Reads a descriptor in a thread: what was wanted and nothing ahead of it, so that memory is bounded by one wish.

    The thread may wait for a silent producer for as long as it likes; the loop goes on answering meanwhile. Watch
    `fileno()`, and call `handle_readable` when it is readable; then `poll` has something.
    """

    def __init__(self, fd: int, name: str = "Standard input") -> None:
        """`name` is what a person calls it, at the beginning of a sentence. The descriptor stays open.

        Raises PipeError if it is nothing that can be read.
        """
        self._fd = fd
        self._name = name
        self._outcome: Future[PipeData] | None = None
        self._is_wanted = self._is_over = False
        self._prepare()
        self._worker = Worker("p2p-pipe")

    def fileno(self) -> int:
        return self._worker.fileno()

    def handle_readable(self) -> None:
        self._worker.handle_readable()

    def want(self, length: int) -> None:
        """At most `length` bytes of what comes next. One wish at a time."""
        if self._is_wanted or self._is_over or length < 1:
            raise CallerError(f"{length} bytes wanted of a pipe that is being read, or has ended")
        self._is_wanted = True
        self._worker.submit(self._read, min(length, CHUNK), done=self._take)

    def poll(self) -> PipeData | None:
        """What came; None: nothing yet. Raises PipeError, once, when no more will come and that is no good end."""
        if self._outcome is None:
            return None
        outcome, self._outcome, self._is_wanted = self._outcome, None, False
        try:
            data = outcome.result()
        except PipeError:
            self._is_over = True
            raise
        self._is_over = data.is_end
        return data

    def close(self) -> None:
        """Waits for nothing: a read that hangs ends with the program."""
        self._worker.close()

    def _take(self, outcome: Future[PipeData]) -> None:
        self._outcome = outcome

    def _prepare(self) -> None:
        """Raises PipeError."""
        try:
            mode = os.fstat(self._fd).st_mode
        except OSError as error:
            raise self._unreadable(error) from error
        if stat.S_ISDIR(mode):
            raise self._unreadable(IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR)))
        _widen(self._fd)

    def _read(self, length: int) -> PipeData:
        """In the thread."""
        try:
            data = _read(self._fd, length)
        except OSError as error:
            raise self._unreadable(error) from error
        return PipeData(data, is_end=not data)

    def _unreadable(self, error: OSError) -> PipeError:
        why = error.strerror or str(error)
        return PipeError(f"{self._name} cannot be read: {why}", f"cannot be read: {why}")


class CommandReader(PipeReader):
    """Reads the standard output of a command, and tells a good end from a bad one by its exit code.

    The command is started by the first wish, so that nothing runs, and no disk changes, before the other side said yes.
    """

    def __init__(self, command: str) -> None:
        """`command` is for the shell (sh -c). Its standard input and standard error are ours. Raises PipeError."""
        read_end, self._write_end = os.pipe()
        self._command = command
        self._process: subprocess.Popen[bytes] | None = None
        super().__init__(read_end, f"The output of `{escape(command)}`")

    def want(self, length: int) -> None:
        """Raises PipeError when the shell cannot be started."""
        if self._process is None:
            self._start()
        super().want(length)

    def close(self) -> None:
        """Ends the command if it still runs, and gives it END_PATIENCE for that."""
        if (process := self._process) is not None and process.poll() is None:
            process.terminate()
            try:
                process.wait(END_PATIENCE)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._close_write_end()
        if self._worker.close(END_PATIENCE) and self._fd >= 0:  # else: what the command left behind has the other end
            os.close(self._fd)
            self._fd = -1

    def _start(self) -> None:
        try:
            self._process = subprocess.Popen(self._command, shell=True, stdout=self._write_end)
        except OSError as error:
            why = error.strerror or str(error)
            message = f"The shell that is to run `{escape(self._command)}` cannot be started: {why}"
            raise PipeError(message, "the command that makes it cannot be started") from error
        self._close_write_end()

    def _close_write_end(self) -> None:
        if self._write_end >= 0:
            os.close(self._write_end)
            self._write_end = -1

    def _read(self, length: int) -> PipeData:
        data, is_end = super()._read(length)
        assert self._process is not None, "started by the wish"
        if is_end and (code := self._process.wait()):
            words = how_it_ended(code)
            raise PipeError(
                f"The command `{escape(self._command)}` {words}: what it wrote may be cut short and does not count",
                f"the command that makes it {words}",
                ExitCode.INTEGRITY,
            )
        return PipeData(data, is_end)


def how_it_ended(code: int) -> str:
    """An exit code as subprocess gives it, in words. A shell says 128 and the signal of what it ran."""
    number = -code if code < 0 else code - 128
    name = ""
    with contextlib.suppress(ValueError):
        name = signal.Signals(number).name
    if code < 0:
        return f"was ended by signal {number}{f' ({name})' if name else ''}"
    return f"ended with exit code {code}{f' ({name})' if name else ''}"


def _read(fd: int, length: int) -> bytes:
    """Waits until there is something, also where somebody else made the pipe non-blocking."""
    while True:
        try:
            return os.read(fd, length)
        except BlockingIOError:
            wait_for(fd, select.POLLIN)


def wait_for(fd: int, events: int) -> None:
    poll = select.poll()
    poll.register(fd, events)
    poll.poll()


def _widen(fd: int) -> None:
    """Every read costs two turns of threads, so each should find much; does nothing to what is no pipe."""
    with contextlib.suppress(OSError, ImportError, AttributeError):
        import fcntl  # noqa: PLC0415  (absent on Windows)

        fcntl.fcntl(fd, fcntl.F_SETPIPE_SZ, PIPE_SIZE)
