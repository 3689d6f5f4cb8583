"""Connections that share one bottleneck, on a virtual clock: what congestion control is tested against.

    sender ──┐                                         ┌── receiver
    sender ──┴─ [loss] ─ [policer] ─ queue ─ line ─ delay ─┴── receiver       and a way back that only delays, or loses
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count

from transport_link import ALICE, BOB, START, coalesce, keys

from p2p.core.datagram import Transmit
from p2p.core.transport.bbr import Bbr
from p2p.core.transport.congestion import NewController
from p2p.core.transport.connection import Connection
from p2p.core.transport.idle import IDLE_TIMEOUT
from p2p.core.transport.packets import MAX_RECORD

UDP_IP = 28  # bytes of header on the line
RECORD = bytes(MAX_RECORD)
SAMPLE = 0.1  # seconds between two samples of a flow


@dataclass
class Path:
    """The shared part. Rates in bytes a second on the line, sizes in bytes, chances between 0 and 1."""

    rate: float
    queue: float
    loss: float = 0.0
    burst: float = 0.0  # mean length of a burst of losses, in packets; 0: independent losses
    reorder: float = 0.0  # chance that a packet is held back
    reorder_delay: float = 0.0  # seconds
    overtake: float = 0.0  # chance that a packet skips the delay behind the queue, and all that are in it
    ack_loss: float = 0.0
    policer_rate: float | None = None  # a token bucket that drops what exceeds it, with no queue
    policer_depth: float = 0.0
    mtu: int = 1500  # bytes on the line
    jitter: float = 0.0  # seconds, up to which each packet is late (they stay in order)
    random: random.Random = field(default_factory=lambda: random.Random(1))
    free_at: float = 0.0
    is_cut: bool = False
    overflowed: int = 0
    lost: int = 0
    carried: int = 0
    delays: list[tuple[float, float]] = field(default_factory=list)  # (when, seconds in the queue)
    _bad: bool = False
    _tokens: float = 0.0
    _tokens_at: float = START
    _last: float = 0.0

    def carry(self, size: int, now: float) -> float | None:
        """When the packet is off the line; None when it is lost."""
        self.carried += 1
        size += UDP_IP
        if self.is_cut or size > self.mtu or self._is_lost():
            self.lost += 1
            return None
        if self.policer_rate is not None:
            self._tokens = min(self.policer_depth, self._tokens + (now - self._tokens_at) * self.policer_rate)
            self._tokens_at = now
            if self._tokens < size:
                self.overflowed += 1
                return None
            self._tokens -= size
        start = max(now, self.free_at)
        if (start - now) * self.rate + size > self.queue + self.mtu:
            self.overflowed += 1
            return None
        self.free_at = start + size / self.rate
        leaves = self.free_at
        if self.jitter:
            leaves = self._last = max(self._last, leaves + self.random.random() * self.jitter)
        if self.reorder and self.random.random() < self.reorder:
            leaves += self.reorder_delay
        return leaves

    def _is_lost(self) -> bool:
        if not self.loss:
            return False
        if not self.burst:
            return self.random.random() < self.loss
        if self._bad:
            self._bad = self.random.random() >= 1 / self.burst
        else:
            self._bad = self.random.random() < self.loss / (1 - self.loss) / self.burst
        return self._bad


class Flow:
    """One sender that always has something to send, or `records` of it, and its receiver."""

    def __init__(
        self,
        path: Path,
        new_controller: NewController = Bbr,
        *,
        delay: float = 0.025,
        records: int | None = None,
        start: float = 0.0,
        window: int = 4096,
        supply: float | None = None,
        idle_timeout: float = IDLE_TIMEOUT,
    ) -> None:
        self.path = path
        self.delay = delay  # seconds, one way
        self.start = START + start
        self.to_send = records
        self.supply = supply  # bytes a second that the application has to send; None: without end
        self.sender = Connection(
            keys("alice", "bob"), BOB, self.start, idle_timeout=idle_timeout, new_controller=new_controller
        )
        self.receiver = Connection(
            keys("bob", "alice"), ALICE, self.start, receive_window_records=window, idle_timeout=idle_timeout
        )
        self.delivered = 0  # records
        self.finished_at: float | None = None
        self.samples: list[tuple[float, int, float]] = []  # time, records delivered, smoothed RTT

    def turn(self, now: float) -> list[Transmit]:
        """One round of the sender's loop."""
        sender = self.sender
        sender.handle_timeout(now)
        output = []
        while True:
            while self._may_send(now) and sender.room():
                sender.send(RECORD, now)
                if self.to_send is not None:
                    self.to_send -= 1
            transmit = sender.poll_transmit(now)
            if transmit is None:
                break
            output.append(transmit)
        while sender.poll_event() is not None:
            pass
        return output

    def deadline(self) -> float:
        deadline = self.sender.poll_timeout()
        assert deadline is not None, "the connection ended"
        if self.supply is not None:
            deadline = min(deadline, self.start + (self.sender.stats.records_sent + 1) * MAX_RECORD / self.supply)
        return deadline

    def read(self) -> None:
        while self.receiver.poll_record() is not None:
            self.delivered += 1

    def _may_send(self, now: float) -> bool:
        if self.to_send == 0:
            return False
        return self.supply is None or self.sender.stats.records_sent * MAX_RECORD < (now - self.start) * self.supply

    def rate(self, since: float, until: float) -> float:
        """Bytes of payload a second delivered between two times, counted from the beginning."""
        before = max((s for s in self.samples if s[0] <= START + since), default=(START, 0, 0.0))
        after = max((s for s in self.samples if s[0] <= START + until), default=before)
        return (after[1] - before[1]) * MAX_RECORD / max(after[0] - before[0], 1e-9)


