"""Filtering (RFC 4787 section 5) and hairpinning (section 6) as a table for ``nft -f -``. Pure.

conntrack by itself lets in whom was sent to: address-and-port-dependent filtering. A router that lets
in more keeps a table of its bindings, learnt from packets *after* source NAT, and so right for every
mapping. Per half of :class:`netlab.nat.Lifetime`, because a mapping lives as long as its longest flow:

    inside   external port -> host . port      whom a packet to W:port is for
    allowed  remote address . external port -> host . port
                                               ADF: who may send there, and whom it is for
    outside  host . port -> external port      EIM: the port to leave by, also when only strangers' flows are left
    taken    external port                     EIM that keeps ports: not to be kept by a second host
    held     external port . host . port       who has a mapping there: a port given twice is for the newest of them
    known    remote address . external port . host . port
                                               ADF: the same for each remote address; one who never wrote there
                                               from that port does not hear from it

A NAT that does not keep ports gives a port of its own to each of the inside (RFC 4787 REQ-3: no port
overloading), in an order of its own. conntrack by itself would give one port to two of them that write to
different strangers, and drop what the first one then writes to the stranger of the second.

A limit of conntrack: a host with another mapping towards a stranger (ADM, APDM) sees the stranger's
packet, when it comes by way of the first mapping, from another port than it was sent from.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Sequence
from collections.abc import Mapping as Map
from ipaddress import IPv4Address

from netlab.nat import LAN, RANDOM_PORTS, WAN, Filtering, Guard, Lifetime, Mapping, Nat, Udp

TABLE = "ip netlab"
SIZE = 65536  # elements of a map: one for each port
GIVEN = 1024  # ports that a range gives out before the first of them comes again
# What a flow was let in as; conntrack marks, so that replies and later packets are known by it.
FROM_OUTSIDE, HAIRPINNED = "0x1", "0x2"
# Before iptables' own source NAT at 100; after the destination NAT at -100, where a port mapper's
# explicit rules stand; after source NAT is done and before conntrack confirms.
BEFORE_SOURCE_NAT, AFTER_EXPLICIT, AFTER_NAT = 99, -99, 300
WAYS = ("one_way", "two_way")  # the fields of a Lifetime; conntrack calls a two-way flow "assured"


def _opens(nat: Nat) -> bool:
    """Whether a router lets in anything that conntrack alone would not."""
    return nat.udp is Udp.ALLOWED and (nat.filtering is not Filtering.ADDRESS_AND_PORT_DEPENDENT or nat.hairpinning)


def learnt(nat: Nat, *, guarded: bool = True) -> tuple[str, ...]:
    """What the table remembers, as ``map NAME`` and ``set NAME``: to be flushed along with conntrack's entries."""
    kinds = ["map inside", "set held"] if _opens(nat) else []
    if nat.filtering is Filtering.ADDRESS_DEPENDENT:
        kinds += ["map allowed", "set known"]
    if _keeps(nat, guarded):
        kinds.append("map outside")
        if nat.port_preservation:
            kinds.append("set taken")
    return tuple(f"{kind}_{way}" for kind in kinds for way in WAYS)


def filters(nat: Nat, wan_address: IPv4Address, given: Map[str, range], *, guarded: bool = True) -> str:
    """The table as text for ``nft -f -``; empty for a router that needs none.

    ``given`` are the ports of one that does not keep them, by whose they are: an nft match on the source, or "".
    """
    names = learnt(nat, guarded=guarded)
    if not names:
        return ""
    learning = [*(_forget(nat) if _opens(nat) else ()), *_learn(names)]
    chains = [_chain("learn", f"filter hook postrouting priority {AFTER_NAT}", learning)]
    if _keeps(nat, guarded):
        kept = _keep(nat, wan_address)
        if not nat.port_preservation:
            chains.append(_chain("give", "", _give(wan_address, given)))
        chains.append(_chain("keep", f"nat hook postrouting priority {BEFORE_SOURCE_NAT}", kept))
    deliver = [f"dnat ip to udp dport map @inside_{way}" for way in WAYS]
    admit = [f"dnat ip to ip saddr . udp dport map @allowed_{way}" for way in WAYS]
    if nat.hairpinning or nat.filtering is Filtering.ENDPOINT_INDEPENDENT:
        chains.append(_chain("deliver", "", deliver))
    if nat.filtering is Filtering.ADDRESS_DEPENDENT:
        chains.append(_chain("admit", "", admit))
    if _opens(nat):
        chains.append(_chain("open", f"nat hook prerouting priority {AFTER_EXPLICIT}", _open(nat, wan_address)))
    return f"table {TABLE} {{\n{''.join(_memories(names, nat.lifetime))}{''.join(chains)}}}\n"


def flush_text(names: Iterable[str]) -> str:
    """Text for ``nft -f -`` that empties these maps and sets, as :func:`learnt` names them."""
    return "".join(f"flush {kind} {TABLE} {name}\n" for kind, name in map(str.split, names))


def _keeps(nat: Nat, guarded: bool) -> bool:
    """Whether it is the table that says by which port a packet leaves."""
    # On an unguarded router a peer's early packet may have taken the port: then conntrack must be
    # free to choose another one.
    if not guarded or nat.guard is Guard.NONE or nat.udp is not Udp.ALLOWED:
        return False
    # Of those that keep ports, conntrack alone does it right where it is also the one that lets in.
    return nat.mapping is Mapping.ENDPOINT_INDEPENDENT and (_opens(nat) or not nat.port_preservation)


