"""Part `tree`: a tree with some of everything crosses two NATs."""

from __future__ import annotations

import time
from collections.abc import Iterator

from bench.copying import GUARD, killed_after
from bench.rivals.ours import event
from bench.trees.forest import Forest
from bench.trees.likeness import Likeness, own_umask
from bench.trees.sides import Sides, Verdict, memory

SLOWEST = 100  # files a second; with less the run is given up


def run(sides: Sides, forest: Forest) -> Iterator[str | Verdict]:
    """Makes it, sends it, compares both."""
    start = time.monotonic()
    forest.plant(sides.folder / "tree")
    yield f"made in {time.monotonic() - start:.1f} s"
    out = sides.folder / "out"
    out.mkdir()
    receiver = sides.receive("--out", out)
    sender = sides.send(sides.folder / "tree")
    with killed_after(sender, receiver):
        usage = sender.finish(GUARD + forest.files / SLOWEST), receiver.finish(GUARD)
    done = event(receiver, "done")[1]
    yield (
        f"{done['files']:,} files, {done['total']:,} B, {event(receiver, 'path')[1]['description']}: "
        f"{done['seconds']:.1f} s, {done['files'] / done['seconds']:,.0f} files/s, "
        f"CPU {usage[0].cpu_seconds:.0f} s and {usage[1].cpu_seconds:.0f} s"
    )
    yield Verdict("nothing left out", f"{done['problems']} problems", done["problems"] == 0)
    likeness = Likeness(forest.renamed, own_umask())
    likeness.compare(sides.folder / "tree", out / "tree")
    yield likeness.verdict()
    if forest.sparse:
        sparse = (out / "tree" / "sparse").stat()
        yield f"sparse file: {sparse.st_size:,} B long, {sparse.st_blocks * 512:,} B on disk"
    yield memory(*(each.peak_bytes for each in usage))
