"""The thin edge to the kernel: makes what a plan says, with pyroute2 and iptables-restore.

pyroute2 opens its netlink socket on the thread that first uses it, in that thread's namespace, and
opens another when a different thread uses the same object. Hence: one thread per task, an object
never leaves its thread.
"""

from __future__ import annotations

import fcntl
import socket
import struct
import subprocess
from array import array
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pyroute2 import IPRoute, IPSet

from netlab import nat
from netlab.namespace import Namespace, in_new_thread
from netlab.plan import EVERYWHERE, NodePlan, Plan

SIOCETHTOOL = 0x8946  # linux/sockios.h
# linux/ethtool.h: the legacy setters, one feature each. Checksums last: the kernel refuses
# segmentation offload without them, and drops it by itself.
ETHTOOL_GLINK = 0x0A
ETHTOOL_GRO, ETHTOOL_GSO, ETHTOOL_TSO, ETHTOOL_TX = 0x2C, 0x24, 0x1F, 0x17


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
    restores = []
    try:
        for node in plan.nodes.values():
            namespaces[node.name].enter()
            _sysctls(node)
            if node.rules.commands:
                _ipsets(node.rules.sets)
                # Rules may name interfaces that do not exist yet, so they load while links are made.
                restores.append((node, _start_restore(node.rules.commands)))
        _network(plan, namespaces)
    finally:
        failed = [f"{node.name}: {why}" for node, started in restores if (why := _finish(started))]
    if failed:
        raise LabError("iptables-restore failed: " + "; ".join(failed))


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


def _ipsets(sets: Iterable[nat.SetSpec]) -> None:
    for spec in sets:
        with IPSet() as ipset:
            options: dict[str, Any] = {"timeout": spec.timeout}
            if spec.kind is nat.SetKind.BITMAP_PORT:
                options["bitmap_ports_range"] = (nat.FIRST_PORT, nat.LAST_PORT)
            ipset.create(spec.name, spec.kind.value, **options)


def _start_restore(commands: Iterable[str]) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        ["iptables-restore", "--noflush", "--wait"],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdin is not None
    process.stdin.write(nat.restore_text(commands))
    process.stdin.close()
    return process


def _finish(process: subprocess.Popen[str]) -> str:
    """Wait; returns what went wrong, or nothing."""
    assert process.stderr is not None
    with process.stderr:
        words = process.stderr.read().strip()
    return "" if process.wait() == 0 else words or f"exit {process.returncode}"


def iptables(commands: Iterable[str]) -> None:
    """Run ``iptables`` commands in the calling thread's namespace; raises ``LabError``."""
    if why := _finish(_start_restore(commands)):
        raise LabError(f"iptables-restore failed: {why}")


def _network(plan: Plan, namespaces: dict[str, Namespace]) -> None:
    links: dict[str, Any] = {}
    try:
        for name, namespace in namespaces.items():
            namespace.enter()
            links[name] = IPRoute()
        for node in plan.nodes.values():
            for bridge in node.bridges:
                links[node.name].link("add", ifname=bridge, kind="bridge", address=node.macs[bridge])
        for link in plan.links:
            a, b = link.a, link.b
            mac, peer_mac = (plan.nodes[end.node].macs[end.interface] for end in (a, b))
            veth(
                links[a.node],
                {"ifname": a.interface, "address": mac},
                {"ifname": b.interface, "address": peer_mac},
                namespaces[b.node],
            )
        for node in plan.nodes.values():
            _configure(links[node.name], plan, node)
        for node in plan.nodes.values():
            namespaces[node.name].enter()
            await_carrier(*node.macs)  # in this order: a node's links, then its bridges
    finally:
        for ipr in links.values():
            ipr.close()


def veth(ipr: Any, here: dict[str, str], there: dict[str, str], peer_namespace: Namespace) -> None:
    """A veth pair (names, perhaps MACs, of both ends) from ``ipr``'s namespace to ``peer_namespace``."""
    ipr.link("add", kind="veth", peer={**there, "net_ns_fd": peer_namespace.fd}, **here)


def _configure(ipr: Any, plan: Plan, node: NodePlan) -> None:
    index = {link.get_attr("IFLA_IFNAME"): link["index"] for link in ipr.get_links()}
    for interface, address in node.addresses:
        ipr.addr(
            "add",
            index=index[interface],
            address=str(address.ip),
            prefixlen=address.network.prefixlen,
            broadcast=str(address.network.broadcast_address),
        )
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
    for interface, neighbour, mac in node.neighbours:
        ipr.neigh("add", dst=str(neighbour), lladdr=mac, ifindex=index[interface], state="permanent")
    for network, gateway in node.routes:
        where = "default" if network == EVERYWHERE else str(network)
        ipr.route("add", dst=where, gateway=str(gateway))


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


def _ethtool(interface: str, command: int, value: int) -> None:
    data = array("B", struct.pack("II", command, value))
    request = struct.pack("16sP", interface.encode(), data.buffer_info()[0])
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        fcntl.ioctl(control, SIOCETHTOOL, request)


def splice(port: str, bridge: str, router: Namespace, middle: Namespace, *, near: str, far: str) -> None:
    """Put the empty namespace ``middle`` between the bridge port ``port`` and its host.

    The port's own interface moves into ``middle`` as ``near``; a new veth pair joins ``far`` in
    ``middle`` to a new ``port``. Undone by :func:`unsplice`.
    """

    def run() -> None:
        router.enter()
        with netlink() as ipr:
            index = index_of(ipr, port)
            ipr.link("set", index=index, state="down", master=0)
            ipr.link("set", index=index, ifname=near, net_ns_fd=middle.fd)
            veth(ipr, {"ifname": port}, {"ifname": far}, middle)
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
