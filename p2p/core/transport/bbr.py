"""BBR: sends at the rate that the path delivers, with one round trip of it in flight (draft-ietf-ccwg-bbr-01).

Three things differ from the draft, all for paths that lose packets by themselves: the loss threshold is derived from
the path (:class:`AmbientLoss`), Startup does not end for loss alone while the delivered rate still grows, and a probe
ends when a queue forms, not three round trips later.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from enum import Enum, auto

from p2p.core.transport.bbr_bounds import HEADROOM, YIELD, Bounds
from p2p.core.transport.bbr_model import AckAggregation, AmbientLoss, MaxBandwidth, MinRtt, Rounds
from p2p.core.transport.congestion import AckSample
from p2p.core.transport.packets import BASE_DATAGRAM, MAX_BURST
from p2p.core.transport.rtt import GRANULARITY, MAX_ACK_DELAY

INITIAL_WINDOW = 10  # datagrams; RFC 9002 section 7.2
INITIAL_RTT = 0.001  # seconds; section 4.2.1: the first window is paced as if the round trip took a millisecond
MIN_WINDOW = 4  # datagrams; section 2.8 (BBR.MinPipeCwnd)
PACING_MARGIN = 0.99  # section 2.5 (BBR.PacingMarginPercent)
FULL_GROWTH = 1.25  # section 4.3.1.2: a round that delivers less than this much more does not grow
FULL_ROUNDS = 3
QUEUE_RTT = 1.25  # times min_rtt: the recent minimum above it is a queue ...
OVERFLOW_RTT = 1.1  # the same when packets are lost at that moment: a short queue can only grow so long
DEEP_RTT = 2.0  # the same for a queue longer than what we ever have in flight by ourselves
QUEUE_SLACK = 0.002  # seconds: ... and not the scheduler's noise on a short path
# Times the bandwidth and the round trip before it: what a probe puts in flight before it may say that the path is full.
PROBE_UP_INFLIGHT = 1.25
PROBE_GROWTH = 1.1  # a probe at 1.25 that is answered by less has found the end
PROBE_ROUNDS_UP = 2  # so many rounds of growth without a queue, and it is Startup again
PROBE_WAIT = (2.0, 3.0)  # seconds between two probes for bandwidth; section 4.3.3.5.3
YIELD_WAIT = 2.0  # times that after a cycle in which we had to yield: CUBIC takes 5 s to come back (RFC 9438)
PROBE_ROUNDS = 63  # or so many round trips, if that is sooner; section 4.3.3.5.3
PROBE_RTT_INTERVAL = 5.0  # seconds without a sample of min_rtt; section 2.8 (BBR.ProbeRTTInterval)
PROBE_RTT_DURATION = 0.2  # seconds; section 2.8 (BBR.ProbeRTTDuration)
DARKNESS = 1.0  # seconds without an acknowledgement: more than any queue holds
GOLDEN = 0.6180339887498949  # turns a count of bytes into a fraction that differs between connections


class Phase(Enum):
    """Section 3.4, with ProbeBW's four parts spelled out."""

    STARTUP = auto()
    DRAIN = auto()
    DOWN = auto()
    CRUISE = auto()
    REFILL = auto()
    UP = auto()
    PROBE_RTT = auto()


@dataclass(frozen=True, slots=True)
class Gains:
    """Of the bandwidth, and of the BDP in flight."""

    pacing: float
    window: float


GAINS = {  # section 2.8
    Phase.STARTUP: Gains(2.77, 2.0),
    Phase.DRAIN: Gains(0.5, 2.0),
    Phase.DOWN: Gains(0.9, 2.0),
    Phase.CRUISE: Gains(1.0, 2.0),
    Phase.REFILL: Gains(1.0, 2.0),
    Phase.UP: Gains(1.25, 2.25),
    Phase.PROBE_RTT: Gains(1.0, 0.5),
}
QUIET = {Phase.DOWN, Phase.CRUISE, Phase.REFILL}  # sends no more than the path has shown to carry
PROBING = {Phase.STARTUP, Phase.REFILL, Phase.UP}  # loss says something about how much was tried


