"""The thin edge to the kernel: makes what a plan says, with pyroute2, iptables-restore and nft.

pyroute2 opens its netlink socket on the thread that first uses it, in that thread's namespace, and
opens another when a different thread uses the same object. Hence: one thread per task, an object
never leaves its thread.
"""

from __future__ import annotations

import fcntl
import socket
import struct
import subprocess
import time
from array import array
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from ipaddress import IPv6Interface
from pathlib import Path
from typing import Any

from pyroute2 import IPRoute

from netlab.addressing import Interface, link_local
from netlab.namespace import Namespace, in_new_thread
from netlab.plan import MAIN, NodePlan, Plan, Route
from netlab.rules import restore_text

IFA_F_NODAD = 2  # linux/if_addr.h: it holds at once, without asking whether somebody has it
RT_SCOPE_LINK = 253  # linux/rtnetlink.h
IPV6 = Path("/proc/sys/net/ipv6/conf")
IPV6_ROUTES = Path("/proc/thread-self/net/ipv6_route")
IPV6_LIMIT, IPV6_PAUSE = 30.0, 0.001  # seconds
RTF_LOCAL = 0x80000000  # linux/ipv6_route.h
SIOCETHTOOL = 0x8946  # linux/sockios.h
# linux/ethtool.h: the legacy setters, one feature each. Checksums last: the kernel refuses
# segmentation offload without them, and drops it by itself.
ETHTOOL_GLINK = 0x0A
ETHTOOL_GRO, ETHTOOL_GSO, ETHTOOL_TSO, ETHTOOL_TX = 0x2C, 0x24, 0x1F, 0x17


NFT = ["nft", "-f", "-"]


class LabError(Exception):
    """The environment refused something that the lab needs; the message says what."""


@contextmanager
def netlink() -> Iterator[Any]:
    """A pyroute2 ``IPRoute`` for the calling thread's namespace."""
    with IPRoute() as ipr:
        yield ipr


def index_of(ipr: Any, interface: str) -> int:
    """The interface's number; raises ``LabError`` when there is none of that name."""
    found = ipr.link_lookup(ifname=interface)
    if not found:
        raise LabError(f"no interface {interface} in this namespace")
    return int(found[0])


def build(plan: Plan, namespaces: dict[str, Namespace]) -> None:
    """Make every link, address, route, set and rule of ``plan``.

    Raises ``LabError`` or pyroute2's ``NetlinkError``.
    """
    in_new_thread(lambda: _build(plan, namespaces))


def _build(plan: Plan, namespaces: dict[str, Namespace]) -> None:
    loading: list[tuple[str, subprocess.Popen[str]]] = []
    if any(node.ipv6_interfaces() for node in plan.nodes.values()) and not IPV6.exists():
        raise LabError("this kernel has no IPv6 (not built in, or switched off by ipv6.disable=1 when booting)")
    try:
        for node in plan.nodes.values():
            namespaces[node.name].enter()
            _sysctls(node)
            # Rules may name interfaces that do not exist yet, so they load while links are made.
            loading += [(node.name, each) for each in _start_restores((*node.rules.commands, *node.rules6))]
            if node.rules.nft:
                loading.append((node.name, _start(NFT, node.rules.nft)))
        _network(plan, namespaces)
    finally:
        failed = [f"{name}: {why}" for name, started in loading if (why := _finish(started))]
    if failed:
        raise LabError("; ".join(failed))


def _sysctls(node: NodePlan) -> None:
    for path, value in node.sysctls:
        file = Path("/proc/sys", path)
        try:
            file.write_text(value, encoding="ascii")
        except FileNotFoundError:
            # The kernel was built without that part (IPv6, br_netfilter): nothing to switch off.
            continue
        except OSError as error:
            raise LabError(f"cannot write {value} to {file}: {error.strerror}") from error


def _start_restores(commands: Iterable[str]) -> list[subprocess.Popen[str]]:
    """One process for iptables commands and one for ip6tables commands, as needed; raises ``ValueError`` for others."""
    by_program: dict[str, list[str]] = {}
    for command in commands:
        words = command.split(maxsplit=1)
        by_program.setdefault(words[0] if words else "", []).append(command)
    texts = {program: restore_text(lines, program) for program, lines in by_program.items()}
    return [_start([f"{program}-restore", "--noflush", "--wait"], text) for program, text in texts.items()]


def _start(argv: list[str], text: str) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        argv,
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdin is not None
    process.stdin.write(text)
    process.stdin.close()
    return process


def _finish(process: subprocess.Popen[str]) -> str:
    """Wait; returns what went wrong, or nothing."""
    assert process.stderr is not None
    with process.stderr:
        words = process.stderr.read().strip()
    if process.wait() == 0:
        return ""
    assert isinstance(process.args, list)
    return f"{process.args[0]} failed: {words or f'exit {process.returncode}'}"


