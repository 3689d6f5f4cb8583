"""Trees, pipes and texts from this disk through both machines: what is described and read there is what lies here."""

from __future__ import annotations

import contextlib
import os
import selectors
import tempfile
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import pytest
from blake3 import blake3
from hypothesis import given, settings
from hypothesis import strategies as st

from p2p.core.datagram import Buffer
from p2p.core.errors import ExitCode
from p2p.core.peer.peer import Peer
from p2p.core.transfer import events
from p2p.core.transfer.entries import Kind
from p2p.core.transfer.limits import MAX_HOLE, MAX_TEXT
from p2p.core.transfer.messages import CHUNK, CHUNK_DIGEST, PIECE, Offer, OfferKind, Root, Totals
from p2p.core.transfer.names import stays_inside
from p2p.core.transfer.receiver import TransferReceiver
from p2p.core.transfer.sender import TransferSender
from p2p.io import sending
from p2p.io.pipes import CommandReader
from p2p.io.sending import SendingEnd
from p2p.io.sources import SourceError
from p2p.io.walk import Exclude, Renamed

GUARD = 30.0  # seconds
TOKEN = bytes(16)
ALL = Exclude([])
Described = dict[str, object]  # what lies at each path


class Receiving:
    """The receiving machine and a disk that is a dictionary. `here`: what an earlier run left of the files."""

    def __init__(self, here: dict[str, bytes] | None = None) -> None:
        self.machine = TransferReceiver()
        self.offer: Offer | None = None
        self.events: list[events.ReceiverEvent] = []
        self.tree: Described = {}
        self.whole: list[str] = []
        self._here = here
        self._paths: dict[int | None, str] = {None: ""}
        self._contents: dict[int, bytearray] = {}

    def advance(self) -> None:
        while (event := self.machine.poll_event()) is not None:
            self.events.append(event)
            if isinstance(event, events.Offered):
                self.offer = event.offer
                self.machine.accept(answers=self._here is not None)
        while (action := self.machine.poll_action()) is not None:
            self._do(action)

    def _do(self, action: events.FileAction) -> None:
        match action:
            case events.MakeFolder(number, parent, entry):
                self.tree[self._name(number, parent, entry.name) + "/"] = (entry.mode, entry.mtime_ns)
            case events.LeaveFolder(number):
                self.machine.handle_stored(number, "")
            case events.Announced(number, parent, path, entry):
                assert self._name(number, parent, entry.name) == path
                here = (self._here or {}).get(path, b"")
                self._contents[number] = bytearray(here)
                if self.machine.answers:
                    chunks = [here[start : start + CHUNK] for start in range(0, len(here), CHUNK)]
                    self.machine.handle_have(number, [blake3(chunk).digest(CHUNK_DIGEST) for chunk in chunks])
            case events.MakeSymlink(number, parent, entry):
                self.tree[self._name(number, parent, entry.name)] = ("->", entry.target)
                self.machine.handle_stored(number, "")
            case events.MakeHardlink(number, parent, entry):
                self.tree[self._name(number, parent, entry.name)] = ("=", self._paths[entry.to])
                self.machine.handle_stored(number, "")
            case events.Write(number, offset, pieces):
                content = self._contents[number]
                data = b"".join(pieces)
                content[offset : offset + len(data)] = data
            case events.LeaveHole(number, offset, length):
                self._contents[number][offset : offset + length] = bytes(length)
            case events.Complete(number, size, digest):
                self._store(number, bytes(self._contents[number][:size]), digest)
            case events.Whole(number, content, digest):
                self.whole.append(self._paths[number])
                self._store(number, bytes(content), digest)
            case events.Keep() | events.Drop():
                pass

    def _name(self, number: int, parent: int | None, name: str) -> str:
        self._paths[number] = f"{self._paths[parent]}/{name}".lstrip("/")
        return self._paths[number]

    def _store(self, number: int, content: bytes, digest: bytes) -> None:
        assert blake3(content).digest() == digest
        self.tree[self._paths[number]] = content
        self.machine.handle_stored(number, "")


