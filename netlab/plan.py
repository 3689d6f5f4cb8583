"""A topology spelled out for the kernel: nodes, cables, addresses, routes, rules. Pure.

Which address is where: :mod:`netlab.addressing`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Interface
from itertools import pairwise

from netlab.addressing import (
    CORE_SIDE,
    FIRST_HOST,
    Address,
    Interface,
    Network,
    Version,
    between_hops,
    lan,
    link_local,
    of_server,
    place,
    wan,
)
from netlab.firewall import firewall
from netlab.nat import LAN, WAN, Mapping, Nat
from netlab.rules import ADDRESS_MASK, Ruleset, address_mask, ruleset
from netlab.topology import PLAIN, Host, Link, Router, ServerHost, Topology, all_routers, core_names

MAIN = 254  # the kernel's ordinary routing table, linux/rtnetlink.h
FIRST_TABLE = 100  # of a multi-homed host: this for eth0, the next for eth1
METRIC = 100  # of a multi-homed host's default route by eth0; by eth1 twice that
LAST_METRIC = 4_000_000_000  # of the route that is taken when all others are gone

_QUIET = (
    # IPv6 is switched on for an interface that has an IPv6 address, and for no other: its neighbour
    # discovery would put unasked packets between those a test counts.
    ("net/ipv6/conf/default/disable_ipv6", "1"),
)
_NO_IPV6 = (*_QUIET, ("net/ipv6/conf/all/disable_ipv6", "1"))
_IPV6 = (
    *_QUIET,
    # Addresses, link-local ones included, and routes are given; nobody makes them up or asks for them.
    ("net/ipv6/conf/default/addr_gen_mode", "1"),
    ("net/ipv6/conf/default/accept_ra", "0"),
)
# Nor says anybody which groups he is in (MLDv2 reports, RFC 3810 section 5.2), as each machine would some seconds long
# after it is up: bridges do not listen for that, so every group is reached.
_NO_REPORTS = ("ip6tables -A OUTPUT -p icmpv6 --icmpv6-type 143 -j DROP",)
_ENDING = (("net/ipv4/ip_forward", "0"),)  # a new namespace has it as the machine's own has it
_FORWARDING = (
    ("net/ipv4/ip_forward", "1"),
    ("net/ipv4/conf/all/rp_filter", "0"),
    ("net/ipv4/conf/default/rp_filter", "0"),
    # With 1, frames that a bridge only passes on would run through the router's own rules.
    ("net/bridge/bridge-nf-call-iptables", "0"),
    ("net/bridge/bridge-nf-call-ip6tables", "0"),
)
_FORWARDING_IPV6 = (("net/ipv6/conf/all/forwarding", "1"),)
_MULTI_HOMED = (
    # Without this a route stays in use although its cable is pulled.
    ("net/ipv4/conf/default/ignore_routes_with_linkdown", "1"),
    ("net/ipv6/conf/default/ignore_routes_with_linkdown", "1"),
    ("net/ipv4/conf/all/rp_filter", "0"),
    ("net/ipv4/conf/default/rp_filter", "0"),
)


@dataclass(frozen=True, slots=True)
class End:
    """One end of a veth pair; a port of ``bridge`` when that is given."""

    node: str
    interface: str
    bridge: str = ""


@dataclass(frozen=True, slots=True)
class Veth:
    """A veth pair; ``mtu`` in bytes, of both ends."""

    a: End
    b: End
    mtu: int = PLAIN.mtu


@dataclass(frozen=True, slots=True)
class Route:
    """By ``gateway`` or, without one, straight from ``interface``; without either, unreachable."""

    to: Network
    gateway: Address | None = None
    interface: str = ""
    metric: int = 0
    table: int = MAIN


@dataclass(slots=True)
class NodePlan:
    """One namespace. Sysctls are paths under /proc/sys; what the kernel lacks of them is no error.

    ``sources``: packets from this address are routed by that table. ``rules`` are for IPv4,
    ``rules6`` the ``ip6tables`` commands.
    """

    name: str
    sysctls: tuple[tuple[str, str], ...] = ()
    bridges: list[str] = field(default_factory=list)
    addresses: list[tuple[str, Interface]] = field(default_factory=list)
    routes: list[Route] = field(default_factory=list)
    sources: list[tuple[Address, int]] = field(default_factory=list)
    macs: dict[str, str] = field(default_factory=dict)  # by interface, bridges included
    neighbours: list[tuple[str, Address, str]] = field(default_factory=list)  # interface, address, MAC
    rules: Ruleset = field(default_factory=Ruleset)
    rules6: tuple[str, ...] = ()

    def ipv6_interfaces(self) -> list[str]:
        """Where it speaks IPv6, in order."""
        return list(dict.fromkeys(where for where, address in self.addresses if address.version == 6))


@dataclass(frozen=True, slots=True)
class Attachment:
    """A cable that can be pulled, spoilt and spied on: where a host, a server or a router's WAN side
    meets the router or core hop that forwards for it."""

    host: End
    port: End  # a bridge port
    link: Link


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything :mod:`netlab.kernel` has to make.

    Attachments are called after their machine: ``alice`` (eth0), ``alice:eth1``, ``left`` (wan).
    """

    nodes: dict[str, NodePlan]
    links: list[Veth]
    attachments: dict[str, Attachment]

    def attachment_name(self, name: str) -> str:
        """The name of the attachment that ``name`` means: ``alice:eth0`` is ``alice``.

        Raises ``KeyError`` naming those there are.
        """
        node, _, interface = name.partition(":")
        for key in (name, node):
            if key in self.attachments and interface in ("", self.attachments[key].host.interface):
                return key
        raise KeyError(f"no link {name!r} in this lab; there are: {', '.join(self.attachments)}")


