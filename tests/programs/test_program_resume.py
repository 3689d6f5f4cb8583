"""The same command again, with the real programs: killed at any moment, each run goes on where the last one ended."""

from __future__ import annotations

import contextlib
import json
import os
import random
import re
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from harness import Program, Stage, hash_of, left_over, make_file, stage

from bench.trees.likeness import equal

MB = 1_000_000
CHUNK = 983_040
RATE = "20M"  # bytes a second while there is to be a moment to step in
ROUNDS = 2
MODES = (0o644, 0o600, 0o755, 0o400, 0o000)
HOLE = 5 * MB + 1  # bytes
LOST = 4 * MB  # what a kill may cost: a chunk that was not whole, and small files that waited for the disk


@pytest.fixture
def programs() -> Iterator[Stage]:
    with stage() as made:
        yield made


@dataclass
class Pair:
    """Two people with a command each, and a state folder each."""

    programs: Stage
    folder: Path

    @property
    def out(self) -> Path:
        return self.folder / "out"

    def send(self, source: Path, *options: str) -> Program:
        state = {"XDG_STATE_HOME": str(self.folder / "state of alice")}
        return self.programs.send("alice", "bob", source, "--json", *options, env=state)

    def recv(self, *options: str) -> Program:
        state = {"XDG_STATE_HOME": str(self.folder / "state of bob")}
        return self.programs.recv("bob", "alice", "--out", self.out, "--yes", "--json", *options, env=state)

    def run(self, source: Path, *options: str) -> tuple[Program, Program]:
        """Both, to their good end."""
        sender, receiver = self.send(source, *options), self.recv(*options)
        assert (sender.finish(), receiver.finish()) == (0, 0), sender.err + receiver.err
        return sender, receiver

    def run_until(self, source: Path, moment: int | str) -> tuple[Program, Program]:
        """Both, until the receiver has said so many times how far it is, or that it has a certain file."""
        sender, receiver = self.send(source, "--limit-rate", RATE), self.recv()
        if isinstance(moment, int):
            receiver.wait_for("(?s)" + '"event": "progress".*' * moment)
        else:
            receiver.wait_for(re.escape(f'"event": "file", "path": "{moment}"'))
        return sender, receiver

    @property
    def journals(self) -> list[str]:
        folder = self.folder / "state of bob" / "p2p" / "journals"
        return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


@pytest.fixture
def pair(programs: Stage, tmp_path: Path) -> Pair:
    (tmp_path / "out").mkdir()
    return Pair(programs, tmp_path)


def last_progress(program: Program) -> dict[str, int]:
    """How far it was; its last line may be cut off by the kill."""
    events = []
    for line in program.out.splitlines():
        with contextlib.suppress(json.JSONDecodeError):
            events.append(json.loads(line))
    found: list[dict[str, int]] = [event for event in events if event["event"] == "progress"]
    return found[-1] if found else {"bytes": 0, "kept": 0}


def end_both(killed: Program, other: Program) -> None:
    """kill -9 of one side; at the other, whoever waits for it gives up (Ctrl-C) and runs the command again."""
    killed.kill()
    other.interrupt()
    other.finish()


def make_tree(folder: Path, seed: int = 1) -> None:
    """Many small files, some of a few chunks, a large one; links, modes, and a file that is mostly a hole."""
    rng = random.Random(seed)
    for number in range(300):
        path = folder / f"small {number // 50}" / f"{number}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(rng.randbytes(rng.randrange(20_000)))
        path.chmod(rng.choice(MODES))
    (folder / "empty").mkdir(mode=0o700)
    for number in range(6):
        make_file(folder / f"middle {number}", rng.randrange(CHUNK, 6 * CHUNK), seed=number)
    with (folder / "middle hole").open("wb") as file:
        for number in range(3):
            file.seek((number + 1) * HOLE)
            file.write(rng.randbytes(CHUNK))
    make_file(folder / "zz large", 90 * MB, seed=99)
    for number in range(0, 300, 30):
        (folder / f"small {number // 50}" / f"link {number}").symlink_to(f"../small 0/{number // 30}.txt")
        (folder / f"small {number // 50}" / f"another name {number}").hardlink_to(folder / f"middle {number // 60 + 1}")
    (folder / "small 3").chmod(0o500)


def crossed(program: Program) -> int:
    done = program.event("done")
    assert isinstance(done["total"], int)
    assert isinstance(done["kept"], int)
    return done["total"] - done["kept"]


