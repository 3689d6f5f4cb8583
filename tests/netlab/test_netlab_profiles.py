"""Every profile, proved by our own probe before any other test relies on it."""

from __future__ import annotations

import pytest

from netlab.nat import KINDS, NONE, PORT_RESTRICTED, PORT_RESTRICTED_RANDOM, SYMMETRIC, Nat, Udp
from netlab.probe import probe, probe_guard
from netlab.topology import Host, Lan, Router, Topology, one_lan, two_nats

by_name = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)


@by_name
def test_the_probe_measures_what_the_profile_says(lab, kind: Nat) -> None:
    running = lab(two_nats(kind, PORT_RESTRICTED))
    assert probe(running, "alice") == kind
    assert probe(running, "bob") == PORT_RESTRICTED


@by_name
def test_a_second_host_on_the_lan_meets_the_same_behaviour(lab, kind: Nat) -> None:
    running = lab(one_lan(kind))
    assert probe(running, "alice") == kind
    assert probe(running, "bob") == kind


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind.udp is Udp.ALLOWED], ids=lambda kind: kind.name)
def test_two_hosts_on_one_source_port_get_two_mappings(lab, kind: Nat) -> None:
    running = lab(one_lan(kind))
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
def test_only_a_guarded_router_keeps_the_port_that_a_peer_sent_to_first(lab, guarded: bool) -> None:
    running = lab(two_nats(PORT_RESTRICTED, NONE, guarded=guarded))
    assert probe_guard(running, "alice") is guarded


def test_double_nat_shows_the_stricter_of_both(lab) -> None:
    inner = Router("home", Lan((Host("alice"),)), PORT_RESTRICTED)
    running = lab(Topology((Router("carrier", Lan(routers=(inner,)), SYMMETRIC),)))
    assert probe(running, "alice") == SYMMETRIC


def test_the_probe_tells_profiles_apart(lab) -> None:
    running = lab(two_nats(SYMMETRIC, PORT_RESTRICTED_RANDOM))
    assert probe(running, "alice") != PORT_RESTRICTED_RANDOM
    assert probe(running, "bob") != SYMMETRIC
