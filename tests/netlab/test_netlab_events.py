"""What happens to a running lab, measured by what its machines see of it.

alice --- left --- core0 --- core1 --- right --- bob
                               |
                             server
"""

from __future__ import annotations

import contextlib
import errno
import select
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from subprocess import PIPE

import pytest

from netlab.events import (
    BlackholeOff,
    BlackholeOn,
    ChangeMtu,
    FlushMappings,
    Impair,
    KillService,
    LinkDown,
    LinkUp,
    StartService,
    Way,
)
from netlab.impair import Impairment
from netlab.kernel import LabError
from netlab.lab import Lab, Node
from netlab.nat import (
    ADDRESS_RESTRICTED,
    FULL_CONE,
    FULL_CONE_RANDOM,
    NONE,
    PORT_RESTRICTED,
    PORT_RESTRICTED_RANDOM,
    SYMMETRIC,
)
from netlab.schedule import At, Schedule
from netlab.topology import ipv6_only, one_lan, two_nats

ROUNDS = 20
LIMIT = 20  # seconds; reached only when something is broken
IP_MTU, IP_MTU_DISCOVER, IP_PMTUDISC_DO = 14, 10, 2  # linux/in.h
UDP_SEGMENT = 103  # linux/udp.h
HEADERS, HEADERS_IPV6 = 28, 48  # bytes of IP and UDP
IPV6_MTU_DISCOVER, IPV6_MTU = 23, 24  # linux/in6.h


def udp(node: Node, port: int = 0) -> socket.socket:
    made = node.socket()
    made.bind((node.address, port))
    made.settimeout(LIMIT)
    return made


def pending(sock: socket.socket) -> bool:
    return bool(select.select([sock], [], [], 0)[0])


def echoed(one: socket.socket, other: socket.socket) -> tuple[str, int]:
    """Both ways, once, and nothing came before; returns where ``other`` saw ``one``."""
    token = f"{one.fileno()} {echoed.calls}".encode()
    echoed.calls += 1
    one.sendto(token, other.getsockname())
    got, source = other.recvfrom(2048)
    assert got == token
    other.sendto(token, source)
    assert one.recv(2048) == token
    return source


echoed.calls = 0


# Forgotten mappings


@pytest.mark.parametrize("kind", [FULL_CONE, ADDRESS_RESTRICTED, PORT_RESTRICTED], ids=lambda nat: nat.name)
def test_a_router_that_forgot_lets_nobody_in_until_the_host_speaks_again(netlab, kind) -> None:
    lab = netlab(two_nats(kind, NONE))
    alice, server = udp(lab.host("alice")), udp(lab.host("server"))
    mapped = echoed(alice, server)
    server.sendto(b"let in", mapped)
    assert alice.recv(64) == b"let in"
    lab.flush_mappings("left")
    server.sendto(b"forgotten", mapped)
    assert echoed(alice, server) == mapped, "a port-preserving router gives the port again"
    assert not pending(alice)


@pytest.mark.parametrize("kind", [PORT_RESTRICTED_RANDOM, FULL_CONE_RANDOM, SYMMETRIC], ids=lambda nat: nat.name)
def test_a_router_that_forgot_draws_ports_anew(netlab, kind) -> None:
    lab = netlab(two_nats(kind, NONE))
    alice, server = udp(lab.host("alice")), udp(lab.host("server"))
    seen = set()
    for _ in range(5):
        seen.add(echoed(alice, server))
        lab.flush_mappings("left")
    assert len(seen) >= 4  # five draws out of 8,976 ports: two alike once in 900 times, three once in millions


@contextlib.contextmanager
def flooding(sock: socket.socket, to: tuple[str, int]) -> Iterator[None]:
    """One packet after another from this socket until the end of the block."""
    ended = threading.Event()

    def flood() -> None:
        while not ended.is_set():
            sock.sendto(b"flood", to)

    thread = threading.Thread(target=flood)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


@pytest.mark.parametrize("kind", [PORT_RESTRICTED_RANDOM, FULL_CONE_RANDOM], ids=lambda nat: nat.name)
def test_a_flow_under_way_does_not_keep_a_mapping_from_being_forgotten(netlab, kind) -> None:
    lab = netlab(two_nats(kind, NONE))
    alice, server, bob = udp(lab.host("alice")), udp(lab.host("server")), udp(lab.host("bob"))
    kept = 0
    for _ in range(ROUNDS):
        before = echoed(alice, server)
        echoed(alice, bob)  # one mapping, several flows
        with flooding(alice, bob.getsockname()):
            lab.flush_mappings("left")
        kept += echoed(alice, server) == before
        while pending(bob):
            bob.recv(64)
    assert kept <= 2, "ports are drawn out of 8,976"


# Black holes


