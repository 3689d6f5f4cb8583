"""Routers that get another external address, or give other ports: as plans, and on the kernel.

alice --- left --- core0 --- core1 --- right --- bob
                               |
                             server
"""

from __future__ import annotations

import select
import socket
from dataclasses import replace
from itertools import pairwise

import pytest

from netlab import nat
from netlab.addressing import Version
from netlab.events import ChangePorts, Rebind
from netlab.lab import Node
from netlab.moves import other_ports, rebound, reported
from netlab.nat import KINDS, Guard, Mapping, Nat, Udp
from netlab.plan import plan
from netlab.probe import probe
from netlab.rules import Ruleset, replaced, ruleset
from netlab.schedule import At, Schedule
from netlab.topology import carrier, ipv6_only, one_lan, two_nats

LIMIT = 20  # seconds; reached only when something is broken
TRANSLATING = [kind for kind in KINDS if kind.translates]
MAPPING = [kind for kind in TRANSLATING if kind.udp is Udp.ALLOWED]


def name_of(kind: Nat) -> str:
    return kind.name


def udp(node: Node, port: int = 0) -> socket.socket:
    made = node.socket()
    made.bind((node.address, port))
    made.settimeout(LIMIT)
    return made


def seen(one: socket.socket, other: socket.socket) -> tuple[str, int]:
    """Both ways, once, and nothing came before; returns where ``other`` saw ``one``."""
    one.sendto(b"there", other.getsockname())
    got, source = other.recvfrom(64)
    assert got == b"there"
    other.sendto(b"back", source)
    assert one.recv(64) == b"back"
    return source


def pending(sock: socket.socket) -> bool:
    return bool(select.select([sock], [], [], 0)[0])


# As data


def test_a_rebound_router_has_the_next_address_and_everyone_knows_it() -> None:
    before = two_nats(nat.PORT_RESTRICTED_RANDOM, nat.NONE)
    old, new = plan(before), plan(rebound(before, "left"))
    assert [str(address) for _, address in new.nodes["left"].addresses] == ["11.0.0.2/24", "192.168.1.1/24"]
    assert "11.0.0.1" not in repr(new)
    assert "SNAT --to-source 11.0.0.2:" in new.nodes["left"].rules.commands[0]
    changed = {name for name in new.nodes if new.nodes[name] != old.nodes[name]}
    assert changed == {"left", "core0"}
    without = plan(rebound(before, "right")).nodes["core1"].routes
    assert [str(route.gateway) for route in without if str(route.to) == "13.0.1.0/24"] == ["11.0.1.2"]


def test_addresses_come_round_and_are_never_the_core_s() -> None:
    moved, numbers = two_nats(nat.PORT_RESTRICTED, nat.NONE), []
    for _ in range(600):
        moved = rebound(moved, "left")
        numbers.append(plan(moved).nodes["left"].addresses[0][1].ip)
    assert str(numbers[0]) == "11.0.0.2"
    assert {int(number) & 255 for number in numbers} == set(range(1, 254))
    assert numbers[0] == numbers[253]


def test_a_router_behind_a_carrier_stays_on_its_network_and_off_its_members() -> None:
    topology = carrier(nat.PORT_RESTRICTED, nat.CARRIER)
    (inner,) = (each.name for router in topology.routers for each in router.lan.routers)
    moved, numbers = topology, []
    for _ in range(300):
        moved = rebound(moved, inner)
        numbers.append(str(plan(moved).nodes[inner].addresses[0][1].ip))
    assert numbers[:2] == ["100.64.0.110", "100.64.0.111"]
    assert len(set(numbers)) == 254 - 110


def ranges(commands: tuple[str, ...]) -> set[tuple[str, str]]:
    """Which packets get ports out of which range."""
    return {command.partition(" -j ")[::2] for command in commands if "--to-source" in command and ":" in command}


