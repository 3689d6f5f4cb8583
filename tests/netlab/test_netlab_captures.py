"""A capture of every machine, and the timeline beside it."""

from __future__ import annotations

import socket
import subprocess
from pathlib import Path

import pytest
from scapy.layers.inet import IP, UDP
from scapy.utils import rdpcap

from netlab.kernel import LabError
from netlab.nat import PORT_RESTRICTED
from netlab.topology import two_nats

LIMIT = 20  # seconds; reached only when something is broken
MARK = b"look at me, number %d."


def udp(node) -> socket.socket:
    made = node.socket()
    made.bind((node.address, 0))
    made.settimeout(LIMIT)
    return made


def seen(directory: Path, node: str, payload: bytes) -> list[tuple[float, str]]:
    """When and from whom a node saw the packet, once for each interface that it crossed."""
    packets = rdpcap(str(directory / f"{node}.pcap"))
    return [(float(each.time), each[IP].src) for each in packets if UDP in each and bytes(each[UDP].payload) == payload]


def test_every_node_on_the_way_saw_the_packet_one_after_the_other_and_no_other_did(netlab, tmp_path: Path) -> None:
    lab = netlab(two_nats(PORT_RESTRICTED, PORT_RESTRICTED))
    alice, server = udp(lab.host("alice")), udp(lab.host("server"))
    numbers = range(200)
    with lab.capture_all(tmp_path / "made") as captures:
        for number in numbers:
            alice.sendto(MARK % number, server.getsockname())
            assert server.recv(64) == MARK % number
    assert {path.name for path in (tmp_path / "made").iterdir()} == {
        "timeline.jsonl", *(f"{name}.pcap" for name in lab.plan.nodes)
    }  # fmt: skip
    assert all(capture.dropped == 0 for capture in captures.values())
    assert captures["server"].captured >= len(numbers)
    way = ["alice", "left", "core0", "core1", "server"]
    for number in (numbers[0], numbers[-1]):
        times = {name: seen(tmp_path / "made", name, MARK % number) for name in lab.plan.nodes}
        assert [name for name in way if times[name]] == way
        assert not times["right"]
        assert not times["bob"]
        moments = [moment for name in way for moment, _ in times[name]]
        assert moments == sorted(moments), "the clocks of all nodes are one clock"
        assert {source for name in way[2:] for _, source in times[name]} == {lab.host("left").address}
        assert [source for _, source in times["alice"]] == [lab.host("alice").address]
    (begins,) = (entry.wall for entry in lab.timeline.entries if entry.what == "capture begins")
    (ends,) = (entry.wall for entry in lab.timeline.entries if entry.what == "capture ends")
    assert begins < seen(tmp_path / "made", "alice", MARK % 0)[0][0] < ends


def test_tcpdump_reads_what_was_captured(netlab, tmp_path: Path) -> None:
    lab = netlab(two_nats(PORT_RESTRICTED, PORT_RESTRICTED))
    alice, server = udp(lab.host("alice")), udp(lab.host("server"))
    with lab.capture_all(tmp_path):
        alice.sendto(b"look", server.getsockname())
        server.recv(64)
    for name in ("alice", "left", "core0", "core1", "server"):
        shown = subprocess.run(
            ["tcpdump", "-n", "-r", tmp_path / f"{name}.pcap", "udp"],
            capture_output=True, text=True, check=True, timeout=LIMIT,
        ).stdout  # fmt: skip
        assert f"> {server.getsockname()[0]}.{server.getsockname()[1]}: UDP, length 4" in shown


def test_a_failing_block_keeps_all_that_was_seen_until_then(netlab, tmp_path: Path) -> None:
    lab = netlab(two_nats(PORT_RESTRICTED, PORT_RESTRICTED))
    alice, server = udp(lab.host("alice")), udp(lab.host("server"))

    def failing() -> None:
        for number in range(1000):
            alice.sendto(MARK % number, server.getsockname())
            server.recv(64)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError), lab.capture_all(tmp_path):
        failing()
    assert seen(tmp_path, "server", MARK % 999)


def test_a_capture_that_ends_on_the_way_is_told(netlab, tmp_path: Path) -> None:
    lab = netlab(two_nats(PORT_RESTRICTED, PORT_RESTRICTED))
    with pytest.raises(LabError, match="tcpdump ended before its capture was over"), lab.capture_all(tmp_path) as all_:
        all_["bob"].stop()


def test_captures_are_of_one_kind_so_that_they_merge_into_one(netlab, tmp_path: Path) -> None:
    lab = netlab(two_nats(PORT_RESTRICTED, PORT_RESTRICTED))
    with lab.capture_all(tmp_path):
        pass
    kinds = {path.read_bytes()[:4] + path.read_bytes()[20:24] for path in tmp_path.glob("*.pcap")}
    assert len(kinds) == 1  # magic number and link type
