"""Ends transfers from outside: from another thread, from a callback, from a handler of a signal."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator


class Cancel:
    """Give it to as many transfers as you like. Once cancelled, it stays so."""

    def __init__(self) -> None:
        self._lock = threading.RLock()  # reentrant, for a signal's handler may interrupt us
        self._enders: list[Callable[[], None]] = []
        self._is_cancelled = False

    @property
    def is_cancelled(self) -> bool:
        return self._is_cancelled

    def cancel(self) -> None:
        """Returns at once. Each of its transfers tells the other side, and raises CancelledError where it was called.

        A transfer that is done by then returns its result.
        """
        with self._lock:
            self._is_cancelled = True
            for end in tuple(self._enders):
                end()

    @contextlib.contextmanager
    def watch(self, end: Callable[[], None]) -> Iterator[None]:
        """For the transfers: `end` is called when it is cancelled, or now if it was."""
        with self._lock:
            self._enders.append(end)
            if self._is_cancelled:
                end()
        try:
            yield
        finally:
            with self._lock:
                self._enders.remove(end)
