"""The log of sent packets, kept as runs: one entry a burst, split only when an acknowledgement cuts it."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass, replace

NO_RECORD = -1


@dataclass(slots=True)
class Run:
    """Packets `first` to `end`, sent at once with consecutive numbers; ack-eliciting and in flight."""

    first: int
    count: int
    sent_at: float  # seconds
    size: int  # bytes of UDP payload of every datagram but the last
    last_size: int
    record: int = NO_RECORD  # whose ciphertext the packets carry
    generation: int = 0  # which sending of the record (0: in the clear)
    offset: int = 0
    payload: int = 0  # bytes of ciphertext in every packet but the last
    last_payload: int = 0
    is_path_probe: bool = False
    ack_floor: int = -1  # an ACK in this packet makes numbers below this one old news once the packet is acknowledged
    delivered: int = 0  # the four marks of the rate sample: see AckSample
    delivered_at: float = 0.0
    first_sent_at: float = 0.0
    lost: int = 0
    in_flight: int = 0

    @property
    def end(self) -> int:
        return self.first + self.count

    @property
    def bytes(self) -> int:
        """UDP payload in all."""
        return self.size * (self.count - 1) + self.last_size

    @property
    def length(self) -> int:
        """Ciphertext in all."""
        return self.payload * (self.count - 1) + self.last_payload

    def split(self, number: int) -> tuple[Run, Run]:
        """The run up to packet `number`, and from it on."""
        count = number - self.first
        left = replace(self, count=count, last_size=self.size, last_payload=self.payload)
        right = replace(self, first=number, count=self.count - count, offset=self.offset + count * self.payload)
        return left, right


class SentLog:
    """Runs in ascending order of packet number."""

    __slots__ = ("_runs", "_starts", "bytes")

    def __init__(self) -> None:
        self._runs: list[Run] = []
        self._starts: list[int] = []
        self.bytes = 0  # UDP payload of all runs in the log

    def __len__(self) -> int:
        return len(self._runs)

    def __iter__(self) -> Iterator[Run]:
        return iter(self._runs)

    @property
    def oldest(self) -> Run | None:
        return self._runs[0] if self._runs else None

    def add(self, run: Run) -> None:
        self.bytes += run.size * (run.count - 1) + run.last_size
        if self._starts and run.first < self._starts[-1]:
            index = bisect_right(self._starts, run.first)
            self._starts.insert(index, run.first)
            self._runs.insert(index, run)
        else:
            self._starts.append(run.first)
            self._runs.append(run)

    def take(self, start: int, end: int) -> list[Run]:
        """Removes packets [start, end) and returns those that were in the log, cutting runs at the edges."""
        low = bisect_right(self._starts, start) - 1
        if low < 0 or self._runs[low].end <= start:
            low += 1
        high = low
        while high < len(self._runs) and self._starts[high] < end:
            high += 1
        if low == high:
            return []
        taken = self._runs[low:high]
        kept: list[Run] = []
        if taken[0].first < start:
            before, taken[0] = taken[0].split(start)
            kept.append(before)
        if taken[-1].end > end:
            taken[-1], after = taken[-1].split(end)
            kept.append(after)
        self._runs[low:high] = kept
        self._starts[low:high] = [run.first for run in kept]
        self.bytes -= sum(run.bytes for run in taken)
        return taken

    def drop_oldest(self) -> None:
        run = self._runs.pop(0)
        del self._starts[0]
        self.bytes -= run.bytes
