"""One rendezvous server and all that can come at it: waiting peers, newcomers, pairs, and garbage from elsewhere."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import IO, Any

from bench.measure import ROOT, MeasuringError
from bench.rows import Group, Row, Sample
from bench.world import Net, World
from netlab.node import Node
from p2p.core.rendezvous.server_events import Limits
from p2p.io.server.log import LINES_AT_ONCE, LINES_PER_SECOND

HOST, PORT = "127.0.0.1", 8080
SERVER_CORE, OTHER_CORE = 0, 1
PEERS = 100_000
PAIRED_UNDER = ("random bytes", "all of these, 50,000 a second", "all of these")
VISITS = 50.0  # newcomers a second while answers are timed
NEIGHBOURS = 300  # that come from one network, which is more than the server lets in
TOO_MANY = 5_000  # that come when the server is full
PAUSE = 1.0  # seconds after a flood: until those that were not answered have asked again
WARM_UP = 0.5  # seconds of a flood before answers are timed
FLOODS: dict[str, tuple[str, ...]] = {  # by name of the row: what bench.flood is told
    "no flood": (),
    "random bytes": ("random",),
    "HELLO, forged sources": ("hello",),
    "JOIN, wrong cookies": ("join",),
    "FORWARD of nobody": ("forward",),
    "all of these": ("all",),
    "HELLO, 30,000 a second": ("hello", "30000"),
    "all of these, 50,000 a second": ("all", "50000"),
}

PAIRS = Group("server-pairs", "Pairs that a server introduces", "pairs/s", extras=("flood", "core"), chart=False)
MEMORY = Group("server-memory", "Resident memory of a server", "bytes/peer", extras=("rss",), chart=False)
ANSWERS = Group(
    "server-answers",
    "Time until a renewal is answered, 99 of 100",
    "ms",
    f"{PEERS:,} peers wait and renew every 5 s; the server has one core, peers and flood share the other",
    ("median", "fresh_p99", "fresh_median", "repeats", "lost_seats", "flood", "core"),
    chart=False,
)


def rows(world: World, seconds: float) -> list[Row]:
    """Each is watched for `seconds`. A round is one server's life: the first row starts it, the last one ends it."""
    stage = _Stage(world)
    return [
        Row(PAIRS, "nobody else there", partial(stage.pair_afresh, seconds)),
        Row(MEMORY, f"{PEERS:,} wait", stage.memory),
        Row(PAIRS, f"{PEERS:,} others wait and renew", partial(stage.pair_among_many, seconds)),
        *(
            Row(PAIRS, f"under a flood: {name}", partial(stage.pair_flooded, FLOODS[name], seconds))
            for name in PAIRED_UNDER
        ),
        *(Row(ANSWERS, name, partial(stage.answers, flood, seconds)) for name, flood in FLOODS.items()),
        Row(MEMORY, f"full: {Limits().entries:,} wait, more are refused", stage.full),
    ]


