"""Impaired links under real packets: what arrives is what an engine of the same seed says.

alice ==[forwarder]== left --- core0 --- core1 --- server

Nothing may be early. A busy machine may be late: only the best of several tries is held against an upper bound.
"""

from __future__ import annotations

import os
import socket
import sys
import time
from contextlib import suppress
from itertools import chain
from math import sqrt

import pytest
from hypothesis import given
from hypothesis import strategies as st

from netlab.faults import FaultPlan, Match
from netlab.forwarder import damaged, housekeeping
from netlab.impair import Engine, GilbertElliott, Impairment
from netlab.impaired import Backend, has_netem
from netlab.kernel import LabError
from netlab.lab import Lab
from netlab.nat import FULL_CONE, NONE
from netlab.netem import commands
from netlab.probe import probe
from netlab.topology import two_nats

LIMIT = 20  # seconds until a packet that must come counts as lost; nothing waits that long when all is well
IP_RECVTTL = 12  # linux/in.h
SO_RCVBUFFORCE = 33  # asm-generic/socket.h
BUFFER = 16 << 20  # bytes; all that a test sends waits here
UDP_AND_IP = 28  # bytes of header
LAST = b"last"
LATE = 0.008  # seconds that the best of many packets may be late
TRIES = 5  # bursts, of which the fastest counts
SLOWER = 1.2  # times what the rate says, that the fastest may take
SEED = 7
TUN = pytest.mark.netlab(needs="tun")


@pytest.fixture
def alice_and_server(netlab) -> tuple[Lab, socket.socket, socket.socket]:
    running = netlab(two_nats(NONE, NONE))
    sockets = []
    for name in ("alice", "server"):
        made = running.host(name).socket()
        with suppress(PermissionError):  # without root it stays at what the kernel gives everybody
            made.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, BUFFER)
        made.bind((running.host(name).address, 0))
        made.settimeout(LIMIT)
        sockets.append(made)
    for one, other in (sockets, sockets[::-1]):
        one.connect(other.getsockname())
    return running, *sockets


def packet(number: int, size: int = 100) -> bytes:
    return number.to_bytes(4, "big").ljust(size, b".")


def foretold(impairment: Impairment, count: int, size: int = 100, direction: str = "up") -> list[list]:
    engine = Engine(impairment, seed=SEED, direction=direction)
    return [engine.handle(size + UDP_AND_IP, 0.0) for _ in range(count)]


@pytest.mark.parametrize(
    "impairment",
    [
        Impairment(),
        Impairment(loss=0.1),
        Impairment(burst=GilbertElliott.of(0.1, mean_burst=4)),
        Impairment(duplicate=0.1),
        Impairment(corrupt=0.1),
        Impairment(loss=0.05, duplicate=0.05, corrupt=0.05),
    ],
    ids=["none", "loss", "bursts", "duplicate", "corrupt", "together"],
)
@TUN
def test_what_arrives_is_what_the_seed_says(alice_and_server, impairment) -> None:
    running, alice, server = alice_and_server
    count, more = 3000, 100
    # The receiving kernel drops what does not match its checksum.
    whole = [[i for _, where in copies if where is None] for i, copies in enumerate(foretold(impairment, count + more))]
    # The last one sent is one that arrives, so that there is no need to wait for any that does not.
    sent = next(i for i in range(count, count + more) if whole[i]) + 1
    expected = list(chain(*whole[:sent]))
    with running.impair("alice", up=impairment, seed=SEED, backend=Backend.FORWARDER) as link:
        for i in range(sent):
            alice.send(packet(i))
        got = [int.from_bytes(server.recv(200)[:4], "big") for _ in expected]
    assert got == expected
    assert link.counts["up"]["packets"] == sent
    share = impairment.burst.mean_loss if impairment.burst else impairment.loss
    memory = 1 - impairment.burst.to_bad - impairment.burst.to_good if impairment.burst else 0
    sigma = sqrt(sent * share * (1 - share) * (1 + memory) / (1 - memory))
    assert abs(link.counts["up"]["lost"] - sent * share) <= 6 * sigma
    assert link.counts["up"]["overrun"] == link.counts["up"]["refused"] == link.counts["down"]["lost"] == 0


