"""No server at all: peers on one switch find each other by multicast, and whoever records it all learns no name.

    alice   bob   carol   dave
      |      |      |       |
      +------+---switch-----+   the recorder is the switch
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from harness import Program, hash_of, make_file

from netlab.lab import Lab
from netlab.nat import NONE, Nat
from netlab.topology import Host, Lan, Router, Topology

SIZE = 100_000  # little enough for a secret of six bytes to be in the ciphertext by chance once in three billion runs
NAMES = ("wonderland-alice", "builder-bob")
NAMEPLATE, WORDS = "481516", "turtle-bronze-autumn"
CODE = "amber-walnut-tiger"
GUARD = 60.0


@pytest.fixture
def start() -> Iterator[Callable[..., Program]]:
    """Starts a peer on a host of the one LAN; all are dead in the end."""
    started: list[Program] = []

    def peer(lab: Lab, host: str, *words: str | Path) -> Program:
        started.append(Program(lab.host(host).popen, ["-m", "p2p.peer", *map(str, words)]))
        return started[-1]

    yield peer
    for program in started:
        program.kill()


def one_switch(ipv4: Nat | None, ipv6: Nat | None) -> Topology:
    hosts = tuple(Host(name) for name in ("alice", "bob", "carol", "dave"))
    return Topology((Router("router", Lan(hosts), ipv4, ipv6=ipv6),), servers=())


@pytest.mark.parametrize(("ipv4", "ipv6"), [(NONE, None), (None, NONE)], ids=["IPv4", "IPv6"])
def test_two_pairs_find_each_other_and_the_switch_learns_no_name(
    netlab, start, tmp_path: Path, ipv4: Nat | None, ipv6: Nat | None
) -> None:
    lab = netlab(one_switch(ipv4, ipv6))
    digest = make_file(tmp_path / "file", SIZE)
    recording = tmp_path / "switch.pcap"
    me, friend = NAMES
    with lab.capture("router", recording):
        senders = [
            start(lab, "alice", "send", me, friend, tmp_path / "file", "--code", CODE, "--json"),
            start(lab, "carol", "send", tmp_path / "file", "--code", f"{NAMEPLATE}-{WORDS}", "--json"),
        ]
        for sender in senders:
            sender.wait_for("on this network, without a server")
        receivers = [
            start(lab, "bob", "recv", friend, me, "--code", CODE, "--yes", "--json", "--out", tmp_path / "bob"),
            start(lab, "dave", "recv", f"{NAMEPLATE}-{WORDS}", "--yes", "--json", "--out", tmp_path / "dave"),
        ]
        for program in (*senders, *receivers):
            assert program.finish(GUARD) == 0, program.err
    for name, receiver in zip(("bob", "dave"), receivers, strict=True):
        assert hash_of(tmp_path / name / "file") == digest == receiver.event("done")["blake3"]
        assert receiver.event("path")["description"].startswith("direct")
    packets = recording.read_bytes()
    assert packets.count(b"lan\x01\x01") >= 2 * 2  # it was there: both pairs announced themselves
    secrets = [*NAMES, NAMEPLATE, *WORDS.split("-"), *CODE.split("-")]
    assert [secret for secret in secrets if secret.encode() in packets] == []


def test_who_is_alone_or_among_strangers_is_told_what_to_look_at(netlab, start, tmp_path: Path) -> None:
    lab = netlab(one_switch(NONE, None))
    make_file(tmp_path / "file", SIZE)
    code = ("--code", CODE)
    alone = start(lab, "alice", "send", "alice", "bob", tmp_path / "file", *code, "--timeout", "2")
    assert alone.finish(GUARD) == 3
    assert "not found on this network within 2 seconds, and nobody else either" in alone.err
    assert "use --server" in alone.err
    stranger = start(lab, "carol", "send", "carol", "dave", tmp_path / "file", *code)
    stranger.wait_for("Waiting for")
    among = start(lab, "bob", "recv", "bob", "alice", *code, "--timeout", "5")
    assert among.finish(GUARD) == 3
    assert "One other p2p waits here, but not for these names" in among.err
    with contextlib.suppress(Exception):
        stranger.interrupt()
    assert stranger.finish(GUARD) == 130


def test_a_cable_that_is_plugged_in_later_is_enough(netlab, start, tmp_path: Path) -> None:
    lab = netlab(one_switch(NONE, NONE))
    digest = make_file(tmp_path / "file", SIZE)
    lab.link_down("bob")
    receiver = start(lab, "bob", "recv", "bob", "alice", "--code", CODE, "--yes", "--json", "--out", tmp_path)
    receiver.wait_for("Waiting for")
    sender = start(lab, "alice", "send", "alice", "bob", tmp_path / "file", "--code", CODE, "--json")
    sender.wait_for("Waiting for")
    lab.link_up("bob")
    assert (sender.finish(GUARD), receiver.finish(GUARD)) == (0, 0), sender.err + receiver.err
    assert hash_of(tmp_path / receiver.event("file")["saved_as"]) == digest
