"""What happens to a network while the programs run: they live through it, or end in words.

    alice --- left --- core0 --- core1 --- right --- bob
              (NAT)                |       (NAT)
                                 server
"""

from __future__ import annotations

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
    FlushMappings,
    KillService,
    LinkDown,
    LinkUp,
    Rebind,
    StartService,
    Way,
)
from netlab.impair import Impairment
from netlab.lab import Lab
from netlab.nat import PORT_RESTRICTED, PORT_RESTRICTED_RANDOM, Nat
from netlab.schedule import At, Schedule
from netlab.topology import two_nats

AWAY = 2.0  # seconds
SERVER_PORT = 3478
# Enough data for the transfer to be under way when everything is back: twelve seconds; then the rest, in haste.
SIZE = 30_000_000
NARROW, WIDE = Impairment(rate=20e6, delay=0.010), Impairment(delay=0.010)
IDLE_GUARD = 60.0  # seconds; the idle time-out is 12
GUARD = 120.0  # seconds; everything else


@contextmanager
def transfer(lab: Lab, tmp_path: Path, *options: str) -> Iterator[tuple[Program, Program]]:
    """Both programs when data has begun to flow."""
    options = ("--json", *options)
    server = lab.host("server")
    (tmp_path / "out").mkdir()
    with stage(server.popen, server.address) as programs, lab.impair("bob", down=NARROW, seed=1):
        sender = programs.send("alice", "bob", tmp_path / "file", *options, spawn=lab.host("alice").popen)
        receiver = programs.recv(
            "bob", "alice", "--out", tmp_path / "out", "--yes", *options, spawn=lab.host("bob").popen
        )
        receiver.wait_for('"event": "progress"')
        yield sender, receiver


def away(gone: Event, back: Event) -> Schedule:
    return Schedule((At(0, gone, spread=0.2), At(AWAY + 0.2, back)), seed=1)


@pytest.mark.netlab(needs="tun")
@pytest.mark.parametrize(
    "schedule",
    [
        away(LinkDown("bob"), LinkUp("bob")),
        away(LinkDown("alice"), LinkUp("alice")),
        away(BlackholeOn("bob"), BlackholeOff("bob")),
        away(BlackholeOn("alice", Way.UP), BlackholeOff("alice")),
        away(BlackholeOn("alice", Way.DOWN), BlackholeOff("alice")),
        away(ChangeMtu("left", 1300), ChangeMtu("left", 1500)),
        away(ChangeMtu("right", 1300, icmp=False), ChangeMtu("right", 1500)),
        Schedule((At(0, FlushMappings("left"), spread=0.2), At(AWAY, FlushMappings("right"), spread=0.2)), seed=1),
    ],
    ids=[
        "receiver's cable", "sender's cable", "black hole", "black hole up", "black hole down", "lower MTU",
        "lower MTU in silence", "forgotten mappings",
    ],
)  # fmt: skip
def test_a_transfer_lives_through_it(netlab, tmp_path: Path, schedule: Schedule) -> None:
    lab = netlab(two_nats(PORT_RESTRICTED, PORT_RESTRICTED))
    digest = make_file(tmp_path / "file", SIZE)
    with transfer(lab, tmp_path) as (sender, receiver):
        with lab.play(schedule) as playing:
            playing.wait(GUARD)
        assert receiver.process.poll() is None, "the transfer was over before all had happened"
        lab.links["bob"].change(down=WIDE)
        assert (sender.finish(GUARD), receiver.finish(GUARD)) == (0, 0), sender.said + receiver.said
    assert hash_of(tmp_path / "out" / "file") == digest


@pytest.mark.netlab(needs="tun")
@pytest.mark.parametrize(
    ("kind", "event"),
    [
        (PORT_RESTRICTED_RANDOM, FlushMappings("left")), (PORT_RESTRICTED, ChangePorts("left")),
        (PORT_RESTRICTED, Rebind("left")),
    ],
    ids=["forgotten mappings", "other ports", "another address"],
)  # fmt: skip
def test_a_change_of_address_or_port_that_the_other_router_shuts_out_ends_it_in_words(
    netlab, tmp_path: Path, kind: Nat, event: Event
) -> None:
    lab = netlab(two_nats(kind, PORT_RESTRICTED))
    make_file(tmp_path / "file", SIZE)
    with transfer(lab, tmp_path, "--reconnect", "0") as (sender, receiver):
        lab.apply(event)
        assert_ended_in_words(sender, receiver, tmp_path)


def assert_ended_in_words(sender: Program, receiver: Program, tmp_path: Path) -> None:
    """What comes from the new place the other router drops, and nobody tells that side where to send: both wait."""
    assert (sender.finish(IDLE_GUARD), receiver.finish(IDLE_GUARD)) == (7, 7)
    for program in (sender, receiver):
        assert "Traceback" not in program.err
        assert "nothing came from the other side for 12 seconds" in program.err.strip().splitlines()[-1]
    assert not (tmp_path / "out" / "file").exists()


def test_a_server_that_was_gone_finds_the_peer_that_waits(netlab, tmp_path: Path) -> None:
    lab = netlab(two_nats(PORT_RESTRICTED, PORT_RESTRICTED))
    server, digest = lab.host("server"), make_file(tmp_path / "file", 1_000_000)

    def spawn(argv: list[str], **kwargs: object) -> object:
        return server.service("rendezvous", argv, **kwargs).process

    with stage(spawn, server.address, SERVER_PORT) as programs:
        sender = programs.send("alice", "bob", tmp_path / "file", "--json", spawn=lab.host("alice").popen)
        sender.wait_for("Waiting for")
        restarted = Schedule((At(0, KillService("rendezvous")), At(AWAY, StartService("rendezvous"))))
        with lab.play(restarted) as playing:
            playing.wait(GUARD)
        receiver = programs.recv(
            "bob", "alice", "--out", tmp_path / "out", "--yes", "--json", spawn=lab.host("bob").popen
        )
        assert (sender.finish(GUARD), receiver.finish(GUARD)) == (0, 0), sender.said + receiver.said
    assert hash_of(tmp_path / "out" / "file") == digest
