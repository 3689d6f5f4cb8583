"""NAT behaviour in the words of RFC 4787, and the kinds of NAT that have a name. Pure.

:mod:`netlab.rules` turns a behaviour into rules, :mod:`netlab.probe` and :mod:`netlab.prove` measure
what they do on the kernel at hand.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum, Flag, auto

WAN = "wan"  # the router's interface towards the core
LAN = "lan"  # the router's bridge towards its hosts

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


class Tcp(Enum):
    """Which TCP the hosts may open."""

    ALLOWED = "allowed"
    ONLY_443 = "only to port 443"


class Guard(Enum):
    """What a router does with UDP that arrives unasked at its own WAN address (without NAT: at any behind it).

    Without a guard a peer's early packet gets a conntrack entry of its own and takes the port that
    our later packet needs. Observable only where ports are preserved.
    """

    DROP = "dropped in silence"
    REJECT = "rejected with an ICMP port unreachable"
    NONE = "let in"


class PortMapper(Flag):
    """By which protocols a router's hosts may open a port on it.

    It refuses all of them while its WAN address is not public, as behind a carrier's NAT.
    """

    NAT_PMP = auto()  # RFC 6886
    PCP = auto()  # RFC 6887
    UPNP = auto()  # UPnP Internet Gateway Device


NO_PORT_MAPPER = PortMapper(0)


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
    not count. ``port_block``: the external ports of the first host, see :func:`netlab.rules.port_block`.
    ``epoch``: how often it has moved to other ports, see :func:`netlab.moves.other_ports`.
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
    port_mapper: PortMapper = NO_PORT_MAPPER
    epoch: int = field(default=0, compare=False)


NONE = Nat("none", translates=False, filtering=Filtering.ENDPOINT_INDEPENDENT)
FIREWALL = Nat("stateful firewall", translates=False)
FIREWALL_REJECTING = Nat("stateful firewall, rejecting", translates=False, guard=Guard.REJECT)
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
FULL_CONE_RANDOM = Nat("full cone, random port", filtering=Filtering.ENDPOINT_INDEPENDENT, port_preservation=False)
ADDRESS_RESTRICTED_RANDOM = Nat(
    "address-restricted, random port", filtering=Filtering.ADDRESS_DEPENDENT, port_preservation=False
)
SYMMETRIC_OPEN = Nat(
    "symmetric, open to all",
    mapping=Mapping.ADDRESS_AND_PORT_DEPENDENT,
    filtering=Filtering.ENDPOINT_INDEPENDENT,
    port_preservation=False,
)
CARRIER = Nat("carrier-grade", port_preservation=False, port_block=range(10240, 11264))
CARRIER_SYMMETRIC = Nat(
    "carrier-grade, symmetric",
    mapping=Mapping.ADDRESS_AND_PORT_DEPENDENT,
    port_preservation=False,
    port_block=range(10240, 11264),
)
CARRIER_OPEN = Nat(  # as RFC 6888 section 3 wants it: REQ-1 (EIM, hairpinning), REQ-7 (EIF)
    "carrier-grade, full cone",
    filtering=Filtering.ENDPOINT_INDEPENDENT,
    port_preservation=False,
    hairpinning=True,
    port_block=range(10240, 11264),
)
PORT_RESTRICTED_MAPPER = Nat(
    "port-restricted, port mapper", port_mapper=PortMapper.NAT_PMP | PortMapper.PCP | PortMapper.UPNP
)
ONLY_TCP_443 = Nat("all but TCP 443 blocked", udp=Udp.DROP, tcp=Tcp.ONLY_443)

KINDS = (
    NONE, FULL_CONE, ADDRESS_RESTRICTED, PORT_RESTRICTED, PORT_RESTRICTED_RANDOM, SYMMETRIC,
    UDP_BLOCKED, UDP_REJECTED, FULL_CONE_HAIRPIN, PORT_RESTRICTED_HAIRPIN, PORT_RESTRICTED_REJECTING,
    PORT_RESTRICTED_UNGUARDED, SHORT_LIFETIME, ADDRESS_DEPENDENT, SYMMETRIC_SEQUENTIAL, SYMMETRIC_STRIDE,
    CARRIER, CARRIER_SYMMETRIC, ONLY_TCP_443, FULL_CONE_RANDOM, ADDRESS_RESTRICTED_RANDOM, SYMMETRIC_OPEN,
    CARRIER_OPEN, PORT_RESTRICTED_MAPPER, FIREWALL, FIREWALL_REJECTING,
)  # fmt: skip
