"""Every profile, proved by our own probe before any other test relies on it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from netlab.nat import (
    ADDRESS_DEPENDENT,
    CARRIER,
    CARRIER_OPEN,
    CARRIER_SYMMETRIC,
    FULL_CONE_HAIRPIN,
    KINDS,
    LINUX,
    NO_PORT_MAPPER,
    NONE,
    PORT_RESTRICTED,
    PORT_RESTRICTED_HAIRPIN,
    PORT_RESTRICTED_RANDOM,
    SYMMETRIC,
    SYMMETRIC_STRIDE,
    Lifetime,
    Nat,
    Udp,
)
from netlab.probe import ProbeError, probe, probe_guard
from netlab.prove import probe_lifetime, probe_port_block, prove
from netlab.rules import SEQUENCE_LENGTH
from netlab.topology import Host, Lan, Router, ServerHost, Topology, carrier, one_carrier, one_lan, two_nats

by_name = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)


@by_name
def test_the_probe_measures_what_the_profile_says(netlab, kind: Nat) -> None:
    running = netlab(two_nats(kind, PORT_RESTRICTED))
    assert prove(running, "alice", kind) == kind
    assert probe(running, "bob") == PORT_RESTRICTED


@by_name
def test_a_second_host_on_the_lan_meets_the_same_behaviour(netlab, kind: Nat) -> None:
    running = netlab(one_lan(kind))
    # What needs no time, no crowd of mappings and no talk with the router.
    at_once = replace(kind, lifetime=LINUX, port_block=None, port_mapper=NO_PORT_MAPPER)
    assert probe(running, "alice") == at_once
    assert probe(running, "bob") == at_once


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind.udp is Udp.ALLOWED], ids=lambda kind: kind.name)
def test_two_hosts_on_one_source_port_get_two_mappings(netlab, kind: Nat) -> None:
    running = netlab(one_lan(kind))
    server = running.host("server").socket()
    server.bind((running.host("server").address, 3478))
    server.settimeout(5)
    clients, seen = {}, {}
    for name in ("alice", "bob"):
        clients[name] = running.host(name).socket()
        clients[name].bind((running.host(name).address, 40000))
        clients[name].settimeout(5)
        clients[name].sendto(name.encode(), server.getsockname())
        got, seen[name] = server.recvfrom(16)
        assert got == name.encode()
    assert seen["alice"] != seen["bob"]
    for name, mapped in seen.items():
        server.sendto(b"for " + name.encode(), mapped)
        assert clients[name].recv(16) == b"for " + name.encode()


@pytest.mark.parametrize("guarded", [True, False])
def test_only_a_guarded_router_keeps_the_port_that_a_peer_sent_to_first(netlab, guarded: bool) -> None:
    running = netlab(two_nats(PORT_RESTRICTED, NONE, guarded=guarded))
    assert probe_guard(running, "alice") is guarded


def test_double_nat_shows_the_stricter_of_both(netlab) -> None:
    inner = Router("home", Lan((Host("alice"),)), PORT_RESTRICTED)
    running = netlab(Topology((Router("carrier", Lan(routers=(inner,)), SYMMETRIC),)))
    assert probe(running, "alice") == SYMMETRIC


def test_the_probe_tells_profiles_apart(netlab) -> None:
    running = netlab(two_nats(SYMMETRIC, PORT_RESTRICTED_RANDOM))
    assert probe(running, "alice") != PORT_RESTRICTED_RANDOM
    assert probe(running, "bob") != SYMMETRIC


@pytest.mark.parametrize("nat", [CARRIER, CARRIER_SYMMETRIC], ids=lambda nat: nat.name)
def test_behind_a_carrier_the_home_router_is_the_carrier_to_see(netlab, nat: Nat) -> None:
    running = netlab(carrier(PORT_RESTRICTED, nat))
    assert prove(running, "alice", nat) == nat
    assert probe(running, "bob") == PORT_RESTRICTED


def test_a_symmetric_home_router_makes_an_easy_carrier_symmetric(netlab) -> None:
    running = netlab(carrier(SYMMETRIC, CARRIER))
    assert prove(running, "alice", CARRIER) == CARRIER_SYMMETRIC


@pytest.mark.parametrize("nat", [CARRIER, CARRIER_SYMMETRIC], ids=lambda nat: nat.name)
def test_each_home_behind_one_carrier_has_ports_of_its_own(netlab, nat: Nat) -> None:
    running = netlab(one_carrier(PORT_RESTRICTED, PORT_RESTRICTED_RANDOM, nat))
    assert probe_port_block(running, "alice") == range(10240, 11264)
    assert probe_port_block(running, "bob") == range(11264, 12288)


def test_address_dependent_mapping_depends_on_every_address_of_a_server_and_after_a_rebind_too(netlab) -> None:
    nats = two_nats(ADDRESS_DEPENDENT, NONE)
    running = netlab(replace(nats, servers=(ServerHost(addresses=6),)))
    server = running.host("server")
    for _ in range(2):
        client, seen = running.host("alice").socket(), []
        for address in server.ipv4:
            asked = server.socket()
            asked.bind((address, 0))
            asked.settimeout(5)
            client.sendto(b"who am I?", asked.getsockname())
            seen.append(asked.recvfrom(16)[1])
        assert len(set(seen)) == len(server.ipv4) == 6
        running.rebind("right")


def test_a_counting_nat_begins_anew_at_its_end(netlab) -> None:
    running = netlab(two_nats(SYMMETRIC_STRIDE, NONE))
    server = running.host("server").socket()
    server.bind((running.host("server").address, 0))
    server.settimeout(5)
    ports = []
    for _ in range(SEQUENCE_LENGTH):
        running.host("alice").socket().sendto(b"new", server.getsockname())
        ports.append(server.recvfrom(16)[1][1])
    assert ports == list(range(ports[0], ports[0] + SEQUENCE_LENGTH * 4, 4))
    assert probe(running, "alice").stride == 4


@pytest.mark.parametrize("nat", [FULL_CONE_HAIRPIN, PORT_RESTRICTED_HAIRPIN, CARRIER_OPEN], ids=lambda nat: nat.name)
def test_hosts_of_one_lan_reach_each_other_through_a_hairpin(netlab, nat: Nat) -> None:
    running = netlab(one_lan(nat))
    server = running.host("server").socket()
    server.bind((running.host("server").address, 0))
    server.settimeout(5)
    clients, seen = {}, {}
    for name in ("alice", "bob"):
        clients[name] = running.host(name).socket()
        clients[name].settimeout(5)
        clients[name].sendto(b"hello", server.getsockname())
        seen[name] = server.recvfrom(16)[1]
    for one, other in (("alice", "bob"), ("bob", "alice")):
        clients[one].sendto(b"over the pin", seen[other])
        assert clients[other].recvfrom(16) == (b"over the pin", seen[one])


def test_address_dependent_mapping_tells_a_peer_from_the_server(netlab) -> None:
    running = netlab(two_nats(ADDRESS_DEPENDENT, NONE))
    alice = running.host("alice").socket()
    seen = set()
    for name, address in [("bob", 0), ("server", 0), ("server", 1)]:
        other = running.host(name).socket()
        other.bind((running.host(name).addresses[address], 0))
        other.settimeout(5)
        alice.sendto(b"hello", other.getsockname())
        seen.add(other.recvfrom(16)[1])
    assert len(seen) == 3


def test_a_mapping_that_outlives_the_probe_is_no_measurement(netlab) -> None:
    running = netlab(two_nats(PORT_RESTRICTED, Nat("three seconds", lifetime=Lifetime(3, 3))))
    with pytest.raises(ProbeError, match="one-way mappings lived"):
        probe_lifetime(running, "alice", 0)
