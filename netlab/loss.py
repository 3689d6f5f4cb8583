"""Random loss by the kernel itself (xt_statistic): it costs no speed, and cannot be seeded."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager

from netlab.addressing import Version
from netlab.cable import Cable
from netlab.firewall import PROGRAM
from netlab.nat import LAN, WAN


@contextmanager
def lossy(cable: Cable, probability: float, everyone: Iterable[Cable]) -> Iterator[None]:
    """Drop packets that cross ``cable`` where it leads to; see :meth:`netlab.lab.Lab.loss`.

    No host of ``everyone`` offloads segmentation meanwhile: a lost packet is one packet, not a
    super-packet of forty.
    """
    if not 0 <= probability <= 1:
        raise ValueError(f"a probability is between 0 and 1, not {probability}")
    drop = f"-m statistic --mode random --probability {probability:.9f} -j DROP"
    rules = [(program, f"FORWARD {match} {drop}") for program, match in _crossing(cable)]
    with ExitStack() as stack:
        for each in everyone:
            stack.enter_context(each.without_offloads())
        cable.router.iptables(*(f"{program} -I {rule}" for program, rule in rules))
        stack.callback(cable.router.iptables, *(f"{program} -D {rule}" for program, rule in rules))
        yield


def _crossing(cable: Cable) -> Iterator[tuple[str, str]]:
    """iptables or ip6tables, and what it must match to see each way's packets of a cable."""
    bridge = cable.attached.port.bridge
    for version in Version:
        addresses = cable.host.on(cable.attached.host.interface, version)
        if addresses and bridge != LAN:  # nobody else is on it
            yield from ((PROGRAM[version], f"-{way} {bridge}") for way in "io")
        elif addresses and cable.attached.host.interface == WAN and version is Version.IPV6:
            raise ValueError(f"{cable.host.name}: nothing tells its hosts' IPv6 from others on that LAN; use impair")
        else:
            yield from ((PROGRAM[version], f"-{way} {address}") for address in addresses for way in "sd")
