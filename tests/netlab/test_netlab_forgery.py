"""Forged packets: pure and seeded in their making, and seen by real sockets under the false address.

    alice --- left --- core0 --- core1 --- right --- bob
              (NAT)      |         |       (NAT)
                        eve      server
"""

from __future__ import annotations

import json
import socket
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.inet import ICMP, IP, UDP
from scapy.layers.inet6 import IPv6

from netlab.forge import built
from netlab.forgery import (
    ANY_PORT,
    Datagram,
    Drawn,
    Fixed,
    ForgedError,
    Given,
    IcmpError,
    Mutated,
    Noise,
    Number,
    Problem,
    Span,
    Spoofed,
    forged,
    from_json,
    to_json,
)
from netlab.kernel import LabError
from netlab.lab import Lab
from netlab.nat import PORT_RESTRICTED
from netlab.topology import Host, Lan, Router, ServerHost, Topology

LIMIT = 20  # seconds until a packet that must come counts as lost; nothing waits that long when all is well
REPORTER = "198.18.0.1"  # any router will do, but none on the way: that would not take packets from itself

guesses = st.one_of(
    st.builds(Given, st.lists(st.integers(0, 65535), min_size=1, max_size=3).map(tuple)),
    st.tuples(st.integers(0, 65534), st.integers(1, 99)).map(lambda a: Span(a[0], min(a[0] + a[1], ANY_PORT))),
    st.tuples(st.integers(0, 65534), st.integers(1, 99)).map(lambda a: Drawn(a[0], min(a[0] + a[1], ANY_PORT))),
)
parts = st.one_of(
    st.builds(Fixed, st.binary(max_size=9)),
    st.builds(Number, st.integers(1, 9), guesses),
    st.tuples(st.integers(0, 99), st.integers(0, 99)).map(lambda a: Noise(a[0], a[0] + a[1])),
    st.builds(Mutated, st.binary(max_size=99), st.integers(0, 9)),
)
versions = st.sampled_from([4, 6])


def addresses(version: int):
    return st.ip_addresses(v=version).map(str)


forgeries = versions.flatmap(
    lambda v: st.one_of(
        st.builds(
            Spoofed, addresses(v), addresses(v), guesses, guesses, st.lists(parts, max_size=4).map(tuple), st.just(9)
        ),
        st.builds(
            ForgedError,
            st.sampled_from(Problem),
            addresses(v),
            addresses(v),
            addresses(v),
            guesses,
            guesses,
            st.integers(0, 65535),
        ),
    )
)


@given(st.lists(forgeries, max_size=4).map(tuple))
def test_forgeries_survive_json(made) -> None:
    assert from_json(json.loads(json.dumps(to_json(made)))) == made


@given(forgeries, st.integers(0, 2**64), st.lists(st.integers(0, 9999), max_size=9))
def test_a_packet_depends_on_nothing_but_its_arguments(forgery, seed, indices) -> None:
    first = [forged(forgery, seed, index) for index in indices]
    assert [forged(forgery, seed, index) for index in indices] == first


@given(forgeries, st.integers(0, 2**64), st.integers(0, 9999))
def test_every_forgery_is_a_packet_with_right_checksums(forgery, seed, index) -> None:
    made = forged(forgery, seed, index)
    wire, to = built(made)
    packet = (IPv6 if ":" in to else IP)(wire)
    assert bytes(packet.__class__(wire)) == wire
    match made:
        case Datagram(source, destination, payload, ttl):
            assert (packet.src, packet.dst) == (normal(source[0]), normal(destination[0]))
            assert (packet[UDP].sport, packet[UDP].dport) == (source[1], destination[1])
            assert wire.endswith(payload)
            assert (packet.hlim if ":" in to else packet.ttl) == ttl
        case IcmpError(_, reporter, quoted):
            assert (packet.src, packet.dst) == (normal(reporter), normal(quoted.source[0]))
            assert len(wire) <= 28 + 548 + 20
            ports = quoted.source[1].to_bytes(2, "big") + quoted.destination[1].to_bytes(2, "big")
            assert ports in wire
    rebuilt = packet.copy()
    for layer in (IP, UDP, ICMP):
        if layer in rebuilt and rebuilt[layer] is not None:
            del rebuilt[layer].chksum
    assert bytes(rebuilt) == wire


def normal(address: str) -> str:
    return str(IPv6(src=address).src) if ":" in address else address


def test_guesses_scan_draw_and_repeat() -> None:
    def ports(guess) -> list[int]:
        spoofed = Spoofed("1.1.1.1", "2.2.2.2", guess, Given((7,)), ())
        return [forged(spoofed, 5, index).source[1] for index in range(2000)]

    assert ports(Given((4, 9)))[:5] == [4, 9, 4, 9, 4]
    assert ports(Span(10, 13))[:5] == [10, 11, 12, 10, 11]
    drawn = Counter(ports(Drawn(10, 20)))
    assert sorted(drawn) == list(range(10, 20))
    assert min(drawn.values()) > 120


