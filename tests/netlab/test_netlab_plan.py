"""Topologies, and the plans made of them: pure data."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network

import pytest

from netlab.nat import NONE, PORT_RESTRICTED, SYMMETRIC
from netlab.plan import Plan, plan
from netlab.topology import Core, Host, Lan, Router, ServerHost, Topology, one_lan, two_nats


def addresses(made: Plan, node: str) -> list[str]:
    return [str(address) for _, address in made.nodes[node].addresses]


def test_addresses_of_two_nats() -> None:
    made = plan(two_nats(PORT_RESTRICTED, NONE))
    assert {name: addresses(made, name) for name in made.nodes} == {
        "core0": ["12.0.0.1/24", "11.0.0.254/24"],
        "core1": ["12.0.0.2/24", "11.0.1.254/24", "20.0.0.254/24"],
        "left": ["11.0.0.1/24", "192.168.1.1/24"],
        "alice": ["192.168.1.10/24"],
        "right": ["11.0.1.1/24", "13.0.1.1/24"],
        "bob": ["13.0.1.10/24"],
        "server": ["20.0.0.1/24", "20.0.0.2/24"],
    }


def test_the_core_routes_public_networks_and_no_private_one() -> None:
    made = plan(two_nats(PORT_RESTRICTED, NONE))
    one, two = IPv4Address("12.0.0.1"), IPv4Address("12.0.0.2")
    assert made.nodes["core0"].routes == [
        (IPv4Network("11.0.1.0/24"), two),
        (IPv4Network("13.0.1.0/24"), two),
        (IPv4Network("20.0.0.0/24"), two),
    ]
    assert made.nodes["core1"].routes == [
        (IPv4Network("11.0.0.0/24"), one),
        (IPv4Network("13.0.1.0/24"), IPv4Address("11.0.1.1")),
    ]


def test_the_same_topology_gives_the_same_plan() -> None:
    assert plan(two_nats(SYMMETRIC, NONE)) == plan(two_nats(SYMMETRIC, NONE))


def test_public_addresses_are_public() -> None:
    made = plan(two_nats(NONE, NONE))
    everything = [address.ip for node in made.nodes.values() for _, address in node.addresses]
    assert all(address.is_global for address in everything)
    assert len(set(everything)) == len(everything)


def test_every_interface_has_a_mac_of_its_own_and_neighbours_know_it() -> None:
    made = plan(one_lan(PORT_RESTRICTED))
    macs = [mac for node in made.nodes.values() for mac in node.macs.values()]
    assert len(set(macs)) == len(macs)
    known = {str(address): mac for _, address, mac in made.nodes["alice"].neighbours}
    assert known == {
        "192.168.1.1": made.nodes["router"].macs["lan"],
        "192.168.1.11": made.nodes["bob"].macs["eth0"],
    }


def test_routers_are_the_whole_core_apart() -> None:
    routers = tuple(Router(name, Lan(), PORT_RESTRICTED) for name in ("a", "b", "c"))
    made = plan(Topology(routers, core=Core(hops=3)))
    ports = {node.name: [i for i in node.macs if i.startswith("to-")] for node in made.nodes.values()}
    assert [ports[f"core{i}"] for i in range(3)] == [["to-a"], ["to-b"], ["to-c"]]


def test_a_router_on_a_lan_has_its_wan_there() -> None:
    inner = Router("home", Lan((Host("alice"),)), PORT_RESTRICTED)
    made = plan(Topology((Router("carrier", Lan(routers=(inner,)), SYMMETRIC),)))
    assert addresses(made, "home") == ["192.168.1.10/24", "192.168.2.1/24"]
    assert made.nodes["home"].routes == [(IPv4Network("0.0.0.0/0"), IPv4Address("192.168.1.1"))]


def test_two_lans_may_have_the_same_private_network() -> None:
    same = IPv4Network("192.168.1.0/24")
    routers = tuple(
        Router(router, Lan((Host(host),), network=same), PORT_RESTRICTED)
        for router, host in (("left", "alice"), ("right", "bob"))
    )
    made = plan(Topology(routers))
    assert addresses(made, "alice") == addresses(made, "bob") == ["192.168.1.10/24"]


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Topology((), core=Core(hops=1)), "at least 2 hops"),
        (lambda: Topology((Router("server", Lan()),)), "two nodes are named 'server'"),
        (lambda: Topology((Router("core0", Lan()),)), "two nodes are named 'core0'"),
        (lambda: Topology((Router("r", Lan((Host("much-too-long"),))),)), "'much-too-long' is not 1 to 11"),
        (lambda: Topology((Router("r", Lan(), at=2),)), "the core has no hop 2"),
        (lambda: Topology((), servers=(ServerHost(addresses=0),)), "0 addresses"),
        (lambda: Topology((Router("r", Lan(routers=(Router("in", Lan()),)), SYMMETRIC),)), "must translate"),
        (lambda: Topology((Router("r", Lan(tuple(Host(f"h{i}") for i in range(101)))),)), "more than 100"),
    ],
)
def test_what_cannot_be_built_is_refused_in_words(make, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        make()
