"""Whatever is said: nothing outside the receiving folder changes, and nothing half-written bears a final name."""

from __future__ import annotations

import contextlib
import os
import selectors
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from blake3 import blake3
from hypothesis import given, settings
from hypothesis import strategies as st
from receiving_stage import GUARD, Line
from storing import below, snapshot, tick

from p2p.core.errors import ExitCode, RemoteError
from p2p.core.transfer import events
from p2p.core.transfer.codec import encode
from p2p.core.transfer.entries import Entry, File, Folder, Hardlink, Kind, Leave, Skipped, Symlink
from p2p.core.transfer.limits import MAX_ANNOUNCED
from p2p.core.transfer.messages import (
    Data,
    Entries,
    FileEnd,
    Finish,
    Hole,
    LeftOut,
    Message,
    Offer,
    OfferKind,
    Root,
    Same,
    Totals,
    WholeFile,
    WholeFiles,
)
from p2p.core.transfer.names import is_temporary
from p2p.io.receiving import jobs
from p2p.io.receiving.destination import Destination, Policy
from p2p.io.receiving.end import ReceivingEnd

WHOLE, HALF, MINE = b"whole", b"half", b"mine"
GOOD = ["a", "b", "A", "l", "e", "c.txt"]
BAD = ["..", ".", "", "/etc/passwd", "../outside/a.txt", "a/b", "e/a.txt", "a\0b", "con.txt", "x" * 4096, "ü" * 127]
NAMES = st.sampled_from(GOOD * 3 + [*BAD, ".p2p-0000000000000000.part", "C:", "a\\..\\b", "a."])
TARGETS = st.sampled_from(["a", "b", "e", "../outside", "/etc/passwd", "..", "a/../../outside", "", "x" * 4095, "."])
MODES = st.sampled_from([0, 0o644, 0o777, 0o7777, 0xFFFF])
TIMES = st.sampled_from([-(2**63), 0, 10**18, 2**63 - 1])


@contextlib.contextmanager
def watched(policy: Policy) -> Iterator[Path]:
    """A receiving folder in which there is something, links out of it too, beside a folder that nobody may touch."""
    with tempfile.TemporaryDirectory() as folder:
        outside, inbox = Path(folder) / "outside", Path(folder) / "inbox"
        outside.mkdir(mode=0o750)
        (outside / "a.txt").write_bytes(b"precious")
        inbox.mkdir()
        (inbox / "l").symlink_to("../outside/a.txt")
        (inbox / "e").symlink_to(outside)
        (inbox / "a").mkdir()
        (inbox / "a" / "e").symlink_to("../../outside")
        (inbox / "b").write_bytes(MINE)
        if policy is Policy.OVERWRITE:
            tick(inbox)
        before, mine = snapshot(outside), snapshot(inbox)
        yield inbox
        assert snapshot(outside) == before
        after = snapshot(inbox)
        for path, seen in mine.items():
            if Path(path) != inbox and policy is not Policy.OVERWRITE and not Path(path).is_dir():
                assert after.get(path) == seen, f"{path} was there before"
        for left in below(inbox):
            assert not is_temporary(left.name)
            if not left.is_symlink() and left.is_file():
                assert left.read_bytes() in (b"", WHOLE, MINE), left
        assert sorted(path.name for path in Path(folder).iterdir()) == ["inbox", "outside"]


# jobs


@dataclass
class Stream:
    """Gives jobs their numbers, and files their folders, as they come."""

    destination: Destination
    number: int = 0

    def __post_init__(self) -> None:
        self.stack: list[int] = []
        self.jobs: list[jobs.Job] = []
        self.parts: list[Any] = []

    def add(self, step: tuple[Any, ...]) -> None:
        kind, name, mode, mtime_ns, extra = step
        parent, number = self.stack[-1] if self.stack else None, self.number
        self.number += 1
        match kind:
            case "folder":
                self.jobs.append(events.MakeFolder(number, parent, Folder(name, mode, mtime_ns)))
                self.stack.append(number)
            case "leave" if self.stack:
                self.jobs.append(events.LeaveFolder(self.stack.pop()))
            case "symlink":
                self.jobs.append(events.MakeSymlink(number, parent, Symlink(name, mtime_ns, extra)))
            case "hardlink":
                self.jobs.append(events.MakeHardlink(number, parent, Hardlink(name, max(0, number - 2))))
            case "orphan":
                self.jobs.append(events.Announced(number, 10**9, name, File(name, mode, mtime_ns, 5)))
                self.jobs.append(events.Whole(number, WHOLE, b""))
            case _:
                entry = File(name, mode, mtime_ns, 5, is_linked=True)
                self.jobs.append(events.Announced(number, parent, name, entry))
                self.fill(kind, number, name)

    def fill(self, kind: str, number: int, name: str) -> None:
        if kind == "whole":
            self.jobs.append(events.Whole(number, WHOLE, b""))
            return
        part = self.destination.open(number, name)
        part.write(0, [HALF if kind in ("half", "dropped") else WHOLE])
        if kind == "part":
            self.jobs.append(jobs.Finish(number, part, len(WHOLE), b"", must_verify=False))
        elif kind == "lying":
            self.jobs.append(jobs.Finish(number, part, len(WHOLE), bytes(32), must_verify=True))
        elif kind == "dropped":
            self.jobs.append(jobs.Discard(number, part))


