"""A NAT in memory between a machine of p2p.core.nat and a real StunServer, in virtual time.

NatProbe, sockets 0, 1, … at HERE ── Router (a behaviour of RFC 4787, other hosts behind it) ── StunServer, 4 sockets
"""

from __future__ import annotations

import heapq
import itertools
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

from p2p.core.address import Address
from p2p.core.datagram import Transmit
from p2p.core.nat.filtering import Filtering
from p2p.core.nat_report import Mapping
from p2p.core.stun.server import Endpoints, StunServer

HERE = "192.168.1.10"
OUTSIDE = "198.51.100.1"
PORTS = (8080, 8081)
ONE_HOST = Endpoints(PORTS, ("203.0.113.1",))
TWO_HOSTS = Endpoints(PORTS, ("203.0.113.1", "203.0.113.2"))
PUBLIC_STUN = Endpoints((3478, 3479), ("192.0.2.33",))
SERVER = Address("203.0.113.1", 8080)
STUN = Address("192.0.2.33", 3478)
FIRST_LOCAL_PORT = 50_000
MAX_STEPS_AT_ONCE = 1000
OTHERS = Address("203.0.113.99", 443)  # whom the other hosts behind the router talk to

Allocate = Callable[[random.Random, int, int], int]
EventT = TypeVar("EventT")
EventT_co = TypeVar("EventT_co", covariant=True)


class Machine(Protocol[EventT_co]):
    def handle_datagram(self, data: bytes, source: Address, local: int, now: float) -> None: ...
    def handle_timeout(self, now: float) -> None: ...
    def poll_transmit(self) -> Transmit | None: ...
    def poll_event(self) -> EventT_co | None: ...
    def poll_timeout(self) -> float | None: ...


def random_ports(pool: range) -> Allocate:
    return lambda rng, _last, _local: rng.choice(pool)


def counted(stride: int, first: int = 40_000, pool: range = range(1024, 65536)) -> Allocate:
    def following(_rng: random.Random, last: int, _local: int) -> int:
        wanted = last + stride if last else first
        return wanted if wanted in pool else (pool[0] if stride > 0 else pool[-1])

    return following


def preserved(_rng: random.Random, _last: int, local: int) -> int:
    return local


@dataclass
class Behaviour:
    """`allocate(rng, last, local port)` gives the next external port; a taken one is asked for again."""

    mapping: Mapping = Mapping.ENDPOINT_INDEPENDENT
    filtering: Filtering = Filtering.ADDRESS_AND_PORT_DEPENDENT
    allocate: Allocate = preserved
    hairpins: bool = False
    lifetime: float = 1e9
    foreign: float = 0.0  # mappings that other hosts make, on average, for each of ours
    blocked: bool = False


@dataclass
class Router:
    behaviour: Behaviour
    rng: random.Random
    external: dict[tuple[object, ...], int] = field(default_factory=dict)
    internal: dict[int, tuple[int, set[Address], list[float]]] = field(default_factory=dict)
    last: int = 0
    _others: int = 0

    def out(self, local: int, destination: Address, now: float) -> Address:
        """The external source of what the local port sends there."""
        port = self._mapped(local, destination, now)
        _, known, used = self.internal[port]
        known.add(destination)
        used[0] = now
        return Address(OUTSIDE, port)

    def back(self, source: Address, port: int, now: float) -> int | None:
        """The local port that what comes to the external one is for; None: dropped."""
        if port not in self.internal or self._is_old(port, now):
            return None
        local, known, used = self.internal[port]
        match self.behaviour.filtering:
            case Filtering.ADDRESS_AND_PORT_DEPENDENT if source not in known:
                return None
            case Filtering.ADDRESS_DEPENDENT if source.host not in {address.host for address in known}:
                return None
        used[0] = now
        return local

    def _mapped(self, local: int, destination: Address, now: float) -> int:
        depends_on: tuple[object, ...]
        match self.behaviour.mapping:
            case Mapping.ENDPOINT_INDEPENDENT:
                depends_on = ()
            case Mapping.ADDRESS_DEPENDENT:
                depends_on = (destination.host,)
            case _:
                depends_on = (destination,)
        key = (local, *depends_on)
        if key in self.external and not self._is_old(self.external[key], now):
            return self.external[key]
        while self.rng.random() < self.behaviour.foreign / (1 + self.behaviour.foreign):  # geometric, of that mean
            self._others += 1
            self._allocate(-self._others, (-self._others,), now)
        return self._allocate(local, key, now)

    def _allocate(self, local: int, key: tuple[object, ...], now: float) -> int:
        port = self.last
        for _ in range(100_000):
            port = self.behaviour.allocate(self.rng, port, local)
            if port not in self.internal:
                break
            port += self.behaviour.allocate is preserved
        self.last = port
        self.external[key] = port
        self.internal[port] = (local, {OTHERS} if local < 0 else set(), [now])
        return port

    def _is_old(self, port: int, now: float) -> bool:
        return now - self.internal[port][2][0] >= self.behaviour.lifetime


