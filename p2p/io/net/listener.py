"""A TCP listener that rests while no connection can be accepted: the selector would call it again and again."""

from __future__ import annotations

import errno
import os
import selectors
import socket
from collections.abc import Callable
from typing import Any, Final

REST: Final = 1.0  # seconds; whoever connects meanwhile waits in the kernel's queue
# accept(2): out of descriptors, of this process or of the machine, or of memory. The connection stays in the queue.
EXHAUSTED: Final = frozenset([errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM])

Take = Callable[[socket.socket, Any], None]


class Listener:
    """Gives each connection, and where it comes from, to `take`."""

    def __init__(
        self,
        listener: socket.socket,
        selector: selectors.BaseSelector,
        take: Take,
        *,
        batch: int,
        clock: Callable[[], float],
        tell: Callable[[str], None],
    ) -> None:
        """`batch`: connections before others get their turn. `tell`: for the one sentence that it rests."""
        listener.setblocking(False)
        self._listener = listener
        self._selector = selector
        self._take = take
        self._batch = batch
        self._clock = clock
        self._tell = tell
        self._has_told = False
        self._rests_until: float | None = None
        selector.register(listener, selectors.EVENT_READ, self._accept)

    def poll_timeout(self) -> float | None:
        return self._rests_until

    def handle_timeout(self, now: float) -> None:
        if self._rests_until is not None and self._rests_until <= now:
            self._rests_until = None
            self._selector.register(self._listener, selectors.EVENT_READ, self._accept)

    def close(self) -> None:
        if self._rests_until is None and self._listener.fileno() >= 0:
            self._selector.unregister(self._listener)
        self._rests_until = None
        self._listener.close()

    def _accept(self, _: int) -> None:
        for _ in range(self._batch):
            try:
                accepted, source = self._listener.accept()
            except OSError as error:
                if error.errno in EXHAUSTED:
                    self._rest(error.errno)
                return  # none left, or gone again
            self._take(accepted, source)

    def _rest(self, code: int) -> None:
        self._selector.unregister(self._listener)
        self._rests_until = self._clock() + REST
        if not self._has_told:
            self._has_told = True
            self._tell(
                f"no connection can be accepted for now ({os.strerror(code)}): trying once a second; "
                "ulimit -n allows more open files"
            )
