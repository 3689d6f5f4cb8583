"""Paths that come late, addresses that change: what a person at home or on a train sees.

    alice --- left --- core0 --- core1 --- right --- bob
              (NAT)                |       (NAT)
                                 server
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest
from harness import Program, hash_of, make_file, stage

from netlab.impair import Impairment
from netlab.lab import Lab
from netlab.nat import NONE, PORT_RESTRICTED, SYMMETRIC, Nat
from netlab.topology import two_nats

SIZE = 60_000_000
NARROW = Impairment(rate=20e6)  # so that the transfer outlives what happens to it
FAR = Impairment(delay=0.1)  # so that agreeing on keys takes as long as in the world
SECONDS_AFTER = 3  # events of progress, one a second, that are looked at after the change of paths
LEFT, RIGHT = "11.0.0.1", "11.0.1.1"


def forbid(lab: Lab, verb: str) -> None:
    """The core carries nothing between the two routers, and all between each and the server."""
    lab.host("core0").run(["iptables", verb, "FORWARD", "-s", LEFT, "-d", RIGHT, "-j", "DROP"], check=True)


@pytest.mark.netlab(needs="tun")
def test_a_direct_path_that_opens_under_a_relayed_transfer_takes_it_over(netlab, tmp_path: Path) -> None:
    lab = netlab(two_nats(PORT_RESTRICTED, PORT_RESTRICTED))
    server, alice, bob = (lab.host(name) for name in ("server", "alice", "bob"))
    digest = make_file(tmp_path / "file", SIZE)
    forbid(lab, "-I")
    with stage(server.popen, server.address) as programs, lab.impair("bob", down=NARROW, seed=1) as link:
        sender = programs.send("alice", "bob", tmp_path / "file", "--json", spawn=alice.popen)
        receiver = programs.recv("bob", "alice", "--out", tmp_path / "out", "--yes", "--json", spawn=bob.popen)
        receiver.wait_for('"event": "progress"')
        forbid(lab, "-D")
        for program in (sender, receiver):
            program.wait_for_events("path", 2)
        receiver.wait_for_events("progress", len(receiver.events_named("progress")) + SECONDS_AFTER)
        link.change(down=Impairment())
        assert (sender.finish(), receiver.finish()) == (0, 0), sender.err + receiver.err
    for program in (sender, receiver):
        paths = [event["description"] for event in program.events if event["event"] == "path"]
        assert [path.partition(" ")[0] for path in paths] == ["relay", "direct"], paths
        assert_no_stall(program)
    assert hash_of(tmp_path / "out" / "file") == digest


def assert_no_stall(program: Program) -> None:
    """In every second of the transfer something came across, and nobody was missed or looked for."""
    assert not {event["event"] for event in program.events} & {"path_lost", "peer_silent", "server_silent"}
    across = [event["bytes"] for event in program.events_named("progress")]
    still = [one for one, other in pairwise(across) if one == other < SIZE]
    assert not still, across


@pytest.mark.netlab
@pytest.mark.parametrize("other", [PORT_RESTRICTED, SYMMETRIC, NONE], ids=lambda nat: nat.name)
def test_an_address_that_changes_while_one_waits_is_the_one_that_is_punched(netlab, tmp_path: Path, other: Nat) -> None:
    lab = netlab(two_nats(PORT_RESTRICTED, other))
    server, alice, bob = (lab.host(name) for name in ("server", "alice", "bob"))
    digest = make_file(tmp_path / "file", 1_000_000)
    with stage(server.popen, server.address) as programs:
        sender = programs.send("alice", "bob", tmp_path / "file", "--json", spawn=alice.popen)
        sender.wait_for('"waiting"')
        lab.rebind("left")
        programs.server.wait_for("moved")
        receiver = programs.recv("bob", "alice", "--out", tmp_path / "out", "--yes", "--json", spawn=bob.popen)
        assert (sender.finish(), receiver.finish()) == (0, 0), sender.err + receiver.err
    assert receiver.event("path")["description"].startswith("direct UDP")
    assert hash_of(tmp_path / "out" / "file") == digest


def another_address_of_the_router(lab: Lab) -> None:
    lab.rebind("left")


def another_address_of_the_host(lab: Lab) -> None:
    """As after a new lease; nothing else on its network is different."""
    alice = lab.host("alice")
    for words in ("addr flush dev eth0", "addr add 192.168.1.77/24 dev eth0", "route add default via 192.168.1.1"):
        alice.run(["ip", *words.split()], check=True)


@pytest.mark.netlab(needs="tun")
@pytest.mark.parametrize("when", ["peer_found", "connecting"])
@pytest.mark.parametrize("change", [another_address_of_the_router, another_address_of_the_host])
def test_an_address_that_changes_while_they_connect(
    netlab, tmp_path: Path, change: Callable[[Lab], None], when: str
) -> None:
    """There is no path before: from the old address nothing reaches the other router, and nobody wants a relay."""
    lab = netlab(two_nats(PORT_RESTRICTED, PORT_RESTRICTED))
    server, alice, bob = (lab.host(name) for name in ("server", "alice", "bob"))
    digest = make_file(tmp_path / "file", 100_000)
    options = ("--json", "--no-relay")
    forbid(lab, "-I")
    with stage(server.popen, server.address) as programs, lab.impair("alice", up=FAR, down=FAR, seed=1):
        sender = programs.send("alice", "bob", tmp_path / "file", *options, spawn=alice.popen)
        receiver = programs.recv("bob", "alice", "--out", tmp_path / "out", "--yes", *options, spawn=bob.popen)
        sender.wait_for_events(when)
        change(lab)
        forbid(lab, "-D")
        assert (sender.finish(), receiver.finish()) == (0, 0), sender.said + receiver.said
    for program in (sender, receiver):
        paths = [event["description"] for event in program.events_named("path")]
        assert paths
        assert all(path.startswith("direct UDP") for path in paths), paths
    assert hash_of(tmp_path / "out" / "file") == digest