@pytest.mark.parametrize("victim", ["sender", "receiver"])
@pytest.mark.parametrize("seed", range(ROUNDS))
def test_one_file_killed_at_any_moment(pair: Pair, tmp_path: Path, victim: str, seed: int) -> None:
    rng = random.Random(f"{victim} {seed}")
    size = 120 * MB + rng.randrange(CHUNK)
    digest = make_file(tmp_path / "file", size)
    sender, receiver = pair.run_until(tmp_path / "file", rng.randrange(1, 4))
    end_both(*((sender, receiver) if victim == "sender" else (receiver, sender)))
    had = last_progress(receiver)["bytes"]
    assert 0 < had < size
    assert len(left_over(pair.out)) == 1
    assert not (pair.out / "file").exists()
    sender, receiver = pair.run(tmp_path / "file")
    assert hash_of(pair.out / "file") == digest
    assert [path.name for path in pair.out.iterdir()] == ["file"]
    assert pair.journals == []
    for side in (sender, receiver):
        assert side.event("started")["goes_on"] is True
        assert crossed(side) <= size - had + LOST
    assert had + crossed(sender) <= 1.02 * size + LOST


@pytest.mark.parametrize("seed", range(ROUNDS))
def test_a_tree_whose_sides_are_killed_again_and_again(pair: Pair, tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    tree = tmp_path / "tree"
    make_tree(tree)
    size = sum({path.stat().st_ino: path.stat().st_size for path in tree.rglob("*") if path.is_file()}.values())
    across, kills = 0, 3
    for _ in range(kills):
        files = [f"tree/small {number // 50}/{number}.txt" for number in range(300)]
        moment: int | str = rng.randrange(1, 3) if rng.random() < 0.5 else rng.choice(files)
        sender, receiver = pair.run_until(tree, moment)
        sides = [sender, receiver]
        rng.shuffle(sides)
        end_both(*sides)
        across += last_progress(receiver)["bytes"] - last_progress(receiver)["kept"]
    sender, receiver = pair.run(tree)
    likeness = equal(tree, pair.out / "tree")
    assert likeness.holds, likeness.found
    assert [path.name for path in pair.out.iterdir()] == ["tree"]
    assert left_over(pair.out) == pair.journals == []
    assert across + crossed(sender) <= 1.02 * size + kills * LOST
    assert crossed(sender) == crossed(receiver)


def test_ctrl_c_keeps_what_is_there_too(pair: Pair, tmp_path: Path) -> None:
    digest = make_file(tmp_path / "file", 80 * MB)
    sender, receiver = pair.run_until(tmp_path / "file", 2)
    receiver.interrupt()
    receiver.finish()
    sender.finish()
    had = last_progress(receiver)["bytes"]
    sender, _ = pair.run(tmp_path / "file")
    assert hash_of(pair.out / "file") == digest
    assert sender.event("done")["kept"] >= had - LOST


def test_a_source_that_changed_costs_the_chunks_that_changed(pair: Pair, tmp_path: Path) -> None:
    make_file(tmp_path / "file", 80 * MB)
    sender, receiver = pair.run_until(tmp_path / "file", 3)
    end_both(receiver, sender)
    had = last_progress(receiver)["bytes"]
    with (tmp_path / "file").open("r+b") as file:  # two chunks
        file.seek(3 * CHUNK + 5)
        file.write(b"changed")
        file.seek(7 * CHUNK)
        file.write(b"changed")
    sender, _ = pair.run(tmp_path / "file")
    assert hash_of(pair.out / "file") == hash_of(tmp_path / "file")
    assert crossed(sender) <= 80 * MB - had + 2 * CHUNK + LOST


def test_a_file_that_was_whole_and_changed_is_replaced_and_no_second_one_made(pair: Pair, tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    make_tree(tree)
    sender, receiver = pair.run_until(tree, "tree/middle 5")
    end_both(receiver, sender)
    before = hash_of(pair.out / "tree" / "middle 0")
    with (tree / "middle 0").open("r+b") as file:
        file.write(b"changed")
    sender, _ = pair.run(tree)
    likeness = equal(tree, pair.out / "tree")
    assert likeness.holds, likeness.found
    assert hash_of(pair.out / "tree" / "middle 0") != before
    assert [path.name for path in pair.out.iterdir()] == ["tree"]


def test_discard_forgets_and_removes(pair: Pair, tmp_path: Path) -> None:
    digest = make_file(tmp_path / "file", 60 * MB)
    sender, receiver = pair.run_until(tmp_path / "file", 2)
    end_both(receiver, sender)
    assert len(left_over(pair.out)) == 1
    state = {"XDG_STATE_HOME": str(tmp_path / "state of bob")}
    discarding = pair.programs.recv("--discard", "--out", pair.out, code=None, env=state)
    assert discarding.finish() == 0, discarding.err
    assert list(pair.out.iterdir()) == []
    assert pair.journals == []
    sender, _ = pair.run(tmp_path / "file")
    assert hash_of(pair.out / "file") == digest
    assert sender.event("done")["kept"] == 0
    assert sender.event("started")["goes_on"] is False


def test_another_sender_with_the_same_names_gets_nothing_of_the_first_ones(pair: Pair, tmp_path: Path) -> None:
    """It sends the very file, but from another machine: whose it is that lies here, it does not learn."""
    digest = make_file(tmp_path / "file", 60 * MB)
    sender, receiver = pair.run_until(tmp_path / "file", 2)
    end_both(receiver, sender)
    [part] = left_over(pair.out)
    (tmp_path / "state of alice").rename(tmp_path / "state of the first alice")
    sender, receiver = pair.run(tmp_path / "file")
    assert sender.event("done")["kept"] == 0
    assert sender.event("started")["goes_on"] is False
    assert sorted(path.name for path in pair.out.iterdir()) == sorted([part, "file"])
    (tmp_path / "state of alice").rename(tmp_path / "state of the second alice")
    (tmp_path / "state of the first alice").rename(tmp_path / "state of alice")
    sender, receiver = pair.run(tmp_path / "file")
    assert sender.event("done")["kept"] > 0
    assert sorted(path.name for path in pair.out.iterdir()) == ["file", "file (1)"]
    assert hash_of(pair.out / "file (1)") == digest


def test_a_file_that_was_there_before_is_nobodys_business(pair: Pair, tmp_path: Path) -> None:
    """The same name, the same content: not compared, not replaced."""
    digest = make_file(tmp_path / "file", 60 * MB)
    os.link(tmp_path / "file", pair.out / "file")
    sender, receiver = pair.run_until(tmp_path / "file", 1)
    end_both(sender, receiver)
    sender, _ = pair.run(tmp_path / "file")
    assert hash_of(pair.out / "file (1)") == digest
    assert (pair.out / "file").samefile(tmp_path / "file")
    assert sender.event("done")["kept"] < 60 * MB


def test_the_same_command_twice_at_once_is_told(pair: Pair, tmp_path: Path) -> None:
    make_file(tmp_path / "file", 60 * MB)
    sender, receiver = pair.run_until(tmp_path / "file", 1)
    receiver.process.send_signal(signal.SIGSTOP)  # a person has forgotten it in another window
    try:
        sender.kill()
        sender, second = pair.send(tmp_path / "file"), pair.recv()
        assert second.finish() == 9, second.err
        assert f"process {receiver.process.pid}" in second.err
        assert "Traceback" not in second.err
        state = {"XDG_STATE_HOME": str(tmp_path / "state of bob")}
        discarding = pair.programs.recv("--discard", "--out", pair.out, code=None, env=state)
        assert discarding.finish() == 9
        assert f"process {receiver.process.pid}" in discarding.err
        assert len(left_over(pair.out)) == 1
    finally:
        receiver.process.send_signal(signal.SIGCONT)


def test_a_damaged_journal_is_told_and_nothing_more(pair: Pair, tmp_path: Path) -> None:
    digest = make_file(tmp_path / "file", 30 * MB)
    sender, receiver = pair.run_until(tmp_path / "file", 1)
    end_both(sender, receiver)
    [journal] = (tmp_path / "state of bob" / "p2p" / "journals").glob("*.db")
    os.truncate(journal, 5000)
    _, receiver = pair.run(tmp_path / "file")
    assert "damaged" in receiver.err
    assert "Traceback" not in receiver.err
    assert hash_of(pair.out / "file") == digest
    assert [path.name for path in pair.out.iterdir()] == ["file"]


def test_without_a_state_folder_all_goes_as_ever(pair: Pair, tmp_path: Path) -> None:
    digest = make_file(tmp_path / "file", 30 * MB)
    for name in ("alice", "bob"):
        (tmp_path / f"state of {name}").write_text("no folder")
    sender, receiver = pair.run_until(tmp_path / "file", 1)
    end_both(sender, receiver)
    assert list(pair.out.iterdir()) == []
    sender, receiver = pair.run(tmp_path / "file", "--verbose")
    assert hash_of(pair.out / "file") == digest
    for side in (sender, receiver):
        assert "cannot be gone on with" in side.err


def test_with_a_one_time_code_each_run_has_another_one(pair: Pair, tmp_path: Path) -> None:
    digest = make_file(tmp_path / "file", 60 * MB)
    codes = []
    for kill in (True, False):
        states = [{"XDG_STATE_HOME": str(tmp_path / name)} for name in ("one", "two")]
        rate = ["--limit-rate", RATE] if kill else []
        sender = pair.programs.send(tmp_path / "file", "--json", *rate, code=None, env=states[0])
        sender.wait_for('"event": "waiting"')
        codes.append(sender.event("waiting")["command"].split()[4])
        words = (codes[-1], "--out", pair.out, "--yes", "--json")
        receiver = pair.programs.recv(*words, code=None, env=states[1])
        if kill:
            receiver.wait_for('(?s)"event": "progress".*"event": "progress"')
            end_both(receiver, sender)
            had = last_progress(receiver)["bytes"]
        else:
            assert (sender.finish(), receiver.finish()) == (0, 0), sender.err + receiver.err
    assert codes[0] != codes[1]
    assert hash_of(pair.out / "file") == digest
    assert crossed(sender) <= 60 * MB - had + LOST
