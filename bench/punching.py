"""How often, and how fast, two agents find a direct path through the NATs of netlab.

    python -m bench.punching                       20 runs of every pair of NATs
    python -m bench.punching --runs 100 --only "port-restricted x symmetric"
    python -m bench.punching --delay 0.025         seconds on each access, one way
    python -m bench.punching --check               100 runs each; exit code 1 and a line for each bound that is missed

    alice --- left --- core0 --- core1 --- right --- bob
              (NAT)                |       (NAT)
                                 server, which says what address it sees

Each side is a process of its own that measures its NAT, tells the other what it is over a third (with a delay of 20 ms
a word) and then punches. Time counts from the start of the later one until both have selected. Needs root.
"""

from __future__ import annotations

import argparse
import json
import math
import re
import select
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from bench.measure import MeasuringError
from netlab.impair import Impairment
from netlab.lab import Lab
from netlab.nat import (
    ADDRESS_DEPENDENT,
    CARRIER_SYMMETRIC,
    PORT_RESTRICTED,
    PORT_RESTRICTED_UNGUARDED,
    SYMMETRIC,
    SYMMETRIC_OPEN,
    SYMMETRIC_SEQUENTIAL,
    SYMMETRIC_STRIDE,
    Nat,
)
from netlab.requirements import missing_requirements
from netlab.topology import two_nats
from p2p.core.punch.description import Description

ROOT: Final = Path(__file__).parents[1]
PORTS: Final = (3478, 3479)
SIGNAL_DELAY: Final = 0.020  # seconds from one peer to the other over a server
LIMIT: Final = 12.0  # seconds; an agent gives up after 10
RUNS, CHECKED_RUNS = 20, 100


@dataclass(frozen=True, slots=True)
class Bound:
    """`share` of the runs are direct `within` so many seconds, half of all runs within `median` seconds."""

    within: float
    median: float
    share: float = 1.0

    def misses(self, seconds: list[float]) -> Iterator[str]:
        """In words. A run without a path counts as one that takes for ever."""
        if not seconds:
            yield "no run"
            return
        good = sum(each <= self.within for each in seconds)
        if good < self.share * len(seconds):
            yield f"{good} of {len(seconds)} direct within {self.within:g} s, wanted {100 * self.share:g} %"
        if (median := statistics.median(seconds)) > self.median:
            found = f"{median:.2f} s" if math.isfinite(median) else "no path"
            yield f"median {found}, wanted {self.median:g} s"


PLAIN: Final = Bound(within=3.0, median=1.0)
SEQUENTIAL: Final = Bound(within=8.0, median=1.0, share=0.98)
RANDOM: Final = Bound(within=6.0, median=2.5, share=0.98)


@dataclass(frozen=True, slots=True)
class Cell:
    """Two NATs, what is asked of them, and how much later (seconds) the right one begins."""

    left: Nat
    right: Nat
    bound: Bound
    skew: float = 0.0

    def __str__(self) -> str:
        skew = f", skew {self.skew * 1000:.0f} ms" if self.skew or self.left is PORT_RESTRICTED_UNGUARDED else ""
        return f"{self.left.name} x {self.right.name}{skew}"


@dataclass(frozen=True, slots=True)
class Run:
    """One that ended well. `sent`: packets of the side that sent more; `cpu`: seconds of the busier one."""

    seconds: float
    how: str
    sent: int
    cpu: float


