"""How long a lab takes to come up and to go away: two NATs, the core, a host with the server.

python -m bench.lab_bringup [--rounds N] [--gap SECONDS] [--up-limit MS] [--down-limit MS]

Each round brings one up, starts a process in it, takes it down. The kernel takes a namespace apart after the last
one has let go of it, while the next lab may be coming up: ``--gap`` waits for it, without it labs come back to back.
Exits with 1 when the least of the rounds, which other work on the machine disturbs least, exceeds a limit.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import wraps
from typing import Any

from netlab import kernel, namespace, rootless
from netlab.lab import Lab
from netlab.nat import FULL_CONE, PORT_RESTRICTED
from netlab.requirements import missing_requirements
from netlab.topology import two_nats

UP_LIMIT, DOWN_LIMIT = 150.0, 50.0  # milliseconds; what a lab of two NATs may take at best
PHASES = {  # what we wait for, in order; they follow one another
    "namespaces made": (namespace, "create"),
    "sysctls written": (kernel, "_sysctls"),
    "rules handed to iptables": (kernel, "_start"),
    "links, addresses, routes": (kernel, "_network"),
    "rules still loading then": (kernel, "_finish"),
}


@contextmanager
def timed(spent: dict[str, float]) -> Iterator[None]:
    """Add the seconds spent in each phase to ``spent``, for the length of the block."""
    with ExitStack() as stack:
        for phase, (module, name) in PHASES.items():
            function = getattr(module, name)
            setattr(module, name, _timed(function, spent, phase))
            stack.callback(setattr, module, name, function)
        yield


def _timed(function: Callable[..., Any], spent: dict[str, float], phase: str) -> Callable[..., Any]:
    @wraps(function)
    def measured(*arguments: Any, **options: Any) -> Any:
        start = time.perf_counter()
        try:
            return function(*arguments, **options)
        finally:
            spent[phase] += time.perf_counter() - start

    return measured


def bring_up_and_take_down(figures: dict[str, list[float]], *, process: bool) -> None:
    """One round; adds its milliseconds to ``figures``."""
    spent: dict[str, float] = dict.fromkeys(PHASES, 0.0)
    lab = Lab(two_nats(PORT_RESTRICTED, FULL_CONE))
    with timed(spent):
        start = time.perf_counter()
        lab.__enter__()
        up = time.perf_counter() - start
    if process:
        lab.host("alice").popen(["sleep", "1000"])
    start = time.perf_counter()
    lab.__exit__()
    down = time.perf_counter() - start
    figures["up"].append(up * 1000)
    figures["down, a process in it" if process else "down"].append(down * 1000)
    for phase, seconds in spent.items():
        figures["  " + phase].append(seconds * 1000)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.lab_bringup", description=__doc__)
    parser.add_argument("--rounds", type=int, default=60, help="every other one with a process (default: %(default)s)")
    parser.add_argument("--gap", type=float, default=0.0, help="seconds between rounds (default: none)")
    parser.add_argument("--up-limit", metavar="MS", type=float, default=UP_LIMIT, help="default: %(default)g")
    parser.add_argument("--down-limit", metavar="MS", type=float, default=DOWN_LIMIT, help="default: %(default)g")
    options = parser.parse_args()
    rootless.enter_where_needed()
    if missing := missing_requirements():
        print("The benchmark cannot run here: " + "; ".join(missing), file=sys.stderr)
        return 1
    figures: dict[str, list[float]] = defaultdict(list)
    for number in range(options.rounds):
        time.sleep(options.gap)
        bring_up_and_take_down(figures, process=bool(number % 2))
    print(f"{options.rounds} rounds, milliseconds{'min':>14} {'median':>8} {'max':>8}")
    for name, values in figures.items():
        print(f"{name:<30} {min(values):8.1f} {statistics.median(values):8.1f} {max(values):8.1f}")
    exceeded = [
        f"{name}: {min(values):.1f} ms at best, more than {limit:g}"
        for name, values in figures.items()
        for what, limit in (("up", options.up_limit), ("down", options.down_limit))
        if name.startswith(what) and min(values) > limit
    ]
    for words in exceeded:
        print(words, file=sys.stderr)
    return 1 if exceeded else 0


if __name__ == "__main__":
    sys.exit(main())
