"""The network that a source address belongs to, for caps that no single customer is to use up."""

from __future__ import annotations

import ipaddress

from p2p.core.address import Address


def prefix(address: Address) -> str:
    """The network that one customer is usually given: IPv4 /24, IPv6 /56, in text form."""
    if ":" in address.host:
        packed = ipaddress.IPv6Address(address.host).packed
        return f"{ipaddress.IPv6Address(packed[:7] + bytes(9))}/56"
    return address.host.rpartition(".")[0] + ".0/24"
