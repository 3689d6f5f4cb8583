"""HyStart++: leaves slow start when the round-trip time grows, before packets are lost (RFC 9406)."""

from __future__ import annotations

import math
from enum import Enum, auto

MIN_RTT_THRESH = 0.004  # seconds; RFC 9406 section 4.3
MAX_RTT_THRESH = 0.016  # seconds
MIN_RTT_DIVISOR = 8
N_RTT_SAMPLE = 8
CSS_GROWTH_DIVISOR = 4
CSS_ROUNDS = 5


class Phase(Enum):
    SLOW_START = auto()
    CONSERVATIVE = auto()  # "CSS" in the RFC
    DONE = auto()


class HyStart:
    """Watches the lowest RTT of each round. The caller stops asking once the phase is DONE."""

    __slots__ = ("_baseline", "_current_min", "_last_min", "_rounds", "_samples", "_window_end", "phase")

    def __init__(self) -> None:
        self.phase = Phase.SLOW_START
        self._window_end = -1
        self._last_min = self._current_min = self._baseline = math.inf
        self._samples = 0
        self._rounds = 0

    def on_ack(self, rtt: float | None, largest_acked: int, largest_sent: int) -> None:
        if rtt is not None:
            self._current_min = min(self._current_min, rtt)
            self._samples += 1
            if self._samples >= N_RTT_SAMPLE:
                self._judge()
        if largest_acked > self._window_end:
            self._next_round(largest_sent)

    def growth(self, bytes_acked: int) -> int:
        """Bytes the window grows by; paced, so RFC 9406's L is infinite."""
        return bytes_acked // CSS_GROWTH_DIVISOR if self.phase is Phase.CONSERVATIVE else bytes_acked

    def _judge(self) -> None:
        if self.phase is Phase.SLOW_START:
            if math.isinf(self._last_min):
                return
            threshold = max(MIN_RTT_THRESH, min(self._last_min / MIN_RTT_DIVISOR, MAX_RTT_THRESH))
            if self._current_min >= self._last_min + threshold:
                self._baseline = self._current_min
                self._rounds = 0
                self.phase = Phase.CONSERVATIVE
        elif self._current_min < self._baseline:  # the rise was jitter
            self._baseline = math.inf
            self.phase = Phase.SLOW_START

    def _next_round(self, largest_sent: int) -> None:
        self._window_end = largest_sent
        self._last_min, self._current_min = self._current_min, math.inf
        self._samples = 0
        if self.phase is Phase.CONSERVATIVE:
            self._rounds += 1
            if self._rounds >= CSS_ROUNDS:
                self.phase = Phase.DONE
