"""Trees, pipes and texts from this disk through both machines: what is described and read there is what lies here."""

from __future__ import annotations

import contextlib
import os
import selectors
import stat
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sending_stage import GUARD, Receiving, Stage, describe, make

from p2p.core.errors import CallerError, ExitCode
from p2p.core.transfer import events
from p2p.core.transfer.entries import Kind
from p2p.core.transfer.limits import MAX_HOLE, MAX_ROOTS, MAX_TEXT
from p2p.core.transfer.messages import CHUNK, PIECE, OfferKind, Root, Totals
from p2p.io.sending import end as sending
from p2p.io.sending.end import SendingEnd
from p2p.io.sending.pipes import CommandReader
from p2p.io.sending.sources import SourceError
from p2p.io.sending.walk import Exclude, Renamed

TOKEN = bytes(16)
ALL = Exclude([])


@pytest.fixture
def stage() -> Iterator[Stage]:
    with contextlib.closing(selectors.DefaultSelector()) as selector:
        yield Stage(selector)


NAMES = st.sampled_from(["a", "b", "c.txt", "ü", "日本", ".hidden", "A", "z" * 100])
THINGS = st.recursive(
    st.binary(max_size=40)
    | st.tuples(st.just("zeros"), st.integers(15_000, 3 * PIECE))
    | st.tuples(st.just("->"), st.sampled_from(["a", "../b", "../../a", "/etc", "a/b", "nowhere"]))
    | st.tuples(st.just("hole"), st.integers(0, 3 * CHUNK))
    | st.sampled_from(["pipe", "linked"]),
    lambda things: st.dictionaries(NAMES, things, max_size=6),
    max_leaves=25,
)


@given(things=st.dictionaries(NAMES, THINGS, max_size=8), breaks=st.lists(st.integers(2, 60), max_size=3))
def test_any_tree_arrives_as_it_is(things: dict[str, Any], breaks: list[int]) -> None:
    with tempfile.TemporaryDirectory() as folder, contextlib.closing(selectors.DefaultSelector()) as selector:
        tree = make(Path(folder) / "tree", things)
        stage, receiving = Stage(selector), Receiving()
        stage.run(SendingEnd.of_tree([tree], ALL, TOKEN, selector), receiving, breaks=breaks)
        assert receiving.tree == describe(tree, "tree")
        paths = [Path(base) / name for base, _, names in os.walk(tree) for name in names]
        skipped = sum(stat.S_ISFIFO(path.lstat().st_mode) for path in paths)
        assert sum("named pipe" in reason for _, reason in stage.missed.values()) == skipped
        assert stage.exit_code is (ExitCode.STORAGE if stage.missed else ExitCode.DONE)


def test_the_offer_of_a_tree(tmp_path: Path, stage: Stage) -> None:
    make(tmp_path / "folder", {"a": bytes(10), "b": {"c": bytes(20)}})
    (tmp_path / "file").write_bytes(bytes(5))
    receiving = Receiving()
    end = SendingEnd.of_tree([tmp_path / "folder", tmp_path / "file"], ALL, b"t" * 16, stage.selector)
    stage.count(end)
    assert end.totals == Totals(3, 35, is_final=True, others=2)
    stage.run(end, receiving)
    assert receiving.offer is not None
    assert receiving.offer.shown == (Root(Kind.FOLDER, "folder", 0), Root(Kind.FILE, "file", 5))
    assert (receiving.offer.kind, receiving.offer.token, receiving.offer.roots) == (OfferKind.TREE, b"t" * 16, 2)
    assert end.machine.progress.total == receiving.machine.progress.total == 35


def test_files_alone_are_counted_at_once(tmp_path: Path, stage: Stage) -> None:
    folder = make(tmp_path / "folder", {str(number): bytes(number) for number in range(20)})
    paths = sorted(folder.iterdir())
    end = SendingEnd.of_tree(paths, ALL, TOKEN, stage.selector)
    assert end.totals == Totals(20, 190, is_final=True)
    receiving = Receiving()
    stage.run(end, receiving)
    assert receiving.offer is not None
    assert (receiving.offer.roots, len(receiving.offer.shown)) == (20, 20)
    assert receiving.tree == {path.name: path.read_bytes() for path in paths}