class World:
    """Runs one machine against one server and one public STUN server."""

    def __init__(
        self,
        behaviour: Behaviour,
        endpoints: Endpoints = TWO_HOSTS,
        *,
        seed: int = 1,
        delay: float = 0.02,
        loss: float = 0.0,
        deaf: frozenset[int] = frozenset(),
        sockets: int = 32,
    ) -> None:
        """`delay`: seconds, one way. `deaf`: the server's sockets by number that answer nothing."""
        self.now = 100.0
        self.rng = random.Random(seed)
        self.router = Router(behaviour, self.rng)
        self.sent: list[tuple[float, Transmit]] = []
        self._behaviour = behaviour
        self._servers = [(endpoints, StunServer(endpoints), deaf), (PUBLIC_STUN, StunServer(PUBLIC_STUN), frozenset())]
        self._delay = delay
        self._loss = loss
        self._order = itertools.count()
        self._steps_at_once = 0
        self._flying: list[tuple[float, int, Callable[[], None]]] = []
        self.ports = {number: FIRST_LOCAL_PORT + 7 * number for number in range(sockets)}

    def until(self, machine: Machine[EventT], is_last: Callable[[EventT], bool], limit: float = 300.0) -> list[EventT]:
        """All events up to one like that. Fails when nothing more can happen, or nothing within `limit` seconds."""
        events: list[EventT] = []
        end = self.now + limit
        while not events or not is_last(events[-1]):
            if (event := machine.poll_event()) is not None:
                events.append(event)
                continue
            assert self.step(machine), f"nothing more after {events}"
            assert self.now <= end, f"only {events}"
        return events

    def run(self, machine: Machine[EventT], seconds: float) -> list[EventT]:
        """All events of so many seconds."""
        end = self.now + seconds
        self._at(end, lambda: None)
        while self.now < end and self.step(machine):
            pass
        return list(iter(machine.poll_event, None))

    def step(self, machine: Machine[EventT]) -> bool:
        while (transmit := machine.poll_transmit()) is not None:
            self.sent.append((self.now, transmit))
            self._send(machine, transmit)
        deadline = machine.poll_timeout()
        arrival = self._flying[0][0] if self._flying else None
        at = min((moment for moment in (deadline, arrival) if moment is not None), default=None)
        if at is None:
            return False
        self._steps_at_once = self._steps_at_once + 1 if at <= self.now else 0
        assert self._steps_at_once < MAX_STEPS_AT_ONCE, "the machine's deadline does not pass"
        self.now = max(self.now, at)
        if arrival is not None and arrival <= self.now:
            heapq.heappop(self._flying)[2]()
        else:
            machine.handle_timeout(self.now)
        return True

    def _send(self, machine: Machine[EventT], transmit: Transmit) -> None:
        data, local = b"".join(transmit.buffers), self.ports[transmit.local]
        if self._behaviour.blocked or self.rng.random() < self._loss:
            return
        source = self.router.out(local, transmit.destination, self.now)
        if transmit.destination.host == OUTSIDE:
            if self._behaviour.hairpins:
                port = transmit.destination.port
                self._at(self.now, lambda: self._deliver(machine, data, source, port))
            return
        self._at(self.now + self._delay, lambda: self._arrive(machine, data, source, transmit.destination))

    def _arrive(self, machine: Machine[EventT], data: bytes, source: Address, destination: Address) -> None:
        for endpoints, server, deaf in self._servers:
            sockets = [Address(host, port) for host in endpoints.hosts for port in endpoints.ports]
            if destination not in sockets or sockets.index(destination) in deaf:
                continue
            answer = server.handle_datagram(data, source, sockets.index(destination), self.now)
            if answer is None or self.rng.random() < self._loss:
                continue
            origin, port, reply = sockets[answer.index], answer.destination.port, answer.data
            self._at(
                self.now + self._delay,
                lambda reply=reply, origin=origin, port=port: self._deliver(machine, reply, origin, port),
            )

    def _deliver(self, machine: Machine[EventT], data: bytes, source: Address, port: int) -> None:
        # What is turned back passes whatever the filtering (RFC 4787 section 6 leaves it open).
        local = self.router.internal[port][0] if source.host == OUTSIDE else self.router.back(source, port, self.now)
        numbers = {bound: number for number, bound in self.ports.items()}
        if local in numbers:
            machine.handle_datagram(data, source, numbers[local], self.now)

    def _at(self, moment: float, action: Callable[[], None]) -> None:
        heapq.heappush(self._flying, (moment, next(self._order), action))
