"""Topologies, and the plans made of them: pure data."""

from __future__ import annotations

import re
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv4Network, IPv6Network
from itertools import count, product
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from netlab.addressing import Address, link_local, place
from netlab.impair import Impairment
from netlab.nat import CARRIER, FIREWALL, FULL_CONE, NONE, PORT_RESTRICTED, SYMMETRIC, Nat
from netlab.plan import MAIN, NodePlan, Plan, Route, plan
from netlab.topology import (
    MAX_NAME,
    Core,
    Host,
    Lan,
    Link,
    Router,
    ServerHost,
    Topology,
    all_routers,
    carrier,
    homes,
    ipv6_only,
    multi_homed,
    one_carrier,
    one_lan,
    two_nats,
)

GOLDEN = Path(__file__).parent / "golden"
MAX_INTERFACE = 15  # characters; linux/if.h IFNAMSIZ without the terminating zero

# What the plan of each sort of network looks like: a change must be meant.
PLANS = {
    "carrier": carrier(PORT_RESTRICTED),
    "one-carrier": one_carrier(PORT_RESTRICTED, SYMMETRIC),
    "double-nat": Topology(
        (Router("outer", Lan((Host("bob"),), (Router("home", Lan((Host("alice"),)), PORT_RESTRICTED),)), SYMMETRIC),)
    ),
    "multi-homed": multi_homed(PORT_RESTRICTED, CARRIER, ipv6=NONE),
    "dual-stack": two_nats(PORT_RESTRICTED, FIREWALL, ipv6=(FIREWALL, NONE)),
    "ipv6-only": ipv6_only(),
}


def described(made: Plan) -> str:
    """A plan as text that a person can check; sysctls and neighbours have tests of their own."""
    return "\n".join(line for node in made.nodes.values() for line in _described(made, node)) + "\n"


def _described(made: Plan, node: NodePlan) -> Iterator[str]:
    yield node.name
    for link in made.links:
        if link.a.node == node.name:
            port = f" ({link.b.bridge})" if link.b.bridge else ""
            yield f"  {link.a.interface} -- {link.b.node} {link.b.interface}{port}"
    yield from (f"  {interface} {address}" for interface, address in node.addresses)
    yield from (f"  {words(route)}" for route in node.routes)
    yield from (f"  from {address} by table {table}" for address, table in node.sources)
    yield from (f"  {command}" for command in (*node.rules.commands, *node.rules6))


def words(route: Route) -> str:
    way = f"via {route.gateway}" if route.gateway else "" if route.interface else "unreachable"
    parts = [str(route.to), way, f"dev {route.interface}" if route.interface else ""]
    parts += [f"metric {route.metric}" if route.metric else "", f"table {route.table}" if route.table != MAIN else ""]
    return "to " + " ".join(part for part in parts if part)


@pytest.mark.parametrize("name", PLANS)
def test_the_plan_is_the_one_that_was_checked(name: str) -> None:
    assert described(plan(PLANS[name])) == (GOLDEN / f"{name}.plan").read_text(encoding="utf-8")


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


def test_ipv6_addresses_read_like_the_ipv4_ones() -> None:
    made = plan(two_nats(NONE, NONE, ipv6=(FIREWALL, NONE)))
    assert addresses(made, "right") == ["11.0.1.1/24", "13.0.1.1/24", "2a11:0:1::1/64", "2a13:0:1::1/64"]
    assert addresses(made, "bob") == ["13.0.1.10/24", "2a13:0:1::10/64"]
    assert addresses(made, "server") == ["20.0.0.1/24", "20.0.0.2/24", "2a20::1/64", "2a20::2/64"]
    assert str(place(IPv6Network("2a11:0:250::/64"), 254)) == "2a11:0:250::254/64"


def test_the_core_routes_public_networks_and_no_private_one() -> None:
    made = plan(two_nats(PORT_RESTRICTED, NONE))
    one, two = IPv4Address("12.0.0.1"), IPv4Address("12.0.0.2")
    assert made.nodes["core0"].routes == [
        Route(IPv4Network("11.0.1.0/24"), two),
        Route(IPv4Network("13.0.1.0/24"), two),
        Route(IPv4Network("20.0.0.0/24"), two),
    ]
    assert made.nodes["core1"].routes == [
        Route(IPv4Network("11.0.0.0/24"), one),
        Route(IPv4Network("13.0.1.0/24"), IPv4Address("11.0.1.1")),
    ]


