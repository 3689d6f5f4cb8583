"""What a laboratory network consists of: plain data, no kernel.

alice --- left --- core0 --- core1 --- right --- bob          two_nats(left, right)
          (NAT)                |       (NAT)
                             server (two addresses)
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from ipaddress import IPv4Network

from netlab.addressing import Version
from netlab.impair import Impairment
from netlab.nat import CARRIER, FIREWALL, NONE, PORT_RESTRICTED, Nat

MIN_CORE_HOPS = 2  # a packet whose TTL lets it leave its own NAT must still be able to die
MAX_NAME = 11  # characters: a node's name is part of interface names, which Linux cuts at 15
SHARED_SPACE = IPv4Network("100.64.0.0/24")  # RFC 6598: between a carrier and its subscribers
MAX_OF_A_KIND = 250  # routers, servers, LANs: each kind numbers one octet of its addresses
MAX_HOSTS = 100  # on one LAN; they are numbered from .10
MIN_MTU = {Version.IPV4: 68, Version.IPV6: 1280}  # bytes; RFC 791 section 3.2, RFC 8200 section 5
MAX_MTU = 65535  # bytes; a veth's


UNIMPAIRED = Impairment()


@dataclass(frozen=True, slots=True)
class Link:
    """A cable from a machine to where it is plugged in: ``up`` is from the machine, ``down`` to it.

    An impairment holds from the start of the lab and depends on ``seed``, see
    :meth:`netlab.lab.Lab.impair`. ``mtu`` in bytes. A LAN's router takes the least MTU of its cables.
    """

    up: Impairment = UNIMPAIRED
    down: Impairment = UNIMPAIRED
    mtu: int = 1500
    seed: int = 0

    @property
    def impaired(self) -> bool:
        """Whether packets meet anything on it but its MTU."""
        return (self.up, self.down) != (UNIMPAIRED, UNIMPAIRED)


PLAIN = Link()


@dataclass(frozen=True, slots=True)
class Host:
    """A machine with one address of each IP version on its LAN.

    The same host on several LANs is multi-homed: eth0 is on the first of them, eth1 on the next, in
    the order of :func:`all_routers`. It prefers the first whose cable is in; packets from one
    interface's address leave by that interface or not at all. ``link`` is the cable of each
    interface, or a tuple of one for each (those left out are plain).
    """

    name: str
    link: Link | tuple[Link, ...] = PLAIN

    def link_of(self, interface: int) -> Link:
        """The cable of the interface with that number, counted from 0."""
        if isinstance(self.link, Link):
            return self.link
        return self.link[interface] if interface < len(self.link) else PLAIN


@dataclass(frozen=True, slots=True)
class Lan:
    """One Ethernet segment behind a router. ``routers`` on it make a double NAT.

    ``network`` (IPv4) is chosen by :func:`netlab.plan.plan` unless given (a /24 or larger), so that
    two LANs can be given the same private addresses, as in the world.
    """

    hosts: tuple[Host, ...] = ()
    routers: tuple[Router, ...] = ()
    network: IPv4Network | None = None


@dataclass(frozen=True, slots=True)
class Router:
    """A router with one WAN side and one LAN.

    ``nat`` is what it does to IPv4, ``ipv6`` what it does to IPv6; None: it does not carry that. A
    profile that does not translate is plain routing (NONE) or a stateful firewall (FIREWALL), and only
    such a one can be had for IPv6. ``guarded``: see :func:`netlab.rules.ruleset`. ``link`` is the
    cable on its WAN side.

    ``wan`` is the number of its IPv4 address on the network of its WAN side; None: the first of a core
    hop's, its place on a LAN. ``at`` is the core hop it hangs on, counted from 0; None spreads routers
    from first to last. It is ignored for a router that stands on another router's LAN.
    """

    name: str
    lan: Lan
    nat: Nat | None = NONE
    guarded: bool = True
    at: int | None = None
    ipv6: Nat | None = None
    link: Link = PLAIN
    wan: int | None = None

    def profile(self, version: Version) -> Nat | None:
        """What it does to packets of that version; None: it does not carry them."""
        return self.nat if version is Version.IPV4 else self.ipv6


@dataclass(frozen=True, slots=True)
class ServerHost:
    """A public machine on the core with several addresses (two tell a NAT's mapping apart) of each version."""

    name: str = "server"
    addresses: int = 2
    at: int | None = None  # the core hop it hangs on; None: the last
    ipv4: bool = True
    ipv6: bool = False
    link: Link = PLAIN

    def speaks(self, version: Version) -> bool:
        """Whether it has addresses of that version."""
        return self.ipv4 if version is Version.IPV4 else self.ipv6


@dataclass(frozen=True, slots=True)
class Core:
    """A chain of plain routers, ``core0`` to ``core<hops-1>``. It carries what anything on it does."""

    hops: int = MIN_CORE_HOPS


@dataclass(frozen=True, slots=True)
class Topology:
    """A whole network. Raises ``ValueError`` when it cannot be built, naming the part."""

    routers: tuple[Router, ...]
    servers: tuple[ServerHost, ...] = (ServerHost(),)
    core: Core = field(default_factory=Core)

    def __post_init__(self) -> None:
        if self.core.hops < MIN_CORE_HOPS:
            raise ValueError(f"a core has at least {MIN_CORE_HOPS} hops, not {self.core.hops}")
        routers = list(all_routers(self.routers))
        self._check_names(routers)
        for router in routers:
            _check_router(router)
        for host, lans in homes(self.routers).items():
            _check_host(host, lans)
        if max(len(routers), len(self.servers), self.core.hops) > MAX_OF_A_KIND:
            raise ValueError(f"more than {MAX_OF_A_KIND} routers, servers or core hops")
        hooked: list[Router | ServerHost] = [*self.routers, *self.servers]
        for part in hooked:
            if part.at is not None and not 0 <= part.at < self.core.hops:
                raise ValueError(f"{part.name}: the core has no hop {part.at}")
        for server in self.servers:
            if not 0 < server.addresses < MAX_HOSTS:
                raise ValueError(f"{server.name}: {server.addresses} addresses")
            _check_link(server.name, server.link, [version for version in Version if server.speaks(version)])

    def carries(self, version: Version) -> bool:
        """Whether any machine speaks that version of IP."""
        return any(router.profile(version) for router in self.routers) or any(s.speaks(version) for s in self.servers)

    def _check_names(self, routers: list[Router]) -> None:
        hosts = homes(self.routers)
        names = [*core_names(self.core), *(s.name for s in self.servers), *(r.name for r in routers)]
        names += [host.name for host in hosts]
        for name in names:
            if not 0 < len(name) <= MAX_NAME:
                raise ValueError(f"name {name!r} is not 1 to {MAX_NAME} characters long")
            if any(character in name for character in ":/") or not name.isprintable() or " " in name:
                raise ValueError(f"name {name!r} has a character that no interface name may have")
            if names.count(name) > 1:
                raise ValueError(f"two nodes are named {name!r}")


def _check_router(router: Router) -> None:
    lan = router.lan
    if len(lan.hosts) + len(lan.routers) > MAX_HOSTS:
        raise ValueError(f"{router.name}: more than {MAX_HOSTS} machines on its LAN")
    if router.ipv6 is not None and router.ipv6.translates:
        raise ValueError(f"{router.name}: nobody translates IPv6 here ({router.ipv6.name}); say NONE or FIREWALL")
    for inner in lan.routers:
        for version in Version:
            if inner.profile(version) is not None and router.profile(version) is None:
                raise ValueError(f"{inner.name}: its IPv{version.value} cannot leave by {router.name}, which has none")
        if router.nat is not None and router.nat.translates and inner.nat is not None and not inner.nat.translates:
            raise ValueError(f"{inner.name}: a router on a translating router's LAN must translate")
    _check_link(router.name, router.link, _versions(router))


def _check_host(host: Host, lans: list[Router]) -> None:
    if len({router.name for router in lans}) < len(lans):
        raise ValueError(f"{host.name}: twice on one LAN")
    if isinstance(host.link, tuple) and len(host.link) > len(lans):
        raise ValueError(f"{host.name}: {len(host.link)} links, but it is on {len(lans)} LANs")
    for i, router in enumerate(lans):
        _check_link(host.name, host.link_of(i), _versions(router))


def _versions(router: Router) -> list[Version]:
    return [version for version in Version if router.profile(version) is not None]


def _check_link(name: str, link: Link, versions: list[Version]) -> None:
    if not versions:
        raise ValueError(f"{name}: neither IPv4 nor IPv6")
    least = max(MIN_MTU[version] for version in versions)
    if not least <= link.mtu <= MAX_MTU:
        raise ValueError(f"{name}: an MTU is {least} to {MAX_MTU} bytes here, not {link.mtu}")


def core_names(core: Core) -> list[str]:
    """The names of the core's nodes, in order."""
    return [f"core{i}" for i in range(core.hops)]


def all_routers(routers: tuple[Router, ...]) -> Iterator[Router]:
    """Every router, each before those on its LAN."""
    for router in routers:
        yield router
        yield from all_routers(router.lan.routers)


def homes(routers: tuple[Router, ...]) -> dict[Host, list[Router]]:
    """Every host, and the routers on whose LANs it is, in the order of its interfaces."""
    found: dict[Host, list[Router]] = {}
    for router in all_routers(routers):
        for host in router.lan.hosts:
            found.setdefault(host, []).append(router)
    return found


def two_nats(
    left: Nat | None,
    right: Nat | None,
    *,
    guarded: bool = True,
    ipv6: tuple[Nat | None, Nat | None] = (None, None),
) -> Topology:
    """``alice`` behind router ``left``, ``bob`` behind ``right``, ``server`` outside.

    None for a side leaves IPv4 out there; ``ipv6`` is what each side does to IPv6. The server speaks
    what either side does.
    """
    return Topology(
        routers=(
            Router("left", Lan((Host("alice"),)), left, guarded, ipv6=ipv6[0]),
            Router("right", Lan((Host("bob"),)), right, guarded, ipv6=ipv6[1]),
        ),
        servers=(_server((left, right), ipv6),),
    )


def ipv6_only(left: Nat = FIREWALL, right: Nat = FIREWALL) -> Topology:
    """``alice`` behind router ``left``, ``bob`` behind ``right``, ``server`` outside; no IPv4 anywhere."""
    return two_nats(None, None, ipv6=(left, right))


def carrier(home: Nat, nat: Nat = CARRIER, right: Nat = PORT_RESTRICTED) -> Topology:
    """``alice`` behind her ``home`` router behind ``carrier``; ``bob`` behind ``right``; ``server`` outside."""
    inner = Router("home", Lan((Host("alice"),)), home)
    return Topology(
        routers=(
            Router("carrier", Lan(routers=(inner,), network=SHARED_SPACE), nat),
            Router("right", Lan((Host("bob"),)), right),
        )
    )


def one_carrier(left: Nat, right: Nat, nat: Nat = CARRIER) -> Topology:
    """``alice`` behind ``left`` and ``bob`` behind ``right``, both behind ``carrier``; ``server`` outside."""
    homes = (Router("left", Lan((Host("alice"),)), left), Router("right", Lan((Host("bob"),)), right))
    return Topology(routers=(Router("carrier", Lan(routers=homes, network=SHARED_SPACE), nat),))


def one_lan(nat: Nat | None, *, guarded: bool = True, ipv6: Nat | None = None) -> Topology:
    """``alice`` and ``bob`` on one LAN behind ``router``, ``server`` outside."""
    router = Router("router", Lan((Host("alice"), Host("bob"))), nat, guarded, ipv6=ipv6)
    return Topology((router,), servers=(_server((nat,), (ipv6,)),))


def multi_homed(wifi: Nat, mobile: Nat, right: Nat = PORT_RESTRICTED, *, ipv6: Nat | None = None) -> Topology:
    """``alice`` on two LANs, behind ``wifi`` (eth0) and ``mobile`` (eth1); ``bob`` behind ``right``;
    ``server`` outside. ``ipv6`` is what every router does to IPv6."""
    alice = Host("alice")
    return Topology(
        routers=(
            Router("wifi", Lan((alice,)), wifi, ipv6=ipv6),
            Router("mobile", Lan((alice,)), mobile, ipv6=ipv6),
            Router("right", Lan((Host("bob"),)), right, ipv6=ipv6),
        ),
        servers=(_server((wifi, mobile, right), (ipv6,)),),
    )


def _server(ipv4: tuple[Nat | None, ...], ipv6: tuple[Nat | None, ...]) -> ServerHost:
    return ServerHost(ipv4=any(ipv4), ipv6=any(ipv6))
