"""Transport addresses as they stand in messages and in socket calls."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from typing import NamedTuple

from p2p.core.errors import DecodeError

IPV4_SIZE = 4  # bytes


class Address(NamedTuple):
    """IP address in text form (no brackets) and UDP or TCP port.

    Compares equal to the plain tuple that an AF_INET socket returns. A link-local IPv6 address means something on one
    interface only. In this process it says on which: "fe80::1%eth0" (RFC 4007 section 11), as the source of a datagram
    and as its destination. What is written into messages has no zone, for zones are names of this machine alone; one
    that was read gets its zone from ours (`in_zones`) before anything is sent there.
    """

    host: str
    port: int

    @property
    def version(self) -> int:
        """Of the Internet Protocol: 4 or 6."""
        return 6 if ":" in self.host else 4

    @property
    def without_zone(self) -> Address:
        """As it stands in messages."""
        return Address(split_zone(self.host)[0], self.port)

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def encode_address(address: Address) -> bytes:
    """family(1: 4 or 6) port(2) ip(4 or 16); the zone is left out"""
    if ":" not in address.host:
        numbers = address.host.split(".")
        if len(numbers) == IPV4_SIZE:  # four times as fast as by `ipaddress`: a server does it for every datagram
            return bytes((4, address.port >> 8, address.port & 0xFF, *map(int, numbers)))
    ip = ipaddress.ip_address(address.host)
    return bytes([ip.version]) + address.port.to_bytes(2, "big") + ip.packed


def decode_address(data: bytes, offset: int = 0) -> tuple[Address, int]:
    """Returns the address at `offset` and the offset behind it. Raises DecodeError."""
    if len(data) < offset + 3:
        raise DecodeError("address is cut short")
    length = {4: 4, 6: 16}.get(data[offset])
    if length is None:
        raise DecodeError(f"unknown address family {data[offset]}")
    end = offset + 3 + length
    if len(data) < end:
        raise DecodeError("address is cut short")
    port = int.from_bytes(data[offset + 1 : offset + 3], "big")
    ip = data[offset + 3 : end]
    return Address(str(ipaddress.IPv4Address(ip) if length == 4 else ipaddress.IPv6Address(ip)), port), end


# RFC 1918, RFC 3927, RFC 6598, loopback; RFC 4193, RFC 4291 section 2.5.6
_PRIVATE_NETWORKS = [
    ipaddress.ip_network(text)
    for text in (
        "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "169.254.0.0/16", "100.64.0.0/10", "127.0.0.0/8",
        "fc00::/7", "fe80::/10", "::1/128",
    )
]  # fmt: skip


def is_private(host: str) -> bool:
    """Whether an IP address means something only inside one network."""
    ip = ipaddress.ip_address(host)
    return any(ip.version == network.version and ip in network for network in _PRIVATE_NETWORKS)


def split_zone(host: str) -> tuple[str, str]:
    """The address alone, and its zone (empty: none)."""
    address, _, zone = host.partition("%")
    return address, zone


def needs_zone(host: str) -> bool:
    """Whether it takes an interface to say which machine this is: a link-local IPv6 address without a zone."""
    ip = ipaddress.ip_address(host)
    return isinstance(ip, ipaddress.IPv6Address) and ip.is_link_local and ip.scope_id is None


def link(host: str) -> str | None:
    """The /64 of an IPv6 address, by which one can tell whether two are on one link; None: it says nothing of that."""
    ip = ipaddress.ip_address(host)
    if ip.version == 4 or ip.is_link_local or ip.is_loopback:
        return None
    return str(ipaddress.IPv6Address(int(ip) >> 64 << 64))


def in_zones(address: Address, zones: Iterable[str]) -> list[Address]:
    """The address itself, or where it has to have a zone: the same one in each of `zones`."""
    if not needs_zone(address.host):
        return [address]
    return [Address(f"{address.host}%{zone}", address.port) for zone in zones]
