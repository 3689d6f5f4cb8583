"""A NAT's behaviour in the words of RFC 4787, for people. Pure."""

from __future__ import annotations

import re

from netlab.impair import Impairment
from netlab.nat import LINUX, Filtering, Guard, Mapping, Nat, PortMapper, Tcp, Udp
from netlab.topology import PLAIN, Link

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
_PROTOCOLS = {PortMapper.NAT_PMP: "NAT-PMP", PortMapper.PCP: "PCP", PortMapper.UPNP: "UPnP"}


def nat_words(nat: Nat) -> tuple[str, ...]:
    """What a router does, one phrase each; what is as with most routers is left out."""
    if not nat.translates:
        if nat.filtering is Filtering.ENDPOINT_INDEPENDENT:
            return ("no translation, no filter",)
        return ("no translation", _FILTERING[nat.filtering], *_guard_words(nat))
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
    words += _guard_words(nat)
    if nat.lifetime != LINUX:
        words.append(f"mapping lifetime {nat.lifetime.one_way} s, {nat.lifetime.two_way} s two-way")
    if nat.port_mapper:
        offered = [name for protocol, name in _PROTOCOLS.items() if protocol in nat.port_mapper]
        words.append(f"port mapper with {', '.join(offered)}")
    return tuple(words)


def _guard_words(nat: Nat) -> tuple[str, ...]:
    return () if nat.guard is Guard.DROP else (f"unasked UDP {nat.guard.value}",)


def link_words(link: Link) -> tuple[str, ...]:
    """What a cable does to packets, one phrase for each way; nothing for a plain one."""
    up, down = _impairment_words(link.up), _impairment_words(link.down)
    ways = {"both ways": up} if up == down else {"up": up, "down": down}
    words = [f"{way} {impairment}" for way, impairment in ways.items() if impairment]
    if link.mtu != PLAIN.mtu:
        words.append(f"MTU {link.mtu}")
    return tuple(words)


def _impairment_words(impairment: Impairment) -> str:
    words = []
    if impairment.delay:
        jitter = f" ± {impairment.jitter * 1e3:g}" if impairment.jitter else ""
        words.append(f"{impairment.delay * 1e3:g}{jitter} ms")
    if impairment.rate is not None:
        words.append(f"{impairment.rate / 1e6:g} Mbit/s")
    if impairment.queue_packets is not None:
        words.append(f"queue of {impairment.queue_packets}")
    if impairment.queue_bytes is not None:
        words.append(f"queue of {impairment.queue_bytes} bytes")
    shares = {"lost": impairment.loss, "reordered": impairment.reorder, "twice": impairment.duplicate}
    shares["damaged"] = impairment.corrupt
    if impairment.burst is not None:
        shares["lost in bursts"] = impairment.burst.mean_loss
    words += [f"{share * 100:g} % {what}" for what, share in shares.items() if share]
    return ", ".join(words)


def slug(name: str) -> str:
    """A kind's name as one word of a command line: ``port-restricted-random-port``."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
