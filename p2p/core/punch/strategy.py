"""Where to aim when the other side's port is not known: what two NatReports make possible.

Both sides hold both descriptions, so each derives its own half of one plan. Times count from the moment when both
have opened their NATs. Words: docs/connecting.md.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from enum import Enum, auto
from itertools import chain, islice
from typing import Final

from p2p.core.address import Address, is_private
from p2p.core.datagram import MAIN
from p2p.core.nat_report import LAST_PORT, Mapping, NatReport
from p2p.core.punch.description import Description, Kind, reachable
from p2p.core.punch.events import How

OPENER_TTL: Final = 3  # leaves a home's and a carrier's NAT and dies before the other side's
ALL_PORTS: Final = range(1024, LAST_PORT + 1)  # what Linux and most others draw from

# Caps of a whole run. A home router's table holds 4,096 flows and more, a carrier allows some 1,000 to 2,000 mappings a
# subscriber: 256 mappings on the hard side are well below either; probes of an easy side share one mapping.
MAX_SOCKETS: Final = 256
MAX_PROBES: Final = 2752  # a pool of 1024 ports on both sides meets with 99.9 % after 2,700 each: 1 - exp(-(k/N)^2)
PROBE_RATE: Final = 950.0  # a second; with one check in 20 ms no more than 1,000 packets of 58 bytes
AIMED_RATE: Final = 250.0  # a second, where a few probes are expected to do
MEETING: Final = 2.65  # times the root of N * M: mappings on each side, of which two meet with 99.9 %
WORTH_TRYING: Final = 0.5  # probability below which two random NATs are left to the relay

PATIENCE: Final = 2.0  # seconds; most direct paths are found in half of them
LITTLE_PATIENCE: Final = 1.0  # seconds, where only a NAT that lets everybody in, or turns packets back, could help

DENSE: Final = 64  # ports after the newest: what programs of a household open in a second or two
COARSE: Final = 100  # ports between two guesses at a row of 256 neighbours: at least two meet it
FAN_ROUNDS: Final = (32, 64, 128, 256)  # sockets; the foreign flows on both sides may be as many together, less one
FAN_ROUND: Final = 0.4  # seconds: a round trip and more between two rounds
RING: Final = 256  # ports before and behind the newest, in which a counter is sought that began anew


class Nature(Enum):
    EASY = auto()  # one port for all destinations
    SEQUENTIAL = auto()  # the next one, or the one `stride` further, for each new destination
    RANDOM = auto()
    UNKNOWN = auto()
    CLOSED = auto()  # no UDP at all


@dataclass(frozen=True, slots=True)
class Shot:
    """One check to a guessed address, or one that makes a mapping to be guessed at."""

    local: int
    address: Address
    ttl: int | None = None


@dataclass(frozen=True, slots=True)
class Volley:
    """Shots at `rate` a second from `at` seconds on."""

    at: float
    rate: float
    how: How
    shots: Iterator[Shot]


@dataclass(frozen=True, slots=True)
class Plan:
    """`sockets`: how many besides the main one. `patience`: seconds that a direct path has before a relayed one."""

    volleys: tuple[Volley, ...] = ()
    sockets: int = 0
    patience: float = PATIENCE


Draw = Callable[[range], Iterator[int]]


def nature(nat: NatReport) -> Nature:
    if nat.mapping is Mapping.NO_UDP:
        return Nature.CLOSED
    if nat.mapping is Mapping.UNKNOWN:
        return Nature.UNKNOWN
    if not nat.is_dependent:
        return Nature.EASY
    return Nature.SEQUENTIAL if nat.stride else Nature.RANDOM


def plan(controlling: bool, local: Description, remote: Description, random_bytes: Callable[[int], bytes]) -> Plan:
    """Our half. `controlling` says who fans and who sweeps where both could."""
    made = _plan(controlling, local, remote, random_bytes)
    own, target = aim(local), aim(remote)
    if own is not None and target is not None and own.host == target.host:
        return replace(made, patience=min(made.patience, LITTLE_PATIENCE))  # few routers turn packets back
    return made


def _plan(controlling: bool, local: Description, remote: Description, random_bytes: Callable[[int], bytes]) -> Plan:
    ours, theirs = nature(local.nat), nature(remote.nat)
    target, own = aim(remote), aim(local)
    if Nature.CLOSED in (ours, theirs):
        return Plan(patience=0.0)
    if target is None or own is None or (is_private(target.host) and not is_private(own.host)):
        # A private address that its own NAT should have hidden may be one of our own network's.
        return Plan()
    if ours is Nature.UNKNOWN and theirs is Nature.EASY:
        ours = Nature.RANDOM
    if theirs is Nature.UNKNOWN and ours is Nature.EASY:
        theirs = Nature.RANDOM

    def draw(ports: range) -> Iterator[int]:
        return drawn(ports, random_bytes)

    match ours, theirs:
        case Nature.EASY, Nature.SEQUENTIAL:
            return _predict(remote, target, draw)
        case Nature.SEQUENTIAL, Nature.EASY:
            return _row(target)
        case Nature.EASY, Nature.RANDOM:
            return _guess(remote, target, draw)
        case Nature.RANDOM, Nature.EASY:
            return _be_guessed(local.nat, target)
        case Nature.SEQUENTIAL, Nature.SEQUENTIAL:
            if Mapping.ADDRESS_DEPENDENT in (local.nat.mapping, remote.nat.mapping):
                return _sweep_each_other(remote, target)
            return _fan_to_one(controlling, local, remote, target, draw)
        case Nature.RANDOM, Nature.RANDOM:
            return _guess_each_other(local.nat, remote.nat, target, draw)
        case (Nature.RANDOM, Nature.SEQUENTIAL) | (Nature.SEQUENTIAL, Nature.RANDOM):
            return Plan(patience=LITTLE_PATIENCE)
        case _:
            return Plan()


def aim(description: Description) -> Address | None:
    """The external IPv4 address of a description, as the server sees it, or that of a host without NAT."""
    for kind in (Kind.SERVER_REFLEXIVE, Kind.HOST):
        for candidate in description.candidates:
            public = kind is Kind.SERVER_REFLEXIVE or not is_private(candidate.address.host)
            if candidate.kind is kind and public and _is_ipv4(candidate.address):
                return candidate.address
    return None


def drawn(ports: range, random_bytes: Callable[[int], bytes]) -> Iterator[int]:
    """All of `ports` in random order (Fisher-Yates, of which only what is taken is computed)."""
    moved: dict[int, int] = {}
    for index in range(len(ports)):
        other = index + int.from_bytes(random_bytes(4), "big") % (len(ports) - index)
        yield ports[moved.get(other, other)]
        moved[other] = moved.pop(index, index)


def counted(base: int, stride: int, steps: Iterable[int]) -> Iterator[int]:
    """`base + stride * step` for each step, and behind the last port the first."""
    return (ALL_PORTS[(base + stride * step - ALL_PORTS.start) % len(ALL_PORTS)] for step in steps)


def _predict(remote: Description, target: Address, draw: Draw) -> Plan:
    base, stride = _newest(remote, target), remote.nat.stride
    reach = len(ALL_PORTS) // abs(stride)
    far = chain.from_iterable((DENSE + step, -step) for step in range(COARSE, reach, COARSE))
    near = chain(_kept_ports(remote), counted(base, stride, range(1, DENSE + 1)))
    return Plan(
        (
            Volley(0.0, AIMED_RATE, How.PREDICTED, _at(target, near)),
            Volley(1.2, PROBE_RATE / 2, How.PREDICTED, _at(target, counted(base, stride, far))),
            Volley(2.5, PROBE_RATE, How.BIRTHDAY, _at(target, _pool_and_others(remote.nat, draw))),
        )
    )


def _row(target: Address) -> Plan:
    """For a NAT that counts, when the other side did not foresee the port of the first: a row of neighbours."""
    fans = (_fan(1.0, How.PREDICTED, MAX_SOCKETS, target), _fan(3.0, How.PREDICTED, MAX_SOCKETS, target, None))
    return Plan(fans, MAX_SOCKETS)


def _guess(remote: Description, target: Address, draw: Draw) -> Plan:
    """Against 256 ports of 64,512, 1,024 guesses meet with 98.3 %, 2,048 with 99.97 %."""
    ports = chain(_kept_ports(remote), _pool_and_others(remote.nat, draw))
    return Plan((Volley(0.5, PROBE_RATE, How.BIRTHDAY, _at(target, ports)),))


def _be_guessed(nat: NatReport, target: Address) -> Plan:
    """A quarter of a small pool leaves the rest to the household, and is met by one guess in four."""
    small = nat.mapping is not Mapping.ADDRESS_DEPENDENT  # where each address has ports of its own it is not ours
    sockets = max(16, min(MAX_SOCKETS, len(_pool(nat)) // 4)) if small else MAX_SOCKETS
    return Plan((_fan(0.3, How.BIRTHDAY, sockets, target), _fan(3.0, How.BIRTHDAY, sockets, target, None)), sockets)


def _sweep_each_other(remote: Description, target: Address) -> Plan:
    """At least one side keeps its port while it tries the other's; that of the other need not be known, only passed."""
    ports = list(counted(_newest(remote, target), remote.nat.stride, range(1, DENSE + 1)))
    return Plan(tuple(Volley(at, AIMED_RATE, How.PREDICTED, _at(target, iter(ports))) for at in (0.0, 0.5, 1.5)))


