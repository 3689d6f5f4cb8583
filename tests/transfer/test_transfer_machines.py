"""Sender and receiver back to back over a queue of records: no file, no socket. What goes right."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable
from itertools import count

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transfer.in_memory import MemoryDisk, MemorySource, Tree, digest

from p2p.core.errors import CallerError, ExitCode, RemoteError
from p2p.core.transfer import messages, outgoing
from p2p.core.transfer.codec import decode, encode
from p2p.core.transfer.entries import File, Folder, Hardlink, Kind, Leave, Skipped, Symlink
from p2p.core.transfer.events import (
    Accepted,
    FileSent,
    FileStored,
    Finished,
    NotTransferred,
    Offered,
    Read,
    ReceiverEvent,
    SenderEvent,
    Wanted,
    WantEntries,
    Write,
)
from p2p.core.transfer.limits import (
    MAX_AHEAD,
    MAX_DEPTH,
    MAX_KEPT,
    MAX_LISTED,
    MAX_PIECES,
    MAX_QUEUED,
    MAX_UNNAMED,
    MAX_UNSTORED,
    MAX_UNTAKEN,
    SMALL,
    TAKEN_EVERY,
)
from p2p.core.transfer.messages import (
    CHUNK,
    DATA_HEADER,
    PIECE,
    Accept,
    Continue,
    Data,
    Entries,
    Have,
    OfferKind,
    Taken,
    Totals,
    WholeFiles,
)
from p2p.core.transfer.receiver import TransferReceiver
from p2p.core.transfer.sender import TransferSender
from p2p.core.transfer.totals import GrowingTotals

EDGES = [0, 1, SMALL, SMALL + 1, PIECE - 1, PIECE, PIECE + 1, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK + 17]


class Pair:
    """Both machines, and everything that may happen between them, in any order that `rng` draws."""

    def __init__(
        self,
        tree: Tree,
        here: dict[int, bytes] | None = None,
        *,
        answers: bool = False,
        seed: int = 0,
        batch: int = 100,
    ) -> None:
        self.rng = random.Random(seed)
        self.sender, self.receiver = TransferSender(tree.offer()), TransferReceiver()
        self.source, self.disk = MemorySource(tree, batch), MemoryDisk(here, self.rng)
        self.sent: list[SenderEvent] = []
        self.received: list[ReceiverEvent] = []
        self.sent_bytes = self.lost_bytes = self.breaks = 0
        self._answers = answers
        self._there: deque[bytes] = deque()
        self._back: deque[bytes] = deque()
        self._wishes: deque[Wanted] = deque()
        self._is_cut = False
        self.sender.start()

    def run(self, breaks: int = 0) -> None:
        """Until neither side has anything left to do; the path breaks so many times in between."""
        steps: list[Callable[[], bool]] = [
            *[self.look_at_sender, self.look_at_receiver, self.wish, self.fulfil, self.carry, self.carry_back],
            *[self.act, self.answer, self.store],
        ]
        patience = 0
        breaks_at = sorted((self.rng.randrange(1, 400) for _ in range(breaks)), reverse=True)
        for turn in count():
            if breaks_at and turn >= breaks_at[-1]:
                breaks_at.pop()
                self.cut()
            if self._is_cut and self.rng.random() < 0.2:
                self.go_on()
            step = self.rng.choice(steps)
            patience = 0 if step() or self._is_cut else patience + 1
            if patience > 300:
                return

    def settle(self) -> None:
        """Until nothing moves, each side as quick as it can."""
        while any(
            [
                *[self.look_at_sender(), self.look_at_receiver(), self.wish(), self.fulfil(), self.carry()],
                *[self.carry_back(), self.act(), self.answer(), self.store()],
            ]
        ):
            pass

    def begin(self) -> Wanted:
        """Until the first content is wanted. Returns that wish, which nobody fulfils."""
        while not self._wishes or isinstance(self._wishes[0], WantEntries):
            self.look_at_receiver()
            self.fulfil()
            self.wish()
            while self.carry() or self.carry_back():
                self.look_at_receiver()
        return self._wishes.popleft()

    def cut(self) -> None:
        """The path breaks: what was on its way is lost."""
        if self.sender.ended or self._is_cut:
            return
        self.breaks += 1
        self._is_cut = True
        self.lost_bytes += sum(map(content_bytes, self._there))
        self._there.clear()
        self._back.clear()

    def go_on(self) -> None:
        self._is_cut = False
        self.sender.go_on()
        self.receiver.go_on()

    def look_at_sender(self) -> bool:
        events = list(iter(self.sender.poll_event, None))
        self.sent += events
        return bool(events)

    def look_at_receiver(self) -> bool:
        events = list(iter(self.receiver.poll_event, None))
        self.received += events
        if any(isinstance(event, Offered) for event in events):
            self.receiver.accept(answers=self._answers)
        return bool(events)

    def wish(self) -> bool:
        """As a delivery does it: control records first."""
        if self._is_cut:
            return False
        moved = False
        while (record := self.sender.poll_record()) is not None:
            self.send(record)
            moved = True
        wish = self.sender.poll_wanted(self.rng.randint(1, 20))
        if wish is not None:
            assert wish not in self._wishes
            self._wishes.append(wish)
        return moved or wish is not None

    def fulfil(self) -> bool:
        """Reading takes its time: the path may be another when a wish is fulfilled."""
        if not self._wishes:
            return False
        for record in self.source.answer(self.sender, self._wishes.popleft()):
            self.send(bytes(record))
        return True

    def send(self, record: bytes) -> None:
        assert len(record) <= messages.MAX_MESSAGE
        self.sent_bytes += content_bytes(record)
        if self._is_cut:
            self.lost_bytes += content_bytes(record)
        else:
            self._there.append(record)

    def carry(self) -> bool:
        if not self._there or not (self.receiver.ready or self.receiver.is_finished):
            return False
        self.receiver.handle_record(self._there.popleft())
        return True

    def carry_back(self) -> bool:
        if self._is_cut:
            return False
        while (record := self.receiver.poll_record()) is not None:
            self._back.append(record)
        if not self._back:
            return False
        self.sender.handle_record(self._back.popleft())
        return True

    def act(self) -> bool:
        action = self.receiver.poll_action()
        if action is not None:
            self.disk.act(self.receiver, action)
        return action is not None

    def answer(self) -> bool:
        if not self.disk.to_answer:
            return False
        self.disk.answer(self.receiver)
        return True

    def store(self) -> bool:
        if self.disk.is_idle:
            return False
        self.disk.store(self.receiver)
        return True


def content_bytes(record: bytes) -> int:
    match decode(record):
        case Data(_, _, piece):
            return len(piece)
        case WholeFiles(files):
            return sum(len(file.content) for file in files)
        case _:
            return 0


def random_tree(rng: random.Random, *, unreadable: bool) -> Tree:
    tree, linked = Tree(), []

    def fill(depth: int) -> None:
        for number in range(rng.randint(0, 6) if depth else rng.randint(1, 6)):
            kind, name = rng.random(), f"{depth}-{number}"
            if kind < 0.25 and depth < 4:
                tree.add(Folder(name, 0o755, rng.randrange(-(2**40), 2**60)))
                fill(depth + 1)
                tree.add(Leave())
            elif kind < 0.3:
                tree.add(Skipped(name, f"{name} is a device"))
            elif kind < 0.35 and depth:
                tree.add(Symlink(name, 5, "../" * rng.randrange(depth) + "x"))
            elif kind < 0.4 and linked:
                tree.add(Hardlink(name, rng.choice(linked)))
            else:
                add_file(name)

    def add_file(name: str) -> None:
        size = rng.choice(EDGES if rng.random() < 0.4 else EDGES[:5])
        content = bytearray(rng.randbytes(size))
        hole = range(*sorted((rng.randrange(size), rng.randrange(size)))) if size > PIECE else range(0)
        is_sparse, is_linked = rng.random() < 0.5, rng.random() < 0.3
        if is_sparse and hole:
            content[hole.start : hole.stop] = bytes(len(hole))
        number = tree.add(File(name, 0o644, 1, size, is_linked), bytes(content))
        if is_sparse and hole:
            tree.holes[number] = [hole]
        if is_linked:
            linked.append(number)
        if unreadable and rng.random() < 0.2:
            tree.unreadable[number] = rng.randint(0, size)

    fill(0)
    return tree


def random_remains(rng: random.Random, tree: Tree) -> dict[int, bytes]:
    """What an earlier run may have left at the receiver."""
    here = {}
    for number, content in tree.contents.items():
        changed = bytearray(content)
        for _ in range(rng.randint(1, 2) if content else 0):
            changed[rng.randrange(len(content))] ^= 1
        cut = rng.randint(0, len(content))
        choices = [content, content[:cut], content + b"more", bytes(changed), bytes(changed[:cut]), None]
        if (remains := rng.choice(choices)) is not None:
            here[number] = remains
    return here


def kept_of(content: bytes, here: bytes) -> int:
    """Bytes that need not cross again."""
    whole = len(here) if len(here) == len(content) else len(here) // PIECE * PIECE
    chunks = (range(at, min(at + CHUNK, whole)) for at in range(0, min(whole, len(content)), CHUNK))
    return sum(len(at) for at in chunks if content[at.start : at.stop] == here[at.start : at.stop])


@settings(max_examples=150, deadline=None)
@given(seed=st.integers(0, 2**32), breaks=st.integers(0, 6), answers=st.booleans(), unreadable=st.booleans())
def test_everything_arrives_whatever_happens_in_between(
    seed: int, breaks: int, answers: bool, unreadable: bool
) -> None:
    """Any tree, any order of things, any breaks of the path, anything that was there before."""
    rng = random.Random(seed)
    tree = random_tree(rng, unreadable=unreadable)
    here = random_remains(rng, tree) if answers else {}
    pair = Pair(tree, here, answers=answers, seed=seed)
    pair.run(breaks)
    assert pair.sender.ended
    assert pair.receiver.is_confirmed
    readable = {n: c for n, c in tree.contents.items() if n not in tree.unreadable}
    stored = pair.disk.contents()
    assert {number: stored.get(number) for number in readable} == readable
    failed = pair.disk.dropped
    assert stored.keys() == tree.contents.keys() - failed
    lost_names = {n for n, t in pair.disk.things.items() if isinstance(t.entry, Hardlink) and t.entry.to in failed}
    assert pair.disk.names.keys() == set(range(tree.number)) - failed - lost_names
    skipped = sum(isinstance(entry, Skipped) for entry in tree.entries)
    ends = [event for event in (pair.sent[-1], pair.received[-1]) if isinstance(event, Finished)]
    assert len(ends) == 2
    assert ends[0] == ends[1]
    assert ends[0].missed == skipped + len(failed) + len(lost_names)
    files = [n for n in sorted(tree.contents) if n not in failed]
    digests = [digest(tree.contents[n]) for n in files]
    assert ends[0].digest == (digests[0] if len(files) == 1 else digest(b"".join(digests)))
    files_told = [event for event in pair.received if isinstance(event, FileStored)]
    assert sum(event.kept for event in files_told) == sum(
        kept_of(tree.contents[n], here.get(n, b"")) for n in files if tree.contents[n]
    )
    if not failed:
        assert pair.receiver.progress.done == pair.sender.progress.done == sum(map(len, tree.contents.values()))
        new = pair.receiver.progress.done - pair.receiver.progress.kept - pair.disk.hole_bytes
        assert pair.sent_bytes - pair.lost_bytes == new, "something crossed twice"


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32), breaks=st.integers(0, 5), size=st.sampled_from(EDGES))
def test_a_pipe_arrives_and_is_read_once(seed: int, breaks: int, size: int) -> None:
    content = random.Random(seed).randbytes(size)
    pair = Pair(Tree.of_pipe(content), seed=seed)
    pair.run(breaks)
    assert pair.disk.contents() == {0: content}
    assert pair.sent[-1] == pair.received[-1] == Finished(digest(content), ExitCode.DONE)
    assert pair.sender.progress.total is None


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32), breaks=st.integers(1, 5))
def test_a_file_that_changes_while_the_path_is_lost_ends_only_itself(seed: int, breaks: int) -> None:
    """Unless its end was said before; then the digest of all files has it, and the same command starts anew."""
    rng = random.Random(seed)
    files = {str(n): rng.randbytes(rng.choice(EDGES)) for n in range(4)}
    pair = Pair(Tree.of(files), seed=seed)
    cut = pair.cut

    def cut_and_change() -> None:
        cut()
        under_way = pair.sender.progress.path
        if under_way:
            pair.source.tree.unreadable[int(under_way)] = 0

    pair.cut = cut_and_change  # type: ignore[method-assign]
    pair.run(breaks)
    assert pair.sender.ended
    assert pair.receiver.ended
    if isinstance(pair.sent[-1], Finished):
        assert isinstance(pair.received[-1], Finished)
        changed = pair.disk.dropped
        assert pair.disk.contents() == {n: files[str(n)] for n in range(4) if n not in changed}
        assert changed <= pair.source.tree.unreadable.keys()
    for number, content in pair.disk.contents().items():
        assert content == files[str(number)]


def test_thousands_of_files_need_no_round_trip_each() -> None:
    files = {str(number): bytes([number % 256]) * (number % 3) for number in range(5000)}
    tree = Tree.of(files)
    pair = Pair(tree)
    records: list[bytes] = []
    pair.sender.handle_record(encode(Accept(answers=False)))
    source = pair.source
    while True:
        while (record := pair.sender.poll_record()) is not None:
            records.append(record)
        if (wish := pair.sender.poll_wanted()) is None:
            break
        records += map(bytes, source.answer(pair.sender, wish))
    assert isinstance(decode(records[-1]), messages.Finish)
    assert len(records) < 40
    carried = [file for record in records if isinstance(m := decode(record), WholeFiles) for file in m.files]
    assert [bytes(file.content) for file in carried] == list(files.values())


def test_records_of_small_files_are_full_and_never_overfull() -> None:
    files = {str(n): bytes([n % 256]) * (n * 97 % (SMALL + 1)) for n in range(400)}
    pair = Pair(Tree.of(files), batch=1000)
    lengths: list[int] = []
    send = pair.send

    def note(record: bytes) -> None:
        if isinstance(decode(record), WholeFiles):
            lengths.append(len(record))
        send(record)

    pair.send = note  # type: ignore[method-assign]
    pair.settle()
    *full, _ = lengths
    assert max(full) <= messages.MAX_MESSAGE < min(full) + SMALL + messages.WHOLE_FILE_HEADER


def test_pieces_are_never_copied_by_the_machines() -> None:
    content = b"abc" * SMALL
    pair = Pair(Tree.of({"a": content}))
    read = pair.begin()
    assert isinstance(read, Read)
    record = bytearray(DATA_HEADER) + content
    assert pair.sender.handle_read(read, [memoryview(record)])
    pair.receiver.handle_record(record)
    written = [action for action in iter(pair.receiver.poll_action, None) if isinstance(action, Write)]
    record[DATA_HEADER] = ord("X")
    assert bytes(written[0].pieces[0]) == b"X" + content[1:]


def test_pieces_in_a_row_become_one_write() -> None:
    pair = Pair(Tree.of({"a": bytes(2 * CHUNK)}))
    sizes = []
    act = pair.disk.act

    def note(machine: TransferReceiver, action) -> None:
        if isinstance(action, Write):
            sizes.append(len(action.pieces))
        act(machine, action)

    pair.disk.act = note  # type: ignore[method-assign]
    for _ in range(4):
        pair.look_at_receiver()
        pair.carry_back()
        while pair.wish() or pair.fulfil():
            pass
        while pair.carry():
            pass
    pair.settle()
    assert sizes == [MAX_PIECES, MAX_PIECES]


# The disk is slow.


def test_a_slow_disk_holds_the_sender_back() -> None:
    pair = Pair(Tree.of({str(n): bytes(SMALL + 1) for n in range(MAX_UNSTORED + 50)}))
    store = pair.store
    pair.store = lambda: False  # type: ignore[method-assign]
    pair.settle()
    assert pair.receiver.unstored == MAX_UNSTORED
    assert not pair.receiver.ready
    store()
    assert pair.receiver.ready


def test_a_slow_disk_holds_small_files_back() -> None:
    pair = Pair(Tree.of({str(n): bytes(10_000) for n in range(MAX_UNNAMED + 50)}))  # six in one record
    store = pair.store
    pair.store = lambda: False  # type: ignore[method-assign]
    pair.settle()
    assert MAX_UNNAMED <= pair.receiver.unnamed < MAX_UNNAMED + 6
    assert pair.receiver.unstored == 0
    assert not pair.receiver.ready
    for _ in range(6):
        store()
    assert pair.receiver.ready


@pytest.mark.parametrize("answers", [False, True])
@pytest.mark.parametrize("shape", ["folders", "deep", "links", "empty folders"])
def test_what_waits_for_content_does_not_hold_the_content_back(
    shape: str, answers: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Folders wait for all that is in them, hard links for their file; neither may stop the records that bring it.

    Of a sender that goes as far ahead as is allowed.
    """
    monkeypatch.setattr(outgoing, "MAX_AHEAD", 2 * MAX_UNNAMED)
    tree = Tree()
    if shape == "links":
        tree.add(Folder("root", 0o755, 1))
        first = tree.add(File("file", 0o644, 1, SMALL + 1, is_linked=True), bytes(SMALL + 1))
        for number in range(1500):
            tree.add(Hardlink(str(number), first))
        tree.add(Leave())
    elif shape == "deep":
        for _ in range(12):
            for depth in range(MAX_DEPTH):
                tree.add(Folder(str(depth), 0o755, 1))
                tree.add(File("file", 0o644, 1, 3), b"abc")
            tree.entries += [Leave()] * MAX_DEPTH
    else:
        for number in range(1200):
            tree.add(Folder(str(number), 0o755, 1))
            if shape == "folders":
                tree.add(File("file", 0o644, 1, SMALL + number % 2), bytes(SMALL + number % 2))
            tree.add(Leave())
    pair = Pair(tree, answers=answers, batch=2 * MAX_UNNAMED)
    pair.settle()
    assert pair.receiver.is_confirmed
    assert len(pair.disk.names) == tree.number


