"""NAT behaviour in the words of RFC 4787, turned into iptables commands. Pure.

The rules were compared with an independent classifier (coturn's RFC 5780 server asked by ``stun``);
:mod:`netlab.probe` proves them again on the kernel at hand.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import Enum
from ipaddress import IPv4Address

WAN = "wan"  # the router's interface towards the core
LAN = "lan"  # the router's bridge towards its hosts

# Seconds for which a host that sent to an address stays reachable from it. Above the 30 s for which
# Linux keeps a one-way UDP mapping, so that the filter never closes before the mapping does.
FILTER_LIFETIME = 60
FIRST_PORT, LAST_PORT = 1024, 65535  # inclusive, as ipset has it
# Inclusive, as iptables has it. Below what programs bind and Linux hands out (32768-60999): a port
# inside the range would be kept. No --random here, it would forget the mapping of a known source.
RANDOM_PORTS = "1024-9999"
# A symmetric NAT that counts: so many ports, then from the first again. Each is one rule.
SEQUENCE_FIRST, SEQUENCE_LENGTH = 40000, 256
# Address-dependent mapping: destinations that differ in a bit of this mask get ports from different
# ranges. Last octet: a server's addresses; third: one router from the next; first: 20.* from 11.*.
# The ranges lie below what Linux hands out (32768): a port inside its range would be kept.
ADDRESS_MASK = 0x10000303
ADDRESS_FIRST, ADDRESS_PORTS = 2048, 960


class Mapping(Enum):
    """How external ports are chosen (RFC 4787 section 4.1)."""

    ENDPOINT_INDEPENDENT = "EIM"
    ADDRESS_DEPENDENT = "ADM"
    ADDRESS_AND_PORT_DEPENDENT = "APDM"


class Filtering(Enum):
    """Whose packets a mapping lets in (RFC 4787 section 5)."""

    ENDPOINT_INDEPENDENT = "EIF"
    ADDRESS_DEPENDENT = "ADF"
    ADDRESS_AND_PORT_DEPENDENT = "APDF"


class Udp(Enum):
    """What becomes of UDP that the hosts send."""

    ALLOWED = "allowed"
    DROP = "dropped in silence"
    REJECT = "rejected with an ICMP port unreachable"


class Tcp(Enum):
    """Which TCP the hosts may open."""

    ALLOWED = "allowed"
    ONLY_443 = "only to port 443"


class Guard(Enum):
    """What a router does with UDP that arrives unasked at its own WAN address.

    Without a guard a peer's early packet gets a conntrack entry of its own and takes the port that
    our later packet needs. Observable only where ports are preserved.
    """

    DROP = "dropped in silence"
    REJECT = "rejected with an ICMP port unreachable"
    NONE = "let in"


@dataclass(frozen=True, slots=True)
class Lifetime:
    """Seconds after which an idle UDP mapping is gone (RFC 4787 section 4.3).

    ``one_way``: nothing came back yet; ``two_way``: packets went both ways for more than 2 s.
    """

    one_way: int = 30  # net.netfilter.nf_conntrack_udp_timeout
    two_way: int = 120  # net.netfilter.nf_conntrack_udp_timeout_stream


LINUX = Lifetime()


@dataclass(frozen=True, slots=True)
class Nat:
    """One router's behaviour; the fields are what a probe can observe from a host behind it.

    ``translates`` False is a router without NAT: its hosts have public addresses.
    Equality ignores ``name``, so that a probe's answer can be compared with a profile.
    ``stride``: a symmetric NAT that counts gives each new mapping a port so much higher; 0: it does
    not count. ``port_block``: the external ports of the first host, see :func:`port_block`.
    """

    name: str = field(compare=False)
    translates: bool = True
    mapping: Mapping = Mapping.ENDPOINT_INDEPENDENT  # RFC 4787 section 4.1
    filtering: Filtering = Filtering.ADDRESS_AND_PORT_DEPENDENT  # RFC 4787 section 5
    port_preservation: bool = True  # RFC 4787 section 4.2.1
    udp: Udp = Udp.ALLOWED
    tcp: Tcp = Tcp.ALLOWED
    stride: int = 0
    hairpinning: bool = False  # with the external source, RFC 4787 section 6 (REQ-9a)
    guard: Guard = Guard.DROP
    lifetime: Lifetime = LINUX
    port_block: range | None = None


NONE = Nat("none", translates=False, filtering=Filtering.ENDPOINT_INDEPENDENT)
FULL_CONE = Nat("full cone", filtering=Filtering.ENDPOINT_INDEPENDENT)
ADDRESS_RESTRICTED = Nat("address-restricted", filtering=Filtering.ADDRESS_DEPENDENT)
PORT_RESTRICTED = Nat("port-restricted")
PORT_RESTRICTED_RANDOM = Nat("port-restricted, random port", port_preservation=False)
SYMMETRIC = Nat("symmetric", mapping=Mapping.ADDRESS_AND_PORT_DEPENDENT, port_preservation=False)
UDP_BLOCKED = Nat("UDP blocked", udp=Udp.DROP)
UDP_REJECTED = Nat("UDP rejected", udp=Udp.REJECT)

FULL_CONE_HAIRPIN = Nat("full cone, hairpinning", filtering=Filtering.ENDPOINT_INDEPENDENT, hairpinning=True)
PORT_RESTRICTED_HAIRPIN = Nat("port-restricted, hairpinning", hairpinning=True)
PORT_RESTRICTED_REJECTING = Nat("port-restricted, rejecting", guard=Guard.REJECT)
PORT_RESTRICTED_UNGUARDED = Nat("port-restricted, unguarded", guard=Guard.NONE)
SHORT_LIFETIME = Nat("short lifetime", lifetime=Lifetime(one_way=3, two_way=6))
ADDRESS_DEPENDENT = Nat("address-dependent mapping", mapping=Mapping.ADDRESS_DEPENDENT, port_preservation=False)
SYMMETRIC_SEQUENTIAL = Nat(
    "symmetric, sequential", mapping=Mapping.ADDRESS_AND_PORT_DEPENDENT, port_preservation=False, stride=1
)
SYMMETRIC_STRIDE = Nat(
    "symmetric, every fourth port", mapping=Mapping.ADDRESS_AND_PORT_DEPENDENT, port_preservation=False, stride=4
)
CARRIER = Nat("carrier-grade", port_preservation=False, port_block=range(10240, 11264))
CARRIER_SYMMETRIC = Nat(
    "carrier-grade, symmetric",
    mapping=Mapping.ADDRESS_AND_PORT_DEPENDENT,
    port_preservation=False,
    port_block=range(10240, 11264),
)
ONLY_TCP_443 = Nat("all but TCP 443 blocked", udp=Udp.DROP, tcp=Tcp.ONLY_443)

KINDS = (
    NONE, FULL_CONE, ADDRESS_RESTRICTED, PORT_RESTRICTED, PORT_RESTRICTED_RANDOM, SYMMETRIC,
    UDP_BLOCKED, UDP_REJECTED, FULL_CONE_HAIRPIN, PORT_RESTRICTED_HAIRPIN, PORT_RESTRICTED_REJECTING,
    PORT_RESTRICTED_UNGUARDED, SHORT_LIFETIME, ADDRESS_DEPENDENT, SYMMETRIC_SEQUENTIAL, SYMMETRIC_STRIDE,
    CARRIER, CARRIER_SYMMETRIC, ONLY_TCP_443,
)  # fmt: skip


class SetKind(Enum):
    """An ipset type this lab uses, by ipset's own name."""

    BITMAP_PORT = "bitmap:port"
    HASH_IP_PORT = "hash:ip,port"