def _fan_to_one(controlling: bool, local: Description, remote: Description, target: Address, draw: Draw) -> Plan:
    """The controlling side's sockets all aim at one port of the other, which passes it while it sweeps their row.

    Checks of the told candidates have moved both counters before. Each round begins where the last one ended. In the
    end the counters may have begun anew, where is not known.
    """
    stride = remote.nat.stride
    base = _newest(remote, target) + stride * _destinations(local)
    volleys, done = [], 0

    def shots(first: int, width: int, ttl: int | None) -> Iterator[Shot]:
        if controlling:
            (one,) = counted(base, stride, (first + width,))
            return (Shot(socket, target._replace(port=one), ttl) for socket in range(1, width + 1))
        return _at(target, counted(base, stride, range(first + 1, first + width + 1)))

    for number, width in enumerate(FAN_ROUNDS):
        at = 0.2 + number * FAN_ROUND
        volleys.append(Volley(at, PROBE_RATE, How.PREDICTED, shots(done, width, OPENER_TTL)))
        volleys.append(Volley(at + FAN_ROUND / 2, PROBE_RATE, How.PREDICTED, shots(done, width, None)))
        done += width
    ring = list(counted(_newest(remote, target), stride, range(-RING, RING)))
    last, used = _meet(0.2 + len(FAN_ROUNDS) * FAN_ROUND, target, ring, len(ring), draw)
    return Plan((*volleys, last), max(FAN_ROUNDS) if controlling else used)


