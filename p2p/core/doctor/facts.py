"""What was found out about a network; what follows from it is computed here, and said in words elsewhere."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from enum import Enum
from typing import Final

from p2p.core.address import Address, is_private
from p2p.core.doctor.tcp import TcpFound, TcpOutcome
from p2p.core.nat.filtering import Filtering
from p2p.core.nat.lifetime import LifetimeFound
from p2p.core.nat_report import Mapping, NatReport
from p2p.core.peer import outlook
from p2p.core.peer.outlook import Ease, Reach
from p2p.core.portmap.events import BehindAnotherNat, Mapped, NoMapper

HTTPS: Final = 443
SHARED_SPACE: Final = ipaddress.ip_network("100.64.0.0/10")  # RFC 6598: between carriers and their subscribers
CARRIER_BLOCK: Final = 8192  # ports; home routers use nearly all of theirs, carriers deal out blocks (RFC 7422)
# The friends of the table: on an open network, behind an easy router, a counting one, one at random, a carrier's block,
# a network without UDP.
FRIENDS: Final = (Ease.PUBLIC, Ease.EASY, Ease.COUNTING, Ease.RANDOM, Ease.POOL, Ease.BLOCKED)
# A NAT that maps by address may have a few ports for each, which says nothing of how many it has in all.
_BLOCKS: Final = (Mapping.ENDPOINT_INDEPENDENT, Mapping.NOT_PORT_DEPENDENT, Mapping.ADDRESS_AND_PORT_DEPENDENT)


class Upstream(Enum):
    """Whether another NAT stands before the nearest one."""

    NONE = "none"
    CARRIER = "carrier"  # the internet provider's
    ANOTHER = "another router"
    LIKELY_CARRIER = "likely a carrier"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Interface:
    """One that is up. `is_tunnel`: a VPN or another point-to-point one; `is_virtual`: a network inside this machine."""

    name: str
    hosts: tuple[str, ...]
    is_tunnel: bool = False
    is_virtual: bool = False


@dataclass(frozen=True, slots=True)
class Network:
    """One IP version. `host`: our address on the way out, None without one; `asked`: whether anybody could be asked.

    `nat` is None as long as nothing came of it. `filtering`, `hairpins` and `lifetime` are None where not measured.
    """

    host: str | None = None
    asked: bool = False
    nat: NatReport | None = None
    reflexive: tuple[Address, ...] = ()
    filtering: Filtering | None = None
    hairpins: bool | None = None
    lifetime: LifetimeFound | None = None

    @property
    def has_udp(self) -> bool:
        """Whether an answer came back."""
        is_answered = self.nat is not None and self.nat.mapping is not Mapping.NO_UDP and bool(self.reflexive)
        return is_answered and self.host is not None

    @property
    def translates(self) -> bool:
        """Whether others see another address than our own."""
        return self.has_udp and self.host not in {each.host for each in self.reflexive}

    @property
    def ease(self) -> Ease:
        """By UDP, without what a port mapper adds."""
        if not self.has_udp:
            return Ease.UNKNOWN
        assert self.nat is not None
        if self.filtering is Filtering.ENDPOINT_INDEPENDENT:
            return Ease.OPEN if self.translates else Ease.PUBLIC
        by_mapping = outlook.ease(self.nat)
        if by_mapping is Ease.EASY and self.filtering in (Filtering.ADDRESS_DEPENDENT, Filtering.NOT_PORT_DEPENDENT):
            return Ease.LENIENT
        return by_mapping


@dataclass(frozen=True, slots=True)
class Facts:
    """`server`: as it was asked, None without one. `proved`: whether the port that the router opened lets strangers in;
    None: not tried. `mtu`: 0 where not even the least size arrived, None where not measured."""

    server: Address | None = None
    interfaces: tuple[Interface, ...] = ()
    v4: Network = Network()
    v6: Network = Network()
    tcp: tuple[TcpFound, ...] = ()
    mapper: Mapped | NoMapper | BehindAnotherNat | None = None
    proved: bool | None = None
    mtu: int | None = None

    @property
    def main_version(self) -> int:
        """Of the Internet Protocol: the one that the table is about. IPv4 where it works, for friends have it."""
        working = [version for version, each in ((4, self.v4), (6, self.v6)) if each.has_udp or self.tcp_ports(version)]
        return working[0] if working else 4

    @property
    def main(self) -> Network:
        return self.v4 if self.main_version == 4 else self.v6

    def tcp_ports(self, version: int) -> frozenset[int]:
        """At which the server answered by TCP."""
        answered = (each.address for each in self.tcp if each.outcome is TcpOutcome.ANSWERED)
        return frozenset(address.port for address in answered if address.version == version)

    @property
    def is_answered(self) -> bool:
        """Whether the server, or another one that was to be asked, has said anything."""
        return self.v4.has_udp or self.v6.has_udp or self.is_udp_blocked

    @property
    def is_inside(self) -> bool:
        """Whether who answered is in our own private network, and so does not see what the internet sees."""
        return self.main.has_udp and all(is_private(each.host) for each in self.main.reflexive)

    @property
    def is_udp_blocked(self) -> bool:
        """Only what answers by TCP shows that it is UDP that is missing, and not the server."""
        return bool(self.tcp_ports(self.main_version)) and not self.main.has_udp

    @property
    def opened(self) -> Address | None:
        """What the router opened for us, and leads to us as far as we know."""
        return self.mapper.external if isinstance(self.mapper, Mapped) and self.proved is not False else None

    @property
    def ease(self) -> Ease:
        if self.is_inside:
            return Ease.UNKNOWN
        if self.is_udp_blocked:
            return Ease.CAGED if self.tcp_ports(self.main_version) == {HTTPS} else Ease.BLOCKED
        by_itself = self.main.ease
        if self.opened is not None and by_itself not in (Ease.PUBLIC, Ease.UNKNOWN) and self.main is self.v4:
            return Ease.OPEN
        return by_itself

    @property
    def table(self) -> tuple[tuple[Ease, Reach], ...]:
        """What is to be expected with each kind of friend."""
        return tuple((friend, outlook.reach_of(self.ease, friend)) for friend in FRIENDS)

    @property
    def upstream(self) -> Upstream:
        if isinstance(self.mapper, BehindAnotherNat):
            return Upstream.CARRIER if _is_shared(self.mapper.external) else Upstream.ANOTHER
        if self.v4.host is not None and _is_shared(self.v4.host):
            return Upstream.CARRIER
        if isinstance(self.mapper, NoMapper) and self.mapper.hints_at_carrier:
            return Upstream.LIKELY_CARRIER
        if isinstance(self.mapper, Mapped) or (self.v4.has_udp and not self.v4.translates and not self.is_inside):
            return Upstream.NONE
        if self.v4.nat is not None and self.v4.nat.mapping in _BLOCKS and 0 < len(self.v4.nat.ports) <= CARRIER_BLOCK:
            return Upstream.LIKELY_CARRIER
        return Upstream.UNKNOWN

    @property
    def vpn(self) -> str | None:
        """The interface by which everything leaves, when it is a VPN's."""
        return next((each.name for each in self.interfaces if each.is_tunnel and self.main.host in each.hosts), None)

    @property
    def has_public_v6(self) -> bool:
        hosts = [host for each in self.interfaces if not each.is_virtual for host in each.hosts if ":" in host]
        return any(ipaddress.ip_address(host).is_global for host in hosts)


def _is_shared(host: str) -> bool:
    ip = ipaddress.ip_address(host)
    return ip.version == 4 and ip in SHARED_SPACE
