"""Round-trip time estimate (RFC 9002 section 5)."""

from __future__ import annotations

INITIAL_RTT = 0.333  # seconds; RFC 9002 section 6.2.2
GRANULARITY = 0.001  # seconds; RFC 9002 section 6.1.2 (kGranularity), and what the selectors loop can do
MAX_ACK_DELAY = 0.005  # seconds a receiver may hold an acknowledgement back; docs/transport.md


class RttEstimator:
    """latest_rtt, min_rtt, smoothed_rtt and rttvar, all in seconds."""

    __slots__ = ("_forget_min", "has_sample", "latest", "min", "smoothed", "variance")

    def __init__(self) -> None:
        self.has_sample = False
        self._forget_min = False
        self.latest = self.min = self.smoothed = INITIAL_RTT
        self.variance = INITIAL_RTT / 2

    def update(self, latest: float, ack_delay: float) -> None:
        """One sample: `latest` from sending to acknowledgement, of which the peer says it held `ack_delay` back.

        Unlike RFC 9002 section 5.3 the delay is believed in full: probes carry a copy of the ACK however old it is, and
        on a lossy path that copy is often the first to arrive. What exceeds MAX_ACK_DELAY leaves latest_rtt too.
        """
        excess = max(0.0, ack_delay - MAX_ACK_DELAY)
        if 0 < excess < latest:
            latest -= excess
            ack_delay = MAX_ACK_DELAY
        self.latest = latest
        if not self.has_sample:
            self.has_sample = True
            self.min = self.smoothed = latest
            self.variance = latest / 2
            return
        self.min = latest if self._forget_min else min(self.min, latest)
        self._forget_min = False
        ack_delay = min(ack_delay, MAX_ACK_DELAY)
        adjusted = latest - ack_delay if latest >= self.min + ack_delay else latest
        self.variance += (abs(self.smoothed - adjusted) - self.variance) / 4
        self.smoothed += (adjusted - self.smoothed) / 8

    def restart(self, first: float) -> None:
        """Another path, of which `first` is the first sample (RFC 9000 section 9.4)."""
        self.has_sample = False
        self.update(first, 0.0)

    def forget_min(self) -> None:
        """The next sample sets min_rtt anew: the path may have changed (RFC 9002 section 5.2)."""
        self._forget_min = True

    @property
    def pto(self) -> float:
        """Probe time-out without backoff (RFC 9002 section 6.2.1)."""
        return self.smoothed + max(4 * self.variance, GRANULARITY) + MAX_ACK_DELAY
