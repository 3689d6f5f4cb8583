"""Every pair of the simulator's NATs, in virtual time: what connects, by what, how fast.

    PYTHONPATH=.:tests python -m sim.matrix --seeds 1000        in all, spread over the pairs
"""

from __future__ import annotations

import argparse
import random
import statistics
import sys
from collections import defaultdict
from dataclasses import dataclass
from itertools import cycle, islice, product

from scenarios import Scenario
from sim.network import ALL_PORTS, NAT_KINDS, Behaviour
from sim.worlds import World, meet

from bench.matrix import SEARCHED, Hardness, Route, expected_of
from p2p.core.peer import events

CONTENT = random.Random(1).randbytes(50_000)
LONG_CONTENT = random.Random(1).randbytes(30_000_000)
LIMIT = 60.0  # virtual seconds
PAIRS = list(product(NAT_KINDS, NAT_KINDS))


@dataclass(frozen=True, slots=True)
class Cell:
    """One run: the path, and virtual seconds from the moment when both had keys until it stood."""

    left: str
    right: str
    seed: int
    path: str
    seconds: float

    @property
    def complaint(self) -> str | None:
        wanted = expected_of({hardness(self.left), hardness(self.right)})
        name = f"{self.left} x {self.right}, seed {self.seed}"
        if not any(self.path.startswith(path.value) for path in wanted.paths):
            return f"{name}: {self.path or 'no path'}"
        return f"{name}: after {self.seconds:.1f} s" if self.seconds > wanted.seconds else None


def hardness(kind: str) -> Hardness:
    nat = NAT_KINDS[kind]
    if nat is None:
        return Hardness.OPEN
    if nat.udp_blocked:
        return Hardness.BLOCKED
    if nat.mapping is Behaviour.ENDPOINT_INDEPENDENT:
        return Hardness.EASY if nat.filtering is Behaviour.ADDRESS_AND_PORT_DEPENDENT else Hardness.OPEN
    if nat.filtering is Behaviour.ENDPOINT_INDEPENDENT:
        return Hardness.OPEN_RANDOM
    if nat.preserves:
        return Hardness.EASY  # the port of every mapping is known
    if nat.stride:
        return Hardness.COUNTING
    return Hardness.POOL if len(nat.ports) < len(ALL_PORTS) else Hardness.RANDOM


def run(left: str, right: str, seed: int) -> Cell:
    """A search that outlasts the wait for a relay goes on beside it: then with a file that takes longer still."""
    cell = _run(left, right, seed, CONTENT)
    is_searched = expected_of({hardness(left), hardness(right)}).seconds == SEARCHED
    return _run(left, right, seed, LONG_CONTENT) if is_searched and cell.path.startswith("relay") else cell


def _run(left: str, right: str, seed: int, content: bytes) -> Cell:
    """The last path that was chosen."""
    sender, receiver = meet(World(Scenario(left, right), seed), {"file": content}, LIMIT)
    assert receiver.received == {"file": content}
    *_, (at, path) = [(at, e) for at, e in sender.timeline if isinstance(e, events.PathChosen)]
    begun = next(at for at, e in sender.timeline if isinstance(e, events.Connecting))
    return Cell(left, right, seed, path.description, at - begun)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m sim.matrix")
    parser.add_argument("--seeds", type=int, default=len(PAIRS))
    options = parser.parse_args()
    cells = [run(*pair, seed) for seed, pair in enumerate(islice(cycle(PAIRS), options.seeds))]
    complaints = [cell.complaint for cell in cells if cell.complaint]
    times: dict[Route, list[float]] = defaultdict(list)
    for cell in cells:
        for route in Route:
            if cell.path.startswith(route.value):
                times[route].append(cell.seconds)
    for route, seconds in times.items():
        figures = f"median {statistics.median(seconds):.2f} s, most {max(seconds):.2f} s"
        print(f"{route.value}: {len(seconds)} runs, {figures}")
    print(f"{len(cells) - len(complaints)} of {len(cells)} runs as they should be")
    print(*complaints, sep="\n")
    return 1 if complaints else 0


if __name__ == "__main__":
    sys.exit(main())
