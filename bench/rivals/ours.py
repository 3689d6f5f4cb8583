"""p2p itself, with a rendezvous server in the lab; as every other rival, and with its own figures on top."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.copying import GUARD, Job, Pair, copy, killed_after
from bench.measure import MeasuringError, Watched
from bench.rows import Sample
from netlab.lab import Lab

PORT = 8080
CODE = "amber-walnut-tiger"
PEER = [sys.executable, "-m", "p2p.peer"]


@contextmanager
def rendezvous(lab: Lab, port: int = PORT) -> Iterator[str]:
    """A rendezvous server on the lab's server, on `port` and the next, for the length of the block; its HOST:PORT."""
    host = lab.host("server")
    server = Watched(host, [sys.executable, "-m", "p2p.server", "--host", host.address, "--port", str(port)])
    with killed_after(server):
        server.wait_for("listening", GUARD)
        yield f"{host.address}:{port}"


def send(
    lab: Lab, server: str, paths: Sequence[Path], environment: Mapping[str, str], names: tuple[str, str]
) -> Watched:
    """Starts the sending half on alice."""
    words = [*PEER, "send", *names, *map(str, paths), *_common(server)]
    return Watched(lab.host("alice"), words, environment)


def receive(lab: Lab, server: str, out: Path, environment: Mapping[str, str], names: tuple[str, str]) -> Watched:
    """Starts the receiving half on bob; `names` are the sender's."""
    words = [*PEER, "recv", *reversed(names), "--yes", "--out", str(out), *_common(server)]
    return Watched(lab.host("bob"), words, environment)


def _common(server: str) -> list[str]:
    return ["--server", server, "--code", CODE, "--json", "--quiet"]


def events(program: Watched) -> list[tuple[float, dict[str, Any]]]:
    """What a peer said with --json, and when (monotonic seconds)."""
    return [(when, json.loads(line)) for when, line in program.lines if line.startswith("{")]


def event(program: Watched, name: str) -> tuple[float, dict[str, Any]]:
    """The first event of that name. Raises MeasuringError."""
    for when, each in events(program):
        if each["event"] == name:
            return when, each
    raise MeasuringError(f"p2p told of no event {name!r}: {program.words()}")


@dataclass(frozen=True, slots=True)
class P2P:
    """`path` is how the description of the path has to begin: a run over another one is no result."""

    path: str = "direct UDP"
    environment: Mapping[str, str] = field(default_factory=dict)
    names: tuple[str, str] = ("alice", "bob")
    name: str = "p2p"

    def missing(self) -> list[str]:
        return []

    def run(self, job: Job) -> Sample:
        return copy(job, self.start)

    @contextmanager
    def start(self, job: Job, out: Path) -> Iterator[Pair]:
        with rendezvous(job.lab) as server:
            receiver = receive(job.lab, server, out, self.environment, self.names)
            sender = send(job.lab, server, [job.source], self.environment, self.names)
            with killed_after(sender, receiver):
                yield Pair(sender, receiver, lambda: self.figures(sender, receiver))

    def figures(self, sender: Watched, receiver: Watched) -> dict[str, float]:
        """What its own transport says: `own_seconds` from the receiver's yes to its verified end, and more for UDP."""
        chosen = event(receiver, "path")[1]["description"]
        if not chosen.startswith(self.path):
            raise MeasuringError(f"the path was {chosen}, not {self.path}")
        found = {"own_seconds": float(event(receiver, "done")[1]["seconds"])}
        transport = event(sender, "done")[1].get("transport")
        if transport:
            share = transport["bytes_retransmitted"] / max(1, transport["bytes_sent"])
            found |= {"retransmitted": share, "rtt": transport["rtt"], "min_rtt": transport["min_rtt"]}
        return found
