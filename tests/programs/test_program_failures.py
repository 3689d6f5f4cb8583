"""What goes wrong for people, with the real programs: exit codes, one clear sentence a side, nothing half-written."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from harness import GUARD, Program, Stage, hash_of, left_over, make_file, stage

BIG = 300_000_000  # bytes: under way long enough for a person, or a test, to step in


@pytest.fixture
def programs() -> Iterator[Stage]:
    with stage() as made:
        yield made


@pytest.fixture(scope="session")
def big(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("big") / "big"
    make_file(path, BIG)
    return path


def started(programs: Stage, source: Path, out: Path, *options: str) -> tuple[Program, Program]:
    """Both programs, when data has begun to flow. Neither looks for the other again."""
    options = ("--json", "--reconnect", "0", *options)
    sender = programs.send("alice", "bob", source, *options)
    receiver = programs.recv("bob", "alice", "--out", out, "--yes", *options)
    receiver.wait_for('"event": "progress"')
    return sender, receiver


def one_sentence(program: Program) -> str:
    """The last line on the screen; there is no traceback above it."""
    assert "Traceback" not in program.err
    return program.err.strip().splitlines()[-1]


def test_wrong_code_is_told_and_does_not_end_the_senders_waiting(programs: Stage, tmp_path: Path) -> None:
    digest = make_file(tmp_path / "file", 1000)
    sender = programs.send("alice", "bob", tmp_path / "file")
    wrong = programs.recv("bob", "alice", "--yes", code="tiger-walnut-amber")
    assert wrong.finish() == 4
    assert "Wrong code: that was try 1 of 3" in one_sentence(wrong)
    sender.wait_for("1 of 3 tries used up")
    right = programs.recv("bob", "alice", "--yes", "--out", tmp_path / "out")
    assert (sender.finish(), right.finish()) == (0, 0)
    assert hash_of(tmp_path / "out" / "file") == digest


def test_three_wrong_codes_burn_it_on_both_sides(programs: Stage, tmp_path: Path) -> None:
    make_file(tmp_path / "file", 1000)
    sender = programs.send("alice", "bob", tmp_path / "file")
    for _ in range(3):
        wrong = programs.recv("bob", "alice", "--yes", code="tiger-walnut-amber")
        assert wrong.finish() == 4
    assert sender.finish() == 4
    for side in (sender, wrong):
        assert "3 wrong tries were made" in one_sentence(side)


def test_both_sending_is_told_to_both(programs: Stage, tmp_path: Path) -> None:
    make_file(tmp_path / "file", 1000)
    alice = programs.send("alice", "bob", tmp_path / "file")
    alice.wait_for("Waiting for")
    bob = programs.send("bob", "alice", tmp_path / "file")
    assert (alice.finish(), bob.finish()) == (2, 2)
    for side in (alice, bob):
        assert "Both sides are sending" in one_sentence(side)


def test_no_server_is_told(programs: Stage, tmp_path: Path) -> None:
    make_file(tmp_path / "file", 1000)
    programs.server.kill()
    sender = programs.send("alice", "bob", tmp_path / "file")
    assert sender.finish() == 3
    assert f"No rendezvous server listens at {programs.address}" in one_sentence(sender)


def test_server_restarted_while_waiting(programs: Stage, tmp_path: Path) -> None:
    digest = make_file(tmp_path / "file", 1000)
    sender = programs.send("alice", "bob", tmp_path / "file")
    sender.wait_for("Waiting for")
    programs.server.process.send_signal(signal.SIGTERM)
    assert programs.server.finish() == 0
    programs.start_server(programs.port)
    receiver = programs.recv("bob", "alice", "--yes", "--out", tmp_path / "out")
    assert (sender.finish(), receiver.finish()) == (0, 0), sender.err + receiver.err
    assert hash_of(tmp_path / "out" / "file") == digest


def test_nobody_comes(programs: Stage, tmp_path: Path) -> None:
    make_file(tmp_path / "file", 1000)
    sender = programs.send("alice", "bob", tmp_path / "file", "--timeout", "1")
    assert sender.finish() == 3
    assert "did not come within 1 second." in one_sentence(sender)


@pytest.mark.parametrize("victim", ["sender", "receiver"])
def test_killed_in_mid_transfer(programs: Stage, tmp_path: Path, big: Path, victim: str) -> None:
    sender, receiver = started(programs, big, tmp_path)
    killed, other = (sender, receiver) if victim == "sender" else (receiver, sender)
    killed.kill()
    assert other.finish() == 7
    assert "the other side went away without a word" in one_sentence(other)
    assert "run both commands again" in one_sentence(other)
    assert not (tmp_path / "big").exists()


def test_what_a_killed_receiver_left_stays_until_it_is_discarded(programs: Stage, tmp_path: Path, big: Path) -> None:
    out = tmp_path / "out"
    sender, receiver = started(programs, big, out)
    receiver.kill()
    sender.finish()
    assert left_over(out) != []
    make_file(tmp_path / "small", 1000)
    sender = programs.send("alice", "bob", tmp_path / "small")
    receiver = programs.recv("bob", "alice", "--out", out, "--yes")
    assert (sender.finish(), receiver.finish()) == (0, 0), sender.err + receiver.err
    assert left_over(out) != []  # it is of another command, which may be given again
    discarding = Program(subprocess.Popen, ["-m", "p2p.peer", "recv", "--discard", "--out", str(out)])
    assert discarding.finish() == 0, discarding.err
    assert "Forgot what 1 interrupted run left" in one_sentence(discarding)
    assert [path.name for path in out.iterdir()] == ["small"]


@pytest.mark.parametrize("victim", ["sender", "receiver"])
def test_a_frozen_peer_ends_the_other_within_the_idle_timeout(
    programs: Stage, tmp_path: Path, big: Path, victim: str
) -> None:
    sender, receiver = started(programs, big, tmp_path)
    frozen, other = (sender, receiver) if victim == "sender" else (receiver, sender)
    frozen.process.send_signal(signal.SIGSTOP)
    try:
        assert other.finish() == 7
    finally:
        frozen.process.send_signal(signal.SIGCONT)
    assert "nothing came from the other side for 12 seconds" in one_sentence(other)
    frozen.finish()
    assert not (tmp_path / "big").exists()


@pytest.mark.parametrize("who", ["sender", "receiver"])
def test_ctrl_c_in_mid_transfer(programs: Stage, tmp_path: Path, big: Path, who: str) -> None:
    sender, receiver = started(programs, big, tmp_path)
    stopped, other = (sender, receiver) if who == "sender" else (receiver, sender)
    stopped.interrupt()
    assert (stopped.finish(), other.finish()) == (130, 7), sender.err + receiver.err
    assert "Stopped by Ctrl-C" in one_sentence(stopped)
    assert "stopped by Ctrl-C over there" in one_sentence(other)
    assert not (tmp_path / "big").exists()


@pytest.mark.parametrize("verb", ["send", "recv"])
def test_ctrl_c_while_waiting(programs: Stage, tmp_path: Path, verb: str) -> None:
    make_file(tmp_path / "file", 1000)
    words = ["alice", "bob", tmp_path / "file"] if verb == "send" else ["alice", "bob"]
    waiting = getattr(programs, verb)(*words)
    waiting.wait_for("Waiting for")
    waiting.interrupt()
    assert waiting.finish() == 130
    assert one_sentence(waiting) == "Stopped by Ctrl-C, while nothing was being sent or received."


def test_a_signal_that_a_wrapper_passes_on_counts_once(programs: Stage) -> None:
    """The terminal interrupts the whole group, and the wrapper its child once more: both arrive together."""
    waiting = programs.recv("bob", "alice")
    waiting.wait_for("Waiting for")
    for number in (signal.SIGSTOP, signal.SIGINT, signal.SIGTERM, signal.SIGCONT):
        waiting.process.send_signal(number)
    assert waiting.finish() == 130
    assert "Stopped by Ctrl-C" in one_sentence(waiting)


def test_a_terminal_that_is_closed_ends_the_run_in_order(programs: Stage) -> None:
    heed = partial(signal.signal, signal.SIGHUP, signal.SIG_DFL)  # whoever runs the tests may ignore it (nohup)
    waiting = programs.recv("bob", "alice", preexec_fn=heed)
    waiting.wait_for("Waiting for")
    waiting.process.send_signal(signal.SIGHUP)
    assert waiting.finish() == 130


def test_packets_that_our_own_system_refuses_are_no_traceback(programs: Stage) -> None:
    receiver = programs.recv("bob", "alice", server="255.255.255.255")
    receiver.wait_for("does not answer yet")
    receiver.interrupt()
    assert receiver.finish() == 130
    one_sentence(receiver)


def test_a_name_that_can_be_no_servers_is_told(programs: Stage) -> None:
    receiver = programs.recv("bob", "alice", server="a..b")
    assert receiver.finish() == 3
    assert "No address can be found for the server a..b" in one_sentence(receiver)


def test_target_not_writable_is_told_to_both(programs: Stage, tmp_path: Path) -> None:
    make_file(tmp_path / "file", 1000)
    (tmp_path / "out").write_text("a file, not a folder")
    sender = programs.send("alice", "bob", tmp_path / "file", "--once")
    receiver = programs.recv("bob", "alice", "--out", tmp_path / "out", "--yes")
    assert (sender.finish(), receiver.finish()) == (9, 9), sender.err + receiver.err
    assert "that is not a folder" in one_sentence(receiver)
    assert "that is not a folder" in one_sentence(sender)
    assert str(tmp_path) not in sender.err.replace(str(tmp_path / "file"), "")  # paths of the receiver stay there


def test_target_not_writable_with_nobody_there_does_not_wait_for_ever(programs: Stage, tmp_path: Path) -> None:
    (tmp_path / "out").write_text("a file, not a folder")
    receiver = programs.recv("bob", "alice", "--out", tmp_path / "out", "--yes", "--json")
    assert receiver.finish() == 9
    assert "that is not a folder" in one_sentence(receiver)
    assert receiver.event("failed")["code"] == 9


@pytest.mark.parametrize("kind", ["missing", "pipe"])
def test_a_source_that_cannot_be_sent_is_told_at_once(programs: Stage, tmp_path: Path, kind: str) -> None:
    if kind == "pipe":
        os.mkfifo(tmp_path / "source")
    sender = programs.send("alice", "bob", tmp_path / "source")
    assert sender.finish() == 9
    assert str(tmp_path / "source") in one_sentence(sender)


def test_a_source_that_shrinks_is_told_to_both(programs: Stage, tmp_path: Path) -> None:
    make_file(tmp_path / "file", BIG)
    out = tmp_path / "out"
    sender, receiver = started(programs, tmp_path / "file", out)
    os.truncate(tmp_path / "file", 1000)
    assert (sender.finish(), receiver.finish()) == (8, 8), sender.err + receiver.err
    for side in (sender, receiver):
        assert "became shorter while it was being sent" in side.err
        assert side.event("problem")["code"] == 8
    assert "The same two commands again send only what is missing" in one_sentence(receiver)
    assert left_over(out) == [path.name for path in out.iterdir()]


def test_a_source_that_vanishes_is_told_to_both(programs: Stage, tmp_path: Path, big: Path) -> None:
    make_file(tmp_path / "second", 1000)
    out = tmp_path / "out"
    sender = programs.send("alice", "bob", big, tmp_path / "second", "--json")
    receiver = programs.recv("bob", "alice", "--out", out, "--yes", "--json")
    receiver.wait_for('"event": "progress"')
    (tmp_path / "second").unlink()
    ends = sender.finish(), receiver.finish()
    assert ends[0] == ends[1] == 9, sender.err + receiver.err
    for side in (sender, receiver):
        assert "second: was removed before it was sent" in side.err
        assert side.event("done")["problems"] == 1
    assert "The same two commands again send only what is missing" in one_sentence(receiver)
    assert [path.name for path in out.iterdir()] == ["big"]


@pytest.mark.netlab(needs="root")
def test_a_disk_that_is_too_small_is_refused_before_the_yes(programs: Stage, tmp_path: Path, big: Path) -> None:
    with small_disk(tmp_path / "disk", BIG // 2) as disk:
        sender = programs.send("alice", "bob", big, "--once")
        receiver = programs.recv("bob", "alice", "--out", disk, "--yes")
        assert (sender.finish(), receiver.finish()) == (9, 9), sender.err + receiver.err
        assert "Not enough space" in one_sentence(receiver)
        assert "not enough space" in one_sentence(sender)


@pytest.mark.netlab(needs="root")
def test_a_disk_that_fills_up_in_mid_transfer_is_told_to_both(programs: Stage, tmp_path: Path, big: Path) -> None:
    with small_disk(tmp_path / "disk", BIG + 10_000_000) as disk:
        sender, receiver = started(programs, big, disk)
        with (disk / "other").open("wb", buffering=0) as other, contextlib.suppress(OSError):
            while other.write(bytes(1_000_000)):
                pass
        assert (sender.finish(), receiver.finish()) == (9, 9), sender.err + receiver.err
        for side in (sender, receiver):
            assert "the disk is full" in side.err
            assert "Traceback" not in side.err
        assert f"What has arrived stays in {disk}: the same two commands go on with it" in receiver.err
        assert not (disk / "big").exists()


class small_disk:
    """A tmpfs of so many bytes, mounted for a block."""

    def __init__(self, path: Path, size: int) -> None:
        self._path, self._size = path, size

    def __enter__(self) -> Path:
        self._path.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", f"size={self._size}", "tmpfs", str(self._path)]
        subprocess.run(command, check=True, timeout=GUARD)
        return self._path

    def __exit__(self, *_: object) -> None:
        subprocess.run(["umount", str(self._path)], check=True, timeout=GUARD)