def iptables(commands: Iterable[str]) -> None:
    """Run ``iptables`` and ``ip6tables`` commands in the calling thread's namespace; raises ``LabError``."""
    if failed := [why for started in _start_restores(commands) if (why := _finish(started))]:
        raise LabError("; ".join(failed))


def nft(text: str) -> None:
    """Run nftables commands, all or none, in the calling thread's namespace; raises ``LabError``."""
    if why := _finish(_start(NFT, text)):
        raise LabError(why)


def _network(plan: Plan, namespaces: dict[str, Namespace]) -> None:
    links: dict[str, Any] = {}
    try:
        for name, namespace in namespaces.items():
            namespace.enter()
            links[name] = IPRoute()
        for node in plan.nodes.values():
            for bridge in node.bridges:
                # Snooping would speak itself (IGMP and MLD), and forget groups that nobody asks for.
                links[node.name].link(
                    "add", ifname=bridge, kind="bridge", address=node.macs[bridge], br_mcast_snooping=0
                )
        for link in plan.links:
            a, b = link.a, link.b
            mac, peer_mac = (plan.nodes[end.node].macs[end.interface] for end in (a, b))
            veth(
                links[a.node],
                {"ifname": a.interface, "address": mac, "mtu": link.mtu},
                {"ifname": b.interface, "address": peer_mac, "mtu": link.mtu},
                namespaces[b.node],
            )
        for node in plan.nodes.values():
            namespaces[node.name].enter()
            _configure(links[node.name], plan, node)
        for node in plan.nodes.values():
            namespaces[node.name].enter()
            await_carrier(*node.macs)  # in this order: a node's links, then its bridges
            _await_ipv6(node)
    finally:
        for ipr in links.values():
            ipr.close()


def _await_ipv6(node: NodePlan) -> None:
    """Wait until packets to the node's IPv6 addresses are taken in.

    The kernel enters the route of a new one in a work queue (addrconf_dad_work), also of one that it
    need not ask about; until then it drops them. Raises ``LabError``.
    """
    wanted = {address.ip.packed.hex() for _, address in _ipv6(node)}
    deadline = time.monotonic() + IPV6_LIMIT
    while wanted:
        routes = (line.split() for line in IPV6_ROUTES.read_text(encoding="ascii").splitlines())
        wanted -= {route[0] for route in routes if int(route[8], 16) & RTF_LOCAL}
        if wanted and time.monotonic() > deadline:
            raise LabError(f"{node.name}: the kernel does not take in what is for {', '.join(sorted(wanted))}")
        if wanted:
            time.sleep(IPV6_PAUSE)


def _ipv6(node: NodePlan) -> list[tuple[str, Interface]]:
    """Its addresses in the order in which to give them: sending, the kernel prefers the last one."""
    local = [(where, IPv6Interface((link_local(node.macs[where]), 64))) for where in node.ipv6_interfaces()]
    return [*reversed([each for each in node.addresses if each[1].version == 6]), *local]


def veth(ipr: Any, here: dict[str, Any], there: dict[str, Any], peer_namespace: Namespace) -> None:
    """A veth pair (names, perhaps MACs and MTUs, of both ends) from ``ipr``'s namespace to ``peer_namespace``."""
    ipr.link("add", kind="veth", peer={**there, "net_ns_fd": peer_namespace.fd}, **here)


def _configure(ipr: Any, plan: Plan, node: NodePlan) -> None:
    """Of one node, in the calling thread's namespace: interfaces up, then addresses, neighbours and routes."""
    index = {name: number for number, name in socket.if_nameindex()}  # an ioctl: 2 ms less than by netlink
    for interface in node.ipv6_interfaces():
        (IPV6 / interface / "disable_ipv6").write_text("0", encoding="ascii")
    master = {
        end.interface: index[end.bridge]
        for link in plan.links
        for end in (link.a, link.b)
        if end.node == node.name and end.bridge
    }
    ours = {end.interface for link in plan.links for end in (link.a, link.b) if end.node == node.name}
    for interface in ("lo", *node.bridges, *sorted(ours)):
        port = {"master": master[interface]} if interface in master else {}
        ipr.link("set", index=index[interface], state="up", **port)
    ipv4 = [each for each in node.addresses if each[1].version == 4]
    for interface, address in (*ipv4, *_ipv6(node)):  # sending, the kernel prefers the first one of IPv4
        change_address(ipr, "add", index[interface], address)
    for interface, neighbour, mac in node.neighbours:
        ipr.neigh("add", dst=str(neighbour), lladdr=mac, ifindex=index[interface], state="permanent")
    for route in node.routes:
        change_route(ipr, "add", route, index)
    for source, table in node.sources:
        ipr.rule("add", src=str(source), src_len=source.max_prefixlen, table=table, family=_family(source.version))