class Direct:
    """A path without a network, as far as SendingEnd knows a peer. Records arrive when they are looked at."""

    def __init__(self, sender: TransferSender, receiving: Receiving, *, goes_on: bool = False) -> None:
        self.reads = 0
        self._sender = sender
        self._receiving = receiving
        self._records: deque[bytes] = deque()
        if goes_on:
            sender.go_on()
            receiving.machine.go_on()
        else:
            sender.start()

    def poll_wanted(self, _: float) -> events.Wanted | None:
        self._send_control()
        wanted = self._sender.poll_wanted(5)
        self.reads += isinstance(wanted, events.Read | events.ReadWhole)
        return wanted

    def send(self, records: Sequence[Buffer], _: float) -> None:
        self._records.extend(map(bytes, records))  # as sealing copies them
        self._send_control()

    def advance(self, _: float) -> None:
        self._send_control()

    def deliver(self) -> bool:
        """Returns whether anything arrived."""
        receiver, moved = self._receiving.machine, False
        while self._records or (answer := receiver.poll_record()) is not None:
            moved = True
            if self._records:
                receiver.handle_record(self._records.popleft())
                self._receiving.advance()
            else:
                self._sender.handle_record(answer)
                self._send_control()
        return moved

    def _send_control(self) -> None:
        while (record := self._sender.poll_record()) is not None:
            self._records.append(record)


class Stage:
    """Runs a sending end as the loop does."""

    def __init__(self, selector: selectors.BaseSelector) -> None:
        self.selector = selector
        self.events: list[events.SenderEvent] = []

    def run(
        self,
        end: SendingEnd,
        receiving: Receiving,
        *,
        breaks: Sequence[int] = (),
        then: dict[int, Callable[[], object]] | None = None,
    ) -> None:
        """The path is lost in the turns `breaks`, with what is on its way. `then`: what happens before which turn."""
        path, turn = Direct(end.machine, receiving), 0
        try:
            while not (end.machine.ended and receiving.machine.ended):
                turn += 1
                (then or {}).get(turn, lambda: None)()
                is_busy = end.advance(cast(Peer, path), 0.0)
                if turn in breaks:
                    path = Direct(end.machine, receiving, goes_on=True)
                moved = path.deliver() or is_busy
                while (event := end.machine.poll_event()) is not None:
                    self.events.append(event)
                ready = self.selector.select(0.0 if moved or end.machine.ended else GUARD)
                assert ready or moved or end.machine.ended, "both wait for each other"
                for key, mask in ready:
                    key.data(mask)
        finally:
            end.close()
        receiving.advance()
        assert not self.selector.get_map()

    @property
    def missed(self) -> dict[str, tuple[ExitCode, str]]:
        told = [event for event in self.events if isinstance(event, events.NotTransferred)]
        return {event.path: (event.exit_code, event.reason) for event in told}

    @property
    def exit_code(self) -> ExitCode:
        [finished] = [event for event in self.events if isinstance(event, events.Finished)]
        return finished.exit_code


@pytest.fixture
def stage() -> Iterator[Stage]:
    with contextlib.closing(selectors.DefaultSelector()) as selector:
        yield Stage(selector)


def describe(root: Path, name: str) -> Described:
    """What lies at `root`, as far as it can be sent, read in the plainest way."""
    tree: Described = {}
    first_names: dict[int, str] = {}

    def add(path: Path, sent_as: str, depth: int) -> None:
        status = path.lstat()
        if path.is_symlink():
            if stays_inside(target := os.readlink(path), depth - 1):
                tree[sent_as] = ("->", target)
        elif path.is_dir():
            tree[sent_as + "/"] = (status.st_mode & 0o777, status.st_mtime_ns)
            for inner in sorted(path.iterdir(), key=lambda each: os.fsencode(each.name)):
                add(inner, f"{sent_as}/{inner.name}", depth + 1)
        elif path.is_file():
            first = first_names.setdefault(status.st_ino, sent_as)
            tree[sent_as] = path.read_bytes() if first == sent_as else ("=", first)

    add(root, name, 0)
    return tree


def make(folder: Path, things: dict[str, Any]) -> Path:
    folder.mkdir()
    for name, thing in things.items():
        path = folder / name
        match thing:
            case dict():
                make(path, thing)
            case bytes():
                path.write_bytes(thing)
            case ("->", target):
                path.symlink_to(target)
            case ("hole", size):
                path.touch()
                os.truncate(path, size)
            case "pipe":
                os.mkfifo(path)
            case "linked":
                others = [each for each in folder.iterdir() if each.is_file() and not each.is_symlink()]
                if others:
                    os.link(min(others), path)
    return folder


NAMES = st.sampled_from(["a", "b", "c.txt", "ü", "日本", ".hidden", "A", "z" * 100])
THINGS = st.recursive(
    st.binary(max_size=40)
    | st.integers(15_000, 3 * PIECE).map(bytes)
    | st.tuples(st.just("->"), st.sampled_from(["a", "../b", "../../a", "/etc", "a/b", "nowhere"]))
    | st.tuples(st.just("hole"), st.integers(0, 2 * MAX_HOLE))
    | st.sampled_from(["pipe", "linked"]),
    lambda things: st.dictionaries(NAMES, things, max_size=6),
    max_leaves=25,
)


