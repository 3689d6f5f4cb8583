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
    """How long idle mappings live, in whole seconds; it takes up to ``limit`` + 3 seconds.

    It asks from the strangest place that ``filtering`` lets in.
    A packet to a mapping would prolong it, so there is one mapping for each age, and the ages lie
    half-way between the seconds. Raises ``ProbeError`` when a mapping outlives ``limit`` seconds or
    the machine is too busy to tell one second from the next.
    """
    with Bench(lab.host(host), lab.host(server), address) as bench:
        asker = bench.servers[ASKER[filtering]]
        one_way = [_opened(bench, second + 0.5) for second in range(limit + 1)]
        two_way = [_opened(bench, second + 0.5) for second in range(limit + 1)]
        traffic_until = time.monotonic() + TWO_WAY_AFTER
        while time.monotonic() < traffic_until:
            for idle in two_way:
                idle.exchange(bench)
            _ask_all(one_way, bench, asker, until=min(time.monotonic() + KEEP_ALIVE, traffic_until))
        for idle in two_way:
            idle.exchange(bench)
        _ask_all([*one_way, *two_way], bench, asker)
        return Lifetime(_seconds("one-way", one_way), _seconds("two-way", two_way))


@dataclass(slots=True)
class _Idle:
    """A mapping that shall be silent until it is ``due`` seconds old."""

    client: socket.socket
    mapped: tuple[str, int]
    due: float
    since: tuple[float, float]  # its last packet: after the one time, before the other
    alive: bool | None = None
    age: tuple[float, float] = (0, 0)  # when it was asked: at least, at most

    def due_at(self) -> float:
        return self.since[1] + self.due

    def exchange(self, bench: Bench) -> None:
        """A packet each way: the mapping's age is 0 again."""
        begun = time.monotonic()
        bench.servers[0].sendto(b"to and", self.mapped)
        if not readable(self.client, bench.limit):
            raise TimeoutError("a mapping in use let nothing in")
        self.client.recv(64)
        bench.seen(self.client, bench.servers[0])
        self.since = (begun, time.monotonic())

    def ask(self, asker: socket.socket) -> None:
        """Is it still there?"""
        begun = time.monotonic()
        asker.sendto(b"still there?", self.mapped)
        self.alive = readable(self.client, SETTLE)
        self.age = (begun - self.since[1], time.monotonic() - self.since[0])


def _opened(bench: Bench, due: float) -> _Idle:
    client, begun = bench.client(), time.monotonic()
    mapped = bench.seen(client, bench.servers[0])
    return _Idle(client, mapped, due, (begun, time.monotonic()))


def _ask_all(idle: list[_Idle], bench: Bench, asker: socket.socket, until: float = math.inf) -> None:
    """Ask each mapping when it is due, all of them or those due by ``until`` (and wait for that)."""
    waiting = sorted((each for each in idle if each.alive is None), key=_Idle.due_at)
    for each in waiting:
        if each.due_at() > until:
            # Nobody sends to the server now: this waits, and would notice a stray packet.
            _stay_idle(bench.servers[0], until)
            return
        _stay_idle(each.client, each.due_at())
        each.ask(asker)


def _stay_idle(sock: socket.socket, until: float) -> None:
    if readable(sock, max(0.0, until - time.monotonic())):
        raise ProbeError("a mapping that should be idle got a packet")


def _seconds(what: str, idle: list[_Idle]) -> int:
    """The one whole number of seconds that agrees with what was seen of every mapping."""
    lived = max((each.age[0] for each in idle if each.alive), default=0.0)
    died = min((each.age[1] for each in idle if not each.alive), default=0.0)
    fits = [second for second in range(1, len(idle) + 1) if lived < second < died]
    if len(fits) != 1:
        raise ProbeError(f"{what} mappings lived {lived:.1f} s and were dead after {died:.1f} s")
    return fits[0]
