"""Ready topologies by name. Pure.

``LEFT-x-RIGHT``      alice and bob, each behind a NAT of their own, for every ordered pair of kinds
``one-lan-KIND``      alice and bob on one LAN
``one-carrier-KIND``  each behind a port-restricted home router, both homes behind one carrier's NAT
``double-nat-KIND``   alice behind a home router behind a carrier's NAT; bob behind his own router
``mapper-behind-KIND``  alice behind a home router with a port mapper behind a carrier's NAT, where it must refuse
``unguarded-KIND``    both behind routers that keep an early packet for themselves (see netlab.nat)
``dual-stack-KIND``   each behind a NAT of that kind in IPv4 and a stateful firewall in IPv6
``ipv6-LEFT-x-RIGHT`` no IPv4 anywhere; each behind plain routing or a stateful firewall
``ipv6-only-x-...``   alice has no IPv4, bob has both; or bob has no IPv6, and they share no version
``multi-homed-KIND``  alice on two LANs, that of a port-restricted router and that of a KIND
``bad-links``         a slow and bursty access for alice, a tunnel's MTU for bob
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product
from types import MappingProxyType

from netlab.impair import GilbertElliott, Impairment
from netlab.nat import (
    CARRIER,
    CARRIER_OPEN,
    CARRIER_SYMMETRIC,
    FIREWALL,
    KINDS,
    PORT_RESTRICTED,
    PORT_RESTRICTED_MAPPER,
    Nat,
    Udp,
)
from netlab.topology import Host, Lan, Link, Router, Topology, carrier, ipv6_only, multi_homed, one_lan, two_nats
from netlab.words import slug

NEAR_NAMES = 3  # how many are proposed for a name that does not exist


@dataclass(frozen=True, slots=True)
class Scenario:
    """A topology with a name and one sentence about it."""

    name: str
    summary: str
    topology: Topology


class UnknownName(LookupError):
    """No scenario, kind or host has this name; the message proposes those that look like it."""

    def __init__(self, what: str, name: str, known: list[str], ask: str = "") -> None:
        near = difflib.get_close_matches(name, known, NEAR_NAMES, cutoff=0.5)
        hint = f"did you mean {' or '.join(near)}?" if near else ask or f"there are: {', '.join(known)}"
        super().__init__(f"no {what} is named {name!r}: {hint}")


def scenario(name: str) -> Scenario:
    """The scenario of that name. Raises ``UnknownName``."""
    if name not in SCENARIOS:
        raise UnknownName("scenario", name, list(SCENARIOS), "`python -m netlab list` prints all names")
    return SCENARIOS[name]


def kind(name: str) -> Nat:
    """The profile of that name, ``symmetric`` or ``full-cone``. Raises ``UnknownName``."""
    if slug(name) not in KINDS_BY_NAME:
        raise UnknownName("NAT kind", name, list(KINDS_BY_NAME))
    return KINDS_BY_NAME[slug(name)]


def pair(left: Nat, right: Nat) -> str:
    """The name of the scenario with these two NATs."""
    return f"{slug(left.name)}-x-{slug(right.name)}"


def _home(name: str, host: str, nat: Nat = PORT_RESTRICTED) -> Router:
    return Router(name, Lan((Host(host),)), nat)


def _all() -> list[Scenario]:
    passing = [nat for nat in KINDS if nat.udp is Udp.ALLOWED]
    translating = [nat for nat in KINDS if nat.translates]
    routing = [nat for nat in KINDS if not nat.translates]
    home = PORT_RESTRICTED.name
    return [
        *(
            Scenario(pair(a, b), f"alice behind {a.name}, bob behind {b.name}", two_nats(a, b))
            for a, b in product(KINDS, KINDS)
        ),
        *(Scenario(f"one-lan-{slug(n.name)}", f"alice and bob on one LAN behind {n.name}", one_lan(n)) for n in KINDS),
        *(
            Scenario(
                f"one-carrier-{slug(n.name)}",
                f"alice and bob behind {home} homes of one carrier, which is {n.name}",
                Topology((Router("carrier", Lan(routers=(_home("left", "alice"), _home("right", "bob"))), n),)),
            )
            for n in translating
        ),
        *(
            Scenario(
                f"double-nat-{slug(n.name)}",
                f"alice behind a {home} home behind {n.name}, bob behind {home}",
                Topology((Router("carrier", Lan(routers=(_home("left", "alice"),)), n), _home("right", "bob"))),
            )
            for n in translating
        ),
        *(
            Scenario(
                f"mapper-behind-{slug(n.name)}",
                f"alice behind {PORT_RESTRICTED_MAPPER.name} behind {n.name}, where the mapper refuses",
                carrier(PORT_RESTRICTED_MAPPER, n),
            )
            for n in (CARRIER, CARRIER_SYMMETRIC, CARRIER_OPEN)
        ),
        *(
            Scenario(
                f"unguarded-{slug(n.name)}",
                f"alice and bob behind {n.name} routers that accept what nobody asked for",
                two_nats(n, n, guarded=False),
            )
            for n in translating
            if n in passing
        ),
        *(
            Scenario(
                f"dual-stack-{slug(n.name)}",
                f"alice and bob behind {n.name} in IPv4 and a stateful firewall in IPv6",
                two_nats(n, n, ipv6=(FIREWALL, FIREWALL)),
            )
            for n in translating
        ),
        *(
            Scenario(
                f"ipv6-{pair(a, b)}",
                f"IPv6 only: alice behind {a.name}, bob behind {b.name}",
                ipv6_only(a, b),
            )
            for a, b in product(routing, routing)
        ),
        Scenario(
            "ipv6-only-x-dual-stack",
            f"alice has IPv6 only, bob IPv4 behind {home} too; stateful firewalls",
            two_nats(None, PORT_RESTRICTED, ipv6=(FIREWALL, FIREWALL)),
        ),
        Scenario(
            "ipv6-only-x-ipv4-only",
            "alice has IPv6 only behind a stateful firewall, bob IPv4 only; the server has both",
            two_nats(None, PORT_RESTRICTED, ipv6=(FIREWALL, None)),
        ),
        *(
            Scenario(
                f"multi-homed-{slug(n.name)}",
                f"alice on two LANs, behind {home} and behind {n.name}; bob behind {home}",
                multi_homed(PORT_RESTRICTED, n),
            )
            for n in translating
        ),
        Scenario("bad-links", "alice's access is slow, jittery and loses bursts; bob's has a tunnel's MTU", _bad()),
    ]


def _bad() -> Topology:
    slow = Link(
        up=Impairment(delay=0.030, jitter=0.010, rate=2e6, queue_packets=100),
        down=Impairment(delay=0.030, jitter=0.010, rate=20e6, burst=GilbertElliott.of(0.01, mean_burst=4)),
    )
    tunnel = Link(up=Impairment(delay=0.015), down=Impairment(delay=0.015), mtu=1400)
    return Topology(
        routers=(
            Router("left", Lan((Host("alice"),)), PORT_RESTRICTED, link=slow),
            Router("right", Lan((Host("bob"),)), PORT_RESTRICTED, link=tunnel),
        )
    )


KINDS_BY_NAME: Mapping[str, Nat] = MappingProxyType({slug(nat.name): nat for nat in KINDS})
SCENARIOS: Mapping[str, Scenario] = MappingProxyType({each.name: each for each in _all()})
