"""Both ends with real files: what arrives is what was sent, at once or after interruptions, and nothing else."""

from __future__ import annotations

import contextlib
import os
import selectors
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from receiving_stage import GUARD, Line, Stage
from sending_stage import describe, make

from p2p.core.errors import ExitCode, Failure
from p2p.core.transfer import events
from p2p.core.transfer.codec import encode
from p2p.core.transfer.entries import File, Folder, Kind
from p2p.core.transfer.limits import SMALL
from p2p.core.transfer.messages import (
    CHUNK,
    CHUNK_DIGEST,
    PIECE,
    Entries,
    Offer,
    OfferKind,
    Root,
    Totals,
    WholeFile,
    WholeFiles,
)
from p2p.core.transfer.names import is_temporary
from p2p.io.receiving.destination import Destination, Policy, StorageError
from p2p.io.receiving.end import ReceivingEnd
from p2p.io.receiving.journal import Journal, Journals
from p2p.io.sending.end import SendingEnd
from p2p.io.sending.walk import Exclude

TOKEN = bytes(16)
ALL = Exclude([])
NAMES = st.sampled_from(["a", "b", "c.txt", "ü", ".hidden", "A"])
THINGS = st.recursive(
    st.binary(max_size=40)
    | st.tuples(st.just("zeros"), st.integers(15_000, 2 * PIECE))
    | st.tuples(st.just("->"), st.sampled_from(["a", "../b", "a/b", "nowhere"]))
    | st.tuples(st.just("hole"), st.integers(0, 3 * CHUNK))
    | st.just("linked"),
    lambda things: st.dictionaries(NAMES, things, max_size=6),
    max_leaves=25,
)


@pytest.fixture
def stage() -> Iterator[Stage]:
    with contextlib.closing(selectors.DefaultSelector()) as selector:
        yield Stage(selector)


def send(stage: Stage, *paths: Path) -> SendingEnd:
    return SendingEnd.of_tree(list(paths), ALL, TOKEN, stage.selector)


def receive(stage: Stage, inbox: Path, policy: Policy = Policy.RENAME, journals: Path | None = None) -> ReceivingEnd:
    return ReceivingEnd(inbox, policy, None if journals is None else Journals(journals), stage.selector)


def plain(described: dict[str, object]) -> dict[str, object]:
    """Without the modes of folders, which get the umask and rwx for the owner."""
    return {
        name: what[1] if name.endswith("/") and isinstance(what, tuple) else what for name, what in described.items()
    }


@settings(deadline=None, max_examples=40)
@given(things=st.dictionaries(NAMES, THINGS, max_size=8), breaks=st.lists(st.integers(2, 60), max_size=3))
def test_any_tree_arrives_as_it_is(things: dict[str, Any], breaks: list[int]) -> None:
    with tempfile.TemporaryDirectory() as folder, contextlib.closing(selectors.DefaultSelector()) as selector:
        tree, inbox, stage = make(Path(folder) / "tree", things), Path(folder) / "inbox", Stage(selector)
        stage.run(send(stage, tree), receive(stage, inbox), breaks=breaks)
        assert plain(describe(inbox / "tree", "tree")) == plain(describe(tree, "tree"))
        assert [path.name for path in inbox.iterdir()] == ["tree"]
        assert stage.problems == []


