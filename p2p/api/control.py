"""What other threads tell the loop of a transfer: that it is to end, and what they were asked."""

from __future__ import annotations

import contextlib
import selectors
import socket
import threading
from collections import deque
from collections.abc import Callable, Iterator

from p2p.core.errors import ExitCode, Failure

CANCELLED = "it was cancelled over there"
INTERRUPTED = "it was stopped by Ctrl-C over there"
FAILED = "the program that it is part of over there has failed"


class Abandoned(BaseException):
    """Whoever waits has no patience for farewells, and nothing on the way is to take it for an error."""


class Control:
    """The Stop of a transfer's loop. `stop`, `abandon` and `tell` may be called from any thread."""

    alone = Failure(ExitCode.CANCELLED, "Cancelled, while nothing was being sent or received")
    together = Failure(
        ExitCode.CANCELLED,
        "Cancelled. The other side was told; the same two calls go on with what has arrived",
    )
    looking = Failure(
        ExitCode.CANCELLED,
        "Cancelled, while the other side was looked for. The same two calls go on with what has arrived",
    )

    def __init__(self) -> None:
        self.is_asked = False
        self.told = CANCELLED
        self._is_abandoned = False
        self._lock = threading.RLock()  # reentrant, for a signal's handler may interrupt us
        self._calls: deque[Callable[[], None]] = deque()
        self._writer: socket.socket | None = None

    def stop(self, told: str = CANCELLED) -> None:
        """`told`, half a sentence, is for the other side; the first reason counts."""
        if not self.is_asked:
            self.told = told
            self.is_asked = True
        self._wake()

    def abandon(self) -> None:
        """The loop raises Abandoned at once."""
        self.is_asked = self._is_abandoned = True
        self._wake()

    def tell(self, call: Callable[[], None]) -> None:
        """`call` runs in the loop."""
        self._calls.append(call)
        self._wake()

    @contextlib.contextmanager
    def at(self, selector: selectors.BaseSelector) -> Iterator[None]:
        """While the loop runs."""
        reader, writer = socket.socketpair()
        with reader, writer:
            for end in (reader, writer):
                end.setblocking(False)
            with self._lock:
                self._writer = writer
            selector.register(reader, selectors.EVENT_READ, lambda _: self._hear(reader))
            self._wake()  # for what came before
            try:
                yield
            finally:
                selector.unregister(reader)
                with self._lock:
                    self._writer = None

    def _wake(self) -> None:
        with self._lock, contextlib.suppress(BlockingIOError):  # full: the loop has reason to wake already
            if self._writer is not None:
                self._writer.send(b"\0")

    def _hear(self, reader: socket.socket) -> None:
        with contextlib.suppress(BlockingIOError):
            reader.recv(4096)
        if self._is_abandoned:
            raise Abandoned
        while self._calls:
            self._calls.popleft()()
