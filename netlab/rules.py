"""The rules that make a router behave as a :class:`netlab.nat.Nat`: iptables commands, nft text. Pure.

Mapping and blocking are iptables rules; filtering and hairpinning a table of nftables, see
:mod:`netlab.filters`. What they do was compared with an independent classifier (coturn's RFC 5780
server asked by ``stun``); :mod:`netlab.probe` proves it again on the kernel at hand.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address
from typing import assert_never

from netlab.filters import HAIRPINNED, filters, learnt
from netlab.miniupnpd import tables
from netlab.nat import LAN, LINUX, NONE, RANDOM_PORTS, WAN, Guard, Lifetime, Mapping, Nat, Tcp, Udp

PROGRAMS = ("iptables", "ip6tables")
FIRST_PORT, LAST_PORT = 1024, 65535  # inclusive; ports that a NAT gives out
# A symmetric NAT that counts: so many ports, then from the first again. Each is one rule.
SEQUENCE_FIRST, SEQUENCE_LENGTH = 40000, 256
# Address-dependent mapping: destinations that differ in a bit of this mask get ports from different
# ranges. Last octet: a server's addresses; third: one router from the next; first: 20.* from 11.*.
# The ranges lie below what Linux hands out (32768): a port inside its range would be kept.
# Where these bits do not tell all public addresses of a topology apart it has more of them, see address_mask.
ADDRESS_MASK = 0x10000303
ADDRESS_FIRST, ADDRESS_END = 2048, 32768
MAX_ADDRESS_BITS = 8  # 256 rules with 120 ports each
# Random ports of a NAT that was given others, by turns; the last for sources that the range at hand would
# keep. All below what Linux hands out (32768).
POOLS = (RANDOM_PORTS, "10000-18975", "18976-27951")

_TABLE = re.compile(r"^table (\w+ \w+) (\{\n.*?^\}\n)", re.MULTILINE | re.DOTALL)  # name and rules


@dataclass(frozen=True, slots=True)
class Ruleset:
    """What a router needs: ``iptables`` commands in this order, ``nft`` text, sysctls.

    ``sysctls`` are paths under /proc/sys and their values. ``learnt`` are the maps and sets of the
    nft text in which the router remembers its bindings, as :func:`netlab.filters.flush_text` takes
    them: to forget all mappings, flush them and delete conntrack's entries.
    """

    commands: tuple[str, ...] = ()
    nft: str = ""
    learnt: tuple[str, ...] = ()
    sysctls: tuple[tuple[str, str], ...] = ()


def ruleset(
    nat: Nat,
    wan_address: IPv4Address,
    hosts: Sequence[IPv4Address],
    *,
    guarded: bool = True,
    mask: int = ADDRESS_MASK,
) -> Ruleset:
    """The commands, nft text and sysctls that make a router behave as ``nat``.

    ``hosts`` are the addresses on its LAN. ``guarded`` False takes the profile's guard away. ``mask`` are the
    bits of an address that an address-dependent mapping depends on, see :func:`address_mask`.
    Raises ``ValueError`` for a behaviour that no rule here produces or no probe could see.
    """
    if not nat.translates:
        if nat != NONE:
            raise ValueError(f"{nat.name}: without NAT it is netlab.firewall that filters")
        return Ruleset()
    if nat.udp is not Udp.ALLOWED and nat != Nat(nat.name, udp=nat.udp, tcp=nat.tcp):
        raise ValueError(f"{nat.name}: of a router that lets no UDP out no probe sees more")
    if nat.guard is not Guard.DROP and not nat.port_preservation and not nat.epoch:
        raise ValueError(f"{nat.name}: what a guard does is seen only where ports are preserved")
    if not 0 < nat.lifetime.one_way <= nat.lifetime.two_way:
        raise ValueError(f"{nat.name}: a two-way mapping lives at least as long as a one-way one")
    commands = [*_source_nat(nat, wan_address, hosts, mask), *_blocking(nat)]
    unasked = f"iptables -A INPUT -i {WAN} -m conntrack --ctstate NEW"
    if guarded and nat.guard is not Guard.NONE:
        commands.append(f"{unasked} -j {nat.guard.name}")
    text = filters(nat, wan_address, _given(nat, hosts), guarded=guarded) + tables(nat.port_mapper)
    return Ruleset(tuple(commands), text, learnt(nat, guarded=guarded), _sysctls(nat.lifetime))


def port_block(nat: Nat, number: int) -> range:
    """The external ports of a LAN's host ``number``, counted from 0 (RFC 6888 section 4, RFC 7422).

    Blocks are as long as a power of two and aligned to it: no other could be told from the ports
    seen. Raises ``ValueError`` for another, or when there are no ports left for that host.
    """
    block = nat.port_block
    if block is None or not block or block.step != 1 or len(block) & (len(block) - 1) or block.start % len(block):
        raise ValueError(f"{nat.name}: a port block is 2^n ports from a multiple of that, not {block}")
    start = block.start + number * len(block)
    if start < FIRST_PORT or start + len(block) > LAST_PORT + 1:
        raise ValueError(f"{nat.name}: no ports for host {number}")
    return range(start, start + len(block))


def _sysctls(lifetime: Lifetime) -> tuple[tuple[str, str], ...]:
    if lifetime == LINUX:
        return ()
    return (
        ("net/netfilter/nf_conntrack_udp_timeout", str(lifetime.one_way)),
        ("net/netfilter/nf_conntrack_udp_timeout_stream", str(lifetime.two_way)),
    )


def _source_nat(nat: Nat, wan_address: IPv4Address, hosts: Sequence[IPv4Address], mask: int) -> Iterator[str]:
    """Map what leaves by the WAN side and, when hairpinning, what turns back to the LAN: in one chain,
    so that both are mapped alike (RFC 4787 section 6, REQ-9a)."""
    append = "iptables -t nat -A"
    udp = _mapping(nat, wan_address, hosts, mask)
    fully = " --random-fully" if _at_random(nat) else ""
    if nat.hairpinning:
        yield "iptables -t nat -N MAP"
        yield f"{append} POSTROUTING -o {WAN} -p udp -j MAP"
        yield f"{append} POSTROUTING -o {LAN} -p udp -m connmark --mark {HAIRPINNED} -j MAP"
        if nat.mapping is Mapping.ADDRESS_DEPENDENT:
            # Its destination, our own WAN address, is translated by now.
            ports = _ports_towards(wan_address, nat.epoch, mask)
            yield f"{append} MAP -p udp -m connmark --mark {HAIRPINNED} -j SNAT --to-source {wan_address}:{ports}"
        yield from (f"{append} MAP {rule}" for rule in udp)
        yield f"{append} MAP -p udp -j SNAT --to-source {wan_address}{fully}"
    else:
        yield from (f"{append} POSTROUTING -o {WAN} {rule}" for rule in udp)
    yield f"{append} POSTROUTING -o {WAN} -j MASQUERADE{fully}"


def _at_random(nat: Nat) -> bool:
    symmetric = nat.mapping is Mapping.ADDRESS_AND_PORT_DEPENDENT
    return symmetric and not nat.stride and nat.port_block is None


def _mapping(nat: Nat, wan_address: IPv4Address, hosts: Sequence[IPv4Address], mask: int) -> list[str]:
    """How UDP's external ports are chosen, where MASQUERADE alone would not do; without chain and side."""
    snat = f"-j SNAT --to-source {wan_address}"
    if nat.stride and (nat.mapping is not Mapping.ADDRESS_AND_PORT_DEPENDENT or nat.port_block is not None):
        raise ValueError(f"{nat.name}: only a symmetric NAT without port block counts")
    if nat.port_preservation and nat.mapping is not Mapping.ENDPOINT_INDEPENDENT:
        raise ValueError(f"{nat.name}: a port that depends on the destination is not the one of the host")
    if nat.port_preservation and nat.port_block is not None:
        raise ValueError(f"{nat.name}: a port out of a block is not the one of the host")
    match nat.mapping:
        case Mapping.ADDRESS_DEPENDENT if nat.port_block is not None:
            raise ValueError(f"{nat.name}: no port block is split by destination address")
        case Mapping.ENDPOINT_INDEPENDENT | Mapping.ADDRESS_AND_PORT_DEPENDENT if nat.port_block is not None:
            fully = " --random-fully" if nat.mapping is Mapping.ADDRESS_AND_PORT_DEPENDENT else ""
            blocks = [(host, port_block(nat, i)) for i, host in enumerate(hosts)]
            return [f"-s {host} -p udp {snat}:{block[0]}-{block[-1]}{fully}" for host, block in blocks]
        case Mapping.ENDPOINT_INDEPENDENT:
            pools = [] if nat.port_preservation else _pools(nat.epoch)
            return [f"-p udp {which}{snat}:{ports}" for which, ports in pools]
        case Mapping.ADDRESS_DEPENDENT:
            parts = _by_address(nat.epoch, mask)
            return [f"-p udp -d {IPv4Address(value)}/{IPv4Address(mask)} {snat}:{ports}" for value, ports in parts]
        case Mapping.ADDRESS_AND_PORT_DEPENDENT if nat.stride:
            if not 0 < nat.stride <= (LAST_PORT + 1 - SEQUENCE_FIRST) // SEQUENCE_LENGTH:
                raise ValueError(f"{nat.name}: no ports for steps of {nat.stride}")
            # Of the flows that no rule before took, the first and every n-th after it.
            every = "-p udp -m statistic --mode nth --every"
            return [
                f"{every} {SEQUENCE_LENGTH - i} --packet 0 {snat}:{SEQUENCE_FIRST + i * nat.stride}"
                for i in range(SEQUENCE_LENGTH)
            ]
        case Mapping.ADDRESS_AND_PORT_DEPENDENT:
            return []
        case _:
            assert_never(nat.mapping)


