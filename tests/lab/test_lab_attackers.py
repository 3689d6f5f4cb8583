"""Attackers against two real programs: one off the path who forges, one on it who replays, one beside it who listens.

    alice --- left --- core0 --- core1 --- right --- bob
      |       (NAT)      |         |       (NAT)
    replayer            eve      server

Eve knows all addresses and ports, which is more than a stranger knows, and no key. She sends 3,000 packets a second.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness import Program, Stage, hash_of, left_over, make_file, stage

from netlab.faults import FaultPlan, Match, Replay
from netlab.forgery import (
    ANY_PORT,
    Drawn,
    Fixed,
    ForgedError,
    Forgery,
    Given,
    Guess,
    Mutated,
    Noise,
    Number,
    Part,
    Problem,
    Span,
    Spoofed,
)
from netlab.frames import packet_in
from netlab.impair import Impairment
from netlab.injection import Injection
from netlab.lab import Lab
from netlab.nat import PORT_RESTRICTED
from netlab.node import Node
from netlab.topology import Host, Lan, Router, ServerHost, Topology
from p2p.core.rendezvous.messages import Leave, Unsupported, encode

SIZE = 20_000_000
SMALL = 2_000_000  # where each packet passes scapy
SLOW = Impairment(rate=40e6)  # bits a second: so that an attacker has time to strike before the data ends
CRAWL = Impairment(rate=4e6)  # until she has begun
FAR = Impairment(delay=0.1)  # seconds: and before an answer comes
GUARD = 120.0  # seconds for what takes 4 to 20 on a quiet machine; a crawl takes longer, a torn path ends otherwise
RATE = 3000.0  # forged packets a second
SAME_PORT = 40_000
REPORTER = "198.18.0.1"  # a router that nobody knows
ANY = Drawn(1024, ANY_PORT)
ID = Number(7, Drawn(0, 1 << 56))  # a connection id, guessed
NUMBER = Number(8, Span(0, 1 << 20))  # packet numbers as they come


@pytest.fixture
def scene(netlab) -> Lab:
    routers = (
        Router("left", Lan((Host("alice"),)), PORT_RESTRICTED),
        Router("right", Lan((Host("bob"),)), PORT_RESTRICTED),
    )
    return netlab(Topology(routers, (ServerHost(), ServerHost("eve", addresses=1, at=0))))


@pytest.fixture
def programs(scene: Lab) -> Iterator[Stage]:
    server = scene.host("server")
    with stage(server.popen, server.address) as made:
        yield made


def send(scene: Lab, programs: Stage, tmp_path: Path) -> Program:
    return programs.send("alice", "bob", tmp_path / "file", "--json", spawn=scene.host("alice").popen)


def recv(scene: Lab, programs: Stage, tmp_path: Path) -> Program:
    out = tmp_path / "out"
    return programs.recv("bob", "alice", "--out", out, "--yes", "--json", spawn=scene.host("bob").popen)


def assert_arrived(sender: Program, receiver: Program, tmp_path: Path, digest: str) -> None:
    assert receiver.finish(GUARD) == 0, receiver.err + sender.err
    assert sender.finish(GUARD) == 0, sender.err
    assert sender.event("path")["kind"] == receiver.event("path")["kind"] == "udp"
    assert hash_of(tmp_path / "out" / "file") == digest == receiver.event("done")["blake3"]
    assert left_over(tmp_path / "out") == []
    for program in (sender, receiver):
        assert "Traceback" not in program.err


def udp_port(node: Node) -> int:
    """Of the socket that talks to the server: the program opens it before all others. These routers preserve it."""
    lines = node.call(Path("/proc/thread-self/net/udp6").read_text).splitlines()[1:]
    first = min((line.split() for line in lines), key=lambda fields: int(fields[9]))  # by inode
    return int(first[1].rpartition(":")[2], 16)


def same_ports_every_time(scene: Lab) -> None:
    """Whatever binds to any port in alice or bob gets this one."""
    range_ = Path("/proc/sys/net/ipv4/ip_local_port_range")
    for name in ("alice", "bob"):
        scene.host(name).call(lambda: range_.write_text(f"{SAME_PORT} {SAME_PORT}", encoding="ascii"))


def rendezvous(kind: int, *rest: Part) -> tuple[Part, ...]:
    """A message in clear: `"p2p"(3) version(1) type(1)` and what follows."""
    return (Fixed(b"p2p\1" + bytes([kind])), *rest)


def as_server(scene: Lab, programs: Stage, victim: str, ports: Guess) -> list[Forgery]:
    """All that a server says, to a peer that waits or is paired, numbers and tags guessed."""
    host, router = scene.host("server").address, scene.host(victim).address
    word = Number(8, Drawn(0, 1 << 64))
    address = Fixed(bytes([4, 0x1F, 0x90, 11, 0, 9, 1]))
    payloads = [
        rendezvous(2, word, Noise(16, 16), Fixed(b"\0\0"), address),  # COOKIE
        rendezvous(4, word, Fixed(b"\1\x0f"), word, address),  # JOINED, paired
        rendezvous(4, word, Fixed(b"\0\x0f"), Fixed(bytes(8)), address),  # JOINED, the friend has left
        *(rendezvous(5, word, Fixed(bytes([reason]))) for reason in range(1, 7)),  # REFUSED
        rendezvous(7, word, Noise(1, 300)),  # FORWARDED
        rendezvous(7, word, Fixed(b"\1\5"), Noise(32, 32), Fixed(b"\1\3\3")),  # a REJECT
        rendezvous(9, word),  # LEFT
        (Fixed(encode(Unsupported(2, 3))),),
        (Fixed(b"p2p\2"), Noise(1, 60)),  # another version
        (Noise(1, 200),),
    ]
    return [Spoofed(host, router, Given((programs.port, programs.port + 1)), ports, each) for each in payloads]


def as_peer_to_server(scene: Lab, programs: Stage, source: str, port: int) -> list[Forgery]:
    """Requests in a peer's name, cookie and secret guessed."""
    client, cookie = Number(16, Drawn(0, 1 << 128)), Number(16, Drawn(0, 1 << 128))
    word = Number(8, Drawn(0, 1 << 64))
    names = b"\2\0" + b"\1\3bob\5alice"
    leave = encode(Leave(bytes(8), bytes(16)))
    payloads = [
        rendezvous(8, word, client),
        rendezvous(3, word, cookie, client, Fixed(names)),
        rendezvous(6, client, Noise(1, 300)),
        (Mutated(leave, 20),),
        (Noise(1, 200),),
    ]
    server = scene.host("server").address
    ports = Given((port,)), Given((programs.port, programs.port + 1))
    return [Spoofed(scene.host(source).address, server, *ports, each) for each in payloads]


