"""What a host meets behind one router or several, foretold from their profiles. Pure.

A packet passes each router in turn, so of mapping, filtering and lifetime the strictest is what is seen.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import reduce

from netlab.addressing import Version
from netlab.nat import NO_PORT_MAPPER, Filtering, Guard, Lifetime, Mapping, Nat, Tcp, Udp
from netlab.topology import Host, Router, all_routers

# From the most lenient to the strictest.
MAPPINGS = (Mapping.ENDPOINT_INDEPENDENT, Mapping.ADDRESS_DEPENDENT, Mapping.ADDRESS_AND_PORT_DEPENDENT)
FILTERINGS = (Filtering.ENDPOINT_INDEPENDENT, Filtering.ADDRESS_DEPENDENT, Filtering.ADDRESS_AND_PORT_DEPENDENT)


def way_out(routers: tuple[Router, ...], router: Router) -> list[Router]:
    """``router`` and those that it stands behind, the outermost last."""
    way = [router]
    while way[-1] not in routers:
        way.append(next(each for each in all_routers(routers) if way[-1] in each.lan.routers))
    return way


def expected(way: Sequence[Router], host: Host, version: Version) -> Nat | None:
    """What a probe from ``host`` should find behind the routers of ``way``; None: that version is not carried.

    A port block is foretold for the first machine of a LAN only: a profile names that one's.
    """
    profiles = []
    member: Host | Router = host
    for router in way:
        nat = _of(router, version)
        if nat is None:
            return None
        if (*router.lan.hosts, *router.lan.routers).index(member):
            nat = replace(nat, port_block=None)
        profiles.append(nat)
        member = router
    return reduce(both, profiles)


def both(inner: Nat, outer: Nat) -> Nat:
    """What is seen behind ``inner`` where that stands behind ``outer``."""
    if not outer.translates and outer.filtering is Filtering.ENDPOINT_INDEPENDENT:
        return inner
    name = f"{inner.name} behind {outer.name}"
    udp = next((each.udp for each in (inner, outer) if each.udp is not Udp.ALLOWED), Udp.ALLOWED)
    tcp = next((each.tcp for each in (inner, outer) if each.tcp is not Tcp.ALLOWED), Tcp.ALLOWED)
    if udp is not Udp.ALLOWED:
        return Nat(name, udp=udp, tcp=tcp)
    keeps = inner.port_preservation and outer.port_preservation
    counts = outer.stride or (inner.stride if outer.port_preservation else 0)
    block = inner.port_block if outer.port_preservation else outer.port_block
    # What turns back at the outer router comes in at the inner one as from a stranger.
    turns = outer.hairpinning and inner.filtering is Filtering.ENDPOINT_INDEPENDENT
    return Nat(
        name,
        translates=inner.translates or outer.translates,
        mapping=max(inner.mapping, outer.mapping, key=MAPPINGS.index),
        filtering=max(inner.filtering, outer.filtering, key=FILTERINGS.index),
        port_preservation=keeps,
        tcp=tcp,
        stride=counts,
        hairpinning=turns if outer.translates else inner.hairpinning,
        guard=outer.guard if keeps else Guard.DROP,
        lifetime=Lifetime(*(min(each) for each in zip(_seconds(inner), _seconds(outer), strict=True))),
        port_block=block,
        port_mapper=NO_PORT_MAPPER,  # it refuses where its own WAN address is not the public one
    )


def _of(router: Router, version: Version) -> Nat | None:
    """The profile as this router has it: without guard, and seen to be so, where the router has none."""
    nat = router.profile(version)
    if nat is None or not nat.translates or router.guarded or nat.udp is not Udp.ALLOWED:
        return nat
    return replace(nat, guard=Guard.NONE if nat.port_preservation else Guard.DROP)


def _seconds(nat: Nat) -> tuple[int, int]:
    return nat.lifetime.one_way, nat.lifetime.two_way