# What is kept, and for how long.


def test_taken_bounds_what_is_kept() -> None:
    """Of 400 files the sender keeps some records since the last TAKEN, fewer than four times TAKEN_EVERY, not all."""
    pair = Pair(Tree.of({str(n): bytes(SMALL + 1) for n in range(400)}))
    most = 0
    carry = pair.carry

    def note() -> bool:
        nonlocal most
        most = max(most, len(pair.sender._records.kept))
        return carry()

    pair.carry = note  # type: ignore[method-assign]
    wish = pair.wish
    pair.wish = lambda: not pair._there and wish()  # type: ignore[method-assign]
    pair.settle()
    assert TAKEN_EVERY <= most < 4 * TAKEN_EVERY
    assert pair.receiver.is_confirmed


def test_a_receiver_that_never_says_taken_makes_the_sender_wait_and_not_grow() -> None:
    pair = Pair(Tree.of({str(n): bytes(SMALL) for n in range(5000)}))
    poll = pair.receiver.poll_record
    pair.receiver.poll_record = lambda: next(  # type: ignore[method-assign]
        (record for record in iter(poll, None) if not isinstance(decode(record), Taken)), None
    )
    pair.settle()
    assert len(pair.sender._records.kept) == MAX_KEPT
    assert not pair.sender.ended


