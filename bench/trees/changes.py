"""Part `changes`: addresses change and mappings are forgotten during one transfer, and nobody is asked for anything."""

from __future__ import annotations

import itertools
import random
import statistics
import time
from collections.abc import Iterator
from pathlib import Path

from bench.copying import GUARD, killed_after
from bench.measure import MeasuringError, Watched
from bench.rivals.ours import event, events
from bench.trees.forest import plant_sizes
from bench.trees.likeness import equal
from bench.trees.sides import Sides, Verdict, memory
from netlab.events import FlushMappings, Rebind, name_of

CYCLE: tuple[Rebind | FlushMappings, ...] = (
    Rebind("left"), Rebind("right"), FlushMappings("right"), Rebind("left"), Rebind("right"), FlushMappings("left")
)  # fmt: skip
SETTLED = 1.0  # seconds of data between one change and the next
WATCHED = 1.0  # seconds of data whose delay is what a change cost
LOOK = 0.02  # seconds between two looks at what has arrived
LONGEST = 90.0  # seconds that one change may cost; then the run is given up
ONCE = ("offer", "started", "done")
NEVER = ("waiting", "code_rejected", "refused", "failed")


def run(sides: Sides, changes: int, rate: int, seed: int) -> Iterator[str | Verdict]:
    """At `rate` MB a second, so that there is a transfer for each change."""
    pace = rate * 1_000_000
    size = int(pace * (changes * (SETTLED + WATCHED + 1.0) + 3.0))
    tree, out = sides.folder / "tree", sides.folder / "out"
    plant_sizes(tree, size, seed)
    out.mkdir()
    rng = random.Random(seed)
    receiver, sender = sides.receive("--out", out), sides.send(tree, "--limit-rate", f"{rate}M")
    lost: list[float] = []
    with killed_after(sender, receiver):
        receiver.wait_for('"event": "started"', GUARD)
        for number, change in enumerate(itertools.islice(itertools.cycle(CYCLE), changes), start=1):
            _await(sides, (SETTLED + rng.uniform(0.0, 0.5)) * pace, receiver)
            before = len(events(receiver))
            start = time.monotonic()
            sides.lab.apply(change)
            _await(sides, WATCHED * pace, receiver)
            lost.append(max(0.0, time.monotonic() - start - WATCHED))
            words = [each["event"] for _, each in events(receiver)[before:] if each["event"] in ("moved", "path_lost")]
            became = " ".join(words) or "nothing was noticed"
            yield f"  {number}: {name_of(change)} {change.router}: {lost[-1]:.2f} s lost ({became})"
        usage = sender.finish(GUARD + size / pace * 2), receiver.finish(GUARD)
    yield f"time lost: median {statistics.median(lost):.2f} s, at most {max(lost):.2f} s"
    yield _asked(sender, receiver)
    yield equal(tree, Path(out / "tree"))
    yield memory(*(each.peak_bytes for each in usage))


def _asked(*sides: Watched) -> Verdict:
    """Whether all of it was one transfer, of which the people heard no question."""
    wrong = []
    for side in sides:
        connected = event(side, "path")[0]
        names = [each["event"] for when, each in events(side)]
        late = [each["event"] for when, each in events(side) if when > connected]
        wrong += [name for name in ONCE if names.count(name) > 1]
        wrong += [name for name in NEVER if name in late]
    return Verdict("one transfer, no question, no code", ", ".join(wrong) or "none", not wrong)


def _await(sides: Sides, count: float, receiver: Watched) -> None:
    """Until so many more bytes have arrived."""
    begin, limit = sides.arrived(), time.monotonic() + LONGEST
    while sides.arrived() < begin + count:
        receiver.check()
        if receiver.has_ended or time.monotonic() > limit:
            raise MeasuringError(f"the transfer did not get on: {receiver.words()}")
        time.sleep(LOOK)
