"""How much may be in flight at most, as learnt from congestion (draft-ietf-ccwg-bbr-01 sections 4.5.10 and 5.5.10)."""

from __future__ import annotations

import math
from dataclasses import dataclass

BETA = 0.7  # section 2.8 (BBR.Beta)
# What is left of the rate just delivered when a queue overflows: somebody else needs room. The draft leaves all of it,
# and takes nine tenths of a shallow queue from a CUBIC flow; so it takes half to four fifths (test_transport_bbr.py).
YIELD = 0.8
HEADROOM = 0.85  # of inflight_hi while cruising, so that others find room; section 2.8 (BBR.Headroom is 0.15)


@dataclass(slots=True)
class Bounds:
    """``inflight_hi`` holds for as long as nothing disproves it, the two ``lo`` bounds until the next probe."""

    inflight_hi: float = math.inf  # bytes
    inflight_lo: float = math.inf
    bandwidth_lo: float = math.inf  # bytes a second

    def on_probe_failed(self, in_flight: float, target: float) -> None:
        """So much in flight was too much."""
        self.inflight_hi = max(in_flight, target * BETA)

    def on_congestion(self, bandwidth: float, window: float, kept_bandwidth: float, kept_inflight: float) -> None:
        """Loss while not probing: down to what was delivered or to seven tenths, whichever is more. Once a round."""
        self.bandwidth_lo = max(kept_bandwidth, min(self.bandwidth_lo, bandwidth) * BETA)
        self.inflight_lo = max(kept_inflight, min(self.inflight_lo, window) * BETA)

    def forget_short_term(self) -> None:
        self.inflight_lo = self.bandwidth_lo = math.inf

    def raise_hi(self, bytes_acked: int, step: float) -> None:
        """`step` bytes more for each window acknowledged."""
        if self.inflight_hi < math.inf:
            self.inflight_hi += min(float(bytes_acked), step * bytes_acked / self.inflight_hi)
