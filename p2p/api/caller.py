"""The loop in a thread of its own, and the callbacks in the thread of whoever called.

So a callback may take its time while keep-alives go on, and a KeyboardInterrupt strikes where nothing can be torn:
never between the sealing of a packet and the count of its number.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from typing import Generic, TypeVar

from p2p.api.control import FAILED, INTERRUPTED, Control

MAX_WAITING = 10_000  # calls that wait for a slow callback before the loop waits for it too: some MB of events

Result = TypeVar("Result")
Argument = TypeVar("Argument")


class Caller:
    """Carries out in the caller's thread what the loop's thread asks for."""

    def __init__(self, control: Control) -> None:
        self._control = control
        self._calls: queue.SimpleQueue[Callable[[], object] | None] = queue.SimpleQueue()
        self._room = threading.Semaphore(MAX_WAITING)

    def run(self, work: Callable[[], Result]) -> Result:
        """Returns what `work` does in its thread, or raises that, or what a callback raised."""
        outcome: Future[Result] = Future()
        thread = threading.Thread(target=self._work, args=(work, outcome), name="p2p-transfer", daemon=True)
        raised: BaseException | None = None
        try:
            thread.start()
        except BaseException:
            self._control.stop(INTERRUPTED)
            raise
        while True:
            try:
                call = self._calls.get(block=not outcome.done())
                self._room.release()
                if call is not None and raised is None:
                    call()
            except queue.Empty:
                break
            except BaseException as error:
                if raised is None:
                    raised = error
                    self._control.stop(FAILED if isinstance(error, Exception) else INTERRUPTED)
                else:  # Ctrl-C once more
                    self._control.abandon()
        thread.join()
        if raised is not None:
            raise raised
        return outcome.result()

    def call(self, callback: Callable[[Argument], object], argument: Argument) -> None:
        """From the loop's thread."""
        self._room.acquire()
        self._calls.put(partial(callback, argument))

    def fail(self, error: Exception) -> None:
        """From any thread: as if a callback had raised it."""
        self.call(_raise, error)

    def _work(self, work: Callable[[], Result], outcome: Future[Result]) -> None:
        try:
            outcome.set_result(work())
        except BaseException as error:  # whatever it is belongs to the caller
            outcome.set_exception(error)
        finally:
            self._calls.put(None)


class Latest(Generic[Argument]):
    """A callback that hears the newest only, if it is slower than the news."""

    def __init__(self, caller: Caller, callback: Callable[[Argument], object]) -> None:
        self._caller = caller
        self._callback = callback
        self._lock = threading.Lock()
        self._newest: Argument | None = None

    def put(self, value: Argument) -> None:
        """From the loop's thread."""
        with self._lock:
            is_awaited, self._newest = self._newest is not None, value
        if not is_awaited:
            self._caller.call(self._take, None)

    def _take(self, _: None) -> None:
        with self._lock:
            newest, self._newest = self._newest, None
        if newest is not None:
            self._callback(newest)


def _raise(error: Exception) -> None:
    raise error
