"""A topology spelled out for the kernel: nodes, links, addresses, routes, rules. Pure.

Addresses (all /24, so that a capture tells at a glance where it was taken):

    11.0.<router>.1     a router's WAN side; its core hop is .254
    12.0.<hop>.1/.2     between two core hops
    13.0.<router>.10    a host on a LAN without NAT, .1 its router
    20.0.<server>.1/.2  a server's addresses; its core hop is .254
    192.168.<lan>.10    a host behind a NAT, .1 its router

None of the public ones is RFC 1918 or TEST-NET space: port mappers refuse such a WAN.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Interface, IPv4Network
from itertools import pairwise

from netlab.nat import LAN, WAN, Ruleset, ruleset
from netlab.topology import Host, Router, ServerHost, Topology, all_routers, core_names

ETH = "eth0"  # the only interface of a host
FIRST_HOST = 10  # a LAN's hosts are numbered from here, its routers after them
CORE_SIDE = 254
EVERYWHERE = IPv4Network("0.0.0.0/0")

_QUIET = (
    # IPv6 and its neighbour discovery would put unasked packets between those a test counts.
    ("net/ipv6/conf/all/disable_ipv6", "1"),
    ("net/ipv6/conf/default/disable_ipv6", "1"),
)
_FORWARDING = (
    ("net/ipv4/ip_forward", "1"),
    ("net/ipv4/conf/all/rp_filter", "0"),
    ("net/ipv4/conf/default/rp_filter", "0"),
    # With 1, frames that a bridge only passes on would run through the router's own rules.
    ("net/bridge/bridge-nf-call-iptables", "0"),
)


@dataclass(frozen=True, slots=True)
class End:
    """One end of a veth pair; a port of ``bridge`` when that is given."""

    node: str
    interface: str
    bridge: str = ""


@dataclass(frozen=True, slots=True)
class Link:
    """A veth pair."""

    a: End
    b: End


@dataclass(slots=True)
class NodePlan:
    """One namespace. Sysctls are paths under /proc/sys; a missing bridge sysctl is no error."""

    name: str
    sysctls: tuple[tuple[str, str], ...] = _QUIET
    bridges: list[str] = field(default_factory=list)
    addresses: list[tuple[str, IPv4Interface]] = field(default_factory=list)
    routes: list[tuple[IPv4Network, IPv4Address]] = field(default_factory=list)
    macs: dict[str, str] = field(default_factory=dict)  # by interface, bridges included
    neighbours: list[tuple[str, IPv4Address, str]] = field(default_factory=list)  # interface, address, MAC
    rules: Ruleset = field(default_factory=Ruleset)


@dataclass(frozen=True, slots=True)
class Attachment:
    """Where a host meets the router (or core hop) that forwards for it."""

    host: End
    port: End  # on the router; a bridge port
    uplink: str  # the router's interface on the far side, "" when it has several


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything :mod:`netlab.kernel` has to make; attachments by host name."""

    nodes: dict[str, NodePlan]
    links: list[Link]
    attachments: dict[str, Attachment]


def plan(topology: Topology) -> Plan:
    """Allocate addresses and spell out every link, route and rule; the same input, the same plan."""
    made = Plan({}, [], {})
    cores = [_node(made, name, forwarding=True) for name in core_names(topology.core)]
    public: list[tuple[int, IPv4Network, IPv4Address | None]] = []  # hop, network, via
    for i, (one, two) in enumerate(pairwise(cores)):
        net = IPv4Network(f"12.0.{i}.0/24")
        made.links.append(Link(End(one.name, "next"), End(two.name, "prev")))
        one.addresses.append(("next", _in(net, 1)))
        two.addresses.append(("prev", _in(net, 2)))
    numbers = {router.name: i for i, router in enumerate(all_routers(topology.routers))}
    for i, router in enumerate(topology.routers):
        hop = router.at if router.at is not None else _spread(i, topology)
        net = IPv4Network(f"11.0.{numbers[router.name]}.0/24")
        wan, gateway = _in(net, 1), _in(net, CORE_SIDE)
        port = f"to-{router.name}"
        made.links.append(Link(End(router.name, WAN), End(cores[hop].name, port)))
        cores[hop].addresses.append((port, gateway))
        public.append((hop, net, None))
        lan = _router(made, router, wan, gateway.ip, numbers)
        if not router.nat.translates:
            public.append((hop, lan, wan.ip))
    for i, server in enumerate(topology.servers):
        hop = server.at if server.at is not None else topology.core.hops - 1
        net = IPv4Network(f"20.0.{i}.0/24")
        _server(made, server, cores[hop], net)
        public.append((hop, net, None))
    for i, core in enumerate(cores):
        for hop, net, via in public:
            if hop > i:
                core.routes.append((net, IPv4Address(f"12.0.{i}.2")))
            elif hop < i:
                core.routes.append((net, IPv4Address(f"12.0.{i - 1}.1")))
            elif via is not None:
                core.routes.append((net, via))
    _acquaint(made)
    return made


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
            for other_name, other_interface in members:
                other = made.nodes[other_name]
                node.neighbours += [
                    (interface, address.ip, other.macs[other_interface])
                    for where, address in other.addresses
                    if where == other_interface and other is not node
                ]


