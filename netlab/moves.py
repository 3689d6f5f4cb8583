"""Networks after an event that changes them for good: another external address, other ports. Pure.

What an event makes of a topology is a topology, whose plan the kernel is made to follow.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from netlab.addressing import CORE_SIDE, FIRST_HOST
from netlab.nat import Mapping, Nat, Udp
from netlab.rules import FIRST_PORT, LAST_PORT
from netlab.topology import MAX_HOSTS, Router, Topology, all_routers

ON_CORE = range(1, CORE_SIDE)  # numbers for a router's WAN side on its own network
ON_LAN = range(FIRST_HOST + MAX_HOSTS, CORE_SIDE)  # on another router's LAN, past its members


def rebound(topology: Topology, name: str) -> Topology:
    """The router called ``name`` with the next external IPv4 address; raises ``ValueError`` if it has none."""
    router = _router(topology, name)
    if router.nat is None:
        raise ValueError(f"{name} does not carry IPv4: it has no external address to change")
    if router in topology.routers:
        numbers, now = ON_CORE, router.wan or ON_CORE.start
    else:
        numbers, now = ON_LAN, router.wan or ON_LAN.start - 1
    after = now + 1 if now + 1 in numbers else numbers.start
    return _with(topology, name, lambda each: replace(each, wan=after))


def reported(topology: Topology, name: str) -> Topology:
    """The router called ``name`` mapping to other ports; raises what :func:`other_ports` raises."""
    router = _router(topology, name)
    if router.nat is None:
        raise ValueError(f"{name} does not carry IPv4: it maps no ports")
    nat = other_ports(router.nat, len(router.lan.hosts) + len(router.lan.routers))
    return _with(topology, name, lambda each: replace(each, nat=nat))


def other_ports(nat: Nat, hosts: int) -> Nat:
    """The same mapping and filtering with other external ports for every UDP mapping; ``hosts`` on its LAN.

    A NAT that kept ports keeps them no longer: it is as if others had taken them. One with port blocks
    gives the next ones. A symmetric one that counts counts on, and one that draws at random draws
    again: its rules are as they were, and a new mapping may, by chance, get an old port. Raises
    ``ValueError`` where there are no mappings, or no other ports.
    """
    if not nat.translates:
        raise ValueError(f"{nat.name}: a router that does not translate has no ports to change")
    if nat.udp is not Udp.ALLOWED:
        raise ValueError(f"{nat.name}: a router that lets no UDP out has no UDP mappings whose ports could change")
    return replace(
        nat,
        port_preservation=False,
        port_block=_other_block(nat, nat.port_block, hosts) if nat.port_block else None,
        epoch=nat.epoch + 1 if nat.mapping is not Mapping.ADDRESS_AND_PORT_DEPENDENT else nat.epoch,
    )


def _other_block(nat: Nat, block: range, hosts: int) -> range:
    """The first host's next block, past those of all hosts; from the lowest ports again when the highest are used."""
    taken = range(block.start, block.start + hosts * len(block))
    lowest = -(-FIRST_PORT // len(block)) * len(block)
    for start in (taken.stop, lowest):
        moved = range(start, start + len(taken))
        if moved.stop <= LAST_PORT + 1 and (moved.stop <= taken.start or taken.stop <= moved.start):
            return range(start, start + len(block))
    raise ValueError(f"{nat.name}: no other port blocks are left for {hosts} hosts of {len(block)} ports each")


def _router(topology: Topology, name: str) -> Router:
    for router in (routers := list(all_routers(topology.routers))):
        if router.name == name:
            return router
    raise ValueError(f"{name} is no router; these are: {', '.join(router.name for router in routers)}")


def _with(topology: Topology, name: str, change: Callable[[Router], Router]) -> Topology:
    def changed(routers: tuple[Router, ...]) -> tuple[Router, ...]:
        behind = (replace(each, lan=replace(each.lan, routers=changed(each.lan.routers))) for each in routers)
        return tuple(change(each) if each.name == name else each for each in behind)

    return replace(topology, routers=changed(topology.routers))
