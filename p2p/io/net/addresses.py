"""Addresses as the system's calls want and give them, and as the core has them: zones, and IPv4 on an IPv6 socket."""

from __future__ import annotations

import errno
import os
import socket
import sys

from p2p.core.address import Address, split_zone

MAPPED = "::ffff:"  # RFC 4291 section 2.5.5.2: how an AF_INET6 socket names IPv4
SocketAddress = tuple[str, int] | tuple[str, int, int, int]  # AF_INET: host, port; AF_INET6 also flow, interface


def to_socket(address: Address, *, is_v6: bool) -> SocketAddress:
    """For an AF_INET6 or an AF_INET socket. Raises OSError where there is no such interface, or no IPv6."""
    host, port = address
    if not is_v6:
        if ":" in host:
            raise OSError(errno.ENETUNREACH, os.strerror(errno.ENETUNREACH))
        return address
    host, zone = split_zone(host)
    if zone:
        return host, port, 0, zone_index(zone)
    return host if ":" in host else MAPPED + host, port


def from_socket(name: SocketAddress) -> Address:
    host = name[0].removeprefix(MAPPED)
    if len(name) > 2 and name[3]:  # the interface, of link-local addresses only
        host = f"{split_zone(host)[0]}%{zone_name(name[3])}"
    return Address(host, name[1])


def zone_index(zone: str) -> int:
    """The number of the interface that a zone names (RFC 4007 section 11.2). Raises OSError when there is none."""
    if zone.isdecimal():
        return int(zone)
    try:
        return socket.if_nametoindex(zone)
    except OSError as error:  # which bears no number
        raise OSError(errno.ENODEV, os.strerror(errno.ENODEV), zone) from error


def zone_name(index: int) -> str:
    """How the addresses of this interface name their zone."""
    if sys.platform == "win32":
        return str(index)
    try:
        return socket.if_indextoname(index)
    except OSError:  # gone since the datagram came
        return str(index)
