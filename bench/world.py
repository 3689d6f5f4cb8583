"""The networks and files of one run of the benchmark: made when first asked for, gone at its end."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from enum import Enum
from pathlib import Path
from typing import Self

from bench.copying import LIMIT, Job
from bench.measure import MeasuringError, make_file
from netlab.lab import Lab
from netlab.nat import NONE, PORT_RESTRICTED
from netlab.topology import Topology, one_lan, two_nats

MEMORY = "/dev/shm"  # tmpfs: no disk decides


class Net(Enum):
    """One of the networks; every host has its own kernel-side stack, all share the machine's cores."""

    NATS = "two port-restricted NATs"
    PUBLIC = "the same routers without NAT"  # for programs that cannot punch: as many hops, and less work for each
    LAN = "one LAN"
    NATS_UNSEGMENTED = "two port-restricted NATs, no UDP segmentation offload"
    PUBLIC_UNSEGMENTED = "the same routers without NAT, no UDP segmentation offload"


_TOPOLOGIES: dict[Net, Callable[[], Topology]] = {
    Net.NATS: lambda: two_nats(PORT_RESTRICTED, PORT_RESTRICTED),
    Net.PUBLIC: lambda: two_nats(NONE, NONE),
    Net.LAN: lambda: one_lan(PORT_RESTRICTED),
    Net.NATS_UNSEGMENTED: lambda: two_nats(PORT_RESTRICTED, PORT_RESTRICTED),
    Net.PUBLIC_UNSEGMENTED: lambda: two_nats(NONE, NONE),
}
UNSEGMENTED = (Net.NATS_UNSEGMENTED, Net.PUBLIC_UNSEGMENTED)


class World(AbstractContextManager["World"]):
    """Labs and source files, kept for the length of the ``with`` block."""

    def __init__(self) -> None:
        self._exit = ExitStack()
        self._labs: dict[Net, Lab] = {}
        self._files: dict[int, tuple[Path, str]] = {}

    def __enter__(self) -> Self:
        self.folder = Path(self._exit.enter_context(tempfile.TemporaryDirectory(dir=MEMORY, prefix="p2p-bench-")))
        return self

    def __exit__(self, *_: object) -> None:
        self._exit.close()

    def at_end(self, work: Callable[[], None]) -> None:
        """Does it before all that is there now goes away."""
        self._exit.callback(work)

    def lab(self, net: Net) -> Lab:
        """The network, up. Raises MeasuringError and what `Lab` raises."""
        if net not in self._labs:
            lab = self._exit.enter_context(Lab(_TOPOLOGIES[net]()))
            if net in UNSEGMENTED:
                unsegment(lab)
            self._labs[net] = lab
        return self._labs[net]

    def source(self, size: int) -> tuple[Path, str]:
        """A file of `size` random bytes in a folder of its own, and its SHA-256."""
        if size not in self._files:
            folder = self.folder / str(size)
            folder.mkdir()
            self._files[size] = folder / "file", make_file(folder / "file", size)
        return self._files[size]

    def job(self, net: Net, size: int, limit: float = LIMIT) -> Job:
        """A file of `size` bytes to be moved in that network, in at most `limit` seconds."""
        return Job(self.lab(net), *self.source(size), limit)


def unsegment(lab: Lab) -> None:
    """Have alice's kernel cut super-packets before they leave; bob's joins them again, as a network card's driver does.

    A path over which no offload helps the sender: each datagram crosses every router by itself.
    """
    for host, feature, state in (("alice", "tx-udp-segmentation", "off"), ("bob", "generic-receive-offload", "on")):
        interface = lab.plan.attachments[host].host.interface
        done = lab.host(host).run(["ethtool", "-K", interface, feature, state], capture_output=True, text=True)
        if done.returncode != 0:
            raise MeasuringError(f"ethtool could not switch {feature} {state}: {done.stderr.strip()}")