def plan(topology: Topology) -> Plan:
    """Allocate addresses and spell out every cable, route and rule; the same input, the same plan.

    Raises ``ValueError`` for what no rule makes, naming the profile.
    """
    made = _planned(topology, ADDRESS_MASK)
    if any(router.nat and router.nat.mapping is Mapping.ADDRESS_DEPENDENT for router in all_routers(topology.routers)):
        mask = address_mask(_public(made, topology))
        if mask != ADDRESS_MASK:
            return _planned(topology, mask)
    return made


def _public(made: Plan, topology: Topology) -> list[IPv4Address]:
    """The IPv4 addresses that a packet on the core may be for."""
    names = [server.name for server in topology.servers]
    reached = list(topology.routers)
    for router in reached:
        names.append(router.name)
        if router.nat is not None and not router.nat.translates:
            names += [host.name for host in router.lan.hosts]
            reached += router.lan.routers
    addresses = (address for name in names for where, address in made.nodes[name].addresses if where != LAN)
    return [address.ip for address in addresses if isinstance(address, IPv4Interface)]


def _planned(topology: Topology, mask: int) -> Plan:
    made = Plan({}, [], {})
    _cable(made, topology)
    for version in Version:
        if topology.carries(version):
            _Numbering(made, topology, version, mask).number()
    for node in made.nodes.values():
        forwards = bool(node.bridges) or node.name in core_names(topology.core)
        node.sysctls = _sysctls(node, forwards) + node.rules.sysctls
        if node.ipv6_interfaces():
            node.rules6 += _NO_REPORTS
    _acquaint(made)
    return made


def _cable(made: Plan, topology: Topology) -> None:
    """Nodes, bridges and cables, from the core outwards."""
    for name in core_names(topology.core):
        made.nodes[name] = NodePlan(name)
    for one, two in pairwise(core_names(topology.core)):
        made.links.append(Veth(End(one, "next"), End(two, "prev")))
    for core, router in _hooked(topology):
        _hook(made, router.name, WAN, core, router.link)
        _cable_lan(made, router)
    for core, server in _hooked_servers(topology):
        _hook(made, server.name, "eth0", core, server.link)


def _hook(made: Plan, name: str, interface: str, core: str, link: Link) -> None:
    # A bridge with one port: so all meet their router in the same way, and the same can be done to
    # each one's cable.
    bridge = bridge_of(name)
    made.nodes[core].bridges.append(bridge)
    _plug(made, End(name, interface), End(core, f"p-{name}", bridge), link)


def _cable_lan(made: Plan, router: Router) -> None:
    made.nodes[router.name].bridges.append(LAN)
    for member in _members(router):
        port = End(router.name, f"p-{member.name}", LAN)
        if isinstance(member, Router):
            _plug(made, End(member.name, WAN), port, member.link)
            _cable_lan(made, member)
        else:
            number = sum(each.host.node == member.name for each in made.attachments.values())
            _plug(made, End(member.name, f"eth{number}"), port, member.link_of(number))


