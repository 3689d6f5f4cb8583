"""Folders, texts and pipes with the real programs: what arrives is what was sent, and what cannot is told to both."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from harness import CODE, ENVIRONMENT, Program, Stage, hash_of, make_file, stage, tree_of

ODD_NAMES = ("with space", "-rf", "ünï", "ü" * 100, "日本語", ".hidden", "a~", "x" * 255, "%41", "' \" $ `")


@pytest.fixture(scope="module")
def programs() -> Iterator[Stage]:
    with stage() as made:
        yield made


def make_tree(root: Path) -> None:
    """Some of everything that is to arrive as it is."""
    random_ = random.Random(7)
    for name in ("empty", "deep/er/and/deeper", "odd"):
        (root / name).mkdir(parents=True)
    for number, size in enumerate((0, 1, 16_384, 16_385, 61_440, 983_040, 983_041, 3_000_000)):
        make_file(root / "deep" / f"{size}", size, number)
    for name in ODD_NAMES:
        (root / "odd" / name).write_bytes(random_.randbytes(100))
    (root / "deep" / "er" / "link").symlink_to("../1")
    (root / "deep" / "to a folder").symlink_to("er/and")
    (root / "deep" / "dangling").symlink_to("nowhere")
    os.link(root / "deep" / "16385", root / "odd" / "another name")
    (root / "deep" / "1").chmod(0o400)
    (root / "deep" / "0").chmod(0o755)
    with (root / "sparse").open("wb") as sparse:
        sparse.seek(20_000_000)
        sparse.write(b"end")
    for folder, folders, files in os.walk(root, topdown=False):
        for name in (*files, *folders, "."):
            path = Path(folder) / name
            if not path.is_symlink():
                os.utime(path, ns=(0, random_.randrange(10**18, 2 * 10**18)))
    (root / "empty").chmod(0o700)


def masked(tree: dict[str, tuple[str, int, object]]) -> dict[str, tuple[str, int, object]]:
    """As the receiver's umask leaves it."""
    mask = os.umask(0)
    os.umask(mask)
    return {name: (kind, bits & ~mask, rest) for name, (kind, bits, rest) in tree.items()}


def test_a_tree_arrives_as_it_was(programs: Stage, tmp_path: Path) -> None:
    root = tmp_path / "tree"
    make_tree(root)
    sender = programs.send("alice", "bob", root, "--json")
    receiver = programs.recv("bob", "alice", "--out", tmp_path / "out", "--yes", "--json")
    assert (sender.finish(), receiver.finish()) == (0, 0), sender.err + receiver.err
    assert tree_of(tmp_path / "out" / "tree") == masked(tree_of(root))
    assert (tmp_path / "out" / "tree" / "sparse").stat().st_blocks * 512 < 1_000_000
    offer, done = receiver.event("offer"), receiver.event("done")
    assert offer["roots"] == [{"name": "tree", "kind": "folder", "size": 0}]
    assert (offer["files"], offer["total"], offer["counted"]) == (done["files"], done["total"], True)
    assert done["problems"] == 0
    assert done["blake3"] == sender.event("done")["blake3"]


def test_one_folder_goes_by_a_one_time_code_too(programs: Stage, tmp_path: Path) -> None:
    (tmp_path / "holiday").mkdir()
    make_file(tmp_path / "holiday" / "x", 1000)
    sender = programs.send(tmp_path / "holiday", code=None)
    code = sender.wait_for(r"recv (\d+-\S+)")[1]
    receiver = programs.recv(code, "--out", tmp_path / "out", "--yes", code=None)
    assert (sender.finish(), receiver.finish()) == (0, 0), sender.err + receiver.err
    assert "holiday/" in receiver.err
    assert "wants to send 1 file, 1 kB" in receiver.err
    assert (tmp_path / "out" / "holiday" / "x").stat().st_size == 1000