def test_a_packet_is_pinned() -> None:
    """A golden vector: an attack seen with a seed must be seen again with it next year."""
    payload = (Fixed(b"\xd0"), Number(7, Drawn(0, 1 << 56)), Mutated(b"template", 2), Noise(1, 4))
    spoofed = Spoofed("11.0.0.1", "11.0.1.1", Drawn(1024, ANY_PORT), Span(40000, 40003), payload)
    assert forged(spoofed, 7, 4) == PINNED


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: Spoofed("1.1.1.1", "::1", Given((1,)), Given((1,)), ()),
        lambda: ForgedError(Problem.TOO_BIG, "::1", "::2", "3.3.3.3", Given((1,)), Given((1,))),
        lambda: Spoofed("nobody", "1.1.1.1", Given((1,)), Given((1,)), ()),
        lambda: Given(()),
        lambda: Span(5, 5),
        lambda: Drawn(-1, 5),
        lambda: Noise(5, 4),
    ],
)
def test_what_cannot_be_sent_is_refused(wrong) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        wrong()


def topology() -> Topology:
    routers = (
        Router("left", Lan((Host("alice"),)), PORT_RESTRICTED),
        Router("right", Lan((Host("bob"),)), PORT_RESTRICTED),
    )
    return Topology(routers, (ServerHost(), ServerHost("eve", addresses=1, at=0)))


@pytest.fixture
def scene(netlab) -> tuple[Lab, socket.socket, socket.socket]:
    """Bob's socket has asked the server's; eve has heard nothing of it."""
    running = netlab(topology())
    sockets = []
    for name in ("bob", "server"):
        made = running.host(name).socket()
        made.bind((running.host(name).address, 0))
        made.settimeout(LIMIT)
        sockets.append(made)
    bob, server = sockets
    bob.sendto(b"ask", server.getsockname())
    server.recv(16)
    return running, bob, server


def test_a_forged_datagram_passes_the_nat_as_if_it_came_from_the_server(scene) -> None:
    running, bob, server = scene
    right = running.host("right").address
    ports = Given((server.getsockname()[1],)), Given((bob.getsockname()[1],))
    forgery = Spoofed(server.getsockname()[0], right, *ports, (Fixed(b"n"), Number(2, Span(0, 1 << 16))))
    with running.forge("eve", forgery, count=3) as forging:
        assert [bob.recvfrom(16) for _ in range(3)] == [(b"n\0" + bytes([i]), server.getsockname()) for i in range(3)]
        forging.wait(LIMIT)
    assert forging.sent == [3]


def test_a_scan_finds_the_port_that_the_nat_holds_open_and_no_other(scene) -> None:
    running, bob, server = scene
    (host, server_port), port = server.getsockname(), bob.getsockname()[1]
    scan = Span(port - 100, min(port + 100, ANY_PORT))
    forgery = Spoofed(host, running.host("right").address, Given((server_port,)), scan, (Fixed(b"hit"),))
    with running.forge("eve", forgery, count=scan.end - scan.first) as forging:
        assert bob.recvfrom(16) == (b"hit", server.getsockname())
        forging.wait(LIMIT)
    server.sendto(b"last", (running.host("right").address, port))
    assert bob.recv(16) == b"last"


def test_forgeries_take_turns_at_their_rate_until_the_block_ends(scene) -> None:
    running, bob, server = scene
    right = running.host("right").address
    known = Given((server.getsockname()[1],)), Given((bob.getsockname()[1],))
    forgeries = [Spoofed(server.getsockname()[0], right, *known, (Fixed(text),)) for text in (b"one", b"two")]
    with running.forge("eve", *forgeries, rate=None) as forging:
        assert [bob.recv(16) for _ in range(4)] == [b"one", b"two"] * 2
    assert 0 <= forging.sent[0] - forging.sent[1] <= 1
    assert sum(forging.sent) >= 4


@pytest.mark.parametrize("problem", Problem)
def test_a_forged_error_reaches_the_socket_behind_the_nat(scene, problem) -> None:
    """With IP_RECVERR, as a program sees it that listens to errors; the quote must fit the flow."""
    running, bob, server = scene
    bob.setsockopt(socket.IPPROTO_IP, 11, 1)  # IP_RECVERR, linux/in.h
    wrong = Given((server.getsockname()[1] + 1,))
    right = Given((server.getsockname()[1],))
    for remote_ports in (wrong, right):
        error = ForgedError(
            problem,
            REPORTER,
            running.host("right").address,
            server.getsockname()[0],
            Given((bob.getsockname()[1],)),
            remote_ports,
            mtu=600,
        )
        with running.forge("eve", error, count=1) as forging:
            forging.wait(LIMIT)
        if remote_ports is wrong:
            server.sendto(b"mark", (running.host("right").address, bob.getsockname()[1]))
            assert bob.recv(16) == b"mark"
    with pytest.raises(OSError) as caught:  # noqa: PT011 - which error, the next line says
        bob.recv(16)
    assert caught.value.errno == ERRNO[problem]


def test_a_forger_that_dies_is_an_error_not_a_silence(scene) -> None:
    running, _, _ = scene
    forgery = Spoofed("12.0.0.1", "20.0.0.1", Given((1,)), Given((9,)), (Fixed(b"x"),))

    def attack() -> None:
        with running.forge("eve", forgery) as forging:
            forging._process.kill()
            forging._process.wait()

    with pytest.raises(LabError, match="the forger ended"):
        attack()


ERRNO = {
    Problem.PORT_UNREACHABLE: 111,  # ECONNREFUSED
    Problem.HOST_UNREACHABLE: 113,  # EHOSTUNREACH
    Problem.PROHIBITED: 113,
    Problem.TOO_BIG: 90,  # EMSGSIZE
    Problem.TIME_EXCEEDED: 113,
}
PINNED = Datagram(("11.0.0.1", 28771), ("11.0.1.1", 40001), b"\xd0W\xc6)}L\xe3\x0eueMplate\xb6\xff", 64)