def test_the_same_topology_gives_the_same_plan() -> None:
    assert plan(two_nats(SYMMETRIC, NONE)) == plan(two_nats(SYMMETRIC, NONE))


def test_public_addresses_are_public() -> None:
    made = plan(two_nats(NONE, NONE, ipv6=(NONE, NONE)))
    everything = [address.ip for node in made.nodes.values() for _, address in node.addresses]
    assert all(address.is_global for address in everything)
    assert len(set(everything)) == len(everything)


def test_every_interface_has_a_mac_of_its_own_and_neighbours_know_it() -> None:
    made = plan(one_lan(PORT_RESTRICTED, ipv6=NONE))
    macs = [mac for node in made.nodes.values() for mac in node.macs.values()]
    assert len(set(macs)) == len(macs)
    known = {str(address): mac for _, address, mac in made.nodes["alice"].neighbours}
    router, bob = made.nodes["router"].macs["lan"], made.nodes["bob"].macs["eth0"]
    assert known == {
        "192.168.1.1": router,
        "2a13::1": router,
        str(link_local(router)): router,
        "192.168.1.11": bob,
        "2a13::11": bob,
        str(link_local(bob)): bob,
    }


def test_the_topology_of_the_documentation_can_be_planned() -> None:
    text = (Path(__file__).parents[2] / "docs" / "netlab.md").read_text(encoding="utf-8")
    (example,) = (block for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL) if "phone = Host" in block)
    names: dict[str, Topology] = {}
    exec(example, names)
    made = plan(names["lab"])
    assert [name for name, attached in made.attachments.items() if attached.link.impaired] == ["flat", "cell"]
    assert [str(address.ip) for _, address in made.nodes["phone"].addresses] == [
        "192.168.1.10", "192.168.2.10", "2a13::10",
    ]  # fmt: skip


def test_a_link_local_address_is_made_of_the_mac() -> None:
    assert str(link_local("02:00:00:00:01:0d")) == "fe80::ff:fe00:10d"


def test_routers_are_the_whole_core_apart() -> None:
    routers = tuple(Router(name, Lan(), PORT_RESTRICTED) for name in ("a", "b", "c"))
    made = plan(Topology(routers, core=Core(hops=3)))
    ports = {node.name: [i for i in node.macs if i.startswith("p-")] for node in made.nodes.values()}
    assert [ports[f"core{i}"] for i in range(3)] == [["p-a"], ["p-b"], ["p-c", "p-server"]]


def test_two_lans_may_have_the_same_private_network() -> None:
    same = IPv4Network("192.168.1.0/24")
    routers = tuple(
        Router(router, Lan((Host(host),), network=same), PORT_RESTRICTED)
        for router, host in (("left", "alice"), ("right", "bob"))
    )
    made = plan(Topology(routers))
    assert addresses(made, "alice") == addresses(made, "bob") == ["192.168.1.10/24"]


def test_ipv6_is_switched_on_only_where_there_is_an_address() -> None:
    made = plan(two_nats(PORT_RESTRICTED, PORT_RESTRICTED, ipv6=(FIREWALL, None)))
    off = ("net/ipv6/conf/all/disable_ipv6", "1")
    assert {name for name, node in made.nodes.items() if off in node.sysctls} == {"right", "bob"}
    assert made.nodes["left"].ipv6_interfaces() == ["wan", "lan"]
    assert all(("net/ipv6/conf/default/disable_ipv6", "1") in node.sysctls for node in made.nodes.values())


def test_links_are_called_after_their_machine() -> None:
    made = plan(multi_homed(NONE, NONE))
    assert set(made.attachments) == {"wifi", "alice", "mobile", "alice:eth1", "right", "bob", "server"}
    assert made.attachment_name("alice:eth0") == made.attachment_name("alice") == "alice"
    assert made.attachment_name("wifi:wan") == "wifi"
    for wrong in ("carol", "alice:eth2", "bob:wan", "core0"):
        with pytest.raises(KeyError, match=f"no link '{wrong}'.*alice, mobile, alice:eth1"):
            made.attachment_name(wrong)