@pytest.mark.parametrize("host", ["alice", "server"])
@pytest.mark.parametrize("way", Way)
def test_a_black_hole_swallows_one_way_or_both_and_gives_no_sign(netlab, host: str, way: Way) -> None:
    lab = netlab(two_nats(NONE, NONE))
    inside, outside = udp(lab.host(host)), udp(lab.host("bob"))
    inside.setsockopt(socket.IPPROTO_IP, 11, 1)  # IP_RECVERR, linux/in.h: it would be told of any refusal
    for _ in range(2):
        lab.blackhole(host, way)
        inside.sendto(b"up", outside.getsockname())
        outside.sendto(b"down", inside.getsockname())
        if way is Way.DOWN:
            assert outside.recv(64) == b"up"
        if way is Way.UP:
            assert inside.recv(64) == b"down"
        lab.blackhole(host, None)
        echoed(inside, outside)
        assert not pending(outside)
        assert not pending(inside)


@pytest.mark.netlab(needs="tun")
def test_a_black_hole_stays_when_something_is_put_into_the_link(netlab) -> None:
    lab = netlab(two_nats(NONE, NONE))
    alice, bob = udp(lab.host("alice")), udp(lab.host("bob"))
    lab.blackhole("alice")
    with lab.impair("alice", up=Impairment(), seed=1) as link:
        alice.sendto(b"swallowed", bob.getsockname())
    assert link.counts["up"]["left"] == 1, "it went through the forwarder before the block was over"
    alice.sendto(b"swallowed", bob.getsockname())
    lab.blackhole("alice", None)
    with lab.impair("alice", up=Impairment(), seed=1):
        echoed(alice, bob)


def test_a_black_hole_on_a_lan_swallows_what_the_router_only_bridges(netlab) -> None:
    lab = netlab(one_lan(PORT_RESTRICTED))
    alice, bob = udp(lab.host("alice")), udp(lab.host("bob"))
    lab.blackhole("alice")
    alice.sendto(b"swallowed", bob.getsockname())
    bob.sendto(b"swallowed", alice.getsockname())
    lab.blackhole("alice", None)
    echoed(alice, bob)
    assert not pending(alice)
    assert not pending(bob)


# MTUs


def connected(node: Node, to: tuple[str, int]) -> socket.socket:
    """A socket that never lets its packets be fragmented."""
    made = udp(node)
    made.setsockopt(socket.IPPROTO_IP, IP_MTU_DISCOVER, IP_PMTUDISC_DO)
    made.connect(to)
    return made


def refused_by_mtu(sock: socket.socket, size: int, option: tuple[int, int] = (socket.IPPROTO_IP, IP_MTU)) -> int:
    """Send until the kernel refuses the size; returns the path's MTU as it then has it.

    The router's word arrives some time after the packet that it is about.
    """
    sock.settimeout(LIMIT)
    for _ in range(100_000):
        try:
            sock.send(bytes(size))
        except OSError as error:
            if error.errno == errno.EMSGSIZE:
                return sock.getsockopt(*option)
            raise
    raise AssertionError("never refused")


@pytest.mark.parametrize("where", ["left", "core0", "right"])
@pytest.mark.parametrize("sender", ["alice", "bob"])
def test_with_icmp_the_sender_of_a_packet_too_long_learns_the_mtu(netlab, where: str, sender: str) -> None:
    lab = netlab(two_nats(PORT_RESTRICTED, NONE))
    alice, bob = udp(lab.host("alice")), udp(lab.host("bob"))
    mapped = echoed(alice, bob)
    lab.change_mtu(where, 1300)
    if sender == "alice":
        alice.close()
        here, there, to = udp(lab.host("alice"), mapped[1]), bob, bob.getsockname()
    else:
        bob_port = bob.getsockname()[1]
        bob.close()
        here, there, to = udp(lab.host("bob"), bob_port), alice, mapped
    here.setsockopt(socket.IPPROTO_IP, IP_MTU_DISCOVER, IP_PMTUDISC_DO)
    here.connect(to)
    here.send(bytes(1300 - HEADERS))
    assert len(there.recv(2048)) == 1300 - HEADERS
    assert refused_by_mtu(here, 1301 - HEADERS) == 1300
    assert not pending(there)


@pytest.mark.parametrize("where", ["left", "core0", "right"])
def test_without_icmp_a_packet_too_long_vanishes_in_silence(netlab, where: str) -> None:
    lab = netlab(two_nats(PORT_RESTRICTED, NONE))
    lab.change_mtu(where, 1300, icmp=False)
    bob = udp(lab.host("bob"))
    alice = connected(lab.host("alice"), bob.getsockname())
    for size in (1301, 1500, 1300):
        alice.send(bytes(size - HEADERS))
    assert len(bob.recv(2048)) == 1300 - HEADERS
    alice.send(b"no error either")
    assert bob.recv(2048) == b"no error either"
    assert alice.getsockopt(socket.IPPROTO_IP, IP_MTU) == 1500
    assert not pending(bob)
    lab.change_mtu(where, 1500)
    alice.send(bytes(1500 - HEADERS))
    assert len(bob.recv(2048)) == 1500 - HEADERS