def test_what_is_excluded_stays_here(programs: Stage, tmp_path: Path) -> None:
    root = tmp_path / "project"
    for name in ("src/a.py", "src/a.pyc", "build/x", "notes.txt", "keep.pyc"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(name)
    (tmp_path / "patterns").write_text("# what is made anew\nbuild/\n!keep.pyc\n")
    options = ("--exclude", "*.pyc", "--exclude-from", tmp_path / "patterns")
    sender = programs.send("alice", "bob", root, *options)
    receiver = programs.recv("bob", "alice", "--out", tmp_path / "out", "--yes")
    assert (sender.finish(), receiver.finish()) == (0, 0), sender.err + receiver.err
    there = tmp_path / "out" / "project"
    assert sorted(str(path.relative_to(there)) for path in there.rglob("*") if path.is_file()) == [
        "keep.pyc",
        "notes.txt",
        "src/a.py",
    ]


def test_a_name_that_others_cannot_bear_is_repaired_and_told(programs: Stage, tmp_path: Path) -> None:
    root = tmp_path / "tree"
    root.mkdir()
    (root / "new\nline").write_text("x")
    sender = programs.send("alice", "bob", root, "--json")
    receiver = programs.recv("bob", "alice", "--out", tmp_path / "out", "--yes")
    assert (sender.finish(), receiver.finish()) == (0, 0), sender.err + receiver.err
    assert [path.name for path in (tmp_path / "out" / "tree").iterdir()] == ["new_line"]
    assert sender.event("renamed")["saved_as"] == "new_line"
    assert r"new\x0aline as new_line" in sender.err


def test_a_file_that_cannot_be_read_is_left_out_and_told_to_both(programs: Stage, tmp_path: Path) -> None:
    root = tmp_path / "tree"
    (root / "closed").mkdir(parents=True)
    for name in ("first", "locked", "second", "closed/x"):
        (root / name).write_text(name)
    (root / "locked").chmod(0)
    (root / "closed").chmod(0)
    sender = programs.send("alice", "bob", root, "--json", spawn=without_privileges)
    receiver = programs.recv("bob", "alice", "--out", tmp_path / "out", "--yes", "--json")
    assert (sender.finish(), receiver.finish()) == (9, 9), sender.err + receiver.err
    there = tmp_path / "out" / "tree"
    assert sorted(path.name for path in there.iterdir() if path.is_file()) == ["first", "second"]
    for side in (sender, receiver):
        reasons = " ".join(problem["path"] + problem["reason"] for problem in side.events_named("problem"))
        assert "locked" in reasons
        assert "closed" in reasons
        assert side.event("done")["problems"] == 2
        assert "2 things left out" in side.err


def test_a_text_is_shown_and_nothing_is_written(programs: Stage, tmp_path: Path) -> None:
    text = "see you at\teight\nevil \x1b[2J ünï"
    sender = programs.send("alice", "bob", "--text", text)
    receiver = programs.recv("bob", "alice", "--out", tmp_path / "out", "--yes")
    assert (sender.finish(), receiver.finish()) == (0, 0), sender.err + receiver.err
    assert receiver.out == "see you at\teight\nevil \\x1b[2J ünï\n"
    assert not (tmp_path / "out").exists() or list((tmp_path / "out").iterdir()) == []


def test_a_text_is_an_event_of_json_as_it_was(programs: Stage, tmp_path: Path) -> None:
    text = "evil \x1b[2J"
    programs.send("--text", text, code="7-amber-walnut-tiger")
    receiver = programs.recv("--out", tmp_path, "--yes", "--json", code="7-amber-walnut-tiger")
    assert receiver.finish() == 0, receiver.err
    assert receiver.event("text")["text"] == text
    assert receiver.event("offer")["kind"] == "text"


def test_a_pipe_goes_through(programs: Stage, tmp_path: Path) -> None:
    digest = make_file(tmp_path / "data", 10_000_000)
    with (tmp_path / "data").open("rb") as data, (tmp_path / "copy").open("wb") as copy:
        sender = programs.send("alice", "bob", "-", stdin=data)
        words = ["recv", "bob", "alice", "--server", programs.address, "--code", CODE, "--out", "-", "--yes"]
        command = [sys.executable, "-m", "p2p.peer", *words]
        environment = os.environ | ENVIRONMENT
        receiver = subprocess.run(command, stdout=copy, stderr=subprocess.PIPE, env=environment, check=False)
    assert (sender.finish(), receiver.returncode) == (0, 0), sender.err + receiver.stderr.decode()
    assert hash_of(tmp_path / "copy") == digest
    assert b"verified" in receiver.stderr


@pytest.mark.parametrize(
    ("policy", "there", "other"),
    [("--rename", "mine", "a (1)"), ("--overwrite", "theirs", None), ("--skip", "mine", "a (1)")],
)
def test_a_name_that_is_taken(programs: Stage, tmp_path: Path, policy: str, there: str, other: str | None) -> None:
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / "a").write_text("theirs")
    (tmp_path / "tree" / "same").write_text("same")
    out = tmp_path / "out"
    (out / "tree").mkdir(parents=True)
    (out / "tree" / "a").write_text("mine")
    (out / "tree" / "same").write_text("same")
    sender = programs.send("alice", "bob", tmp_path / "tree")
    receiver = programs.recv("bob", "alice", "--out", out, "--yes", policy)
    assert (sender.finish(), receiver.finish()) == (0, 0), sender.err + receiver.err
    if policy == "--rename":
        assert (out / "tree" / "a").read_text() == "mine"
        assert (out / "tree (1)" / "a").read_text() == "theirs"
        return
    assert (out / "tree" / "a").read_text() == there
    names = {"a", "same"} if other is None else {"a", "same", other}
    assert {path.name for path in (out / "tree").iterdir()} == names