KINDS = [*["folder", "leave", "whole"] * 2, "symlink", "hardlink", "orphan", "part", "half", "dropped", "lying"]
STEPS = st.tuples(st.sampled_from(KINDS), NAMES, MODES, TIMES, TARGETS)


@settings(max_examples=150)
@given(steps=st.lists(STEPS, max_size=40), cut=st.integers(1, 10), policy=st.sampled_from(Policy))
def test_hostile_jobs(steps: list[tuple[Any, ...]], cut: int, policy: Policy) -> None:
    descriptors = len(os.listdir("/proc/self/fd"))
    with watched(policy) as inbox:
        reported: list[int] = []
        with Destination(inbox, policy=policy) as destination:
            stream = Stream(destination)
            for step in steps:
                stream.add(step)
            todo = stream.jobs + [events.LeaveFolder(number) for number in reversed(stream.stack)]
            for start in range(0, len(todo), cut):
                for outcome in destination.carry_out(todo[start : start + cut]):
                    if isinstance(outcome, jobs.Stored | jobs.Problem):
                        reported.append(outcome.number)
        assert len(set(reported)) == len(reported), "nothing is reported twice"
    assert len(os.listdir("/proc/self/fd")) == descriptors


# records

NUMBERS = st.integers(0, 12)
SIZES = st.sampled_from([None, 0, 4, 5, 5, 5, 2**62])
ENTRY: st.SearchStrategy[Entry] = st.one_of(
    st.builds(Folder, NAMES, MODES.map(lambda mode: mode & 0x7FFF), TIMES),
    st.just(Leave()),
    st.builds(File, NAMES, MODES.map(lambda mode: mode & 0x7FFF), TIMES, SIZES, st.booleans()),
    st.builds(Symlink, NAMES, TIMES, TARGETS),
    st.builds(Hardlink, NAMES, NUMBERS),
    st.builds(Skipped, NAMES, st.just("why")),
)
CONTENTS = st.sampled_from([b"", WHOLE, WHOLE, HALF])
MESSAGE: st.SearchStrategy[Message] = st.one_of(
    st.builds(Entries, st.lists(ENTRY, min_size=1, max_size=6).map(tuple)),
    st.builds(Data, NUMBERS, st.integers(0, 5), st.sampled_from([WHOLE, HALF])),
    st.builds(Hole, NUMBERS, st.integers(0, 5), st.integers(1, 2**24)),
    st.builds(Same, NUMBERS, st.just(0), st.just(5)),
    st.builds(FileEnd, NUMBERS, CONTENTS.map(lambda content: blake3(content).digest())),
    st.builds(Totals, st.just(10**9), st.sampled_from([0, 2**40]), st.booleans()),
    st.builds(LeftOut, NUMBERS, st.just(ExitCode.STORAGE), st.just("why")),
    st.builds(Finish, NUMBERS, st.just(bytes(32))),
)


