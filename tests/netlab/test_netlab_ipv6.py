"""IPv6 beside IPv4, instead of it, and across stateful firewalls; firewalls of IPv4 too.

alice --- left --- core0 --- core1 --- right --- bob
       (firewall)              |     (firewall)
                             server
"""

from __future__ import annotations

import errno
import re
import socket
import time
from pathlib import Path

import pytest

from netlab.addressing import Version, link_local
from netlab.lab import Lab, Node
from netlab.nat import FIREWALL, FIREWALL_REJECTING, NONE, SYMMETRIC, Nat
from netlab.probe import probe
from netlab.topology import Host, Lan, Link, Router, ServerHost, Topology, ipv6_only, one_lan, two_nats

LIMIT = 20  # seconds; reached only when something is broken
routing = pytest.mark.parametrize("kind", [NONE, FIREWALL, FIREWALL_REJECTING], ids=lambda kind: kind.name)
FAMILY = {Version.IPV4: socket.AF_INET, Version.IPV6: socket.AF_INET6}
SNMP6 = Path("/proc/thread-self/net/snmp6")
IPV6_MTU_DISCOVER, IPV6_RECVERR, IP_PMTUDISC_DO = 23, 25, 2  # linux/in6.h, linux/in.h


def bound(node: Node, version: Version = Version.IPV6, kind: int = socket.SOCK_DGRAM) -> socket.socket:
    made = node.socket(FAMILY[version], kind)
    made.bind(((node.ipv6 if version is Version.IPV6 else node.ipv4)[0], 0))
    made.settimeout(LIMIT)
    return made


@routing
def test_the_probe_measures_a_firewall_in_ipv6(netlab, kind: Nat) -> None:
    running = netlab(ipv6_only(kind, NONE))
    assert probe(running, "alice") == kind
    assert probe(running, "bob") == NONE


def test_each_version_meets_its_own_profile(netlab) -> None:
    running = netlab(two_nats(SYMMETRIC, FIREWALL, ipv6=(FIREWALL_REJECTING, NONE)))
    for host, ipv4, ipv6 in (("alice", SYMMETRIC, FIREWALL_REJECTING), ("bob", FIREWALL, NONE)):
        assert probe(running, host) == ipv4
        assert probe(running, host, address=running.host(host).ipv6[0]) == ipv6


def test_the_probe_refuses_an_address_that_is_not_the_host_s(netlab) -> None:
    running = netlab(two_nats(NONE, NONE, ipv6=(NONE, None)))
    with pytest.raises(ValueError, match=r"alice has no address 9\.9\.9\.9; it has 13\.0\.0\.10, 2a13::10"):
        probe(running, "alice", address="9.9.9.9")


def topology_of(version: Version) -> Topology:
    return ipv6_only() if version is Version.IPV6 else two_nats(FIREWALL, FIREWALL)


@pytest.mark.parametrize("version", Version)
def test_a_hole_is_punched_through_two_firewalls(netlab, version: Version) -> None:
    running = netlab(topology_of(version))
    alice, bob = (bound(running.host(name), version) for name in ("alice", "bob"))
    alice.sendto(b"first, filtered", bob.getsockname())
    bob.sendto(b"second, let in", alice.getsockname())
    assert alice.recvfrom(64) == (b"second, let in", bob.getsockname())
    alice.sendto(b"third, let in", bob.getsockname())
    assert bob.recvfrom(64) == (b"third, let in", alice.getsockname())


def connected(lab: Lab, target: socket.socket) -> int:
    """What becomes of bob's TCP connection to alice: 0 or an errno, EAGAIN when nothing came in time."""
    with bound(lab.host("bob"), kind=socket.SOCK_STREAM) as caller:
        caller.settimeout(2)  # a SYN is repeated after 1 s
        return caller.connect_ex(target.getsockname())


OUTCOMES = {NONE.name: 0, FIREWALL.name: errno.EAGAIN, FIREWALL_REJECTING.name: errno.ECONNREFUSED}


@routing
def test_tcp_from_outside_meets_the_firewall_and_tcp_from_inside_does_not(netlab, kind: Nat) -> None:
    running = netlab(ipv6_only(kind, NONE))
    listener = bound(running.host("alice"), kind=socket.SOCK_STREAM)
    listener.listen()
    assert connected(running, listener) == OUTCOMES[kind.name]
    server = bound(running.host("server"), kind=socket.SOCK_STREAM)
    server.listen()
    bound(running.host("alice"), kind=socket.SOCK_STREAM).connect(server.getsockname())
    accepted, peer = server.accept()
    accepted.close()
    assert peer[0] == running.host("alice").address


def test_a_host_without_ipv4_has_none(netlab) -> None:
    running = netlab(ipv6_only(NONE, NONE))
    for name in ("alice", "left", "core0", "server"):
        assert running.host(name).ipv4 == []
    assert running.host("alice").address == "2a13::10"
    alice = running.host("alice").socket()
    with pytest.raises(OSError, match="Network is unreachable"):
        alice.sendto(b"?", ("20.0.0.1", 9))


