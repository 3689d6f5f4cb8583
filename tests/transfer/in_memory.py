"""Both ends of a transfer in memory: a tree that is sent, a disk that it is stored on. No file, no thread."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from random import Random

from blake3 import blake3

from p2p.core.errors import ExitCode
from p2p.core.transfer.entries import Entry, File, Folder, Hardlink, Kind, Leave, Skipped, Symlink
from p2p.core.transfer.events import (
    Announced,
    Complete,
    Drop,
    FileAction,
    Keep,
    LeaveFolder,
    LeaveHole,
    MakeFolder,
    MakeHardlink,
    MakeSymlink,
    Read,
    ReadPipe,
    ReadWhole,
    Unreadable,
    Wanted,
    WantEntries,
    Whole,
    Write,
)
from p2p.core.transfer.limits import MAX_HOLE, MAX_ROOTS
from p2p.core.transfer.messages import CHUNK, CHUNK_DIGEST, DATA_HEADER, PIECE, TOKEN, Offer, OfferKind, Root, Totals
from p2p.core.transfer.receiver import TransferReceiver
from p2p.core.transfer.sender import TransferSender

CHANGED = Unreadable(ExitCode.INTEGRITY, "it changed while it was read")


def digest(data: bytes | bytearray) -> bytes:
    return blake3(data).digest()


def chunk_digests(data: bytes) -> list[bytes]:
    return [blake3(data[at : at + CHUNK]).digest(CHUNK_DIGEST) for at in range(0, len(data), CHUNK)]


@dataclass(slots=True)
class Tree:
    """What is sent: entries, and the content of each file by its number.

    `holes`: of a file, ranges that have no place on the disk. `unreadable`: files that fail from that offset on.
    """

    entries: list[Entry] = field(default_factory=list)
    contents: dict[int, bytes] = field(default_factory=dict)
    holes: dict[int, list[range]] = field(default_factory=dict)
    unreadable: dict[int, int] = field(default_factory=dict)
    kind: OfferKind = OfferKind.TREE
    number: int = 0

    @classmethod
    def of(cls, files: Mapping[str, bytes]) -> Tree:
        """Files, and no folder."""
        tree = cls()
        for name, content in files.items():
            tree.add(File(name, 0o644, 7, len(content)), content)
        return tree

    @classmethod
    def of_pipe(cls, content: bytes) -> Tree:
        tree = cls(kind=OfferKind.PIPE)
        tree.add(File("pipe", 0o644, 7, None), content)
        return tree

    def add(self, entry: Entry, content: bytes | None = None) -> int:
        """Returns the number that it has, if it has one."""
        self.entries.append(entry)
        if content is not None:
            self.contents[self.number] = content
        self.number += not isinstance(entry, (Leave, Skipped))
        return self.number - 1

    @property
    def roots(self) -> list[Entry]:
        depth, roots = 0, []
        for entry in self.entries:
            if not depth and not isinstance(entry, Leave):
                roots.append(entry)
            depth += isinstance(entry, Folder) - isinstance(entry, Leave)
        return roots

    def offer(self) -> Offer:
        shown = [
            Root(Kind.FOLDER if isinstance(root, Folder) else Kind.FILE, root.name, getattr(root, "size", 0))
            for root in self.roots
            if not isinstance(root, Leave)
        ]
        size = None if self.kind is OfferKind.PIPE else sum(map(len, self.contents.values()))
        totals = Totals(len(self.contents), size, is_final=True)
        return Offer(self.kind, bytes(TOKEN), totals, len(shown), tuple(shown[:MAX_ROOTS]))


class MemorySource:
    """Answers what the sending machine wants."""

    def __init__(self, tree: Tree, batch: int = 100) -> None:
        self.tree = tree
        self._batch = batch
        self._walked = 0
        self._piped = 0

    def answer(self, machine: TransferSender, wish: Wanted) -> Sequence[bytes | bytearray]:
        """Returns the records that are to go out."""
        match wish:
            case WantEntries():
                self._walked += self._batch
                batch = self.tree.entries[self._walked - self._batch : self._walked]
                machine.handle_entries(batch, self._walked >= len(self.tree.entries))
            case ReadWhole(files):
                return machine.handle_whole(wish, [self._whole(number) for number in files])
            case ReadPipe(number, length):
                content = self.tree.contents[number]
                data = content[self._piped : self._piped + length]
                if self._fails(number, self._piped + len(data)):
                    machine.handle_left_out(wish, CHANGED)
                    return []
                self._piped += len(data)
                return machine.handle_pipe(wish, data, is_end=self._piped == len(content))
            case Read(number, offset, length, may_be_hole):
                if self._fails(number, offset + length):
                    machine.handle_left_out(wish, CHANGED)
                    return []
                hole = self._hole(number, offset) if may_be_hole else 0
                if hole:
                    machine.handle_hole(wish, hole)
                    return []
                data = self._data(number, offset) if may_be_hole else length
                if data < length:
                    wish, length = machine.shorten(wish, data), data
                content = self.tree.contents[number][offset : offset + length]
                pieces = [content[start : start + PIECE] for start in range(0, length, PIECE)]
                assert (len(pieces), len(pieces[-1])) == (wish.pieces, wish.last)
                records = [bytearray(DATA_HEADER) + piece for piece in pieces]
                return records if machine.handle_read(wish, records) else []
        return []

    def _whole(self, number: int) -> bytes | Unreadable:
        return CHANGED if number in self.tree.unreadable else self.tree.contents[number]

    def _fails(self, number: int, end: int) -> bool:
        at = self.tree.unreadable.get(number)
        return at is not None and end >= at

    def _hole(self, number: int, offset: int) -> int:
        ends = (hole.stop for hole in self.tree.holes.get(number, []) if hole.start <= offset < hole.stop)
        return min(next(ends, offset) - offset, MAX_HOLE)


    def _data(self, number: int, offset: int) -> int:
        """Whole pieces from `offset` on, until those that begin in a hole."""
        starts = [hole.start for hole in self.tree.holes.get(number, []) if hole.start > offset]
        return -(-(min(starts, default=1 << 62) - offset) // PIECE) * PIECE


@dataclass(slots=True)
class Stored:
    """Something at the receiver; `waits`: how much of it is not on the disk yet."""

    parent: int | None
    entry: Entry
    path: str = ""
    content: bytearray = field(default_factory=bytearray)
    waits: int = 1


class MemoryDisk:
    """Does what the receiving machine wants; `here`: what lies here of files already, by number.

    A thing is reported as stored in any later moment that `store` is called, a folder after all that is in it.
    """

    def __init__(self, here: Mapping[int, bytes] | None = None, rng: Random | None = None) -> None:
        self.things: dict[int, Stored] = {}
        self.names: dict[int, str] = {}
        """What bears its name now."""
        self.dropped: set[int] = set()
        self.hole_bytes = 0
        self.to_answer: deque[tuple[int, list[bytes], int]] = deque()
        self._here = dict(here or {})
        self._rng = rng or Random(0)
        self._waiting: list[int] = []

    @property
    def is_idle(self) -> bool:
        return not any(map(self._can_be_stored, self._waiting))

    def act(self, machine: TransferReceiver, action: FileAction) -> None:
        match action:
            case MakeFolder(number, parent, entry):
                self.things[number] = Stored(parent, entry, waits=2)  # until it is left
                self._note(number, parent)
            case LeaveFolder(number):
                self.things[number].waits -= 1
            case MakeSymlink(number, parent, entry) | MakeHardlink(number, parent, entry):
                self.things[number] = Stored(parent, entry)
                self._note(number, parent)
            case Announced(number, parent, path, entry):
                here = self._here.get(number, b"")
                self.things[number] = Stored(parent, entry, path, waits=2)  # until its content came
                self._note(number, parent)
                if machine.answers:
                    whole = len(here) if len(here) == entry.size else len(here) // PIECE * PIECE
                    lacking = 0 if len(here) == entry.size else -whole % CHUNK // PIECE
                    self.to_answer.append((number, chunk_digests(here[:whole]), lacking))
            case Write(number, offset, pieces):
                self._put(number, offset, b"".join(pieces))
            case LeaveHole(number, offset, length):
                self.hole_bytes += length
                self._put(number, offset, bytes(length))
            case Keep(number, offset, length):
                self._put(number, offset, self._here[number][offset : offset + length])
            case Complete(number, size, told, must_verify):
                content = self.things[number].content
                assert len(content) == size
                assert digest(content) == told, must_verify
                self.things[number].waits -= 1
            case Whole(number, content, told):
                self._put(number, 0, bytes(content))
                assert digest(bytes(content)) == told
                self.things[number].waits -= 1
            case Drop(number):
                self.dropped.add(number)
                self._forget(number)

    def answer(self, machine: TransferReceiver) -> None:
        """Says what is here of the next file that is due an answer."""
        machine.handle_have(*self.to_answer.popleft())

    def store(self, machine: TransferReceiver) -> None:
        """Something gets its name."""
        ready = [number for number in self._waiting if self._can_be_stored(number)]
        if ready:
            number = self._rng.choice(ready)
            self._forget(number)
            entry = self.things[number].entry
            if isinstance(entry, Hardlink) and entry.to not in self.names:
                machine.handle_problem(number, f"{entry.name} is another name of what did not cross")
                return
            self.names[number] = self.things[number].entry.name
            machine.handle_stored(number, self.names[number])

    def contents(self) -> dict[int, bytes]:
        """Of all files that bear their names."""
        return {n: bytes(self.things[n].content) for n in self.names if isinstance(self.things[n].entry, File)}

    def _put(self, number: int, offset: int, data: bytes) -> None:
        content = self.things[number].content
        assert offset == len(content), "out of order"
        content += data

    def _note(self, number: int, parent: int | None) -> None:
        self._waiting.append(number)
        if parent is not None:
            self.things[parent].waits += 1

    def _forget(self, number: int) -> None:
        self._waiting.remove(number)
        if (parent := self.things[number].parent) is not None:
            self.things[parent].waits -= 1

    def _can_be_stored(self, number: int) -> bool:
        thing = self.things[number]
        if isinstance(thing.entry, Hardlink):
            return thing.entry.to in self.names or thing.entry.to in self.dropped
        return thing.waits == 1 or isinstance(thing.entry, Symlink)