def as_peer(scene: Lab, source: str, victim: str, ports: tuple[Guess, Guess]) -> list[Forgery]:
    """Checks and transport packets from one router to the other, tags and connection ids guessed."""
    fields = Number(4, Span(0, 400)), Number(2, Drawn(0, 60_000)), Fixed(b"\xf8\x10")
    payloads: list[tuple[Part, ...]] = [
        (Fixed(b"\xc0"), Number(1, Span(0, 2)), Noise(28, 28)),  # CHECK
        (Fixed(b"\xc1"), Noise(12, 12), Fixed(b"\4"), Noise(22, 22)),  # ANSWER
        (Fixed(b"\xd0"), ID, NUMBER, *fields, Noise(1, 1200)),  # DATA
        (Fixed(b"\xd1"), ID, NUMBER, Noise(17, 60)),  # SEALED: an ACK or a CLOSE, if it were genuine
        (Noise(1, 1472),),
    ]
    return [Spoofed(scene.host(source).address, scene.host(victim).address, *ports, each) for each in payloads]


def errors(scene: Lab, victim: str, remote: str, ports: tuple[Guess, Guess]) -> list[Forgery]:
    return [
        ForgedError(problem, reporter, scene.host(victim).address, scene.host(remote).address, *ports, mtu=mtu)
        for problem, mtu in [*((problem, 0) for problem in Problem), (Problem.TOO_BIG, 68), (Problem.TOO_BIG, 600)]
        for reporter in (REPORTER, scene.host(remote).address)
    ]