class Guessing:
    """Says what comes next about the right file, most of the time, so that something happens."""

    def __init__(self) -> None:
        self.entries = 1  # the folder that was offered
        self.files: list[int] = []

    def repair(self, message: Message, is_honest: bool) -> Message:
        match message:
            case Entries(entries):
                kept = []
                for entry in entries:
                    name = getattr(entry, "name", "a")
                    if is_honest and name not in GOOD:
                        entry = replace(entry, name=GOOD[len(name) % len(GOOD)])  # type: ignore[arg-type]
                    if isinstance(entry, File):
                        entry = replace(entry, size=5) if is_honest else entry
                        self.files.append(self.entries)
                    self.entries += isinstance(entry, File | Folder | Symlink | Hardlink)
                    kept.append(entry)
                return Entries(tuple(kept))
            case Data() | FileEnd() if is_honest and self.files:
                number = self.files.pop(0)
                return WholeFiles((WholeFile(number, blake3(WHOLE).digest(), WHOLE),))
            case Data(offset=0) | Hole(offset=0) | Same() | FileEnd() | LeftOut() if self.files:
                return replace(message, file=self.files[0])
        return message


@settings(max_examples=120)
@given(
    said=st.lists(st.tuples(MESSAGE, st.integers(0, 6).map(bool)), max_size=25),
    policy=st.sampled_from(Policy),
    waits=st.booleans(),
)
def test_hostile_records(said: Sequence[tuple[Message, bool]], policy: Policy, waits: bool) -> None:
    descriptors = len(os.listdir("/proc/self/fd"))
    with watched(policy) as inbox, contextlib.closing(selectors.DefaultSelector()) as selector:
        end = ReceivingEnd(inbox, policy, None, selector)
        line = offer_to(end)
        guessing = Guessing()
        with contextlib.suppress(RemoteError, ValueError):  # ValueError: what cannot even be encoded
            for message, is_honest in said:
                end.machine.handle_record(encode(guessing.repair(message, is_honest)))
                turn(end, line, selector, 0.0)
                while waits and end._worker.pending and line.failure is None:
                    turn(end, line, selector, GUARD)
        turn(end, line, selector, 0.0)
        end.close()
        end._worker.close(GUARD)
        if end._checker is not None:
            end._checker.close(GUARD)
        assert not selector.get_map()
    assert len(os.listdir("/proc/self/fd")) == descriptors


def offer_to(end: ReceivingEnd) -> Line:
    line = Line(None, end.machine)
    root = Root(Kind.FOLDER, "a", 0)
    end.machine.handle_record(encode(Offer(OfferKind.TREE, bytes(16), Totals(0, 0, is_final=False), 2**31, (root,))))
    offered = end.machine.poll_event()
    assert isinstance(offered, events.Offered)
    end.handle_offer(offered.offer)
    end.accept(offered.offer, line.peer, 0.0)
    end.machine.handle_record(encode(Entries((Folder("a", 0o755, 0),))))
    return line


def turn(end: ReceivingEnd, line: Line, selector: selectors.BaseSelector, timeout: float) -> None:
    end.advance(line.peer, 0.0)
    while end.machine.poll_record() is not None:
        pass
    for key, mask in selector.select(timeout):
        key.data(mask)
    end.advance(line.peer, 0.0)


def test_a_billion_entries_are_announced(tmp_path: Path) -> None:
    """Only so many as may be ahead of their content are taken."""
    with contextlib.closing(selectors.DefaultSelector()) as selector:
        end = ReceivingEnd(tmp_path, Policy.RENAME, None, selector)
        line = offer_to(end)
        end.machine.handle_record(encode(Totals(10**9, 0, is_final=True)))
        entries = encode(Entries((File("x", 0o644, 0, 1),) * 100))
        taken = 0
        while taken + 100 <= MAX_ANNOUNCED:
            end.machine.handle_record(entries)
            taken += 100
            turn(end, line, selector, 0.0)
        with pytest.raises(RemoteError, match="ahead of their content"):
            end.machine.handle_record(entries)
        end.close()
        end._worker.close(GUARD)
    assert [path.name for path in below(tmp_path)] in ([], ["a"])


def test_more_links_than_may_wait(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("p2p.io.receiving.links.MAX_LINKED", 10)
    with Destination(tmp_path) as destination:
        destination.carry_out([events.Announced(0, None, "x", File("x", 0o644, 0, 5, is_linked=True))])
        links: list[jobs.Job] = [
            events.MakeHardlink(number, None, Hardlink(f"{number}", 0)) for number in range(1, 100)
        ]
        outcomes = destination.carry_out(links)
        assert outcomes[0] == jobs.Problem(11, "11 cannot be stored: too many links wait")
        assert len(outcomes) == 89
        assert len(destination.carry_out([events.Whole(0, WHOLE, b"")])) == 11
    assert len(list(tmp_path.iterdir())) == 11
