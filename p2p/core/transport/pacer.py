"""Token bucket that spreads a congestion window over its round trip (RFC 9002 section 7.7)."""

from __future__ import annotations

from p2p.core.transport.packets import MAX_BURST

QUANTUM = 0.001  # seconds; epoll rounds time-outs up to 1 ms, so finer pacing would only sleep too long
CATCH_UP = 0.004  # seconds of rate saved up while the loop was busy elsewhere
MIN_BURST = 10  # datagrams; the initial window of RFC 9002 section 7.2 may leave at once


class Pacer:
    """Sends in quanta of 1 ms of the rate, never less than a datagram and never more than a super-packet at a time."""

    __slots__ = ("_last", "_tokens")

    def __init__(self, now: float) -> None:
        self._last = now
        self._tokens = float("inf")  # capped when first asked: the bucket begins full

    def budget(self, now: float, rate: float, datagram_size: int) -> int:
        """Bytes one burst may have now at `rate` bytes a second; 0 while the quantum is not full yet."""
        capacity = max(MIN_BURST * datagram_size, rate * CATCH_UP)
        self._tokens = min(capacity, self._tokens + max(0.0, now - self._last) * rate)
        self._last = now
        if self._tokens + 1 < self._threshold(rate, datagram_size):  # one byte of slack for rounding
            return 0
        burst = max(MIN_BURST * datagram_size, rate * QUANTUM)
        return max(int(min(self._tokens, burst)), datagram_size)

    def on_sent(self, size: int) -> None:
        self._tokens -= size

    def deadline(self, rate: float, datagram_size: int) -> float:
        """When the next quantum is full; meaningful after `budget` returned 0."""
        missing = self._threshold(rate, datagram_size) - self._tokens
        return self._last + max(missing, 0.0) / rate

    @staticmethod
    def _threshold(rate: float, datagram_size: int) -> float:
        return max(datagram_size, min(rate * QUANTUM, MAX_BURST))
