"""Sets of integers kept as half-open ranges."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator


class RangeSet:
    """Disjoint, non-adjacent half-open ranges [start, end) in ascending order."""

    __slots__ = ("_ends", "_starts")

    def __init__(self) -> None:
        self._starts: list[int] = []
        self._ends: list[int] = []

    def __len__(self) -> int:
        """Number of ranges."""
        return len(self._starts)

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return zip(self._starts, self._ends, strict=True)

    def __contains__(self, value: int) -> bool:
        index = bisect_right(self._starts, value) - 1
        return index >= 0 and value < self._ends[index]

    def add(self, start: int, end: int) -> bool:
        """Adds [start, end). Returns whether any of it was new."""
        if start >= end:
            return False
        starts, ends = self._starts, self._ends
        if not ends or start > ends[-1]:
            starts.append(start)
            ends.append(end)
            return True
        if start == ends[-1]:  # the usual case: the next packet in order
            ends[-1] = end
            return True
        low = bisect_left(ends, start)
        high = bisect_right(starts, end)
        if low == high:
            starts.insert(low, start)
            ends.insert(low, end)
            return True
        if low + 1 == high and starts[low] <= start and end <= ends[low]:
            return False
        start, end = min(start, starts[low]), max(end, ends[high - 1])
        starts[low:high] = [start]
        ends[low:high] = [end]
        return True

    def extend(self, start: int, end: int) -> bool:
        """Adds [start, end) if the highest range ends at `start`; returns whether it does."""
        if self._ends and self._ends[-1] == start:
            self._ends[-1] = end
            return True
        return False

    def remove_below(self, limit: int) -> None:
        """Removes every value below `limit`."""
        index = bisect_right(self._ends, limit)
        del self._starts[:index]
        del self._ends[:index]
        if self._starts and self._starts[0] < limit:
            self._starts[0] = limit

    def keep_last(self, count: int) -> None:
        """Removes all but the `count` highest ranges."""
        excess = len(self._starts) - count
        if excess > 0:
            del self._starts[:excess]
            del self._ends[:excess]

    def covers(self, start: int, end: int) -> bool:
        index = bisect_right(self._starts, start) - 1
        return start >= end or (index >= 0 and end <= self._ends[index])

    def gaps(self, start: int, end: int) -> list[tuple[int, int]]:
        """The parts of [start, end) that are not in the set."""
        missing = []
        for low, high in self:
            if high <= start:
                continue
            if low >= end:
                break
            if low > start:
                missing.append((start, low))
            start = max(start, high)
        if start < end:
            missing.append((start, end))
        return missing

    def newest_first(self) -> Iterator[tuple[int, int]]:
        return zip(reversed(self._starts), reversed(self._ends), strict=True)