@dataclass(frozen=True, slots=True)
class SetSpec:
    """An ipset that must exist before the rules are loaded; timeout in seconds."""

    name: str
    kind: SetKind
    timeout: int = FILTER_LIFETIME


@dataclass(frozen=True, slots=True)
class Ruleset:
    """What a router needs: ipsets, then ``iptables`` commands in this order.

    ``sysctls`` are paths under /proc/sys and their values.
    """

    sets: tuple[SetSpec, ...] = ()
    commands: tuple[str, ...] = ()
    sysctls: tuple[tuple[str, str], ...] = ()


def ruleset(nat: Nat, wan_address: IPv4Address, hosts: Sequence[IPv4Address], *, guarded: bool = True) -> Ruleset:
    """The sets, iptables commands and sysctls that make a router behave as ``nat``.

    ``hosts`` are the addresses on its LAN. ``guarded`` False takes the profile's guard away.
    Raises ``ValueError`` for a behaviour that no rule here produces.
    """
    if not nat.translates:
        if nat != NONE:
            raise ValueError(f"{nat.name}: a router without NAT neither maps nor filters")
        return Ruleset()
    sets: tuple[SetSpec, ...] = ()
    filtering: tuple[str, ...] = ()
    if nat.udp is Udp.ALLOWED:
        match nat.filtering:
            case Filtering.ENDPOINT_INDEPENDENT:
                sets, filtering = _endpoint_independent(nat, wan_address, hosts)
            case Filtering.ADDRESS_DEPENDENT:
                sets, filtering = _address_dependent(nat, hosts)
            case Filtering.ADDRESS_AND_PORT_DEPENDENT:
                pass  # what conntrack does by itself
        if nat.hairpinning:
            more_sets, more = _hairpinning(nat, wan_address, hosts)
            sets, filtering = sets + more_sets, filtering + more
    if nat.lifetime != LINUX and nat.filtering is not Filtering.ADDRESS_AND_PORT_DEPENDENT:
        raise ValueError(f"{nat.name}: the filter's sets would outlive the mapping")
    commands = [*_source_nat(nat, wan_address, hosts), *filtering, *_blocking(nat)]
    unasked = f"iptables -A INPUT -i {WAN} -p udp -m conntrack --ctstate NEW"
    if guarded and nat.guard is not Guard.NONE:
        commands.append(f"{unasked} -j {nat.guard.name}")
    return Ruleset(sets, tuple(commands), _sysctls(nat.lifetime))


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


