"""The check list: what is known of each remote address, and which is checked next."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from enum import Enum, auto
from typing import Final

from p2p.core.address import Address
from p2p.core.punch.description import MAX_CANDIDATES, Candidate, Kind, reachable

FIRST_INTERVAL: Final = 0.2  # seconds between two checks of one address, at first
INTERVAL_GROWTH: Final = 1.5
MAX_INTERVAL: Final = 0.5  # seconds; RFC 8445 section 14.3 (lowest RTO)
TRIGGER_INTERVAL: Final = 0.05  # seconds; two sides whose answers get lost must not check each other in a tight loop
MAX_TRANSACTIONS: Final = 32  # of one address whose answers may still come: 1.6 s worth at the fastest
# A symmetric NAT shows one new port for every candidate of ours that the peer checks, and no more.
MAX_PEER_REFLEXIVE: Final = MAX_CANDIDATES
ANSWERS_PER_SECOND: Final = 25.0  # to one address; a peer that paces its checks asks for fewer
ANSWER_BURST: Final = 10.0

_RANK: Final = {Kind.HOST: 0, Kind.SERVER_REFLEXIVE: 1, Kind.PEER_REFLEXIVE: 1, Kind.MAPPED: 1}


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


TRANSITIONS: Final[dict[tuple[State, Seen], State]] = {
    (State.WAITING, Seen.CHECK_SENT): State.IN_PROGRESS,
    (State.IN_PROGRESS, Seen.CHECK_SENT): State.IN_PROGRESS,
    (State.IN_PROGRESS, Seen.ANSWER): State.SUCCEEDED,
    (State.SUCCEEDED, Seen.CHECK_SENT): State.SUCCEEDED,
    (State.SUCCEEDED, Seen.ANSWER): State.SUCCEEDED,
    (State.SUCCEEDED, Seen.NOMINATION): State.NOMINATED,
    (State.NOMINATED, Seen.CHECK_SENT): State.NOMINATED,
    (State.NOMINATED, Seen.ANSWER): State.NOMINATED,
}


class Entry:
    """One remote address."""

    def __init__(self, candidate: Candidate, now: float) -> None:
        self.address = candidate.address
        self.kind = candidate.kind
        self.state = State.WAITING
        self.rtt = float("inf")  # seconds; the lowest
        self.peer_nominated = False
        self.due = now
        self._interval = FIRST_INTERVAL
        self._last_sent = float("-inf")
        self._sent: dict[bytes, tuple[float, bool]] = {}  # transaction: when, nominating
        self._answers = ANSWER_BURST
        self._answers_at = now

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

    def may_answer(self, now: float) -> bool:
        """Takes one answer from this address's allowance."""
        self._answers = min(ANSWER_BURST, self._answers + (now - self._answers_at) * ANSWERS_PER_SECOND)
        self._answers_at = now
        if self._answers < 1:
            return False
        self._answers -= 1
        return True


class CheckList:
    def __init__(self, remote: Sequence[Candidate]) -> None:
        self._entries: dict[Address, Entry] = {}
        self._triggered: deque[Entry] = deque()
        usable = (candidate for candidate in remote[:MAX_CANDIDATES] if candidate.kind in _RANK)
        for candidate in sorted(usable, key=lambda candidate: _RANK[candidate.kind]):
            if reachable(candidate.address) and candidate.address not in self._entries:
                self._entries[candidate.address] = Entry(candidate, 0.0)

    def __iter__(self) -> Iterator[Entry]:
        return iter(self._entries.values())

    def get(self, address: Address) -> Entry | None:
        return self._entries.get(address)

    def add_peer_reflexive(self, address: Address, now: float) -> Entry:
        """The oldest one that did not succeed gives way when there are too many: it may be a forgery, the new one not.

        Only an authenticated check leads here.
        """
        learned = [entry for entry in self if entry.kind is Kind.PEER_REFLEXIVE and not entry.succeeded]
        if len(learned) >= MAX_PEER_REFLEXIVE:
            del self._entries[learned[0].address]
            if learned[0] in self._triggered:
                self._triggered.remove(learned[0])
        entry = self._entries[address] = Entry(Candidate(Kind.PEER_REFLEXIVE, address), now)
        return entry

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

    def best(self) -> Entry:
        """The best of those that succeeded, of which there is one."""
        return min((entry for entry in self if entry.succeeded), key=lambda entry: entry.rank)

    def _unproved(self) -> Iterator[Entry]:
        return (entry for entry in self if not entry.succeeded)
