"""Packet numbers that arrived, and when to say so (RFC 9000 section 13.2)."""

from __future__ import annotations

from p2p.core.ranges import RangeSet
from p2p.core.transport.frames import MAX_ACK_RANGES
from p2p.core.transport.rtt import MAX_ACK_DELAY

ACK_SEGMENTS = 32  # ack-eliciting packets after which an acknowledgement is due: about half a super-packet
ACK_RTT_FRACTION = 4  # acknowledgements at least four times a round trip
EAGER_PACKETS = 100  # the first packets are acknowledged at every drain, so that slow start gets its samples
# Clear packet numbers can be corrupted. One that jumps further ahead counts only when the next one follows it, as
# RFC 3550 appendix A.1 does with sequence numbers; 4096 datagrams are more than a burst of losses usually takes.
MAX_JUMP = 4096


class ReceivedPackets:
    """Collects ranges and the reasons to acknowledge them."""

    __slots__ = (
        "_deadline",
        "_due",
        "_floor",
        "_largest_at",
        "_probation",
        "_seen",
        "_segments",
        "largest_sealed",
        "ranges",
    )

    def __init__(self) -> None:
        self.ranges = RangeSet()
        self.largest_sealed = -1  # authenticated, so nobody forged it
        self._floor = 0
        self._largest_at = 0.0
        self._probation = -1
        self._seen = 0
        self._segments = 0
        self._deadline: float | None = None
        self._due = False

    @property
    def largest(self) -> int:
        return next(iter(self.ranges.newest_first()))[1] - 1 if len(self.ranges) else -1

    def on_packets(self, first: int, count: int, now: float, smoothed_rtt: float, *, genuine: bool) -> None:
        """Ack-eliciting packets [first, first + count) arrived; `genuine` if their number was authenticated."""
        end = first + count
        if genuine:
            self.largest_sealed = max(self.largest_sealed, first)
        largest = self.largest
        if not genuine and first > largest + MAX_JUMP and count == 1 and first != self._probation:
            self._probation = end
            return
        self._seen += count
        self._segments += count
        if self._deadline is None:
            self._deadline = now + min(smoothed_rtt / ACK_RTT_FRACTION, MAX_ACK_DELAY)
        if first != largest + 1 or self._seen <= EAGER_PACKETS:  # a gap, or what fills one
            self._due = True
        if end <= self._floor:
            return
        if end > largest:
            self._largest_at = now
        self.ranges.add(max(first, self._floor), end)
        self.ranges.keep_last(MAX_ACK_RANGES)

    def on_unasked(self, number: int) -> None:
        """A genuine packet that elicits no acknowledgement: its number is reported all the same."""
        self.largest_sealed = max(self.largest_sealed, number)
        if number >= self._floor:
            self.ranges.add(number, number + 1)
            self.ranges.keep_last(MAX_ACK_RANGES)

    def demand(self) -> None:
        """An acknowledgement is due at once."""
        self._due = True

    def is_due(self, now: float) -> bool:
        return self._due or self._segments >= ACK_SEGMENTS or (self._deadline is not None and now >= self._deadline)

    def delay(self, now: float) -> float:
        """Seconds the largest packet has been waiting for its acknowledgement."""
        return max(0.0, now - self._largest_at)

    def on_ack_sent(self) -> None:
        self._due = False
        self._segments = 0
        self._deadline = None

    def on_ack_acked(self, floor: int) -> None:
        """The peer knows all about numbers below `floor` (RFC 9000 section 13.2.4)."""
        self._floor = max(self._floor, floor)
        self.ranges.remove_below(self._floor)

    def poll_timeout(self) -> float | None:
        return self._deadline