class Bbr:
    """Implements CongestionController."""

    def __init__(self, datagram_size: int = BASE_DATAGRAM) -> None:
        self._size = datagram_size
        self._window = float(INITIAL_WINDOW * datagram_size)
        self._phase = Phase.STARTUP
        self._bandwidth = MaxBandwidth()
        self._rtt = MinRtt()
        self._loss = AmbientLoss()
        self._rounds = Rounds()
        self._aggregation = AckAggregation()
        self._bounds = Bounds()
        self._undo: Bounds | None = None
        self._phase_at = 0.0  # when the phase began, seconds
        self._phase_round = 0
        self._overtaken_rtt = math.inf  # seconds, until the first round trip of packets that overtook no others
        self._rtt_before = math.inf  # the round trip when the probe under way began
        self._probed_at = -math.inf  # when the last probe ended: losses it caused are told a round trip later
        self._cycle_at = 0.0  # when the last probe for bandwidth ended
        self._cycle_round = 0
        self._wait = PROBE_WAIT[0]
        self._has_yielded = False  # to others, in this cycle
        self._is_full = False  # Startup has found the bandwidth
        self._full_bandwidth = 0.0
        self._full_count = 0
        self._round_delivered = 0  # bytes of this round
        self._round_lost = 0
        self._is_lossy = False  # the last full sample lost more than the path does by itself
        self._round_bandwidth = 0.0  # the best sample of this round
        self._round_inflight = 0.0
        self._last_round_bandwidth = 0.0
        self._acked_at = math.inf  # when the last acknowledgement came
        self._lit_at = -math.inf  # when one came after a darkness
        self._dark_until = -math.inf  # what was sent before and lost, was lost in the dark
        self._dark_window = 0.0  # what the window was before, until it is given back
        self._probe_rtt_done: float | None = None
        self._probe_rtt_at = -math.inf
        self._prior_window = 0.0

    @property
    def window(self) -> int:
        return int(self._window)

    @property
    def phase(self) -> Phase:
        return self._phase

    def pacing_rate(self, smoothed_rtt: float) -> float:
        gain = GAINS[self._phase].pacing
        if not self._bandwidth.value:  # section 4.6.2.1 (BBRInitPacingRate)
            rtt = smoothed_rtt if self._rtt.value < math.inf else INITIAL_RTT
            return gain * self._window / max(rtt, GRANULARITY)
        rate = gain * min(self._bandwidth.value, self._bounds.bandwidth_lo)
        return rate if self._phase is Phase.STARTUP else rate * PACING_MARGIN

    def on_packets_sent(self, now: float, size: int, last_packet_number: int, bytes_in_flight: int) -> None:
        """Nothing to learn."""

    def on_datagram_size(self, size: int) -> None:
        self._size = size
        self._window = max(self._window, float(MIN_WINDOW * size))

    def on_congestion_event(self, now: float, sent_at: float, bytes_lost: int, bytes_in_flight: int) -> None:  # noqa: ARG002
        self._round_lost += bytes_lost

    def on_persistent_congestion(self, now: float) -> None:
        """Section 4.6.4.4: begin again from the smallest window; what is known of the path stays.

        Where nothing at all came back for a while, what was lost says nothing about how much the path carries, and the
        window is given back when something sent from now on has arrived (BBRRestoreCwnd).
        """
        window, self._window = self._window, float(MIN_WINDOW * self._size)
        if now - self._acked_at < DARKNESS and now - self._lit_at > DARKNESS:
            return
        self._dark_until = now
        self._dark_window = max(self._dark_window, window)
        self._round_lost = 0
        self._is_lossy = False
        self._loss.restart()
        self._bounds.forget_short_term()

    def on_spurious_congestion_event(self, now: float) -> None:  # noqa: ARG002
        if self._undo is not None:
            self._bounds, self._undo = self._undo, None

    def on_reordering(self, now: float) -> None:  # noqa: ARG002
        self._overtaken_rtt = self._rtt.value
        self._rtt.forget()

    def on_ack(self, sample: AckSample) -> None:
        self._rounds.on_ack(sample, self._rtt.value)
        self._round_delivered += sample.bytes_acked
        if sample.rtt is not None:
            self._rtt.on_sample(sample.rtt, sample.now)
            self._forgive_reordering(sample.now)
        if sample.delivery_rate is not None:
            self._round_bandwidth = max(self._round_bandwidth, sample.delivery_rate)
            if not sample.app_limited or sample.delivery_rate >= self._bandwidth.value:
                self._bandwidth.on_sample(sample.delivery_rate)
        self._round_inflight = max(self._round_inflight, float(sample.delivered - sample.delivered_at_send))
        if self._is_full:
            self._aggregation.on_ack(sample, self._bandwidth.value, self._window, self._rounds.count)
        if sample.now - self._acked_at >= DARKNESS:
            self._lit_at = sample.now
        self._acked_at = sample.now
        is_light = sample.sent_at >= self._dark_until
        overflows = is_light and self._overflows(sample)
        if is_light and self._dark_window:
            self._window, self._dark_window = max(self._window, self._dark_window), 0.0
        if self._rounds.is_start:
            self._on_round(sample, overflows)
        self._advance(sample, overflows or self._is_lossy)
        self._check_probe_rtt(sample)
        self._set_window(sample)

    # The model

    def _forgive_reordering(self, now: float) -> None:
        """Beside a round trip that was too short, every other looked like a queue, and a queue ends Startup."""
        if self._rtt.value > self._overtaken_rtt * QUEUE_RTT:
            self._start_up(now)
        self._overtaken_rtt = math.inf

    def _bdp(self, gain: float = 1.0) -> float:
        bandwidth = min(self._bandwidth.value, self._bounds.bandwidth_lo)
        return gain * bandwidth * self._rtt.value if self._bandwidth.value else float(INITIAL_WINDOW * self._size)

    def _allowance(self) -> float:
        """Bytes in flight that no queue of the path holds: in bursts, and in acknowledgements that wait for more."""
        rate = self._bandwidth.value
        # In Startup the rate is not known yet, and growth would look like aggregation.
        heap = self._aggregation.value if self._is_full else 0.0
        return max(heap, rate * MAX_ACK_DELAY) + 3 * min(max(rate / 1000, self._size), MAX_BURST)

    def _has_queue(self, ratio: float = QUEUE_RTT) -> bool:
        return self._rtt.recent > self._rtt.value * ratio + QUEUE_SLACK

    def _overflows(self, sample: AckSample) -> bool:
        """Section 4.5.10.2 (IsInflightTooHigh), where a queue says that it is one."""
        window = max(sample.in_flight_at_send, MIN_WINDOW * self._size)
        return self._has_queue(OVERFLOW_RTT) and self._loss.overflows(sample.lost_since_send, window)

    def _on_round(self, sample: AckSample, overflows: bool) -> None:
        is_own = self._phase in QUIET and sample.sent_at < self._probed_at + sample.smoothed_rtt
        if is_own:  # what the last probe lost
            self._loss.restart()
            self._is_lossy = False
        else:
            is_growing = self._round_bandwidth >= self._last_round_bandwidth * FULL_GROWTH
            is_calm = self._phase in QUIET or (self._phase is Phase.STARTUP and is_growing)
            is_quiet = is_calm and not self._has_queue()
            self._is_lossy = self._loss.on_round(self._round_lost, self._round_delivered, is_quiet=is_quiet)
        if self._phase is Phase.STARTUP and not sample.app_limited:
            self._judge_startup(overflows or self._is_lossy)
        elif (overflows or self._is_lossy) and not is_own and self._phase not in PROBING:
            # A deep queue is somebody else's: what we have in flight is bounded, and would only become less.
            yields = overflows and not self._has_queue(DEEP_RTT)
            kept = YIELD if yields else 1.0
            self._has_yielded = self._has_yielded or yields
            self._keep_undo()
            self._bounds.on_congestion(
                self._bandwidth.value, self._window, kept * self._round_bandwidth, kept * self._round_inflight
            )
        self._last_round_bandwidth = self._round_bandwidth
        self._round_delivered = self._round_lost = 0
        self._round_bandwidth = self._round_inflight = 0.0

    def _judge_startup(self, is_congested: bool) -> None:
        """Section 4.3.1.2, but a round without growth counts for more with loss, and for all three with a queue."""
        if self._bandwidth.value >= self._full_bandwidth * FULL_GROWTH:
            self._full_bandwidth = self._bandwidth.value
            self._full_count = 0
            return
        self._full_count += FULL_ROUNDS if self._has_queue() else 1 + is_congested
        self._is_full = self._full_count >= FULL_ROUNDS
        if self._is_full and is_congested:
            self._bounds.inflight_hi = max(self._bdp(), self._round_inflight)

    # Phases

    def _enter(self, phase: Phase, now: float) -> None:
        self._phase = phase
        self._phase_at, self._phase_round = now, self._rounds.count

    def _advance(self, sample: AckSample, is_congested: bool) -> None:
        now, in_flight = sample.now, sample.bytes_in_flight
        match self._phase:
            case Phase.STARTUP:
                if self._is_full:
                    self._probed_at = now
                    self._enter(Phase.DRAIN, now)
            case Phase.DRAIN:
                if in_flight <= self._bdp():
                    self._probe_down(now)
            case Phase.DOWN:
                if in_flight <= min(self._bdp(), self._bounds.inflight_hi * HEADROOM):
                    self._enter(Phase.CRUISE, now)
                elif self._is_time_to_probe(now):
                    self._refill(now)
            case Phase.CRUISE:
                if self._is_time_to_probe(now):
                    self._refill(now)
            case Phase.REFILL:
                if self._rounds.is_start and self._rounds.count > self._phase_round:
                    self._enter(Phase.UP, now)
                    self._full_bandwidth, self._full_count = self._bandwidth.value, 0
                    self._rtt_before = self._rtt.recent
            case Phase.UP:
                self._probe_up(sample, is_congested)
            case Phase.PROBE_RTT:
                pass

    def _probe_down(self, now: float) -> None:
        if self._phase is Phase.UP:
            self._probed_at = now
        self._bandwidth.advance()
        self._enter(Phase.DOWN, now)
        self._cycle_at, self._cycle_round = now, self._rounds.count
        low, high = PROBE_WAIT
        self._wait = low + (high - low) * (self._round_delivered * GOLDEN % 1.0)
        if self._has_yielded:
            self._wait *= YIELD_WAIT
        self._has_yielded = False

    def _is_time_to_probe(self, now: float) -> bool:
        rounds = min(PROBE_ROUNDS, self._bdp() / self._size)
        return now - self._cycle_at > self._wait or self._rounds.count - self._cycle_round > rounds

    def _refill(self, now: float) -> None:
        if self._has_yielded:  # else the first round trip would take back at once what was left to others
            self._bandwidth.reset(min(self._bandwidth.value, self._bounds.bandwidth_lo))
        self._bounds.forget_short_term()
        self._enter(Phase.REFILL, now)

    def _probe_up(self, sample: AckSample, is_congested: bool) -> None:
        rounds = self._rounds.count - self._phase_round
        if is_congested and rounds >= 1:
            self._keep_undo()
            self._bounds.on_probe_failed(sample.in_flight_at_send, min(self._bdp(), self._window))
            self._probe_down(sample.now)
            return
        if sample.in_flight_at_send >= self._bounds.inflight_hi * HEADROOM:
            self._bounds.raise_hi(sample.bytes_acked, self._size * 2.0 ** min(rounds, 30))
        # Where a queue stood before the probe, the window allows no more than it always does.
        most = PROBE_UP_INFLIGHT * self._full_bandwidth * self._rtt_before
        has_tried = sample.in_flight_at_send >= min(most, self._bdp(GAINS[Phase.UP].window))
        if rounds < 2 or not self._rounds.is_start:
            # The queue that this probe made: in one that stood before, a flow with a small share has to go on.
            has_made = self._rtt.recent > self._rtt_before + self._rtt.value * (QUEUE_RTT - 1) + QUEUE_SLACK
            if has_tried and has_made and sample.now - self._phase_at > self._rtt.value:
                self._probe_down(sample.now)
            return
        if sample.app_limited:
            return
        if self._bandwidth.value >= self._full_bandwidth * PROBE_GROWTH:
            self._full_bandwidth = self._bandwidth.value
            self._full_count += 1
            if self._full_count == PROBE_ROUNDS_UP and not self._has_queue():
                self._start_up(sample.now)
        elif has_tried:  # else inflight_hi held it back, and is raised
            self._probe_down(sample.now)

    def _start_up(self, now: float) -> None:
        """The path carries far more than it did, or than was thought: find out how much as in the beginning."""
        self._is_full = False
        self._full_count = 0
        self._bounds = Bounds()
        self._enter(Phase.STARTUP, now)

    def _check_probe_rtt(self, sample: AckSample) -> None:
        """Section 4.3.4.4: no sample was as low for 5 s, so little is in flight for a moment that the queue empties."""
        now = sample.now
        if self._phase is not Phase.PROBE_RTT:
            stale = now - max(self._rtt.seen_at, self._probe_rtt_at) > PROBE_RTT_INTERVAL
            if stale and self._is_full and self._phase is not Phase.UP:
                self._prior_window = self._window
                self._enter(Phase.PROBE_RTT, now)
                self._probe_rtt_done = None
            return
        if self._probe_rtt_done is None:
            if sample.bytes_in_flight <= self._bdp(GAINS[Phase.PROBE_RTT].window) + self._allowance():
                self._probe_rtt_done = now + PROBE_RTT_DURATION
                self._phase_round = self._rounds.count
        elif now >= self._probe_rtt_done and self._rounds.count > self._phase_round:
            self._probe_rtt_at = now
            self._window = max(self._window, self._prior_window)
            self._bounds.forget_short_term()
            self._probe_down(now)
            self._enter(Phase.CRUISE, now)

    def _keep_undo(self) -> None:
        self._undo = replace(self._bounds)

    def _set_window(self, sample: AckSample) -> None:
        target = self._bdp(GAINS[self._phase].window) + self._allowance()
        if self._is_full:
            self._window = min(self._window + sample.bytes_acked, target)
        elif self._window < target or sample.delivered < 2 * INITIAL_WINDOW * self._size:
            self._window += sample.bytes_acked
        bounds = self._bounds
        high = bounds.inflight_hi * (HEADROOM if self._phase in {Phase.CRUISE, Phase.PROBE_RTT} else 1.0)
        cap = min(high, bounds.inflight_lo)
        if self._phase is Phase.PROBE_RTT:
            cap = min(cap, target)
        self._window = max(min(self._window, cap), float(MIN_WINDOW * self._size))