@TUN
def test_each_direction_has_its_delay(alice_and_server) -> None:
    running, alice, server = alice_and_server
    up, down = Impairment(delay=0.020), Impairment(delay=0.045)
    with running.impair("alice", up=up, down=down, seed=SEED) as link:
        took = []
        for i in range(20):
            start = time.monotonic()
            alice.send(packet(i))
            server.recv(64)
            turned = time.monotonic()
            server.send(packet(i))
            alice.recv(64)
            took.append((turned - start, time.monotonic() - turned))
    fastest = [min(each) for each in zip(*took, strict=True)]
    assert 0.020 <= fastest[0] <= 0.020 + LATE
    assert 0.045 <= fastest[1] <= 0.045 + LATE
    assert link.counts["up"]["left"] == link.counts["down"]["left"] == 20


@TUN
def test_every_packet_has_the_jitter_that_the_seed_says(alice_and_server) -> None:
    running, alice, server = alice_and_server
    impairment = Impairment(delay=0.015, jitter=0.014)
    # Apart, so that none waits for the one before it.
    engine = Engine(impairment, seed=SEED, direction="up")
    delays = [engine.handle(128, float(i))[0][0] - i for i in range(40)]
    assert min(delays) < 0.005
    assert max(delays) > 0.025
    late = []
    with running.impair("alice", up=impairment, seed=SEED):
        for i, delay in enumerate(delays):
            start = time.monotonic()
            alice.send(packet(i))
            assert server.recv(100) == packet(i)
            late.append(time.monotonic() - start - delay)
    assert min(late) >= -1e-6
    # Short delays and long ones by themselves: too much of both, or of the jitter alone, is seen in one of them.
    for some in ([i for i, delay in enumerate(delays) if (delay > 0.020) is long] for long in (False, True)):
        assert min(late[i] for i in some) <= LATE


@TUN
def test_as_fast_as_the_rate_and_never_faster(alice_and_server) -> None:
    running, alice, server = alice_and_server
    count, size, rate = 200, 1000, 10e6
    with running.impair("alice", up=Impairment(rate=rate), seed=SEED):
        took = []
        for _ in range(TRIES):
            start = time.monotonic()
            for i in range(count):
                alice.send(packet(i, size))
            for i in range(count):
                assert server.recv(2000) == packet(i, size)
                assert time.monotonic() - start >= (i + 1) * (size + UDP_AND_IP) * 8 / rate
            took.append(time.monotonic() - start)
    assert min(took) <= SLOWER * count * (size + UDP_AND_IP) * 8 / rate


@pytest.mark.parametrize("bound", [{"queue_packets": 10}, {"queue_bytes": 10 * 1028}], ids=["packets", "bytes"])
@TUN
def test_the_queue_is_bounded(alice_and_server, bound) -> None:
    running, alice, server = alice_and_server
    seconds = 1028 * 8 / 80e3  # to send one packet
    start = time.monotonic()
    with running.impair("alice", up=Impairment(rate=80e3, **bound), seed=SEED) as link:
        for i in range(100):
            alice.send(packet(i, 1000))
        # When the first has come, all others have met the queue or do so within the block's end.
        server.recv(2000)
    counts = link.counts["up"]
    assert counts["left"] + counts["overflowed"] == counts["packets"] == 100
    # What the link sends meanwhile makes room for as many.
    assert 11 <= counts["left"] <= 11 + (time.monotonic() - start) / seconds


@TUN
def test_some_overtake(alice_and_server) -> None:
    running, alice, server = alice_and_server
    count, impairment = 500, Impairment(delay=0.5, reorder=0.1)
    with running.impair("alice", up=impairment, seed=SEED) as link:
        for i in range(count):
            alice.send(packet(i))
        got = [int.from_bytes(server.recv(200)[:4], "big") for _ in range(count)]
    early = {i for i, ((departure, _),) in enumerate(foretold(impairment, count)) if departure == 0}
    assert [i for i in got if i in early] == sorted(early)
    assert [i for i in got if i not in early] == [i for i in range(count) if i not in early]
    assert got != sorted(got)
    assert link.counts["up"]["reordered"] == len(early)
    assert abs(len(early) - count * 0.1) <= 6 * sqrt(count * 0.1 * 0.9)