CELLS: Final = (
    Cell(PORT_RESTRICTED, PORT_RESTRICTED, PLAIN),
    Cell(PORT_RESTRICTED, SYMMETRIC_SEQUENTIAL, SEQUENTIAL),
    Cell(PORT_RESTRICTED, SYMMETRIC_STRIDE, SEQUENTIAL),
    Cell(SYMMETRIC_STRIDE, PORT_RESTRICTED, SEQUENTIAL),
    Cell(PORT_RESTRICTED, SYMMETRIC, RANDOM),
    Cell(SYMMETRIC, PORT_RESTRICTED, RANDOM),
    Cell(PORT_RESTRICTED, ADDRESS_DEPENDENT, RANDOM),
    Cell(PORT_RESTRICTED, CARRIER_SYMMETRIC, RANDOM),
    Cell(PORT_RESTRICTED_UNGUARDED, SYMMETRIC, RANDOM),
    Cell(SYMMETRIC_SEQUENTIAL, SYMMETRIC_SEQUENTIAL, SEQUENTIAL),
    Cell(SYMMETRIC_SEQUENTIAL, SYMMETRIC_STRIDE, SEQUENTIAL),
    Cell(CARRIER_SYMMETRIC, CARRIER_SYMMETRIC, RANDOM),
    Cell(SYMMETRIC, SYMMETRIC_OPEN, replace(PLAIN, share=0.98)),  # one in 600 had no answer, unexplained
    *(Cell(PORT_RESTRICTED_UNGUARDED, PORT_RESTRICTED_UNGUARDED, PLAIN, skew) for skew in (0.0, 0.05, 0.15, 0.3)),
    *(Cell(PORT_RESTRICTED, PORT_RESTRICTED_UNGUARDED, PLAIN, skew) for skew in (0.0, 0.15, 0.3)),
)


