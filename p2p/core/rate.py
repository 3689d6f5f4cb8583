"""How often something may be done: a token bucket kept as one number (GCRA, ITU-T I.371)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

ROUNDING: Final = 1e-6  # seconds: what a sum of a thousand instants may be wrong by, so that a burst is exactly that


@dataclass(frozen=True, slots=True)
class Rate:
    """`burst` at once, then `per_second`."""

    burst: float
    per_second: float

    def spend(self, debt: float, now: float, amount: float = 1.0) -> float | None:
        """The debt after `amount` more; None: that would be too much now.

        A debt is the time at which all that was spent will have been paid for; 0 at first.
        """
        debt = max(debt, now) + amount / self.per_second
        return debt if debt - now <= self.burst / self.per_second + ROUNDING else None


class Bucket:
    """What was spent of a rate; nothing at first."""

    __slots__ = ("_debt", "_rate")

    def __init__(self, rate: Rate) -> None:
        self._rate = rate
        self._debt = 0.0

    def has(self, now: float) -> bool:
        return self._rate.spend(self._debt, now) is not None

    def take(self, now: float) -> bool:
        """Whether there was one left."""
        debt = self._rate.spend(self._debt, now)
        if debt is not None:
            self._debt = debt
        return debt is not None
