"""The check list: what is known of each candidate pair, and which is checked next."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from enum import Enum, auto
from typing import Final

from p2p.core.address import Address
from p2p.core.datagram import MAIN
from p2p.core.punch.description import MAX_CANDIDATES, Candidate, Kind, reachable
from p2p.core.punch.events import How
from p2p.core.rate import Bucket, Rate

FIRST_INTERVAL: Final = 0.2  # seconds between two checks of one address, at first
INTERVAL_GROWTH: Final = 1.5
MAX_INTERVAL: Final = 0.5  # seconds; RFC 8445 section 14.3 (lowest RTO)
TRIGGER_INTERVAL: Final = 0.05  # seconds; two sides whose answers get lost must not check each other in a tight loop
MAX_TRANSACTIONS: Final = 32  # of one address whose answers may still come: 1.6 s worth at the fastest
# A symmetric NAT shows one new port for every candidate of ours that the peer checks, and no more.
MAX_PEER_REFLEXIVE: Final = MAX_CANDIDATES
MAX_TOLD: Final = 2 * MAX_CANDIDATES  # addresses in all the descriptions of a run: each new one may bring others
ANSWERS: Final = Rate(burst=10, per_second=25)  # to one address; a peer that paces its checks asks for fewer

_RANK: Final = {Kind.HOST: 0, Kind.SERVER_REFLEXIVE: 1, Kind.PEER_REFLEXIVE: 1, Kind.MAPPED: 1, Kind.RELAYED: 2}
_TOLD: Final = (Kind.HOST, Kind.SERVER_REFLEXIVE, Kind.MAPPED)

Pair = tuple[int, Address]  # number of the local socket, remote address


class State(Enum):
    """RFC 8445 section 6.1.2.6, as far as a list without frozen pairs needs it."""

    WAITING = auto()
    IN_PROGRESS = auto()
    SUCCEEDED = auto()
    NOMINATED = auto()


class Seen(Enum):
    CHECK_SENT = auto()
    ANSWER = auto()
    NOMINATION = auto()
    SILENCE = auto()  # nominated in vain


TRANSITIONS: Final[dict[tuple[State, Seen], State]] = {
    (State.WAITING, Seen.CHECK_SENT): State.IN_PROGRESS,
    (State.IN_PROGRESS, Seen.CHECK_SENT): State.IN_PROGRESS,
    (State.IN_PROGRESS, Seen.ANSWER): State.SUCCEEDED,
    (State.SUCCEEDED, Seen.CHECK_SENT): State.SUCCEEDED,
    (State.SUCCEEDED, Seen.ANSWER): State.SUCCEEDED,
    (State.SUCCEEDED, Seen.NOMINATION): State.NOMINATED,
    (State.SUCCEEDED, Seen.SILENCE): State.WAITING,
    (State.NOMINATED, Seen.CHECK_SENT): State.NOMINATED,
    (State.NOMINATED, Seen.ANSWER): State.NOMINATED,
}


class Entry:
    """One candidate pair."""

    def __init__(self, local: int, candidate: Candidate, now: float, how: How = How.PLAIN) -> None:
        self.local = local
        self.address = candidate.address
        self.kind = candidate.kind
        self.how = how
        self.state = State.WAITING
        self.rtt = float("inf")  # seconds; the lowest
        self.peer_nominated = False
        self.due = now
        self._interval = FIRST_INTERVAL
        self._last_sent = float("-inf")
        self._sent: dict[bytes, tuple[float, bool]] = {}  # transaction: when, nominating
        self.allowance = Bucket(ANSWERS)

    @property
    def pair(self) -> Pair:
        return self.local, self.address

    @property
    def is_relayed(self) -> bool:
        return self.kind is Kind.RELAYED

    @property
    def succeeded(self) -> bool:
        return self.state in (State.SUCCEEDED, State.NOMINATED)

    @property
    def rank(self) -> tuple[int, float]:
        """Lower is better."""
        return _RANK[self.kind], self.rtt

    def advance(self, seen: Seen) -> None:
        self.state = TRANSITIONS[self.state, seen]

    def check_sent(self, transaction: bytes, nominating: bool, now: float) -> None:
        self.advance(Seen.CHECK_SENT)
        self._sent[transaction] = (now, nominating)
        if len(self._sent) > MAX_TRANSACTIONS:
            del self._sent[next(iter(self._sent))]
        self._last_sent = now
        self.due = now + self._interval
        self._interval = min(self._interval * INTERVAL_GROWTH, MAX_INTERVAL)

    def answered(self, transaction: bytes, now: float) -> bool | None:
        """Whether that check was a nominating one; None when no such check is open."""
        sent = self._sent.pop(transaction, None)
        if sent is None:
            return None
        at, nominating = sent
        self.rtt = min(self.rtt, now - at)
        self.advance(Seen.ANSWER)
        return nominating

    def may_trigger(self, now: float) -> bool:
        return now >= self._last_sent + TRIGGER_INTERVAL

    def hurry(self, now: float) -> None:
        """The schedule begins anew: something changed that makes this address worth checking quickly."""
        self.due = now
        self._interval = FIRST_INTERVAL


class CheckList:
    def __init__(self, remote: Sequence[Candidate]) -> None:
        self._entries: dict[Pair, Entry] = {}
        self._triggered: deque[Entry] = deque()
        self.tell(remote, 0.0)

    def __iter__(self) -> Iterator[Entry]:
        return iter(self._entries.values())

    def get(self, local: int, address: Address) -> Entry | None:
        return self._entries.get((local, address))

    def tell(self, remote: Sequence[Candidate], now: float) -> list[Entry]:
        """Adds and returns what is new in a description: nearest first, IPv6 before IPv4."""
        told = sum(entry.kind in _TOLD for entry in self)
        added: list[Entry] = []
        usable = (candidate for candidate in remote[:MAX_CANDIDATES] if candidate.kind in _TOLD)
        for candidate in sorted(usable, key=lambda each: (_RANK[each.kind], ":" not in each.address.host)):
            new = reachable(candidate.address) and (MAIN, candidate.address) not in self._entries
            if new and told + len(added) < MAX_TOLD:
                how = How.MAPPED if candidate.kind is Kind.MAPPED else How.PLAIN
                added.append(self._add(Entry(MAIN, candidate, now, how)))
        return added

    def add_relay(self, local: int, address: Address, now: float) -> None:
        """The server's address. It replaces what was thought of it before."""
        self._add(Entry(local, Candidate(Kind.RELAYED, address), now, How.RELAY))

    def add_peer_reflexive(self, local: int, address: Address, how: How, now: float) -> Entry:
        """The oldest one that did not succeed gives way when there are too many: it may be a forgery, the new one not.

        Only an authenticated check or answer leads here.
        """
        learned = [entry for entry in self if entry.kind is Kind.PEER_REFLEXIVE and not entry.succeeded]
        if len(learned) >= MAX_PEER_REFLEXIVE:
            oldest = min(learned, key=lambda entry: entry.peer_nominated)
            del self._entries[oldest.pair]
            if oldest in self._triggered:
                self._triggered.remove(oldest)
        return self._add(Entry(local, Candidate(Kind.PEER_REFLEXIVE, address), now, how))

    def trigger(self, entry: Entry) -> None:
        """Lets `entry` be checked before any whose turn it is (RFC 8445 section 6.1.4.1)."""
        if entry not in self._triggered:
            self._triggered.append(entry)

    def next(self, now: float) -> Entry | None:
        """The entry to check now: triggered ones, then the one that is due longest."""
        while self._triggered:
            if not (entry := self._triggered.popleft()).succeeded:
                return entry
        turn = min(self._unproved(), key=lambda entry: entry.due, default=None)
        return turn if turn is not None and turn.due <= now else None

    def next_due(self) -> float | None:
        if any(not entry.succeeded for entry in self._triggered):
            return float("-inf")  # the next slot
        return min((entry.due for entry in self._unproved()), default=None)

    def best(self, *, relayed: bool) -> Entry | None:
        """The best of those that succeeded; a relayed one only if that is wanted."""
        good = (entry for entry in self if entry.succeeded and (relayed or not entry.is_relayed))
        return min(good, key=lambda entry: entry.rank, default=None)

    def _add(self, entry: Entry) -> Entry:
        self._entries[entry.pair] = entry
        return entry

    def _unproved(self) -> Iterator[Entry]:
        return (entry for entry in self if not entry.succeeded)