def _given(nat: Nat, hosts: Sequence[IPv4Address]) -> dict[str, range]:
    """The ports that an endpoint-independent NAT gives where the table chooses, as :func:`netlab.filters.filters`
    takes them."""
    if nat.port_block is not None:
        return {f"ip saddr {host} ": port_block(nat, number) for number, host in enumerate(hosts)}
    first, last = map(int, _pool(nat.epoch).split("-"))
    return {"": range(first, last + 1)}


def _pools(epoch: int) -> Iterator[tuple[str, str]]:
    """Which sources get random ports out of which range; in the next epoch each gets others.

    A NAT keeps a port that lies in the range itself, so such a source has a range of its own.
    """
    pool = _pool(epoch)
    if epoch:
        yield f"--sport {pool.replace('-', ':')} ", POOLS[2]
    yield "", pool


def _pool(epoch: int) -> str:
    """Where random ports come from; another range in the next epoch."""
    return POOLS[epoch % 2] if epoch else RANDOM_PORTS


def address_mask(addresses: Iterable[IPv4Address]) -> int:
    """The bits by which an address-dependent mapping tells ``addresses`` apart: the usual ones, and as many more
    as that takes. Raises ``ValueError`` when those are too many for rules."""
    apart, mask = {int(address) for address in addresses}, ADDRESS_MASK
    while len({each & mask for each in apart}) < len(apart):
        if mask.bit_count() == MAX_ADDRESS_BITS:
            raise ValueError(
                f"an address-dependent mapping cannot tell {len(apart)} public addresses apart by {MAX_ADDRESS_BITS}"
                " of their bits: take fewer routers, servers or addresses"
            )
        mask |= max((1 << bit for bit in range(32)), key=lambda more: len({each & (mask | more) for each in apart}))
    return mask


