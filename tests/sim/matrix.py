"""Every pair of the simulator's NATs, in virtual time: what connects, by what, how fast.

    PYTHONPATH=.:tests python -m sim.matrix --seeds 1000        runs in all, a few for each pair
    PYTHONPATH=.:tests python -m sim.matrix --per-pair 100      runs of each pair, every one with a seed of its own
"""

from __future__ import annotations

import argparse
import random
import statistics
import sys
from collections import defaultdict
from dataclasses import replace
from itertools import cycle, islice, product

from scenarios import Scenario
from sim.network import ALL_PORTS, NAT_KINDS, Behaviour
from sim.worlds import World, meet

from bench.expected import Hardness, Route, Side, complaint, ended_too_soon, expected_of
from netlab.page import Result
from p2p.core.peer import events

CONTENT = random.Random(1).randbytes(50_000)
LONG_CONTENT = random.Random(1).randbytes(30_000_000)
LIMIT = 60.0  # virtual seconds
PAIRS = list(product(NAT_KINDS, NAT_KINDS))


def side(kind: str) -> Side:
    """The simulator maps TCP as UDP, and keeps its port where it has one for all destinations."""
    nat = NAT_KINDS[kind]
    return Side(hardness(kind), nat is None or nat.mapping is Behaviour.ENDPOINT_INDEPENDENT)


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


def run(left: str, right: str, seed: int) -> Result:
    """One run, judged. Seconds are virtual ones from the moment when both had keys.

    A search that outlasts the wait for a relay goes on beside it: then with a file that takes longer still.
    """
    wanted = expected_of(side(left), side(right))
    result = _run(left, right, seed, CONTENT)
    if ended_too_soon(result, wanted):
        result = _run(left, right, seed, LONG_CONTENT)
    return replace(result, wanted=str(wanted), wrong=complaint(result, wanted) or "")


def _run(left: str, right: str, seed: int, content: bytes) -> Result:
    sender, receiver = meet(World(Scenario(left, right), seed), {"file": content}, LIMIT)
    assert receiver.received == {"file": content}
    begun = next(at for at, e in sender.timeline if isinstance(e, events.Connecting))
    paths = [(e.description, at - begun) for at, e in sender.timeline if isinstance(e, events.PathChosen)]
    later, later_seconds = paths[-1] if len(paths) > 1 else ("", None)
    return Result(left, right, *paths[0], later=later, later_seconds=later_seconds)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m sim.matrix")
    parser.add_argument("--seeds", type=int, default=len(PAIRS), help="runs in all, spread over the pairs")
    parser.add_argument("--per-pair", type=int, metavar="N", help="so many runs of each pair instead")
    options = parser.parse_args()
    runs = options.seeds if options.per_pair is None else options.per_pair * len(PAIRS)
    print(f"{runs} runs of {len(PAIRS)} pairs, {runs / len(PAIRS):.1f} of each")
    results = [run(*pair, seed) for seed, pair in enumerate(islice(cycle(PAIRS), runs))]
    times: dict[Route, list[float]] = defaultdict(list)
    for result in results:
        path, seconds = result.later or result.path, result.later_seconds or result.seconds
        for route in Route:
            if path.startswith(route.value) and seconds is not None:
                times[route].append(seconds)
    for route, all_of_it in times.items():
        figures = f"median {statistics.median(all_of_it):.2f} s, most {max(all_of_it):.2f} s"
        print(f"{route.value}: {len(all_of_it)} runs, {figures}")
    complaints = [
        f"{result.left} x {result.right}, seed {seed}: {result.wrong}"
        for seed, result in enumerate(results)
        if result.wrong
    ]
    print(f"{len(results) - len(complaints)} of {len(results)} runs as they should be")
    print(*complaints, sep="\n")
    return 1 if complaints else 0


if __name__ == "__main__":
    sys.exit(main())