def test_a_path_that_is_missing_is_told_at_once(tmp_path: Path, stage: Stage) -> None:
    with pytest.raises(SourceError, match="does not exist"):
        SendingEnd.of_tree([tmp_path, tmp_path / "missing"], ALL, TOKEN, stage.selector)
    assert not stage.selector.get_map()


def test_what_cannot_be_read_is_left_out_and_the_rest_arrives(tmp_path: Path, stage: Stage) -> None:
    big, small = bytes(2 * CHUNK), b"small"
    tree = make(tmp_path / "tree", {"a": big, "b": big, "c": small, "d": small, "e": big, "f": small})
    receiving = Receiving()
    end = SendingEnd.of_tree([tree], ALL, TOKEN, stage.selector)

    def change(_: object) -> None:
        receiving.on_write = lambda _: None
        os.truncate(tree / "b", CHUNK + 5)
        (tree / "c").unlink()
        (tree / "d").write_bytes(b"other")
        os.utime(tree / "d", ns=(5, 5))

    receiving.on_write = change  # the first file is under way, and everything was announced
    stage.run(end, receiving)
    again = "send it again when nothing writes to it"
    assert stage.missed == {
        "tree/b": (ExitCode.INTEGRITY, f"became shorter while it was being sent: {again}"),
        "tree/c": (ExitCode.STORAGE, "was removed before it was sent: send it again if it is needed"),
        "tree/d": (ExitCode.INTEGRITY, f"was changed while it was being sent: {again}"),
    }
    assert stage.exit_code is ExitCode.INTEGRITY
    assert {path for path in receiving.tree if not path.endswith("/")} == {"tree/a", "tree/e", "tree/f"}


