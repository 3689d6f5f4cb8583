"""One file from alice to bob by whatever program, timed in the same way for all.

The receiver's folder lies on tmpfs, empty at the start. The clock starts when the first file in it, whatever its name,
has a block of memory, and stops when a file of the right name has the right size and all its blocks. So it covers
neither the start of interpreters nor the introduction of the two sides, but everything between the first byte's
arrival and the moment at which whoever waits for the file can use it; a program that gives a file its name only when
it is verified pays for that. The hash is compared afterwards. A run that takes longer than its limit is cut off, and
its rate is what had arrived by then; it has no hash.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from bench.measure import NAP, MeasuringError, Usage, Watched, sha256, touch_memory
from bench.rows import Sample
from netlab.lab import Lab

GUARD = 60.0  # seconds until the first byte, and from the last one to the end of both programs
LIMIT = 600.0  # seconds for the transfer itself
BLOCK = 512  # bytes; what st_blocks counts


@dataclass(frozen=True, slots=True)
class Job:
    """What is to be moved in which network. The sender is on alice, the receiver on bob. Sizes in bytes."""

    lab: Lab
    source: Path
    digest: str
    limit: float = LIMIT

    @property
    def size(self) -> int:
        return self.source.stat().st_size


@dataclass(slots=True)
class Pair:
    """The two programs while they run. `extra` is asked when both have ended."""

    sender: Watched
    receiver: Watched
    extra: Callable[[], dict[str, float]] = field(default=dict)


class Rival(Protocol):
    """A program that moves a file."""

    @property
    def name(self) -> str:
        """As people call it."""

    def missing(self) -> list[str]:
        """What this machine lacks for it, a sentence each, with the command that installs it."""

    def run(self, job: Job) -> Sample:
        """Moves the file once; the value is in bits a second. Raises MeasuringError."""


Start = Callable[[Job, Path], AbstractContextManager[Pair]]  # enters with both programs started; kills on the way out
Arrival = Callable[[float, float], object]  # told when the first byte was there and the last, in monotonic seconds


def copy(job: Job, start: Start, arrival: Arrival = lambda began, ended: None) -> Sample:  # noqa: ARG005
    """Moves the file with the programs that `start` starts. Raises MeasuringError."""
    touch_memory(job.source.parent, job.size)
    with tempfile.TemporaryDirectory(dir=job.source.parent, prefix="out-") as name, start(job, Path(name)) as pair:
        out = Path(name)
        first, last, arrived = await_file(out, out / job.source.name, job, pair)
        arrival(first, last)
        seconds = last - first
        if arrived < job.size:
            usage = pair.sender.usage(), pair.receiver.usage()
            return _sample(arrived, seconds, usage, {}, f"cut off after {seconds:.0f} s")
        usage = pair.sender.finish(GUARD), pair.receiver.finish(GUARD)
        if sha256(out / job.source.name) != job.digest:
            raise MeasuringError("the file arrived with other content")
        return _sample(job.size, seconds, usage, pair.extra(), "")


def _sample(size: int, seconds: float, usage: tuple[Usage, Usage], extra: dict[str, float], note: str) -> Sample:
    return Sample(size * 8 / seconds, size, *usage, extra={"seconds": seconds} | extra, note=note)


def await_file(out: Path, final: Path, job: Job, pair: Pair) -> tuple[float, float, int]:
    """When the first byte was there, when the last (monotonic seconds), and how many bytes there are by then."""
    limit, first = time.monotonic() + GUARD, None
    while True:
        now = time.monotonic()
        arrived = allocated(out)
        if first is None and arrived:
            first, limit = now, now + job.limit
        if first is not None and is_whole(final, job.size):
            return first, time.monotonic(), job.size
        if now > limit:
            if first is None:
                raise MeasuringError(f"nothing arrived within {GUARD:.0f} s: {pair.receiver.words()}")
            return first, now, min(arrived, job.size - 1)
        pair.sender.check()
        pair.receiver.check()
        time.sleep(NAP)


def allocated(folder: Path) -> int:
    """Bytes of memory behind all files of a folder."""
    total = 0
    for entry in folder.iterdir():
        try:
            total += entry.stat().st_blocks * BLOCK
        except FileNotFoundError:  # renamed since
            continue
    return total


def is_whole(path: Path, size: int) -> bool:
    """Whether it is there, with all its bytes."""
    try:
        status = path.stat()
    except FileNotFoundError:
        return False
    return status.st_size == size and status.st_blocks * BLOCK >= size


@contextmanager
def killed_after(*programs: Watched) -> Iterator[None]:
    """Ends the programs with the block, however that ends."""
    try:
        yield
    finally:
        for each in programs:
            each.kill()