def _source_nat(nat: Nat, wan_address: IPv4Address, hosts: Sequence[IPv4Address]) -> list[str]:
    append = f"iptables -t nat -A POSTROUTING -o {WAN}"
    masquerade = f"{append} -j MASQUERADE"
    snat = f"-j SNAT --to-source {wan_address}"
    if nat.stride and (nat.mapping is not Mapping.ADDRESS_AND_PORT_DEPENDENT or nat.port_block is not None):
        raise ValueError(f"{nat.name}: only a symmetric NAT without port block counts")
    match nat.mapping, nat.port_preservation:
        case Mapping.ENDPOINT_INDEPENDENT, True if nat.port_block is None:
            return [masquerade]
        case Mapping.ENDPOINT_INDEPENDENT, False if nat.port_block is None:
            return [f"{append} -p udp {snat}:{RANDOM_PORTS}", masquerade]
        case (Mapping.ENDPOINT_INDEPENDENT | Mapping.ADDRESS_AND_PORT_DEPENDENT) as mapping, False if nat.port_block:
            fully = " --random-fully" if mapping is Mapping.ADDRESS_AND_PORT_DEPENDENT else ""
            blocks = [(host, port_block(nat, i)) for i, host in enumerate(hosts)]
            return [
                *(f"{append} -s {host} -p udp {snat}:{block[0]}-{block[-1]}{fully}" for host, block in blocks),
                masquerade,
            ]
        case Mapping.ADDRESS_DEPENDENT, False if nat.port_block is None:
            return [*(f"{append} -p udp -d {part} {snat}:{ports}" for part, ports in _by_address()), masquerade]
        case Mapping.ADDRESS_AND_PORT_DEPENDENT, False if nat.stride:
            if not 0 < nat.stride <= (LAST_PORT + 1 - SEQUENCE_FIRST) // SEQUENCE_LENGTH:
                raise ValueError(f"{nat.name}: no ports for steps of {nat.stride}")
            # Of the flows that no rule before took, the first and every n-th after it.
            every = f"{append} -p udp -m statistic --mode nth --every"
            return [
                *(
                    f"{every} {SEQUENCE_LENGTH - i} --packet 0 {snat}:{SEQUENCE_FIRST + i * nat.stride}"
                    for i in range(SEQUENCE_LENGTH)
                ),
                masquerade,
            ]
        case Mapping.ADDRESS_AND_PORT_DEPENDENT, False:
            return [f"{masquerade} --random-fully"]
    raise ValueError(f"{nat.name}: no rule maps {nat.mapping.value} with these ports")


def _by_address() -> Iterator[tuple[str, str]]:
    """A part of all addresses as ADDRESS/MASK, and its ports, for each value of the masked bits."""
    bits = [bit for bit in range(32) if ADDRESS_MASK >> bit & 1]
    for number in range(1 << len(bits)):
        value = sum(1 << bit for i, bit in enumerate(bits) if number >> i & 1)
        first = ADDRESS_FIRST + number * ADDRESS_PORTS
        yield f"{IPv4Address(value)}/{IPv4Address(ADDRESS_MASK)}", f"{first}-{first + ADDRESS_PORTS - 1}"


