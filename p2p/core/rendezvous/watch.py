"""The parts of the client machine that watch: our address as seen from two ports, and whether the server answers."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from enum import Enum, auto

from p2p.core.address import Address
from p2p.core.datagram import MAIN, Transmit
from p2p.core.rendezvous.events import Answering, Mapped, ServerUnreachable, Silent
from p2p.core.rendezvous.messages import TRANSACTION_SIZE, Cookie, Hello, encode
from p2p.core.timers import Timers

MAPPED_WAIT = 1.0  # seconds for the alternate port to answer before Mapped goes out without it
ALTERNATE_FIRST = 0.25  # seconds until the second HELLO to the alternate port; doubles
ALTERNATE_TRIES = 5  # HELLOs to the alternate port; it may be blocked, and nothing depends on it

SILENT_FIRST = 2.0  # seconds
SILENT_AGAIN = 5.0  # seconds


class Timer(Enum):
    HELLO = auto()
    MAPPED = auto()


class ReflexiveAddress:
    """Asks the alternate port for our address once the first port has told it; reports both as Mapped."""

    def __init__(self, random_bytes: Callable[[int], bytes], local: int = MAIN) -> None:
        self._random_bytes = random_bytes
        self._local = local
        self._first: Address | None = None
        self._alternate: Address | None = None
        self._transaction: bytes | None = None
        self._tries = 0
        self._timers: Timers[Timer] = Timers()
        self._transmits: deque[Transmit] = deque()
        self._events: deque[Mapped] = deque()

    @property
    def first(self) -> Address | None:
        return self._first

    @property
    def alternate(self) -> Address | None:
        return self._alternate

    def handle_mapped(self, mapped: Address, now: float) -> None:
        """The first port says where our datagrams come from."""
        if mapped == self._first:
            return
        self._first = mapped
        if self._alternate is None:
            self._events.append(Mapped(mapped, None, self._local))
            return
        self._transaction = self._random_bytes(TRANSACTION_SIZE)
        self._tries = 0
        self._timers.set(Timer.MAPPED, now + MAPPED_WAIT)
        self._ask(now)

    def handle_alternate_port(self, alternate: Address | None) -> None:
        """The first port says where else to ask; None when there is no second port."""
        self._alternate = alternate

    def handle_cookie(self, message: Cookie, source: Address) -> bool:
        """Returns whether it answers a question of ours."""
        if source != self._alternate or message.transaction != self._transaction or self._first is None:
            return False
        self.stop()
        self._events.append(Mapped(self._first, message.mapped, self._local))
        return True

    def handle_timeout(self, now: float) -> None:
        for timer in self._timers.pop_expired(now):
            if timer is Timer.HELLO:
                self._ask(now)
            elif self._first is not None:
                self._events.append(Mapped(self._first, None, self._local))

    def stop(self) -> None:
        self._transaction = None
        self._timers.stop(Timer.HELLO)
        self._timers.stop(Timer.MAPPED)

    def poll_transmit(self) -> Transmit | None:
        return self._transmits.popleft() if self._transmits else None

    def poll_event(self) -> Mapped | None:
        return self._events.popleft() if self._events else None

    def poll_timeout(self) -> float | None:
        return self._timers.earliest()

    def _ask(self, now: float) -> None:
        if self._alternate is None or self._transaction is None or self._tries >= ALTERNATE_TRIES:
            return
        self._transmits.append(Transmit(self._alternate, (encode(Hello(self._transaction)),), local=self._local))
        self._timers.set(Timer.HELLO, now + ALTERNATE_FIRST * 2**self._tries)
        self._tries += 1


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
