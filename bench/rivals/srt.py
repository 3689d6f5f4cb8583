"""srt-file-transmit of Debian's srt-tools: UDP, in its mode for files, without encryption."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.copying import Job, Pair, copy, killed_after
from bench.measure import Watched
from bench.rivals import need_program
from bench.rows import Sample

PORT = 4200
LISTENING = 0.3  # seconds: it says nothing when it listens; a caller that comes too early tries again


@dataclass(frozen=True, slots=True)
class Srt:
    name: str = "SRT"

    def missing(self) -> list[str]:
        return need_program("srt-file-transmit", "srt-tools")

    def run(self, job: Job) -> Sample:
        return copy(job, self.start)

    @contextmanager
    def start(self, job: Job, out: Path) -> Iterator[Pair]:
        bob = job.lab.host("bob")
        program, saved = "srt-file-transmit", out / job.source.name
        receiver = Watched(bob, [program, "-q", f"srt://{bob.address}:{PORT}?mode=listener", f"file://{saved}"])
        with killed_after(receiver):
            time.sleep(LISTENING)
            target = f"srt://{bob.address}:{PORT}?mode=caller"
            sender = Watched(job.lab.host("alice"), [program, "-q", f"file://{job.source}", target])
            with killed_after(sender):
                yield Pair(sender, receiver)
