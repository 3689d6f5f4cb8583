"""The path changes while a file crosses it: other ports and addresses, other MTUs, darkness. The transfer goes on.

    alice --- left --- core0 --- core1 --- right --- bob
              (NAT)                |       (NAT)
                                 server
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from harness import Program, hash_of, make_file, stage

from netlab.events import (
    BlackholeOff,
    BlackholeOn,
    ChangeMtu,
    ChangePorts,
    Event,
    LinkDown,
    LinkUp,
    Rebind,
)
from netlab.impair import Impairment
from netlab.lab import Lab
from netlab.nat import ADDRESS_RESTRICTED, FULL_CONE, NONE, PORT_RESTRICTED, Nat
from netlab.schedule import At, Schedule
from netlab.topology import Host, Lan, Link, Router, ServerHost, Topology, multi_homed, two_nats

pytestmark = pytest.mark.netlab(needs="tun")

SIZE = 20_000_000
NARROW = Impairment(rate=20e6, delay=0.010)  # eight seconds of data, so that there is some left when all has happened
WIDE = Impairment(delay=0.010)  # from then on
LARGE = 40_000_000
STEADY = Impairment(rate=80e6, delay=0.010)  # four seconds: what MTU a path has is searched while data flows
GUARD = 120.0  # seconds for what takes 5 to 30


@contextmanager
def transfer(
    lab: Lab, tmp_path: Path, *options: str, size: int = SIZE, slow: Impairment = NARROW
) -> Iterator[tuple[Program, Program]]:
    """Both programs when data has begun to flow; in the end, what must have come of it."""
    digest = make_file(tmp_path / "file", size)
    server = lab.host("server")
    out = tmp_path / "out"
    out.mkdir()
    common = ("--json", "--verbose", *options)
    with stage(server.popen, server.address) as programs, lab.impair("bob", down=slow, seed=1):
        sender = programs.send("alice", "bob", tmp_path / "file", *common, spawn=lab.host("alice").popen)
        receiver = programs.recv("bob", "alice", "--out", out, "--yes", *common, spawn=lab.host("bob").popen)
        receiver.wait_for('"event": "progress"')
        yield sender, receiver
        assert (sender.finish(GUARD), receiver.finish(GUARD)) == (0, 0), sender.said + receiver.said
    assert hash_of(out / "file") == digest
    assert "Traceback" not in sender.err + receiver.err


def play(lab: Lab, receiver: Program, *planned: At, follower: Program | None = None) -> None:
    """All that is planned, while data flows, until the follower has moved; then the rest of the data, in haste."""
    with lab.play(Schedule(planned, seed=1)) as playing:
        playing.wait(GUARD)
    if follower is not None:
        follower.wait_for_events("moved", guard=GUARD)
    assert receiver.process.poll() is None, "the transfer was over before all had happened"
    lab.links["bob"].change(down=WIDE)


def moves(program: Program) -> int:
    return sum(event["event"] == "moved" for event in program.events)


@pytest.mark.parametrize(
    ("left", "right", "event"),
    [
        (NONE, PORT_RESTRICTED, ChangePorts("right")),
        (NONE, PORT_RESTRICTED, Rebind("right")),
        (FULL_CONE, PORT_RESTRICTED, Rebind("right")),
        (FULL_CONE, PORT_RESTRICTED, ChangePorts("right")),
        (ADDRESS_RESTRICTED, PORT_RESTRICTED, ChangePorts("right")),
        (PORT_RESTRICTED, NONE, ChangePorts("left")),
        (PORT_RESTRICTED, NONE, Rebind("left")),
        (PORT_RESTRICTED, FULL_CONE, Rebind("left")),
        (PORT_RESTRICTED, FULL_CONE, ChangePorts("left")),
        (PORT_RESTRICTED, ADDRESS_RESTRICTED, ChangePorts("left")),
    ],
    ids=lambda value: value.name if isinstance(value, Nat) else f"{type(value).__name__} {value.router}",
)
def test_another_port_or_address_is_followed(netlab, tmp_path: Path, left: Nat, right: Nat, event: Event) -> None:
    lab = netlab(two_nats(left, right))
    with transfer(lab, tmp_path) as (sender, receiver):
        moved, other = (sender, receiver) if event.router == "left" else (receiver, sender)
        play(lab, receiver, At(0, event, spread=0.3), follower=other)
    assert (moves(other), moves(moved)) == (1, 0)


def test_ports_change_again_and_again(netlab, tmp_path: Path) -> None:
    lab = netlab(two_nats(NONE, PORT_RESTRICTED))
    with transfer(lab, tmp_path) as (sender, receiver):
        play(lab, receiver, *(At(1.2 * step, ChangePorts("right")) for step in range(4)), follower=sender)
    assert moves(sender) >= 1


def test_a_sender_that_changes_from_one_network_to_another(netlab, tmp_path: Path) -> None:
    """Its Wi-Fi is gone, and packets leave by the mobile network, from another address on both sides of the router."""
    lab = netlab(multi_homed(PORT_RESTRICTED, PORT_RESTRICTED, FULL_CONE))
    with transfer(lab, tmp_path) as (_, receiver):
        play(lab, receiver, At(0, LinkDown("alice"), spread=0.3), follower=receiver)
    assert moves(receiver) == 1


@pytest.mark.parametrize("seconds", [2.0, 10.0])
@pytest.mark.parametrize(("gone", "back"), [
    (LinkDown("bob"), LinkUp("bob")), (LinkDown("alice"), LinkUp("alice")),
    (BlackholeOn("left"), BlackholeOff("left")),
], ids=["receiver's cable", "sender's cable", "black hole"])  # fmt: skip
def test_darkness(netlab, tmp_path: Path, gone: Event, back: Event, seconds: float) -> None:
    lab = netlab(two_nats(PORT_RESTRICTED, PORT_RESTRICTED))
    with transfer(lab, tmp_path) as (sender, receiver):
        play(lab, receiver, At(0, gone), At(seconds, back))
    assert moves(sender) == moves(receiver) == 0


def test_a_minute_of_darkness_with_more_patience(netlab, tmp_path: Path) -> None:
    lab = netlab(two_nats(PORT_RESTRICTED, PORT_RESTRICTED))
    with transfer(lab, tmp_path, "--idle-timeout", "90") as (_, receiver):
        play(lab, receiver, At(0, BlackholeOn("bob")), At(60, BlackholeOff("bob")))


def datagrams(program: Program) -> int:
    """The size of the datagrams that it sent in the end, as it says."""
    (size,) = re.findall(r"datagrams of (\d+) B", program.err)
    return int(size)


@pytest.mark.parametrize(("mtu", "size"), [(1280, 1252), (1400, 1372), (1492, 1464), (1500, 1472), (9000, 7962)])
def test_a_link_is_filled_by_the_sender_and_not_searched_by_the_receiver(
    netlab, tmp_path: Path, mtu: int, size: int
) -> None:
    """9000 bytes all along; then the narrow link in the middle, where neither machine sees it."""
    jumbo = Link(mtu=9000)
    routers = tuple(
        Router(name, Lan((Host(host, jumbo),)), PORT_RESTRICTED, link=jumbo)
        for name, host in (("left", "alice"), ("right", "bob"))
    )
    lab = netlab(Topology(routers, (ServerHost(),)))
    lab.apply(ChangeMtu("core0", 9000, icmp=False))
    if mtu != 9000:
        lab.apply(ChangeMtu("right", mtu, icmp=False))
    with transfer(lab, tmp_path, size=LARGE, slow=STEADY) as (sender, receiver):
        pass
    assert datagrams(sender) == size
    assert datagrams(receiver) == 1200


@pytest.mark.parametrize("icmp", [True, False], ids=["told", "in silence"])
def test_the_path_becomes_narrow(netlab, tmp_path: Path, icmp: bool) -> None:
    lab = netlab(two_nats(PORT_RESTRICTED, PORT_RESTRICTED))
    with transfer(lab, tmp_path, size=LARGE, slow=STEADY) as (sender, _):
        lab.apply(ChangeMtu("left", 1400, icmp=icmp))
    assert datagrams(sender) == 1372


def test_the_path_becomes_narrow_and_wide_again(netlab, tmp_path: Path) -> None:
    lab = netlab(two_nats(PORT_RESTRICTED, PORT_RESTRICTED))
    long = Impairment(rate=20e6, delay=0.010)  # 24 seconds of data: what passed once is tried again after ten
    with transfer(lab, tmp_path, size=60_000_000, slow=long) as (sender, receiver):
        narrow, wide = At(0, ChangeMtu("left", 1400, icmp=False)), At(3, ChangeMtu("left", 1500))
        with lab.play(Schedule((narrow, wide))) as playing:
            playing.wait(GUARD)
        assert receiver.process.poll() is None, "the transfer was over before all had happened"
    assert datagrams(sender) == 1472


def test_the_senders_own_interface_becomes_narrow(netlab, tmp_path: Path) -> None:
    """The kernel refuses what is too long (EMSGSIZE)."""
    lab = netlab(two_nats(PORT_RESTRICTED, PORT_RESTRICTED))
    with transfer(lab, tmp_path, size=LARGE, slow=STEADY) as (sender, _):
        lab.host("alice").run(["ip", "link", "set", "eth0", "mtu", "1400"], check=True)
    assert datagrams(sender) == 1372
