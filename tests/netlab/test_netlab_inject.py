"""scapy in the path of real sockets: every fault, seen from the application on the other side.

alice --[scapy]-- left --- core0 --- core1 --- server
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from netlab.faults import SWAP, Corrupt, Direction, Drop, Duplicate, FaultPlan, Hold, Line, Match, Rates, Truncate
from netlab.inject import flipped
from netlab.kernel import LabError
from netlab.lab import Lab
from netlab.nat import FULL_CONE, NONE, PORT_RESTRICTED
from netlab.probe import probe
from netlab.topology import two_nats

LIMIT = 20  # seconds until a packet that must come counts as lost; nothing waits that long when all is well
LAST = b"last"


@pytest.fixture
def alice_and_server(lab) -> tuple[Lab, socket.socket, socket.socket]:
    running = lab(two_nats(PORT_RESTRICTED, NONE))
    sockets = []
    for name in ("alice", "server"):
        made = running.host(name).socket()
        made.bind((running.host(name).address, 0))
        made.settimeout(LIMIT)
        sockets.append(made)
    sockets[0].connect(sockets[1].getsockname())
    return running, sockets[0], sockets[1]


def packets(count: int, size: int = 100) -> list[bytes]:
    return [bytes([i]) * size for i in range(count)]


def until_last(receive: Callable[[int], bytes]) -> Iterator[bytes]:
    while (got := receive(65536)) != LAST:
        yield got


@contextmanager
def sent_through(alice_and_server, plan: FaultPlan, sent: list[bytes]) -> Iterator[tuple[list[bytes], dict[str, int]]]:
    running, alice, server = alice_and_server
    with running.inject("alice", plan) as injection:
        for packet in [*sent, LAST]:
            alice.send(packet)
        got = list(until_last(server.recv))
    yield got, injection.counts


@pytest.mark.parametrize(
    ("script", "expected", "count"),
    [
        pytest.param({1: Drop()}, [0, 2, 3], "drop", id="drop"),
        pytest.param({1: Duplicate()}, [0, 1, 1, 2, 3], "duplicate", id="duplicate"),
        pytest.param({1: Duplicate(2)}, [0, 1, 1, 1, 2, 3], "duplicate", id="duplicate twice"),
        pytest.param({1: SWAP}, [0, 2, 1, 3], "hold", id="swap"),
        pytest.param({0: Hold(3)}, [1, 2, 3, 0], "hold", id="hold"),
        pytest.param({1: Corrupt((0,), recompute=False)}, [0, 2, 3], "corrupt", id="wrong checksum"),
    ],
)
def test_a_scripted_fault_meets_its_packet(alice_and_server, script, expected, count) -> None:
    sent = packets(4)
    plan = FaultPlan(script=script, match=Match(direction=Direction.OUT))
    with sent_through(alice_and_server, plan, sent) as (got, counts):
        assert got == [sent[i] for i in expected]
    assert counts["chosen"] == 5
    assert counts[count] == 1
    assert counts["pass"] == 4


def test_damage_with_a_right_checksum_reaches_the_application(alice_and_server) -> None:
    sent = packets(3)
    plan = FaultPlan(script={1: Corrupt((0, 9)), 2: Truncate(7)})
    with sent_through(alice_and_server, plan, sent) as (got, _):
        assert got == [sent[0], flipped(sent[1], (0, 9)), sent[2][:7]]
        assert got[1][:3] == b"\x00\x03\x01"


def test_a_wrong_checksum_is_what_the_kernel_dropped_it_for(alice_and_server) -> None:
    running, _, _ = alice_and_server
    plan = FaultPlan(script={0: Corrupt((3,), recompute=False)})
    with sent_through(alice_and_server, plan, packets(1)) as (got, _):
        assert got == []
    snmp = running.host("server").call(Path("/proc/thread-self/net/snmp").read_text)
    names, values = (line.split() for line in snmp.splitlines() if line.startswith("Udp:"))
    assert dict(zip(names, values, strict=True))["InCsumErrors"] == "1"


def test_the_same_seed_does_the_same_to_real_packets(alice_and_server) -> None:
    plan = FaultPlan(
        seed=7, rates=Rates(drop=0.1, duplicate=0.1, swap=0.1, damage=0.1, truncate=0.1), match=Match(min_size=50)
    )
    sent = packets(200)
    line = Line(plan, Direction.OUT)
    expected = []
    for packet in sent:
        for forwarded, action in line.handle(packet, len(packet))[1]:
            match action:
                case Corrupt(bits):
                    expected.append(flipped(forwarded, bits))
                case Truncate(length):
                    expected.append(forwarded[:length])
                case _:
                    expected.append(forwarded)
    with sent_through(alice_and_server, plan, sent) as (got, counts):
        assert [packet.hex()[:8] for packet in got] == [packet.hex()[:8] for packet in expected]
        assert got == expected
    assert counts["chosen"] == 200
    assert min(counts[name] for name in ("drop", "duplicate", "hold", "corrupt", "truncate")) > 0


def test_faults_from_outside_in(alice_and_server) -> None:
    running, alice, server = alice_and_server
    with running.inject("alice", FaultPlan(script={0: Drop()}, match=Match(direction=Direction.IN))) as injection:
        alice.send(b"open")
        _, mapped = server.recvfrom(16)
        server.sendto(b"lost", mapped)
        server.sendto(b"kept", mapped)
        assert alice.recv(16) == b"kept"
    assert (injection.counts["chosen"], injection.counts["drop"]) == (2, 1)


def test_faults_on_the_server_link_seen_from_the_server(alice_and_server) -> None:
    running, alice, server = alice_and_server
    with running.inject("server", FaultPlan(script={0: Drop()}, match=Match(direction=Direction.IN))) as injection:
        alice.send(b"lost")
        alice.send(b"kept")
        assert server.recv(16) == b"kept"
    assert injection.counts["drop"] == 1


def test_only_chosen_packets_meet_faults(alice_and_server) -> None:
    sent = [b"keep this", b"lose this", b"keep that"]
    plan = FaultPlan(rates=Rates(drop=1), match=Match(prefix=b"lose"))
    with sent_through(alice_and_server, plan, sent) as (got, counts):
        assert got == [b"keep this", b"keep that"]
    assert counts["chosen"] == 1


def test_what_is_still_held_at_the_end_is_forwarded(alice_and_server) -> None:
    running, alice, server = alice_and_server
    with running.inject("alice", FaultPlan(script={0: SWAP}, match=Match(prefix=b"held"))) as injection:
        alice.send(b"held")
        alice.send(b"other")
        assert server.recv(16) == b"other"
    assert server.recv(16) == b"held"
    assert injection.counts["hold"] == 1


def test_super_packets_arrive_as_packets(alice_and_server) -> None:
    running, alice, server = alice_and_server
    with running.inject("alice", FaultPlan(match=Match(min_size=1000))) as injection:
        alice.setsockopt(socket.IPPROTO_UDP, 103, 1000)  # UDP_SEGMENT, linux/udp.h
        alice.send(b"s" * 10_000)
        assert [len(server.recv(65536)) for _ in range(10)] == [1000] * 10
    assert injection.counts["chosen"] == 10


def test_tcp_passes_untouched(alice_and_server) -> None:
    running, _, _ = alice_and_server
    blob = bytes(range(256)) * 2000
    with running.inject("alice", FaultPlan(rates=Rates(drop=1))):
        listener = running.host("server").socket(kind=socket.SOCK_STREAM)
        listener.bind((running.host("server").address, 0))
        listener.listen()
        sender = running.host("alice").socket(kind=socket.SOCK_STREAM)
        sender.settimeout(LIMIT)
        sender.connect(listener.getsockname())
        receiver, _ = listener.accept()
        with receiver:
            receiver.settimeout(LIMIT)
            # The reader is this same thread: what the socket buffers hold is sent in pieces.
            got = b""
            for start in range(0, len(blob), 32_000):
                sender.sendall(blob[start : start + 32_000])
                while len(got) < min(start + 32_000, len(blob)):
                    got += receiver.recv(65536)
    assert got == blob


def test_the_router_behaves_as_before_with_scapy_in_the_path_and_after(lab) -> None:
    running = lab(two_nats(FULL_CONE, NONE))
    with running.inject("alice", FaultPlan()):
        assert probe(running, "alice") == FULL_CONE
    assert probe(running, "alice") == FULL_CONE


def test_a_dead_injector_is_an_error_not_a_silence(lab) -> None:
    running = lab(two_nats(NONE, NONE))
    injecting = running.inject("alice", FaultPlan())
    injection = injecting.__enter__()
    injection._process.kill()
    injection._process.wait()
    with pytest.raises(LabError, match="the fault injector ended"):
        injecting.__exit__(None, None, None)
