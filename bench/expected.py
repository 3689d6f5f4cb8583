"""Which path a pair of networks should take, and by when: one table for the lab (bench.matrix) and the simulator."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Final

from netlab.nat import NO_PORT_MAPPER, Filtering, Mapping, Nat, Tcp, Udp
from netlab.page import Result


class Route(Enum):
    """What a pair may end on, as the program's words for it begin."""

    DIRECT = "direct UDP"
    TCP = "direct TCP"
    RELAY = "relay"


@dataclass(frozen=True, slots=True)
class Expected:
    """`paths`: any of them is right. `seconds`: by when it must stand. `says`: what its words must have in them."""

    paths: frozenset[Route]
    seconds: float
    says: str = ""

    @property
    def is_searched(self) -> bool:
        """Whether it may take so long that something else has to be used meanwhile."""
        return self.seconds > PLAIN

    def __str__(self) -> str:
        paths = " or ".join(sorted(path.value for path in self.paths))
        meanwhile = f", something within {PLAIN:.0f} s" if self.is_searched else ""
        return f"{paths}{f' ({self.says})' if self.says else ''} within {self.seconds:.0f} s{meanwhile}"


class Hardness(Enum):
    EASY = "one external port"
    OPEN = "one external port for everybody, or for every port of whom we wrote to"
    COUNTING = "another port each time, by a rule"
    POOL = "another port each time, out of a small pool"
    RANDOM = "another port each time"
    OPEN_RANDOM = "another port each time, and each lets everybody in"
    BLOCKED = "no UDP"
    ONLY_443 = "TCP to port 443, and nothing else"


PLAIN: Final = 3.0  # seconds; also until something must be there where a search goes on
SEARCHED: Final = 8.0
_FIXED: Final = {Hardness.EASY, Hardness.OPEN}

DIRECTLY: Final = Expected(frozenset({Route.DIRECT}), PLAIN)
AFTER_A_SEARCH: Final = Expected(frozenset({Route.DIRECT}), SEARCHED)
BY_TCP: Final = Expected(frozenset({Route.TCP}), PLAIN)
RELAYED: Final = Expected(frozenset({Route.RELAY}), PLAIN)
BY_LUCK: Final = Expected(frozenset({Route.DIRECT, Route.RELAY}), PLAIN)


@dataclass(frozen=True, slots=True)
class Side:
    """`keeps_tcp_port`: TCP has one external port whatever the destination, which the other side can aim at."""

    hardness: Hardness
    keeps_tcp_port: bool = True


def side(nat: Nat) -> Side:
    """netlab counts, and keeps to blocks of, the ports of UDP only: of TCP all routers keep the port but one."""
    is_random = nat.mapping is Mapping.ADDRESS_AND_PORT_DEPENDENT and not nat.stride and nat.port_block is None
    return Side(hardness(nat), not is_random)


def hardness(nat: Nat) -> Hardness:
    if nat.udp is not Udp.ALLOWED:
        return Hardness.ONLY_443 if nat.tcp is Tcp.ONLY_443 else Hardness.BLOCKED
    lets_in = nat.filtering is not Filtering.ADDRESS_AND_PORT_DEPENDENT
    if nat.mapping is Mapping.ENDPOINT_INDEPENDENT:
        return Hardness.OPEN if lets_in or nat.port_mapper != NO_PORT_MAPPER else Hardness.EASY
    if nat.filtering is Filtering.ENDPOINT_INDEPENDENT:
        return Hardness.OPEN_RANDOM
    if nat.stride:
        return Hardness.COUNTING
    return Hardness.POOL if nat.port_block is not None else Hardness.RANDOM


def expected(left: Nat, right: Nat) -> Expected:
    return expected_of(side(left), side(right))


def expected_of(left: Side, right: Side) -> Expected:
    """Direct wherever two NATs of these kinds can be joined; what each pair can reach: docs/connecting.md."""
    pair = {left.hardness, right.hardness}
    if Hardness.ONLY_443 in pair:
        return RELAYED
    if Hardness.BLOCKED in pair:
        return BY_TCP if left.keeps_tcp_port and right.keeps_tcp_port else RELAYED
    if pair <= _FIXED or Hardness.OPEN in pair:
        return DIRECTLY
    if Hardness.EASY in pair or pair in ({Hardness.COUNTING}, {Hardness.POOL}):
        return AFTER_A_SEARCH
    return BY_LUCK


def complaint(result: Result, wanted: Expected) -> str | None:
    """What is wrong with this pair; None: nothing."""
    if not result.path or result.seconds is None:
        return f"no path: {result.words or 'the programs gave no reason'}"
    if result.seconds > PLAIN:
        return f"nothing for {result.seconds:.1f} s, not even a relay: {result.path}"
    paths = [(result.path, result.seconds)]
    if result.later_seconds is not None:
        paths.append((result.later, result.later_seconds))
    right = [seconds for path, seconds in paths if _is_one(path, wanted)]
    if not right:
        return f"{paths[-1][0]!r} where this was to be: {wanted}"
    if min(right) > wanted.seconds:
        return f"after {min(right):.1f} s, wanted within {wanted.seconds:.0f}: {paths[-1][0]}"
    return None


def ended_too_soon(result: Result, wanted: Expected) -> bool:
    """Whether all went by the relay while the search may have been going on: a longer transfer shows what it finds."""
    in_time = result.seconds is not None and result.seconds <= PLAIN
    is_relayed = result.path.startswith(Route.RELAY.value) and not result.later
    return wanted.is_searched and in_time and is_relayed


def _is_one(path: str, wanted: Expected) -> bool:
    return wanted.says in path and any(path.startswith(route.value) for route in wanted.paths)
