"""Two connections and the link between them, on a virtual clock."""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count

from p2p.core.address import Address
from p2p.core.datagram import Transmit
from p2p.core.transport.bbr import Bbr
from p2p.core.transport.congestion import NewController
from p2p.core.transport.connection import Connection, ConnectionKeys
from p2p.core.transport.events import Event
from p2p.core.transport.idle import IDLE_TIMEOUT

ALICE = Address("192.0.2.1", 1001)
BOB = Address("198.51.100.2", 2002)
START = 1000.0  # seconds; a clock never starts at zero


def key(name: str) -> bytes:
    return name.encode().ljust(32, b".")


def keys(me: str, other: str) -> ConnectionKeys:
    return ConnectionKeys(
        records_out=key(f"records {me}"),
        records_in=key(f"records {other}"),
        control_out=key(f"control {me}"),
        control_in=key(f"control {other}"),
        id_out=key(f"{me} id"),
        id_in=key(f"{other} id"),
    )


@dataclass(frozen=True)
class Impairments:
    """What the link does to each datagram, on top of its delay. Chances lie between 0 and 1."""

    loss: float = 0.0
    duplicate: float = 0.0
    reorder: float = 0.0  # chance of `jitter` more delay
    corrupt: float = 0.0
    corrupt_header: float = 0.0  # the same aimed at the first 24 bytes
    truncate: float = 0.0
    jitter: float = 0.02  # seconds


@dataclass
class Link:
    """One direction: a drop-tail queue before a line of `rate`, then a delay, then the impairments."""

    random: random.Random
    delay: float = 0.025  # seconds
    rate: float = 12.5e6  # bytes a second
    queue: int = 400_000  # bytes
    mtu: int = 1472  # bytes of UDP payload; longer datagrams vanish
    coalesce: bool = True
    impairments: Impairments = field(default_factory=Impairments)
    sent: list[bytes] = field(default_factory=list)
    busy_until: float = 0.0
    is_cut: bool = False
    dropped_by_queue: int = 0

    def carry(self, datagram: bytes, now: float) -> list[tuple[float, bytes]]:
        """When, and as what, the datagram arrives: not at all, once, or twice."""
        self.sent.append(datagram)
        flaws, chance = self.impairments, self.random.random
        if self.is_cut or len(datagram) > self.mtu:
            return []
        start = max(now, self.busy_until)
        if (start - now) * self.rate > self.queue:
            self.dropped_by_queue += 1
            return []
        self.busy_until = start + (len(datagram) + 28) / self.rate
        arrivals = []
        for _ in range(2 if chance() < flaws.duplicate else 1):
            if chance() < flaws.loss:
                continue
            at = self.busy_until + self.delay + (chance() * flaws.jitter if chance() < flaws.reorder else 0.0)
            arrivals.append((at, self._spoil(datagram)))
        return arrivals

    def _spoil(self, datagram: bytes) -> bytes:
        flaws, chance = self.impairments, self.random.random
        if chance() < flaws.truncate:
            return datagram[: self.random.randrange(len(datagram))]
        for rate, reach in ((flaws.corrupt, len(datagram)), (flaws.corrupt_header, min(24, len(datagram)))):
            if chance() < rate:
                spoilt = bytearray(datagram)
                spoilt[self.random.randrange(reach)] ^= 1 << self.random.randrange(8)
                datagram = bytes(spoilt)
        return datagram


class Machine:
    """A connection with the program around it: sends a list of records, reads what comes."""

    def __init__(self, connection: Connection, link: Link, records: list[bytes], read_interval: float = 0.0) -> None:
        self.connection = connection
        self.link = link
        self.to_send = list(reversed(records))
        self.received: list[bytes] = []
        self.events: list[Event] = []
        self.read_interval = read_interval
        self.next_read = START
        self.transmits: list[tuple[float, Transmit]] = []

    def turn(self, now: float) -> list[Transmit]:
        """One round of the loop, without the socket."""
        connection = self.connection
        connection.handle_timeout(now)
        while now >= self.next_read and (record := connection.poll_record()) is not None:
            self.received.append(record)
            self.next_read = now + self.read_interval
        output = []
        while True:
            while self.to_send and connection.room():
                connection.send(self.to_send.pop(), now)
            transmit = connection.poll_transmit(now)
            if transmit is None:
                break
            output.append(transmit)
            assert len(output) < 10_000, "poll_transmit never ends"
        while (event := connection.poll_event()) is not None:
            self.events.append(event)
        return output

    def deadline(self, now: float) -> float | None:
        deadline = self.connection.poll_timeout()
        if self.read_interval and self.next_read > now:
            return self.next_read if deadline is None else min(deadline, self.next_read)
        return deadline


