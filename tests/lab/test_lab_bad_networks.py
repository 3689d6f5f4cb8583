"""Bad networks between two port-restricted NATs: loss by the kernel, faults by scapy, ends that vanish.

    alice --- left --- core0 --- core1 --- right --- bob
      |       (NAT)                |       (NAT)
    scapy                        server
"""

from __future__ import annotations

from pathlib import Path

import pytest
from harness import Program, Stage, hash_of, make_file, stage

from netlab.faults import FaultPlan, Match, Rates
from netlab.lab import Lab
from netlab.nat import PORT_RESTRICTED
from netlab.topology import two_nats

IDLE_GUARD = 60.0  # seconds; the idle time-out is 12, and who ended by it says so
BIG = 200_000_000


def run(lab: Lab, programs: Stage, source: Path, out: Path, *options: str) -> tuple[Program, Program]:
    options = ("--json", *options)
    sender = programs.send("alice", "bob", source, *options, spawn=lab.host("alice").popen)
    receiver = programs.recv("bob", "alice", "--out", out, "--yes", *options, spawn=lab.host("bob").popen)
    return sender, receiver


def assert_arrived(sender: Program, receiver: Program, saved: Path, digest: str, guard: float) -> None:
    assert (sender.finish(guard), receiver.finish(guard)) == (0, 0), sender.err + receiver.err
    assert sender.event("path")["kind"] == "udp"
    assert hash_of(saved) == digest == sender.event("done")["blake3"] == receiver.event("done")["blake3"]


ACTIONS = {name: name for name in ("drop", "duplicate", "corrupt", "truncate")} | {"swap": "hold", "damage": "corrupt"}
ALL_FAULTS = Rates(drop=0.03, duplicate=0.03, swap=0.03, corrupt=0.03, truncate=0.01)


@pytest.mark.parametrize(
    "plan",
    [
        FaultPlan(seed=1, rates=ALL_FAULTS),
        # damage that the UDP checksum does not show, in the packets whose header is clear
        FaultPlan(seed=2, rates=Rates(drop=0.02, swap=0.02, damage=0.02), match=Match(prefix=b"\xd0")),
        FaultPlan(seed=3, rates=Rates(drop=0.3, duplicate=0.3, swap=0.2), match=Match(prefix=b"\xd1")),
    ],
    ids=["everything", "undetected damage", "control packets"],
)
def test_scapys_faults_do_not_reach_the_file(netlab, tmp_path: Path, plan: FaultPlan) -> None:
    running = netlab(two_nats(PORT_RESTRICTED, PORT_RESTRICTED))
    digest = make_file(tmp_path / "file", 4_000_000)
    server = running.host("server")
    with stage(server.popen, server.address) as programs, running.inject("alice", plan) as injection:
        sender, receiver = run(running, programs, tmp_path / "file", tmp_path / "out")
        assert_arrived(sender, receiver, tmp_path / "out" / "file", digest, 120.0)
    wanted = {ACTIONS[name] for name in ACTIONS if getattr(plan.rates, name)}
    assert wanted <= {action for action, count in injection.counts.items() if count}


def test_200_mb_cross_with_3_percent_loss(netlab, tmp_path: Path) -> None:
    running = netlab(two_nats(PORT_RESTRICTED, PORT_RESTRICTED))
    digest = make_file(tmp_path / "file", BIG)
    server = running.host("server")
    with stage(server.popen, server.address) as programs, running.loss("alice", 0.03):
        sender, receiver = run(running, programs, tmp_path / "file", tmp_path / "out")
        assert_arrived(sender, receiver, tmp_path / "out" / "file", digest, 300.0)


def started(lab: Lab, programs: Stage, tmp_path: Path) -> tuple[Program, Program]:
    """Both programs when data has begun to flow, slowly enough to step in. Neither looks for the other again."""
    make_file(tmp_path / "file", BIG)
    (tmp_path / "out").mkdir()
    sender, receiver = run(lab, programs, tmp_path / "file", tmp_path / "out", "--reconnect", "0")
    receiver.wait_for('"event": "progress"')
    return sender, receiver


def last_line(program: Program) -> str:
    assert "Traceback" not in program.err
    return program.err.strip().splitlines()[-1]


@pytest.mark.parametrize("victim", ["sender", "receiver"])
def test_killed_in_mid_transfer(netlab, tmp_path: Path, victim: str) -> None:
    running = netlab(two_nats(PORT_RESTRICTED, PORT_RESTRICTED))
    server = running.host("server")
    with stage(server.popen, server.address) as programs, running.loss("alice", 0.02):
        sender, receiver = started(running, programs, tmp_path)
        killed, other = (sender, receiver) if victim == "sender" else (receiver, sender)
        killed.kill()
        assert other.finish(IDLE_GUARD) == 7
        assert "nothing came from the other side for 12 seconds" in last_line(other)
    assert not (tmp_path / "out" / "file").exists()


@pytest.mark.parametrize("who", ["sender", "receiver"])
def test_ctrl_c_in_mid_transfer(netlab, tmp_path: Path, who: str) -> None:
    running = netlab(two_nats(PORT_RESTRICTED, PORT_RESTRICTED))
    server = running.host("server")
    with stage(server.popen, server.address) as programs, running.loss("alice", 0.02):
        sender, receiver = started(running, programs, tmp_path)
        stopped, other = (sender, receiver) if who == "sender" else (receiver, sender)
        stopped.interrupt()
        assert (stopped.finish(IDLE_GUARD), other.finish(IDLE_GUARD)) == (130, 7)
        assert "stopped by Ctrl-C over there" in last_line(other)
    assert not (tmp_path / "out" / "file").exists()


def test_a_cable_pulled_for_good_ends_both_in_words(netlab, tmp_path: Path) -> None:
    running = netlab(two_nats(PORT_RESTRICTED, PORT_RESTRICTED))
    server = running.host("server")
    with stage(server.popen, server.address) as programs, running.loss("bob", 0.02):
        sender, receiver = started(running, programs, tmp_path)
        running.link_down("bob")
        assert (sender.finish(IDLE_GUARD), receiver.finish(IDLE_GUARD)) == (7, 7)
        assert "nothing came from the other side for 12 seconds" in last_line(sender)
        assert "The connection was lost" in last_line(receiver)  # it may see that its cable is gone
        running.link_up("bob")
    assert not (tmp_path / "out" / "file").exists()