def test_a_silent_link_leaves_the_word_to_another_one(netlab) -> None:
    lab = netlab(two_nats(NONE, NONE))
    lab.change_mtu("left", 1400, icmp=False)
    lab.change_mtu("core0", 1300)
    bob = udp(lab.host("bob"))
    assert refused_by_mtu(connected(lab.host("alice"), bob.getsockname()), 1400 - HEADERS) == 1300


@pytest.mark.parametrize("icmp", [True, False])
def test_of_a_super_packet_the_segments_are_measured_not_the_whole(netlab, icmp: bool) -> None:
    lab = netlab(two_nats(PORT_RESTRICTED, NONE))
    lab.change_mtu("left", 1300, icmp=icmp)
    bob = udp(lab.host("bob"))
    alice = connected(lab.host("alice"), bob.getsockname())
    fits, too_long = 1300 - HEADERS, 1301 - HEADERS
    segmented = [(socket.IPPROTO_UDP, UDP_SEGMENT, fits.to_bytes(2, sys.byteorder))]
    alice.sendmsg([bytes(10 * fits)], segmented)
    assert [len(bob.recv(2048)) for _ in range(10)] == [fits] * 10
    segmented = [(socket.IPPROTO_UDP, UDP_SEGMENT, too_long.to_bytes(2, sys.byteorder))]
    alice.sendmsg([bytes(10 * too_long)], segmented)
    if icmp:
        assert refused_by_mtu(alice, too_long) == 1300
    else:
        alice.send(b"next")
        assert bob.recv(2048) == b"next"
    assert not pending(bob)


@pytest.mark.parametrize("icmp", [True, False])
def test_ipv6_is_told_of_a_lower_mtu_or_not(netlab, icmp: bool) -> None:
    lab = netlab(ipv6_only(NONE, NONE))
    alice, bob = (lab.host(name).socket(socket.AF_INET6) for name in ("alice", "bob"))
    bob.bind((lab.host("bob").address, 0))
    bob.settimeout(LIMIT)
    alice.setsockopt(socket.IPPROTO_IPV6, IPV6_MTU_DISCOVER, IP_PMTUDISC_DO)
    alice.connect(bob.getsockname())
    lab.change_mtu("core0", 1300, icmp=icmp)
    fits = 1300 - HEADERS_IPV6
    alice.send(bytes(fits))
    assert len(bob.recv(2048)) == fits
    if icmp:
        assert refused_by_mtu(alice, fits + 1, (socket.IPPROTO_IPV6, IPV6_MTU)) == 1300
    else:
        alice.send(bytes(fits + 1))
        alice.send(b"no error either")
        assert bob.recv(2048) == b"no error either"
    assert not pending(bob)
    with pytest.raises(ValueError, match="core0 speaks IPv6 there, which takes at least 1280 bytes, not 1279"):
        lab.change_mtu("core0", 1279)


def test_only_routers_and_core_hops_have_an_mtu_to_change(netlab) -> None:
    lab = netlab(two_nats(PORT_RESTRICTED, NONE))
    with pytest.raises(ValueError, match="alice has no link towards the world; these have: core0, left, right"):
        lab.change_mtu("alice", 1300)
    with pytest.raises(ValueError, match="576 to 65535 bytes, not 500"):
        lab.change_mtu("left", 500)


# Services

ECHO = """
import socket, sys
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.bind((sys.argv[1], 5000))
print("ready", flush=True)
while True:
    s.sendto(*s.recvfrom(64))
"""


def test_a_service_is_killed_and_started_and_killed_for_good_with_the_lab(netlab) -> None:
    lab = netlab(two_nats(NONE, NONE))
    server = lab.host("server")
    echo = server.service("echo", [sys.executable, "-u", "-c", ECHO, server.address], stdout=PIPE, text=True)
    assert lab.service("echo") is echo
    alice = connected(lab.host("alice"), (server.address, 5000))
    for _ in range(2):
        assert echo.process.stdout.readline() == "ready\n"
        alice.send(b"hello")
        assert alice.recv(64) == b"hello"
        echo.kill()
        assert echo.process.returncode == -signal.SIGKILL
        alice.send(b"refused")
        with pytest.raises(ConnectionRefusedError):
            alice.recv(64)
        with pytest.raises(LabError, match=r"echo cannot be killed: it ended before \(exit -9\)"):
            echo.kill()
        echo.start()
    with pytest.raises(LabError, match="echo runs already"):
        echo.start()
    echo.restart()
    assert echo.process.stdout.readline() == "ready\n"
    with pytest.raises(ValueError, match="a service called echo already"):
        lab.host("bob").service("echo", ["true"])
    with pytest.raises(KeyError, match="no service 'web' in this lab; there are: echo"):
        lab.service("web")


