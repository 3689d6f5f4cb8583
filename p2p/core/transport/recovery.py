"""Loss detection, RTT samples, probe time-outs (RFC 9002) and delivery-rate samples, over runs of packets."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from p2p.core.transport.congestion import AckSample
from p2p.core.transport.rtt import GRANULARITY, INITIAL_RTT, MAX_ACK_DELAY, RttEstimator
from p2p.core.transport.sent import Run, SentLog

PACKET_THRESHOLD = 3  # RFC 9002 section 6.1.1
TIME_THRESHOLD = 9 / 8  # RFC 9002 section 6.1.2
PERSISTENT_CONGESTION_THRESHOLD = 3  # RFC 9002 section 7.6.1
MAX_PACKET_THRESHOLD = 1 << 16  # packets; where reordering reaches so far, time alone decides (RFC 8985 section 6.2)
# Packets that arrived without a gap, one soon behind the other, so that the last of them has not overtaken the others:
# where reordering was seen, such measure the round trip. RFC 9002 section 5.1 takes the largest, which is then the one
# that was early. The first of a burst has nobody to overtake, however early it is.
UNBROKEN = 8
TOGETHER = 0.5  # of a round trip, in which they were sent
UNBROKEN_PATIENCE = 8.0  # round trips without any, and the largest has to do: where most packets are lost
# A long time that may be old news, because acknowledgements before it were lost: more than so many times the shortest
# round trip seen, with none before it in such a part of it.
MAX_STRETCH = 3.0
SILENCE = 0.25
MAX_TIME_THRESHOLD = 2.0  # and the time threshold: a whole round trip more, as RFC 8985 section 6.2 allows
PROBES = 2  # packets a PTO sends; RFC 9002 section 6.2.4
# Seconds between one pair of probes and the next: on a path that loses four packets in five two dozen pairs then
# fit the idle time-out, and two small packets twice a second congest nothing.
MAX_PTO_INTERVAL = 0.5
MAX_FIRST_PTO = 1.0  # seconds; what RFC 9002 begins with, and all that a few wrong RTT samples can do
MAX_REMEMBERED_LOSSES = 1024  # runs; those whose late acknowledgement still tells a spurious loss


@dataclass(slots=True)
class AckOutcome:
    """What one ACK frame, or a timer, changed."""

    acked: list[Run] = field(default_factory=list)
    late: list[Run] = field(default_factory=list)  # declared lost before, arrived after all
    lost: list[Run] = field(default_factory=list)
    sample: AckSample | None = None
    is_persistent: bool = False
    is_reordered: bool = False  # only now are round trips measured by packets that overtook no others
    is_spurious: bool = False  # every loss of the last congestion event turned out not to be one


class Recovery:
    """The sender's view of what is in flight. Path probes count as in flight but never as congestion."""

    def __init__(self, rtt: RttEstimator, now: float) -> None:
        self._rtt = rtt
        self.sent = SentLog()
        self._lost = SentLog()
        self._largest_acked = -1
        self._largest_acked_sent_at = now
        self._first_sample_at: float | None = None
        self._restarted_at = now  # the PTO timer
        self._loss_time: float | None = None
        self._packet_threshold = PACKET_THRESHOLD
        self._time_threshold = TIME_THRESHOLD
        self._has_reordering = False  # something declared lost has arrived after all
        self._unbroken_at = -math.inf  # when such packets last measured the round trip
        self._together: list[Run] = []  # those that came last, and were sent soon one behind the other
        self._shortest = math.inf  # seconds, of any sample
        self._heard_at = now  # the acknowledgement before this one
        self._unrefuted_losses = 0  # packets of the last congestion event that did not turn out to have arrived
        self.pto_count = 0
        self.delivered = 0
        self.bytes_lost = 0
        self._delivered_at = now
        self._first_sent_at = now
        self._trusted_from = now  # packets sent before give no samples

    @property
    def bytes_in_flight(self) -> int:
        return self.sent.bytes

    def on_sent(self, run: Run) -> None:
        if not self.sent.bytes:
            self._first_sent_at = self._delivered_at = run.sent_at
        run.delivered, run.delivered_at, run.first_sent_at = self.delivered, self._delivered_at, self._first_sent_at
        run.lost = self.bytes_lost
        self.sent.add(run)
        run.in_flight = self.sent.bytes
        self._restarted_at = run.sent_at

    def on_ack(
        self, ranges: tuple[tuple[int, int], ...], delay: float | None, now: float, busy_since: float
    ) -> AckOutcome:
        """Ranges newest first, cut to packets that were sent; `delay` is None when that cut the largest.

        The window was last full at `busy_since`.
        """
        outcome = AckOutcome()
        oldest = self.sent.oldest
        oldest_lost = self._lost.oldest
        floor = oldest.first if oldest is not None else ranges[0][1]
        floor = min(floor, oldest_lost.first) if oldest_lost is not None else floor
        unbroken: Run | None = None  # the newest packets that arrived behind others
        has_looked = False
        for start, end in ranges:
            if end <= floor:
                break
            taken = self.sent.take(start, end)
            late = self._lost.take(start, end) if oldest_lost is not None else []
            outcome.acked += taken
            outcome.late += late
            is_telling = late or (taken and self._has_reordering)
            if is_telling and not has_looked and end - start >= UNBROKEN:
                has_looked, unbroken = True, self._behind_others(start, [*taken, *late])
        if not outcome.acked and not outcome.late:
            return outcome
        self.pto_count = 0
        self._restarted_at = now  # RFC 9002 section 6.2.1: on every acknowledgement too
        if outcome.late:
            self._on_late(outcome, ranges[0][1] - 1, now)
        rtt_sample = None
        previous_at = self._largest_acked_sent_at
        first_acked_at = now
        if outcome.acked:
            newest = max(outcome.acked, key=lambda run: run.first)
            first_acked_at = min(run.sent_at for run in outcome.acked)
            if newest.end > self._largest_acked:
                self._largest_acked = newest.end - 1
                self._largest_acked_sent_at = newest.sent_at
                is_largest = newest.end == ranges[0][1]  # RFC 9002 section 5.1
                is_needed = now > self._unbroken_at + UNBROKEN_PATIENCE * self._rtt.smoothed
                if delay is not None and is_largest and is_needed:
                    rtt_sample = self._measure(newest, delay, now)
        if unbroken is not None and delay is not None and self._is_fresh(unbroken, now):
            if self._unbroken_at == -math.inf:
                outcome.is_reordered = True
                self._rtt.forget_min()
            self._unbroken_at = now
            rtt_sample = self._measure(unbroken, delay if unbroken.end == ranges[0][1] else 0.0, now)
        self._heard_at = now
        outcome.lost = self._detect(now)
        outcome.is_persistent = self._is_persistent(outcome.lost, previous_at, first_acked_at)
        if outcome.acked:
            outcome.sample = self._sample(outcome.acked, newest, rtt_sample, now, busy_since)
        return outcome

    def _behind_others(self, start: int, fresh: list[Run]) -> Run | None:
        """The newest of these runs, if enough packets of its range, from `start` on, were sent shortly before it."""
        newest = max(fresh, key=_first)
        earliest = newest.sent_at - TOGETHER * self._rtt.smoothed
        others = [*self._together, *fresh]
        self._together = [run for run in others if run.first >= start and run.sent_at >= earliest]
        return newest if sum(run.count for run in self._together) >= UNBROKEN else None

    def _is_fresh(self, run: Run, now: float) -> bool:
        rtt = now - run.sent_at
        return rtt <= MAX_STRETCH * self._shortest or now - self._heard_at <= max(SILENCE * rtt, 2 * MAX_ACK_DELAY)

    def _measure(self, run: Run, delay: float, now: float) -> float | None:
        if run.sent_at < self._trusted_from:
            return None
        self._rtt.update(now - run.sent_at, delay)
        self._shortest = min(self._shortest, self._rtt.latest)
        if self._first_sample_at is None:
            self._first_sample_at = now
        return self._rtt.latest

    def handle_timeout(self, now: float) -> list[Run]:
        """Declares runs lost whose time is up. Returns them."""
        if self._loss_time is not None and now >= self._loss_time:
            self._restarted_at = now
            return self._detect(now)
        return []

    def pto_deadline(self) -> float | None:
        if self._loss_time is not None or not self.sent:
            return None
        return self._restarted_at + self.pto_interval(self.pto_count)

    def pto_interval(self, backoff: int) -> float:
        pto = self._rtt.pto
        return min(pto * (1 << min(backoff, 16)), MAX_PTO_INTERVAL) if backoff else min(pto, MAX_FIRST_PTO)

    def poll_timeout(self) -> float | None:
        return self._loss_time if self._loss_time is not None else self.pto_deadline()

    def on_congestion_event(self, lost: list[Run], is_new: bool) -> None:
        """Counts what must arrive after all before the event is taken back."""
        packets = sum(run.count for run in lost)
        self._unrefuted_losses = packets if is_new else self._unrefuted_losses + packets

    def forget(self, runs: list[Run]) -> None:
        """Takes runs out of flight that say nothing about the path: their records are delivered, or they never left."""
        for run in runs:
            self.sent.take(run.first, run.end)
        if not self.sent:
            self._loss_time = None

    def restart(self) -> None:
        """Another path: what was learnt of reordering on the old one holds no more, and losses there are over."""
        self._packet_threshold, self._time_threshold = PACKET_THRESHOLD, TIME_THRESHOLD
        self._has_reordering, self._unbroken_at, self._shortest = False, -math.inf, math.inf
        self._together = []
        self._first_sample_at = None
        self._lost = SentLog()
        self._unrefuted_losses = 0

    def distrust(self, now: float) -> None:
        """For a round trip, what is acknowledged may be forged packets with our numbers: that measures nothing."""
        self._trusted_from = now + max(self._rtt.pto, INITIAL_RTT)
        self._rtt.forget_min()

    def _on_late(self, outcome: AckOutcome, largest: int, now: float) -> None:
        """Reordering, not loss: be slower to judge from now on (RFC 9002 section 6.1 allows adaptive thresholds)."""
        self._has_reordering = True
        distance = 2 * (largest - min(run.first for run in outcome.late))  # for a rate that doubles in a round trip
        self._packet_threshold = max(self._packet_threshold, min(distance + 1, MAX_PACKET_THRESHOLD))
        waited = (now - min(run.sent_at for run in outcome.late)) / max(self._rtt.smoothed, GRANULARITY)
        self._time_threshold = max(self._time_threshold, min(waited, MAX_TIME_THRESHOLD))
        if self._unrefuted_losses > 0:
            self._unrefuted_losses -= sum(run.count for run in outcome.late if not run.is_path_probe)
            outcome.is_spurious = self._unrefuted_losses <= 0

    def _detect(self, now: float) -> list[Run]:
        """RFC 9002 section 6.1."""
        self._loss_time = None
        delay = max(self._time_threshold * max(self._rtt.latest, self._rtt.smoothed), GRANULARITY)
        by_number = self._largest_acked - self._packet_threshold + 1  # packets below this one are lost
        ranges: list[tuple[int, int]] = []
        for run in self.sent:
            if run.first >= self._largest_acked:
                break
            if now >= run.sent_at + delay:
                ranges.append((run.first, min(run.end, self._largest_acked)))
                continue
            if run.first < by_number:
                ranges.append((run.first, min(run.end, by_number)))
            if run.end > by_number and (self._loss_time is None or run.sent_at + delay < self._loss_time):
                self._loss_time = run.sent_at + delay
        lost = [run for start, end in ranges for run in self.sent.take(start, end)]
        for run in lost:
            self.bytes_lost += run.bytes
            self._lost.add(run)
        while len(self._lost) > MAX_REMEMBERED_LOSSES:
            self._lost.drop_oldest()
        while (oldest := self._lost.oldest) is not None and now - oldest.sent_at > 3 * self._rtt.pto + MAX_PTO_INTERVAL:
            self._lost.drop_oldest()
        return lost

    def _is_persistent(self, lost: list[Run], after: float, before: float) -> bool:
        """RFC 9002 section 7.6.2: losses that span the duration, with nothing acknowledged between them."""
        if self._first_sample_at is None:
            return False
        after = max(after, self._first_sample_at)
        times = [run.sent_at for run in lost if after < run.sent_at < before and not run.is_path_probe]
        return len(times) > 1 and times[-1] - times[0] > PERSISTENT_CONGESTION_THRESHOLD * self._rtt.pto

    def _sample(self, acked: list[Run], newest: Run, rtt: float | None, now: float, busy_since: float) -> AckSample:
        size = sum(run.bytes for run in acked)
        self.delivered += size
        self._delivered_at = now
        self._first_sent_at = newest.sent_at
        interval = max(newest.sent_at - newest.first_sent_at, now - newest.delivered_at)
        # An interval below min_rtt is an artefact of acknowledgements that came in one heap.
        is_sound = interval > 0 and interval >= self._rtt.min and newest.sent_at >= self._trusted_from
        return AckSample(
            now=now,
            bytes_acked=size,
            rtt=rtt,
            min_rtt=self._rtt.min,
            smoothed_rtt=self._rtt.smoothed,
            bytes_in_flight=self.sent.bytes,
            largest_acked=newest.end - 1,
            sent_at=newest.sent_at,
            delivered=self.delivered,
            delivered_at_send=newest.delivered,
            in_flight_at_send=newest.in_flight,
            lost_since_send=self.bytes_lost - newest.lost,
            delivery_rate=(self.delivered - newest.delivered) / interval if is_sound else None,
            app_limited=busy_since < newest.sent_at,
        )


def _first(run: Run) -> int:
    return run.first
