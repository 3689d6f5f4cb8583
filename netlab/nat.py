"""NAT behaviour in the words of RFC 4787, turned into iptables commands. Pure.

The rules were compared with an independent classifier (coturn's RFC 5780 server asked by ``stun``);
:mod:`netlab.probe` proves them again on the kernel at hand.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
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


@dataclass(frozen=True, slots=True)
class Nat:
    """One router's behaviour; the fields are what a probe can observe from a host behind it.

    ``translates`` False is a router without NAT: its hosts have public addresses.
    Equality ignores ``name``, so that a probe's answer can be compared with a profile.
    """

    name: str = field(compare=False)
    translates: bool = True
    mapping: Mapping = Mapping.ENDPOINT_INDEPENDENT  # RFC 4787 section 4.1
    filtering: Filtering = Filtering.ADDRESS_AND_PORT_DEPENDENT  # RFC 4787 section 5
    port_preservation: bool = True  # RFC 4787 section 4.2.1
    udp: Udp = Udp.ALLOWED


NONE = Nat("none", translates=False, filtering=Filtering.ENDPOINT_INDEPENDENT)
FULL_CONE = Nat("full cone", filtering=Filtering.ENDPOINT_INDEPENDENT)
ADDRESS_RESTRICTED = Nat("address-restricted", filtering=Filtering.ADDRESS_DEPENDENT)
PORT_RESTRICTED = Nat("port-restricted")
PORT_RESTRICTED_RANDOM = Nat("port-restricted, random port", port_preservation=False)
SYMMETRIC = Nat("symmetric", mapping=Mapping.ADDRESS_AND_PORT_DEPENDENT, port_preservation=False)
UDP_BLOCKED = Nat("UDP blocked", udp=Udp.DROP)
UDP_REJECTED = Nat("UDP rejected", udp=Udp.REJECT)

KINDS = (
    NONE, FULL_CONE, ADDRESS_RESTRICTED, PORT_RESTRICTED, PORT_RESTRICTED_RANDOM, SYMMETRIC,
    UDP_BLOCKED, UDP_REJECTED,
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
    """What a router needs: ipsets, then ``iptables`` commands in this order."""

    sets: tuple[SetSpec, ...] = ()
    commands: tuple[str, ...] = ()


def ruleset(nat: Nat, wan_address: IPv4Address, hosts: Sequence[IPv4Address], *, guarded: bool = True) -> Ruleset:
    """The sets and iptables commands that make a router behave as ``nat``.

    ``hosts`` are the addresses on its LAN. ``guarded``: drop what arrives unasked for the router
    itself. Without that, a peer's early packet gets a conntrack entry of its own and takes the port
    that our later packet needs (real routers drop; some do not, hence the choice).

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
    commands = [*_source_nat(nat, wan_address), *filtering, *_blocking(nat)]
    if guarded:
        commands.append(f"iptables -A INPUT -i {WAN} -p udp -m conntrack --ctstate NEW -j DROP")
    return Ruleset(sets, tuple(commands))


def _source_nat(nat: Nat, wan_address: IPv4Address) -> list[str]:
    masquerade = f"iptables -t nat -A POSTROUTING -o {WAN} -j MASQUERADE"
    match nat.mapping, nat.port_preservation:
        case Mapping.ENDPOINT_INDEPENDENT, True:
            return [masquerade]
        case Mapping.ENDPOINT_INDEPENDENT, False:
            snat = f"SNAT --to-source {wan_address}:{RANDOM_PORTS}"
            return [f"iptables -t nat -A POSTROUTING -o {WAN} -p udp -j {snat}", masquerade]
        case Mapping.ADDRESS_AND_PORT_DEPENDENT, False:
            return [f"{masquerade} --random-fully"]
    raise ValueError(f"{nat.name}: no rule maps {nat.mapping.value} with these ports")


def _endpoint_independent(
    nat: Nat, wan_address: IPv4Address, hosts: Sequence[IPv4Address]
) -> tuple[tuple[SetSpec, ...], tuple[str, ...]]:
    """Remember each port a host sent from; let anyone reach it there (RFC 4787 section 5).

    A port belongs to the host that used it first. A second host on the same port is mapped to
    another one, which this rule cannot see, so that flow is filtered by address and port.
    """
    _need_preserved_ports(nat)
    sets, commands = [], []
    for i, host in enumerate(hosts):
        taken = "".join(f" -m set ! --match-set fc{j} src" for j in range(len(hosts)) if j != i)
        sets.append(SetSpec(f"fc{i}", SetKind.BITMAP_PORT))
        commands.append(
            f"iptables -t mangle -A POSTROUTING -o {WAN} -p udp -s {host}{taken}"
            f" -j SET --add-set fc{i} src --exist --timeout {FILTER_LIFETIME}"
        )
        commands.append(
            f"iptables -t nat -A PREROUTING -i {WAN} -d {wan_address} -p udp"
            f" -m set --match-set fc{i} dst -j DNAT --to-destination {host}"
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
        raise ValueError(f"{nat.name}: {nat.filtering.value} needs EIM and port preservation here")


def _blocking(nat: Nat) -> list[str]:
    match nat.udp:
        case Udp.ALLOWED:
            return []
        case Udp.DROP:
            return [f"iptables -A FORWARD -i {LAN} -p udp -j DROP"]
        case Udp.REJECT:
            return [f"iptables -A FORWARD -i {LAN} -p udp -j REJECT"]


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
