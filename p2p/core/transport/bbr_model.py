"""What BBR believes of the path: its bandwidth, its empty round trip, the losses that are nobody's fault.

Section numbers are those of draft-ietf-ccwg-bbr-01.
"""

from __future__ import annotations

import math
from collections import deque

from p2p.core.transport.congestion import AckSample

MIN_RTT_WINDOW = 10.0  # seconds a minimum is believed; section 2.8 (BBR.MinRTTFilterLen)
SAME_RTT = 1.02  # a sample this near to min_rtt says that it still holds, though noise keeps it from being lower
RECENT_RTTS = 8  # samples whose minimum tells a queue from jitter; RFC 9406 section 4.3 (N_RTT_SAMPLE)

AGGREGATION_ROUNDS = 10  # section 2.8 (BBR.ExtraAckedFilterLen)

LOSS_MARGIN = 0.02  # loss above what the path shows by itself that means congestion; section 2.8 (BBR.LossThresh)
DEVIATIONS = 4.0  # how far a sample may lie from the ambient loss by chance: 3.2 standard deviations
LOSS_GAIN = 1 / 8  # as RFC 6298 section 2 has it for the RTT
DEVIATION_GAIN = 1 / 4
LOSS_SAMPLE = 300_000  # bytes, about 200 packets: fewer say little about a rate of a few per cent
MAX_AMBIENT = 0.3  # above this, loss is congestion whatever else the path shows
SHORTEST_ROUND = 0.8  # times min_rtt; a packet that overtakes none takes at least that


class Rounds:
    """Packet-timed round trips (section 4.1.1): one ends when a packet sent after its beginning is acknowledged.

    Not if that one overtook others, though, or rounds would be so short that nothing grows in them.
    """

    __slots__ = ("_began_at", "_end", "count", "is_start")

    def __init__(self) -> None:
        self._began_at = -math.inf
        self._end = 0
        self.count = 0
        self.is_start = False

    def on_ack(self, sample: AckSample, min_rtt: float) -> None:
        is_long = min_rtt == math.inf or sample.now - self._began_at >= SHORTEST_ROUND * min_rtt
        self.is_start = is_long and sample.delivered_at_send >= self._end
        if self.is_start:
            self._began_at = sample.now
            self._end = sample.delivered
            self.count += 1


class MaxBandwidth:
    """The highest delivery rate of this probing cycle and the last (section 4.1.3, BBR.max_bw), bytes a second."""

    __slots__ = ("_current", "_last")

    def __init__(self) -> None:
        self._current = self._last = 0.0

    @property
    def value(self) -> float:
        return max(self._current, self._last)

    def on_sample(self, rate: float) -> None:
        self._current = max(self._current, rate)

    def advance(self) -> None:
        """A new cycle; one that gave no sample forgets nothing."""
        if self._current:
            self._last, self._current = self._current, 0.0

    def reset(self, rate: float) -> None:
        """The path has become another one."""
        self._current, self._last = rate, 0.0


class AckAggregation:
    """How much more is acknowledged at once than the bandwidth explains (section 4.5.9, BBR.extra_acked), bytes.

    A receiver that reads its socket empty before it answers, a radio that waits for its turn, GRO: with a window of the
    BDP alone the sender would wait for the one heap, and the receiver for the next.
    """

    __slots__ = ("_acked", "_heaps", "_since")

    def __init__(self) -> None:
        self._acked = 0.0
        self._since = -math.inf
        self._heaps: deque[tuple[int, float]] = deque()  # (round, bytes), falling

    @property
    def value(self) -> float:
        return self._heaps[0][1] if self._heaps else 0.0

    def on_ack(self, sample: AckSample, bandwidth: float, window: float, round_count: int) -> None:
        expected = bandwidth * (sample.now - self._since) if self._since > -math.inf else 0.0
        if self._acked <= expected:
            self._acked, self._since, expected = 0.0, sample.now, 0.0
        self._acked += sample.bytes_acked
        heap = min(self._acked - expected, window)
        while self._heaps and self._heaps[-1][1] <= heap:
            self._heaps.pop()
        self._heaps.append((round_count, heap))
        while self._heaps[0][0] < round_count - AGGREGATION_ROUNDS:
            self._heaps.popleft()


class MinRtt:
    """The lowest round-trip time in 10 s (section 4.1.4), seconds, and the lowest of the last few samples."""

    __slots__ = ("_is_void", "_recent", "seen_at", "value")

    def __init__(self) -> None:
        self.value = math.inf
        self.seen_at = -math.inf
        self._recent: deque[float] = deque(maxlen=RECENT_RTTS)
        self._is_void = False

    @property
    def recent(self) -> float:
        return min(self._recent, default=math.inf)

    def forget(self) -> None:
        """The next sample is the minimum, whatever was before."""
        self._recent.clear()
        self._is_void = True

    def on_sample(self, rtt: float, now: float) -> None:
        self._recent.append(rtt)
        if self._is_void:
            self._is_void = False
            self.value, self.seen_at = rtt, now
        if rtt <= self.value * SAME_RTT:
            self.seen_at = now
            self.value = min(self.value, rtt)
        elif now - self.seen_at > MIN_RTT_WINDOW:
            self.value, self.seen_at = self.recent, now


class AmbientLoss:
    """The share of bytes that the path loses without a queue to blame, and how it varies from round to round.

    BBR's own threshold is a constant 2 %: on a radio link that loses 3 % it would never probe. Here only what exceeds
    the ambient loss counts; that is learnt from rounds in which the round-trip time says that no queue stands and the
    rate sent was no higher than the path had shown to carry (or, in Startup, the rate delivered still grew).
    """

    __slots__ = ("_delivered", "_deviation", "_lost", "_samples", "value")

    def __init__(self) -> None:
        self.value = 0.0  # share of bytes
        self._deviation = 0.0  # mean deviation of a share, times the root of the bytes that it was measured over
        self._samples = 0
        self._lost = self._delivered = 0  # of the sample that is being collected

    def restart(self) -> None:
        """The sample so far was lost by what a probe sent."""
        self._lost = self._delivered = 0

    def on_round(self, lost: int, delivered: int, *, is_quiet: bool) -> bool:
        """Bytes of one round trip. Returns whether a sample is full and more was lost than the path loses by itself."""
        self._lost += lost
        self._delivered += delivered
        total = self._lost + self._delivered
        if total < LOSS_SAMPLE:
            return False
        share = self._lost / total
        is_exceeded = share > self.value + max(LOSS_MARGIN, self._chance(total) / total)
        if is_quiet:
            self._learn(min(share, MAX_AMBIENT), total)
        self.restart()
        return is_exceeded

    def overflows(self, lost: int, window: int) -> bool:
        """The same for the `lost` bytes of a window while a queue stands: nothing is allowed for but chance."""
        return lost > self.value * window + self._chance(window)

    def _chance(self, window: int) -> float:
        """Bytes of so many that are lost, or are not, by chance."""
        return DEVIATIONS * self._deviation * math.sqrt(window)

    def _learn(self, share: float, total: int) -> None:
        # The first samples count in full, as an average does.
        self._samples += 1
        difference = share - self.value
        if self._samples > 1:
            gain = max(DEVIATION_GAIN, 1 / self._samples)
            self._deviation += (abs(difference) * math.sqrt(total) - self._deviation) * gain
        self.value += difference * max(LOSS_GAIN, 1 / self._samples)