class World:
    """Alice, Bob, and a clock that jumps from one deadline or arrival to the next."""

    def __init__(
        self,
        *,
        seed: int = 1,
        to_bob: list[bytes] | None = None,
        to_alice: list[bytes] | None = None,
        impairments: Impairments | None = None,
        window: int = 256,
        read_interval: float = 0.0,
        delay: float = 0.025,
        rate: float = 12.5e6,
        queue: int = 400_000,
        mtu: int = 1472,
        coalesce: bool = True,
        expects_bulk: bool = False,
        idle_timeout: float = IDLE_TIMEOUT,
        new_controller: NewController = Bbr,
    ) -> None:
        chance = random.Random(seed)
        self.now = START
        self._order = count()
        self._arrivals: list[tuple[float, int, bool, bytes, int, Address, Address]] = []
        self.addresses = {True: ALICE, False: BOB}  # whence Alice's (True) and Bob's packets come
        self.others: dict[bool, set[Address]] = {True: set(), False: set()}  # where each is reached besides
        self.strays: list[tuple[bool, Address, bytes]] = []  # Alice's (True) and Bob's to where nobody is

        def link() -> Link:
            return Link(chance, delay, rate, queue, mtu, coalesce, impairments or Impairments())

        alice = Connection(
            keys("alice", "bob"),
            BOB,
            START,
            receive_window_records=window,
            expects_bulk=expects_bulk,
            idle_timeout=idle_timeout,
            random_bytes=random.Random(seed).randbytes,
            new_controller=new_controller,
        )
        bob = Connection(
            keys("bob", "alice"),
            ALICE,
            START,
            receive_window_records=window,
            idle_timeout=idle_timeout,
            random_bytes=random.Random(seed + 1).randbytes,
        )
        self.alice = Machine(alice, link(), to_bob or [])
        self.bob = Machine(bob, link(), to_alice or [], read_interval)
        self.turns = 0

    def run(self, limit: float, until: Callable[[], bool] | None = None) -> None:
        """Runs until the condition holds. Fails when `limit` seconds of virtual time do not suffice."""
        end = self.now + limit
        condition = until or self.is_done
        while not condition():
            if not self.step(end, condition):
                stats = self.alice.connection.stats, self.bob.connection.stats
                raise AssertionError(f"not done in {limit} s: {stats}")

    def run_for(self, duration: float) -> None:
        end = self.now + duration
        while self.step(end):
            pass

    def is_done(self) -> bool:
        return (
            not self.alice.to_send
            and not self.bob.to_send
            and self.alice.connection.is_idle
            and self.bob.connection.is_idle
        )

    def step(self, end: float, stop: Callable[[], bool] = lambda: False) -> bool:
        """One instant. Returns False when nothing more happens before `end`; the clock stands still at `stop`."""
        self.turns += 1
        assert self.turns < 2_000_000, "the machines spin"
        for machine, is_alice in ((self.alice, True), (self.bob, False)):
            for transmit in machine.turn(self.now):
                self._post(machine, transmit, is_alice)
        if stop():
            return True
        times = [at for at in (self.alice.deadline(self.now), self.bob.deadline(self.now)) if at is not None]
        assert all(at > self.now for at in times), "a deadline in the past would spin the loop"
        if self._arrivals:
            times.append(self._arrivals[0][0])
        if not times or min(times) > end:
            self.now = end
            return False
        self.now = max(self.now, min(times))
        while self._arrivals and self._arrivals[0][0] <= self.now:
            _, _, is_alice, data, size, source, destination = heapq.heappop(self._arrivals)
            if destination == self.addresses[is_alice] or destination in self.others[is_alice]:
                self.deliver(is_alice, data, size, source)
            else:
                self.strays.append((not is_alice, destination, data))
        return True

    def deliver(self, is_alice: bool, data: bytes, segment_size: int = 0, source: Address | None = None) -> None:
        """Hands bytes to a machine as if they came from the other one, or from `source`."""
        machine = self.alice if is_alice else self.bob
        source = source or self.addresses[not is_alice]
        buffer = bytearray(data)
        machine.connection.handle_datagram(memoryview(buffer), segment_size, source, self.now)
        buffer[:] = bytes(len(buffer))  # a real buffer is used again: nothing may refer to it

    def _post(self, machine: Machine, transmit: Transmit, is_alice: bool) -> None:
        machine.transmits.append((self.now, transmit))
        data = b"".join(bytes(buffer) for buffer in transmit.buffers)
        size = transmit.segment_size or len(data)
        assert len(data) <= 65_473
        assert -(-len(data) // size) <= 64
        arrivals = [
            arrival
            for start in range(0, len(data), size)
            for arrival in machine.link.carry(data[start : start + size], self.now)
        ]
        bursts = coalesce(arrivals) if machine.link.coalesce else [(at, datagram, 0) for at, datagram in arrivals]
        for at, burst, segment_size in bursts:
            ends = self.addresses[is_alice], transmit.destination
            heapq.heappush(self._arrivals, (at, next(self._order), not is_alice, burst, segment_size, *ends))


def coalesce(arrivals: list[tuple[float, bytes]]) -> list[tuple[float, bytes, int]]:
    """Joins what follows within 100 µs as UDP GRO does: datagrams of one size, only the last shorter."""
    bursts: list[tuple[float, bytes, int]] = []
    for at, datagram in sorted(arrivals, key=lambda arrival: arrival[0]):
        if bursts and datagram:
            last_at, data, size = bursts[-1]
            size = size or len(data)
            if size and len(data) % size == 0 and len(datagram) <= size and at - last_at < 1e-4 and len(data) < 64_000:
                bursts[-1] = (at, data + datagram, size)
                continue
        bursts.append((at, datagram, 0))
    return bursts