def test_what_a_service_started_is_killed_with_it(netlab) -> None:
    lab = netlab(one_lan(NONE))
    shell = lab.host("alice").service("shell", ["sh", "-c", "sleep 1000 & echo up; wait"], stdout=PIPE, text=True)
    out = shell.process.stdout
    assert out.readline() == "up\n"
    shell.kill()
    assert out.read() == "", "the pipe ends with the last process that holds it"


# Schedules


def wheres(lab: Lab) -> list[tuple[str, str]]:
    return [(entry.where, entry.what) for entry in lab.timeline.entries if entry.what != "process"]


@pytest.mark.netlab(needs="tun")
def test_a_schedule_happens_in_order_and_is_in_the_timeline_with_its_plan(netlab) -> None:
    lab = netlab(two_nats(PORT_RESTRICTED, NONE))
    server = lab.host("server")
    server.service("echo", [sys.executable, "-c", ECHO, server.address])
    events = [
        LinkDown("alice"), LinkUp("alice"), BlackholeOn("bob", Way.UP), BlackholeOff("bob"), ChangeMtu("left", 1400),
        FlushMappings("left"), KillService("echo"), StartService("echo"), Impair("bob", up=Impairment(loss=0.5)),
    ]  # fmt: skip
    schedule = Schedule(tuple(At(number * 0.01, event) for number, event in enumerate(events)), seed=7)
    with lab.impair("bob", seed=1) as link, lab.play(schedule) as playing:
        playing.wait(LIMIT)
        assert [due.event for due in playing.finished] == events
        assert link.impairments["up"] == Impairment(loss=0.5)
    assert playing.unfinished == []
    assert wheres(lab) == [
        ("bob", "impairment begins"), ("lab", "schedule begins"), ("alice", "link-down"), ("alice", "link-up"),
        ("bob", "blackhole-on"), ("bob", "blackhole-off"), ("left", "change-mtu"), ("left", "flush-mappings"),
        ("echo", "kill-service"), ("echo", "start-service"), ("bob", "impair"), ("lab", "schedule ends"),
        ("bob", "impairment ends"),
    ]  # fmt: skip
    planned = [entry for entry in lab.timeline.entries if "planned" in entry.details and entry.what != "process"]
    assert len(planned) == len(events)
    begin = next(entry.seconds for entry in lab.timeline.entries if entry.what == "schedule begins")
    starts = []
    for entry, due in zip(planned, schedule.times(), strict=True):
        assert entry.seconds >= entry.details["planned"] - 1e-6  # which is rounded
        starts.append(entry.details["planned"] - due.seconds)
    assert starts == pytest.approx([starts[0]] * len(starts), abs=1e-5)
    assert starts[0] >= begin - 1e-6


def test_an_event_that_fails_is_told_at_the_end_of_the_block_and_ends_the_schedule(netlab) -> None:
    lab = netlab(two_nats(NONE, NONE))
    schedule = Schedule((At(0, LinkDown("alice")), At(0, Impair("bob")), At(0, LinkUp("alice"))))
    with (
        pytest.raises(ValueError, match=r"not impaired: enter lab.impair\('bob'\)") as told,
        lab.play(schedule) as it,
        pytest.raises(ValueError, match="not impaired"),
    ):
        it.wait(LIMIT)
    assert "Impair(host='bob'" in told.value.__notes__[0]
    assert [due.event for due in it.unfinished] == [Impair("bob"), LinkUp("alice")]
    assert lab.timeline.entries[-1].details == {"unfinished": ["impair", "link-up"]}


def test_what_the_block_did_not_wait_for_does_not_happen_and_is_reported(netlab) -> None:
    lab = netlab(one_lan(NONE))
    schedule = Schedule((At(0, LinkDown("alice")), At(3600, LinkUp("alice"))))
    never = r"these events have not happened: .*link-up at 3600.000 s"
    with lab.play(schedule) as playing, pytest.raises(TimeoutError, match=never):
        playing.wait(0.01)
    assert [due.event for due in playing.unfinished][-1] == LinkUp("alice")
    assert lab.timeline.entries[-1].details["unfinished"][-1] == "link-up"


def test_a_failing_test_is_not_hidden_by_its_schedule(netlab) -> None:
    lab = netlab(one_lan(NONE))
    with pytest.raises(ZeroDivisionError), lab.play(Schedule((At(3600, LinkDown("alice")),))):
        raise ZeroDivisionError