def change_address(ipr: Any, verb: str, index: int, address: Interface) -> None:
    """``verb``: add or del."""
    more: dict[str, Any] = {"broadcast": str(address.network.broadcast_address)}
    if address.version == 6:
        more = {"flags": IFA_F_NODAD, "scope": RT_SCOPE_LINK if address.is_link_local else 0}
    ipr.addr(verb, index=index, address=str(address.ip), prefixlen=address.network.prefixlen, **more)


def change_route(ipr: Any, verb: str, route: Route, index: dict[str, int]) -> None:
    """``verb``: add, replace or del; ``index`` of interfaces by name."""
    way: dict[str, Any] = {"priority": route.metric} if route.metric else {}
    if route.gateway is not None:
        way["gateway"] = str(route.gateway)
    if route.interface:
        way["oif"] = index[route.interface]
    if route.gateway is None and not route.interface:
        way["type"] = "unreachable"
    if route.table != MAIN:
        way["table"] = route.table
    ipr.route(verb, dst=str(route.to), family=_family(route.to.version), **way)


def _family(version: int) -> int:
    return socket.AF_INET if version == 4 else socket.AF_INET6


def set_link(interface: str, *, up: bool) -> None:
    """Bring an interface of the calling thread's namespace up or down."""
    with netlink() as ipr:
        ipr.link("set", index=index_of(ipr, interface), state="up" if up else "down")


def set_offloads(interface: str, *, on: bool) -> None:
    """``ethtool -K INTERFACE tx .. tso .. gso .. gro ..`` in the calling thread's namespace.

    Off, every packet on the wire is at most one MTU long and bears a finished checksum.
    Raises ``OSError``.
    """
    features = (ETHTOOL_GRO, ETHTOOL_GSO, ETHTOOL_TSO, ETHTOOL_TX)
    # GRO is off on a veth by default, and on makes it a NAPI device: never switch it on.
    for feature in (ETHTOOL_TX, ETHTOOL_TSO, ETHTOOL_GSO) if on else features:
        _ethtool(interface, feature, int(on))


def await_carrier(*interfaces: str) -> None:
    """Have the kernel act on a change of carrier now: ports before their bridge.

    It does so in a work queue of its own, and until then the interface drops all it is given, so
    the first packets after "up" would get lost or not, as chance has it. Asking for the link state
    by ethtool runs what is due. Raises ``OSError``.
    """
    for interface in interfaces:
        _ethtool(interface, ETHTOOL_GLINK, 0)


def await_every_carrier() -> None:
    """The same for whatever is in the calling thread's namespace."""
    names = [name for _, name in socket.if_nameindex()]
    await_carrier(*names, *names)  # twice: bridges after ports, whatever their order


def _ethtool(interface: str, command: int, value: int) -> None:
    data = array("B", struct.pack("II", command, value))
    request = struct.pack("16sP", interface.encode(), data.buffer_info()[0])
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        fcntl.ioctl(control, SIOCETHTOOL, request)


def splice(port: str, bridge: str, router: Namespace, middle: Namespace, *, near: str, far: str, mtu: int) -> None:
    """Put the empty namespace ``middle`` between the bridge port ``port`` and its host.

    The port's own interface moves into ``middle`` as ``near``; a new veth pair (``mtu`` in bytes)
    joins ``far`` in ``middle`` to a new ``port``. Undone by :func:`unsplice`.
    """

    def run() -> None:
        router.enter()
        with netlink() as ipr:
            index = index_of(ipr, port)
            ipr.link("set", index=index, state="down", master=0)
            ipr.link("set", index=index, ifname=near, net_ns_fd=middle.fd)
            veth(ipr, {"ifname": port, "mtu": mtu}, {"ifname": far, "mtu": mtu}, middle)
            ipr.link("set", index=index_of(ipr, port), master=index_of(ipr, bridge), state="up")
        middle.enter()
        with netlink() as ipr:
            for interface in (near, far):
                ipr.link("set", index=index_of(ipr, interface), state="up")
        await_carrier(near, far)
        router.enter()
        await_carrier(port, bridge)

    in_new_thread(run)


def unsplice(port: str, bridge: str, router: Namespace, middle: Namespace, *, near: str, far: str) -> None:
    """Take ``middle`` out again: what :func:`splice` did, backwards."""

    def run() -> None:
        middle.enter()
        with netlink() as ipr:
            ipr.link("del", index=index_of(ipr, far))
            index = index_of(ipr, near)
            ipr.link("set", index=index, state="down")
            ipr.link("set", index=index, ifname=port, net_ns_fd=router.fd)
        router.enter()
        with netlink() as ipr:
            ipr.link("set", index=index_of(ipr, port), master=index_of(ipr, bridge), state="up")
        await_carrier(port, bridge)

    in_new_thread(run)
