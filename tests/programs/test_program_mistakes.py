"""A mistake of ours in one of the programs: the other side is told at once, and both screens say it in a sentence."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness import ROOT, Program, Stage, make_file, stage

SIZE = 30_000_000  # bytes; at RATE under way for longer than any test waits
RATE = "300k"
TOLD = "The other side ended: its program failed, by a mistake of its own"
# Run by Python itself before the program: from the moment on at which `when` holds, this function raises.
BROKEN = """\
import {module} as module
function = module.{function}
def broken(self, *args, **kwargs):
    if {when}:
        raise {error}
    return function(self, *args, **kwargs)
module.{function} = broken
"""
UDP_ONLY = """\
from p2p.io.net.tcp import TcpHub
TcpHub.connect = lambda self, connection, *args, **kwargs: self.on_closed(connection, None)
TcpHub._accept = lambda self, sock, source: sock.close()
"""
IS_UNDER_WAY = "args[0].done"
TICK = {"module": "p2p.io.terminal.screen", "function": "Screen.tick", "when": IS_UNDER_WAY}
PLACES = {
    "tick": TICK,
    "socket": {"module": "p2p.core.peer.peer", "function": "Peer.handle_tcp_data", "when": "self.heard_at is not None"},
    "machine": {  # what is to tell of it raises as well
        "module": "p2p.core.peer.course",
        "function": "Course.advance",
        "when": "self.delivery and self.machine.progress.done",
    },
    "output": {
        "module": "p2p.core.peer.peer",
        "function": "Peer.poll_event",
        "when": "self._course.machine.progress.done",
    },
}


@pytest.fixture
def programs(tmp_path: Path) -> Iterator[Stage]:
    make_file(tmp_path / "file", SIZE)
    with stage() as made:
        yield made


def broken(tmp_path: Path, place: dict[str, str], error: str = "KeyError('x')", more: str = "") -> dict[str, str]:
    """The environment of a program with this mistake."""
    folder = tmp_path / "broken"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(more + BROKEN.format(error=error, **place))
    return {"PYTHONPATH": f"{folder}:{ROOT}"}


def both(programs: Stage, tmp_path: Path, env: dict[str, str], broken_one: str, *options: str) -> tuple[Program, ...]:
    """The one with the mistake, and the other one, which looks for it as long as anybody's does."""
    environments = {"env": env}, {}
    mine, theirs = environments if broken_one == "sender" else environments[::-1]
    words = ("--limit-rate", RATE, "--json")
    mine_options, theirs_options = (options, ()) if broken_one == "sender" else ((), options)
    sender = programs.send("alice", "bob", tmp_path / "file", *words, *mine_options, **mine)
    receiver = programs.recv("bob", "alice", "--out", tmp_path / "out", "--yes", *words, *theirs_options, **theirs)
    return (sender, receiver) if broken_one == "sender" else (receiver, sender)


@pytest.mark.parametrize("broken_one", ["sender", "receiver"])
@pytest.mark.parametrize("place", PLACES)
def test_a_mistake_in_mid_transfer_is_told_to_both(
    programs: Stage, tmp_path: Path, place: str, broken_one: str
) -> None:
    env = broken(tmp_path, PLACES[place])
    one, other = both(programs, tmp_path, env, broken_one)
    assert (one.finish(), other.finish()) == (1, 7), one.said + other.said
    assert "Traceback" not in one.err
    words = "Internal error: KeyError: 'x'. This is a mistake in p2p; please report it, with what --verbose shows"
    assert one.err.splitlines()[-1] == f"{words}."
    assert one.events[-1] == {"event": "failed", "code": 1, "message": words}
    assert other.events[-1]["event"] == "failed"
    assert other.events[-1]["message"].startswith(TOLD)
    assert not other.events_named("path_lost")


def test_a_mistake_is_told_over_udp(programs: Stage, tmp_path: Path) -> None:
    one, other = both(programs, tmp_path, broken(tmp_path, TICK, more=UDP_ONLY), "sender")
    assert (one.finish(), other.finish()) == (1, 7), one.said + other.said
    assert other.event("path")["kind"] == "udp"
    assert other.events[-1]["message"].startswith(TOLD)


def test_a_mistake_before_there_is_a_path_is_told(programs: Stage, tmp_path: Path) -> None:
    place = {
        "module": "p2p.io.terminal.screen",
        "function": "Screen.handle_event",
        "when": "type(args[0]).__name__ == 'Connecting'",
    }
    one, other = both(programs, tmp_path, broken(tmp_path, place), "receiver")
    assert one.finish() == 1
    assert one.events[-1]["event"] == "failed"
    assert other.event("refused")["message"] == TOLD  # and it waits for another try, since nothing had begun


def test_verbose_shows_where(programs: Stage, tmp_path: Path) -> None:
    one, _ = both(programs, tmp_path, broken(tmp_path, TICK), "sender", "--verbose")
    assert one.finish() == 1
    assert re.search(r"Traceback(.*\n)*.*, in broken\n(.*\n)*  KeyError: 'x'\n", one.err)
    assert one.err.endswith("Internal error: KeyError: 'x'. This is a mistake in p2p; please report it.\n")


def test_a_screen_that_is_broken_does_not_hide_it(programs: Stage, tmp_path: Path) -> None:
    place = {"module": "p2p.io.terminal.screen", "function": "Screen.handle_event", "when": "True"}
    one = programs.send("alice", "bob", tmp_path / "file", env=broken(tmp_path, place))
    assert one.finish() == 1
    assert one.err.splitlines()[-1].startswith("Internal error: KeyError: 'x'. This is a mistake in p2p")
    assert "Traceback" not in one.err


def test_what_the_system_refuses_is_told_without_the_names_of_files(programs: Stage, tmp_path: Path) -> None:
    error = "OSError(24, 'Too many open files', '/home/alice/secret')"
    one, other = both(programs, tmp_path, broken(tmp_path, TICK, error), "sender")
    assert (one.finish(), other.finish()) == (1, 7), one.said + other.said
    assert one.events[-1]["message"].startswith("The system refuses what is needed: [Errno 24] Too many open files")
    told = "The other side ended: its system refused what is needed (Too many open files). Run both commands again"
    assert other.events[-1]["message"].startswith(told)
    assert "secret" not in other.said