def _by_address(epoch: int, mask: int) -> Iterator[tuple[int, str]]:
    """Each value that the masked bits of an address may have, and the ports for it; in the next epoch others."""
    bits = [bit for bit in range(32) if mask >> bit & 1]
    ports = (ADDRESS_END - ADDRESS_FIRST) >> len(bits)
    for number in range(1 << len(bits)):
        value = sum(1 << bit for i, bit in enumerate(bits) if number >> i & 1)
        first = ADDRESS_FIRST + (number + epoch) % (1 << len(bits)) * ports
        yield value, f"{first}-{first + ports - 1}"


def _ports_towards(address: IPv4Address, epoch: int, mask: int) -> str:
    return next(ports for value, ports in _by_address(epoch, mask) if int(address) & mask == value)


def _blocking(nat: Nat) -> list[str]:
    forward = f"iptables -A FORWARD -i {LAN}"
    match nat.tcp, nat.udp:
        case Tcp.ALLOWED, Udp.ALLOWED:
            return []
        case Tcp.ALLOWED, Udp.DROP:
            return [f"{forward} -p udp -j DROP"]
        case Tcp.ALLOWED, Udp.REJECT:
            return [f"{forward} -p udp -j REJECT"]
        case Tcp.ONLY_443, Udp.DROP:
            return [f"{forward} -p tcp --dport 443 -j ACCEPT", f"{forward} -j DROP"]
    raise ValueError(f"{nat.name}: TCP is limited only together with UDP")


def restore_text(commands: Iterable[str], program: str = "iptables") -> str:
    """The same commands as one ``iptables-restore --noflush`` input: one process, not one a rule.

    ``program`` is ``iptables`` or ``ip6tables``. Raises ``ValueError`` for another, and for any
    command that is not ``PROGRAM [-t TABLE] ...``.
    """
    tables: dict[str, list[str]] = {}
    for command in commands:
        words = command.split()
        if len(words) < 3 or words[0] != program or program not in PROGRAMS:
            raise ValueError(f"not an iptables command: {command!r}")
        table, rule = (words[2], words[3:]) if words[1] == "-t" else ("filter", words[1:])
        tables.setdefault(table, []).append(" ".join(rule))
    return "".join(
        f"*{table}\n" + "".join(f"{rule}\n" for rule in rules) + "COMMIT\n" for table, rules in tables.items()
    )


def replaced(old: Ruleset, new: Ruleset) -> tuple[tuple[str, ...], str]:
    """The ``iptables`` commands and the ``nft`` text that make ``new`` of ``old``; empty where nothing differs.

    They delete and append, so that rules which somebody put before ours stay where they are. Tables of
    nftables that do not differ keep what they have learnt.
    """
    commands: tuple[str, ...] = ()
    if old.commands != new.commands:
        undone = (re.sub(r" -A ", " -D ", re.sub(r" -N ", " -X ", each), count=1) for each in reversed(old.commands))
        commands = (*undone, *new.commands)
    before, after = dict(_TABLE.findall(old.nft)), dict(_TABLE.findall(new.nft))
    gone = "".join(f"delete table {name}\n" for name, rules in before.items() if after.get(name) != rules)
    come = "".join(f"table {name} {rules}" for name, rules in after.items() if before.get(name) != rules)
    return commands, gone + come
