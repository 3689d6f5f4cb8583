"""The events of --json are what docs/events.schema.json says, and docs/json.md knows each of them."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from harness import ROOT, Program, Stage, make_file, stage
from jsonschema import Draft202012Validator

from p2p.core.address import Address
from p2p.core.contacts.exchange import Why
from p2p.core.peer import events
from p2p.io.terminal.event_lines import EventLines

SCHEMA = json.loads((ROOT / "docs" / "events.schema.json").read_text())


@pytest.fixture(scope="module")
def programs() -> Iterator[Stage]:
    with stage() as made:
        yield made


def events_of(*sides: Program) -> set[str]:
    """The names of all that they printed, each event of which fits."""
    validator = Draft202012Validator(SCHEMA)
    seen: set[str] = set()
    for side in sides:
        for event in side.events:
            errors = [error.message for error in validator.iter_errors(event)]
            assert not errors, f"{event} {errors}"
            seen.add(event["event"])
    return seen


def test_a_tree_with_a_problem_and_names_that_are_taken(programs: Stage, tmp_path: Path) -> None:
    root, out = tmp_path / "tree", tmp_path / "out"
    root.mkdir()
    (out / "tree").mkdir(parents=True)
    for name in ("a", "line\nbreak"):
        make_file(root / name, 1000)
    os.mkfifo(root / "pipe")
    sender = programs.send("alice", "bob", root, "--json")
    receiver = programs.recv("bob", "alice", "--out", out, "--yes", "--json")
    assert (sender.finish(), receiver.finish()) == (9, 9), sender.err + receiver.err
    seen = events_of(sender) & events_of(receiver)
    assert seen >= {"peer_found", "connecting", "path", "started", "file", "renamed", "problem", "done"}
    assert receiver.event("renamed") == {"event": "renamed", "path": "tree", "saved_as": "tree (1)"}


def test_a_no_a_text_and_a_failure(programs: Stage) -> None:
    sender = programs.send("alice", "bob", "--text", "x", "--json")
    looking = programs.recv("bob", "alice", "--json", "--dry-run")
    assert looking.finish() == 0
    sender.wait_for_events("refused")
    receiver = programs.recv("bob", "alice", "--json", "--yes")
    assert (sender.finish(), receiver.finish()) == (0, 0), sender.err + receiver.err
    alone = programs.recv("bob", "alice", "--json", "--timeout", "0.5")
    assert alone.finish() == 3
    seen = events_of(sender, looking, receiver, alone)
    assert seen >= {"waiting", "offer", "offer_sent", "refused", "text", "failed"}


def test_a_path_that_was_lost(programs: Stage, tmp_path: Path) -> None:
    make_file(tmp_path / "big", 100_000_000)
    options = ("--json", "--limit-rate", "20M")
    sender = programs.send("alice", "bob", tmp_path / "big", *options, "--reconnect", "1")
    receiver = programs.recv("bob", "alice", "--out", tmp_path / "out", "--yes", *options)
    receiver.wait_for_events("progress")
    receiver.kill()
    assert sender.finish() == 7
    assert events_of(sender) >= {"path_lost", "failed"}


def test_a_dry_run(tmp_path: Path) -> None:
    make_file(tmp_path / "file", 1000)
    program = Program(subprocess.Popen, ["-m", "p2p.peer", "send", "--dry-run", "--json", str(tmp_path)])
    assert program.finish() == 0
    assert events_of(program) == {"dry_run"}


def test_a_schema_that_lets_nothing_else_pass() -> None:
    validator = Draft202012Validator(SCHEMA)
    Draft202012Validator.check_schema(SCHEMA)
    wrong: list[dict[str, Any]] = [{"event": "moved"}, {"event": "moved", "address": 1}, {"event": "else"}]
    assert not any(validator.is_valid(event) for event in wrong)


def test_the_documentation_has_every_event() -> None:
    names = {kind["properties"]["event"]["const"] for kind in SCHEMA["oneOf"]}
    told = set(re.findall(r"`(\w+)`", (ROOT / "docs" / "json.md").read_text()))
    assert names <= told


# Those that need a failing network, or time; the others are seen above as the programs print them.
RARE: list[events.PeerEvent] = [
    events.ServerSilent(3.0, True, False),
    events.ServerAnswering(),
    events.SeatTaken(),
    events.PeerGone(),
    events.PeerSilent(5.0),
    events.CodeRejected(1, 3),
    events.PathMoved(Address("192.0.2.1", 4000)),
    events.ContactRemembered(bytes(32)),
    *(events.ContactNotRemembered(why, by_peer=True) for why in Why),
]


@pytest.mark.parametrize("event", RARE, ids=lambda event: type(event).__name__)
def test_the_rare_ones_fit_too(event: events.PeerEvent, capsys: pytest.CaptureFixture[str]) -> None:
    EventLines(lambda _: ("", None)).write(event)
    shown = json.loads(capsys.readouterr().out)
    assert [error.message for error in Draft202012Validator(SCHEMA).iter_errors(shown)] == []
