"""Terminals, pipes and closed streams: what each kind of screen shows, and that none of them harms a transfer."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness import CODE, ENVIRONMENT, GUARD, Stage, hash_of, make_file, stage


@pytest.fixture(scope="module")
def programs() -> Iterator[Stage]:
    with stage() as made:
        yield made


@contextlib.contextmanager
def terminal() -> Iterator[tuple[int, bytearray]]:
    """The program's end of a terminal, and what was written to it."""
    ours, theirs = pty.openpty()
    shown = bytearray()

    def read() -> None:
        with contextlib.suppress(OSError):  # EIO: nobody holds the other end any more
            while data := os.read(ours, 65536):
                shown.extend(data)

    thread = threading.Thread(target=read, daemon=True)
    thread.start()
    try:
        yield theirs, shown
    finally:
        os.close(theirs)
        thread.join(GUARD)
        os.close(ours)


def receive(
    programs: Stage, *options: str | Path, shell: str = "", encoding: str = "", **streams: object
) -> subprocess.Popen[bytes]:
    """A receiver with streams of the test's choosing; `shell` holds redirections, `encoding` is that of its streams."""
    words = ["-m", "p2p.peer", "recv", "bob", "alice", "--server", programs.address, "--code", CODE, "--yes"]
    command = [sys.executable, *words, *map(str, options)]
    if shell:
        command = ["sh", "-c", f'exec "$@" {shell}', "sh", *command]
    environment = os.environ | ENVIRONMENT | ({"PYTHONIOENCODING": encoding} if encoding else {})
    return subprocess.Popen(command, env=environment, **streams)  # type: ignore[call-overload, no-any-return]


@pytest.mark.parametrize("encoding", ["ascii", "cp437", "cp850", "cp1252"])
def test_a_terminal_with_an_old_code_page(programs: Stage, tmp_path: Path, encoding: str) -> None:
    """All but the letters that it cannot say is there, and the files bear their own names."""
    name = "Gr\u00f6\u00dfe \u65e5\u672c.bin"
    make_file(tmp_path / name, 3_000_000)
    sender = programs.send("alice", "bob", tmp_path / name)
    with terminal() as (theirs, shown):
        receiver = receive(programs, "--out", tmp_path / "out", encoding=encoding, stderr=theirs)
        assert (sender.finish(), receiver.wait(GUARD)) == (0, 0), sender.err
    assert hash_of(tmp_path / "out" / name) == hash_of(tmp_path / name)
    screen = shown.decode(encoding)
    said = name.encode(encoding, "replace").decode(encoding)
    assert f"Saved {said}\r\n" in screen
    assert "\ufffd" not in screen
    assert "?" not in screen.replace(said, "")
    assert "Connected: direct TCP" in screen


def broken_pipe() -> int:
    """The writing end of a pipe that nobody reads any more."""
    reader, writer = os.pipe()
    os.close(reader)
    return writer


def test_events_stay_on_stdout_while_a_bar_is_on_the_terminal(programs: Stage, tmp_path: Path) -> None:
    digest = make_file(tmp_path / "file", 1_000_000)
    sender = programs.send("alice", "bob", tmp_path / "file")
    with terminal() as (theirs, shown):
        out = tmp_path / "out"
        receiver = receive(programs, "--out", out, "--json", stdout=subprocess.PIPE, stderr=theirs)
        output, _ = receiver.communicate(timeout=GUARD)
    assert (sender.finish(), receiver.returncode) == (0, 0), sender.err + shown.decode()
    files = [event for event in map(json.loads, output.splitlines()) if event["event"] == "file"]
    assert [event["blake3"] for event in files] == [digest]
    assert b"Received 1 MB" in shown
    assert b'"event"' not in shown


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_streams_that_were_closed_before_the_start_are_borne(programs: Stage, tmp_path: Path, closed: str) -> None:
    digest = make_file(tmp_path / "file", 1000)
    sender = programs.send("alice", "bob", tmp_path / "file")
    receiver = receive(programs, "--out", tmp_path / "out", shell=closed)
    assert (sender.finish(), receiver.wait(GUARD)) == (0, 0), sender.err
    assert hash_of(tmp_path / "out" / "file") == digest


def test_a_transfer_goes_on_when_nobody_reads_the_talk(programs: Stage, tmp_path: Path) -> None:
    digest = make_file(tmp_path / "file", 1000)
    sender = programs.send("alice", "bob", tmp_path / "file")
    nobody = broken_pipe()
    receiver = receive(programs, "--out", tmp_path / "out", stderr=nobody)
    os.close(nobody)
    assert (sender.finish(), receiver.wait(GUARD)) == (0, 0), sender.err
    assert hash_of(tmp_path / "out" / "file") == digest


def test_a_run_ends_in_order_when_nobody_reads_its_events(programs: Stage) -> None:
    nobody = broken_pipe()
    receiver = receive(programs, "--json", stdout=nobody, stderr=subprocess.PIPE)
    os.close(nobody)
    _, talk = receiver.communicate(timeout=GUARD)
    assert receiver.returncode == 9
    assert talk.decode().strip().splitlines()[-1].startswith("Stopped, because the events")
    assert b"Traceback" not in talk
    assert b"Exception ignored" not in talk


def test_what_was_typed_ahead_is_no_answer(programs: Stage, tmp_path: Path) -> None:
    make_file(tmp_path / "file", 1000)
    ours, theirs = pty.openpty()
    receiver = programs.recv("bob", "alice", "--out", tmp_path / "out", "--quiet", stdin=theirs)
    os.write(ours, b"\n\n")
    sender = programs.send("alice", "bob", tmp_path / "file")
    receiver.wait_for(r"Take it\?")
    os.write(ours, b"y\n")
    assert (sender.finish(), receiver.finish()) == (0, 0), sender.err + receiver.err
    assert "file  (1 kB)" in receiver.err  # --quiet hides nothing that one is asked about
    for end in (ours, theirs):
        os.close(end)


def test_quiet_still_shows_the_code_that_nobody_else_knows(programs: Stage, tmp_path: Path) -> None:
    make_file(tmp_path / "file", 1000)
    sender = programs.send("alice", "bob", tmp_path / "file", "--quiet", code=None)
    code = sender.wait_for(r"this code when it asks:  (\S+)")[1]
    receiver = programs.recv("bob", "alice", "--out", tmp_path / "out", "--yes", code=code)
    assert (sender.finish(), receiver.finish()) == (0, 0), sender.err + receiver.err


def test_a_code_that_was_given_is_shown_nowhere(programs: Stage, tmp_path: Path) -> None:
    make_file(tmp_path / "file", 1000)
    sender = programs.send("alice", "bob", tmp_path / "file", "--json")
    sender.wait_for('"event": "waiting"')
    sender.interrupt()
    sender.finish()
    assert sender.event("waiting")["code"] is None
    assert CODE not in sender.err + sender.out
