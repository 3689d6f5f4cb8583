"""Token bucket that spreads a congestion window over its round trip (RFC 9002 section 7.7)."""

from __future__ import annotations

import math

from p2p.core.transport.packets import MAX_BURST

QUANTUM = 0.001  # seconds; epoll rounds time-outs up to 1 ms, so finer pacing would only sleep too long
CATCH_UP = 0.004  # seconds of rate saved up while the loop was busy elsewhere
MIN_BURST = 10  # datagrams; the initial window of RFC 9002 section 7.2 may leave at once


class Pacer:
    """Sends in quanta of 1 ms of the rate, never less than a datagram and never more than a super-packet at a time."""

    __slots__ = ("_burst", "_capacity", "_datagram", "_last", "_threshold", "_tokens", "rate")

    def __init__(self, now: float) -> None:
        self._last = now
        self._tokens = math.inf  # capped when first asked: the bucket begins full
        self.set_rate(0.0, 0)

    def set_rate(self, rate: float, datagram_size: int) -> None:
        """From now on `rate` bytes a second; what the hot path needs of it is computed here."""
        self.rate = rate
        self._datagram = datagram_size
        self._capacity = max(MIN_BURST * datagram_size, rate * CATCH_UP)
        self._burst = max(MIN_BURST * datagram_size, rate * QUANTUM)
        self._threshold = max(datagram_size, min(rate * QUANTUM, MAX_BURST))

    def budget(self, now: float) -> int:
        """Bytes one burst may have now; 0 while the quantum is not full yet."""
        tokens = self._tokens
        if now > self._last:
            tokens += (now - self._last) * self.rate
            self._last = now
        self._tokens = tokens = min(tokens, self._capacity)
        if tokens + 1 < self._threshold:  # one byte of slack for rounding
            return 0
        burst = int(tokens if tokens < self._burst else self._burst)
        return burst if burst > self._datagram else self._datagram

    def on_sent(self, size: int) -> None:
        self._tokens -= size

    def deadline(self) -> float:
        """When the next quantum is full; meaningful after `budget` returned 0."""
        return self._last + max(self._threshold - self._tokens, 0.0) / self.rate
