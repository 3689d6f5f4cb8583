"""A router that does not translate: plain routing, or a stateful firewall. Pure.

The words are those of NATs (RFC 4787 section 5), since a host behind a firewall meets the same
filtering as behind a NAT; the rules are the same for IPv4 and IPv6, which RFC 6092 asks to be so.
"""

from __future__ import annotations

from netlab.addressing import Version
from netlab.nat import FIREWALL, FIREWALL_REJECTING, NONE, WAN, Nat

PROGRAM = {Version.IPV4: "iptables", Version.IPV6: "ip6tables"}


def firewall(nat: Nat, version: Version) -> tuple[str, ...]:
    """The ``iptables`` or ``ip6tables`` commands that make a router without NAT behave as ``nat``.

    A flow begins inside; what comes from outside must belong to one, or tell of an error in one
    (conntrack's RELATED: packet too big among them). Echo requests pass in IPv6 (RFC 4890 section
    4.3.1). ``guard`` says what becomes of the rest, TCP included. Raises ``ValueError`` for a
    behaviour that no rule here produces.
    """
    if nat == NONE:
        return ()
    if nat not in (FIREWALL, FIREWALL_REJECTING):
        raise ValueError(f"{nat.name}: without NAT a router lets everything through or filters by address and port")
    forward = f"{PROGRAM[version]} -A FORWARD -i {WAN}"
    echo = [f"{forward} -p icmpv6 --icmpv6-type echo-request -j ACCEPT"] if version is Version.IPV6 else []
    return (*echo, f"{forward} -m conntrack --ctstate NEW,INVALID -j {nat.guard.name}")
