"""Changes to a running network: another plan, forgotten mappings, black holes, MTUs.

The edge of :mod:`netlab.events` to the kernel. But for :func:`follow`, what changes the kernel runs in
the calling thread's namespace.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from pyroute2.netlink.nfnetlink.nfctsocket import NFCTSocket

from netlab import kernel
from netlab.addressing import Address, Version
from netlab.events import Way
from netlab.filters import flush_text
from netlab.namespace import Namespace
from netlab.nat import WAN
from netlab.plan import End, NodePlan, Plan
from netlab.rules import replaced
from netlab.topology import MIN_MTU

NEXT = "next"  # a core hop's interface towards the world


def uplink(plan: Plan, where: str) -> tuple[End, End]:
    """The link from a router, or from a core hop, towards the world; raises ``ValueError`` if there is none."""
    for link in plan.links:
        for end, other in ((link.a, link.b), (link.b, link.a)):
            if end.node == where and end.interface in (WAN, NEXT):
                return end, other
    able = sorted({end.node for link in plan.links for end in (link.a, link.b) if end.interface in (WAN, NEXT)})
    raise ValueError(f"{where} has no link towards the world; these have: {', '.join(able)}")


def check_mtu(plan: Plan, ends: tuple[End, End], mtu: int) -> None:
    """Raise ``ValueError`` for an MTU with which the kernel would take IPv6 from an interface, addresses and all."""
    least = MIN_MTU[Version.IPV6]
    for end in ends:
        if mtu < least and (end.bridge or end.interface) in plan.nodes[end.node].ipv6_interfaces():
            raise ValueError(f"{end.node} speaks IPv6 there, which takes at least {least} bytes, not {mtu}")


def forget(node: NodePlan) -> None:
    """Delete every conntrack entry, and all that a router has learnt of whom to let in.

    Nothing passes meanwhile: a packet that came in between would get its old mapping again from what
    is left of it, be it another flow of its socket in conntrack, or an element of the router's maps.
    """
    table = "inet netlab-forgetting"
    kernel.nft(_replaced(table, "chain hold { type filter hook prerouting priority -300; policy drop; }"))
    try:
        with NFCTSocket() as conntrack:
            conntrack.flush()
    finally:
        kernel.nft(flush_text(node.rules.learnt) + _replaced(table, None))


def follow(old: Plan, new: Plan, namespaces: Mapping[str, Namespace]) -> None:
    """Make the network of ``old`` that of ``new``, which has the same machines and cables.

    Addresses, neighbours, routes and rules that differ change, in such an order that nothing is
    without a way meanwhile. Mappings stay as they are: see :func:`forget`.
    """
    changed = [(old.nodes[name], node) for name, node in new.nodes.items() if old.nodes[name] != node]
    for before, after in changed:
        _here(namespaces[after.name], partial(_meet, set(after.neighbours) - set(before.neighbours), "replace"))
    for before, after in changed:
        _here(namespaces[after.name], partial(_renew, before, after))
    for before, after in changed:
        _here(namespaces[after.name], partial(_meet, set(before.neighbours) - set(after.neighbours), "del"))


def _here(where: Namespace, function: Callable[[Any, dict[str, int]], None]) -> None:
    def run() -> None:
        with kernel.netlink() as ipr:
            function(ipr, {name: number for number, name in socket.if_nameindex()})

    where.call(run)


def _meet(neighbours: set[tuple[str, Address, str]], verb: str, ipr: Any, index: dict[str, int]) -> None:
    for interface, address, mac in neighbours:
        ipr.neigh(verb, dst=str(address), lladdr=mac, ifindex=index[interface], state="permanent")


def _renew(before: NodePlan, after: NodePlan, ipr: Any, index: dict[str, int]) -> None:
    for interface, address in set(after.addresses) - set(before.addresses):
        # Without it, an interface's first address takes the others of its network along when it goes.
        Path(f"/proc/sys/net/ipv4/conf/{interface}/promote_secondaries").write_text("1", encoding="ascii")
        kernel.change_address(ipr, "add", index[interface], address)
    commands, nft = replaced(before.rules, after.rules)
    kernel.iptables(commands)
    if nft:
        kernel.nft(nft)
    for interface, address in set(before.addresses) - set(after.addresses):
        kernel.change_address(ipr, "del", index[interface], address)
    for route in after.routes:  # also those that have not changed: some go with an address
        kernel.change_route(ipr, "replace", route, index)


def blackhole(port: str, way: Way | None) -> None:
    """Let what crosses a bridge port vanish: ``UP`` what comes in by it, ``DOWN`` what leaves; None ends it.

    By the port's name, so that it holds when something is spliced in behind it; ARP vanishes too.
    """
    table = f"bridge netlab-hole-{port}"
    hooks = {
        Way.UP: f'chain up {{ type filter hook prerouting priority -300; iifname "{port}" drop; }}',
        Way.DOWN: f'chain down {{ type filter hook postrouting priority 300; oifname "{port}" drop; }}',
    }
    chains = "\n".join(text for each, text in hooks.items() if way in (each, Way.BOTH))
    kernel.nft(_replaced(table, chains if way else None))


def change_mtu(interface: str, mtu: int, *, icmp: bool) -> None:
    """Take packets of at most ``mtu`` bytes on an interface; without ``icmp``, tell nobody whose packet is longer."""
    # Words of another link's MTU are none of ours.
    silent = (
        "chain out { type filter hook output priority 0;"
        f" icmp type destination-unreachable icmp code frag-needed icmp mtu {mtu} drop;"
        f" icmpv6 type packet-too-big icmpv6 mtu {mtu} drop; }}"
    )
    kernel.nft(_replaced(f"inet netlab-mtu-{interface}", None if icmp else silent))
    with kernel.netlink() as ipr:
        ipr.link("set", index=kernel.index_of(ipr, interface), mtu=mtu)


def _replaced(table: str, chains: str | None) -> str:
    """Commands that leave ``table`` with just these chains, or take it away, whether or not it is there."""
    kind, name = table.split()
    gone = f"add table {table}\ndelete table {table}\n"
    return gone if chains is None else f"{gone}table {kind} {name} {{\n{chains}\n}}\n"
