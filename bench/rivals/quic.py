"""aioquic: QUIC in Python, one datagram a call, with a certificate of the moment that nobody checks."""

from __future__ import annotations

import sys
from dataclasses import dataclass

from bench.copying import Job, copy
from bench.rivals import need_module
from bench.rivals.small_program import SmallProgram
from bench.rows import Sample

PROGRAM = SmallProgram([sys.executable, "-m", "bench.rivals.quic_copy"])


@dataclass(frozen=True, slots=True)
class Quic:
    name: str = "aioquic"

    def missing(self) -> list[str]:
        return need_module("aioquic")

    def run(self, job: Job) -> Sample:
        return copy(job, PROGRAM.start)