class Side:
    """A peer's process and what it said."""

    def __init__(self, lab: Lab, name: str, controlling: bool) -> None:
        self.controlling = controlling
        argv = [sys.executable, "-m", "bench.punch_peer"]
        process = lab.host(name).popen(argv, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert process.stdin is not None
        assert process.stdout is not None
        self._words, self.said = process.stdin, process.stdout
        self.description = Description.decode(b"\x02\x00" + bytes(11))

    def tell(self, **words: Any) -> None:
        self._words.write(json.dumps(words) + "\n")
        self._words.flush()

    def hear(self, limit: float) -> dict[str, Any]:
        """The next line. Raises MeasuringError after `limit` seconds."""
        if not select.select([self.said], [], [], max(0.0, limit))[0]:
            raise MeasuringError("a peer says nothing")
        line = self.said.readline()
        if not line:
            raise MeasuringError("a peer's process has ended")
        said: dict[str, Any] = json.loads(line)
        return said


class Pair:
    """Two processes in a lab, for run after run."""

    def __init__(self, lab: Lab) -> None:
        self._lab = lab
        self.sides = Side(lab, "alice", True), Side(lab, "bob", False)
        self._targets = [[host, port] for host in lab.host("server").ipv4[:2] for port in PORTS]

    def run(self, skew: float) -> Run:
        """Raises MeasuringError when no path is found."""
        for side in self.sides:
            side.tell(measure=self._targets)
            side.description = Description.decode(bytes.fromhex(side.hear(LIMIT)["description"]))
        first, second = self.sides
        due: list[tuple[float, Side, dict[str, Any]]] = []
        begun = time.monotonic()
        due.append((begun, first, {"start": self._told(first, second)}))
        due.append((begun + skew, second, {"start": self._told(second, first)}))
        ended: dict[Side, dict[str, Any]] = {}
        while len(ended) < len(self.sides):
            now = time.monotonic()
            if now > begun + LIMIT:
                raise MeasuringError("no end")
            for each in [each for each in due if each[0] <= now]:
                due.remove(each)
                each[1].tell(**each[2])
            pause = min([at for at, _, _ in due], default=begun + LIMIT) - now
            ready, _, _ = select.select([side.said for side in self.sides], [], [], max(0.0, min(pause, 1.0)))
            for side, other in (self.sides, self.sides[::-1]):
                if side.said in ready:
                    said = side.hear(0.0)
                    if "opened" in said:
                        side.description = replace(side.description, has_opened=True)
                        word = {"local": other.description.encode().hex(), "remote": side.description.encode().hex()}
                        due.append((time.monotonic() + SIGNAL_DELAY, other, {"update": word}))
                    else:
                        ended[side] = {"at": time.monotonic(), **said}
        for router in ("left", "right"):
            self._lab.flush_mappings(router)
        if any("failed" in said for said in ended.values()):
            raise MeasuringError(f"no path: {[(s.description.nat, ended[s]['sent']) for s in self.sides]}")
        seconds = max(said["at"] for said in ended.values()) - begun - skew
        how = " / ".join(ended[side]["how"] for side in self.sides)
        used = ended.values()
        return Run(seconds, how, max(said["sent"] for said in used), max(said["cpu"] for said in used))

    def _told(self, side: Side, other: Side) -> dict[str, Any]:
        local, remote = side.description.encode().hex(), other.description.encode().hex()
        return {"controlling": side.controlling, "local": local, "remote": remote}


@contextmanager
def stage(cell: Cell, delay: float = 0.0) -> Iterator[Pair]:
    """The cell's network, with a server that tells what it sees, and both processes."""
    with ExitStack() as stack:
        lab = stack.enter_context(Lab(two_nats(cell.left, cell.right)))
        for name in ("alice", "bob") if delay else ():
            late = Impairment(delay=delay)
            stack.enter_context(lab.impair(name, up=late, down=late, seed=1))
        stack.enter_context(mirror(lab))
        yield Pair(lab)


@contextmanager
def mirror(lab: Lab) -> Iterator[None]:
    """Answers any datagram at the server's addresses with its source."""
    server = lab.host("server")
    sockets = []
    for host in server.ipv4[:2]:
        for port in PORTS:
            made = server.socket()
            made.bind((host, port))
            sockets.append(made)
    reader, writer = socket.socketpair()

    def answer() -> None:
        while reader not in (ready := select.select([*sockets, reader], [], [])[0]):
            for each in ready:
                _, source = each.recvfrom(100)
                each.sendto(f"{source[0]} {source[1]}".encode(), source)

    thread = threading.Thread(target=answer)
    thread.start()
    try:
        yield
    finally:
        writer.send(b"!")
        thread.join()
        reader.close()
        writer.close()


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.punching", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    parser.add_argument("--runs", type=int, help=f"of every pair (default: {RUNS}, with --check {CHECKED_RUNS})")
    parser.add_argument("--only", default="", metavar="REGEX", help="only pairs whose name it matches")
    parser.add_argument("--delay", type=float, default=0.0, help="seconds one way on each access (default: none)")
    parser.add_argument("--check", action="store_true", help="exit code 1 when a pair misses its bounds")
    options = parser.parse_args()
    number = options.runs or (CHECKED_RUNS if options.check else RUNS)
    if missing := missing_requirements():
        print("The benchmark cannot run here: " + "; ".join(missing), file=sys.stderr)
        return 1
    print(f"{'':<62} {'direct':>9} {'median':>7} {'p95':>7} {'max':>7} {'packets':>8} {'CPU ms':>7}  how")
    missed: list[str] = []
    chosen = [cell for cell in CELLS if re.search(options.only, str(cell))]
    for cell in chosen:
        with stage(cell, options.delay) as pair:
            found = list(runs(pair, cell, number))
        print(summary(cell, found), flush=True)
        missed += misses(cell, found)
    if not options.check:
        return 0
    for line in missed:
        print(f"missed: {line}")
    print(f"{len(chosen)} pairs, {len(missed)} bounds missed")
    return 1 if missed or not chosen else 0


def misses(cell: Cell, found: list[Run | None]) -> list[str]:
    """What this cell is short of, a line each."""
    return [f"{cell}: {words}" for words in cell.bound.misses([math.inf if r is None else r.seconds for r in found])]


def runs(pair: Pair, cell: Cell, number: int) -> Iterator[Run | None]:
    """None for one that found no path; why goes to stderr."""
    for _ in range(number):
        try:
            yield pair.run(cell.skew)
        except MeasuringError as error:
            print(f"{cell}: {error}", file=sys.stderr)
            yield None


def summary(cell: Cell, found: list[Run | None]) -> str:
    good = sorted((run for run in found if run is not None), key=lambda run: run.seconds)
    line = f"{cell!s:<62} {len(good):>4}/{len(found):<4}"
    if not good:
        return line
    seconds = [run.seconds for run in good]
    line += f" {statistics.median(seconds):7.2f} {seconds[int(0.95 * (len(good) - 1))]:7.2f} {seconds[-1]:7.2f}"
    line += f" {max(run.sent for run in good):>8} {1000 * max(run.cpu for run in good):>7.0f}"
    hows = Counter(run.how for run in good)
    return f"{line}  {', '.join(f'{count} {how}' for how, count in hows.most_common())}"


if __name__ == "__main__":
    sys.exit(main())
