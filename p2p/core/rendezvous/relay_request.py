"""The part of the client machine that asks the server to forward datagrams between us and the friend."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from p2p.core.rendezvous import events
from p2p.core.rendezvous.messages import TRANSACTION_SIZE, Relay, Relayed
from p2p.core.rendezvous.timing import RETRY_FIRST, RETRY_MAX


class RelayRequest:
    """Asks from the command on, after each JOIN again; the server forgets what is not repeated."""

    def __init__(self, client: bytes, random_bytes: Callable[[int], bytes]) -> None:
        self._client = client
        self._random_bytes = random_bytes
        self._is_wanted = False
        self._transaction: bytes | None = None  # of the open request
        self._retry = RETRY_FIRST
        self._retry_at: float | None = None
        self._is_overtaken = False
        self._messages: deque[Relay] = deque()
        self._events: deque[events.Relayed] = deque()

    def want(self) -> None:
        self._is_wanted = True

    def drop(self) -> None:
        self._is_wanted = False
        self.stop()

    def stop(self) -> None:
        """Until the next JOIN was answered."""
        self._transaction = self._retry_at = None
        self._messages.clear()

    def handle_seated(self, now: float) -> None:
        """The server has said that it keeps a seat for us."""
        if self._is_wanted:
            self._transaction = self._random_bytes(TRANSACTION_SIZE)
            self._retry = RETRY_FIRST
            self._is_overtaken = False
            self._ask(now)

    def handle_relayed(self, message: Relayed, push: bytes, now: float) -> None:
        """`push` is the transaction of what the server says unasked."""
        if message.transaction == self._transaction:
            self._transaction = self._retry_at = None
            if self._is_overtaken:  # by a push that came after it: which of them is true now?
                self.handle_seated(now)
                return
        elif message.transaction == push:
            self._is_overtaken = self._transaction is not None
        else:
            return
        if self._is_wanted:
            self._events.append(events.Relayed(message.state, 1000 * message.rate, message.left))

    def handle_timeout(self, now: float) -> None:
        if self._retry_at is not None and self._retry_at <= now:
            self._ask(now)

    def poll_message(self) -> Relay | None:
        return self._messages.popleft() if self._messages else None

    def poll_event(self) -> events.Relayed | None:
        return self._events.popleft() if self._events else None

    def poll_timeout(self) -> float | None:
        return self._retry_at

    def _ask(self, now: float) -> None:
        assert self._transaction is not None
        self._messages.append(Relay(self._transaction, self._client))
        self._retry_at = now + self._retry
        self._retry = min(2 * self._retry, RETRY_MAX)
