"""Everything a profile claims, measured: what :func:`netlab.probe.probe` finds at once, and what takes
time (how long idle mappings live) or many mappings (which ports they get)."""

from __future__ import annotations

import math
import socket
import time
from dataclasses import dataclass, replace
from functools import reduce
from operator import or_

from netlab.lab import Lab
from netlab.nat import LINUX, NO_PORT_MAPPER, Filtering, Lifetime, Nat, PortMapper
from netlab.port_mapping import Client, MapRefused, Wish
from netlab.probe import SETTLE, Bench, ProbeError, probe, readable

BLOCK_FLOWS = 64  # all in one half of their port block: once in 2^63 times
TWO_WAY_AFTER = 2.5  # seconds of two-way traffic; Linux asks for more than 2
# Which of the server's sockets is the strangest that gets in: the mapping was made towards the first.
ASKER = {
    Filtering.ADDRESS_AND_PORT_DEPENDENT: 0,
    Filtering.ADDRESS_DEPENDENT: 1,
    Filtering.ENDPOINT_INDEPENDENT: 3,
}
KEEP_ALIVE = 0.5  # seconds between packets that prove traffic goes both ways
PAUSE = 0.9  # seconds without a packet after which a mapping may be gone: none lives less than one
BUSY = 60.0  # seconds in which there must be two-way traffic without such a pause
ROUNDS = 8


def prove(lab: Lab, host: str, profile: Nat, server: str = "server", *, address: str | None = None) -> Nat:
    """The behaviour that ``host`` meets, to be compared with ``profile``; ``address`` as for the probe.

    Lifetime, port block and port mapper are measured where the profile says something of them.
    Raises what :func:`netlab.probe.probe` raises.
    """
    found = probe(lab, host, server, address=address)
    if profile.port_block is not None:
        found = replace(found, port_block=probe_port_block(lab, host, server, address=address))
    if profile.port_mapper:
        found = replace(found, port_mapper=probe_port_mapper(lab, host, server, address=address))
    if profile.lifetime != LINUX:
        limit = profile.lifetime.two_way + 1
        lifetime = probe_lifetime(lab, host, limit, server, found.filtering, address=address)
        found = replace(found, lifetime=lifetime)
    return found


def probe_port_block(lab: Lab, host: str, server: str = "server", *, address: str | None = None) -> range:
    """The smallest run of 2^n ports from a multiple of 2^n that holds every external port seen."""
    with Bench(lab.host(host), lab.host(server), address) as bench:
        ports = {bench.seen(bench.client(), bench.servers[0])[1] for _ in range(BLOCK_FLOWS)}
    bits = (min(ports) ^ max(ports)).bit_length()
    start = min(ports) >> bits << bits
    return range(start, start + (1 << bits))


def probe_port_mapper(lab: Lab, host: str, server: str = "server", *, address: str | None = None) -> PortMapper:
    """By which protocols ``host`` gets a port opened, in IPv4, that a stranger then really reaches it by."""
    with Bench(lab.host(host), lab.host(server), address) as bench:
        client = Client(bench.host, bench.address)
        router = bench.observe().seen_address()
        return reduce(or_, (each for each in PortMapper if _opens(bench, client, router, each)), NO_PORT_MAPPER)


def _opens(bench: Bench, client: Client, router: str, protocol: PortMapper) -> bool:
    inside, stranger = bench.client(), bench.servers[-1]
    port = inside.getsockname()[1]
    try:
        external = client.map(protocol, Wish(port, port))
    except (MapRefused, OSError):
        return False
    stranger.sendto(b"may I?", (router, external))
    bench.settle()
    arrived = readable(inside, SETTLE)
    client.map(protocol, Wish(port, external, lifetime=0))
    return arrived


def probe_lifetime(
    lab: Lab,
    host: str,
    limit: int,
    server: str = "server",
    filtering: Filtering = Filtering.ADDRESS_AND_PORT_DEPENDENT,
    *,
    address: str | None = None,
) -> Lifetime:
    """How long idle mappings live, in whole seconds; it takes up to ``limit`` + 3 seconds, on a busy machine longer.

    It asks from the strangest place that ``filtering`` lets in.
    A packet to a mapping would prolong it, so there is one mapping for each age, and the ages lie
    half-way between the seconds. Where the machine was too busy to ask in time, so that two seconds
    are still possible, it asks again. Raises ``ProbeError`` when a mapping outlives ``limit`` seconds
    or they contradict each other, or when ``ROUNDS`` did not do.
    """
    with Bench(lab.host(host), lab.host(server), address) as bench:
        asker = bench.servers[ASKER[filtering]]
        one_way, two_way = _Life("one-way", limit), _Life("two-way", limit)
        for _ in range(ROUNDS):
            once = [_opened(bench, age) for age in one_way.ages()]
            both = [_opened(bench, age) for age in two_way.ages()]
            _talk(both, bench, asker, meanwhile=once)
            _ask_all([*once, *both], bench, asker)
            one_way.learn(once)
            two_way.learn(both)
            if len(one_way.fits) == len(two_way.fits) == 1:
                return Lifetime(*one_way.fits, *two_way.fits)
        raise ProbeError(f"the machine is too busy: {one_way}, {two_way}")