def _router(
    made: Plan, router: Router, wan: IPv4Interface, gateway: IPv4Address, numbers: dict[str, int]
) -> IPv4Network:
    """Add a router and all that is behind it; returns its LAN's network."""
    node = _node(made, router.name, forwarding=True)
    number = numbers[router.name]
    space = f"192.168.{number + 1}.0/24" if router.nat.translates else f"13.0.{number}.0/24"
    net = router.lan.network or IPv4Network(space)
    node.bridges.append(LAN)
    node.addresses += [(WAN, wan), (LAN, _in(net, 1))]
    node.routes.append((EVERYWHERE, gateway))
    members = list(_members(router, net))
    addresses = [address.ip for _, address in members]
    node.rules = ruleset(router.nat, wan.ip, addresses, guarded=router.guarded)
    node.sysctls += node.rules.sysctls
    for member, address in members:
        port = End(router.name, f"p-{member.name}", LAN)
        if isinstance(member, Router):
            made.links.append(Link(End(member.name, WAN), port))
            _router(made, member, address, _in(net, 1).ip, numbers)
        else:
            made.attachments[member.name] = Attachment(End(member.name, ETH), port, WAN)
            _host(made, member.name, [address], _in(net, 1).ip)
    return net


def _members(router: Router, net: IPv4Network) -> Iterator[tuple[Host | Router, IPv4Interface]]:
    members: list[Host | Router] = [*router.lan.hosts, *router.lan.routers]
    for i, member in enumerate(members):
        yield member, _in(net, FIRST_HOST + i)


def _server(made: Plan, server: ServerHost, core: NodePlan, net: IPv4Network) -> None:
    # A bridge with one port: so a server meets its router as every host does, and faults can be
    # injected on its link in the same way.
    bridge = f"br-{server.name}"
    core.bridges.append(bridge)
    core.addresses.append((bridge, _in(net, CORE_SIDE)))
    addresses = [_in(net, 1 + i) for i in range(server.addresses)]
    port = End(core.name, f"p-{server.name}", bridge)
    made.attachments[server.name] = Attachment(End(server.name, ETH), port, "")
    _host(made, server.name, addresses, _in(net, CORE_SIDE).ip)


def _host(made: Plan, name: str, addresses: list[IPv4Interface], gateway: IPv4Address) -> None:
    node = _node(made, name, forwarding=False)
    node.addresses += [(ETH, address) for address in addresses]
    node.routes.append((EVERYWHERE, gateway))
    attached = made.attachments[name]
    made.links.append(Link(attached.host, attached.port))


def _node(made: Plan, name: str, *, forwarding: bool) -> NodePlan:
    node = NodePlan(name, sysctls=_QUIET + _FORWARDING if forwarding else _QUIET)
    made.nodes[name] = node
    return node


def _spread(index: int, topology: Topology) -> int:
    """Routers from the first core hop to the last, so that two of them are the core apart."""
    return index * (topology.core.hops - 1) // max(1, len(topology.routers) - 1)


def _in(net: IPv4Network, number: int) -> IPv4Interface:
    return IPv4Interface((net[number], net.prefixlen))