@TUN
def test_a_link_changes_while_packets_are_on_it(alice_and_server) -> None:
    running, alice, server = alice_and_server
    with running.impair("alice", seed=SEED) as link:
        alice.send(packet(0))
        assert server.recv(200) == packet(0)
        link.change(up=Impairment(loss=1.0))
        alice.send(packet(1))
        server.send(packet(2))
        assert alice.recv(200) == packet(2)
        link.change(up=Impairment(), down=Impairment(delay=0.02))
        alice.send(packet(3))
        assert server.recv(200) == packet(3)
        start = time.monotonic()
        server.send(packet(4))
        assert alice.recv(200) == packet(4)
        assert time.monotonic() - start >= 0.02
    assert (link.counts["up"]["lost"], link.counts["down"]["lost"]) == (1, 0)


@TUN
def test_what_is_on_its_way_at_the_end_arrives(alice_and_server) -> None:
    running, alice, server = alice_and_server
    with running.impair("alice", up=Impairment(delay=1000.0), down=Impairment(), seed=SEED) as link:
        alice.send(packet(0))
        # A datagram both ways after it: what came before is in the forwarder's heap.
        link.change(up=Impairment(delay=1000.0))
        server.send(packet(1))
        assert alice.recv(200) == packet(1)
    assert server.recv(200) == packet(0)
    assert link.counts["up"]["left"] == 1


@TUN
def test_a_packet_keeps_its_time_to_live(alice_and_server) -> None:
    running, alice, server = alice_and_server
    server.setsockopt(socket.IPPROTO_IP, IP_RECVTTL, 1)

    def seen() -> int:
        alice.send(packet(0))
        _, ((_, _, data),), _, _ = server.recvmsg(200, 64)
        return int.from_bytes(data, "little")

    plain = seen()
    with running.impair("alice", up=Impairment(delay=0.001), seed=SEED):
        assert seen() == plain


@TUN
def test_super_packets_are_cut_up_before_they_are_impaired(alice_and_server) -> None:
    running, alice, server = alice_and_server
    with running.impair("alice", seed=SEED) as link:
        alice.setsockopt(socket.IPPROTO_UDP, 103, 1000)  # UDP_SEGMENT, linux/udp.h
        alice.send(b"s" * 10_000)
        assert [len(server.recv(65536)) for _ in range(10)] == [1000] * 10
    assert (link.counts["up"]["packets"], link.counts["up"]["bytes"]) == (10, 10_280)


@TUN
def test_a_nat_behaves_as_before_behind_a_bad_link_and_after(netlab) -> None:
    running = netlab(two_nats(FULL_CONE, NONE))
    with running.impair("alice", up=Impairment(delay=0.002), down=Impairment(delay=0.002), seed=SEED):
        assert probe(running, "alice") == FULL_CONE
    assert probe(running, "alice") == FULL_CONE


@TUN
def test_a_server_and_a_host_with_scapy_on_it_can_be_impaired_too(alice_and_server) -> None:
    running, alice, server = alice_and_server
    with (
        running.inject("alice", FaultPlan(match=Match(min_size=50))) as injection,
        running.impair("alice", up=Impairment(duplicate=1.0), seed=SEED),
        running.impair("server", down=Impairment(duplicate=1.0), seed=SEED) as link,
    ):
        alice.send(packet(0))
        assert [server.recv(200) for _ in range(4)] == [packet(0)] * 4
    assert injection.counts["chosen"] in {1, 2}  # on whichever side of the first duplication it stands
    assert link.counts["down"]["packets"] == 2


@TUN
def test_a_dead_forwarder_is_an_error_not_a_silence(netlab) -> None:
    running = netlab(two_nats(NONE, NONE))
    impairing = running.impair("alice", seed=SEED)
    link = impairing.__enter__()
    link._works._process.kill()
    link._works._process.wait()
    with pytest.raises(LabError, match="the forwarder ended"):
        link.change(up=Impairment(loss=0.5))
    with pytest.raises(LabError, match="the forwarder ended"):
        impairing.__exit__(None, None, None)


