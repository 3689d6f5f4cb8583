"""The router of this machine, out of what the system tells of its routes."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass

UP, REJECT = 0x0001, 0x0200  # RTF_UP, RTF_REJECT of linux/route.h


@dataclass(frozen=True, slots=True)
class _Route:
    interface: str
    network: ipaddress.IPv4Network
    gateway: ipaddress.IPv4Address | None
    metric: int


def gateway_of(table: str, towards: str, *, little_endian: bool) -> str | None:
    """The next hop to the IPv4 address `towards`, by Linux's /proc/net/route; None where there is none.

    What is reached without a next hop is on the local network; then it is the default route of the same interface.
    Lines that are no route are skipped.
    """
    goal = ipaddress.IPv4Address(towards)
    routes = [route for line in table.splitlines()[1:] if (route := _parse(line, little_endian)) is not None]
    best = _best([route for route in routes if goal in route.network])
    if best is not None and best.gateway is None:
        best = _best([route for route in routes if route.interface == best.interface and not route.network.prefixlen])
    return str(best.gateway) if best is not None and best.gateway is not None else None


def likely_gateway(client: str) -> str | None:
    """The first address of the /24 around ours, which most home routers have; None where ours is no private one."""
    address = ipaddress.IPv4Address(client)
    if not address.is_private or address.is_loopback or address.is_link_local:
        return None
    first = ipaddress.IPv4Network((client, 24), strict=False)[1]
    return str(first) if first != address else None


def _best(routes: list[_Route]) -> _Route | None:
    """The longest prefix, then the lowest metric."""
    return min(routes, key=lambda route: (-route.network.prefixlen, route.metric), default=None)


def _parse(line: str, little_endian: bool) -> _Route | None:
    """interface, destination, gateway, flags, two counts, metric, mask, ...; addresses in the machine's byte order."""
    words = line.split()
    try:
        destination, gateway, flags, mask = (int(words[column], 16) for column in (1, 2, 3, 7))
        if not flags & UP or flags & REJECT:
            return None
        network = ipaddress.IPv4Network((_address(destination, little_endian), str(_address(mask, little_endian))))
        return _Route(words[0], network, _address(gateway, little_endian) if gateway else None, int(words[6]))
    except (ValueError, IndexError, OverflowError):
        return None


def _address(number: int, little_endian: bool) -> ipaddress.IPv4Address:
    return ipaddress.IPv4Address(number.to_bytes(4, "little" if little_endian else "big"))
