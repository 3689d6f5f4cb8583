"""Part `kills`: either side is killed again and again; the same two commands go on each time."""

from __future__ import annotations

import random
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from bench.copying import GUARD, killed_after
from bench.measure import NAP, MeasuringError, Watched
from bench.rivals.ours import event
from bench.trees.forest import plant_sizes
from bench.trees.likeness import equal
from bench.trees.sides import Sides, Verdict, interrupt, memory
from p2p.core.transfer.messages import PIECE
from p2p.core.transfer.names import is_temporary

MAX_SHARE = 1.02  # wanted: all that leaves the sender in all runs, by the size. The two beside it have no headers
INTERRUPTED = 130  # the exit code after Ctrl-C
LAST_MOMENT = 0.95  # of all bytes; later the run might be over before the kill
CHECKED = 4  # every fourth kill comes while what is there is compared
CHECKING = 0.5  # seconds, at most, from the yes to such a kill
REACTION = 0.5  # seconds until the other person gives up too
FRESH = 1_000_000  # bytes that leave the sender: then something new is on its way
SLOWEST = 2e6  # bytes a second; with less the run is given up


def run(sides: Sides, size: int, kills: int, seed: int, rate: str | None) -> Iterator[str | Verdict]:
    """A folder of `size` bytes. Counted is what leaves alice's network interface."""
    tree = sides.folder / "tree"
    plant_sizes(tree, size, seed)
    limit = GUARD + size / SLOWEST
    options = ("--limit-rate", rate) if rate else ()
    before, start = sides.sent(), time.monotonic()
    _finish(sides, tree, sides.folder / "undisturbed", limit, options)
    clean = sides.sent() - before
    shutil.rmtree(sides.folder / "undisturbed")
    yield f"without a kill: {clean:,} B for {size:,} B of files, {time.monotonic() - start:.1f} s from the first start"
    out = sides.folder / "out"
    out.mkdir()
    story = Story(sides, out, lambda: _start(sides, tree, out, options), size, random.Random(seed))
    for line in story.kill(kills):
        yield f"  {line}"
    began = sides.sent()
    receiver, sender = story.start()
    with killed_after(sender, receiver):
        checked = story.checked(receiver)
        sender.finish(limit)
        receiver.finish(GUARD)
        story.note(sender, receiver)
    done = event(receiver, "done")[1]
    yield f"last run: {done['kept']:,} B were there, {checked:.2f} s from the yes until something new crossed"
    yield Verdict("goes on", str(event(receiver, "started")[1]["goes_on"]), event(receiver, "started")[1]["goes_on"])
    sent, frame = sides.sent() - story.before, clean / size
    again = sides.sent() - began - (size - done["kept"]) * frame
    yield f"all runs: {sent:,} B; in the last one {again:,.0f} B for names and what was there"
    listing = again / done["kept"]
    content = size - done["kept"] + sum(run.content(listing) for run in story.runs) / frame
    for victim in ("sender", "receiver"):
        costs = [run.cost(listing, frame) for run in story.runs if run.victim == victim]
        if costs:
            figures = f"about {sum(costs) / len(costs) / 1e6:.1f} MB, at most {max(costs) / 1e6:.1f} MB"
            yield f"a kill of the {victim} costs {figures} that have to cross again ({len(costs)} kills)"
    yield f"a run without a kill: {frame:.4f} x the size, for headers, tags, acknowledgements and names are in it"
    for what, ratio in (
        (f"all runs at most {MAX_SHARE} x the size", sent / size),
        (f"all runs at most {MAX_SHARE} x a run without a kill", sent / clean),
        (f"content, by an estimate, at most {MAX_SHARE} x", content / size),
    ):
        yield Verdict(what, f"{ratio:.4f} x", ratio <= MAX_SHARE)
    wrong = [f"{run.code} beside a {run.victim}" for run in story.runs if run.code != INTERRUPTED]
    yield Verdict(f"the other side ends with {INTERRUPTED} each time", ", ".join(wrong) or "it did", not wrong)
    names = sorted(path.name for path in out.iterdir())
    yield Verdict("one folder, no parts left", ", ".join(names), names == ["tree"])
    yield equal(tree, out / "tree")
    yield memory(*story.peaks)