def test_what_is_there_already_does_not_cross(tmp_path: Path, stage: Stage) -> None:
    content = os.urandom(5 * CHUNK // 2)
    other = content[:CHUNK] + os.urandom(CHUNK)
    tree = make(tmp_path / "tree", {"changed": content, "new": b"new", "same": content})
    receiving = Receiving({"tree/same": content, "tree/changed": other})
    stage.run(SendingEnd.of_tree([tree], ALL, TOKEN, stage.selector), receiving)
    assert receiving.tree == describe(tree, "tree")
    kept = {event.path: event.kept for event in stage.events if isinstance(event, events.FileSent)}
    assert kept == {"tree/changed": CHUNK, "tree/new": 0, "tree/same": len(content)}


def test_a_sparse_file_crosses_as_one(tmp_path: Path, stage: Stage) -> None:
    tree = make(tmp_path / "tree", {"sparse": ("hole", 4 * MAX_HOLE)})
    with (tree / "sparse").open("r+b") as file:
        file.seek(2 * MAX_HOLE)
        file.write(b"in the middle")
    end, receiving = SendingEnd.of_tree([tree], ALL, TOKEN, stage.selector), Receiving()
    written: list[int] = []
    receiving.on_write = lambda write: written.append(sum(map(len, write.pieces)))
    stage.run(end, receiving)
    assert receiving.tree == describe(tree, "tree")
    assert sum(written) <= CHUNK


def test_what_lies_between_holes_crosses_alone(tmp_path: Path, stage: Stage) -> None:
    """As the image of a disk has it: many stretches, and less than one read from each to the next."""
    count, apart, length = 40, 10 * PIECE, PIECE + 5000
    tree = make(tmp_path / "tree", {"image": ("hole", count * apart)})
    with (tree / "image").open("r+b") as file:
        for number in range(count):
            file.seek(number * apart)
            file.write(os.urandom(length))
    receiving = Receiving()
    written: list[int] = []
    receiving.on_write = lambda write: written.append(sum(map(len, write.pieces)))
    stage.run(SendingEnd.of_tree([tree], ALL, TOKEN, stage.selector), receiving, breaks=(3, 9))
    assert receiving.tree == describe(tree, "tree")
    assert sum(written) <= count * 2 * PIECE


def test_files_that_were_sent_are_forgotten(tmp_path: Path, stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sending, "ENTRIES_A_BATCH", 100)
    tree = make(tmp_path / "tree", {f"{number:05}": b"x" * 20 for number in range(6000)})
    end, receiving = SendingEnd.of_tree([tree], ALL, TOKEN, stage.selector), Receiving()
    most, tell = 0, end._tell_entries

    def look() -> bool:
        nonlocal most
        most = max(most, len(end._sources))
        return tell()

    monkeypatch.setattr(end, "_tell_entries", look)
    stage.run(end, receiving)
    assert len(receiving.tree) == 6001
    assert most < 3000


def test_what_was_on_its_way_is_read_again(tmp_path: Path, stage: Stage) -> None:
    """Whatever the turn in which the path was lost: in small files, in large ones, between them."""
    things = {name: os.urandom(size) for name, size in (("a", CHUNK + 7), ("b", 3), ("c", 40_000), ("d", 3 * CHUNK))}
    tree = make(tmp_path / "tree", things | {"e": ("hole", 2 * CHUNK), "f": b"", "g": {}})
    for turn in range(1, 30):
        receiving = Receiving()
        end = SendingEnd.of_tree([tree], ALL, TOKEN, stage.selector)
        stage.run(end, receiving, breaks=[turn, turn + 2])
        assert receiving.tree == describe(tree, "tree")


def test_names_that_were_repaired_are_noted(tmp_path: Path, stage: Stage) -> None:
    tree = make(tmp_path / "tree", {"12:30": b"a", "12_30": b"b"})
    end, receiving = SendingEnd.of_tree([tree], ALL, TOKEN, stage.selector), Receiving()
    stage.run(end, receiving)
    assert (end.notes, end.notes_count) == ([Renamed(f"{tree}/12:30", "12_30 (1)")], 1)
    assert {path: receiving.tree[path] for path in receiving.tree if not path.endswith("/")} == {
        "tree/12_30": b"b",
        "tree/12_30 (1)": b"a",
    }


def test_what_is_excluded_is_neither_sent_nor_counted(tmp_path: Path, stage: Stage) -> None:
    tree = make(tmp_path / "tree", {"a.o": bytes(9), "b": bytes(5), "build": {"c": bytes(7)}})
    end, receiving = SendingEnd.of_tree([tree], Exclude(["*.o", "build/"]), TOKEN, stage.selector), Receiving()
    stage.count(end)
    stage.run(end, receiving)
    assert sorted(receiving.tree) == ["tree/", "tree/b"]
    assert end.totals == Totals(1, 5, is_final=True, others=1)


def test_an_end_that_is_closed_in_the_middle_leaves_nothing_open(tmp_path: Path, stage: Stage) -> None:
    tree = make(tmp_path / "tree", {"a": {"b": {"c": bytes(5 * CHUNK)}}, "d": bytes(5 * CHUNK)})
    before = os.listdir("/proc/self/fd")
    end, receiving = SendingEnd.of_tree([tree], ALL, TOKEN, stage.selector), Receiving()

    receiving.on_write = lambda _: end.machine.abort(ExitCode.CANCELLED, "stopped")
    stage.run(end, receiving)
    settle(before)


def settle(before: list[str]) -> None:
    """Threads end with the call that they are in."""
    for thread in threading.enumerate():
        if thread is not threading.main_thread() and thread.name.startswith("p2p-"):
            thread.join(GUARD)
    assert os.listdir("/proc/self/fd") == before


def test_a_walk_that_is_not_taken_to_its_end_leaves_nothing_open(
    tmp_path: Path, stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sending, "ENTRIES_A_BATCH", 4)
    tree = make(tmp_path / "tree", {"a": {"b": {"c": {str(number): b"" for number in range(2000)}}}})
    before = os.listdir("/proc/self/fd")
    end, receiving = SendingEnd.of_tree([tree], ALL, TOKEN, stage.selector), Receiving()
    advance = receiving.advance

    def abort_at_the_first_file() -> None:
        advance()
        if len(receiving.tree) > 3:
            end.machine.abort(ExitCode.CANCELLED, "stopped")

    monkeypatch.setattr(receiving, "advance", abort_at_the_first_file)
    stage.run(end, receiving)
    settle(before)


@pytest.mark.parametrize("size", [0, 1, 20_000, MAX_TEXT])
def test_a_text(stage: Stage, size: int) -> None:
    text = ("grüße\n" * size).encode()[:size].decode("utf-8", "ignore")
    receiving = Receiving()
    end = SendingEnd.of_text(text, TOKEN, stage.selector)
    stage.run(end, receiving)
    assert list(receiving.tree.values()) == [text.encode()]
    assert receiving.offer is not None
    assert receiving.offer.kind is OfferKind.TEXT
    assert receiving.offer.totals == Totals(1, len(text.encode()), is_final=True)


@pytest.mark.parametrize("size", [0, 5, 3 * CHUNK + 5])
@pytest.mark.parametrize("breaks", [[], [2, 4], [3, 5, 9]])
def test_a_pipe(stage: Stage, size: int, breaks: list[int]) -> None:
    content = os.urandom(size)
    reader, writer = os.pipe()

    def write() -> None:
        with open(writer, "wb") as pipe:
            pipe.write(content)

    thread = threading.Thread(target=write)
    thread.start()
    receiving = Receiving()
    try:
        stage.run(SendingEnd.of_pipe(reader, "a:b", TOKEN, stage.selector), receiving, breaks=breaks)
    finally:
        thread.join(GUARD)
        os.close(reader)
    assert receiving.tree == {"a_b": content}
    assert receiving.offer is not None
    assert (receiving.offer.kind, receiving.offer.totals) == (OfferKind.PIPE, Totals(1, None, is_final=True))


def test_a_command_that_fails_is_no_whole_file(stage: Stage) -> None:
    receiving = Receiving()
    end = SendingEnd.of_reader(CommandReader("echo half; exit 3"), "output", TOKEN, stage.selector)
    stage.run(end, receiving)
    assert receiving.tree == {}
    assert stage.missed["output"][0] is stage.exit_code is ExitCode.INTEGRITY


def test_hidden_ones_are_named_in_the_offer_however_many_there_are(tmp_path: Path, stage: Stage) -> None:
    names = [*(f"{number:03}" for number in range(3 * MAX_ROOTS)), ".bashrc", ".ssh"]
    folder = make(tmp_path / "named", dict.fromkeys(names, b"a"))
    paths = [folder / name for name in names]
    receiving = Receiving()
    stage.run(SendingEnd.of_tree(paths, ALL, TOKEN, stage.selector), receiving)
    assert receiving.offer is not None
    assert [root.name for root in receiving.offer.shown[:3]] == [".bashrc", ".ssh", "000"]
    assert (len(receiving.offer.shown), receiving.offer.roots) == (MAX_ROOTS, len(names))
    assert sorted(receiving.tree) == sorted(names)


def test_more_hidden_ones_than_can_be_named_are_not_sent(tmp_path: Path, stage: Stage) -> None:
    names = [f".{number}" for number in range(MAX_ROOTS + 1)]
    folder = make(tmp_path / "named", dict.fromkeys(names, b""))
    paths = [folder / name for name in names]
    with pytest.raises(CallerError, match="more than 200 hidden files or folders are named"):
        SendingEnd.of_tree(paths, ALL, TOKEN, stage.selector)


def test_a_file_that_cannot_be_stored_over_there_is_not_kept_open_here(tmp_path: Path, stage: Stage) -> None:
    tree = make(tmp_path / "tree", {"a": bytes(9 * CHUNK), "b": bytes(CHUNK), "c": bytes(CHUNK)})
    receiving = Receiving()
    seen: dict[int, set[str]] = {}

    def look(write: events.Write) -> None:
        if write.number not in seen:
            fds = [Path(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd")]
            seen[write.number] = {path.readlink().name for path in fds if path.is_symlink()} & {"a", "b", "c"}
        if write.number == 1:
            receiving.machine.handle_problem(1, "tree/a cannot be stored: no")

    receiving.on_write = look
    stage.run(SendingEnd.of_tree([tree], ALL, TOKEN, stage.selector), receiving)
    assert sorted(receiving.tree) == ["tree/", "tree/b", "tree/c"]
    assert [open_ones <= {name} for open_ones, name in zip(seen.values(), "abc", strict=True)] == [True] * 3