@settings(deadline=None)
@given(things=st.dictionaries(NAMES, THINGS, max_size=8), breaks=st.lists(st.integers(2, 60), max_size=3))
def test_any_tree_arrives_as_it_is(things: dict[str, Any], breaks: list[int]) -> None:
    with tempfile.TemporaryDirectory() as folder, contextlib.closing(selectors.DefaultSelector()) as selector:
        tree = make(Path(folder) / "tree", things)
        stage, receiving = Stage(selector), Receiving()
        stage.run(SendingEnd.of_tree([tree], ALL, TOKEN, selector), receiving, breaks=breaks)
        assert receiving.tree == describe(tree, "tree")
        skipped = sum(path.is_fifo() for path in tree.rglob("*"))
        assert sum("named pipe" in reason for _, reason in stage.missed.values()) == skipped
        assert stage.exit_code is (ExitCode.STORAGE if stage.missed else ExitCode.DONE)


def test_the_offer_of_a_tree(tmp_path: Path, stage: Stage) -> None:
    make(tmp_path / "folder", {"a": bytes(10), "b": {"c": bytes(20)}})
    (tmp_path / "file").write_bytes(bytes(5))
    receiving = Receiving()
    end = SendingEnd.of_tree([tmp_path / "folder", tmp_path / "file"], ALL, b"t" * 16, stage.selector)
    while not end.is_counted:
        for key, mask in stage.selector.select(GUARD):
            key.data(mask)
    assert end.totals == Totals(3, 35, is_final=True)
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
    assert (receiving.offer.roots, len(receiving.offer.shown)) == (20, 16)
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

    def change() -> None:
        os.truncate(tree / "b", CHUNK + 5)
        (tree / "c").unlink()
        (tree / "d").write_bytes(b"other")
        os.utime(tree / "d", ns=(5, 5))

    stage.run(end, receiving, then={3: change})  # when everything was announced
    again = "send it again when nothing writes to it"
    assert stage.missed == {
        "tree/b": (ExitCode.INTEGRITY, f"became shorter while it was being sent: {again}"),
        "tree/c": (ExitCode.STORAGE, "does not exist: check the name"),
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
    tree = make(tmp_path / "tree", {"sparse": ("hole", 20 * MAX_HOLE)})
    with (tree / "sparse").open("r+b") as file:
        file.seek(7 * MAX_HOLE)
        file.write(b"in the middle")
    end, receiving = SendingEnd.of_tree([tree], ALL, TOKEN, stage.selector), Receiving()
    written: list[int] = []
    do = receiving._do

    def note(action: events.FileAction) -> None:
        if isinstance(action, events.Write):
            written.append(sum(map(len, action.pieces)))
        do(action)

    receiving._do = note  # type: ignore[method-assign]
    stage.run(end, receiving)
    assert receiving.tree == describe(tree, "tree")
    assert sum(written) <= CHUNK


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
    """Whatever the turn in which the path was lost; small files, large ones, the end of one and the beginning of another."""
    things = {name: os.urandom(size) for name, size in (("a", CHUNK + 7), ("b", 3), ("c", 40_000), ("d", 3 * CHUNK))}
    tree = make(tmp_path / "tree", things | {"e": ("hole", 3 * MAX_HOLE), "f": b"", "g": {}})
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
    stage.run(end, receiving)
    assert sorted(receiving.tree) == ["tree/", "tree/b"]
    assert end.totals == Totals(1, 5, is_final=True)


def test_an_end_that_is_closed_in_the_middle_leaves_nothing_open(tmp_path: Path, stage: Stage) -> None:
    tree = make(tmp_path / "tree", {"a": {"b": {"c": bytes(5 * CHUNK)}}, "d": bytes(5 * CHUNK)})
    before = os.listdir("/proc/self/fd")
    end, receiving = SendingEnd.of_tree([tree], ALL, TOKEN, stage.selector), Receiving()

    def stop() -> None:
        end.machine.abort(ExitCode.CANCELLED, "stopped")
        receiving.machine.abort(ExitCode.CANCELLED, "stopped")

    stage.run(end, receiving, then={4: stop})
    settle(before)


def settle(before: list[str]) -> None:
    """Threads end with the call that they are in."""
    for thread in threading.enumerate():
        if thread is not threading.main_thread() and thread.name.startswith("p2p-"):
            thread.join(GUARD)
    assert os.listdir("/proc/self/fd") == before


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
