"""The lab itself: what it gives, and that it leaves nothing behind.

alice --- left --- core0 --- core1 --- right --- bob
                               |
                             server
"""

from __future__ import annotations

import errno
import os
import select
import signal
import socket
import subprocess
import sys
import textwrap
from contextlib import ExitStack
from pathlib import Path

import pytest
from leftovers import users_now, users_of

from netlab.kernel import LabError
from netlab.lab import Lab, Node
from netlab.nat import FULL_CONE, NONE, PORT_RESTRICTED, SYMMETRIC
from netlab.topology import Core, Topology, one_lan, two_nats

LIMIT = 20  # seconds; reached only when something is broken


def udp(node: Node, port: int = 0) -> socket.socket:
    made = node.socket()
    made.bind((node.address, port))
    made.settimeout(LIMIT)
    return made


def readable(sock: socket.socket) -> bool:
    return bool(select.select([sock], [], [], 0)[0])


def delivered(sender: socket.socket, receiver: socket.socket, words: bytes) -> None:
    sender.sendto(words, receiver.getsockname())
    assert receiver.recv(64) == words


def test_two_hosts_behind_port_restricted_nats_punch_through(netlab) -> None:
    running = netlab(two_nats(PORT_RESTRICTED, PORT_RESTRICTED))
    server = udp(running.host("server"))
    sockets, mapped = {}, {}
    for name in ("alice", "bob"):
        sockets[name] = udp(running.host(name))
        sockets[name].sendto(b"", server.getsockname())
        mapped[name] = server.recvfrom(1)[1]
    sockets["alice"].sendto(b"first, filtered", mapped["bob"])
    sockets["bob"].sendto(b"second, let in", mapped["alice"])
    assert sockets["alice"].recv(64) == b"second, let in"
    sockets["alice"].sendto(b"third, let in", mapped["bob"])
    assert sockets["bob"].recv(64) == b"third, let in"


def test_hosts_on_one_lan_reach_each_other_directly_and_the_router_nats_nothing(netlab) -> None:
    running = netlab(one_lan(SYMMETRIC))
    alice, bob = udp(running.host("alice")), udp(running.host("bob"))
    alice.sendto(b"hello", bob.getsockname())
    assert bob.recvfrom(64) == (b"hello", alice.getsockname())


def test_public_hosts_see_each_other_s_own_address(netlab) -> None:
    running = netlab(two_nats(NONE, NONE))
    alice, bob = udp(running.host("alice")), udp(running.host("bob"))
    alice.sendto(b"hello", bob.getsockname())
    assert bob.recvfrom(64) == (b"hello", alice.getsockname())


@pytest.mark.parametrize("hops", [2, 4])
def test_a_packet_can_leave_its_nat_and_die_in_the_core(netlab, hops: int) -> None:
    topology = two_nats(NONE, NONE)
    running = netlab(Topology(topology.routers, topology.servers, Core(hops)))
    alice, bob = udp(running.host("alice")), udp(running.host("bob"))
    alice.setsockopt(socket.IPPROTO_IP, 11, 1)  # IP_RECVERR, linux/in.h
    routers_to_bob = hops + 2
    for ttl in range(2, routers_to_bob + 1):
        alice.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, ttl)
        alice.sendto(b"dies", bob.getsockname())
        assert select.select([], [], [alice], 0) is not None
        with pytest.raises(OSError, match="No route to host") as died:
            alice.recv(64)  # the error queue: ICMP time exceeded
        assert died.value.errno == errno.EHOSTUNREACH
    alice.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, routers_to_bob + 1)
    delivered(alice, bob, b"lives")
    assert not readable(bob)


def test_processes_run_inside(netlab) -> None:
    running = netlab(two_nats(NONE, NONE))
    code = "import socket; s = socket.socket(); s.bind(('13.0.0.10', 0)); print(s.getsockname()[0])"
    done = running.host("alice").run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == running.host("alice").address + "\n" == "13.0.0.10\n"
    with pytest.raises(subprocess.CalledProcessError, match="exit status 3"):
        running.host("alice").run(["sh", "-c", "exit 3"], check=True)
    assert running.host("bob").run(["cat"], input=b"in", capture_output=True).stdout == b"in"


def test_a_run_that_takes_too_long_is_killed(netlab) -> None:
    running = netlab(one_lan(NONE))
    with pytest.raises(subprocess.TimeoutExpired):
        running.host("alice").run(["sleep", "1000"], timeout=0.01)


def test_a_missing_program_is_the_usual_error_and_the_lab_still_ends(netlab) -> None:
    running = netlab(one_lan(NONE))
    with pytest.raises(FileNotFoundError):
        running.host("alice").popen(["no-such-program"])


