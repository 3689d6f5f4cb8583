"""iperf3: one TCP stream from memory to memory, no disk and no encryption. It reports its own rate.

A NAT in front of bob is told to let it in (DNAT), so it crosses the same routers as p2p does.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

from bench.copying import GUARD, Job, killed_after
from bench.measure import MeasuringError, Watched
from bench.rivals import need_program
from bench.rows import Sample
from netlab.lab import Lab

PORT = 5201


@dataclass(frozen=True, slots=True)
class Iperf3:
    """`congestion`: the kernel's algorithm, or its default for None. `seconds`: it sends for so long, not the size."""

    congestion: str | None = None
    seconds: int | None = None
    name: str = "iperf3"

    def missing(self) -> list[str]:
        return need_program("iperf3", "iperf3")

    def run(self, job: Job) -> Sample:
        amount = ["-n", str(job.size)] if self.seconds is None else ["-t", str(self.seconds)]
        server, client = started(job.lab, amount, self.congestion)
        with killed_after(server, client):
            sent, received = client.finish(job.limit), server.finish(GUARD)
            end = report(client)["end"]["sum_received"]
        extra = {"seconds": float(end["seconds"])}
        return Sample(float(end["bits_per_second"]), int(end["bytes"]), sent, received, extra)


def started(
    lab: Lab, amount: list[str], congestion: str | None, reporting: Sequence[str] = ()
) -> tuple[Watched, Watched]:
    """A server on bob, which reports as told, and a client on alice that sends to it."""
    bob = lab.host("bob")
    server = Watched(bob, ["iperf3", "-s", "-1", "--forceflush", "-p", str(PORT), *reporting])
    server.wait_for("listening", GUARD)
    chosen = ["-C", congestion] if congestion else []
    command = ["iperf3", "-c", _target(lab), "-p", str(PORT), *amount, *chosen, "-J"]
    return server, Watched(lab.host("alice"), command)


def report(client: Watched) -> dict[str, dict[str, dict[str, float]]]:
    """What the client wrote with -J. Raises MeasuringError."""
    found: dict[str, dict[str, dict[str, float]]] = json.loads("\n".join(text for _, text in client.lines))
    if "error" in found:
        raise MeasuringError(f"iperf3: {found['error']}")
    return found


def _target(lab: Lab) -> str:
    """bob's address as alice sees it; his router forwards the port to him if he is behind one that translates."""
    bob = lab.host("bob").address
    if not bob.startswith("192.168.") or "right" not in lab.plan.nodes:
        return bob
    right = lab.host("right")
    rule = f"PREROUTING -i wan -p tcp --dport {PORT} -j DNAT --to {bob}"
    right.iptables("iptables -t nat -F PREROUTING", f"iptables -t nat -A {rule}")
    return right.address
