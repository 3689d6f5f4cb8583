"""Carries out a plan: which guess goes out when, and which of them was answered. Within the caps of one run."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from p2p.core.address import Address
from p2p.core.punch.events import How
from p2p.core.punch.strategy import MAX_PROBES, MAX_SOCKETS, Plan, Shot, Volley

QUANTUM: Final = 0.005  # seconds between two bursts; finer than 1 ms no selector wakes us
BURST: Final = 16  # shots at once, after the loop was late


@dataclass(frozen=True, slots=True)
class Fired:
    shot: Shot
    how: How
    at: float


class Search:
    """Guesses of one run. The caller makes and sends the checks."""

    def __init__(self) -> None:
        self._volleys: list[Volley] = []
        self._begun = 0.0
        self._wake = 0.0
        self._credit = 0.0
        self._fired: dict[bytes, Fired] = {}
        self._aimed: dict[tuple[int, Address], How] = {}
        self._left = MAX_PROBES
        self.sockets = 0
        """How many besides the main one were asked for."""

    def begin(self, plan: Plan, now: float) -> range:
        """Drops the plan before this one. Returns the numbers of the sockets that must be opened for it."""
        self._volleys = sorted(plan.volleys, key=lambda volley: volley.at)
        self._begun = now
        self._wake = float("-inf")
        before = self.sockets
        self.sockets = max(before, min(plan.sockets, MAX_SOCKETS))
        return range(before + 1, self.sockets + 1)

    def stop(self) -> None:
        self._volleys.clear()

    def next_due(self) -> float | None:
        if not self._volleys or self._left <= 0:
            return None
        return max(self._begun + self._volleys[0].at, self._wake)

    def take(self, now: float) -> Iterator[tuple[Shot, How]]:
        """What is to be sent now."""
        due = self.next_due()
        if due is None or now < due:
            return
        rate = self._volleys[0].rate
        waited = now - self._wake if self._wake > self._begun else 0.0
        self._credit = min(BURST, self._credit + (waited + QUANTUM) * rate)
        self._wake = now + QUANTUM
        while self._credit >= 1 and self._left > 0 and self._volleys:
            shot = next(self._volleys[0].shots, None)
            if shot is None:
                del self._volleys[0]
                return
            self._credit -= 1
            self._left -= 1
            yield shot, self._volleys[0].how

    def fired(self, transaction: bytes, shot: Shot, how: How, now: float) -> None:
        self._fired[transaction] = Fired(shot, how, now)
        self._aimed[shot.local, shot.address] = how

    def answered(self, transaction: bytes, local: int, source: Address) -> Fired | None:
        """The guess that this answers, unless it comes from elsewhere."""
        fired = self._fired.get(transaction)
        if fired is None or (fired.shot.local, fired.shot.address) != (local, source):
            return None
        return self._fired.pop(transaction)

    def how(self, local: int, source: Address) -> How | None:
        """By what we came to send there, if we did."""
        return self._aimed.get((local, source))
