"""One thread for calls that block, beside a loop that must not."""

from __future__ import annotations

import contextlib
import queue
import socket
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from typing import TypeVar, TypeVarTuple

from p2p.core.errors import CallerError

Result = TypeVar("Result")
Args = TypeVarTuple("Args")

Work = Callable[[], Callable[[], None]]  # runs in the thread; what it returns runs in the loop


class Worker:
    """Runs calls one at a time, in order, and hands each outcome back to the loop that watches `fileno()`.

    fsync of a large file takes seconds, in which keep-alives still have to go out. The callback gets a `Future`
    that is done: `result()` returns the value or raises what the call raised.
    """

    def __init__(self, name: str = "p2p-worker") -> None:
        self._calls: queue.SimpleQueue[Work | None] = queue.SimpleQueue()
        self._outcomes: deque[Callable[[], None]] = deque()
        self._pending = 0
        self._closed = False
        self._receiver, self._waker = socket.socketpair()
        self._receiver.setblocking(False)
        self._waker.setblocking(False)
        # A daemon, because a call may hang for ever (a dead network disk) and the program must still be able to end.
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    @property
    def pending(self) -> int:
        """Calls whose callback has not run yet."""
        return self._pending

    @property
    def is_closed(self) -> bool:
        return self._closed

    def fileno(self) -> int:
        """Readable when `handle_readable` has something to do."""
        return self._receiver.fileno()

    def submit(
        self, function: Callable[[*Args], Result], *args: *Args, done: Callable[[Future[Result]], None]
    ) -> Future[Result]:
        """Queues a call; `done` runs in `handle_readable`. A future cancelled before its turn skips the call."""
        if self._closed:
            raise CallerError("the worker is closed")
        future: Future[Result] = Future()
        self._pending += 1
        self._calls.put(partial(_call, future, partial(function, *args), done))
        return future

    def handle_readable(self) -> None:
        """Runs the callbacks of the calls that have ended. Nothing after `close`."""
        if self._closed:
            return
        with contextlib.suppress(BlockingIOError):
            while self._receiver.recv(4096):
                pass
        while self._outcomes and not self._closed:
            outcome = self._outcomes.popleft()
            self._pending -= 1
            outcome()

    def close(self, timeout: float = 0.0) -> bool:
        """Drops what has not begun, waits up to `timeout` seconds for the call that is running, runs no callback.

        Returns whether the thread has ended; if not, it ends with its call or with the program.
        """
        if not self._closed:
            self._closed = True
            with contextlib.suppress(queue.Empty):
                while True:
                    self._calls.get_nowait()
            self._calls.put(None)
        self._thread.join(timeout)
        self._receiver.close()
        self._waker.close()
        return not self._thread.is_alive()

    def _run(self) -> None:
        while (work := self._calls.get()) is not None:
            self._outcomes.append(work())
            with contextlib.suppress(OSError):  # full: the loop has reason to wake already; or closed: nobody waits
                self._waker.send(b"\0")


def _call(
    future: Future[Result], function: Callable[[], Result], done: Callable[[Future[Result]], None]
) -> Callable[[], None]:
    if future.set_running_or_notify_cancel():
        try:
            future.set_result(function())
        except BaseException as error:  # whatever it is belongs to the loop, not to this thread
            future.set_exception(error)
    return partial(done, future)