@dataclass(frozen=True, slots=True)
class Run:
    """Bytes that the receiver had before it, that left the sender in it, and that the receiver keeps of them.

    `code`: the exit code of the side that was not killed.
    """

    victim: str
    had: int
    sent: int
    stayed: int
    code: int

    def content(self, listing: float) -> float:
        """Without what names and digests of a byte that is there already cost, `listing` bytes each."""
        return max(0.0, self.sent - self.had * listing)

    def cost(self, listing: float, frame: float) -> float:
        """Bytes of content that crossed in vain, as far as an average of `frame` bytes for each can tell."""
        return max(0.0, self.content(listing) / frame - self.stayed)


class Story:
    """The runs that are killed. `before`: what had left alice when they began."""

    def __init__(
        self,
        sides: Sides,
        out: Path,
        start: Callable[[], tuple[Watched, Watched]],
        size: int,
        rng: random.Random,
    ) -> None:
        self.start = start
        self.runs: list[Run] = []
        self.peaks = (0, 0)
        """Bytes of memory, of all runs, sender and receiver."""
        self._sides, self._out = sides, out
        self._size = size
        self._rng = rng
        self.before = sides.sent()

    def kill(self, kills: int) -> Iterator[str]:
        """One line for each."""
        moments = sorted(self._rng.uniform(0.0, LAST_MOMENT) for _ in range(kills))
        for number, moment in enumerate(moments):
            began, had = self._sides.sent(), stored(self._out)
            receiver, sender = self.start()
            with killed_after(sender, receiver):
                victim, other = (sender, receiver) if number % 2 == 0 else (receiver, sender)
                checking = number % CHECKED == CHECKED - 1
                self._await(moment, receiver, checking=checking)
                victim.kill()
                time.sleep(REACTION)
                code = interrupt(other)
                self.note(sender, receiver)
            which = "sender" if victim is sender else "receiver"
            said = "" if _has(receiver, "started") else ", before it began"
            sent, stayed = self._sides.sent() - began, stored(self._out) - had
            self.runs.append(Run(which, had, sent, stayed, code))
            yield (
                f"kill {number + 1}: {which} at {moment:.2f}{' while it checked' if checking else ''}{said}, "
                f"{sent:,} B sent, {stayed:,} B stay, the other ended with {code}"
            )

    def note(self, sender: Watched, receiver: Watched) -> None:
        """Both have ended."""
        sending, receiving = self.peaks
        self.peaks = max(sending, sender.usage().peak_bytes), max(receiving, receiver.usage().peak_bytes)

    def checked(self, receiver: Watched) -> float:
        """Seconds from the receiver's yes until something new has left the sender."""
        receiver.wait_for('"event": "started"', GUARD)
        when, sent = event(receiver, "started")[0], self._sides.sent()
        while self._sides.sent() < sent + FRESH and not receiver.has_ended:
            time.sleep(NAP)
        return time.monotonic() - when

    def _await(self, moment: float, receiver: Watched, *, checking: bool) -> None:
        """Until so much of all bytes has crossed, or somewhere in the check of what is there."""
        limit = time.monotonic() + GUARD + self._size / SLOWEST
        end = None
        while self._crossed() < (LAST_MOMENT if checking else moment):
            if checking and end is None and _has(receiver, "started"):
                end = time.monotonic() + self._rng.uniform(0.0, CHECKING)
            if end is not None and time.monotonic() > end:
                return
            receiver.check()
            if receiver.has_ended:
                raise MeasuringError("it ended before it was killed")
            if time.monotonic() > limit:
                raise MeasuringError(f"it does not get on: {receiver.words()}")
            time.sleep(NAP)

    def _crossed(self) -> float:
        return (self._sides.sent() - self.before) / self._size


def stored(folder: Path) -> int:
    """Bytes there that the next run can go on with: files, and whole pieces of parts."""
    total = 0
    for path in folder.rglob("*"):
        if path.is_file():
            size = path.stat().st_size
            total += size // PIECE * PIECE if is_temporary(path.name) else size
    return total


def _start(sides: Sides, tree: Path, out: Path, options: tuple[str, ...]) -> tuple[Watched, Watched]:
    return sides.receive("--out", out, *options), sides.send(tree, *options)


def _finish(sides: Sides, tree: Path, out: Path, limit: float, options: tuple[str, ...]) -> None:
    out.mkdir()
    receiver, sender = _start(sides, tree, out, options)
    with killed_after(sender, receiver):
        sender.finish(limit)
        receiver.finish(GUARD)


def _has(program: Watched, name: str) -> bool:
    """Whether it told of such an event; its last line may be cut off."""
    return any(f'"event": "{name}"' in text for _, text in program.lines)
