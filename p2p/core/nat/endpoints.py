"""The sockets of the server, as far as its first answer tells them and may be believed."""

from __future__ import annotations

import ipaddress

from p2p.core.address import Address, is_private
from p2p.core.stun.client import Answered


def endpoints_of(answer: Answered) -> tuple[Address, ...]:
    """From our own attribute, or from OTHER-ADDRESS: the one that was asked, its other port, the other host's two.

    What cannot be another address of that server is left out: it is not to have us write to places inside our network.
    """
    asked = answer.question.destination
    if answer.endpoints is not None:
        ports, other_host = answer.endpoints.ports, answer.endpoints.other_host
    elif answer.other is not None:
        ports, other_host = (asked.port, answer.other.port), answer.other.host
    else:
        return (asked,)
    other_port = ports[1] if asked.port == ports[0] else ports[0]
    hosts = [asked.host]
    if other_host is not None and _may_be_another_of(asked.host, other_host):
        hosts.append(other_host)
    told = [Address(host, port) for host in hosts for port in (asked.port, other_port) if port]
    return tuple(dict.fromkeys(told))


def _may_be_another_of(host: str, other: str) -> bool:
    ip = ipaddress.ip_address(other)
    if ip.version != ipaddress.ip_address(host).version or ip.is_multicast or ip.is_unspecified:
        return False
    if isinstance(ip, ipaddress.IPv6Address) and (ip.ipv4_mapped is not None or ip.is_link_local):
        return False
    is_broadcast = ip.version == 4 and int(ip) == 0xFFFFFFFF
    return not is_broadcast and (is_private(host) or not is_private(other))
