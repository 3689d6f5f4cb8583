"""The program between every pair of NATs: does each pair connect, by the path that it should, in the time that it may?

    python -m bench.matrix                         all pairs of all kinds, about 20 minutes
    python -m bench.matrix --kinds "symmetric|port" --jobs 2 -o matrix.html --json matrix.json

    alice --- left --- core0 --- core1 --- right --- bob
              (NAT)                |       (NAT)
                                 server (two addresses, TCP 443 too)

Time counts from the start of the second program to its path, start-up included. Needs root.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import sys
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from enum import Enum
from pathlib import Path
from typing import Final

from netlab.matrix import matrix
from netlab.nat import KINDS, NO_PORT_MAPPER, Filtering, Mapping, Nat, Tcp, Udp
from netlab.page import Result, page

SIZE: Final = 1_000_000  # bytes; what is measured here is how long it takes to connect


class Route(Enum):
    """What a pair may end on, as the program's words for it begin."""

    DIRECT = "direct UDP"
    TCP = "direct TCP"
    RELAY = "relay"


@dataclass(frozen=True, slots=True)
class Expected:
    """`paths`: any of them is right. `seconds`: by when it must stand."""

    paths: frozenset[Route]
    seconds: float


class Hardness(Enum):
    EASY = "one external port"
    OPEN = "one external port for everybody, or for every port of whom we wrote to"
    COUNTING = "another port each time, by a rule"
    POOL = "another port each time, out of a small pool"
    RANDOM = "another port each time"
    OPEN_RANDOM = "another port each time, and each lets everybody in"
    BLOCKED = "no UDP"
    ONLY_443 = "TCP to port 443, and nothing else"


PLAIN: Final = 3.0  # seconds
SEARCHED: Final = 8.0
_FIXED: Final = {Hardness.EASY, Hardness.OPEN}


def hardness(nat: Nat) -> Hardness:
    if nat.udp is not Udp.ALLOWED:
        return Hardness.ONLY_443 if nat.tcp is Tcp.ONLY_443 else Hardness.BLOCKED
    lets_in = nat.filtering is not Filtering.ADDRESS_AND_PORT_DEPENDENT
    if nat.mapping is Mapping.ENDPOINT_INDEPENDENT:
        return Hardness.OPEN if lets_in or nat.port_mapper != NO_PORT_MAPPER else Hardness.EASY
    if nat.filtering is Filtering.ENDPOINT_INDEPENDENT:
        return Hardness.OPEN_RANDOM
    if nat.stride:
        return Hardness.COUNTING
    return Hardness.POOL if nat.port_block is not None else Hardness.RANDOM


def expected(left: Nat, right: Nat) -> Expected:
    return expected_of({hardness(left), hardness(right)})


def expected_of(pair: set[Hardness]) -> Expected:
    """Direct wherever two NATs of these kinds can be joined; what each pair can reach: docs/connecting.md."""
    if Hardness.ONLY_443 in pair:
        return Expected(frozenset({Route.RELAY}), PLAIN)
    if Hardness.BLOCKED in pair:
        return Expected(frozenset({Route.TCP, Route.RELAY}), PLAIN)
    direct = frozenset({Route.DIRECT})
    if pair <= _FIXED or Hardness.OPEN in pair:
        return Expected(direct, PLAIN)
    if Hardness.EASY in pair or pair in ({Hardness.COUNTING}, {Hardness.POOL}):
        return Expected(direct, SEARCHED)
    return Expected(frozenset({Route.DIRECT, Route.RELAY}), PLAIN)


def complaint(result: Result, left: Nat, right: Nat) -> str | None:
    """What is wrong with this cell; None: nothing."""
    wanted = expected(left, right)
    if not result.path or result.seconds is None:
        return f"no path: {result.words}"
    if not any(result.path.startswith(path.value) for path in wanted.paths):
        return f"{result.path!r} where {' or '.join(sorted(path.value for path in wanted.paths))} was to be"
    if result.seconds > wanted.seconds:
        return f"after {result.seconds:.1f} s, wanted within {wanted.seconds:.0f}: {result.path}"
    return None


def main() -> int:
    options = _parse()
    kinds = [kind for kind in KINDS if re.search(options.kinds, kind.name)]
    pairs = [(left, right) for left in kinds for right in kinds]
    results, complaints = [], []
    runs = matrix(kinds, size=SIZE, jobs=options.jobs)
    for (left, right), result in zip(pairs, runs, strict=True):
        results.append(result)
        wrong = complaint(result, left, right)
        took = f"{result.seconds:.2f} s" if result.seconds is not None else "-"
        print(f"[{len(results)}/{len(pairs)}] {left.name} x {right.name}: {took} {result.path}", flush=True)
        if wrong is not None:
            complaints.append(f"{left.name} x {right.name}: {wrong}")
            print(f"    {wrong}", flush=True)
    _summarise(results, complaints)
    if options.output:
        options.output.write_text(page(results, size=SIZE), encoding="utf-8")
    if options.json:
        options.json.write_text(json.dumps([asdict(result) for result in results], indent=1), encoding="utf-8")
    return 1 if complaints else 0


def _summarise(results: list[Result], complaints: Iterable[str]) -> None:
    print()
    for path in Route:
        times = [r.seconds for r in results if r.seconds is not None and r.path.startswith(path.value)]
        if times:
            slowest = f"median {statistics.median(times):.2f} s, longest {max(times):.2f} s"
            print(f"{path.value}: {len(times)} pairs, {slowest}")
    connected = sum(bool(result.path) for result in results)
    print(f"connected: {connected} of {len(results)}")
    for wrong in complaints:
        print(f"not as it should be: {wrong}")


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.matrix", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--kinds", default="", metavar="REGEX", help="only kinds whose name it matches")
    parser.add_argument("--jobs", type=int, default=1, help="pairs at once; they share the machine")
    parser.add_argument("-o", "--output", type=Path, metavar="FILE.html", help="the page of netlab matrix")
    parser.add_argument("--json", type=Path, metavar="FILE", help="every cell")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