class Simulation:
    """Runs flows until a time; `changes` are (seconds, what to do then)."""

    def __init__(self, *flows: Flow, changes: tuple[tuple[float, Callable[[], None]], ...] = ()) -> None:
        self.flows = flows
        self.now = START
        self._order = count()
        self._arrivals: list[tuple[float, int, Flow, bool, bytes, int]] = []
        self._changes = sorted(((START + at, change) for at, change in changes), key=lambda each: each[0])
        self._sample_at = START

    def run(self, seconds: float) -> None:
        """Until so many seconds after the beginning, or until every flow that has an end is done."""
        end = START + seconds
        while self.now < end and not all(flow.finished_at for flow in self.flows):
            self._step(end)

    def _step(self, end: float) -> None:
        now = self.now
        while self._changes and self._changes[0][0] <= now:
            self._changes.pop(0)[1]()
        for flow in self.flows:
            if flow.start <= now:
                for transmit in flow.turn(now):
                    self._forward(flow, transmit)
                self._answer(flow)
        if now >= self._sample_at:
            self._sample_at = now + SAMPLE
            for flow in self.flows:
                flow.samples.append((now, flow.delivered, flow.sender.stats.smoothed_rtt))
                flow.path.delays.append((now, max(0.0, flow.path.free_at - now)))
        times = [end, self._sample_at, *(each[0] for each in self._changes[:1])]
        for flow in self.flows:
            if flow.start > now:
                times.append(flow.start)
            else:
                times.append(flow.deadline())
                times.append(flow.receiver.poll_timeout() or end)
        if self._arrivals:
            times.append(self._arrivals[0][0])
        self.now = max(now + 1e-9, min(times))
        while self._arrivals and self._arrivals[0][0] <= self.now:
            at, _, flow, forward, data, size = heapq.heappop(self._arrivals)
            buffer = memoryview(data)
            if forward:
                flow.receiver.handle_datagram(buffer, size, ALICE, self.now)
                flow.read()
            else:
                flow.sender.handle_datagram(buffer, size, BOB, self.now)
                if flow.to_send == 0 and flow.finished_at is None and flow.sender.is_idle:
                    flow.finished_at = at

    def _forward(self, flow: Flow, transmit: Transmit) -> None:
        data = b"".join(bytes(buffer) for buffer in transmit.buffers)
        size = transmit.segment_size or len(data)
        arrivals = []
        for begin in range(0, len(data), size):
            datagram = data[begin : begin + size]
            if (at := flow.path.carry(len(datagram), self.now)) is not None:
                overtakes = flow.path.overtake and flow.path.random.random() < flow.path.overtake
                arrivals.append((at if overtakes else at + flow.delay, datagram))
        for at, burst, segment_size in coalesce(arrivals):
            heapq.heappush(self._arrivals, (at, next(self._order), flow, True, burst, segment_size))

    def _answer(self, flow: Flow) -> None:
        flow.receiver.handle_timeout(self.now)
        while (transmit := flow.receiver.poll_transmit(self.now)) is not None:
            if flow.path.is_cut or (flow.path.ack_loss and flow.path.random.random() < flow.path.ack_loss):
                continue
            data = b"".join(bytes(buffer) for buffer in transmit.buffers)
            at = self.now + flow.delay
            heapq.heappush(self._arrivals, (at, next(self._order), flow, False, data, transmit.segment_size))