class _Stage:
    """The server of this round, and its peers."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._exit = ExitStack()
        self._loaded: _Loaded | None = None

    def pair_afresh(self, seconds: float) -> Sample:
        self._end()
        return _pairs(self._server().do(f"pair {seconds}"))

    def pair_among_many(self, seconds: float) -> Sample:
        return _pairs(self._filled().do(f"pair {seconds}"))

    def pair_flooded(self, flood: tuple[str, ...], seconds: float) -> Sample:
        """Among many and a flood: how many pairs that come together, 32 at a time, get to know each other."""
        loaded = self._filled()
        with loaded.flooded(flood) as rate:
            sample = _pairs(loaded.do(f"pair {seconds}"))
            sample.extra["flood"] = rate() / 1e3
        time.sleep(PAUSE)
        return sample

    def memory(self) -> Sample:
        """By peer, of those that wait; and whether the cap of a network holds."""
        loaded = self._filled()
        taken = loaded.filled - loaded.empty
        crushed = loaded.do(f"crush {NEIGHBOURS}")
        allowed = Limits().entries_per_network
        if crushed["came_in"] != allowed or crushed["refused"] != {"NETWORK_FULL": NEIGHBOURS - allowed}:
            raise MeasuringError(f"{NEIGHBOURS} of one network: {crushed}")
        return Sample(taken / PEERS, extra={"rss": loaded.filled / 1e6})

    def full(self) -> Sample:
        """By peer, when no more are let in. The server's port and cores are others' from then on."""
        loaded = self._filled()
        try:
            found = loaded.do(f"fill {Limits().entries - PEERS + TOO_MANY}")
            if set(found["refused"]) != {"SERVER_FULL"}:
                raise MeasuringError(f"the server was to be full: {found}")
            resident = loaded.resident()
        finally:
            self._end()
        return Sample((resident - loaded.empty) / Limits().entries, extra={"rss": resident / 1e6})

    def answers(self, flood: tuple[str, ...], seconds: float) -> Sample:
        """Raises MeasuringError when strangers could make the server write more than it should."""
        loaded = self._filled()
        written, start = loaded.log_lines(), time.monotonic()
        with loaded.flooded(flood) as rate:
            found = loaded.do(f"watch {seconds} {VISITS}")
            per_second = rate()
        allowed = LINES_AT_ONCE + 2 * LINES_PER_SECOND * (time.monotonic() - start)  # some say how many were left out
        if (lines := loaded.log_lines() - written) > allowed:
            raise MeasuringError(f"the server wrote {lines} lines")
        time.sleep(PAUSE)
        extra = {
            "median": found["renewal_median"] * 1e3,
            "fresh_median": found["fresh_median"] * 1e3,
            "fresh_p99": found["fresh_p99"] * 1e3,
            "repeats": found["repeated"] / found["sent"],
            "lost_seats": float(found["lost_seats"]),
            "came_in": found["came_in"] / found["came"],
            "flood": per_second / 1e3,
            "core": found["core"],
            "late": found["late"],
            "rss": loaded.resident() / 1e6,
        }
        note = f"the peers themselves were {found['late'] * 1e3:.0f} ms late" if found["late"] > 0.05 else ""
        return Sample(found["renewal_p99"] * 1e3, extra=extra, note=note)

    def _end(self) -> None:
        self._exit.close()
        self._loaded = None

    def _server(self) -> _Loaded:
        if self._loaded is None:
            node, log = self._world.lab(Net.LAN).host("server"), self._world.folder / "server.log"
            self._world.at_end(self._exit.close)
            self._loaded = self._exit.enter_context(_running(node, log))
        return self._loaded

    def _filled(self) -> _Loaded:
        loaded = self._server()
        if not loaded.filled:
            loaded.do(f"fill {PEERS}")
            loaded.filled = loaded.resident()
            time.sleep(PAUSE)
        return loaded


def _pairs(found: dict[str, Any]) -> Sample:
    return Sample(found["pairs"], extra={"core": found["core"]})


class _Loaded:
    """A server process and the process of its peers."""

    def __init__(self, node: Node, log: Path, server: subprocess.Popen[Any], crowd: subprocess.Popen[Any]) -> None:
        self._node = node
        self._log = log
        self._server, self._crowd = server, crowd
        self.empty = self.resident()  # bytes
        self.filled = 0  # bytes, with PEERS

    def do(self, command: str) -> dict[str, Any]:
        """What bench.crowd answers, and how much of a core the server took meanwhile."""
        assert self._crowd.stdin is not None
        before, start = self._cpu(), time.monotonic()
        self._crowd.stdin.write(command + "\n")
        self._crowd.stdin.flush()
        found: dict[str, Any] = json.loads(_line(self._crowd))
        found["core"] = (self._cpu() - before) / (time.monotonic() - start)
        return found

    def resident(self) -> int:
        """Bytes."""
        found = re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{self._server.pid}/status").read_text())
        return int(found[1]) * 1024 if found else 0

    def log_lines(self) -> int:
        return self._log.read_bytes().count(b"\n")

    @contextmanager
    def flooded(self, words: tuple[str, ...]) -> Iterator[Callable[[], float]]:
        """Garbage for the length of the block; yields what says how many a second there were since it began."""
        if not words:
            yield lambda: 0.0
            return
        kind, *rate = words
        with _python(self._node, ["bench.flood", kind, HOST, str(PORT), *rate], OTHER_CORE) as flood:
            first, start = int(_line(flood)), time.monotonic()
            time.sleep(WARM_UP)

            def per_second() -> float:
                flood.kill()
                assert flood.stdout is not None
                said = [int(line) for line in flood.stdout]
                return (said[-1] - first) / max(1.0, float(len(said))) if said else first / (time.monotonic() - start)

            yield per_second

    def _cpu(self) -> float:
        """Seconds; finer than the clock ticks of stat."""
        return int(Path(f"/proc/{self._server.pid}/schedstat").read_text().split()[0]) / 1e9


@contextmanager
def _running(node: Node, log: Path) -> Iterator[_Loaded]:
    with (
        log.open("wb") as words,
        _python(node, ["p2p.server", "--port", str(PORT)], SERVER_CORE, stderr=words) as server,
    ):
        _line(server)
        with _python(node, ["bench.crowd", HOST, str(PORT)], OTHER_CORE, stdin=subprocess.PIPE) as crowd:
            yield _Loaded(node, log, server, crowd)


@contextmanager
def _python(
    node: Node, module: list[str], core: int, stdin: int = subprocess.DEVNULL, stderr: IO[bytes] | None = None
) -> Iterator[subprocess.Popen[Any]]:
    """A module of the repository, on one core of its own where there are several; killed with the block."""
    process = node.popen(
        [sys.executable, "-m", *module], stdin=stdin, stdout=subprocess.PIPE, stderr=stderr, text=True, cwd=ROOT
    )
    try:
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(process.pid, {cores[core % len(cores)]})
        yield process
    finally:
        process.kill()
        process.wait()


def _line(process: subprocess.Popen[Any]) -> str:
    """The next that it says. Raises MeasuringError at its end."""
    assert process.stdout is not None
    line: str = process.stdout.readline()
    if not line:
        raise MeasuringError(f"{process.args!r} has ended")
    return line