def test_call_returns_and_raises(netlab) -> None:
    running = netlab(one_lan(NONE))
    names = running.host("alice").call(lambda: {name for _, name in socket.if_nameindex()})
    assert names == {"lo", "eth0"}
    with pytest.raises(ZeroDivisionError):
        running.host("alice").call(lambda: 1 // 0)


def test_an_unknown_host_is_told_with_the_known_ones(netlab) -> None:
    with pytest.raises(KeyError, match=r"no machine 'carol'.*alice, bob"):
        netlab(one_lan(NONE)).host("carol")


def test_loss_drops_and_stops_dropping(netlab) -> None:
    running = netlab(two_nats(PORT_RESTRICTED, NONE))
    alice, server = udp(running.host("alice")), udp(running.host("server"))
    with running.loss("alice", 1.0):
        alice.sendto(b"lost", server.getsockname())
    delivered(alice, server, b"first to arrive")
    with running.loss("alice", 0.5):
        for _ in range(200):
            alice.sendto(b"perhaps", server.getsockname())
    alice.sendto(b"end", server.getsockname())
    survivors = 0
    while server.recv(64) != b"end":
        survivors += 1
    assert 50 < survivors < 150  # 200 fair coins: seven standard deviations either way


def test_loss_meets_packets_on_the_way_in(netlab) -> None:
    running = netlab(two_nats(NONE, NONE))
    alice, server = udp(running.host("alice")), udp(running.host("server"))
    with running.loss("alice", 1.0):
        server.sendto(b"lost", alice.getsockname())
    delivered(server, alice, b"first to arrive")


@pytest.mark.parametrize("probability", [-0.1, 1.1])
def test_impossible_loss_is_refused(netlab, probability: float) -> None:
    with pytest.raises(ValueError, match="between 0 and 1"), netlab(one_lan(NONE)).loss("alice", probability):
        pass


def test_a_pulled_cable_and_a_plugged_one(netlab) -> None:
    running = netlab(two_nats(PORT_RESTRICTED, NONE))
    alice, server = udp(running.host("alice")), udp(running.host("server"))
    for _ in range(5):
        running.link_down("alice")
        alice.sendto(b"into the void", server.getsockname())
        running.link_up("alice")
        delivered(alice, server, b"first to arrive")


def test_a_capture_holds_the_packets(netlab, tmp_path: Path) -> None:
    running = netlab(two_nats(PORT_RESTRICTED, NONE))
    pcap = tmp_path / "left.pcap"
    with running.capture("left", pcap, "wan"):
        delivered(udp(running.host("alice")), udp(running.host("server")), b"look at me")
    assert b"look at me" in pcap.read_bytes()


def test_a_capture_that_cannot_start_says_why(netlab) -> None:
    with pytest.raises(LabError, match=r"tcpdump did not start: .*no-such-interface"):
        netlab(one_lan(NONE)).capture("alice", Path("/dev/null"), "no-such-interface").__enter__()


def test_labs_do_not_see_each_other(netlab) -> None:
    one, two = netlab(one_lan(NONE)), netlab(one_lan(NONE))
    assert one.host("alice").address == two.host("alice").address
    here, there = udp(one.host("bob"), 5000), udp(two.host("bob"), 5000)
    delivered(udp(one.host("alice")), here, b"one")
    assert not readable(there)


@pytest.mark.netlab
def test_after_a_lab_every_process_is_dead_and_every_socket_closed() -> None:
    with Lab(two_nats(FULL_CONE, NONE)) as running:
        made = udp(running.host("alice"))
        # A grandchild that its own parent has left alone.
        left = running.host("bob").run(["sh", "-c", "sleep 1000 & sleep 1000 & exit"], capture_output=False)
        daemon = running.host("bob").popen(["sleep", "1000"])
    assert left.returncode == 0
    assert daemon.returncode == -signal.SIGKILL
    assert made.fileno() == -1


@pytest.mark.netlab
def test_nothing_is_left_after_sigkill() -> None:
    """A process builds a lab with children and grandchildren, dies by SIGKILL, and we look."""
    script = """
        import os, subprocess, sys
        from netlab.lab import Lab
        from netlab.topology import two_nats
        from netlab.nat import FULL_CONE, SYMMETRIC
        with Lab(two_nats(FULL_CONE, SYMMETRIC)) as lab:
            busy = "sleep 1000 & setsid sleep 1000 & echo up; exec cat"
            for name in ("alice", "bob", "server"):
                child = lab.host(name).popen(["sh", "-c", busy], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
                child.stdout.readline()
            udp = lab.host("alice").socket()
            print(*{os.fstat(lab.host(name).namespace.fd).st_ino for name in lab.plan.nodes}, flush=True)
            sys.stdin.read()
    """
    builder = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert builder.stdin is not None
    assert builder.stdout is not None
    with builder, builder.stdin, builder.stdout, ExitStack() as stack:
        spaces = {int(inode) for inode in builder.stdout.readline().split()}
        assert len(spaces) == 7
        inside = stack.enter_context(users_of(spaces))
        assert len(inside) >= 1 + 3 * 3, "the builder, and three processes on each of three hosts"
        ends = [stack.enter_context(os.fdopen(os.pidfd_open(pid))) for pid in inside]
        builder.kill()
        for end in ends:  # a pidfd becomes readable when its process has ended
            assert select.select([end], [], [], LIMIT)[0], "a process outlived the test"
        builder.wait()
        assert users_now(spaces) == set()
