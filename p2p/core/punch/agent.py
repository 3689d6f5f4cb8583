"""The hole punching agent: finds an address at which the other peer answers, and agrees on it with the other side.

Rules: docs/protocol.md section 4; words: RFC 8445.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from typing import Final

from p2p.core.address import Address
from p2p.core.datagram import Transmit
from p2p.core.errors import DecodeError
from p2p.core.punch.checklist import CheckList, Entry, Seen
from p2p.core.punch.checks import TRANSACTION, Answer, Check, decode
from p2p.core.punch.description import Candidate, Kind
from p2p.core.timers import Timers

CHECK_INTERVAL: Final = 0.020  # seconds between any two checks
NOMINATION_WAIT: Final = 0.050  # seconds in which something better than the first success may succeed
PUNCH_TIMEOUT: Final = 10.0  # seconds
KEEPALIVE_INTERVAL: Final = 5.0  # seconds; below every mapping lifetime met in practice (RFC 4787 REQ-5 asks for 120)
MAX_SEEN: Final = 1024  # transactions of the other side; it starts at most 50 a second
MAX_QUEUE: Final = 64  # datagrams waiting to be polled


@dataclass(frozen=True, slots=True)
class Selected:
    """Both sides reach each other at `address` (the remote one). `rtt` is in seconds."""

    address: Address
    kind: Kind
    rtt: float


@dataclass(frozen=True, slots=True)
class PunchFailed:
    """No path within 10 s."""


PunchEvent = Selected | PunchFailed


class _Timer(Enum):
    FAIL = auto()
    NOMINATE = auto()
    KEEPALIVE = auto()


class _Phase(Enum):
    IDLE = auto()
    CHECKING = auto()
    NOMINATING = auto()  # the controlling side's choice is made, but not known to have arrived
    SELECTED = auto()
    FAILED = auto()


class PunchAgent:
    """One punch. `key_out` and `key_in` are the "check" keys of this side and of the other.

    `handle_datagram` takes datagrams that begin with 0xc0 or 0xc1, also before `start`; sources are to be plain
    (an IPv4 address, not one mapped into IPv6). After `Selected` it goes on answering, and keeps the mapping alive,
    for as long as it is polled.
    """

    def __init__(
        self,
        controlling: bool,
        key_out: bytes,
        key_in: bytes,
        remote: Sequence[Candidate],
        random_bytes: Callable[[int], bytes],
    ) -> None:
        self._controlling = controlling
        self._key_out = key_out
        self._key_in = key_in
        self._random_bytes = random_bytes
        self._list = CheckList(remote)
        self._phase = _Phase.IDLE
        self._chosen: Entry | None = None
        self._next_slot = 0.0
        self._timers: Timers[_Timer] = Timers()
        self._seen: dict[bytes, Address] = {}
        self._transmits: deque[Transmit] = deque(maxlen=MAX_QUEUE)
        self._events: deque[PunchEvent] = deque()
        self.was_heard = False  # whether anything genuine came from the other side
        self.dropped = 0
        """Datagrams that were not genuine, replayed from elsewhere, or too many."""

    def start(self, now: float) -> None:
        if self._phase is not _Phase.IDLE:
            return
        self._phase = _Phase.CHECKING
        self._next_slot = now
        for entry in self._list:
            entry.hurry(now)
        self._timers.set(_Timer.FAIL, now + PUNCH_TIMEOUT)
        self.handle_timeout(now)

    def handle_datagram(self, data: bytes, source: Address, now: float) -> None:
        if self._phase is _Phase.FAILED:
            return
        source = Address(source[0], source[1])
        try:
            message = decode(bytes(data), self._key_in)
        except DecodeError:
            self.dropped += 1
            return
        self.was_heard = True
        if isinstance(message, Check):
            self._on_check(message, source, now)
        else:
            self._on_answer(message, source, now)
        self._send_checks(now)

    def handle_timeout(self, now: float) -> None:
        for timer in self._timers.pop_expired(now):
            if timer is _Timer.FAIL:
                self._fail()
            elif timer is _Timer.NOMINATE:
                self._nominate(now)
            elif self._chosen is not None:
                self._send_check(self._chosen, now)
                self._timers.set(_Timer.KEEPALIVE, now + KEEPALIVE_INTERVAL)
        self._send_checks(now)

    def poll_timeout(self) -> float | None:
        deadlines = [self._timers.earliest()]
        if (due := self._next_check()) is not None:
            deadlines.append(max(due, self._next_slot))
        return min((deadline for deadline in deadlines if deadline is not None), default=None)

    def poll_transmit(self) -> Transmit | None:
        return self._transmits.popleft() if self._transmits else None

    def poll_event(self) -> PunchEvent | None:
        return self._events.popleft() if self._events else None

    def _on_check(self, check: Check, source: Address, now: float) -> None:
        entry = self._list.get(source)
        first = self._seen.setdefault(check.transaction, source)
        if len(self._seen) > MAX_SEEN:
            del self._seen[next(iter(self._seen))]
        if entry is None:
            # Each check goes to one address and has one source: a second source is a replay, and an agent that
            # believed it could be made to check, and answer, a bystander.
            if first != source or self._phase is _Phase.SELECTED:
                self.dropped += 1
                return
            entry = self._list.add_peer_reflexive(source, now)
        if not entry.may_answer(now):
            self.dropped += 1
            return
        answer = Answer(check.transaction, source)
        self._transmits.append(Transmit(source, (answer.encode(self._key_out),)))
        if check.nominate and not self._controlling:
            entry.peer_nominated = True
            entry.hurry(now)
            self._select_nominated(entry, now)
        if self._wants(entry) and entry.may_trigger(now):
            entry.due = min(entry.due, now)
            self._list.trigger(entry)

    def _on_answer(self, answer: Answer, source: Address, now: float) -> None:
        entry = self._list.get(source)
        nominating = entry.answered(answer.transaction, now) if entry is not None else None
        if entry is None or nominating is None:
            self.dropped += 1  # a copy, or from another address than the check was sent to: not symmetric
            return
        if not self._controlling:
            self._select_nominated(entry, now)
        elif self._phase is _Phase.NOMINATING and nominating and entry is self._chosen:
            self._select(entry, now)
        elif self._phase is _Phase.CHECKING:
            if entry.kind is Kind.HOST:
                self._nominate(now)
            elif self._timers.get(_Timer.NOMINATE) is None:
                self._timers.set(_Timer.NOMINATE, now + NOMINATION_WAIT)

    def _nominate(self, now: float) -> None:
        if self._phase is not _Phase.CHECKING:
            return
        self._timers.stop(_Timer.NOMINATE)
        self._phase = _Phase.NOMINATING
        self._chosen = self._list.best()
        self._chosen.hurry(now)

    def _select_nominated(self, entry: Entry, now: float) -> None:
        """The controlled side: nominated by the other, and proved by an answer to a check of our own."""
        if self._phase is _Phase.CHECKING and entry.peer_nominated and entry.succeeded:
            self._select(entry, now)

    def _select(self, entry: Entry, now: float) -> None:
        entry.advance(Seen.NOMINATION)
        self._phase = _Phase.SELECTED
        self._chosen = entry
        self._timers.stop(_Timer.FAIL)
        self._timers.set(_Timer.KEEPALIVE, now + KEEPALIVE_INTERVAL)
        self._events.append(Selected(entry.address, entry.kind, entry.rtt))

    def _fail(self) -> None:
        self._phase = _Phase.FAILED
        self._timers.stop(_Timer.NOMINATE)
        self._transmits.clear()
        self._events.append(PunchFailed())

    def _wants(self, entry: Entry) -> bool:
        """Whether a check of `entry` would still tell something."""
        if self._phase is _Phase.NOMINATING:
            return entry is self._chosen
        return self._phase in (_Phase.IDLE, _Phase.CHECKING) and not entry.succeeded

    def _next_check(self) -> float | None:
        if self._phase is _Phase.CHECKING:
            return self._list.next_due()
        return self._chosen.due if self._phase is _Phase.NOMINATING and self._chosen is not None else None

    def _send_checks(self, now: float) -> None:
        """At most one check a slot, whatever triggered it."""
        if now < self._next_slot:
            return
        entry: Entry | None = None
        if self._phase is _Phase.CHECKING:
            entry = self._list.next(now)
        elif self._phase is _Phase.NOMINATING and self._chosen is not None and self._chosen.due <= now:
            entry = self._chosen
        if entry is not None:
            self._send_check(entry, now)
            self._next_slot = now + CHECK_INTERVAL

    def _send_check(self, entry: Entry, now: float) -> None:
        transaction = self._random_bytes(TRANSACTION)
        nominate = self._phase is _Phase.NOMINATING
        if nominate:
            entry.hurry(now)  # the other side waits for this one: no growing intervals
        entry.check_sent(transaction, nominate, now)
        datagram = Check(transaction, nominate).encode(self._key_out)
        self._transmits.append(Transmit(entry.address, (datagram,)))