def _plug(made: Plan, end: End, port: End, link: Link) -> None:
    name = f"{end.node}:{end.interface}" if end.node in made.attachments else end.node
    made.nodes.setdefault(end.node, NodePlan(end.node))
    made.attachments[name] = Attachment(end, port, link)
    made.links.append(Veth(end, port, link.mtu))


class _Numbering:
    """Addresses, routes and rules of one IP version, for cables that lie already."""

    def __init__(self, made: Plan, topology: Topology, version: Version, mask: int) -> None:
        self.nodes, self.topology, self.version, self.mask = made.nodes, topology, version, mask
        self.numbers = {router.name: i for i, router in enumerate(all_routers(topology.routers))}
        self.interfaces: dict[str, list[Attachment]] = {}  # by host
        for attached in made.attachments.values():
            self.interfaces.setdefault(attached.host.node, []).append(attached)

    def number(self) -> None:
        cores = core_names(self.topology.core)
        for here, (one, two) in enumerate(pairwise(cores)):
            net = between_hops(self.version, here)
            self.nodes[one].addresses.append(("next", place(net, 1)))
            self.nodes[two].addresses.append(("prev", place(net, 2)))
            for far, name in enumerate(cores):
                if far not in (here, here + 1):
                    self.nodes[name].routes += self._towards(far, here, net, None)
        public: list[tuple[str, Network, Address | None]] = []  # core hop, network, gateway
        for core, router in _hooked(self.topology):
            if router.profile(self.version) is not None:
                net = wan(self.version, self.numbers[router.name])
                gateway = self._on_core(core, router.name, net)
                address = place(net, self._number_of(router, 1))
                behind = self._site(router, address, gateway)
                public += [(core, net, None), *((core, each, address.ip) for each in behind)]
        for i, (core, server) in enumerate(_hooked_servers(self.topology)):
            if server.speaks(self.version):
                net = of_server(self.version, i)
                gateway = self._on_core(core, server.name, net)
                self._end(server.name, [place(net, 1 + n) for n in range(server.addresses)], gateway, 0)
                public.append((core, net, None))
        for i, core in enumerate(cores):
            for hop, net, via in public:
                self.nodes[core].routes += self._towards(i, cores.index(hop), net, via)

    def _towards(self, here: int, there: int, net: Network, via: Address | None) -> list[Route]:
        """From core hop ``here`` to a network that hangs on hop ``there``, on it (``via`` None) or behind it."""
        if there > here:
            return [Route(net, place(between_hops(self.version, here), 2).ip)]
        if there < here:
            return [Route(net, place(between_hops(self.version, here - 1), 1).ip)]
        return [Route(net, via)] if via is not None else []

    def _on_core(self, core: str, name: str, net: Network) -> Address:
        gateway = place(net, CORE_SIDE)
        self.nodes[core].addresses.append((bridge_of(name), gateway))
        return gateway.ip

    def _site(self, router: Router, address: Interface, gateway: Address) -> list[Network]:
        """Number a router and all behind it; returns the networks that are reached through it."""
        node, nat = self.nodes[router.name], router.profile(self.version)
        assert nat is not None
        net = lan(self.version, self.numbers[router.name], translated=nat.translates)
        if self.version is Version.IPV4:
            net = router.lan.network or net
        inside = place(net, 1)
        node.addresses += [(WAN, address), (LAN, inside)]
        node.routes.append(Route(self.version.everywhere, gateway))
        behind = [net]
        members = [(self._number_of(each, number), each) for number, each in enumerate(_members(router), FIRST_HOST)]
        self._rules(router, nat, address, [place(net, number) for number, _ in members])
        for number, member in members:
            if isinstance(member, Host):
                port = f"p-{member.name}"
                ports = [(each.port.node, each.port.interface) for each in self.interfaces[member.name]]
                self._end(member.name, [place(net, number)], inside.ip, ports.index((router.name, port)))
            elif member.profile(self.version) is not None:
                reached = self._site(member, place(net, number), inside.ip)
                node.routes += [Route(each, place(net, number).ip) for each in reached]
                behind += reached
        return [] if nat.translates else behind

    def _number_of(self, member: Host | Router, number: int) -> int:
        """``number``, unless a router has another one of its own."""
        if isinstance(member, Router) and member.wan is not None and self.version is Version.IPV4:
            return member.wan
        return number

    def _rules(self, router: Router, nat: Nat, address: Interface, members: list[Interface]) -> None:
        node = self.nodes[router.name]
        if nat.translates and isinstance(address, IPv4Interface):
            hosts = [member.ip for member in members if isinstance(member, IPv4Interface)]
            node.rules = ruleset(nat, address.ip, hosts, guarded=router.guarded, mask=self.mask)
        elif self.version is Version.IPV4:
            node.rules = Ruleset(commands=firewall(nat, self.version))
        else:
            node.rules6 = firewall(nat, self.version)

    def _end(self, name: str, addresses: list[Interface], gateway: Address, number: int) -> None:
        """Number interface ``number`` of a host or server."""
        node, everywhere = self.nodes[name], self.version.everywhere
        interface = self.interfaces[name][number].host.interface
        node.addresses += [(interface, address) for address in addresses]
        if len(self.interfaces[name]) == 1:
            node.routes.append(Route(everywhere, gateway))
            return
        table = FIRST_TABLE + number
        node.routes += [
            Route(everywhere, gateway, interface, METRIC * (number + 1)),
            Route(addresses[0].network, None, interface, table=table),
            Route(everywhere, gateway, interface, table=table),
            # Rather nowhere than by another interface, whose network would not take such a source.
            Route(everywhere, metric=LAST_METRIC, table=table),
        ]
        node.sources += [(address.ip, table) for address in addresses]


