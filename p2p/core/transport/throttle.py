"""A rate that a person chose, for a path that takes whole records."""

from __future__ import annotations

import math
from typing import Final

WINDOW: Final = 0.040  # seconds of the rate that leave at once at most; half of it a time, so 50 turns a second


class Throttle:
    """A token bucket kept as one number, as p2p.core.rate; with a deadline, and hysteresis so that nothing spins."""

    __slots__ = ("_held_until", "_now", "_paid_until", "limit")

    def __init__(self) -> None:
        self.limit = math.inf
        """Bytes a second."""
        self._paid_until = -math.inf  # when all that left will have been paid for
        self._held_until: float | None = None
        self._now = -math.inf  # the latest that was heard of; an older one only makes it too careful

    def set_limit(self, limit: float) -> None:
        if limit != self.limit:
            self.limit = limit
            self._paid_until = -math.inf
            self._held_until = None

    def on_sent(self, size: int, now: float) -> None:
        """A record of `size` bytes left. One that is longer than the bucket is paid for by what follows it."""
        if self.limit == math.inf:
            return
        self._now = now
        self._paid_until = max(self._paid_until, now) + size / self.limit
        if self._paid_until - now > WINDOW:
            self._held_until = self._paid_until - WINDOW / 2

    def handle_timeout(self, now: float) -> None:
        self._now = now
        if self._held_until is not None and self._held_until <= now:
            self._held_until = None

    def poll_timeout(self) -> float | None:
        return self._held_until

    def records(self, size: int) -> int:
        """How many of `size` bytes may leave now."""
        if self._held_until is not None:
            return 0
        spent = max(0.0, self._paid_until - self._now)
        return max(1, int((WINDOW - spent) * self.limit / size))
