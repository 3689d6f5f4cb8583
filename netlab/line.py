"""The packets of one direction under one fault plan, in the order they leave. Pure: time is an argument.

:mod:`netlab.inject` only carries what comes out of here.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from heapq import heappop, heappush
from itertools import count
from typing import TypeAlias, assert_never

from netlab.faults import Action, Change, Corrupt, Direction, Drop, Duplicate, FaultPlan, Hold, Pass, Replay, Truncate

MAX_REMEMBERED = 65_536  # packets for replaying by command; 100 MB of full ones, then the oldest are forgotten

Output: TypeAlias = list[tuple[bytes, Change]]  # what to forward now, and how to alter it


@dataclass(slots=True)
class _Waiting:
    packet: bytes
    change: Change
    times: int
    is_copy: bool
    has_left: bool = False


class Line:
    """A packet is any bytes; what a change does to it is the caller's business.

    ``released`` and ``replayed`` count held packets and copies that left.
    """

    def __init__(self, plan: FaultPlan, direction: Direction) -> None:
        self._plan = plan
        self._direction = direction
        self._count = 0
        self._order = count()
        self._by_number: list[tuple[int, int, _Waiting]] = []  # heaps; one that waits for both is in both
        self._by_time: list[tuple[float, int, _Waiting]] = []
        self._held: dict[int, _Waiting] = {}  # by order; copies are not among them
        self._remembered: deque[tuple[bytes, Replay]] = deque(maxlen=MAX_REMEMBERED)
        self.released = 0
        self.replayed = 0

    def handle(self, packet: bytes, payload_size: int, now: float) -> tuple[Action, Output]:
        """Take one chosen packet; returns its action, and what leaves because of it."""
        index, self._count = self._count, self._count + 1
        action = self._plan.decide(self._direction, index, payload_size)
        out: Output = []
        match action:
            case Pass() | Corrupt() | Truncate():
                out.append((packet, action))
            case Duplicate(copies):
                out += [(packet, Pass())] * (1 + copies)
            case Hold(packets, seconds):
                held = _Waiting(packet, Pass(), 1, is_copy=False)
                self._held[self._wait(held, packets, seconds, now)] = held
            case Replay(packets, seconds, times, change):
                out.append((packet, Pass()))
                self._remembered.append((packet, action))
                self._wait(_Waiting(packet, change, times, is_copy=True), packets, seconds, now)
            case Drop():
                pass
            case _:
                assert_never(action)
        return action, out + self.handle_timeout(now)

    def handle_timeout(self, now: float) -> Output:
        """What is due by now."""
        out: Output = []
        while self._by_number and self._by_number[0][0] < self._count:
            _, order, waiting = heappop(self._by_number)
            out += self._leave(order, waiting)
        while self._by_time and self._by_time[0][0] <= now:
            _, order, waiting = heappop(self._by_time)
            out += self._leave(order, waiting)
        return out

    def poll_timeout(self) -> float | None:
        """When to call :meth:`handle_timeout`; None: only packets and commands matter."""
        while self._by_time and self._by_time[0][2].has_left:
            heappop(self._by_time)
        return self._by_time[0][0] if self._by_time else None

    def release(self) -> Output:
        """Everything that is held, at once."""
        return [each for order, held in list(self._held.items()) for each in self._leave(order, held)]

    def replay(self) -> Output:
        """Copies of everything that met a ``Replay``, however often they were sent before."""
        out: Output = [(packet, how.change) for packet, how in self._remembered for _ in range(how.times)]
        self.replayed += len(out)
        return out

    def _wait(self, waiting: _Waiting, packets: int | None, seconds: float | None, now: float) -> int:
        """Returns the number under which it waits."""
        order = next(self._order)
        if packets is not None:
            heappush(self._by_number, (self._count - 1 + packets, order, waiting))
        if seconds is not None:
            heappush(self._by_time, (now + seconds, order, waiting))
        return order

    def _leave(self, order: int, waiting: _Waiting) -> Output:
        if waiting.has_left:
            return []
        waiting.has_left = True
        if waiting.is_copy:
            self.replayed += waiting.times
        else:
            del self._held[order]
            self.released += 1
        return [(waiting.packet, waiting.change)] * waiting.times
