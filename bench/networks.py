"""Networks that are no pair of kinds, and what each should reach: one router for both, IPv6, port mappers."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from bench.expected import AFTER_A_SEARCH, BY_TCP, DIRECTLY, PLAIN, RELAYED, Expected, Route
from netlab.nat import (
    ADDRESS_RESTRICTED,
    CARRIER,
    CARRIER_OPEN,
    CARRIER_SYMMETRIC,
    FIREWALL,
    FIREWALL_REJECTING,
    FULL_CONE,
    FULL_CONE_HAIRPIN,
    NONE,
    PORT_RESTRICTED,
    PORT_RESTRICTED_HAIRPIN,
    PORT_RESTRICTED_MAPPER,
    SYMMETRIC,
    Nat,
    PortMapper,
)
from netlab.topology import Topology, carrier, ipv6_only, one_carrier, one_lan, two_nats


@dataclass(frozen=True, slots=True)
class Network:
    """`rules`: iptables commands, each behind the name of the node that it is for."""

    name: str
    topology: Topology
    expected: Expected
    rules: tuple[tuple[str, str], ...] = ()


_BY_IPV6: Final = Expected(frozenset({Route.DIRECT}), PLAIN, says="IPv6")
_ON_THE_LAN: Final = Expected(frozenset({Route.TCP}), PLAIN, says="LAN")
_FIREWALLS: Final = (FIREWALL, FIREWALL)
_HOME: Final = PORT_RESTRICTED

# What guests of a wireless network know: everybody reaches the router, and nobody the others.
_ISOLATED: Final = tuple((name, "iptables -A INPUT -s 192.168.0.0/16 -j DROP") for name in ("alice", "bob"))


def _mapping(by: PortMapper = PORT_RESTRICTED_MAPPER.port_mapper) -> Nat:
    """A symmetric router that opens ports when asked by one of these protocols."""
    return replace(SYMMETRIC, name="symmetric, port mapper", port_mapper=by)


def _without_udp(*routers: str) -> tuple[tuple[str, str], ...]:
    return tuple((router, "ip6tables -I FORWARD -p udp -j DROP") for router in routers)


_CARRIERS: Final = (
    CARRIER, CARRIER_SYMMETRIC, CARRIER_OPEN, FULL_CONE, FULL_CONE_HAIRPIN, ADDRESS_RESTRICTED, PORT_RESTRICTED,
    PORT_RESTRICTED_HAIRPIN, SYMMETRIC,
)  # fmt: skip

NETWORKS: Final = (
    *(
        Network(
            f"two homes of one carrier: {nat.name}",
            one_carrier(_HOME, _HOME, nat),
            DIRECTLY if nat.hairpinning else RELAYED,
        )
        for nat in _CARRIERS
    ),
    Network("one LAN", one_lan(_HOME), _ON_THE_LAN),
    *(
        Network(f"one LAN, isolated: {nat.name}", one_lan(nat), DIRECTLY if nat.hairpinning else RELAYED, _ISOLATED)
        for nat in (PORT_RESTRICTED, PORT_RESTRICTED_HAIRPIN, FULL_CONE_HAIRPIN)
    ),
    Network("dual stack, homes", two_nats(_HOME, _HOME, ipv6=_FIREWALLS), _BY_IPV6),
    Network("dual stack, symmetric", two_nats(SYMMETRIC, SYMMETRIC, ipv6=_FIREWALLS), _BY_IPV6),
    Network("IPv6 only x dual stack", two_nats(None, _HOME, ipv6=_FIREWALLS), _BY_IPV6),
    Network("dual stack x IPv4 only", two_nats(_HOME, _HOME, ipv6=(FIREWALL, None)), DIRECTLY),
    Network("IPv6 only x IPv4 only", two_nats(None, _HOME, ipv6=(FIREWALL, None)), RELAYED),
    *(
        Network(f"IPv6 only: {left.name} x {right.name}", ipv6_only(left, right), _BY_IPV6)
        for left, right in (
            (NONE, NONE),
            (NONE, FIREWALL),
            (FIREWALL, NONE),
            _FIREWALLS,
            (FIREWALL_REJECTING, FIREWALL),
        )
    ),
    Network("IPv6 only, firewalls, UDP blocked at one", ipv6_only(*_FIREWALLS), BY_TCP, _without_udp("left")),
    Network("IPv6 only, firewalls, UDP blocked", ipv6_only(*_FIREWALLS), BY_TCP, _without_udp("left", "right")),
    *(
        Network(f"{each.name} on a symmetric router x symmetric", two_nats(_mapping(each), SYMMETRIC), DIRECTLY)
        for each in PortMapper
    ),
    Network("port mapper on a symmetric router, both", two_nats(_mapping(), _mapping()), DIRECTLY),
    Network(  # the carrier's port is one for all destinations, and is found by trying many
        "port mapper behind a carrier x symmetric", carrier(PORT_RESTRICTED_MAPPER, CARRIER, SYMMETRIC), AFTER_A_SEARCH
    ),
    Network(
        "port mapper behind a symmetric carrier x symmetric",
        carrier(PORT_RESTRICTED_MAPPER, CARRIER_SYMMETRIC, SYMMETRIC),
        RELAYED,
    ),
)