def _sysctls(node: NodePlan, forwards: bool) -> tuple[tuple[str, str], ...]:
    ipv6 = bool(node.ipv6_interfaces())
    made: tuple[tuple[str, str], ...] = _IPV6 if ipv6 else _NO_IPV6
    if not forwards:
        made += _ENDING
    else:
        made += _FORWARDING + (_FORWARDING_IPV6 if ipv6 else ())
    return made + (_MULTI_HOMED if node.sources else ())


def _acquaint(made: Plan) -> None:
    """Give every interface a MAC, and everyone on a segment permanent entries for the others.

    While an address is being resolved the kernel queues packets and lets later ones overtake them:
    "the third packet" would then be another one from run to run.
    """
    segments: dict[tuple[str, str], list[tuple[str, str]]] = {}
    for link in made.links:
        top = (link.b.node, link.b.bridge or link.b.interface)
        segments.setdefault(top, [top]).append((link.a.node, link.a.interface))
        for end in (link.a, link.b):
            made.nodes[end.node].macs[end.interface] = ""
    names = [(node, name) for node in made.nodes.values() for name in (*node.bridges, *node.macs)]
    for number, (node, name) in enumerate(names):
        node.macs[name] = f"02:00:00:00:{number >> 8:02x}:{number & 255:02x}"  # 02: locally administered
    for members in segments.values():
        for node_name, interface in members:
            node = made.nodes[node_name]
            spoken = {address.version for _, address in _on(node, interface)}
            node.neighbours += [
                (interface, address, made.nodes[other_name].macs[other_interface])
                for other_name, other_interface in members
                if other_name != node_name
                for address in _known_by(made.nodes[other_name], other_interface)
                if address.version in spoken
            ]


def _on(node: NodePlan, interface: str) -> list[tuple[str, Interface]]:
    return [(where, address) for where, address in node.addresses if where == interface]


def _known_by(node: NodePlan, interface: str) -> list[Address]:
    """The addresses of an interface, the one that the kernel gives it by itself included."""
    given: list[Address] = [address.ip for _, address in _on(node, interface)]
    if any(address.version == 6 for address in given):
        given.append(link_local(node.macs[interface]))
    return given


def bridge_of(name: str) -> str:
    """The core's bridge with nothing on it but the machine called ``name``."""
    return f"br-{name}"


def _hooked(topology: Topology) -> Iterator[tuple[str, Router]]:
    """Routers on the core, with the name of their hop: from first to last, so that two are the core apart."""
    cores, last = core_names(topology.core), len(topology.routers) - 1
    for i, router in enumerate(topology.routers):
        yield cores[i * (len(cores) - 1) // max(1, last) if router.at is None else router.at], router


def _hooked_servers(topology: Topology) -> Iterator[tuple[str, ServerHost]]:
    cores = core_names(topology.core)
    for server in topology.servers:
        yield cores[-1 if server.at is None else server.at], server


def _members(router: Router) -> tuple[Host | Router, ...]:
    return (*router.lan.hosts, *router.lan.routers)
