"""Hosts on two LANs, cables with properties of their own, and what can be done to any cable.

        wifi ---- core0 --- core1 --- right --- bob
      /         /             |
 alice --- mobile           server
"""

from __future__ import annotations

import errno
import socket
import time

import pytest

from netlab.faults import Direction, Drop, FaultPlan, Match
from netlab.impair import Impairment
from netlab.lab import Lab, Node
from netlab.nat import CARRIER, NONE, PORT_RESTRICTED, SYMMETRIC
from netlab.probe import probe
from netlab.topology import Host, Lan, Link, Router, Topology, multi_homed, two_nats

LIMIT = 20  # seconds; reached only when something is broken
IP_MTU_DISCOVER, IP_RECVERR, IP_PMTUDISC_DO = 10, 11, 2  # linux/in.h
families = pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6], ids=["IPv4", "IPv6"])
LATE, TRIES = 0.02, 5  # seconds that the best of so many may be late
LINKS = ("alice", "left", "server")
TUN = pytest.mark.netlab(needs="tun")  # our forwarder's devices


def udp(node: Node, address: str = "", port: int = 0) -> socket.socket:
    made = node.socket(socket.AF_INET6 if ":" in address else socket.AF_INET)
    made.bind((address or node.address, port))
    made.settimeout(LIMIT)
    return made


def seen(client: socket.socket, server: socket.socket) -> str:
    """The address that the server sees the client at, which hears its answer."""
    client.sendto(b"who am I?", server.getsockname()[:2])
    data, source = server.recvfrom(64)
    assert data == b"who am I?", "something arrived that should be lost"
    server.sendto(b"answer", source)
    assert client.recv(64) == b"answer"
    return str(source[0])


def of(node: Node, family: int) -> list[str]:
    return node.ipv4 if family == socket.AF_INET else node.ipv6


@families
def test_a_socket_leaves_by_the_interface_whose_address_it_has(netlab, family: int) -> None:
    running = netlab(multi_homed(PORT_RESTRICTED, CARRIER, ipv6=NONE))
    alice = running.host("alice")
    server = udp(running.host("server"), of(running.host("server"), family)[0])
    met = [seen(udp(alice, address), server) for address in of(alice, family)]
    if family == socket.AF_INET:
        assert met == [running.host("wifi").address, running.host("mobile").address]
    else:
        assert met == alice.ipv6
    assert seen(alice.socket(family), server) == met[0], "eth0 comes first"


@families
def test_a_pulled_cable_makes_a_host_use_the_other_one_until_it_is_back(netlab, family: int) -> None:
    running = netlab(multi_homed(PORT_RESTRICTED, PORT_RESTRICTED, ipv6=NONE))
    alice = running.host("alice")
    server = udp(running.host("server"), of(running.host("server"), family)[0])
    by_each = [seen(udp(alice, address), server) for address in of(alice, family)]
    old = udp(alice, of(alice, family)[0])
    for _ in range(3):
        running.link_down("alice")
        assert seen(alice.socket(family), server) == by_each[1]
        with pytest.raises(OSError, match=r"unreachable|No route") as told:
            old.sendto(b"never by the other interface", server.getsockname()[:2])
        assert told.value.errno in (errno.ENETUNREACH, errno.EHOSTUNREACH)
        running.link_up("alice:eth0")
        assert seen(alice.socket(family), server) == by_each[0]
        assert seen(old, server) == by_each[0]
    running.link_down("alice:eth1")
    assert seen(alice.socket(family), server) == by_each[0]


def test_each_interface_meets_its_own_router(netlab) -> None:
    running = netlab(multi_homed(PORT_RESTRICTED, SYMMETRIC))
    wifi, mobile = running.host("alice").ipv4
    assert probe(running, "alice", address=wifi) == PORT_RESTRICTED
    assert probe(running, "alice", address=mobile) == SYMMETRIC


@TUN
def test_a_pulled_cable_is_noticed_also_when_it_is_impaired(netlab) -> None:
    slow = Link(Impairment(delay=0.001), Impairment(delay=0.001))
    alice = Host("alice", (slow, slow))
    running = netlab(Topology((Router("a", Lan((alice,)), NONE), Router("b", Lan((alice,)), NONE))))
    server = udp(running.host("server"))
    wifi, mobile = running.host("alice").ipv4
    assert seen(running.host("alice").socket(), server) == wifi
    running.link_down("alice")
    assert seen(running.host("alice").socket(), server) == mobile
    running.link_up("alice")
    assert seen(running.host("alice").socket(), server) == wifi


def takes(running: Lab, seconds: float) -> bool:
    """Whether a packet from alice to the server and back takes so long; on a busy machine some take longer."""
    alice, server = udp(running.host("alice")), udp(running.host("server"))
    for _ in range(TRIES):
        begun = time.monotonic()
        seen(alice, server)
        took = time.monotonic() - begun
        assert took >= seconds, "it came early"
        if took <= seconds + LATE:
            return True
    return False