def test_a_dry_run_of_the_sender_needs_nobody(tmp_path: Path) -> None:
    root = tmp_path / "tree"
    make_tree(root)
    files = [node for node in tree_of(root).values() if node[0] == "file"]
    os.mkfifo(root / "pipe")
    words = ("-m", "p2p.peer", "send", "--dry-run", str(root))
    person, machine = Program(subprocess.Popen, words), Program(subprocess.Popen, [*words, "--json"])
    assert person.finish() == machine.finish() == 9
    assert "would be sent" in person.err
    assert "a named pipe" in person.err
    told = machine.event("dry_run")
    assert told["files"] + told["links"] == len(files) + 3  # that many links are symbolic
    assert told["problems"] == 1
    assert machine.event("problem")["path"] == "tree/pipe"


def test_a_dry_run_of_the_receiver_looks_and_says_no(programs: Stage, tmp_path: Path) -> None:
    make_file(tmp_path / "file", 1000)
    sender = programs.send("alice", "bob", tmp_path / "file", "--json")
    looking = programs.recv("bob", "alice", "--out", tmp_path / "out", "--dry-run")
    assert looking.finish() == 0, looking.err
    assert "wants to send 1 file, 1 kB" in looking.err
    assert not (tmp_path / "out" / "file").exists()
    sender.wait_for('"event": "refused"')
    assert "--dry-run" in sender.event("refused")["message"]
    taking = programs.recv("bob", "alice", "--out", tmp_path / "out", "--yes")
    assert (taking.finish(), sender.finish()) == (0, 0), sender.err + taking.err


def test_one_that_waits_takes_one_transfer_after_the_other(programs: Stage, tmp_path: Path) -> None:
    receiver = programs.recv("bob", "alice", "--out", tmp_path / "out", "--yes", "--wait", "--json")
    receiver.wait_for_events("waiting")  # it says so only while nobody is there
    for number in range(3):
        make_file(tmp_path / f"file {number}", 1000 + number)
        sender = programs.send("alice", "bob", tmp_path / f"file {number}")
        assert sender.finish() == 0, sender.err + receiver.err
        receiver.wait_for_events("waiting", number + 2)
    receiver.interrupt()
    assert receiver.finish() == 130
    assert len(receiver.events_named("done")) == 3
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"file 0", "file 1", "file 2"}


def test_one_that_waits_outlives_a_transfer_that_failed(programs: Stage, tmp_path: Path) -> None:
    make_file(tmp_path / "big", 300_000_000)
    options = ("--out", tmp_path / "out", "--yes", "--wait", "--json", "--reconnect", "0")
    receiver = programs.recv("bob", "alice", *options)
    sender = programs.send("alice", "bob", tmp_path / "big")
    receiver.wait_for('"event": "progress"')
    sender.interrupt()
    assert sender.finish() == 130
    receiver.wait_for('"event": "failed"')
    make_file(tmp_path / "small", 1000)
    sender = programs.send("alice", "bob", tmp_path / "small")
    assert sender.finish() == 0, sender.err + receiver.err
    assert (tmp_path / "out" / "small").stat().st_size == 1000
    receiver.process.send_signal(signal.SIGTERM)
    assert receiver.finish() == 130


def without_privileges(arguments: list[str], **kwargs: Any) -> subprocess.Popen[bytes]:
    """As somebody to whom permission bits mean something, which they do not to root."""
    if os.geteuid() == 0:
        without = "-dac_override,-dac_read_search"
        arguments = ["setpriv", "--bounding-set", without, "--inh-caps", without, *arguments]
    return subprocess.Popen(arguments, **kwargs)
