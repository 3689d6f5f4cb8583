"""One side is killed and started again with the same command; the other still runs, and nobody does anything there.

    alice --- left --- core0 --- core1 --- right --- bob
              (NAT)                |       (NAT)
                                 server
"""

from __future__ import annotations

from pathlib import Path

import pytest
from harness import CODE, Program, Stage, hash_of, make_file, stage

from netlab.events import BlackholeOff, BlackholeOn, Rebind
from netlab.lab import Lab
from netlab.nat import PORT_RESTRICTED, PORT_RESTRICTED_RANDOM, SYMMETRIC
from netlab.topology import two_nats

SIZE = 40_000_000  # bytes
RATE = "4M"  # bytes a second: so that there is a moment to step in
GUARD = 120.0  # seconds, for anything


class Pair:
    """Two people with a command each, and a state folder each."""

    def __init__(self, lab: Lab, programs: Stage, folder: Path) -> None:
        self.lab, self.programs, self.folder = lab, programs, folder
        self.digest = make_file(folder / "file", SIZE)
        self.out = folder / "out"

    def send(self, *options: str, code: str | None = CODE) -> Program:
        return self.programs.send(
            "alice", "bob", self.folder / "file", "--json", "--limit-rate", RATE, *options,
            spawn=self.lab.host("alice").popen, code=code, env=self._state("alice"),
        )  # fmt: skip

    def recv(self, *options: str, code: str | None = CODE) -> Program:
        return self.programs.recv(
            "bob", "alice", "--out", self.out, "--yes", "--json", *options,
            spawn=self.lab.host("bob").popen, code=code, env=self._state("bob"),
        )  # fmt: skip

    def _state(self, name: str) -> dict[str, str]:
        folder = str(self.folder / f"state of {name}")
        return {"XDG_STATE_HOME": folder, "XDG_DATA_HOME": folder}

    def assert_went_on(self, survivor: Program, fresh: Program) -> None:
        assert (survivor.finish(GUARD), fresh.finish(GUARD)) == (0, 0), survivor.err + fresh.err
        assert hash_of(self.out / "file") == self.digest
        assert [path.name for path in self.out.iterdir()] == ["file"]
        names = [event["event"] for event in survivor.events]
        assert names.index("peer_restarted") < names.index("path", names.index("peer_restarted"))
        assert names.count("peer_restarted") == 1
        for side in (survivor, fresh):
            assert side.events_named("started")[-1]["goes_on"] is True
            assert side.event("done")["kept"] > 0
            assert "Traceback" not in side.err


def far_enough(receiver: Program) -> None:
    receiver.wait_for_events("progress", 3, GUARD)


@pytest.mark.netlab
@pytest.mark.parametrize("victim", ["sender", "receiver"])
def test_killed_and_started_again_with_a_code(netlab, tmp_path: Path, victim: str) -> None:
    lab = netlab(two_nats(PORT_RESTRICTED, PORT_RESTRICTED))
    with stage(lab.host("server").popen, lab.host("server").address) as programs:
        pair = Pair(lab, programs, tmp_path)
        sender, receiver = pair.send(), pair.recv()
        far_enough(receiver)
        killed, survivor = (sender, receiver) if victim == "sender" else (receiver, sender)
        killed.kill()
        pair.assert_went_on(survivor, pair.send() if victim == "sender" else pair.recv())


@pytest.mark.netlab
@pytest.mark.parametrize("victim", ["sender", "receiver"])
def test_killed_and_started_again_as_a_contact(netlab, tmp_path: Path, victim: str) -> None:
    lab = netlab(two_nats(PORT_RESTRICTED, PORT_RESTRICTED))
    with stage(lab.host("server").popen, lab.host("server").address) as programs:
        pair = Pair(lab, programs, tmp_path)
        first = pair.send("--remember"), pair.recv("--remember")
        assert [side.finish(GUARD) for side in first] == [0, 0], first[0].err + first[1].err
        (pair.out / "file").unlink()
        sender, receiver = pair.send(code=None), pair.recv(code=None)
        far_enough(receiver)
        killed, survivor = (sender, receiver) if victim == "sender" else (receiver, sender)
        killed.kill()
        pair.assert_went_on(survivor, pair.send(code=None) if victim == "sender" else pair.recv(code=None))


@pytest.mark.netlab
def test_started_again_long_after_the_path_was_given_up(netlab, tmp_path: Path) -> None:
    lab = netlab(two_nats(PORT_RESTRICTED, PORT_RESTRICTED))
    with stage(lab.host("server").popen, lab.host("server").address) as programs:
        pair = Pair(lab, programs, tmp_path)
        sender, receiver = pair.send("--idle-timeout", "6"), pair.recv()
        far_enough(receiver)
        receiver.kill()
        sender.wait_for_events("path_lost", 1, GUARD)
        pair.assert_went_on(sender, pair.recv())


