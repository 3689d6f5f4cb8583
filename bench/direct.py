"""Two machines as close as they can be: on one LAN, and through two NATs, as fast as the cores go."""

from __future__ import annotations

from dataclasses import dataclass, replace

from bench.copying import Rival
from bench.rivals import need_program
from bench.rivals.iperf3 import Iperf3
from bench.rivals.ours import P2P
from bench.rows import Group, Row, Sample
from bench.world import Net, World

GIGABIT = 1e9
PATIENCE = 120.0  # seconds; whoever takes longer is cut off
STREAMING = 3  # seconds of iperf3: a file's worth would be over before its rate has settled


@dataclass(frozen=True, slots=True)
class Part:
    """The rows of one group, for files of `size` bytes."""

    world: World
    group: Group
    size: int
    reference: str

    def row(self, name: str, rival: Rival, net: Net, missing: tuple[str, ...] = ()) -> Row:
        """`missing`: what else is not there, beside what the rival lacks."""

        def run() -> Sample:
            sample = rival.run(self.world.job(net, self.size, PATIENCE))
            return replace(sample, value=sample.value / GIGABIT)

        reference = None if name == self.reference else self.reference
        return Row(self.group, name, run, reference, rival.name, (*rival.missing(), *missing))


def lan_rows(world: World, size: int) -> list[Row]:
    """LAN TCP beside iperf3's."""
    part = Part(world, Group("lan", "Same network", "Gbit/s", "alice and bob on one switch"), size, "iperf3 TCP")
    return [part.row("iperf3 TCP", Iperf3(seconds=STREAMING), Net.LAN), part.row("p2p TCP", P2P("direct TCP"), Net.LAN)]


def punched_rows(world: World, size: int, rivals: list[Rival]) -> list[Row]:
    """Punched UDP beside iperf3's TCP and other programs.

    iperf3 and p2p cross two port-restricted NATs. The others get public addresses behind as many routers, which
    favours them: they have nobody to be introduced by, and the routers need not translate.
    """
    note = "p2p and iperf3 through port-restricted NATs; all others with public addresses and as many hops"
    part = Part(world, Group("punched", "Through two routers", "Gbit/s", note), size, "iperf3 TCP")
    ethtool = tuple(need_program("ethtool", "ethtool"))
    rows = [part.row("iperf3 TCP", Iperf3(seconds=STREAMING), Net.NATS), part.row("p2p UDP", P2P(), Net.NATS)]
    rows += [part.row(each.name, each, Net.PUBLIC) for each in rivals]
    rows += [part.row("p2p UDP, path without offload", P2P(), Net.NATS_UNSEGMENTED, ethtool)]
    rows += [
        part.row("iroh, path without offload", each, Net.PUBLIC_UNSEGMENTED, ethtool)
        for each in rivals
        if each.name == "iroh"
    ]
    plain = P2P(environment={"P2P_NO_GSO": "1"})
    rows.append(part.row("p2p UDP, no offload at all", plain, Net.NATS))
    return rows