def test_forged_words_of_the_server_do_not_end_a_wait_nor_spoil_the_meeting(scene, programs, tmp_path: Path) -> None:
    digest = make_file(tmp_path / "file", SIZE)
    sender = send(scene, programs, tmp_path)
    sender.wait_for('"event": "waiting"')
    alice = Given((udp_port(scene.host("alice")),))
    servers_ports = Given((programs.port, programs.port + 1))
    forgeries = [
        *as_server(scene, programs, "left", alice),
        *as_server(scene, programs, "right", ANY),  # bob is not there yet: his port is unknown
        *errors(scene, "left", "server", (alice, servers_ports)),
        *as_peer_to_server(scene, programs, "left", alice.values[0]),
    ]
    with scene.forge("eve", *forgeries, rate=RATE) as forging:
        sender.wait_for('"event": "waiting"')
        receiver = recv(scene, programs, tmp_path)
        assert_arrived(sender, receiver, tmp_path, digest)
    assert min(forging.sent) > 0
    assert "paired" in programs.server.err


@pytest.mark.netlab(needs="tun")
def test_a_forged_word_of_another_version_is_refuted_by_the_servers_answer(scene, programs, tmp_path: Path) -> None:
    """It bears no number, so it needs no luck to come before the answer, of a server as far away as this one."""
    digest = make_file(tmp_path / "file", SMALL)
    same_ports_every_time(scene)
    ports = Given((programs.port,)), Given((SAME_PORT,))
    words: list[tuple[Part, ...]] = [(Fixed(encode(Unsupported(2, 3))),), (Fixed(b"p2p\2"), Noise(1, 60))]
    server, routers = scene.host("server").address, ("left", "right")
    forgeries = [Spoofed(server, scene.host(router).address, *ports, word) for router in routers for word in words]
    with scene.impair("server", up=FAR, seed=1), scene.forge("eve", *forgeries, rate=RATE):
        sender, receiver = send(scene, programs, tmp_path), recv(scene, programs, tmp_path)
        assert_arrived(sender, receiver, tmp_path, digest)


@pytest.mark.netlab(needs="tun")
def test_forged_packets_of_the_peer_do_not_spoil_punching_nor_the_transfer(scene, programs, tmp_path: Path) -> None:
    """She begins before either has said a word, and goes on to the end."""
    digest = make_file(tmp_path / "file", SIZE)
    same_ports_every_time(scene)
    alice = bob = Given((SAME_PORT,))
    forgeries = [
        *as_peer(scene, "left", "right", (alice, bob)),
        *as_peer(scene, "right", "left", (bob, alice)),
        *errors(scene, "left", "right", (alice, bob)),
        *errors(scene, "right", "left", (bob, alice)),
        *as_server(scene, programs, "left", alice),
        *as_server(scene, programs, "right", bob),
        *as_peer_to_server(scene, programs, "left", alice.values[0]),
        *as_peer_to_server(scene, programs, "right", bob.values[0]),
    ]
    with scene.impair("bob", down=SLOW, seed=1), scene.forge("eve", *forgeries, rate=RATE) as forging:
        sender, receiver = send(scene, programs, tmp_path), recv(scene, programs, tmp_path)
        assert_arrived(sender, receiver, tmp_path, digest)
    assert min(forging.sent) > 0


def overheard(listener: socket.socket) -> bytes:
    """The connection id in the first DATA packet that comes by."""
    while (packet := packet_in(listener.recv(65536))) is None or packet.payload[:1] != b"\xd0":
        pass
    return packet.payload[1:8]


