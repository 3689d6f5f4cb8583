"""`doctor` on real kernels, behind several kinds of router at once: what it says is what the profile says.

host0 --- nat0 ---+
host1 --- nat1 ---+--- core0 --- core1 --- server (two addresses, TCP 443 as well)
alice --- home --- carrier --+
          (mapper)
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import Any

import pytest
from harness import Program

from netlab import nat
from netlab.lab import Lab, Node
from netlab.nat import Filtering, Mapping, Nat, PortMapper
from netlab.topology import SHARED_SPACE, Host, Lan, Link, Router, Topology, ipv6_only, two_nats

pytestmark = pytest.mark.netlab()

AT_ONCE = 4  # each start costs a second of a core, and what is measured has time-outs of its own
PORT = 8080
MAPPINGS = {
    Mapping.ENDPOINT_INDEPENDENT: "endpoint-independent",
    Mapping.ADDRESS_DEPENDENT: "address-dependent",
    Mapping.ADDRESS_AND_PORT_DEPENDENT: "address-and-port-dependent",
}
FILTERINGS = {
    Filtering.ENDPOINT_INDEPENDENT: "endpoint-independent",
    Filtering.ADDRESS_DEPENDENT: "address-dependent",
    Filtering.ADDRESS_AND_PORT_DEPENDENT: "address-and-port-dependent",
}
ALL = PortMapper.NAT_PMP | PortMapper.PCP | PortMapper.UPNP


@dataclass(frozen=True)
class Kind:
    nat: Nat
    network: str  # as the diagnosis names it
    friends: tuple[str, str, str]  # easy, at random, without UDP


KINDS = (
    Kind(nat.NONE, "public", ("direct", "direct", "tcp")),
    Kind(nat.PORT_RESTRICTED, "easy", ("direct", "searched", "tcp")),
    Kind(Nat("full cone, mapper", filtering=Filtering.ENDPOINT_INDEPENDENT, hairpinning=True, port_mapper=ALL), "open",
         ("direct", "direct", "tcp")),
    Kind(Nat("symmetric, mapper", mapping=Mapping.ADDRESS_AND_PORT_DEPENDENT, port_preservation=False,
             port_mapper=PortMapper.UPNP), "open", ("direct", "direct", "tcp")),
    Kind(nat.ADDRESS_RESTRICTED, "lenient", ("direct", "direct", "tcp")),
    Kind(nat.SYMMETRIC, "random", ("searched", "relayed", "relayed")),
    Kind(nat.SYMMETRIC_STRIDE, "counting", ("predicted", "relayed", "relayed")),
    Kind(nat.CARRIER_SYMMETRIC, "pool", ("searched", "relayed", "relayed")),
    Kind(nat.UDP_BLOCKED, "blocked", ("tcp", "relayed", "tcp")),
    Kind(nat.ONLY_TCP_443, "caged", ("relayed", "relayed", "relayed")),
)  # fmt: skip


@contextmanager
def serving(server: Node, *options: str):
    program = Program(server.popen, ["-m", "p2p.server", "--port", str(PORT), "--tcp-port", "443", *options])
    try:
        program.wait_for("listening on")
        yield
    finally:
        program.kill()


def doctor(node: Node, *options: str) -> Program:
    return Program(node.popen, ["-m", "p2p.peer", "doctor", "--json", *options])


def with_alternate(lab: Lab) -> Sequence[str]:
    one, two = lab.host("server").addresses[:2]
    return ["--host", one, "--alt-host", two]


def last(program: Program, name: str) -> dict[str, Any]:
    return [event for event in program.events if event["event"] == name][-1]


def test_each_kind_of_router_is_known_and_the_table_fits_it(netlab: Callable[[Topology], Lab]) -> None:
    behind_carrier = Router("home", Lan((Host("alice"),)), nat.PORT_RESTRICTED_MAPPER)
    routers = [Router(f"nat{i}", Lan((Host(f"host{i}"),)), kind.nat) for i, kind in enumerate(KINDS)]
    lab = netlab(
        Topology((*routers, Router("carrier", Lan(routers=(behind_carrier,), network=SHARED_SPACE), nat.CARRIER)))
    )
    server = lab.host("server").address
    with serving(lab.host("server"), *with_alternate(lab)):
        hosts = iter([*(f"host{i}" for i in range(len(KINDS))), "alice"])
        running: list[Program] = []
        while some := [doctor(lab.host(name), "--server", f"{server}:{PORT}") for name in islice(hosts, AT_ONCE)]:
            assert [program.finish() for program in some] == [0] * len(some), [each.err for each in some]
            running += some
    for i, (kind, program) in enumerate(zip(KINDS, running, strict=False)):
        end = last(program, "diagnosis")
        assert end["network"] == kind.network, (kind.nat.name, end)
        assert tuple(end["friends"][friend] for friend in ("easy", "random", "blocked")) == kind.friends
        assert end["udp_blocked"] is (kind.nat.udp is not nat.Udp.ALLOWED)
        mapper = last(program, "port_mapper")
        if kind.nat.port_mapper:
            assert mapper["outcome"] == "mapped"
            assert mapper["external"].startswith(lab.host(f"nat{i}").address)
            assert mapper["reached"] is True  # also where the filter would let nobody in
            listed = ["nft", "list", "table", "inet", "port_mapper"]
            left = lab.host(f"nat{i}").run(listed, stdout=subprocess.PIPE, text=True, check=True).stdout
            assert "dnat" not in left  # it has been closed again
        else:
            assert mapper["outcome"] == "none"
            assert set(mapper["reasons"]) == {"PCP", "NAT-PMP", "UPnP"}
        ports = {each["address"].rpartition(":")[2]: each["outcome"] for each in last(program, "tcp")["ports"]}
        assert ports == {"8080": "silent" if kind.network == "caged" else "answered", "443": "answered"}
        if not end["udp_blocked"]:
            check_udp(program, kind.nat)
    end = last(running[-1], "diagnosis")
    assert end["another_nat"] == "likely a carrier"
    assert "carrier's NAT" in last(running[-1], "port_mapper")["reasons"]["UPnP"]
    assert last(running[-1], "nat")["ports"] == [nat.CARRIER.port_block[0], nat.CARRIER.port_block[-1]]


def check_udp(program: Program, profile: Nat) -> None:
    found = last(program, "nat")
    assert found["translates"] is profile.translates
    assert found["mapping"] == MAPPINGS[profile.mapping]
    assert found["port_preservation"] is profile.port_preservation
    assert found["stride"] == profile.stride
    block = profile.port_block
    assert found["ports"] == ([block[0], block[-1]] if block else None)
    assert last(program, "filtering")["filtering"] == FILTERINGS[profile.filtering]
    assert last(program, "mtu")["mtu"] == 1500
    if profile.translates:
        assert last(program, "hairpin")["hairpinning"] is profile.hairpinning


def test_ipv6_beside_ipv4_and_a_narrow_line(netlab: Callable[[Topology], Lab]) -> None:
    both = two_nats(nat.SYMMETRIC, nat.NONE, ipv6=(nat.FIREWALL, nat.NONE))
    narrow = Router("narrow", Lan((Host("carol", link=Link(mtu=1420)),)), nat.PORT_RESTRICTED, ipv6=nat.NONE)
    lab = netlab(Topology((*both.routers, narrow), both.servers))
    with serving(lab.host("server"), "--host", "::"):
        # The server by both addresses: a name that the lab's hosts know by no resolver.
        v6, v4 = lab.host("server").ipv6[0], lab.host("server").ipv4[0]
        over_v6, over_v4 = (
            doctor(lab.host("alice"), "--server", f"[{v6}]:{PORT}"),
            doctor(lab.host("carol"), "--server", f"{v4}:{PORT}"),
        )
        assert [over_v6.finish(), over_v4.finish()] == [0, 0], over_v6.err + over_v4.err
    assert last(over_v6, "nat") | {"version": 6, "translates": False} == last(over_v6, "nat")
    assert last(over_v6, "filtering")["filtering"] == "address-and-port-dependent"
    assert last(over_v6, "diagnosis")["network"] == "easy"
    assert last(over_v6, "diagnosis")["verdict"] == "Most friends who have IPv6 too will reach you directly."
    assert last(over_v4, "mtu")["mtu"] == 1420
    assert last(over_v4, "nat")["mapping"] == "not-port-dependent"  # one address of the server


def test_a_server_that_is_not_there_is_told_from_a_network_that_lets_nothing_out(
    netlab: Callable[[Topology], Lab],
) -> None:
    lab = netlab(ipv6_only())
    words = ["-m", "p2p.peer", "doctor", "--server", f"[{lab.host('server').address}]"]
    program = Program(lab.host("alice").popen, words, env={"COLUMNS": "110"})
    assert program.finish() == 3
    assert "answers neither by UDP nor by TCP" in program.out
    assert "no server listens there" in program.out
