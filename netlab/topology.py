"""What a laboratory network consists of: plain data, no kernel.

alice --- left --- core0 --- core1 --- right --- bob          two_nats(left, right)
          (NAT)                |       (NAT)
                             server (two addresses)
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from ipaddress import IPv4Network

from netlab.nat import CARRIER, NONE, PORT_RESTRICTED, Nat

MIN_CORE_HOPS = 2  # a packet whose TTL lets it leave its own NAT must still be able to die
MAX_NAME = 11  # characters: a node's name is part of interface names, which Linux cuts at 15
SHARED_SPACE = IPv4Network("100.64.0.0/24")  # RFC 6598: between a carrier and its subscribers
MAX_OF_A_KIND = 250  # routers, servers, LANs: each kind numbers one octet of its addresses
MAX_HOSTS = 100  # on one LAN; they are numbered from .10


@dataclass(frozen=True, slots=True)
class Host:
    """A machine on a LAN, with one address there."""

    name: str


@dataclass(frozen=True, slots=True)
class Lan:
    """One Ethernet segment behind a router. ``routers`` on it make a double NAT.

    ``network`` is chosen by :func:`netlab.plan.plan` unless given (a /24 or larger), so that two
    LANs can be given the same private addresses, as in the world.
    """

    hosts: tuple[Host, ...] = ()
    routers: tuple[Router, ...] = ()
    network: IPv4Network | None = None


@dataclass(frozen=True, slots=True)
class Router:
    """A router with one WAN side and one LAN. ``guarded``: see :func:`netlab.nat.ruleset`.

    ``at`` is the core hop it hangs on, counted from 0; None spreads routers from first to last.
    It is ignored for a router that stands on another router's LAN.
    """

    name: str
    lan: Lan
    nat: Nat = NONE
    guarded: bool = True
    at: int | None = None


@dataclass(frozen=True, slots=True)
class ServerHost:
    """A public machine on the core with several addresses (two tell a NAT's mapping apart)."""

    name: str = "server"
    addresses: int = 2
    at: int | None = None  # the core hop it hangs on; None: the last


@dataclass(frozen=True, slots=True)
class Core:
    """A chain of plain routers, ``core0`` to ``core<hops-1>``."""

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
        names = [*core_names(self.core), *(s.name for s in self.servers)]
        routers = list(all_routers(self.routers))
        for router in routers:
            names += [router.name, *(host.name for host in router.lan.hosts)]
            if len(router.lan.hosts) + len(router.lan.routers) > MAX_HOSTS:
                raise ValueError(f"{router.name}: more than {MAX_HOSTS} machines on its LAN")
            for inner in router.lan.routers:
                if not inner.nat.translates:
                    raise ValueError(f"{inner.name}: a router on a LAN must translate")
        for name in names:
            if not 0 < len(name) <= MAX_NAME:
                raise ValueError(f"name {name!r} is not 1 to {MAX_NAME} characters long")
            if names.count(name) > 1:
                raise ValueError(f"two nodes are named {name!r}")
        if max(len(routers), len(self.servers), self.core.hops) > MAX_OF_A_KIND:
            raise ValueError(f"more than {MAX_OF_A_KIND} routers, servers or core hops")
        hooked: list[Router | ServerHost] = [*self.routers, *self.servers]
        for part in hooked:
            if part.at is not None and not 0 <= part.at < self.core.hops:
                raise ValueError(f"{part.name}: the core has no hop {part.at}")
        for server in self.servers:
            if not 0 < server.addresses < MAX_HOSTS:
                raise ValueError(f"{server.name}: {server.addresses} addresses")


def core_names(core: Core) -> list[str]:
    """The names of the core's nodes, in order."""
    return [f"core{i}" for i in range(core.hops)]


def all_routers(routers: tuple[Router, ...]) -> Iterator[Router]:
    """Every router, each before those on its LAN."""
    for router in routers:
        yield router
        yield from all_routers(router.lan.routers)


def two_nats(left: Nat, right: Nat, *, guarded: bool = True) -> Topology:
    """``alice`` behind router ``left``, ``bob`` behind ``right``, ``server`` outside."""
    return Topology(
        routers=(
            Router("left", Lan((Host("alice"),)), left, guarded),
            Router("right", Lan((Host("bob"),)), right, guarded),
        )
    )


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


def one_lan(nat: Nat, *, guarded: bool = True) -> Topology:
    """``alice`` and ``bob`` on one LAN behind ``router``, ``server`` outside."""
    return Topology(routers=(Router("router", Lan((Host("alice"), Host("bob"))), nat, guarded),))