def _guess_each_other(local: NatReport, remote: NatReport, target: Address, draw: Draw) -> Plan:
    ours, theirs = len(_pool(local)), len(_pool(remote))
    probes = min(MAX_PROBES, math.ceil(MEETING * math.sqrt(ours * theirs)))
    if -math.expm1(-(probes**2) / (ours * theirs)) < WORTH_TRYING:
        return Plan(patience=LITTLE_PATIENCE)
    volley, sockets = _meet(0.3, target, _pool(remote), ours, draw)
    return Plan((volley,), sockets)


def _meet(at: float, target: Address, theirs: Sequence[int], ours: int, draw: Draw) -> tuple[Volley, int]:
    """Each side makes as many mappings as it may, each towards another port of the other's pool.

    One of ours and one of theirs must aim at each other: of k each, k^2 / (N * M) do. Returns the number of sockets.
    """
    probes = min(MAX_PROBES, math.ceil(MEETING * math.sqrt(ours * len(theirs))))
    sockets = math.ceil(probes / len(theirs))
    pairs = ((socket, theirs[place]) for socket in range(1, sockets + 1) for place in draw(range(len(theirs))))
    shots = (Shot(socket, target._replace(port=port)) for socket, port in pairs)
    return Volley(at, PROBE_RATE, How.BIRTHDAY, islice(shots, probes)), sockets


def _fan(at: float, how: How, sockets: int, target: Address, ttl: int | None = OPENER_TTL) -> Volley:
    """A mapping for each socket. With the low TTL none of them reaches, and spoils, the other side's NAT."""
    return Volley(at, PROBE_RATE, how, (Shot(socket, target, ttl) for socket in range(1, sockets + 1)))


def _at(target: Address, ports: Iterable[int]) -> Iterator[Shot]:
    return (Shot(MAIN, target._replace(port=port)) for port in ports)


def _pool(nat: NatReport) -> range:
    return nat.ports or ALL_PORTS


def _pool_and_others(nat: NatReport, draw: Draw) -> Iterator[int]:
    """Every fourth port from the pool that the report names: a few samples told it, of other addresses than ours."""
    if not (pool := nat.ports):
        yield from draw(ALL_PORTS)
        return
    inside, outside = draw(pool), (port for port in draw(ALL_PORTS) if port not in pool)
    while turn := [*islice(inside, 1), *islice(outside, 3)]:
        yield from turn


def _kept_ports(remote: Description) -> Iterator[int]:
    """Internal ports, of a NAT that keeps them where they are free."""
    hosts = (c.address.port for c in remote.candidates if c.kind is Kind.HOST and _is_ipv4(c.address))
    return iter(set(hosts)) if remote.nat.preserves_ports else iter(())


def _newest(remote: Description, target: Address) -> int:
    return remote.nat.newest or target.port


def _destinations(description: Description) -> int:
    """How many mappings the other side makes by checking what is told here."""
    return len({c.address for c in description.candidates if _is_ipv4(c.address) and c.kind in _CHECKED})


_CHECKED: Final = (Kind.HOST, Kind.SERVER_REFLEXIVE, Kind.MAPPED)


def _is_ipv4(address: Address) -> bool:
    return ":" not in address.host and reachable(address)