def test_a_sender_that_never_says_taken_is_ended() -> None:
    machine = TransferReceiver()
    tree = Tree.of({"a": b"abc"})
    machine.handle_record(encode(tree.offer()))
    machine.accept()
    assert machine.poll_record() is not None
    machine.handle_record(encode(Entries(tuple(tree.entries))))
    for _ in range(MAX_UNTAKEN + 1):
        machine.handle_problem(0, "it cannot be stored")
        assert machine.poll_record() is not None
    with pytest.raises(RemoteError, match="none was taken"):
        machine.handle_record(encode(Entries((Skipped("a", "b"),))))
    assert isinstance(decode(machine.poll_record() or b""), messages.Abort)


def test_nor_are_long_answers_kept_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same large file, of which the receiver has much, announced again and again, and no answer ever taken."""
    monkeypatch.setattr("p2p.core.transfer.records.MAX_UNTAKEN_SIZE", 100_000)
    machine = TransferReceiver()
    folder = messages.Root(Kind.FOLDER, "f", 0)
    machine.handle_record(encode(messages.Offer(OfferKind.TREE, bytes(16), Totals(0, 0, is_final=False), 1, (folder,))))
    machine.accept(answers=True)
    machine.handle_record(encode(Entries((Folder("f", 0o755, 0), *[File("a", 0o644, 0, 1000 * CHUNK)] * 20))))
    skipped = encode(Entries((Skipped("a", "b"),)))
    said = 0
    for number in range(1, 20):
        machine.handle_have(number, [bytes(16)] * 1000)
        while (record := machine.poll_record()) is not None:
            said += len(record)
        if said > 100_000:
            break
        machine.handle_record(skipped)
    with pytest.raises(RemoteError, match="none was taken"):
        machine.handle_record(skipped)


def test_a_count_is_told_when_it_has_grown_and_not_a_thousand_times() -> None:
    offer = Tree.of({"a": b"abc"}).offer()
    sender = TransferSender(messages.Offer(offer.kind, offer.token, Totals(0, 0, is_final=False), 1, offer.shown))
    sender.start()
    told = [sender.poll_record()]
    for files in range(1, 100_000):
        sender.handle_totals(Totals(files, 3 * files, is_final=False))
        while (record := sender.poll_record()) is not None:
            told.append(record)
    sender.handle_totals(Totals(100_001, 3, is_final=True))
    assert decode(sender.poll_record() or b"") == Totals(100_001, 3, is_final=True)
    assert 50 < len(told) < 250
    sender.handle_totals(Totals(100_002, 3, is_final=False))
    assert sender.poll_record() is None
    assert sender.progress.files_total == 100_001


def test_a_count_that_ends_after_the_content_is_not_told() -> None:
    pair = Pair(Tree.of({"a": b"abc"}))
    pair.sender._totals = GrowingTotals(Totals(0, 0, is_final=False))
    while pair.sender._state.name != "FINISHING":
        pair.look_at_receiver()
        pair.carry_back()
        pair.wish()
        pair.fulfil()
        pair.carry()
    pair.sender.handle_totals(Totals(1, 3, is_final=True))
    pair.settle()
    assert pair.receiver.is_confirmed


def test_problems_are_counted_and_the_first_of_them_told() -> None:
    tree = Tree()
    tree.add(Folder("root", 0o755, 1))
    for number in range(3 * MAX_LISTED):
        tree.add(Skipped(str(number), "it is a device"))
    tree.add(Leave())
    pair = Pair(tree)
    pair.settle()
    for events in (pair.sent, pair.received):
        assert sum(isinstance(event, NotTransferred) for event in events) == MAX_LISTED
        assert isinstance(events[-1], Finished)
        assert (events[-1].exit_code, events[-1].missed) == (ExitCode.STORAGE, 3 * MAX_LISTED)


# What could not be read, or not be stored.


def test_small_files_that_cannot_be_read_stand_at_their_places() -> None:
    tree = Tree.of({str(n): b"abc" for n in range(7)})
    tree.unreadable = {0: 0, 3: 0, 4: 0, 6: 0}
    pair = Pair(tree)
    pair.settle()
    assert pair.receiver.is_confirmed
    assert sorted(pair.disk.contents()) == [1, 2, 5]
    told = [event.path for event in pair.received if isinstance(event, NotTransferred)]
    assert told == ["0", "3", "4", "6"]
    assert isinstance(pair.received[-1], Finished)
    assert pair.received[-1].exit_code is ExitCode.INTEGRITY


@pytest.mark.parametrize("size", [3, 3 * PIECE])
def test_what_the_receiver_cannot_store_ends_only_itself(size: int) -> None:
    pair = Pair(Tree.of({"a": bytes(size), "b": b"abc"}))
    act = pair.disk.act

    def refuse_a(machine: TransferReceiver, action) -> None:
        act(machine, action)
        if action.number == 0:
            pair.disk._forget(0)
            machine.handle_problem(0, "a cannot be stored here")
            pair.disk.act = act  # type: ignore[method-assign]

    pair.disk.act = refuse_a  # type: ignore[method-assign]
    pair.settle()
    assert pair.receiver.is_confirmed
    assert pair.disk.names == {1: "b"}
    assert NotTransferred("", "a cannot be stored here", ExitCode.STORAGE, by_peer=True) in pair.sent
    for events in (pair.sent, pair.received):
        assert isinstance(events[-1], Finished)
        assert (events[-1].exit_code, events[-1].missed) == (ExitCode.STORAGE, 1)


def test_the_rest_of_what_cannot_be_stored_does_not_cross() -> None:
    pair = Pair(Tree.of({"a": bytes(500 * PIECE), "b": b"abc", "c": b"", "d": bytes(500 * PIECE)}))
    act = pair.disk.act

    def refuse(machine: TransferReceiver, action) -> None:
        if action.number == 0 and isinstance(action, Write):
            pair.disk._forget(0)
            machine.handle_problem(0, "a is larger than this file system allows")
            machine.handle_problem(3, "d has no name here")
            pair.disk._forget(3)
            pair.disk.act = act  # type: ignore[method-assign]
        else:
            act(machine, action)

    pair.disk.act = refuse  # type: ignore[method-assign]
    wish = pair.wish
    pair.wish = lambda: not pair._there and wish()  # type: ignore[method-assign]
    pair.settle()
    assert pair.receiver.is_confirmed
    assert pair.disk.names == {1: "b", 2: "c"}
    assert pair.sent_bytes < 100 * PIECE
    for events in (pair.sent, pair.received):
        assert isinstance(events[-1], Finished)
        assert (events[-1].digest, events[-1].missed) == (digest(digest(b"abc") + digest(b"")), 2)


def test_a_problem_with_what_was_left_out_meanwhile_is_no_error() -> None:
    tree = Tree.of({"a": bytes(3 * PIECE), "b": b"abc"})
    tree.unreadable = {0: PIECE}
    pair = Pair(tree)
    pair.settle()
    pair.receiver.handle_problem(0, "too late")
    assert pair.receiver.is_confirmed
    assert isinstance(pair.received[-1], Finished)
    assert pair.received[-1].missed == 1


# What is there already.


def test_what_is_there_does_not_cross_again() -> None:
    content = random.Random(4).randbytes(3 * CHUNK + 5)
    changed = bytearray(content)
    changed[CHUNK + 9] ^= 1
    pair = Pair(Tree.of({"a": content}), {0: bytes(changed)}, answers=True)
    pair.settle()
    assert pair.disk.contents() == {0: content}
    assert pair.sent_bytes == CHUNK
    sent = [event for event in pair.sent if isinstance(event, FileSent)]
    assert sent == [FileSent("a", len(content), digest(content), 2 * CHUNK + 5)]
    assert pair.sender.progress.kept == pair.receiver.progress.kept == 2 * CHUNK + 5


@pytest.mark.parametrize("more", [0, PIECE - 1, PIECE, 15 * PIECE + 7])
@pytest.mark.parametrize("is_changed", [False, True])
def test_the_pieces_of_a_chunk_that_is_not_all_there_do_not_cross_again(more: int, is_changed: bool) -> None:
    content = random.Random(5).randbytes(3 * CHUNK + 5)
    here = bytearray(content[: CHUNK + more])
    if is_changed:
        here[CHUNK - 1 + min(more, 1)] ^= 1
    pair = Pair(Tree.of({"a": content}), {0: bytes(here)}, answers=True)
    pair.settle()
    assert pair.disk.contents() == {0: content}
    kept = CHUNK + more // PIECE * PIECE
    if is_changed:
        kept = CHUNK if more else 0
    assert pair.sender.progress.kept == pair.receiver.progress.kept == kept
    assert pair.sent_bytes == len(content) - kept


def test_digests_of_a_large_file_take_several_records_and_little_memory() -> None:
    size = 10_000 * CHUNK
    tree = Tree()
    tree.add(File("a", 0o644, 1, size), b"")
    sender = TransferSender(tree.offer())
    sender.start()
    sender.handle_record(encode(Accept(answers=True)))
    assert isinstance(sender.poll_wanted(), WantEntries)
    sender.handle_entries(tree.entries, is_last=True)
    while sender.poll_record() is not None:
        pass
    assert sender.poll_wanted() is None, "the answer is due"
    receiver = TransferReceiver()
    receiver.handle_record(encode(tree.offer()))
    receiver.accept(answers=True)
    receiver.handle_record(encode(Entries(tuple(tree.entries))))
    receiver.handle_have(0, [bytes(16)] * 20_000)
    haves = [message for record in iter(receiver.poll_record, None) if isinstance(message := decode(record), Have)]
    assert [have.is_last for have in haves] == [False, False, True]
    for have in haves:
        sender.handle_record(encode(have))
    assert sender.poll_wanted() == Read(0, 0, CHUNK)


def test_an_answer_about_a_pipe_is_empty() -> None:
    pair = Pair(Tree.of_pipe(b"abc"), {0: b"abc"}, answers=True)
    pair.settle()
    assert pair.disk.contents() == {0: b"abc"}
    assert pair.sent_bytes == 3


# Another path.


def test_only_what_did_not_arrive_is_said_again() -> None:
    pair = Pair(Tree.of({"a": bytes(40 * PIECE)}))
    pair.look_at_receiver()
    for _ in range(4):
        pair.carry_back()
        pair.wish()
        pair.fulfil()
        pair.look_at_receiver()
        if len(pair._there) < 5:
            pair.carry()
    lost = len(pair._there)
    assert lost > 3
    pair.cut()
    pair.go_on()
    pair.settle()
    assert pair.receiver.is_confirmed
    assert pair.sent_bytes == 40 * PIECE + pair.lost_bytes


def test_a_pipe_that_gives_something_for_an_old_path_loses_nothing() -> None:
    content = random.Random(1).randbytes(5 * PIECE)
    pair = Pair(Tree.of_pipe(content))
    pair._wishes.append(pair.begin())
    pair.cut()
    pair.go_on()
    assert pair.fulfil()
    assert pair.sent_bytes == 0, "it goes out on no path before CONTINUE"
    pair.settle()
    assert pair.disk.contents() == {0: content}


def test_the_first_record_of_a_path_says_how_many_were_taken() -> None:
    pair = Pair(Tree.of({"a": b"abc"}))
    pair.settle()
    again = Pair(Tree.of({"a": b"abc"}))
    again.wish()
    again.cut()
    again.go_on()
    assert again.sender.poll_record() == encode(Continue(0))
    assert again.sender.poll_record() is None
    assert again.receiver.poll_record() == encode(Continue(0))
    again.sender.handle_record(encode(Continue(0)))
    assert again.sender.poll_record() == encode(again.source.tree.offer())


def test_answers_that_wait_for_a_path_do_not_keep_it_from_being_taken() -> None:
    pair = Pair(Tree.of({"a": bytes(9 * PIECE), "b": b"abc"}))
    pair.begin()
    pair.cut()
    for _ in range(MAX_QUEUED):
        pair.receiver.handle_problem(1, "b cannot be stored here")
    assert not pair.receiver.ready
    pair.go_on()
    assert pair.receiver.ready, "for CONTINUE"
    while pair.carry() or pair.carry_back() or pair.wish():
        pass
    assert pair.receiver.ready


@pytest.mark.parametrize("breaks", [1, 2, 3])
def test_the_end_is_confirmed_over_another_path(breaks: int) -> None:
    """The receiver has finished, the sender has not heard it."""
    pair = Pair(Tree.of({"a": b"abc"}))
    pair.carry_back, carry_back = (lambda: False), pair.carry_back  # type: ignore[method-assign]
    pair.look_at_receiver()
    while not pair.receiver.is_finished:
        pair.carry()
        pair.look_at_receiver()
        for record in list(iter(pair.receiver.poll_record, None)):
            if not isinstance(decode(record), messages.Finished):
                pair.sender.handle_record(record)
        pair.wish()
        pair.fulfil()
        pair.act()
        pair.store()
    for _ in range(breaks):
        pair.cut()
        pair.go_on()
        assert not pair.receiver.is_confirmed
    pair.carry_back = carry_back  # type: ignore[method-assign]
    pair.settle()
    assert pair.sender.ended
    assert pair.receiver.is_confirmed
    assert sum(isinstance(event, Finished) for event in pair.received) == 1


# Our own caller.


def test_calls_out_of_order_are_our_own_fault() -> None:
    machine = TransferReceiver()
    with pytest.raises(CallerError):
        machine.accept()
    with pytest.raises(CallerError):
        machine.handle_stored(0, "a")
    with pytest.raises(CallerError):
        machine.handle_have(0, [])
    pair = Pair(Tree.of({"a": b"abc"}))
    with pytest.raises(CallerError):
        pair.sender.start()
    with pytest.raises(CallerError):
        pair.sender.handle_read(Read(0, 0, 3), [bytearray(16)])
    with pytest.raises(CallerError):
        pair.sender.abort(ExitCode.DONE, "no")
    pair.sender.handle_entries([], is_last=True)
    with pytest.raises(CallerError):
        pair.sender.handle_entries([], is_last=True)


def test_a_walk_that_does_not_come_back_up_is_our_own_fault() -> None:
    pair = Pair(Tree.of({"a": b"abc"}))
    pair.sender.handle_record(encode(Accept(answers=False)))
    pair.sender.handle_entries([Folder("a", 0o755, 1)], is_last=True)
    assert decode(pair.sender.poll_record() or b"") == pair.source.tree.offer()
    assert isinstance(decode(pair.sender.poll_record() or b""), Entries)
    with pytest.raises(CallerError):
        pair.sender.poll_record()


def test_no_more_than_a_window_is_announced() -> None:
    pair = Pair(Tree.of({str(n): b"" for n in range(5 * MAX_AHEAD)}), answers=True, batch=3 * MAX_AHEAD)
    pair.answer = lambda: False  # type: ignore[method-assign]
    announced = 0
    send = pair.send

    def note(record: bytes) -> None:
        nonlocal announced
        if isinstance(message := decode(record), Entries):
            announced += len(message.entries)
        send(record)

    pair.send = note  # type: ignore[method-assign]
    pair.settle()
    assert announced == MAX_AHEAD


def test_accepting_is_an_event_of_the_sender() -> None:
    pair = Pair(Tree.of({"a": b"abc"}))
    pair.settle()
    assert pair.sent[0] == Accepted(answers=False)