@pytest.mark.netlab
def test_a_new_address_is_noticed_long_before_the_idle_timeout(netlab, tmp_path: Path) -> None:
    """Neither router lets anything in from where the other side has come to be; both suspect the path, and say so."""
    lab = netlab(two_nats(PORT_RESTRICTED_RANDOM, PORT_RESTRICTED))
    patient = ("--idle-timeout", "600")  # more than the guard
    with stage(lab.host("server").popen, lab.host("server").address) as programs:
        pair = Pair(lab, programs, tmp_path)
        sides = pair.send(*patient), pair.recv(*patient)
        for number in (1, 2):
            far_enough(sides[1])
            lab.apply(Rebind("left"))
            for side in sides:
                side.wait_for_events("path_lost", number, GUARD)
                side.wait_for_events("path", number + 1, GUARD)
        assert [side.finish(GUARD) for side in sides] == [0, 0], sides[0].err + sides[1].err
        for side in sides:
            assert side.events_named("peer_restarted") == []
            assert side.event("done")["kept"] == 0
    assert hash_of(pair.out / "file") == pair.digest


@pytest.mark.netlab
@pytest.mark.parametrize("side", ["alice", "bob"])
def test_a_stranger_in_the_place_of_who_is_silent_for_a_while_ends_nothing(netlab, tmp_path: Path, side: str) -> None:
    """He is asked for the code, once, and has another; then packets pass again."""
    lab = netlab(two_nats(PORT_RESTRICTED, PORT_RESTRICTED))
    server, patient = lab.host("server"), ("--idle-timeout", "600")
    with stage(server.popen, server.address) as programs:
        pair = Pair(lab, programs, tmp_path)
        sides = pair.send(*patient), pair.recv(*patient)
        far_enough(sides[1])
        lab.apply(BlackholeOn(side))
        if side == "alice":
            words = "alice", "bob", tmp_path / "file", "--json"
            stranger = programs.send(*words, spawn=server.popen, code="another one")
            stranger.wait_for_events("code_rejected", 1, GUARD)
        else:
            stranger = programs.recv(
                "bob", "alice", "--out", tmp_path / "theirs", "--json", spawn=server.popen, code="another one"
            )
            assert stranger.finish(GUARD) == 4
        lab.apply(BlackholeOff(side))
        assert [each.finish(GUARD) for each in sides] == [0, 0], sides[0].err + sides[1].err
        for each in sides:
            assert each.events_named("path_lost") == each.events_named("peer_restarted") == []
    assert hash_of(pair.out / "file") == pair.digest


@pytest.mark.netlab
def test_a_pipe_ends_as_soon_as_the_other_side_is_known_to_be_started_again(netlab, tmp_path: Path) -> None:
    lab = netlab(two_nats(PORT_RESTRICTED, PORT_RESTRICTED))
    with stage(lab.host("server").popen, lab.host("server").address) as programs:
        pair = Pair(lab, programs, tmp_path)
        with (tmp_path / "file").open("rb") as source:
            sender = programs.send(
                "alice", "bob", "-", "--json", "--limit-rate", RATE, spawn=lab.host("alice").popen, stdin=source
            )
        receiver = pair.recv()
        far_enough(receiver)
        receiver.kill()
        again = pair.recv()
        assert (sender.finish(GUARD), again.finish(GUARD)) == (7, 7), sender.err + again.err
        assert "pipe" in sender.event("failed")["message"]
        assert "pipe" in again.event("failed")["message"]


@pytest.mark.netlab
@pytest.mark.parametrize("victim", ["sender", "receiver"])
def test_killed_and_started_again_where_the_server_forwards(netlab, tmp_path: Path, victim: str) -> None:
    """The seat of the first meeting is in use for that; who comes back gets his own when its lease has run out."""
    lab = netlab(two_nats(SYMMETRIC, SYMMETRIC))
    with stage(lab.host("server").popen, lab.host("server").address) as programs:
        pair = Pair(lab, programs, tmp_path)
        sender, receiver = pair.send(), pair.recv()
        far_enough(receiver)
        assert receiver.event("path")["kind"] == "relay"
        killed, survivor = (sender, receiver) if victim == "sender" else (receiver, sender)
        killed.kill()
        pair.assert_went_on(survivor, pair.send() if victim == "sender" else pair.recv())