@dataclass(slots=True)
class _Idle:
    """A mapping that shall be silent until it is ``due`` seconds old."""

    client: socket.socket
    mapped: tuple[str, int]
    due: float
    since: tuple[float, float]  # its last packet: after the one time, before the other
    talks_since: float = math.inf  # two-way traffic without a pause
    alive: bool | None = None
    age: tuple[float, float] = (0, 0)  # when it was asked: at least, at most

    def due_at(self) -> float:
        return self.since[1] + self.due

    def exchange(self, bench: Bench) -> None:
        """A packet each way: the mapping's age is 0 again. After a pause it may be another one."""
        paused = time.monotonic() - self.since[0] > PAUSE
        self.mapped = bench.seen(self.client, bench.servers[0])
        bench.servers[0].sendto(b"to and", self.mapped)
        if not readable(self.client, bench.limit):
            raise TimeoutError("a mapping in use let nothing in")
        self.client.recv(64)
        begun = time.monotonic()
        bench.seen(self.client, bench.servers[0])
        self.since = (begun, time.monotonic())
        if paused or self.talks_since == math.inf:
            self.talks_since = begun

    def talked(self) -> bool:
        """Whether its last packet came after enough of two-way traffic."""
        return self.since[0] >= self.talks_since + TWO_WAY_AFTER

    def ask(self, bench: Bench, asker: socket.socket) -> None:
        """Is it still there?"""
        begun = time.monotonic()
        asker.sendto(b"still there?", self.mapped)
        bench.settle()
        self.age = (begun - self.since[1], time.monotonic() - self.since[0])
        self.alive = readable(self.client, SETTLE)


@dataclass(slots=True)
class _Life:
    """What is known of how long mappings of one sort live."""

    what: str
    limit: int  # seconds
    lived: float = 0.0  # the oldest that was alive, at least
    died: float = math.inf  # the youngest that was not, at most

    @property
    def fits(self) -> list[int]:
        """The whole seconds that agree with what was seen."""
        return [second for second in range(1, self.limit + 2) if self.lived < second < self.died]

    def ages(self) -> list[float]:
        """At which to ask, seconds: all, and then those between the seconds that are still possible."""
        if self.died == math.inf:
            return [second + 0.5 for second in range(self.limit + 1)]
        return [second + 0.5 for second in self.fits[:-1]]

    def learn(self, asked: list[_Idle]) -> None:
        self.lived = max([self.lived, *(each.age[0] for each in asked if each.alive)])
        self.died = min([self.died, *(each.age[1] for each in asked if not each.alive)])
        if self.died == math.inf or not self.fits:
            raise ProbeError(str(self))

    def __str__(self) -> str:
        return f"{self.what} mappings lived {self.lived:.1f} s and were dead after {self.died:.1f} s"


def _opened(bench: Bench, due: float) -> _Idle:
    client, begun = bench.client(), time.monotonic()
    mapped = bench.seen(client, bench.servers[0])
    return _Idle(client, mapped, due, (begun, time.monotonic()))


def _talk(both: list[_Idle], bench: Bench, asker: socket.socket, meanwhile: list[_Idle]) -> None:
    """Two-way traffic, until the router takes each for a flow of that sort; ``meanwhile`` ask those that are due."""
    deadline = time.monotonic() + BUSY
    while both:
        for idle in both:
            idle.exchange(bench)
        if all(idle.talked() for idle in both):
            return
        if time.monotonic() > deadline:
            raise ProbeError(f"the machine is too busy to send each of {len(both)} mappings a packet in {PAUSE} s")
        _ask_all(meanwhile, bench, asker, until=time.monotonic() + KEEP_ALIVE)


def _ask_all(idle: list[_Idle], bench: Bench, asker: socket.socket, until: float = math.inf) -> None:
    """Ask each mapping when it is due, all of them or those due by ``until`` (and wait for that)."""
    waiting = sorted((each for each in idle if each.alive is None), key=_Idle.due_at)
    for each in waiting:
        if each.due_at() > until:
            # Nobody sends to the server now: this waits, and would notice a stray packet.
            _stay_idle(bench.servers[0], until)
            return
        _stay_idle(each.client, each.due_at())
        each.ask(bench, asker)


def _stay_idle(sock: socket.socket, until: float) -> None:
    if readable(sock, max(0.0, until - time.monotonic())):
        raise ProbeError("a mapping that should be idle got a packet")
