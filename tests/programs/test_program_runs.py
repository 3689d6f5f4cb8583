"""The real programs on loopback, in the good case: two commands, one file, both screens."""

from __future__ import annotations

import json
import os
import pty
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness import CODE, Program, Stage, hash_of, make_file, stage


@pytest.fixture(scope="module")
def programs() -> Iterator[Stage]:
    with stage() as made:
        yield made


def test_a_file_crosses_loopback_by_tcp(programs: Stage, tmp_path: Path) -> None:
    digest = make_file(tmp_path / "file", 5_000_000)
    os.chmod(tmp_path / "file", 0o6755)
    os.utime(tmp_path / "file", ns=(0, 1_234_567_890_123_456_789))
    sender = programs.send("alice", "bob", tmp_path / "file", "--json")
    receiver = programs.recv("bob", "alice", "--out", tmp_path / "out", "--yes", "--json")
    assert (sender.finish(), receiver.finish()) == (0, 0), sender.err + receiver.err
    for side in (sender, receiver):
        assert side.event("path")["description"] == "direct TCP (LAN)"
        assert side.event("done")["blake3"] == digest
        assert "direct TCP (LAN)" in side.err
        assert digest in side.err
    saved = tmp_path / "out" / "file"
    assert hash_of(saved) == digest
    assert saved.stat().st_mode & 0o7777 == 0o755 & ~_umask()
    assert saved.stat().st_mtime_ns == 1_234_567_890_123_456_789


def test_the_one_time_code_on_the_senders_screen_is_all_the_receiver_needs(programs: Stage, tmp_path: Path) -> None:
    digest = make_file(tmp_path / "file", 100_000)
    sender = programs.send(tmp_path / "file", code=None)
    command = shlex.split(sender.wait_for(r"\n    python -m p2p\.peer (recv .*)\n")[1])
    assert command[2:] == ["--server", programs.address]
    receiver = programs.recv(command[1], "--out", tmp_path / "out", "--yes", code=None)
    assert (sender.finish(), receiver.finish()) == (0, 0), sender.err + receiver.err
    assert hash_of(tmp_path / "out" / "file") == digest
    assert sender.out == receiver.out == ""  # stdout is for data and events


def test_the_senders_fresh_code_lets_the_friend_in(programs: Stage, tmp_path: Path) -> None:
    make_file(tmp_path / "file", 1000)
    sender = programs.send("alice", "bob", tmp_path / "file", "--json", code=None)
    sender.wait_for('"event": "waiting"')
    waiting = sender.event("waiting")
    assert waiting["command"] == f"python -m p2p.peer recv bob alice --server {programs.address}"
    receiver = programs.recv("bob", "alice", "--out", tmp_path / "out", "--yes", code=waiting["code"])
    assert (sender.finish(), receiver.finish()) == (0, 0), sender.err + receiver.err


def test_several_files_go_in_one_transfer_and_taken_names_get_a_number(programs: Stage, tmp_path: Path) -> None:
    sizes = {"a.txt": 0, "b.tar.gz": 61_440, "c": 61_441}
    digests = {name: make_file(tmp_path / name, size) for name, size in sizes.items()}
    out = tmp_path / "out"
    out.mkdir()
    (out / "b.tar.gz").write_text("was here before")
    sender = programs.send("alice", "bob", *(tmp_path / name for name in sizes))
    receiver = programs.recv("bob", "alice", "--out", out, "--yes")
    assert (sender.finish(), receiver.finish()) == (0, 0), sender.err + receiver.err
    assert (out / "b.tar.gz").read_text() == "was here before"
    assert "Saved b (1).tar.gz (a file b.tar.gz was there already)" in receiver.err
    assert {p.name for p in out.iterdir()} == {"a.txt", "b.tar.gz", "b (1).tar.gz", "c"}
    assert hash_of(out / "b (1).tar.gz") == digests["b.tar.gz"]
    assert hash_of(out / "c") == digests["c"]


def test_without_a_code_both_are_warned_and_see_the_same_words(programs: Stage, tmp_path: Path) -> None:
    make_file(tmp_path / "file", 1000)
    sender = programs.send("alice", "bob", tmp_path / "file", "--no-code", code=None)
    receiver = programs.recv("bob", "alice", "--out", tmp_path / "out", "--yes", "--no-code", code=None)
    assert (sender.finish(), receiver.finish()) == (0, 0), sender.err + receiver.err
    words = [side.wait_for(r"WARNING: .*same words:  (\S+)")[1] for side in (sender, receiver)]
    assert words[0] == words[1]


def test_file_names_cannot_paint_the_screen(programs: Stage, tmp_path: Path) -> None:
    name = "evil\x1b[2J\u202egnp.exe"
    (tmp_path / name).write_bytes(b"x")
    sender = programs.send("alice", "bob", tmp_path / name)
    receiver = programs.recv("bob", "alice", "--out", tmp_path / "out", "--yes")
    sender.finish()
    receiver.finish()
    for side in (sender, receiver):
        assert "\x1b" not in side.err + side.out
        assert "\u202e" not in side.err + side.out


def ask(
    programs: Stage,
    tmp_path: Path,
    answers: list[tuple[str, str]],
    code: str | None = CODE,
    words: tuple[str, ...] = ("bob", "alice"),
) -> tuple[Program, int]:
    """Runs recv on a terminal and types the answers when the questions come. Returns it and what the screen showed."""
    ours, theirs = pty.openpty()
    receiver = programs.recv(*words, "--out", tmp_path / "out", stdin=theirs, code=code)
    os.close(theirs)
    for question, answer in answers:
        receiver.wait_for(question)
        os.write(ours, answer.encode() + b"\n")
    code_of_end = receiver.finish()
    os.close(ours)
    return receiver, code_of_end


