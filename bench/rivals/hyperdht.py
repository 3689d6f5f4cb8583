"""hyperdht (npm): Noise streams over udx, which is UDP with a congestion control of its own, in Node.js.

Its own bootstrap node runs on the lab's server. It can punch; here it need not, as all others.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.copying import GUARD, Job, Pair, copy, killed_after
from bench.measure import Watched
from bench.rivals import need_program
from bench.rivals.small_program import SmallProgram
from bench.rows import Sample

SCRIPT = Path(__file__).with_name("hyperdht_copy.cjs")
MODULES = SCRIPT.parents[1] / "node_modules" / "hyperdht"
PORT = 49737


@dataclass(frozen=True, slots=True)
class HyperDht:
    name: str = "hyperdht"

    def missing(self) -> list[str]:
        missing = need_program("node", "nodejs")
        if not MODULES.exists():
            missing.append("the npm package hyperdht is missing: npm install --prefix bench")
        return missing

    def run(self, job: Job) -> Sample:
        return copy(job, self.start)

    @contextmanager
    def start(self, job: Job, out: Path) -> Iterator[Pair]:
        server = job.lab.host("server")
        bootstrap = Watched(server, ["node", str(SCRIPT), "bootstrap", server.address, str(PORT)])
        with killed_after(bootstrap):
            bootstrap.wait_for("^ready", GUARD)
            with SmallProgram(["node", str(SCRIPT), f"{server.address}:{PORT}"]).start(job, out) as pair:
                yield pair
