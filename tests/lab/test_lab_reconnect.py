"""One transfer whose network breaks ten times: both find each other again, and nobody is asked for anything.

    alice --- left --- core0 --- core1 --- right --- bob
              (NAT)                |       (NAT)
                                 server
"""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
from harness import hash_of, make_file, stage

from netlab.events import Event, FlushMappings, LinkDown, LinkUp, Rebind
from netlab.lab import Lab
from netlab.nat import PORT_RESTRICTED, PORT_RESTRICTED_RANDOM
from netlab.schedule import At, Schedule
from netlab.topology import two_nats

SIZE = 160_000_000  # bytes
RATE = "2M"  # bytes a second: four times the data that crosses between ten breaks, so that each finds it under way
DARK = 8.0  # seconds without a cable: longer than the idle time-out
GUARD = 120.0  # seconds, for anything

# Each is more than a path can outlive by itself: bob's router drops what comes from a new port or address.
BREAKS: tuple[tuple[Event, ...], ...] = (
    (Rebind("left"),),
    (FlushMappings("left"),),
    (LinkDown("alice"), LinkUp("alice")),
    (Rebind("right"), Rebind("left")),
    (FlushMappings("left"), FlushMappings("right")),
)


def break_it(lab: Lab, broken: tuple[Event, ...]) -> None:
    apart = DARK if isinstance(broken[0], LinkDown) else 0.0
    with lab.play(Schedule(tuple(At(apart * number, event) for number, event in enumerate(broken)))) as playing:
        playing.wait(GUARD)


@pytest.mark.netlab(needs="tun")
def test_ten_breaks_in_one_transfer(netlab, tmp_path: Path) -> None:
    lab = netlab(two_nats(PORT_RESTRICTED_RANDOM, PORT_RESTRICTED))
    digest = make_file(tmp_path / "file", SIZE)
    server, out = lab.host("server"), tmp_path / "out"
    options = ("--json", "--idle-timeout", "6")
    with stage(server.popen, server.address) as programs:
        sender = programs.send(
            "alice", "bob", tmp_path / "file", "--limit-rate", RATE, *options, spawn=lab.host("alice").popen
        )
        receiver = programs.recv("bob", "alice", "--out", out, "--yes", *options, spawn=lab.host("bob").popen)
        sides = (sender, receiver)
        for number, broken in enumerate(itertools.islice(itertools.cycle(BREAKS), 10), start=1):
            receiver.wait_for_events("progress", receiver.out.count('"event": "progress"') + 2)
            break_it(lab, broken)
            for side in sides:
                side.wait_for_events("path_lost", number, GUARD)
                side.wait_for_events("path", number + 1, GUARD)
        assert (sender.finish(GUARD), receiver.finish(GUARD)) == (0, 0), sender.err + receiver.err
    assert hash_of(out / "file") == digest
    for side in sides:
        names = [event["event"] for event in side.events]
        assert names.count("path_lost") == 10
        assert [names.count(name) for name in ("started", "done")] == [1, 1]
        assert names.count("waiting") <= 1  # none where the other side was there before
        assert "code" not in side.err.partition("Connected")[2]
    assert receiver.event("done")["kept"] == 0


@pytest.mark.netlab(needs="tun")
def test_a_side_that_does_not_come_back_is_given_up_in_words(netlab, tmp_path: Path) -> None:
    lab = netlab(two_nats(PORT_RESTRICTED, PORT_RESTRICTED))
    make_file(tmp_path / "file", SIZE)
    server = lab.host("server")
    options = ("--json", "--idle-timeout", "6", "--reconnect", "5", "--limit-rate", RATE)
    with stage(server.popen, server.address) as programs:
        sender = programs.send("alice", "bob", tmp_path / "file", *options, spawn=lab.host("alice").popen)
        receiver = programs.recv(
            "bob", "alice", "--out", tmp_path / "out", "--yes", *options, spawn=lab.host("bob").popen
        )
        receiver.wait_for('"event": "progress"')
        lab.apply(LinkDown("alice"))
        assert (sender.finish(GUARD), receiver.finish(GUARD)) == (7, 7), sender.err + receiver.err
        for side in (sender, receiver):
            assert len(side.events_named("path_lost")) == 1
            assert side.events[-1]["event"] == "failed"
            assert "run both commands again" in side.events[-1]["message"]
            assert "Traceback" not in side.err