def _endpoint_independent(
    nat: Nat, wan_address: IPv4Address, hosts: Sequence[IPv4Address]
) -> tuple[tuple[SetSpec, ...], tuple[str, ...]]:
    """Remember each port a host sent from; let anyone reach it there (RFC 4787 section 5).

    A port belongs to the host that used it first. A second host on the same port is mapped to
    another one, which this rule cannot see, so that flow is filtered by address and port.
    """
    return _open_ports(nat, wan_address, hosts, "fc", WAN)


def _hairpinning(
    nat: Nat, wan_address: IPv4Address, hosts: Sequence[IPv4Address]
) -> tuple[tuple[SetSpec, ...], tuple[str, ...]]:
    """Let the LAN's hosts reach each other's external addresses, from theirs (RFC 4787 section 6)."""
    sets, commands = _open_ports(nat, wan_address, hosts, "hp", LAN)
    turned = f"-m conntrack --ctstate DNAT -j SNAT --to-source {wan_address}"
    back = (f"iptables -t nat -A POSTROUTING -o {LAN} -s {host} -p udp {turned}" for host in hosts)
    return sets, (*commands, *back)


def _open_ports(
    nat: Nat, wan_address: IPv4Address, hosts: Sequence[IPv4Address], name: str, side: str
) -> tuple[tuple[SetSpec, ...], tuple[str, ...]]:
    _need_preserved_ports(nat)
    sets, commands = [], []
    for i, host in enumerate(hosts):
        taken = "".join(f" -m set ! --match-set {name}{j} src" for j in range(len(hosts)) if j != i)
        sets.append(SetSpec(f"{name}{i}", SetKind.BITMAP_PORT))
        commands.append(
            f"iptables -t mangle -A POSTROUTING -o {WAN} -p udp -s {host}{taken}"
            f" -j SET --add-set {name}{i} src --exist --timeout {FILTER_LIFETIME}"
        )
        commands.append(
            f"iptables -t nat -A PREROUTING -i {side} -d {wan_address} -p udp"
            f" -m set --match-set {name}{i} dst -j DNAT --to-destination {host}"
        )
    return tuple(sets), tuple(commands)


def _address_dependent(nat: Nat, hosts: Sequence[IPv4Address]) -> tuple[tuple[SetSpec, ...], tuple[str, ...]]:
    """Remember (remote address, own port); let that address in from any port (RFC 4787 section 5).

    xt_recent cannot do this: it tracks hosts without ports, and a classifier calls that EIF.
    """
    _need_preserved_ports(nat)
    sets, commands = [], []
    for i, host in enumerate(hosts):
        taken = "".join(f" -m set ! --match-set ar{j} dst,src" for j in range(len(hosts)) if j != i)
        sets.append(SetSpec(f"ar{i}", SetKind.HASH_IP_PORT))
        commands.append(
            f"iptables -t mangle -A POSTROUTING -o {WAN} -p udp -s {host}{taken}"
            f" -j SET --add-set ar{i} dst,src --exist --timeout {FILTER_LIFETIME}"
        )
        commands.append(
            f"iptables -t nat -A PREROUTING -i {WAN} -p udp"
            f" -m set --match-set ar{i} src,dst -j DNAT --to-destination {host}"
        )
    return tuple(sets), tuple(commands)


def _need_preserved_ports(nat: Nat) -> None:
    # The sets see a packet before its source is translated: its port must stay what it is.
    if nat.mapping is not Mapping.ENDPOINT_INDEPENDENT or not nat.port_preservation:
        raise ValueError(f"{nat.name}: this filtering or hairpinning needs EIM and port preservation")


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


def restore_text(commands: Iterable[str]) -> str:
    """The same commands as one ``iptables-restore --noflush`` input: one process, not one a rule.

    Raises ``ValueError`` for anything that is not ``iptables [-t TABLE] ...``.
    """
    tables: dict[str, list[str]] = {}
    for command in commands:
        words = command.split()
        if len(words) < 3 or words[0] != "iptables":
            raise ValueError(f"not an iptables command: {command!r}")
        table, rule = (words[2], words[3:]) if words[1] == "-t" else ("filter", words[1:])
        tables.setdefault(table, []).append(" ".join(rule))
    return "".join(
        f"*{table}\n" + "".join(f"{rule}\n" for rule in rules) + "COMMIT\n" for table, rules in tables.items()
    )
