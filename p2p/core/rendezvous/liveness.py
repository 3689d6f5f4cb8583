"""The part of the client machine that watches whether the server answers."""

from __future__ import annotations

from collections import deque

from p2p.core.rendezvous.events import Answering, ServerUnreachable, Silent

SILENT_FIRST = 2.0  # seconds
SILENT_AGAIN = 5.0  # seconds


class Liveness:
    """Whether the server answers, judged by the oldest request that it has not answered."""

    def __init__(self) -> None:
        self._since: float | None = None
        self._next_complaint: float | None = None
        self._complained = False
        self._port_closed = False
        self._answered_before = False
        self._events: deque[Silent | ServerUnreachable | Answering] = deque()

    @property
    def may_be_outdated(self) -> bool:
        """Whether an answer is due from a server that never answered before, or has fallen silent since."""
        return self._since is not None and (self._complained or not self._answered_before)

    def handle_request(self, now: float) -> None:
        if self._since is None:
            self._since = now
            self._next_complaint = now + SILENT_FIRST

    def handle_answer(self) -> None:
        self._since = self._next_complaint = None
        self._port_closed = False
        self._answered_before = True
        if self._complained:
            self._complained = False
            self._events.append(Answering())

    def handle_error(self, now: float) -> None:
        """ECONNREFUSED. A server that answered before may just be restarting, and gets SILENT_FIRST for it."""
        if self._since is None or self._port_closed:
            return
        self._port_closed = True
        if not self._answered_before:
            self._complain(ServerUnreachable(), now)

    def handle_timeout(self, now: float) -> None:
        if self._since is not None and self._next_complaint is not None and self._next_complaint <= now:
            self._complain(ServerUnreachable() if self._port_closed else Silent(now - self._since), now)
            self._port_closed = False

    def stop(self) -> None:
        self._since = self._next_complaint = None

    def poll_event(self) -> Silent | ServerUnreachable | Answering | None:
        return self._events.popleft() if self._events else None

    def poll_timeout(self) -> float | None:
        return self._next_complaint

    def _complain(self, event: Silent | ServerUnreachable, now: float) -> None:
        self._complained = True
        self._events.append(event)
        self._next_complaint = now + SILENT_AGAIN
