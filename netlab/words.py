"""A NAT's behaviour in the words of RFC 4787, for people. Pure."""

from __future__ import annotations

import re

from netlab.nat import LINUX, Filtering, Guard, Mapping, Nat, Tcp, Udp

_MAPPING = {
    Mapping.ENDPOINT_INDEPENDENT: "endpoint-independent mapping",
    Mapping.ADDRESS_DEPENDENT: "address-dependent mapping",
    Mapping.ADDRESS_AND_PORT_DEPENDENT: "address-and-port-dependent mapping",
}
_FILTERING = {
    Filtering.ENDPOINT_INDEPENDENT: "endpoint-independent filtering",
    Filtering.ADDRESS_DEPENDENT: "address-dependent filtering",
    Filtering.ADDRESS_AND_PORT_DEPENDENT: "address-and-port-dependent filtering",
}


def nat_words(nat: Nat) -> tuple[str, ...]:
    """What a router does, one phrase each; what is as with most routers is left out."""
    if not nat.translates:
        return ("no translation, no filter",)
    words = []
    if nat.udp is Udp.ALLOWED:
        words = [_MAPPING[nat.mapping], _FILTERING[nat.filtering]]
        words.append("port preservation" if nat.port_preservation else "no port preservation")
    else:
        words.append(f"UDP {nat.udp.value}")
    if nat.tcp is not Tcp.ALLOWED:
        words.append(f"TCP {nat.tcp.value}")
    if nat.stride:
        words.append(f"each port {nat.stride} above the last")
    if nat.port_block is not None:
        words.append(f"ports {nat.port_block.start} to {nat.port_block.stop - 1} for its first host")
    if nat.hairpinning:
        words.append("hairpinning")
    if nat.guard is not Guard.DROP:
        words.append(f"unasked UDP {nat.guard.value}")
    if nat.lifetime != LINUX:
        words.append(f"mapping lifetime {nat.lifetime.one_way} s, {nat.lifetime.two_way} s two-way")
    return tuple(words)


def slug(name: str) -> str:
    """A kind's name as one word of a command line: ``port-restricted-random-port``."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
