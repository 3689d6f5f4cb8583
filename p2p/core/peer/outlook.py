"""What two networks can reach of each other, and what would change it: one table for doctor and for every ending."""

from __future__ import annotations

from enum import Enum, auto
from typing import Final

from p2p.core.nat_report import Mapping, NatReport

# Half a sentence, where the internet sees both sides at one address and they do not reach each other inside.
SAME_NAT: Final = "both are behind one router of the provider, which does not turn packets back (no hairpinning)"
SMALL_POOL: Final = 2048  # ports; two sides that search one another meet in a pool of this size within seconds


class Ease(Enum):
    """How hard it is to aim at a network from outside."""

    PUBLIC = auto()  # no NAT and no firewall
    OPEN = auto()  # whoever knows the port is let in (endpoint-independent filtering, or the router opened it for us)
    LENIENT = auto()  # one port whatever the destination, open to all ports of whom we have written to
    EASY = auto()  # one external port whatever the destination, or a firewall without NAT
    COUNTING = auto()  # another port for each destination, but the next one can be told
    POOL = auto()  # at random, within a few hundred ports
    RANDOM = auto()
    BLOCKED = auto()  # no UDP
    CAGED = auto()  # no UDP, and TCP to port 443 only
    UNKNOWN = auto()


class Reach(Enum):
    """What is to be expected of a pair of networks."""

    DIRECT = auto()
    PREDICTED = auto()
    SEARCHED = auto()
    TCP = auto()
    RELAYED = auto()
    UNSURE = auto()


def ease(nat: NatReport) -> Ease:
    """By the mapping alone, which is what a description tells."""
    match nat.mapping:
        case Mapping.NO_UDP:
            return Ease.BLOCKED
        case Mapping.UNKNOWN:
            return Ease.UNKNOWN
        case Mapping.ENDPOINT_INDEPENDENT | Mapping.NOT_PORT_DEPENDENT:
            return Ease.EASY
    if nat.stride:
        return Ease.COUNTING
    return Ease.POOL if 0 < len(nat.ports) <= SMALL_POOL else Ease.RANDOM


_ONE_PORT: Final = (Ease.PUBLIC, Ease.OPEN, Ease.LENIENT, Ease.EASY)
_TABLE: Final = {
    frozenset({Ease.EASY}): Reach.DIRECT,
    frozenset({Ease.EASY, Ease.COUNTING}): Reach.PREDICTED,
    frozenset({Ease.EASY, Ease.POOL}): Reach.SEARCHED,
    frozenset({Ease.EASY, Ease.RANDOM}): Reach.SEARCHED,
    frozenset({Ease.COUNTING}): Reach.PREDICTED,
    frozenset({Ease.POOL}): Reach.SEARCHED,
    # TCP is opened from both sides, for which it needs one external port on both. Routers mostly keep one for TCP where
    # they do for UDP; one that only opens a port when asked may not, and then it is the relay.
    **{frozenset({Ease.BLOCKED, each}): Reach.TCP for each in (*_ONE_PORT, Ease.BLOCKED)},
}


def reach_of(ours: Ease, theirs: Ease) -> Reach:
    """Either way round it is the same. An IPv6 path, or a port that a router opens, may be better than this."""
    pair = frozenset({ours, theirs})
    if Ease.CAGED in pair:
        return Reach.RELAYED
    if Ease.UNKNOWN in pair:
        return Reach.UNSURE
    if Ease.BLOCKED not in pair and pair & {Ease.PUBLIC, Ease.OPEN, Ease.LENIENT}:
        return Reach.DIRECT  # the port that the other side's first packet comes from is learned from it
    return _TABLE.get(pair, Reach.RELAYED)


def reach(ours: NatReport, theirs: NatReport) -> Reach:
    return reach_of(ease(ours), ease(theirs))


_VERB: Final = {
    Ease.BLOCKED: ("network", "lets", "let", "no UDP out"),
    Ease.RANDOM: ("router", "gives", "give", "a new port at random to each destination (symmetric NAT)"),
    Ease.POOL: ("router", "gives", "give", "a new port at random to each destination (symmetric NAT)"),
    Ease.COUNTING: ("router", "gives", "give", "a new port to each destination (symmetric NAT)"),
}


def why_not_direct(ours: NatReport, theirs: NatReport, *, heard: bool = False) -> str:
    """Half a sentence: why no direct path was found. `heard`: whether anything of the other side came through."""
    here, there = _VERB.get(ease(ours)), _VERB.get(ease(theirs))
    if here is not None and here == there:
        return f"both {here[0]}s {here[2]} {here[3]}"
    found = []
    if here is not None:
        found.append(f"your {here[0]} {here[1]} {here[3]}")
    if there is not None:
        found.append(f"the other side's {there[0]} {there[1]} {there[3]}")
    if found:
        return " and ".join(found)
    if heard:
        return "packets came from the other side but none of ours arrived; a firewall on the way lets nothing out"
    return "no packet of the other side came through; a firewall, or a router between you, drops them"
