"""What is foretold behind several routers; the probe of a running lab holds it against what they do."""

from __future__ import annotations

from dataclasses import replace

import pytest

from netlab.addressing import Version
from netlab.behind import both, expected, way_out
from netlab.nat import (
    ADDRESS_DEPENDENT,
    ADDRESS_RESTRICTED,
    CARRIER,
    CARRIER_OPEN,
    CARRIER_SYMMETRIC,
    FULL_CONE,
    FULL_CONE_HAIRPIN,
    NONE,
    ONLY_TCP_443,
    PORT_RESTRICTED,
    PORT_RESTRICTED_HAIRPIN,
    PORT_RESTRICTED_MAPPER,
    PORT_RESTRICTED_REJECTING,
    PORT_RESTRICTED_UNGUARDED,
    SHORT_LIFETIME,
    SYMMETRIC,
    SYMMETRIC_STRIDE,
    UDP_BLOCKED,
    UDP_REJECTED,
    Filtering,
    Nat,
)
from netlab.prove import probe_port_mapper, prove
from netlab.topology import Host, Lan, Router, Topology, one_carrier, two_nats

HIDDEN = replace(CARRIER_OPEN, filtering=Filtering.ADDRESS_AND_PORT_DEPENDENT, hairpinning=False)
EACH = [
    (PORT_RESTRICTED, CARRIER, CARRIER),
    (PORT_RESTRICTED, CARRIER_OPEN, HIDDEN),
    (FULL_CONE, CARRIER_OPEN, CARRIER_OPEN),
    (PORT_RESTRICTED_HAIRPIN, PORT_RESTRICTED, PORT_RESTRICTED),
    (FULL_CONE_HAIRPIN, NONE, FULL_CONE_HAIRPIN),
    (SYMMETRIC, CARRIER, CARRIER_SYMMETRIC),
    (ADDRESS_RESTRICTED, FULL_CONE, ADDRESS_RESTRICTED),
    (PORT_RESTRICTED, PORT_RESTRICTED_UNGUARDED, PORT_RESTRICTED_UNGUARDED),
    (PORT_RESTRICTED_UNGUARDED, PORT_RESTRICTED_REJECTING, PORT_RESTRICTED_REJECTING),
    (SYMMETRIC_STRIDE, PORT_RESTRICTED, SYMMETRIC_STRIDE),
    (PORT_RESTRICTED, ADDRESS_DEPENDENT, ADDRESS_DEPENDENT),
    (UDP_BLOCKED, UDP_REJECTED, UDP_BLOCKED),
    (PORT_RESTRICTED, UDP_REJECTED, UDP_REJECTED),
    (UDP_REJECTED, ONLY_TCP_443, replace(ONLY_TCP_443, udp=UDP_REJECTED.udp)),
    (PORT_RESTRICTED_MAPPER, PORT_RESTRICTED, PORT_RESTRICTED),
]


@pytest.mark.netlab
@pytest.mark.parametrize(("inner", "outer", "seen"), EACH, ids=lambda nat: nat.name)
def test_what_is_foretold_is_what_a_probe_finds(netlab, inner: Nat, outer: Nat, seen: Nat) -> None:
    assert both(inner, outer) == seen
    home = Router("home", Lan((Host("alice"),)), inner)
    running = netlab(Topology((Router("carrier", Lan(routers=(home,)), outer),)))
    found = prove(running, "alice", seen)
    if inner.port_mapper:
        found = replace(found, port_mapper=probe_port_mapper(running, "alice"))
    assert found == seen


def test_the_shorter_life_is_what_a_mapping_has() -> None:
    assert both(SHORT_LIFETIME, PORT_RESTRICTED) == both(PORT_RESTRICTED, SHORT_LIFETIME) == SHORT_LIFETIME


def test_only_the_first_machine_of_a_lan_has_the_port_block_of_the_profile() -> None:
    outer = one_carrier(PORT_RESTRICTED, PORT_RESTRICTED, CARRIER).routers
    left, right = outer[0].lan.routers
    assert way_out(outer, right) == [right, outer[0]]
    foretold = [expected(way_out(outer, home), home.lan.hosts[0], Version.IPV4) for home in (left, right)]
    assert foretold == [CARRIER, replace(CARRIER, port_block=None)]


def test_a_router_without_guard_is_seen_to_have_none_only_where_ports_are_kept() -> None:
    for nat, seen in (
        (PORT_RESTRICTED, PORT_RESTRICTED_UNGUARDED),
        (SYMMETRIC, SYMMETRIC),
        (UDP_BLOCKED, UDP_BLOCKED),
        (NONE, NONE),
    ):
        (router, _) = two_nats(nat, NONE, guarded=False).routers
        assert expected([router], router.lan.hosts[0], Version.IPV4) == seen
        assert expected([router], router.lan.hosts[0], Version.IPV6) is None
