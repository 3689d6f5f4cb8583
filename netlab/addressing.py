"""Who has which address. Pure.

Networks are told apart by their first number, so that a capture says at a glance where it was taken,
and IPv6 reads like IPv4 (its groups are decimal numbers written as hexadecimal ones):

    IPv4 (all /24)      IPv6 (all /64)
    11.0.<router>.1     2a11:0:<router>::1     a router's WAN side; its core hop is 254
    12.0.<hop>.1/.2     2a12:0:<hop>::1/::2    between two core hops
    13.0.<router>.10    2a13:0:<router>::10    a host that nobody translates, 1 its router
    20.0.<server>.1/.2  2a20:0:<server>::1/2   a server's addresses; its core hop is 254
    192.168.<lan>.10    none                   a host behind a NAT, 1 its router

None is private (RFC 1918, RFC 4193) or meant for documentation (RFC 5737, RFC 3849): programs treat
such addresses as no way to the world, and port mappers refuse such a WAN.
"""

from __future__ import annotations

from enum import Enum
from ipaddress import IPv4Address, IPv4Interface, IPv4Network, IPv6Address, IPv6Interface, IPv6Network

Address = IPv4Address | IPv6Address
Interface = IPv4Interface | IPv6Interface
Network = IPv4Network | IPv6Network

FIRST_HOST = 10  # a LAN's machines are numbered from here
CORE_SIDE = 254  # the core's end of a link


class Version(Enum):
    """A version of the Internet Protocol."""

    IPV4 = 4
    IPV6 = 6

    @property
    def everywhere(self) -> Network:
        """The destination of a default route."""
        return IPv4Network("0.0.0.0/0") if self is Version.IPV4 else IPv6Network("::/0")


def wan(version: Version, router: int) -> Network:
    """Between router number ``router`` and its core hop."""
    return _network(version, 11, router)


def between_hops(version: Version, first: int) -> Network:
    """Between core hop ``first`` and the next."""
    return _network(version, 12, first)


def lan(version: Version, router: int, *, translated: bool) -> Network:
    """Behind router number ``router``; ``translated``: the addresses that a NAT hides."""
    return IPv4Network(f"192.168.{router + 1}.0/24") if translated else _network(version, 13, router)


def of_server(version: Version, number: int) -> Network:
    """Between server ``number`` and its core hop."""
    return _network(version, 20, number)


def place(network: Network, number: int) -> Interface:
    """The address in ``network`` that reads ``number``, with its prefix length."""
    if isinstance(network, IPv4Network):
        return IPv4Interface((network[number], network.prefixlen))
    return IPv6Interface((network[_reading(number)], network.prefixlen))


def link_local(mac: str) -> IPv6Address:
    """The address that the kernel makes of a MAC by itself (RFC 4291 appendix A)."""
    octets = bytes.fromhex(mac.replace(":", ""))
    identifier = bytes([octets[0] ^ 2, *octets[1:3], 0xFF, 0xFE, *octets[3:]])  # 2: the universal/local bit
    return IPv6Address(b"\xfe\x80" + bytes(6) + identifier)


def _network(version: Version, first: int, number: int) -> Network:
    if version is Version.IPV4:
        return IPv4Network(f"{first}.0.{number}.0/24")
    return IPv6Network(f"2a{first}:0:{number}::/64")


def _reading(number: int) -> int:
    """254 for people is 0x254 in IPv6."""
    return int(str(number), 16)
