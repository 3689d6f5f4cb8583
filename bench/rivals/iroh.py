"""iroh: QUIC between two endpoints that know each other's addresses; no relay and no discovery."""

from __future__ import annotations

import sys
from dataclasses import dataclass

from bench.copying import Job, copy
from bench.rivals import need_module
from bench.rivals.small_program import SmallProgram
from bench.rows import Sample

PROGRAM = SmallProgram([sys.executable, "-m", "bench.rivals.iroh_copy"])


@dataclass(frozen=True, slots=True)
class Iroh:
    name: str = "iroh"

    def missing(self) -> list[str]:
        return need_module("iroh")

    def run(self, job: Job) -> Sample:
        return copy(job, PROGRAM.start)
