"""The program between every pair of NATs: does each pair connect, by the path that it should, in the time that it may?

    python -m bench.matrix                         all pairs of all kinds, about 20 minutes, and the other networks
    python -m bench.matrix --kinds "symmetric|port" --jobs 2 -o matrix.html --json matrix.json
    python -m bench.matrix --networks "IPv6"       no pairs of kinds

    alice --- left --- core0 --- core1 --- right --- bob
              (NAT)                |       (NAT)
                                 server (two addresses, TCP 443 too)

Time counts from the start of the second program to its path, start-up included. What is expected of each is in
bench.expected, the networks that are no pair of kinds are in bench.networks. Needs root.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from itertools import chain
from pathlib import Path
from typing import Final

from bench.expected import Expected, Route, complaint, ended_too_soon, expected
from bench.networks import NETWORKS, Network
from netlab.matrix import matrix, run_in, run_pair
from netlab.nat import KINDS, Nat
from netlab.page import Result, page

SIZE: Final = 1_000_000  # bytes; what is measured here is how long it takes to connect
SLOWLY: Final = ("--limit-rate", "100k")  # a file of that size then outlasts any search
APART: Final = "as at the left"  # the column of those that are no pair of kinds


def main() -> int:
    options = _parse()
    kinds = [each for each in KINDS if _is_chosen(each.name, options.kinds)]
    networks = [each for each in NETWORKS if _is_chosen(each.name, options.networks)]
    total = len(kinds) ** 2 + len(networks)
    results = []
    for result in chain(_pairs(kinds, options.jobs), map(run_network, networks)):
        results.append(result)
        print(f"[{len(results)}/{total}] {_said(result)}", flush=True)
    _summarise(results)
    if options.output:
        options.output.write_text(page(results, size=SIZE), encoding="utf-8")
    if options.json:
        options.json.write_text(json.dumps([asdict(result) for result in results], indent=1), encoding="utf-8")
    return 1 if any(result.wrong for result in results) else 0


def run_cell(left: Nat, right: Nat) -> Result:
    """One pair, judged."""
    return _judged(run_pair(left, right, SIZE), left, right)


def run_network(network: Network) -> Result:
    """One of the others, judged."""
    result, wanted = _in(network), network.expected
    return judged(_in(network, SLOWLY) if ended_too_soon(result, wanted) else result, wanted)


def judged(result: Result, wanted: Expected) -> Result:
    return replace(result, wanted=str(wanted), wrong=complaint(result, wanted) or "")


def _pairs(kinds: Sequence[Nat], jobs: int) -> Iterator[Result]:
    pairs = [(left, right) for left in kinds for right in kinds]
    for (left, right), result in zip(pairs, matrix(kinds, size=SIZE, jobs=jobs), strict=True):
        yield _judged(result, left, right)


def _judged(result: Result, left: Nat, right: Nat) -> Result:
    """A search that outlasts the first file goes on beside a slower one."""
    wanted = expected(left, right)
    return judged(run_pair(left, right, SIZE, SLOWLY) if ended_too_soon(result, wanted) else result, wanted)


def _is_chosen(name: str, by: str | None) -> bool:
    return by is not None and re.search(by, name) is not None


def _in(network: Network, options: Sequence[str] = ()) -> Result:
    return run_in(network.topology, (network.name, APART), SIZE, options, network.rules)


def _name(result: Result) -> str:
    return result.left if result.right == APART else f"{result.left} x {result.right}"


def _said(result: Result) -> str:
    took = f"{result.seconds:.2f} s" if result.seconds is not None else "-"
    later = f", after {result.later_seconds:.2f} s {result.later}" if result.later_seconds is not None else ""
    verdict = f"\n    NOT AS WANTED: {result.wrong}" if result.wrong else ""
    return f"{_name(result)}: {took} {result.path}{later} [wanted: {result.wanted}]{verdict}"


def _summarise(results: Sequence[Result]) -> None:
    print()
    for path in Route:
        times = [r.seconds for r in results if r.seconds is not None and r.path.startswith(path.value)]
        if times:
            slowest = f"median {statistics.median(times):.2f} s, longest {max(times):.2f} s"
            print(f"{path.value} first: {len(times)} pairs, {slowest}")
    if improved := [r.later_seconds for r in results if r.later_seconds is not None]:
        print(f"direct after a relay: {len(improved)} pairs, longest {max(improved):.2f} s")
    connected = sum(bool(result.path) for result in results)
    wrong = [result for result in results if result.wrong]
    print(f"connected: {connected} of {len(results)}; as wanted: {len(results) - len(wrong)} of {len(results)}")
    for result in wrong:
        print(f"not as wanted: {_name(result)}: {result.wrong}")


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.matrix", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--kinds", metavar="REGEX", help="only pairs of kinds whose name it matches")
    parser.add_argument("--networks", metavar="REGEX", help="only other networks whose name it matches")
    parser.add_argument("--jobs", type=int, default=1, help="pairs at once; they share the machine")
    parser.add_argument("-o", "--output", type=Path, metavar="FILE.html", help="the page of netlab matrix")
    parser.add_argument("--json", type=Path, metavar="FILE", help="every cell")
    options = parser.parse_args()
    if options.kinds is None and options.networks is None:
        options.kinds = options.networks = ""
    return options


if __name__ == "__main__":
    sys.exit(main())