@pytest.mark.parametrize("kind", MAPPING, ids=name_of)
@pytest.mark.parametrize("hosts", [1, 3])
def test_other_ports_are_others_and_all_else_stays(kind: Nat, hosts: int) -> None:
    addresses = [plan(one_lan(nat.NONE)).nodes["alice"].addresses[0][1].ip + i for i in range(hosts)]
    profile = kind
    for _ in range(6):
        after = other_ports(profile, hosts)
        assert (after.mapping, after.filtering, after.hairpinning, after.lifetime, after.guard) == (
            kind.mapping, kind.filtering, kind.hairpinning, kind.lifetime, kind.guard,
        )  # fmt: skip
        if profile.port_block:
            assert len(after.port_block) == len(profile.port_block)
            assert not set(after.port_block) & set(
                range(profile.port_block.start, profile.port_block.start + hosts * len(profile.port_block))
            )
        one, two = (ruleset(each, addresses[0], addresses).commands for each in (profile, after))
        if kind.mapping is not Mapping.ADDRESS_AND_PORT_DEPENDENT:
            assert not ranges(one) & ranges(two)
        profile = after


@pytest.mark.parametrize(
    ("kind", "words"),
    [(nat.NONE, "does not translate has no ports"), (nat.UDP_BLOCKED, "no UDP mappings"), (nat.ONLY_TCP_443, "no UDP")],
    ids=["none", "UDP blocked", "only TCP 443"],
)
def test_what_has_no_ports_is_told(kind: Nat, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        reported(two_nats(kind, nat.NONE), "left")


def test_port_blocks_run_out_in_words() -> None:
    kind = replace(nat.CARRIER, port_block=range(32768, 65536))
    with pytest.raises(ValueError, match="no other port blocks are left for 1 hosts of 32768 ports each"):
        other_ports(kind, 1)


def test_what_is_no_router_is_told() -> None:
    for change in (rebound, reported):
        with pytest.raises(ValueError, match="alice is no router; these are: left, right"):
            change(two_nats(nat.PORT_RESTRICTED, nat.NONE), "alice")


def test_without_ipv4_there_is_nothing_to_move() -> None:
    with pytest.raises(ValueError, match="left does not carry IPv4: it has no external address to change"):
        rebound(ipv6_only(), "left")
    with pytest.raises(ValueError, match="left does not carry IPv4: it maps no ports"):
        reported(ipv6_only(), "left")


def test_rules_are_undone_backwards_and_only_where_they_differ() -> None:
    old = Ruleset(("iptables -t nat -N MAP", "iptables -t nat -A POSTROUTING -j MAP", "iptables -A INPUT -j DROP"))
    new = Ruleset(("iptables -A INPUT -j REJECT",), nft="table ip netlab {\n}\n")
    assert replaced(old, old) == ((), "")
    assert replaced(old, new) == (
        (
            "iptables -D INPUT -j DROP", "iptables -t nat -D POSTROUTING -j MAP", "iptables -t nat -X MAP",
            "iptables -A INPUT -j REJECT",
        ),
        "table ip netlab {\n}\n",
    )  # fmt: skip
    assert replaced(new, Ruleset(new.commands)) == ((), "delete table ip netlab\n")


def test_a_port_mapper_keeps_its_table_when_the_router_s_own_is_replaced() -> None:
    kind = replace(nat.FULL_CONE, port_mapper=nat.PortMapper.PCP)
    one, two = (plan(rebound(two_nats(kind, nat.NONE), "left")), plan(two_nats(kind, nat.NONE)))
    _, text = replaced(one.nodes["left"].rules, two.nodes["left"].rules)
    assert [line for line in text.splitlines() if line.startswith(("table", "delete"))] == [
        "delete table ip netlab", "table ip netlab {",
    ]  # fmt: skip


# On the kernel


def measurable(kind: Nat) -> Nat:
    """What a probe sees of it at once; the rest takes longer, and lies in rules that do not name an address."""
    return replace(kind, lifetime=nat.LINUX, port_block=None, port_mapper=nat.NO_PORT_MAPPER)


@pytest.mark.parametrize("kind", [nat.NONE, *TRANSLATING], ids=name_of)
def test_a_rebound_router_is_seen_at_its_new_address_and_does_what_it_did(netlab, kind: Nat) -> None:
    lab = netlab(two_nats(kind, nat.NONE))
    for before, after in pairwise(["11.0.0.1", "11.0.0.2", "11.0.0.3"]):
        assert lab.host("left").address == before
        lab.rebind("left")
        assert lab.host("left").address == after
        assert lab.host("left").on("wan", Version.IPV4) == [after]
    assert probe(lab, "alice") == measurable(kind)
    if kind.translates and kind.udp is Udp.ALLOWED:
        alice, server = udp(lab.host("alice")), udp(lab.host("server"))
        assert seen(alice, server)[0] == "11.0.0.3"


@pytest.mark.parametrize("kind", [nat.FULL_CONE, nat.ADDRESS_RESTRICTED, nat.PORT_RESTRICTED], ids=name_of)
def test_a_flow_goes_on_from_the_new_address_and_the_old_one_is_dead(netlab, kind: Nat) -> None:
    lab = netlab(two_nats(kind, nat.NONE))
    alice, server = udp(lab.host("alice")), udp(lab.host("server"))
    old = seen(alice, server)
    lab.rebind("left")
    server.sendto(b"to the old address", old)
    server.sendto(b"to the new one, unasked", (lab.host("left").address, old[1]))
    new = seen(alice, server)
    assert new == ("11.0.0.2", old[1])
    assert not pending(alice)


def test_a_router_behind_a_carrier_is_rebound_and_so_is_the_carrier(netlab) -> None:
    lab = netlab(carrier(nat.PORT_RESTRICTED, nat.CARRIER))
    (outer,) = (router.name for router in lab.topology.routers if router.lan.routers)
    (inner,) = (each.name for router in lab.topology.routers for each in router.lan.routers)
    alice, server = udp(lab.host("alice")), udp(lab.host("server"))
    first = seen(alice, server)
    lab.rebind(inner)
    assert lab.host(inner).address == "100.64.0.110"
    assert seen(alice, server)[0] == first[0]
    lab.rebind(outer)
    assert seen(alice, server)[0] == lab.host(outer).address != first[0]


def test_rules_that_somebody_put_there_stay(netlab) -> None:
    lab = netlab(two_nats(nat.PORT_RESTRICTED_RANDOM, nat.NONE))
    with lab.loss("alice", 1.0):
        lab.rebind("left")
        lab.change_ports("left")
        alice, server = udp(lab.host("alice")), udp(lab.host("server"))
        alice.sendto(b"lost", server.getsockname())
    seen(alice, server)


@pytest.mark.parametrize("kind", MAPPING, ids=name_of)
def test_changed_ports_are_others_at_the_same_address_and_all_else_stays(netlab, kind: Nat) -> None:
    lab = netlab(two_nats(kind, nat.NONE))
    server = udp(lab.host("server"))
    # Ports that programs choose, and such as lie in the ranges that routers draw from.
    clients = [udp(lab.host("alice"), port) for port in (0, 0, 5000, 12000, 20000)]
    before = [seen(client, server) for client in clients]
    for _ in range(3):
        lab.change_ports("left")
        after = [seen(client, server) for client in clients]
        assert {address for address, _ in after} == {"11.0.0.1"}
        if kind.mapping is not Mapping.ADDRESS_AND_PORT_DEPENDENT:
            assert all(one != two for one, two in zip(before, after, strict=True))
        assert before != after  # drawn anew at random, a single one may be what it was
        before = after
    found = probe(lab, "alice")
    assert found == replace(measurable(kind), port_preservation=False, guard=Guard.DROP)


def test_ports_of_a_router_behind_a_carrier_change(netlab) -> None:
    lab = netlab(carrier(nat.PORT_RESTRICTED, nat.CARRIER))
    (outer,) = (router.name for router in lab.topology.routers if router.lan.routers)
    alice, server = udp(lab.host("alice")), udp(lab.host("server"))
    first = seen(alice, server)
    lab.change_ports(outer)
    second = seen(alice, server)
    assert second[0] == first[0]
    assert second[1] != first[1]
    assert second[1] in next(router.nat.port_block for router in lab.topology.routers if router.name == outer)


def test_a_schedule_moves_routers(netlab) -> None:
    lab = netlab(two_nats(nat.FULL_CONE, nat.PORT_RESTRICTED))
    schedule = Schedule((At(0, Rebind("left")), At(0, ChangePorts("right")), At(0, Rebind("left"))))
    with lab.play(schedule) as playing:
        playing.wait(LIMIT)
    assert lab.host("left").address == "11.0.0.3"
    (first, _) = (entry.details for entry in lab.timeline.entries if entry.what == "rebind")
    assert (first["before"], first["after"]) == ("11.0.0.1", "11.0.0.2")
    bob, server = udp(lab.host("bob")), udp(lab.host("server"))
    assert seen(bob, server)[1] != bob.getsockname()[1]