def _memories(names: Sequence[str], lifetime: Lifetime) -> Iterator[str]:
    types = {
        "inside": "inet_service : ipv4_addr . inet_service",
        "outside": "ipv4_addr . inet_service : inet_service",
        "allowed": "ipv4_addr . inet_service : ipv4_addr . inet_service",
        "taken": "inet_service",
        "held": "inet_service . ipv4_addr . inet_service",
        "known": "ipv4_addr . inet_service . ipv4_addr . inet_service",
    }
    for kind, name in map(str.split, names):
        memory, way = name.split("_", 1)
        seconds = getattr(lifetime, way)
        yield f"\t{kind} {name} {{ type {types[memory]}; size {SIZE}; flags dynamic, timeout; timeout {seconds}s; }}\n"


def _chain(name: str, base: str, rules: Iterable[str]) -> str:
    head = f"\t\ttype {base}; policy accept;\n" if base else ""
    return f"\tchain {name} {{\n{head}{''.join(f'{chr(9) * 2}{rule}{chr(10)}' for rule in rules)}\t}}\n"


def _forget(nat: Nat) -> Iterator[str]:
    """conntrack gives one port to two of the inside who write to different strangers: it belongs to the newest.

    Only what begins there takes it over: a further flow from the same place must not shorten the life of
    those before it.
    """
    place = "ct original ip saddr . ct original proto-src"
    yield _take_over("ct reply proto-dst", place, "inside", "held")
    if nat.filtering is Filtering.ADDRESS_DEPENDENT:
        yield _take_over("ct original ip daddr . ct reply proto-dst", place, "allowed", "known")


def _take_over(key: str, place: str, memory: str, holders: str) -> str:
    others = " ".join(f"{key} . {place} != @{holders}_{way}" for way in WAYS)
    delete = " ".join(f"delete @{memory}_{way} {{ {key} : {place} }}" for way in WAYS)
    return f"meta l4proto udp ct status snat ct state new {others} {delete}"


def _learn(names: Sequence[str]) -> Iterator[str]:
    """Each packet that passes, either way, prolongs its binding (RFC 4787 section 4.3), as in conntrack."""
    begun_inside = {
        "inside": "{ ct reply proto-dst : ct original ip saddr . ct original proto-src }",
        "outside": "{ ct original ip saddr . ct original proto-src : ct reply proto-dst }",
        "allowed": "{ ct original ip daddr . ct reply proto-dst : ct original ip saddr . ct original proto-src }",
        "taken": "{ ct reply proto-dst }",
        "held": "{ ct reply proto-dst . ct original ip saddr . ct original proto-src }",
        "known": "{ ct original ip daddr . ct reply proto-dst . ct original ip saddr . ct original proto-src }",
    }
    let_in = {
        "inside": "{ ct original proto-dst : ct reply ip saddr . ct reply proto-src }",
        "outside": "{ ct reply ip saddr . ct reply proto-src : ct original proto-dst }",
        "allowed": "{ ct original ip saddr . ct original proto-dst : ct reply ip saddr . ct reply proto-src }",
        "taken": "{ ct original proto-dst }",
        "held": "{ ct original proto-dst . ct reply ip saddr . ct reply proto-src }",
        "known": "{ ct original ip saddr . ct original proto-dst . ct reply ip saddr . ct reply proto-src }",
    }
    for way in WAYS:
        memories = [memory for memory in begun_inside if any(name.endswith(f" {memory}_{way}") for name in names)]
        for translated, only, elements in (
            ("snat", "", begun_inside),
            ("dnat", f" ct mark {{ {FROM_OUTSIDE}, {HAIRPINNED} }}", let_in),
        ):
            state = f"{translated} | assured" if way == "two_way" else translated
            updates = " ".join(f"update @{memory}_{way} {elements[memory]}" for memory in memories)
            yield f"meta l4proto udp{only} ct status & ({translated} | assured) == {state} {updates}"


def _keep(nat: Nat, wan_address: IPv4Address) -> Iterator[str]:
    sides = [f'oifname "{WAN}"', *([f"ct mark {HAIRPINNED}"] if nat.hairpinning else [])]
    for side in sides:
        for way in WAYS:
            yield f"{side} meta l4proto udp snat ip to {wan_address} : ip saddr . udp sport map @outside_{way}"
        if nat.port_preservation:
            for way in WAYS:
                yield f"{side} meta l4proto udp udp sport @taken_{way} snat ip to {wan_address}:{RANDOM_PORTS}"
        else:
            yield f"{side} meta l4proto udp goto give"


def _give(wan_address: IPv4Address, given: Map[str, range]) -> Iterator[str]:
    for whose, ports in given.items():
        # The same in each run, as all a lab does; another one for each router, host and epoch.
        order = random.Random(f"{wan_address} {whose} {ports}").sample(ports, min(GIVEN, len(ports)))
        numbered = ", ".join(f"{number} : {port}" for number, port in enumerate(order))
        yield f"{whose}meta l4proto udp snat ip to {wan_address} : numgen inc mod {len(order)} map {{ {numbered} }}"


def _open(nat: Nat, wan_address: IPv4Address) -> Iterator[str]:
    to_us = f"ip daddr {wan_address} meta l4proto udp"
    if nat.hairpinning:  # not filtered: who knows the external address gets through
        yield f'iifname "{LAN}" {to_us} ct mark set {HAIRPINNED} goto deliver'
    from_outside = f'iifname "{WAN}" {to_us}'
    match nat.filtering:
        case Filtering.ENDPOINT_INDEPENDENT:
            yield f"{from_outside} ct mark set {FROM_OUTSIDE} goto deliver"
        case Filtering.ADDRESS_DEPENDENT:
            yield f"{from_outside} ct mark set {FROM_OUTSIDE} goto admit"
        case Filtering.ADDRESS_AND_PORT_DEPENDENT:
            pass  # what conntrack does by itself