def test_the_person_is_asked_for_the_code_and_for_the_yes(programs: Stage, tmp_path: Path) -> None:
    make_file(tmp_path / "file", 1000)
    sender = programs.send("alice", "bob", tmp_path / "file")
    receiver, end = ask(programs, tmp_path, [("code that alice's screen shows", CODE), (r"Take it\?", "y")], code=None)
    assert (sender.finish(), end) == (0, 0), sender.err + receiver.err
    assert (tmp_path / "out" / "file").exists()


def test_no_means_no_on_both_screens(programs: Stage, tmp_path: Path) -> None:
    make_file(tmp_path / "file", 1000)
    sender = programs.send("alice", "bob", tmp_path / "file", "--once")
    _, end = ask(programs, tmp_path, [(r"Take it\?", "n")])
    assert (sender.finish(), end) == (5, 5)
    assert "said no" in sender.err
    assert not (tmp_path / "out").exists() or not list((tmp_path / "out").iterdir())


def test_a_no_may_become_a_yes_under_the_same_code(programs: Stage, tmp_path: Path) -> None:
    digest = make_file(tmp_path / "file", 1000)
    sender = programs.send(tmp_path / "file", "--json", code=None)
    sender.wait_for('"event": "waiting"')
    code = shlex.split(sender.event("waiting")["command"])[4]
    _, end = ask(programs, tmp_path, [(r"Take it\?", "n")], words=(code,), code=None)
    sender.wait_for('"event": "refused"')
    _, again = ask(programs, tmp_path, [(r"Take it\?", "y")], words=(code,), code=None)
    assert (end, again, sender.finish()) == (5, 0, 0), sender.err
    assert hash_of(tmp_path / "out" / "file") == digest
    assert sender.event("refused")["code"] == 5
    assert "the person there said no" in sender.event("refused")["message"]


def test_wrong_tries_are_counted_through_a_no(programs: Stage, tmp_path: Path) -> None:
    make_file(tmp_path / "file", 1000)
    sender = programs.send("alice", "bob", tmp_path / "file", "--json")
    for number in (1, 2):
        assert programs.recv("bob", "alice", "--yes", code="tiger-walnut-amber").finish() == 4
        sender.wait_for(f'"tries": {number}')
        if number == 1:
            programs.recv("bob", "alice", "--out", tmp_path / "out").finish()  # has nobody to ask
            sender.wait_for('"event": "refused"')
    assert programs.recv("bob", "alice", "--yes", code="tiger-walnut-amber").finish() == 4
    assert sender.finish() == 4
    assert "3 wrong tries were made" in sender.err


def test_a_no_that_stays_one_ends_with_the_first_reason(programs: Stage, tmp_path: Path) -> None:
    make_file(tmp_path / "file", 1000)
    sender = programs.send("alice", "bob", tmp_path / "file", "--timeout", "2")
    receiver = programs.recv("bob", "alice", "--out", tmp_path / "out")
    assert (sender.finish(), receiver.finish()) == (5, 2), sender.err + receiver.err
    assert "nobody is there to be asked" in sender.err.strip().splitlines()[-1]


def test_nobody_to_ask_is_a_refusal_that_says_what_to_pass(programs: Stage, tmp_path: Path) -> None:
    make_file(tmp_path / "file", 1000)
    sender = programs.send("alice", "bob", tmp_path / "file", "--once")
    receiver = programs.recv("bob", "alice", "--out", tmp_path / "out")
    assert (sender.finish(), receiver.finish()) == (5, 2), sender.err + receiver.err
    assert "--yes" in receiver.err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["send", "alice", "bob"], "seems to be missing"),
        (["send", "alice", "alice", "f"], "both names are the same"),
        (["recv", "7-amber"], "a code is a number and 3 words"),
        (["recv", "a", "b", "c"], "recv takes ME FRIEND, or a CODE"),
        (["recv", "bob", "alice"], "no code given"),
        (["send", "--code", "short", "alice", "bob", "f"], "at least 8 characters"),
        (["send", "--server", "h:99999", "a", "b", "f"], "port from 1 to 65535"),
        (["send", "--timeout", "soon", "a", "b", "f"], "number of seconds above zero is wanted, not 'soon'"),
        (["send", "--code", "x" * 9, "--no-code", "a", "b", "f"], "not allowed with"),
        (["fly"], "invalid choice"),
        ([], "required"),
    ],
)
def test_bad_usage_is_explained_in_a_sentence(arguments: list[str], words: str) -> None:
    program = Program(subprocess.Popen, ["-m", "p2p.peer", *arguments], env={"P2P_SERVER": "127.0.0.1:9"})
    assert program.finish() == 2
    assert words.lower() in program.err.lower()
    assert "Traceback" not in program.err


def test_json_is_one_event_a_line_and_quiet_is_quiet(programs: Stage, tmp_path: Path) -> None:
    make_file(tmp_path / "file", 1000)
    sender = programs.send("alice", "bob", tmp_path / "file", "--json", "--quiet")
    receiver = programs.recv("bob", "alice", "--out", tmp_path / "out", "--yes", "--json", "--quiet")
    assert (sender.finish(), receiver.finish()) == (0, 0)
    assert sender.err == receiver.err == ""
    names = [json.loads(line)["event"] for line in receiver.out.splitlines()]
    expected = ["peer_found", "connecting", "path", "offer", "started", "file", "done"]
    assert [name for name in names if name in expected] == expected


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
