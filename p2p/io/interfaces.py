"""The private and public addresses of this machine."""

from __future__ import annotations

import ipaddress
import socket

from p2p.core.address import Address

MAX_ADDRESSES = 6  # so that UDP and TCP candidates of all of them fit a description (docs/protocol.md, section 3)


def local_addresses(towards: Address) -> list[str]:
    """IPv4 addresses under which others may reach this machine, the one that routes to `towards` first.

    Loopback counts only when `towards` is on loopback itself: then both peers and the server are on this machine.
    """
    first = _source_address(towards)
    found = [first] if first else []
    found += [address for address in _interface_addresses() if address not in found]
    on_loopback = ipaddress.ip_address(towards.host).is_loopback
    return [a for a in found if on_loopback or not ipaddress.ip_address(a).is_loopback][:MAX_ADDRESSES]


def _source_address(towards: Address) -> str | None:
    """Asks the routing table, without sending anything, which source address it would use."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(towards)
            address: str = probe.getsockname()[0]
        except OSError:
            return None
        return address


def _interface_addresses() -> list[str]:
    """One IPv4 address of each interface, where the system lets us ask (Linux, macOS)."""
    try:
        import fcntl  # noqa: PLC0415  (absent on Windows)
    except ImportError:
        return []
    siocgifaddr = 0x8915  # linux/sockios.h
    addresses = []
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as query:
        for _, name in socket.if_nameindex():
            try:
                answer = fcntl.ioctl(query, siocgifaddr, name.encode().ljust(40, b"\0"))
            except OSError:
                continue  # the interface has no IPv4 address
            addresses.append(socket.inet_ntoa(answer[20:24]))
    return addresses
