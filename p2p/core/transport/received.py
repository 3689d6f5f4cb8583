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
        "_genuine",
        "_largest_at",
        "_probation",
        "_seen",
        "_segments",
        "_unasked",
        "largest",
        "largest_sealed",
        "ranges",
    )

    def __init__(self) -> None:
        self.ranges = RangeSet()
        self.largest = -1  # of those that elicit an acknowledgement
        self.largest_sealed = -1  # authenticated, so nobody forged it
        self._genuine: RangeSet | None = RangeSet()  # the authenticated ones; None when all others were forgotten
        self._floor = 0
        self._largest_at = 0.0
        self._probation = -1
        self._unasked = RangeSet()
        self._seen = 0
        self._segments = 0
        self._deadline: float | None = None
        self._due = False

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
        if not genuine and first == largest + 1 and self.ranges.extend(first, end):  # what nearly always happens
            self.largest = end - 1
            self._largest_at = now
            self._merge_unasked(end)
            if self._seen <= EAGER_PACKETS:
                self._due = True
            return
        if end > self._floor:
            self.ranges.add(max(first, self._floor), end)
            if genuine and self._genuine is not None:
                self._genuine.add(max(first, self._floor), end)
                self._genuine.keep_last(MAX_ACK_RANGES)
        if end > largest + 1:
            self.largest = end - 1
            self._largest_at = now
            self._merge_unasked(end)
        self.ranges.keep_last(MAX_ACK_RANGES)
        if first <= largest or not self.ranges.covers(largest, end) or self._seen <= EAGER_PACKETS:
            self._due = True  # what fills a gap, and what makes one

    def on_unasked(self, number: int) -> None:
        """A genuine packet that elicits no acknowledgement.

        Its number is reported once a greater one was elicited, so that `largest` and its delay make an RTT sample.
        """
        self.largest_sealed = max(self.largest_sealed, number)
        if number < self.largest:
            self._merge(number, number + 1)
        else:
            self._unasked.add(number, number + 1)
            self._unasked.keep_last(MAX_ACK_RANGES)

    def forget_clear(self) -> None:
        """Drops every number that was not authenticated; the next genuine packet is the largest again."""
        if self._genuine is None:
            return
        self.ranges, self._genuine = self._genuine, None
        self.ranges.remove_below(self._floor)
        self.largest = max((end - 1 for _, end in self.ranges), default=-1)
        self._probation = -1

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
        self._floor = max(self._floor, min(floor, self.largest))
        self.ranges.remove_below(self._floor)

    def _merge_unasked(self, end: int) -> None:
        if len(self._unasked):
            for low, high in self._unasked:
                self._merge(low, min(high, end))
            self._unasked.remove_below(end)

    def _merge(self, start: int, end: int) -> None:
        self.ranges.add(max(start, self._floor), end)
        self.ranges.keep_last(MAX_ACK_RANGES)

    def poll_timeout(self) -> float | None:
        return self._deadline
