"""CUBIC (RFC 9438) with HyStart++ slow start, in bytes: the rival whose share of a path is measured."""

from __future__ import annotations

import math
from dataclasses import dataclass

from rival_hystart import HyStart, Phase

from p2p.core.transport.congestion import AckSample
from p2p.core.transport.packets import BASE_DATAGRAM

CUBIC_C = 0.4  # segments per second cubed; RFC 9438 section 5
CUBIC_BETA = 0.7  # RFC 9438 section 4.6
CUBIC_ALPHA = 3 * (1 - CUBIC_BETA) / (1 + CUBIC_BETA)  # RFC 9438 section 4.3
INITIAL_WINDOW = 10  # datagrams; RFC 9002 section 7.2
INITIAL_WINDOW_BYTES = 14_720  # RFC 9002 section 7.2
MIN_WINDOW = 2  # datagrams; RFC 9002 section 7.2
SLOW_START_GAIN = 2.0  # of window per smoothed_rtt, so that pacing does not hold slow start back
PACING_GAIN = 1.25  # RFC 9002 section 7.7


@dataclass(frozen=True, slots=True)
class _Undo:
    """What a congestion event overwrote."""

    window: float
    ssthresh: float
    w_max: float
    recovery_start: float
    slow_start: HyStart | None


class Cubic:
    """Implements CongestionController."""

    def __init__(self, datagram_size: int = BASE_DATAGRAM) -> None:
        self._size = datagram_size
        self._window = float(min(INITIAL_WINDOW * datagram_size, max(2 * datagram_size, INITIAL_WINDOW_BYTES)))
        self._ssthresh = math.inf
        self._hystart: HyStart | None = HyStart()
        self._recovery_start = -math.inf
        self._w_max = 0.0
        self._k = 0.0
        self._w_est = 0.0
        self._prior_window = 0.0
        self._epoch: float | None = None
        self._last_ack = 0.0
        self._largest_sent = -1
        self._undo: _Undo | None = None

    @property
    def window(self) -> int:
        return int(self._window)

    @property
    def ssthresh(self) -> float:
        return self._ssthresh

    @property
    def in_slow_start(self) -> bool:
        return self._window < self._ssthresh

    def pacing_rate(self, smoothed_rtt: float) -> float:
        gain = SLOW_START_GAIN if self.in_slow_start else PACING_GAIN
        return gain * self._window / max(smoothed_rtt, 1e-6)

    def on_packets_sent(self, now: float, size: int, last_packet_number: int, bytes_in_flight: int) -> None:  # noqa: ARG002
        self._largest_sent = last_packet_number

    def on_ack(self, sample: AckSample) -> None:
        idle, self._last_ack = sample.now - self._last_ack, sample.now
        if sample.sent_at <= self._recovery_start:
            return  # RFC 9002 section 7.3.2: the window stands still until a packet of this period is acknowledged
        if self._hystart is not None:
            self._hystart.on_ack(sample.rtt, sample.largest_acked, self._largest_sent)
        if sample.app_limited:
            if self._epoch is not None:
                self._epoch += idle  # RFC 9438 section 5.8: time without use of the window does not make it grow
            return
        if self.in_slow_start:
            self._slow_start(sample.bytes_acked)
        else:
            self._avoid_congestion(sample)

    def on_congestion_event(self, now: float, sent_at: float, bytes_lost: int, bytes_in_flight: int) -> None:  # noqa: ARG002
        if sent_at <= self._recovery_start:
            return
        self._undo = _Undo(self._window, self._ssthresh, self._w_max, self._recovery_start, self._hystart)
        self._recovery_start = now
        fast_convergence = self._window < self._w_max  # RFC 9438 section 4.7
        self._w_max = self._window * (1 + CUBIC_BETA) / 2 if fast_convergence else self._window
        self._prior_window = self._window
        self._window = self._ssthresh = max(self._window * CUBIC_BETA, float(MIN_WINDOW * self._size))
        self._hystart = None  # RFC 9406: only the first slow start
        self._epoch = None

    def on_persistent_congestion(self, now: float) -> None:  # noqa: ARG002
        self._window = float(MIN_WINDOW * self._size)
        self._recovery_start = -math.inf
        self._epoch = None
        self._undo = None

    def on_spurious_congestion_event(self, now: float) -> None:  # noqa: ARG002
        """RFC 9438 section 4.9.2."""
        undo, self._undo = self._undo, None
        if undo is None or undo.window <= self._window:
            return
        self._window, self._ssthresh, self._w_max = undo.window, undo.ssthresh, undo.w_max
        self._recovery_start, self._hystart = undo.recovery_start, undo.slow_start
        self._epoch = None

    def on_reordering(self, now: float) -> None:
        """Its model has no round trip."""

    def on_datagram_size(self, size: int) -> None:
        self._size = size
        self._window = max(self._window, float(MIN_WINDOW * size))

    def _slow_start(self, bytes_acked: int) -> None:
        self._window += self._hystart.growth(bytes_acked) if self._hystart is not None else bytes_acked
        if self._hystart is not None and self._hystart.phase is Phase.DONE:
            self._ssthresh = self._window
            self._hystart = None

    def _avoid_congestion(self, sample: AckSample) -> None:
        if self._epoch is None:
            self._begin_epoch(sample.now)
        assert self._epoch is not None
        elapsed = sample.now - self._epoch
        alpha = CUBIC_ALPHA if self._w_est < self._prior_window else 1.0  # RFC 9438 section 4.3
        self._w_est += alpha * self._size * sample.bytes_acked / self._window
        if self._cubic(elapsed) < self._w_est:
            self._window = max(self._window, self._w_est)
            return
        target = min(max(self._cubic(elapsed + sample.smoothed_rtt), self._window), 1.5 * self._window)
        self._window += (target - self._window) * sample.bytes_acked / self._window

    def _begin_epoch(self, now: float) -> None:
        self._epoch = now
        self._w_est = self._window
        self._prior_window = max(self._prior_window, self._window)
        self._w_max = max(self._w_max, self._window)
        self._k = ((self._w_max - self._window) / self._size / CUBIC_C) ** (1 / 3)

    def _cubic(self, elapsed: float) -> float:
        """W_cubic of RFC 9438 section 4.2, in bytes."""
        return CUBIC_C * (elapsed - self._k) ** 3 * self._size + self._w_max
