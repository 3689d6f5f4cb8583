"""Ctrl-C and its like, for the whole of a run."""

from __future__ import annotations

import contextlib
import selectors
import signal
import socket
import time
from types import FrameType, TracebackType
from typing import Any, Protocol, Self

from p2p.core.errors import ExitCode, Failure

SAME_INTERRUPT = 0.5  # seconds in which a second signal is the first one again: wrappers pass on what the terminal sent


class Stop(Protocol):
    """Who may end a run from outside of its loop, and wakes whoever waits at the selector then.

    The three failures are how it ends here: while nobody was there, with the other side, and while that was looked for
    again. `told` is half a sentence for the other side.
    """

    @property
    def is_asked(self) -> bool:
        """Whether the run is to end."""

    @property
    def alone(self) -> Failure: ...

    @property
    def together(self) -> Failure: ...

    @property
    def looking(self) -> Failure: ...

    @property
    def told(self) -> str: ...


class Interrupts:
    """SIGINT, SIGTERM and a terminal that is closed end the run in order; a second signal ends it at once.

    A signal wakes whoever waits at the selector. The second one raises KeyboardInterrupt.
    """

    alone = Failure(ExitCode.CANCELLED, "Stopped by Ctrl-C, while nothing was being sent or received")
    together = Failure(
        ExitCode.CANCELLED,
        "Stopped by Ctrl-C. The other side was told; the same two commands go on with what has arrived",
    )
    looking = Failure(
        ExitCode.CANCELLED,
        "Stopped by Ctrl-C, while the other side was looked for. "
        "Run both commands again, and they go on with what has arrived",
    )
    told = "it was stopped by Ctrl-C over there"

    def __init__(self, selector: selectors.BaseSelector) -> None:
        self._selector = selector
        self._at: float | None = None
        self._handlers: dict[int, Any] = {}
        self._wakeup = -1

    @property
    def is_asked(self) -> bool:
        """Whether the run is to end."""
        return self._at is not None

    def __enter__(self) -> Self:
        self._reader, self._writer = socket.socketpair()
        for end in (self._reader, self._writer):
            end.setblocking(False)
        self._wakeup = signal.set_wakeup_fd(self._writer.fileno(), warn_on_full_buffer=False)
        numbers = [signal.SIGINT, signal.SIGTERM]
        if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # nohup wants us to outlive the terminal
            numbers.append(signal.SIGHUP)
        self._handlers = {number: signal.signal(number, self._note) for number in numbers}
        self._selector.register(self._reader, selectors.EVENT_READ, self._drain)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._selector.unregister(self._reader)
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._wakeup)
        self._reader.close()
        self._writer.close()

    def _note(self, _: int, __: FrameType | None) -> None:
        now = time.monotonic()
        if self._at is None:
            self._at = now
        elif now >= self._at + SAME_INTERRUPT:
            raise KeyboardInterrupt

    def _drain(self, _: int) -> None:
        with contextlib.suppress(BlockingIOError):
            self._reader.recv(64)