def test_a_missing_device_is_told_in_words(netlab) -> None:
    alice = netlab(two_nats(NONE, NONE)).host("alice")
    argv = [sys.executable, "-m", "netlab.forwarder", "lo", "lo", "1500"]  # a name that is taken
    done = alice.run(argv, env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.startswith("no TAP device can be made")


def test_the_kernel_limits_a_rate_where_we_let_it(alice_and_server) -> None:
    # A tbf is on every machine; that there is a netem too is not presumed.
    running, alice, server = alice_and_server
    count, size = 100, 1000
    with running.impair("alice", up=Impairment(rate=1e9), backend=Backend.NETEM) as link:
        for rate in (10e6, 5e6):
            link.change(up=Impairment(rate=rate))
            took = []
            for _ in range(TRIES):
                start = time.monotonic()
                for i in range(count):
                    alice.send(packet(i, size))
                # In any order: what a timer of the kernel sends on one processor may overtake what another still holds.
                assert {server.recv(2000) for _ in range(count)} == {packet(i, size) for i in range(count)}
                took.append(time.monotonic() - start)
            # A full bucket of one packet goes at once, and one may be left of the time before.
            assert (count - 2) * size * 8 / rate <= min(took) <= SLOWER * count * (size + UDP_AND_IP) * 8 / rate
        link.change(up=Impairment())
        alice.send(LAST)
        assert server.recv(64) == LAST
        link.change(up=Impairment(rate=1e6, queue_packets=5))
        for i in range(100):
            alice.send(packet(i, size))
        server.recv(2000)
    assert 0 < link.counts["up"]["packets"] < 100


def test_tc_understands_every_command(netlab) -> None:
    host = netlab(two_nats(NONE, NONE)).host("alice")
    everything = Impairment(
        delay=0.05, jitter=0.005, rate=5e6, loss=0.01, reorder=0.01, duplicate=0.01, corrupt=0.01, queue_packets=50
    )
    for impairment in (everything, Impairment(burst=GilbertElliott.of(0.01, 3))):
        netem = commands("lo", impairment)[0]
        done = host.run(["tc", "-batch", "-"], input=netem + "\n", capture_output=True, text=True)
        # It is the kernel that knows no netem, after tc has understood.
        assert (done.returncode == 0) if has_netem() else ("kind is unknown" in done.stderr), done.stderr


def test_one_bit_is_damaged_behind_the_ip_header() -> None:
    frame = bytes(12) + b"\x08\x00" + b"\x45" + bytes(19) + bytes(8) + b"payload"
    for where in (0.0, 0.5, 0.999):
        changed = [i for i, (a, b) in enumerate(zip(frame, damaged(frame, where), strict=True)) if a != b]
        assert len(changed) == 1
        assert changed[0] >= 34
    assert damaged(frame[:34], 0.5) == frame[:34]


@given(
    st.binary(max_size=100) | st.binary(max_size=100).map(lambda rest: bytes(12) + b"\x86\xdd" + rest), st.floats(0, 1)
)
def test_damage_is_one_bit_or_none_in_any_bytes_at_all(frame, where) -> None:
    housekeeping(frame)
    changed = damaged(frame, min(where, 1 - 2**-53))
    assert len(changed) == len(frame)
    assert sum((a ^ b).bit_count() for a, b in zip(frame, changed, strict=True)) <= 1


def test_what_machines_say_by_themselves_is_told_from_traffic() -> None:
    ethernet = bytes(12)
    ipv4, ipv6 = (ethernet + kind + version for kind, version in ((b"\x08\x00", b"\x45"), (b"\x86\xdd", b"\x60")))
    udp, igmp = (ipv4 + bytes(8) + bytes([protocol]) + bytes(30) for protocol in (17, 2))
    udp6, echo6, solicit6, listener6 = (
        ipv6 + bytes(5) + bytes([protocol]) + bytes(33) + bytes([kind]) + bytes(20)
        for protocol, kind in ((17, 133), (58, 128), (58, 135), (0, 0))
    )
    assert [housekeeping(each) for each in (udp, udp6, echo6)] == [False] * 3
    assert [housekeeping(each) for each in (igmp, solicit6, listener6, ethernet + b"\x08\x06" + bytes(28))] == [
        True
    ] * 4
