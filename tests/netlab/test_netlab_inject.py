"""scapy in the path of real sockets: every fault, seen from the application on the other side.

alice --[scapy]-- left --- core0 --- core1 --- server
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from netlab.faults import (
    SWAP,
    Corrupt,
    Direction,
    Drop,
    Duplicate,
    FaultPlan,
    Hold,
    Match,
    Protocol,
    Rates,
    Replay,
    Truncate,
)
from netlab.frames import flipped
from netlab.kernel import LabError
from netlab.lab import Lab
from netlab.line import Line
from netlab.nat import FULL_CONE, NONE, PORT_RESTRICTED
from netlab.probe import probe
from netlab.topology import two_nats

LIMIT = 20  # seconds until a packet that must come counts as lost; nothing waits that long when all is well
LAST = b"last"


@pytest.fixture
def alice_and_server(netlab) -> tuple[Lab, socket.socket, socket.socket]:
    running = netlab(two_nats(PORT_RESTRICTED, NONE))
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
        pytest.param({1: Replay(0)}, [0, 1, 1, 2, 3], "replay", id="replay at once"),
        pytest.param({0: Replay(2, times=2)}, [0, 1, 2, 0, 0, 3], "replay", id="replay twice after two more"),
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
        for forwarded, action in line.handle(packet, len(packet), 0.0)[1]:
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


def test_what_is_held_leaves_when_its_time_has_come(alice_and_server) -> None:
    running, alice, server = alice_and_server
    plans = [FaultPlan(script={0: Hold(None, seconds)}, match=Match(prefix=b"%d" % seconds)) for seconds in (2, 1)]
    with running.inject("alice", *plans) as injection:
        for packet in (b"2", b"1", b"other"):
            alice.send(packet)
        assert [server.recv(16) for _ in range(3)] == [b"other", b"1", b"2"]
    assert injection.counts["released"] == 2
    assert [counts["hold"] for counts in injection.by_plan] == [1, 1]


def test_what_is_held_leaves_on_command(alice_and_server) -> None:
    running, alice, server = alice_and_server
    plan = FaultPlan(otherwise=Hold(None), match=Match(prefix=b"held"))
    with running.inject("alice", plan) as injection:
        for packet in (b"held 1", b"held 2", b"other"):
            alice.send(packet)
        assert server.recv(16) == b"other"
        injection.release()
        assert (injection.counts["hold"], injection.counts["released"]) == (2, 2)
        assert [server.recv(16) for _ in range(2)] == [b"held 1", b"held 2"]
        alice.send(b"held 3")
        alice.send(b"other")
        assert server.recv(16) == b"other"
    assert server.recv(16) == b"held 3"


def test_replays_come_later_changed_and_as_often_as_asked(alice_and_server) -> None:
    running, alice, server = alice_and_server
    plans = [
        FaultPlan(script={0: Replay(None, 0.5, times=2, change=Truncate(3))}, match=Match(prefix=b"timed")),
        FaultPlan(otherwise=Replay(change=Corrupt((0,))), match=Match(prefix=b"noted")),
    ]
    with running.inject("alice", *plans) as injection:
        for packet in (b"timed", b"noted 1", b"noted 2"):
            alice.send(packet)
        got = [server.recv(16) for _ in range(5)]
        assert got == [b"timed", b"noted 1", b"noted 2", b"tim", b"tim"]
        for _ in range(2):
            injection.replay()
            got = [server.recv(16) for _ in range(4)]
            assert got == [b"tim", b"tim", b"ooted 1", b"ooted 2"]
    assert [counts["replayed"] for counts in injection.by_plan] == [6, 4]


def test_a_replay_into_a_later_connection_comes_from_where_the_original_came(alice_and_server) -> None:
    running, alice, server = alice_and_server
    with running.inject("alice", FaultPlan(otherwise=Replay())) as injection:
        alice.send(b"once")
        _, first = server.recvfrom(16)
        alice.close()
        injection.replay()
        assert server.recvfrom(16) == (b"once", first)


def test_predicates_by_address_and_port_hold_for_real_packets(alice_and_server) -> None:
    running, alice, server = alice_and_server
    host, second = running.host("server").addresses
    other = running.host("server").socket()
    other.bind((second, 0))
    other.settimeout(LIMIT)
    lost = FaultPlan(rates=Rates(drop=1), match=Match(destination=second, source_port=alice.getsockname()[1]))
    spared = running.host("alice").socket()
    with running.inject("alice", lost, FaultPlan(match=Match(destination=second))) as injection:
        alice.send(b"to the first address")
        assert server.recv(99) == b"to the first address"
        alice.connect(other.getsockname())
        alice.send(b"to the second")
        spared.sendto(b"from another port", other.getsockname())
        assert other.recv(99) == b"from another port"
    assert [counts["chosen"] for counts in injection.by_plan] == [1, 1]
    assert injection.counts["untouched"] == 1
    assert host != second


def test_segments_of_tcp_are_dropped_and_held_and_tcp_mends_it(alice_and_server) -> None:
    running, _, _ = alice_and_server
    chosen = Match(direction=Direction.OUT, protocol=Protocol.TCP, min_size=1)
    plan = FaultPlan(script={0: Drop(), 3: Hold(4), 5: Drop()}, match=chosen)
    blob = bytes(range(256)) * 200
    listener = running.host("server").socket(kind=socket.SOCK_STREAM)
    listener.bind((running.host("server").address, 0))
    listener.listen()
    with running.inject("alice", plan) as injection:
        sender = running.host("alice").socket(kind=socket.SOCK_STREAM)
        sender.settimeout(LIMIT)
        sender.connect(listener.getsockname())
        receiver, _ = listener.accept()
        with receiver:
            receiver.settimeout(LIMIT)
            sender.sendall(blob)
            got = b""
            while len(got) < len(blob) and (part := receiver.recv(65536)):
                got += part
    assert got == blob
    assert (injection.counts["drop"], injection.counts["hold"]) == (2, 1)


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


def test_the_router_behaves_as_before_with_scapy_in_the_path_and_after(netlab) -> None:
    running = netlab(two_nats(FULL_CONE, NONE))
    with running.inject("alice", FaultPlan()):
        assert probe(running, "alice") == FULL_CONE
    assert probe(running, "alice") == FULL_CONE


def test_a_dead_injector_is_an_error_not_a_silence(netlab) -> None:
    running = netlab(two_nats(NONE, NONE))
    injecting = running.inject("alice", FaultPlan())
    injection = injecting.__enter__()
    injection._process.kill()
    injection._process.wait()
    with pytest.raises(LabError, match="the fault injector ended"):
        injecting.__exit__(None, None, None)


def test_a_command_to_a_dead_injector_is_an_error_too(netlab) -> None:
    running = netlab(two_nats(NONE, NONE))

    def command() -> None:
        with running.inject("alice", FaultPlan()) as injection:
            injection._process.kill()
            injection._process.wait()
            injection.release()

    with pytest.raises(LabError, match="the fault injector ended"):
        command()