def test_a_host_without_ipv6_has_none_beside_one_that_has(netlab) -> None:
    running = netlab(two_nats(NONE, NONE, ipv6=(NONE, None)))
    bob = running.host("bob")
    assert bob.ipv6 == []
    with pytest.raises(OSError, match=r"Cannot assign requested address|Network is unreachable"):
        bob.socket(socket.AF_INET6).sendto(b"?", ("2a20::1", 9))
    alice, server = bound(running.host("alice")), bound(running.host("server"))
    alice.sendto(b"hello", server.getsockname())
    assert server.recvfrom(64) == (b"hello", alice.getsockname())


def test_link_local_addresses_work_on_a_lan(netlab) -> None:
    running = netlab(one_lan(None, ipv6=FIREWALL))
    bob = running.host("bob").socket(socket.AF_INET6)
    bob.bind(("::", 0))
    bob.settimeout(LIMIT)
    address = str(link_local(running.plan.nodes["bob"].macs["eth0"]))
    alice = running.host("alice")
    index = alice.call(lambda: socket.if_nametoindex("eth0"))
    alice.socket(socket.AF_INET6).sendto(b"neighbour", (address, bob.getsockname()[1], 0, index))
    data, source = bob.recvfrom(64)
    assert data == b"neighbour"
    assert source[0].partition("%")[0] == str(link_local(running.plan.nodes["alice"].macs["eth0"]))


def test_packet_too_big_passes_the_firewall(netlab) -> None:
    """RFC 4890 section 4.3.1: without it a path of a smaller MTU swallows all large packets."""
    routers = (
        Router("left", Lan((Host("alice"),)), None, ipv6=FIREWALL),
        Router("right", Lan((Host("bob"),)), None, ipv6=FIREWALL, link=Link(mtu=1300)),
    )
    running = netlab(Topology(routers, (ServerHost(ipv4=False, ipv6=True),)))
    alice, bob = bound(running.host("alice")), bound(running.host("bob"))
    bob.sendto(b"opens", alice.getsockname())
    alice.setsockopt(socket.IPPROTO_IPV6, IPV6_MTU_DISCOVER, IP_PMTUDISC_DO)
    alice.connect(bob.getsockname())
    alice.send(bytes(1300 - 48))
    assert len(bob.recv(2048)) == 1300 - 48
    alice.setsockopt(socket.IPPROTO_IPV6, IPV6_RECVERR, 1)
    alice.send(bytes(1300 - 48 + 1))  # leaves: alice knows of no limit yet
    with pytest.raises(OSError, match="Message too long") as told:
        alice.recv(1)
    assert told.value.errno == errno.EMSGSIZE


def swallowed(node: Node) -> int:
    """Packets of its own that the machine did not let out."""
    return int(node.call(lambda: re.findall(r"^Ip6OutDiscards\s+(\d+)", SNMP6.read_text(), re.MULTILINE))[0])


def test_ipv6_is_silent_until_somebody_speaks(netlab, tmp_path: Path) -> None:
    """No neighbour discovery, no router solicitation, no word of groups, of which a machine would speak for a while
    after it is up: only what a test sends is counted."""
    running = netlab(ipv6_only(NONE, NONE))
    alice, server = bound(running.host("alice")), bound(running.host("server"))
    deadline = time.monotonic() + LIMIT
    with running.capture_all(tmp_path):
        while not all(swallowed(running.host(name)) for name in ("alice", "left", "core0")):
            assert time.monotonic() < deadline, "they do not even try to speak"
            time.sleep(0.01)
        for _ in range(3):
            alice.sendto(b"counted", server.getsockname())
            server.recv(64)
    seen = {name: len(packets((tmp_path / f"{name}.pcap").read_bytes())) for name in running.plan.nodes}
    # Twice where it is both the bridge's packet and that of its port.
    assert seen == {"alice": 3, "left": 9, "core0": 9, "core1": 9, "server": 3, "right": 0, "bob": 0}


def packets(pcap: bytes) -> list[bytes]:
    found, at = [], 24  # a file header, then per packet a header of 16 bytes with its length in the third word
    while at < len(pcap):
        length = int.from_bytes(pcap[at + 8 : at + 12], "little")
        found.append(pcap[at + 16 : at + 16 + length])
        at += 16 + length
    return found


def test_a_server_speaks_from_its_first_address(netlab) -> None:
    running = netlab(two_nats(NONE, NONE, ipv6=(NONE, NONE)))
    for version, first in ((Version.IPV4, "20.0.0.1"), (Version.IPV6, "2a20::1")):
        alice = bound(running.host("alice"), version)
        running.host("server").socket(FAMILY[version]).sendto(b"from", alice.getsockname())
        assert alice.recvfrom(16)[1][0] == first
