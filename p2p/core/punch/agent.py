"""The hole punching agent: finds a pair of addresses over which both peers reach each other, and agrees on it.

Rules: docs/protocol.md section 4; how it finds one: docs/connecting.md; words: RFC 8445.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection
from enum import Enum, auto
from typing import Final

from p2p.core.address import Address
from p2p.core.datagram import CloseSockets, OpenSockets, Transmit
from p2p.core.errors import DecodeError
from p2p.core.punch.checklist import CheckList, Entry, Pair, Seen
from p2p.core.punch.checks import TRANSACTION, Answer, Check, decode
from p2p.core.punch.description import Description, Kind, usable
from p2p.core.punch.events import How, Opened, PunchAction, PunchEvent, PunchFailed, Selected
from p2p.core.punch.search import Search
from p2p.core.punch.strategy import OPENER_TTL, aim, plan
from p2p.core.rate import Bucket, Rate
from p2p.core.timers import Timers

__all__ = ["CloseSockets", "How", "OpenSockets", "Opened", "PunchAgent", "PunchFailed", "Selected"]

CHECK_INTERVAL: Final = 0.020  # seconds between any two checks, guesses apart
NOMINATION_WAIT: Final = 0.050  # seconds in which something better than the first success may succeed
NOMINATION_TIMEOUT: Final = 3.0  # seconds after which another pair is nominated
# Seconds for the other side to say that it has opened: its word goes over the server, and is repeated. Who goes before
# may take the port away that he aims at; a relay is there by then.
OPEN_WAIT: Final = 2.5
PUNCH_TIMEOUT: Final = 10.0  # seconds for any path
SEARCH_TIME: Final = 20.0  # seconds for a direct path, when a relayed one is there
KEEPALIVE_INTERVAL: Final = 5.0  # seconds; below every mapping lifetime met in practice (RFC 4787 REQ-5 asks for 120)
MAX_SEEN: Final = 1024  # transactions of the other side; it starts at most 50 a second, and few guesses arrive
MAX_QUEUE: Final = 64  # datagrams waiting to be polled
# To all addresses; twice as many as the checks of a peer that paces them.
ALL_ANSWERS: Final = Rate(burst=64, per_second=100)


class _Timer(Enum):
    OPEN = auto()
    FAIL = auto()
    GIVE_UP = auto()
    RELAY = auto()
    NOMINATE = auto()
    NOMINATED = auto()
    KEEPALIVE = auto()


class PunchAgent:
    """One punch. `key_out` and `key_in` are the "check" keys of this side and of the other.

    `handle_datagram` takes datagrams that begin with 0xc0 or 0xc1, also before `start`; sources are to be plain
    (an IPv4 address, not one mapped into IPv6), and `local` is the number of the socket that it came by (`Transmit`).
    Actions are to be polled before transmits: these may leave by a socket that those open. After `Selected` it goes on
    answering, and keeps the mapping alive, for as long as it is polled.
    """

    def __init__(  # noqa: PLR0917
        self,
        controlling: bool,
        key_out: bytes,
        key_in: bytes,
        local: Description,
        remote: Description,
        random_bytes: Callable[[int], bytes],
        *,
        servers: Collection[Address] = (),
    ) -> None:
        """`servers`: what comes from there is forwarded, and no path but the one that `relay` tells of."""
        self._controlling = controlling
        self._servers = frozenset(servers)
        self._key_out = key_out
        self._key_in = key_in
        self._local, self._remote = local, remote
        self._random_bytes = random_bytes
        self._list = CheckList(usable(remote.candidates, local.candidates))
        self._search = Search()
        self._started: float | None = None
        self._relay_from = 0.0  # no relayed path before that
        self._is_searching = False
        self._is_earnest = False
        self._takes_relayed = False
        self._has_failed = False
        self._nominee: Entry | None = None  # of the controlling side, not known to have arrived
        self._selected: Entry | None = None
        self._next_slot = 0.0
        self._timers: Timers[_Timer] = Timers()
        self._seen: dict[bytes, Pair] = {}
        self._allowance = Bucket(ALL_ANSWERS)
        self._transmits: deque[Transmit] = deque(maxlen=MAX_QUEUE)
        self._events: deque[PunchEvent] = deque()
        self._actions: deque[PunchAction] = deque()
        self.was_heard = False  # whether anything genuine came from the other side that no server forwarded
        self.dropped = 0
        """Datagrams that were not genuine, replayed from elsewhere, or too many."""

    # commands

    def start(self, now: float) -> None:
        if self._started is not None:
            return
        self._started = self._next_slot = now
        self._is_searching = True
        for entry in self._list:
            entry.hurry(now)
        self._timers.set(_Timer.FAIL, now + PUNCH_TIMEOUT)
        self._timers.set(_Timer.GIVE_UP, now + SEARCH_TIME)
        self._timers.set(_Timer.OPEN, now + OPEN_WAIT)
        self._timers.set(_Timer.RELAY, max(now + self._relay_wait(), self._relay_from))
        self._open(list(self._list), now)
        self._events.append(Opened())
        if self._remote.has_opened or self.was_heard:
            self._go_in_earnest(now)
        self.handle_timeout(now)

    def update(self, local: Description, remote: Description, now: float) -> None:
        """One of the descriptions has changed. What was begun for the old ones goes on, within the same caps."""
        before = self._aims()
        self._local, self._remote = local, remote
        added = self._list.tell(usable(remote.candidates, local.candidates), now)
        if self._started is None or not self._is_searching:
            return
        if not self._is_earnest:
            self._open(added, now)
        self._timers.set(_Timer.RELAY, max(now, self._started + self._relay_wait(), self._relay_from))
        if remote.has_opened and not self._is_earnest:
            self._go_in_earnest(now)
        elif self._is_earnest and before != self._aims():
            self._begin_search(now)
        self._send_checks(now)

    def relay(self, local: int, address: Address, now: float) -> None:
        """The server forwards what goes to `address` by `local`."""
        self._list.add_relay(local, address, now)
        if self._is_searching:
            self._send_checks(now)

    def hold_relay(self, until: float) -> None:
        """A relayed path is good enough from then on: what is better, and none of ours, is being tried."""
        self._relay_from = until
        if (at := self._timers.get(_Timer.RELAY)) is not None:
            self._timers.set(_Timer.RELAY, max(at, until))

    # input

    def handle_datagram(self, data: bytes, source: Address, local: int, now: float) -> None:
        if self._has_failed:
            return
        source = Address(source[0], source[1])
        try:
            message = decode(bytes(data), self._key_in)
        except DecodeError:
            self.dropped += 1
            return
        self.was_heard = self.was_heard or source not in self._servers
        if isinstance(message, Check):
            self._on_check(message, source, local, now)
        else:
            self._on_answer(message, source, local, now)
        self._send_checks(now)

    def handle_timeout(self, now: float) -> None:
        for timer in self._timers.pop_expired(now):
            match timer:
                case _Timer.OPEN:
                    self._go_in_earnest(now)
                case _Timer.RELAY:
                    self._takes_relayed = True
                    self._nominate(now)
                case _Timer.NOMINATE:
                    self._nominate(now)
                case _Timer.NOMINATED:
                    self._nominate_another(now)
                case _Timer.FAIL:
                    self._fail()
                case _Timer.GIVE_UP:
                    self._stop_searching()
                case _Timer.KEEPALIVE:
                    if self._selected is not None:
                        self._send_check(self._selected, now)
                        self._timers.set(_Timer.KEEPALIVE, now + KEEPALIVE_INTERVAL)
        self._send_checks(now)

    # output

    def poll_timeout(self) -> float | None:
        deadlines = [self._timers.earliest(), self._search.next_due() if self._is_guessing else None]
        if (due := self._next_check()) is not None:
            deadlines.append(max(due, self._next_slot))
        return min((deadline for deadline in deadlines if deadline is not None), default=None)

    def poll_transmit(self) -> Transmit | None:
        return self._transmits.popleft() if self._transmits else None

    def poll_event(self) -> PunchEvent | None:
        return self._events.popleft() if self._events else None

    def poll_action(self) -> PunchAction | None:
        return self._actions.popleft() if self._actions else None

    # the two phases

    def _open(self, entries: list[Entry], now: float) -> None:
        """Opens our NAT: to no place that can be told apart from a NAT's does anything go before that is out."""
        for entry in entries:
            if entry.kind is Kind.SERVER_REFLEXIVE:
                self._send_check(entry, now)

    def _go_in_earnest(self, now: float) -> None:
        if self._is_earnest or not self._is_searching:
            return
        self._is_earnest = True
        self._timers.stop(_Timer.OPEN)
        for entry in self._list:
            if entry.kind is Kind.SERVER_REFLEXIVE and not entry.succeeded:
                entry.hurry(now)
        self._begin_search(now)

    def _aims(self) -> object:
        """What a plan depends on."""
        return self._local.nat, self._remote.nat, aim(self._local), aim(self._remote)

    def _begin_search(self, now: float) -> None:
        made = plan(self._controlling, self._local, self._remote, self._random_bytes)
        if sockets := self._search.begin(made, now):
            self._actions.append(OpenSockets(sockets.start, len(sockets)))

    def _relay_wait(self) -> float:
        """Seconds from the start until a relayed path is good enough."""
        if all(entry.is_relayed for entry in self._list):
            return 0.0
        return plan(self._controlling, self._local, self._remote, self._random_bytes).patience

    # checks

    def _on_check(self, check: Check, source: Address, local: int, now: float) -> None:
        entry = self._list.get(local, source)
        first = self._seen.setdefault(check.transaction, (local, source))
        if len(self._seen) > MAX_SEEN:
            del self._seen[next(iter(self._seen))]
        if entry is None:
            # Each check goes to one address and has one source: a second source is a replay, and an agent that
            # believed it could be made to check, and answer, a bystander. And what the server forwards before we know
            # that it does looks like a direct path, of which the server would be told to forward nothing more.
            is_over = self._started is not None and not self._is_searching
            if first != (local, source) or source in self._servers or is_over:
                self.dropped += 1
                return
            how = self._search.how(local, source) or How.LEARNED
            entry = self._list.add_peer_reflexive(local, source, how, now)
        if not (entry.allowance.take(now) and self._allowance.take(now)):
            self.dropped += 1
            return
        answer = Answer(check.transaction, source)
        self._transmits.append(Transmit(source, (answer.encode(self._key_out),), local=local))
        self._go_in_earnest(now)  # the other side opens before it checks
        if check.nominate and not self._controlling:
            entry.peer_nominated = True
            entry.hurry(now)
            self._select_nominated(entry, now)
        if self._wants(entry) and entry.may_trigger(now):
            entry.due = min(entry.due, now)
            self._list.trigger(entry)

    def _on_answer(self, answer: Answer, source: Address, local: int, now: float) -> None:
        entry = self._list.get(local, source)
        nominating = entry.answered(answer.transaction, now) if entry is not None else None
        if entry is None or nominating is None:
            guess = self._search.answered(answer.transaction, local, source)
            if guess is None or not self._is_guessing:
                self.dropped += 1  # a copy, or from another address than the check was sent to: not symmetric
                return
            entry = entry or self._list.add_peer_reflexive(local, source, guess.how, now)
            entry.check_sent(answer.transaction, False, guess.at)
            entry.answered(answer.transaction, now)
            nominating = False
        if not self._controlling:
            self._select_nominated(entry, now)
        elif entry is self._nominee and nominating:
            self._select(entry, now)
        elif self._is_searching and (self._nominee is None or self._nominee.is_relayed):
            if entry.kind is Kind.HOST:
                self._nominate(now)
            elif self._timers.get(_Timer.NOMINATE) is None:
                self._timers.set(_Timer.NOMINATE, now + NOMINATION_WAIT)

    # nomination

    def _nominate(self, now: float) -> None:
        best = self._list.best(relayed=self._takes_relayed)
        if not self._controlling or not self._is_searching or best in (None, self._nominee, self._selected):
            return
        if self._nominee is not None and not self._nominee.is_relayed:
            return
        self._timers.stop(_Timer.NOMINATE)
        self._timers.set(_Timer.NOMINATED, now + NOMINATION_TIMEOUT)
        self._nominee = best
        best.hurry(now)

    def _nominate_another(self, now: float) -> None:
        """The nominee was silent. It stays if there is nothing else."""
        silent, self._nominee = self._nominee, None
        others = (entry for entry in self._list if entry is not silent and entry.succeeded)
        if silent is not None and any(self._takes_relayed or not entry.is_relayed for entry in others):
            silent.advance(Seen.SILENCE)
            silent.hurry(now)
        self._nominate(now)

    def _select_nominated(self, entry: Entry, now: float) -> None:
        """The controlled side: nominated by the other, and proved by an answer to a check of our own."""
        better = self._selected is None or (self._selected.is_relayed and not entry.is_relayed)
        if better and entry.peer_nominated and entry.succeeded and self._started is not None:
            self._select(entry, now)

    def _select(self, entry: Entry, now: float) -> None:
        entry.advance(Seen.NOMINATION)
        self._selected, self._nominee = entry, None
        self._timers.stop(_Timer.FAIL)
        self._timers.stop(_Timer.NOMINATED)
        self._timers.set(_Timer.KEEPALIVE, now + KEEPALIVE_INTERVAL)
        self._events.append(Selected(entry.local, entry.address, entry.kind, entry.rtt, self._how(entry)))
        if not entry.is_relayed:
            self._stop_searching()

    def _how(self, entry: Entry) -> How:
        if entry.how is How.PLAIN and entry.kind is Kind.SERVER_REFLEXIVE and self._local.nat.is_dependent:
            return How.PREDICTED if self._local.nat.stride else How.LEARNED  # the other side's doing
        return entry.how

    def _fail(self) -> None:
        if self._selected is None:
            self._stop_searching()
            self._has_failed = True
            self._nominee = None
            self._transmits.clear()
            self._events.append(PunchFailed())

    def _stop_searching(self) -> None:
        self._is_searching = False
        self._search.stop()
        for timer in (_Timer.OPEN, _Timer.RELAY, _Timer.NOMINATE, _Timer.GIVE_UP):
            self._timers.stop(timer)
        kept = None if self._selected is None else self._selected.local
        if losers := tuple(number for number in range(1, self._search.sockets + 1) if number != kept):
            self._actions.append(CloseSockets(losers))

    # sending

    @property
    def _is_guessing(self) -> bool:
        return self._is_searching and self._list.best(relayed=False) is None

    def _wants(self, entry: Entry) -> bool:
        """Whether a check of `entry` would still tell something."""
        if self._nominee is not None and not self._nominee.is_relayed:
            return entry is self._nominee
        return (self._started is None or self._is_searching) and not entry.succeeded

    def _next_check(self) -> float | None:
        if self._nominee is not None and (not self._nominee.is_relayed or not self._is_searching):
            return self._nominee.due
        listed = self._list.next_due() if self._is_searching else None
        nominee = self._nominee.due if self._nominee is not None else None
        return min((due for due in (listed, nominee) if due is not None), default=None)

    def _send_checks(self, now: float) -> None:
        """At most one check a slot, whatever triggered it; guesses have a pace of their own."""
        if self._is_guessing:
            for shot, how in self._search.take(now):
                transaction = self._random_bytes(TRANSACTION)
                self._search.fired(transaction, shot, how, now)
                self._transmit(Check(transaction, False), shot.address, shot.local, shot.ttl)
        if now < self._next_slot:
            return
        entry: Entry | None = None
        if self._nominee is not None and self._nominee.due <= now:
            entry = self._nominee
        elif self._is_searching and (self._nominee is None or self._nominee.is_relayed):
            entry = self._list.next(now)
        if entry is not None:
            self._send_check(entry, now)
            self._next_slot = now + CHECK_INTERVAL

    def _send_check(self, entry: Entry, now: float) -> None:
        transaction = self._random_bytes(TRANSACTION)
        nominate = entry is self._nominee
        if nominate:
            entry.hurry(now)  # the other side waits for this one: no growing intervals
        entry.check_sent(transaction, nominate, now)
        early = entry.kind is Kind.SERVER_REFLEXIVE and not self._is_earnest and self._is_searching
        self._transmit(Check(transaction, nominate), entry.address, entry.local, OPENER_TTL if early else None)

    def _transmit(self, check: Check, address: Address, local: int, ttl: int | None) -> None:
        self._transmits.append(Transmit(address, (check.encode(self._key_out),), ttl=ttl, local=local))
