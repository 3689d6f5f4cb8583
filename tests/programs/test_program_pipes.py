"""Commands and pipes with the real programs, to every end that they can come to."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from harness import CODE, ENVIRONMENT, Stage, left_over, stage

SIZE = 5_000_000


@pytest.fixture(scope="module")
def programs() -> Iterator[Stage]:
    with stage() as made:
        yield made


def recv_to_stdout(programs: Stage, **streams: Any) -> subprocess.Popen[bytes]:
    words = ["recv", "bob", "alice", "--server", programs.address, "--code", CODE, "--out", "-", "--yes"]
    environment = os.environ | ENVIRONMENT
    return subprocess.Popen(
        [sys.executable, "-m", "p2p.peer", *words], stdout=subprocess.PIPE, env=environment, **streams
    )


def test_what_a_command_writes_arrives(programs: Stage, tmp_path: Path) -> None:
    sender = programs.send("alice", "bob", "--from-command", f"head -c {SIZE} /dev/zero")
    receiver = programs.recv("bob", "alice", "--out", str(tmp_path), "--yes")
    assert (sender.finish(), receiver.finish()) == (0, 0), sender.err + receiver.err
    (arrived,) = tmp_path.iterdir()
    assert arrived.read_bytes() == bytes(SIZE)


@pytest.mark.parametrize(
    ("end", "words"), [("exit 3", "ended with exit code 3"), ("kill -9 $$", "was ended by signal 9 (SIGKILL)")]
)
def test_a_command_that_fails_leaves_nothing(programs: Stage, tmp_path: Path, end: str, words: str) -> None:
    sender = programs.send("alice", "bob", "--from-command", f"head -c {SIZE} /dev/zero; {end}", "--once")
    receiver = programs.recv("bob", "alice", "--out", str(tmp_path), "--yes")
    assert (sender.finish(), receiver.finish()) == (8, 8), sender.err + receiver.err
    for side in (sender, receiver):
        assert f"the command that makes it {words}" in side.err
        assert "verified" not in side.err
    assert left_over(tmp_path) == []
    assert list(tmp_path.iterdir()) == []


def test_what_went_to_standard_output_before_a_command_failed_is_no_good_end(programs: Stage) -> None:
    command = f"head -c {SIZE} /dev/zero; exit 3"
    sender = programs.send("alice", "bob", "--from-command", command, "--once")
    with recv_to_stdout(programs, stderr=subprocess.PIPE) as receiver:
        out, err = receiver.communicate()
    assert (sender.finish(), receiver.returncode) == (8, 8), sender.err + err.decode()
    assert f"{len(out):,} bytes went to standard output already and cannot be taken back" in err.decode()


def test_a_reader_that_goes_away_ends_both(programs: Stage) -> None:
    sender = programs.send("alice", "bob", "--from-command", "yes", "--once")
    with recv_to_stdout(programs, stderr=subprocess.PIPE) as receiver:
        assert receiver.stdout is not None
        assert receiver.stderr is not None
        assert receiver.stdout.read(100) == b"y\n" * 50
        receiver.stdout.close()
        err = receiver.stderr.read().decode()
    assert (sender.finish(), receiver.returncode) == (9, 9), sender.err + err
    assert "whoever read it has stopped reading" in err
    assert "whoever it was passed on to there has stopped reading" in sender.err


@pytest.mark.parametrize("by_terminal", [True, False])
def test_ctrl_c_ends_the_command_too(programs: Stage, tmp_path: Path, by_terminal: bool) -> None:
    """A terminal interrupts both at once; that the command then failed is not why it ended."""
    pipe = tmp_path / "pid"
    os.mkfifo(pipe)
    command = f"echo $$ > {pipe}; exec sleep 1000"
    sender = programs.send("alice", "bob", "--from-command", command, "--once", start_new_session=True)
    receiver = programs.recv("bob", "alice", "--out", str(tmp_path / "out"), "--yes")
    process = int(pipe.read_text())
    if by_terminal:
        os.killpg(sender.process.pid, signal.SIGINT)
    else:
        sender.interrupt()
    assert (sender.finish(), receiver.finish()) == (130, 7), sender.err + receiver.err
    with pytest.raises(ProcessLookupError):
        os.kill(process, 0)


@pytest.mark.parametrize("side", ["send", "recv"])
def test_a_rate_is_kept_whoever_says_it(programs: Stage, tmp_path: Path, side: str) -> None:
    options = {name: ["--limit-rate", "10M"] if name == side else [] for name in ("send", "recv")}
    command = f"head -c {SIZE} /dev/zero"
    sender = programs.send("alice", "bob", "--from-command", command, "--json", *options["send"])
    receiver = programs.recv("bob", "alice", "--out", str(tmp_path), "--yes", "--json", *options["recv"])
    assert (sender.finish(), receiver.finish()) == (0, 0), sender.err + receiver.err
    assert receiver.event("done")["seconds"] > 0.9 * SIZE / 10_000_000
