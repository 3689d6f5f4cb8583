"""The relay of the rendezvous server: what one core carries, without loss and when too much is offered, and how fairly.

Server and load run in one network namespace, so that the kernel does little besides; each has a core where there are
two. The load is one process with all pairs in it (bench/relay_load.py), and costs about what the server costs.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from functools import partial

from bench.copying import GUARD, killed_after
from bench.measure import MeasuringError, Usage, Watched
from bench.rows import Group, Row, Sample
from bench.world import Net, World

PYTHON = sys.executable
SEARCHING = 1.0  # seconds for which each rate of the search is held
SHARING = 3.0  # seconds in which pairs contend
GB = 1e9
UNLIMITED = ("--relay-rate", "0", "--relay-total", "0", "--relay-bytes", "0")
NOTE = "one process; bursts of 43 datagrams, or of 4; Jain and lost: beside a greedy pair, of the others"
GROUP = Group("relay", "The server's relay", "Gbit/s", NOTE, ("jain", "lost", "server_cpu"), chart=False)


@dataclass(frozen=True, slots=True)
class Load:
    """What the load is told, and the server."""

    world: World
    seconds: float
    pairs: int
    load: tuple[str, ...] = ()
    server: tuple[str, ...] = UNLIMITED
    first: int = 0  # of the pairs whose loss and fairness are told

    def run(self) -> Sample:
        node = self.world.lab(Net.LAN).host("server")
        server = Watched(node, [PYTHON, "-m", "p2p.server", "--host", node.address, "--quiet", *self.server])
        with killed_after(server):
            server.wait_for("listening on", GUARD)
            options = ("--pairs", str(self.pairs), "--seconds", str(self.seconds), *self.load)
            load = Watched(node, [PYTHON, "-m", "bench.relay_load", node.address, "8080", *options])
            with killed_after(load):
                load.wait_for("open", GUARD)
                before = server.usage()
                line = load.wait_for(r"\{.*\}", GUARD + 20 * self.seconds)
                after = server.usage()
                server.check()
        found = json.loads(line[0])
        sent, got = found["sent"], found["got"]
        if not sum(got):
            raise MeasuringError("nothing came through the relay")
        lost = 1 - sum(got[self.first :]) / sum(sent[self.first :])
        extra = {"jain": jain(got[self.first :]), "lost": lost, "server_cpu": self._cpu(before, after, found)}
        return Sample(8 * sum(got) / 1e9, extra=extra)

    def _cpu(self, before: Usage, after: Usage, found: dict[str, float]) -> float:
        """Seconds a GB, of all that crossed while it was watched."""
        return (after.cpu_seconds - before.cpu_seconds) / (found["all_got"] / GB)


def jain(rates: list[float]) -> float:
    """Jain's fairness index: 1 where all are equal, 1/n where one has everything."""
    squares = sum(rate * rate for rate in rates)
    return sum(rates) ** 2 / (len(rates) * squares) if squares else 0.0


def rows(world: World, *, short: bool) -> list[Row]:
    """In the short form only what no machine's speed decides: who gets how much of the total."""
    small = ("--segments", "4")
    free = {
        "1 pair, without loss": Load(world, SEARCHING, 1),
        "100 pairs, without loss": Load(world, SEARCHING, 100),
        "1 pair, bursts of 4, without loss": Load(world, SEARCHING, 1, small),
        "100 pairs, bursts of 4, without loss": Load(world, SEARCHING, 100, small),
    }
    greedy = ("--offer", "0.5", "--greedy", "1.5")
    crowded = {
        "100 pairs offer 2, total 1": Load(world, SHARING, 100, (*small, "--offer", "2"), ()),
        "99 offer 0.5, one 1.5, total 1": Load(world, SHARING, 100, (*small, *greedy), ("--relay-rate", "0"), 1),
    }
    loads = crowded if short else free | crowded
    return [Row(GROUP, name, partial(Load.run, load)) for name, load in loads.items()]