def test_a_link_s_mtu_is_that_of_its_cable_and_each_interface_has_its_own_link() -> None:
    slow = Link(Impairment(delay=0.1))
    alice = Host("alice", (slow, Link(mtu=1300)))
    made = plan(Topology((Router("a", Lan((alice,)), link=Link(mtu=1400)), Router("b", Lan((alice,))))))
    assert {link.a: link.mtu for link in made.links if link.mtu != 1500} == {
        made.attachments["a"].host: 1400,
        made.attachments["alice:eth1"].host: 1300,
    }
    assert made.attachments["alice"].link is slow
    assert [name for name, attached in made.attachments.items() if attached.link.impaired] == ["alice"]


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Topology((), core=Core(hops=1)), "at least 2 hops"),
        (lambda: Topology((Router("server", Lan()),)), "two nodes are named 'server'"),
        (lambda: Topology((Router("core0", Lan()),)), "two nodes are named 'core0'"),
        (lambda: Topology((Router("r", Lan((Host("much-too-long"),))),)), "'much-too-long' is not 1 to 11"),
        (lambda: Topology((Router("r", Lan((Host("al:ice"),))),)), "'al:ice' has a character"),
        (lambda: Topology((Router("r", Lan(), at=2),)), "the core has no hop 2"),
        (lambda: Topology((), servers=(ServerHost(addresses=0),)), "0 addresses"),
        (lambda: Topology((Router("r", Lan(routers=(Router("in", Lan()),)), SYMMETRIC),)), "must translate"),
        (lambda: Topology((Router("r", Lan(tuple(Host(f"h{i}") for i in range(101)))),)), "more than 100"),
        (lambda: Topology((Router("r", Lan(), None),)), "r: neither IPv4 nor IPv6"),
        (lambda: Topology((), servers=(ServerHost(ipv4=False),)), "server: neither IPv4 nor IPv6"),
        (lambda: Topology((Router("r", Lan(), ipv6=PORT_RESTRICTED),)), "r: nobody translates IPv6"),
        (lambda: Topology((Router("r", Lan(routers=(Router("in", Lan(), ipv6=NONE),))),)), "in: its IPv6 cannot leave"),
        (lambda: Topology((Router("r", Lan((Host("a"), Host("a")))),)), "a: twice on one LAN"),
        (lambda: Topology((Router("r", Lan((Host("a", (Link(), Link())),))),)), "2 links, but it is on 1 LANs"),
        (lambda: Topology((Router("r", Lan(), ipv6=NONE, link=Link(mtu=1279)),)), "r: an MTU is 1280 to 65535"),
        (lambda: Topology((Router("r", Lan((Host("a", Link(mtu=67)),))),)), "a: an MTU is 68 to 65535"),
        (
            lambda: Topology((Router("r", Lan((Host("a"),))), Router("s", Lan((Host("a", Link(mtu=1400)),))))),
            "two nodes are named 'a'",
        ),
    ],
)
def test_what_cannot_be_built_is_refused_in_words(make, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        make()


translating = st.sampled_from([FULL_CONE, PORT_RESTRICTED, SYMMETRIC, CARRIER])
routing = st.sampled_from([NONE, FIREWALL])
slow = settings(deadline=None, max_examples=50)
VERSIONS = [(True, False), (False, True), (True, True)]


@st.composite
def topologies(draw: st.DrawFn) -> Topology:
    """Routers in routers, hosts on one or two LANs, IPv4 and IPv6 wherever their routers have it."""
    fresh = (f"{number:x}".rjust(MAX_NAME, "n") for number in count())  # as long as may be
    roamers = [Host(next(fresh)) for _ in range(draw(st.integers(0, 2)))]
    versions = draw(st.sampled_from(VERSIONS))

    def router(nat: Nat | None, ipv6: Nat | None, depth: int) -> Router:
        inner = []
        for _ in range(draw(st.integers(0, 2)) if depth < 2 else 0):
            four = draw(translating if nat and nat.translates else translating | routing) if nat else None
            inner.append(router(four, draw(routing) if ipv6 else None, depth + 1))
        hosts = [Host(next(fresh)) for _ in range(draw(st.integers(0, 2)))]
        hosts += draw(st.lists(st.sampled_from(roamers), unique=True)) if roamers else []
        return Router(next(fresh), Lan(tuple(hosts), tuple(inner)), nat, ipv6=ipv6)

    outer = []
    for _ in range(draw(st.integers(1, 2))):
        outer.append(
            router(draw(translating | routing) if versions[0] else None, draw(routing) if versions[1] else None, 0)
        )
    servers = tuple(
        ServerHost(next(fresh), ipv4=versions[0], ipv6=versions[1]) for _ in range(draw(st.integers(1, 2)))
    )
    return Topology(tuple(outer), servers, Core(draw(st.integers(2, 4))))


def owners(made: Plan) -> dict[Address, NodePlan]:
    return {address.ip: node for node in made.nodes.values() for _, address in node.addresses}


def arrives(node: NodePlan, to: Address, owner: dict[Address, NodePlan], table: int = MAIN) -> NodePlan:
    """Where a packet ends that is sent from ``node`` to an address, by the best route of each node."""
    for _ in range(20):  # more hops than any topology here has
        if owner[to] is node or any(to in address.network for _, address in node.addresses):
            return owner[to]
        fitting = [route for route in node.routes if to in route.to and route.table == table]
        best = max(fitting, key=lambda route: (route.to.prefixlen, -route.metric))
        assert best.gateway is not None
        node, table = owner[best.gateway], MAIN
    raise AssertionError(f"a loop on the way to {to}")


@slow
@given(topologies())
def test_every_host_finds_every_server_by_each_of_its_addresses(topology: Topology) -> None:
    made = plan(topology)
    owner = owners(made)
    for host in homes(topology.routers):
        node = made.nodes[host.name]
        for server in topology.servers:
            ways = product(node.addresses, made.nodes[server.name].addresses)
            met = [(mine, to) for (_, mine), (_, to) in ways if mine.version == to.version]
            assert met
            for mine, to in met:
                table = dict(node.sources).get(mine.ip, MAIN)
                assert arrives(node, to.ip, owner, table).name == server.name


@slow
@given(topologies())
def test_the_core_finds_every_address_that_nobody_translates(topology: Topology) -> None:
    made = plan(topology)
    owner = owners(made)
    for address, node in owner.items():
        if address.is_global:
            assert arrives(made.nodes["core0"], address, owner) is node


@slow
@given(topologies())
def test_addresses_and_macs_are_unique_and_names_fit(topology: Topology) -> None:
    made = plan(topology)
    everything = [address.ip for node in made.nodes.values() for _, address in node.addresses]
    assert len(set(everything)) == len(everything)
    macs = [mac for node in made.nodes.values() for mac in node.macs.values()]
    assert len(set(macs)) == len(macs)
    assert all(len(name) <= MAX_INTERFACE for node in made.nodes.values() for name in node.macs)
    ends = [end for link in made.links for end in (link.a, link.b)]
    assert len({(end.node, end.interface) for end in ends}) == len(ends)


@slow
@given(topologies())
def test_gateways_are_neighbours_whose_mac_is_known(topology: Topology) -> None:
    for node in plan(topology).nodes.values():
        known = {address for _, address, _ in node.neighbours}
        assert {route.gateway for route in node.routes if route.gateway} <= known
        assert {route.to.version for route in node.routes} <= {a.version for _, a in node.addresses}


@slow
@given(topologies())
def test_routers_and_core_forward_and_ends_do_not_whatever_the_machine_does(topology: Topology) -> None:
    """A new namespace takes net.ipv4.ip_forward over from the machine."""
    ends = {host.name for router in all_routers(topology.routers) for host in router.lan.hosts}
    ends |= {server.name for server in topology.servers}
    for node in plan(topology).nodes.values():
        assert dict(node.sysctls)["net/ipv4/ip_forward"] == ("0" if node.name in ends else "1")