@settings(deadline=None, max_examples=40)
@given(
    things=st.dictionaries(NAMES, THINGS, min_size=1, max_size=8),
    ends=st.lists(st.integers(1, 80), min_size=1, max_size=3),
    policy=st.sampled_from(Policy),
)
def test_the_same_command_again_goes_on(things: dict[str, Any], ends: list[int], policy: Policy) -> None:
    things = things | {"large": bytes(range(251)) * (3 * CHUNK // 251)}  # not into what hypothesis shows
    with tempfile.TemporaryDirectory() as folder, contextlib.closing(selectors.DefaultSelector()) as selector:
        tree, inbox, state = make(Path(folder) / "tree", things), Path(folder) / "inbox", Path(folder) / "state"
        state.mkdir(mode=0o700)
        for end in ends:
            stage = Stage(selector)
            stage.run(send(stage, tree), receive(stage, inbox, policy, state), until=end.__le__)
            if any(isinstance(event, events.Finished) for event in stage.received):
                return  # it was faster
        stage = Stage(selector)
        stage.run(send(stage, tree), receive(stage, inbox, policy, state))
        assert plain(describe(inbox / "tree", "tree")) == plain(describe(tree, "tree"))
        assert [path.name for path in inbox.iterdir()] == ["tree"]
        assert stage.problems == []
        finished = next(event for event in stage.received if isinstance(event, events.Finished))
        # It stays where something was left out: here links that lead out of the tree.
        assert len(list((state / "journals").glob("*.db"))) == (finished.missed > 0)


def test_a_folder_that_is_made_while_all_ends_is_known_to_the_next_run(
    tmp_path: Path, state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else that one would take it for somebody else's: another name for its own, or a time that stays as it is."""
    inbox = tmp_path / "inbox"
    inbox.mkdir()
    journal = Journals(state).begin(TOKEN, inbox)
    destination = Destination(inbox, journal=journal)
    is_noting, is_closed, note_folder = threading.Event(), threading.Event(), Journal.note_folder

    def note_late(journal: Journal, path: str, name: str, status: os.stat_result) -> bool:
        is_noting.set()
        is_closed.wait(0.3)  # it is what waits for us; where it did not, all would be closed by now
        return note_folder(journal, path, name, status)

    monkeypatch.setattr(Journal, "note_folder", note_late)
    job = events.MakeFolder(0, None, Folder("tree", 0o755, 0))
    making = threading.Thread(target=destination.carry_out, args=([job],))
    making.start()
    assert is_noting.wait(GUARD)
    destination.close()
    journal.close()
    is_closed.set()
    making.join(GUARD)
    with contextlib.closing(Journals(state).begin(TOKEN, inbox)) as again:
        row = again.find("tree")
        assert row is not None
        assert (row.name, row.inode) == ("tree", (inbox / "tree").stat().st_ino)


def test_files_of_every_size_arrive_with_mode_and_time(tmp_path: Path, stage: Stage) -> None:
    sizes = [0, 1, SMALL, SMALL + 1, PIECE - 1, PIECE, PIECE + 1, CHUNK, CHUNK + 1]
    paths = [tmp_path / f"{size}.bin" for size in sizes]
    for path, size in zip(paths, sizes, strict=True):
        path.write_bytes(os.urandom(size))
        path.chmod(0o640)
        os.utime(path, ns=(0, size * 1_000_000_007))
    inbox = tmp_path / "inbox"
    stage.run(send(stage, *paths), receive(stage, inbox))
    for path in paths:
        twin = inbox / path.name
        assert twin.read_bytes() == path.read_bytes()
        assert (twin.stat().st_mode, twin.stat().st_mtime_ns) == (path.stat().st_mode, path.stat().st_mtime_ns)
    assert len(list(inbox.iterdir())) == len(sizes)


def test_a_source_that_changes_in_the_middle_leaves_nothing_and_the_rest_arrives(tmp_path: Path, stage: Stage) -> None:
    tree, inbox = make(tmp_path / "tree", {"a": bytes(9 * CHUNK), "b": b"abc", "c": bytes(CHUNK)}), tmp_path / "inbox"
    end = receive(stage, inbox)

    def interfere(_: int) -> bool:
        if end.machine.progress.done >= PIECE:
            os.truncate(tree / "a", CHUNK)
        return False

    stage.run(send(stage, tree), end, until=interfere)
    assert sorted(path.name for path in inbox.rglob("*")) == ["b", "c", "tree"]
    [finished] = [event for event in stage.received if isinstance(event, events.Finished)]
    assert finished.exit_code is ExitCode.INTEGRITY


def interrupted(stage: Stage, tree: Path, inbox: Path, state: Path, is_time: Callable[[ReceivingEnd], bool]) -> None:
    end = receive(stage, inbox, journals=state)
    stage.run(send(stage, tree), end, until=lambda _: is_time(end))


@pytest.fixture
def state(tmp_path: Path) -> Path:
    state = tmp_path / "state"
    state.mkdir(mode=0o700)
    return state


def test_what_is_there_does_not_cross_again(tmp_path: Path, stage: Stage, state: Path) -> None:
    size = 5 * CHUNK
    tree, inbox = make(tmp_path / "tree", {"a": os.urandom(size), "b": os.urandom(size)}), tmp_path / "inbox"
    interrupted(stage, tree, inbox, state, lambda end: end.machine.progress.done > size + 3 * CHUNK)
    assert sum(is_temporary(path.name) for path in inbox.iterdir()) in (1, 2)  # the first may wait for the disk
    again = Stage(stage.selector)
    again.run(send(again, tree), receive(again, inbox, journals=state))
    assert again.kept >= size + 2 * CHUNK
    assert plain(describe(inbox / "tree", "tree")) == plain(describe(tree, "tree"))
    assert [path.name for path in inbox.iterdir()] == ["tree"]


def test_what_was_left_out_is_all_that_crosses_when_the_same_command_runs_again(
    tmp_path: Path, stage: Stage, state: Path
) -> None:
    size, c = CHUNK, os.urandom(9 * CHUNK)
    things = {"a": os.urandom(size), "b": b"small", "c": c, "d": {"e": os.urandom(size)}, "f": "pipe"}
    tree, inbox = make(tmp_path / "tree", things), tmp_path / "inbox"
    sending, end = send(stage, tree), receive(stage, inbox, journals=state)

    def interfere(_: int) -> bool:
        if sending.machine.progress.done >= size + 3 * CHUNK:
            with (tree / "c").open("ab") as file:
                file.write(b"more")
        return False

    stage.run(sending, end, until=interfere)
    [finished] = [event for event in stage.received if isinstance(event, events.Finished)]
    assert (finished.exit_code, finished.missed) == (ExitCode.INTEGRITY, 2)
    assert end.is_left
    assert sorted(path.name for path in (inbox / "tree").iterdir()) == ["a", "b", "d"]
    assert len([path for path in inbox.iterdir() if is_temporary(path.name)]) == 1
    (tree / "f").unlink()
    again = Stage(stage.selector)
    end = receive(again, inbox, journals=state)
    again.run(send(again, tree), end)
    assert end.machine.progress.crossed < 8 * CHUNK
    assert plain(describe(inbox / "tree", "tree")) == plain(describe(tree, "tree"))
    assert [path.name for path in inbox.iterdir()] == ["tree"]
    assert not end.is_left
    assert list((state / "journals").glob("*.db")) == []


def test_a_source_that_changed_takes_the_place_of_what_an_earlier_run_made_of_it(
    tmp_path: Path, stage: Stage, state: Path
) -> None:
    size = 4 * CHUNK
    things = {"a": os.urandom(size), "b": b"small", "c": os.urandom(size), "d": os.urandom(size)}
    tree, inbox = make(tmp_path / "tree", things), tmp_path / "inbox"
    interrupted(stage, tree, inbox, state, lambda end: end.machine.progress.done > 2 * size + CHUNK)
    with (tree / "a").open("r+b") as file:
        file.seek(CHUNK)
        file.write(b"changed")
    (tree / "b").write_bytes(b"other")
    os.truncate(tree / "c", CHUNK // 2)
    again = Stage(stage.selector)
    again.run(send(again, tree), receive(again, inbox, journals=state))
    assert plain(describe(inbox / "tree", "tree")) == plain(describe(tree, "tree"))
    assert [path.name for path in inbox.iterdir()] == ["tree"]
    assert again.kept >= size - CHUNK


def test_without_a_journal_an_interruption_leaves_only_whole_files(tmp_path: Path, stage: Stage) -> None:
    tree, inbox = make(tmp_path / "tree", {"a": os.urandom(CHUNK), "b": os.urandom(9 * CHUNK)}), tmp_path / "inbox"
    end = receive(stage, inbox)
    stage.run(send(stage, tree), end, until=lambda _: end.machine.progress.done > 3 * CHUNK)
    left = [path for path in inbox.rglob("*") if path.is_file()]
    assert all(path.read_bytes() == (tree / path.name).read_bytes() for path in left)


def test_skipping_leaves_alone_what_is_the_same_and_numbers_what_is_not(tmp_path: Path, stage: Stage) -> None:
    large = os.urandom(2 * CHUNK + 5)
    things = {"same": large, "other": large, "small": b"abc", "small other": b"abc", "empty": b"", "new": b"new"}
    tree, inbox = make(tmp_path / "tree", things), tmp_path / "inbox"
    inbox.mkdir()
    make(inbox / "tree", things | {"other": large[:-1] + b"x", "small other": b"abd"})
    (inbox / "tree" / "new").unlink()
    before = {path: path.stat() for path in (inbox / "tree").iterdir()}
    stage.run(send(stage, tree), receive(stage, inbox, Policy.SKIP))
    assert stage.problems == []
    assert stage.kept == len(large) + 2 * CHUNK + 3
    for path, status in before.items():
        now = path.stat()
        assert (now.st_ino, now.st_mtime_ns, now.st_mode) == (status.st_ino, status.st_mtime_ns, status.st_mode)
    assert (inbox / "tree" / "other (1)").read_bytes() == large
    assert (inbox / "tree" / "small other (1)").read_bytes() == b"abc"
    assert (inbox / "tree" / "new").read_bytes() == b"new"
    assert len(list((inbox / "tree").iterdir())) == 8


def test_of_a_file_that_cannot_be_the_same_nothing_is_told(tmp_path: Path, stage: Stage) -> None:
    """It is somebody else's, or the person's own: whoever guesses its name learns nothing of what is in it."""
    content = os.urandom(2 * CHUNK)
    tree, inbox = make(tmp_path / "tree", {"a": content + b"and more"}), tmp_path / "inbox"
    inbox.mkdir()
    make(inbox / "tree", {"a": content})
    stage.run(send(stage, tree), receive(stage, inbox, Policy.SKIP))
    assert stage.kept == 0
    assert (inbox / "tree" / "a").read_bytes() == content
    assert (inbox / "tree" / "a (1)").read_bytes() == content + b"and more"


def test_digests_that_nobody_has_heard_are_few(tmp_path: Path, stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many files of which something is here are announced at once."""
    monkeypatch.setattr("p2p.io.receiving.end.MAX_UNTOLD", 1)
    content = os.urandom(2 * CHUNK + 1)
    things = {f"{number}": content for number in range(20)}
    tree, inbox = make(tmp_path / "tree", things), tmp_path / "inbox"
    inbox.mkdir()
    make(inbox / "tree", things)
    end = receive(stage, inbox, Policy.SKIP)
    most = 0

    def look(_: int) -> bool:
        nonlocal most
        most = max(most, end._untold)
        return False

    stage.run(send(stage, tree), end, until=look)
    assert stage.kept == 20 * len(content)
    assert most == 3 * CHUNK_DIGEST
    assert end.reread == (20 * len(content), 20 * len(content))  # what was kept was verified in the end


def test_a_file_that_changes_after_it_was_compared_ends_it(tmp_path: Path, stage: Stage) -> None:
    tree, inbox = make(tmp_path / "tree", {"a": bytes(2 * CHUNK)}), tmp_path / "inbox"
    inbox.mkdir()
    make(inbox / "tree", {"a": bytes(2 * CHUNK)})
    end = receive(stage, inbox, Policy.SKIP)

    def interfere(_: int) -> bool:
        if end.checked == (2 * CHUNK, 2 * CHUNK):
            with (inbox / "tree" / "a").open("r+b") as file:
                file.write(b"x")
        return False

    stage.run(send(stage, tree), end, until=interfere)
    words = "tree/a on the receiver's disk is not what was sent: send it again"
    assert events.Aborted(ExitCode.INTEGRITY, words, by_peer=False) in stage.received
    assert events.Aborted(ExitCode.INTEGRITY, words, by_peer=True) in stage.sent


def test_one_thing_that_cannot_be_stored_does_not_stop_the_rest(tmp_path: Path, stage: Stage) -> None:
    tree, inbox = make(tmp_path / "tree", {"a": b"abc", "b": {"c": b"x", "large": bytes(CHUNK)}}), tmp_path / "inbox"
    inbox.mkdir()
    make(inbox / "tree", {"a": b"other"})
    for number in range(1, 10_000):
        (inbox / "tree" / f"a ({number})").symlink_to("taken")
    (inbox / "tree" / "b").write_bytes(b"")
    stage.run(send(stage, tree), receive(stage, inbox, Policy.SKIP))
    assert stage.problems == ["tree/a cannot be stored: 9999 names like it are taken"]
    assert (inbox / "tree" / "b (1)" / "large").stat().st_size == CHUNK
    [finished] = [event for event in stage.sent if isinstance(event, events.Finished)]
    assert finished.exit_code is ExitCode.STORAGE


def test_a_folder_that_goes_away_ends_it(tmp_path: Path, stage: Stage) -> None:
    tree, inbox = make(tmp_path / "tree", {"a": os.urandom(9 * CHUNK)}), tmp_path / "inbox"
    end = receive(stage, inbox)

    def remove(_: int) -> bool:
        if end.machine.progress.done > CHUNK and inbox.exists():
            for path in inbox.iterdir():
                path.rmdir() if path.is_dir() else path.unlink()
            inbox.rmdir()
        return False

    stage.run(send(stage, tree), end, until=remove)
    assert stage.line.failure is not None
    assert stage.line.failure.code is ExitCode.STORAGE
    assert stage.line.told.endswith("the folder or the temporary file was removed by someone else")


def test_what_does_not_fit_is_refused_before_anybody_is_asked(tmp_path: Path, stage: Stage) -> None:
    end = receive(stage, tmp_path / "inbox")
    root = Root(Kind.FILE, "a", 2**60)
    offer = Offer(OfferKind.TREE, TOKEN, Totals(1, 2**60, is_final=True), 1, (root,))
    with pytest.raises(StorageError, match="Not enough space"):
        end.handle_offer(offer)
    end.close()
    assert not (tmp_path / "inbox").exists()


def test_what_turns_out_not_to_fit_while_it_is_counted_ends_it(tmp_path: Path, stage: Stage) -> None:
    end = receive(stage, tmp_path / "inbox")
    line = started(end, Totals(1, 3, is_final=False))
    end.machine.handle_record(encode(Totals(9, 2**60, is_final=True)))
    end.advance(line.peer, 0.0)
    assert line.failure is not None
    assert "Not enough space" in line.failure.message
    end.close()


def started(end: ReceivingEnd, totals: Totals) -> Line:
    line = Line(None, end.machine)
    end.machine.handle_record(encode(Offer(OfferKind.TREE, TOKEN, totals, 1, (Root(Kind.FILE, "a", None),))))
    offered = end.machine.poll_event()
    assert isinstance(offered, events.Offered)
    end.handle_offer(offered.offer)
    end.accept(offered.offer, line.peer, 0.0)
    return line


def test_an_attempt_that_finds_no_way_to_the_other_side_ends_nothing(tmp_path: Path, stage: Stage) -> None:
    """The next one may find it, and everything goes on."""
    tree, inbox = make(tmp_path / "tree", {"a": os.urandom(3 * CHUNK), "b": b"abc"}), tmp_path / "inbox"
    end = receive(stage, inbox)

    def fail(turn: int) -> bool:
        if turn == 8:
            attempt = Line(None, end.machine)
            attempt.failure = Failure(ExitCode.NO_PATH, "no path")
            end.advance(attempt.peer, 0.0)
        return False

    stage.run(send(stage, tree), end, breaks=[7], until=fail)
    assert any(isinstance(event, events.Finished) for event in stage.sent)
    assert (inbox / "tree" / "a").read_bytes() == (tree / "a").read_bytes()


@pytest.mark.parametrize("is_lost", [True, False])
def test_what_arrived_on_a_lost_path_is_stored_and_nothing_after_a_failure(
    tmp_path: Path, stage: Stage, is_lost: bool
) -> None:
    inbox = tmp_path / "inbox"
    end = receive(stage, inbox)
    line = started(end, Totals(1, 3, is_final=True))
    end.machine.handle_record(encode(Entries((File("a", 0o644, 0, 3),))))
    digest = bytes.fromhex("6437b3ac38465133ffb63b75273a8db548c558465d79db03fd359c6cd5bd9d85")  # BLAKE3 of abc
    end.machine.handle_record(encode(WholeFiles((WholeFile(0, digest, b"abc"),))))
    line.failure = Failure(ExitCode.INTERRUPTED, "the path is lost")
    if not is_lost:
        end.machine.stop()
    end.advance(line.peer, 0.0)
    for key, mask in stage.selector.select(GUARD if is_lost else 0.0):
        key.data(mask)
    end.advance(line.peer, 0.0)
    stored = [event for event in iter(end.machine.poll_event, None) if isinstance(event, events.FileStored)]
    assert len(stored) == is_lost
    end.close()
    assert (inbox / "a").exists() is is_lost