def impaired(name: str, link: Link) -> Topology:
    """Two NATs, and this link on alice, her router or the server."""
    plain = two_nats(PORT_RESTRICTED, PORT_RESTRICTED)
    hosts = (Host("alice", link),) if name == "alice" else (Host("alice"),)
    left = Router("left", Lan(hosts), PORT_RESTRICTED, link=link if name == "left" else Link())
    (server,) = plain.servers
    servers = (type(server)(link=link),) if name == "server" else plain.servers
    return Topology((left, plain.routers[1]), servers)


@TUN
@pytest.mark.parametrize("name", LINKS)
def test_a_link_s_delay_holds_from_the_start_and_can_be_changed(netlab, name: str) -> None:
    running = netlab(impaired(name, Link(Impairment(delay=0.15), Impairment(delay=0.1))))
    assert takes(running, 0.25)
    link = running.links[name]
    link.change(up=Impairment(), down=Impairment(delay=0.5))
    assert takes(running, 0.5)
    with running.impair(name, up=Impairment(delay=0.3), seed=1) as another:
        assert running.links[name] is another
        assert takes(running, 0.8)
    assert running.links == {name: link}
    assert takes(running, 0.5)


@TUN
@pytest.mark.parametrize("name", LINKS)
def test_a_link_s_loss_is_seeded(netlab, name: str) -> None:
    """The same packets of 50 get through in two labs, and others with another seed."""
    arrived = []
    for seed in (7, 7, 8):
        running = netlab(impaired(name, Link(Impairment(loss=0.5), Impairment(loss=0.5), seed=seed)))
        sender, receiver = udp(running.host("alice")), udp(running.host("server"))
        for number in range(50):
            sender.sendto(bytes([number]), receiver.getsockname())
        running.links[name].change(up=Impairment(), down=Impairment())  # holds for what is sent from now on
        sender.sendto(b"end", receiver.getsockname())
        arrived.append(list(iter(lambda: receiver.recv(8), b"end")))  # noqa: B023 - run at once
    assert arrived[0] == arrived[1]
    assert arrived[0] != arrived[2]
    assert 5 < len(arrived[0]) < 45


@pytest.mark.parametrize("name", LINKS)
@pytest.mark.parametrize("slow", [False, pytest.param(True, marks=TUN)], ids=["plain", "impaired"])
def test_a_link_s_mtu_holds_for_packets_that_must_not_be_fragmented(netlab, name: str, slow: bool) -> None:
    delay = Impairment(delay=0.001) if slow else Impairment()
    running = netlab(impaired(name, Link(delay, delay, mtu=1300)))
    alice, server = udp(running.host("alice")), udp(running.host("server"))
    seen(alice, server)
    alice.setsockopt(socket.IPPROTO_IP, IP_MTU_DISCOVER, IP_PMTUDISC_DO)
    alice.connect(server.getsockname())
    alice.send(bytes(1300 - 28))
    assert len(server.recv(2048)) == 1300 - 28
    with pytest.raises(OSError, match="Message too long"):
        too_long(alice, bytes(1300 - 28 + 1))


def too_long(sock: socket.socket, packet: bytes) -> None:
    """Send it and wait for the error, which comes at once or when a router has told."""
    sock.setsockopt(socket.IPPROTO_IP, IP_RECVERR, 1)
    sock.send(packet)
    sock.recv(1)


@pytest.mark.parametrize("name", LINKS)
def test_every_sort_of_link_can_be_pulled_injected_into_and_made_lossy(netlab, name: str) -> None:
    running = netlab(two_nats(PORT_RESTRICTED, PORT_RESTRICTED, ipv6=(NONE, NONE)))
    for address, to in zip(
        (running.host("alice").ipv4[0], running.host("alice").ipv6[0]),
        (running.host("server").ipv4[0], running.host("server").ipv6[0]),
        strict=True,
    ):
        alice, server = udp(running.host("alice"), address), udp(running.host("server"), to)
        running.link_down(name)
        alice.sendto(b"lost", server.getsockname())
        running.link_up(name)
        with running.loss(name, 1.0):
            alice.sendto(b"lost", server.getsockname())
        seen(alice, server)
    alice, server = udp(running.host("alice")), udp(running.host("server"))
    direction = Direction.IN if name == "server" else Direction.OUT  # as the link's own machine has it
    with running.inject(name, FaultPlan(script={0: Drop()}, match=Match(direction=direction))) as injection:
        alice.sendto(b"dropped", server.getsockname())
        seen(alice, server)
    assert injection.counts["drop"] == 1


def test_an_unknown_link_is_told_with_the_known_ones(netlab) -> None:
    running = netlab(two_nats(NONE, NONE))
    with pytest.raises(KeyError, match=r"no link 'core0' in this lab; there are: left, alice, right, bob, server"):
        running.link_down("core0")


def test_loss_on_the_ipv6_of_a_home_behind_a_carrier_is_refused(netlab) -> None:
    home = Router("home", Lan((Host("alice"),)), NONE, ipv6=NONE)
    running = netlab(Topology((Router("carrier", Lan(routers=(home,)), NONE, ipv6=NONE),)))
    with pytest.raises(ValueError, match="home: nothing tells its hosts' IPv6"), running.loss("home", 0.5):
        pass