@pytest.mark.netlab(needs="tun")
def test_who_overhears_a_connection_id_makes_the_transfer_seal_all_and_no_more(
    scene, programs, tmp_path: Path
) -> None:
    """Beside the path: he adds packets that only a tag tells from true ones, more of them than true ones come."""
    digest = make_file(tmp_path / "file", SIZE)
    all_packets = 0x0003  # ETH_P_ALL, linux/if_ether.h
    listener = scene.host("right").socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(all_packets))
    listener.settimeout(GUARD)
    with scene.impair("bob", down=CRAWL, seed=1) as link:
        sender = send(scene, programs, tmp_path)
        receiver = recv(scene, programs, tmp_path)
        identity = Fixed(b"\xd0" + overheard(listener))
        ports = (Given((udp_port(scene.host("alice")),)), Given((udp_port(scene.host("bob")),)))
        ahead = Number(8, Given((1 << 40, (1 << 40) + 1, 1 << 61, (1 << 61) + 1)))
        crowd = Number(8, Span(20_000, 22_000))
        record = Number(4, Span(0, 400))
        payloads: list[tuple[Part, ...]] = [
            (identity, ahead, record, Fixed(b"\0\0\0\x64"), Noise(1, 9)),
            (identity, crowd, record, Fixed(b"\0\0\xf8\x10"), Noise(1, 1200)),
            (identity, NUMBER, record, Fixed(b"\0\0\0\x10"), Noise(16, 16)),  # whole, and false
            (identity, NUMBER, record, Fixed(b"\0\0\xea\x60"), Noise(20, 20)),  # of another length
            (Fixed(b"\xd1" + identity.data[1:]), NUMBER, Noise(17, 60)),
        ]
        routers = scene.host("left").address, scene.host("right").address
        forgeries = [Spoofed(*routers, *ports, payload) for payload in payloads]
        with scene.forge("eve", *forgeries, rate=RATE) as forging:
            assert '"event": "done"' not in receiver.out
            link.change(down=SLOW)
            assert_arrived(sender, receiver, tmp_path, digest)
    assert min(forging.sent) > 100


LEAVE = Match(prefix=b"p2p\1\x08")
P2P = [Match(prefix=prefix) for prefix in (b"p2p", b"\xc0", b"\xc1", b"\xd0", b"\xd1")]


@pytest.mark.parametrize("how", [Replay(0, times=3), Replay(None, 0.1)], ids=["three times at once", "a while later"])
def test_replayed_datagrams_change_nothing(scene, programs, tmp_path: Path, how: Replay) -> None:
    digest = make_file(tmp_path / "file", SMALL)
    with scene.inject("alice", *(FaultPlan(otherwise=how, match=match) for match in P2P)) as injection:
        sender, receiver = send(scene, programs, tmp_path), recv(scene, programs, tmp_path)
        assert_arrived(sender, receiver, tmp_path, digest)
    assert min(counts["replay"] for counts in injection.by_plan) > 0
    assert injection.counts["replayed"] > 0


@pytest.fixture
def recorded(scene, programs, tmp_path: Path) -> Iterator[Injection]:
    """A run that is over, seen on alice's cable, at the very ports that will be used again.

    All its datagrams but LEAVE, which would give up the seat that the others take.
    """
    same_ports_every_time(scene)
    digest = make_file(tmp_path / "file", SMALL)
    plans = [FaultPlan(match=LEAVE), *(FaultPlan(otherwise=Replay(), match=match) for match in P2P)]
    with scene.inject("alice", *plans) as injection:
        assert_arrived(send(scene, programs, tmp_path), recv(scene, programs, tmp_path), tmp_path, digest)
        (tmp_path / "out" / "file").unlink()
        yield injection


def test_a_run_replayed_into_the_next_one_changes_nothing(scene, programs, tmp_path: Path, recorded) -> None:
    digest = make_file(tmp_path / "file", SMALL, seed=2)
    sender = send(scene, programs, tmp_path)
    sender.wait_for('"event": "waiting"')
    recorded.replay()
    receiver = recv(scene, programs, tmp_path)
    receiver.wait_for('"event": "connecting"')
    recorded.replay()
    assert_arrived(sender, receiver, tmp_path, digest)
    assert recorded.counts["replayed"] > 1000


def test_a_ghost_made_of_replays_holds_a_seat_for_a_lease_and_learns_nothing(
    scene, programs, tmp_path: Path, recorded
) -> None:
    digest = make_file(tmp_path / "file", SMALL, seed=2)
    receiver = recv(scene, programs, tmp_path)
    receiver.wait_for('"event": "waiting"')
    recorded.replay()
    receiver.wait_for("alice is there")
    recorded.replay()
    sender = send(scene, programs, tmp_path)
    sender.wait_for('"event": "seat_taken"')
    assert '"event": "connecting"' not in receiver.out
    assert_arrived(sender, receiver, tmp_path, digest)
