"""Golden rules: a change of any of them must be meant, and proved again by the probe."""

from __future__ import annotations

import re
from dataclasses import replace
from ipaddress import IPv4Address
from pathlib import Path

import pytest

from netlab.addressing import Version
from netlab.filters import flush_text
from netlab.firewall import firewall
from netlab.nat import (
    ADDRESS_DEPENDENT,
    ADDRESS_RESTRICTED,
    ADDRESS_RESTRICTED_RANDOM,
    CARRIER,
    CARRIER_OPEN,
    CARRIER_SYMMETRIC,
    FIREWALL,
    FIREWALL_REJECTING,
    FULL_CONE,
    FULL_CONE_HAIRPIN,
    FULL_CONE_RANDOM,
    KINDS,
    NONE,
    ONLY_TCP_443,
    PORT_RESTRICTED,
    PORT_RESTRICTED_HAIRPIN,
    PORT_RESTRICTED_MAPPER,
    PORT_RESTRICTED_RANDOM,
    PORT_RESTRICTED_REJECTING,
    PORT_RESTRICTED_UNGUARDED,
    SHORT_LIFETIME,
    SYMMETRIC,
    SYMMETRIC_OPEN,
    SYMMETRIC_SEQUENTIAL,
    SYMMETRIC_STRIDE,
    UDP_BLOCKED,
    UDP_REJECTED,
    Filtering,
    Guard,
    Lifetime,
    Mapping,
    Nat,
    Tcp,
    Udp,
)
from netlab.rules import ADDRESS_MASK, MAX_ADDRESS_BITS, address_mask, port_block, restore_text, ruleset
from netlab.words import slug

GOLDEN_FOLDER = Path(__file__).parent / "golden"
BLOCK = range(10240, 11264)
APDF = Filtering.ADDRESS_AND_PORT_DEPENDENT
FIREWALLS = (FIREWALL, FIREWALL_REJECTING)
W = IPv4Address("11.0.0.1")
H = IPv4Address("192.168.1.10")
H2 = IPv4Address("192.168.1.11")
MASQUERADE = "iptables -t nat -A POSTROUTING -o wan -j MASQUERADE"
GUARD = "iptables -A INPUT -i wan -m conntrack --ctstate NEW -j DROP"

SNAT = "-j SNAT --to-source 11.0.0.1"
NTH = "iptables -t nat -A POSTROUTING -o wan -p udp -m statistic --mode nth --every"
HAIRPIN = (
    "iptables -t nat -N MAP",
    "iptables -t nat -A POSTROUTING -o wan -p udp -j MAP",
    "iptables -t nat -A POSTROUTING -o lan -p udp -m connmark --mark 0x2 -j MAP",
)
PLAIN_MAP = f"iptables -t nat -A MAP -p udp {SNAT}"
RANDOM = f"iptables -t nat -A POSTROUTING -o wan -p udp {SNAT}:1024-9999"
# 32 parts of all addresses: 20.0.0.2 is in 16.0.0.2, 11.0.1.1 in 0.0.1.1.
BY_ADDRESS = tuple(
    f"iptables -t nat -A POSTROUTING -o wan -p udp -d {first}.0.{third}.{last}/16.0.3.3 {SNAT}:{low}-{low + 959}"
    for low, (first, third, last) in zip(
        range(2048, 32768, 960),
        [(first, third, last) for first in (0, 16) for third in range(4) for last in range(4)],
        strict=True,
    )
)

GOLDEN = {
    NONE.name: (NONE, ()),
    PORT_RESTRICTED.name: (PORT_RESTRICTED, (MASQUERADE, GUARD)),
    PORT_RESTRICTED_RANDOM.name: (PORT_RESTRICTED_RANDOM, (RANDOM, MASQUERADE, GUARD)),
    SYMMETRIC.name: (SYMMETRIC, (f"{MASQUERADE} --random-fully", GUARD)),
    UDP_BLOCKED.name: (UDP_BLOCKED, (MASQUERADE, "iptables -A FORWARD -i lan -p udp -j DROP", GUARD)),
    UDP_REJECTED.name: (UDP_REJECTED, (MASQUERADE, "iptables -A FORWARD -i lan -p udp -j REJECT", GUARD)),
    FULL_CONE.name: (FULL_CONE, (MASQUERADE, GUARD)),
    FULL_CONE_RANDOM.name: (FULL_CONE_RANDOM, (RANDOM, MASQUERADE, GUARD)),
    ADDRESS_RESTRICTED.name: (ADDRESS_RESTRICTED, (MASQUERADE, GUARD)),
    ADDRESS_RESTRICTED_RANDOM.name: (ADDRESS_RESTRICTED_RANDOM, (RANDOM, MASQUERADE, GUARD)),
    SYMMETRIC_OPEN.name: (SYMMETRIC_OPEN, (f"{MASQUERADE} --random-fully", GUARD)),
    FULL_CONE_HAIRPIN.name: (FULL_CONE_HAIRPIN, (*HAIRPIN, PLAIN_MAP, MASQUERADE, GUARD)),
    PORT_RESTRICTED_HAIRPIN.name: (PORT_RESTRICTED_HAIRPIN, (*HAIRPIN, PLAIN_MAP, MASQUERADE, GUARD)),
    CARRIER_OPEN.name: (
        CARRIER_OPEN,
        (
            *HAIRPIN,
            f"iptables -t nat -A MAP -s 192.168.1.10 -p udp {SNAT}:10240-11263",
            PLAIN_MAP,
            MASQUERADE,
            GUARD,
        ),
    ),
    PORT_RESTRICTED_MAPPER.name: (PORT_RESTRICTED_MAPPER, (MASQUERADE, GUARD)),
    PORT_RESTRICTED_REJECTING.name: (
        PORT_RESTRICTED_REJECTING,
        (MASQUERADE, "iptables -A INPUT -i wan -m conntrack --ctstate NEW -j REJECT"),
    ),
    PORT_RESTRICTED_UNGUARDED.name: (PORT_RESTRICTED_UNGUARDED, (MASQUERADE,)),
    SHORT_LIFETIME.name: (SHORT_LIFETIME, (MASQUERADE, GUARD)),
    ADDRESS_DEPENDENT.name: (ADDRESS_DEPENDENT, (*BY_ADDRESS, MASQUERADE, GUARD)),
    SYMMETRIC_SEQUENTIAL.name: (
        SYMMETRIC_SEQUENTIAL,
        (*(f"{NTH} {256 - i} --packet 0 {SNAT}:{40000 + i}" for i in range(256)), MASQUERADE, GUARD),
    ),
    SYMMETRIC_STRIDE.name: (
        SYMMETRIC_STRIDE,
        (*(f"{NTH} {256 - i} --packet 0 {SNAT}:{40000 + 4 * i}" for i in range(256)), MASQUERADE, GUARD),
    ),
    CARRIER.name: (
        CARRIER,
        (
            f"iptables -t nat -A POSTROUTING -o wan -s 192.168.1.10 -p udp {SNAT}:10240-11263",
            MASQUERADE,
            GUARD,
        ),
    ),
    CARRIER_SYMMETRIC.name: (
        CARRIER_SYMMETRIC,
        (
            f"iptables -t nat -A POSTROUTING -o wan -s 192.168.1.10 -p udp {SNAT}:10240-11263 --random-fully",
            MASQUERADE,
            GUARD,
        ),
    ),
    ONLY_TCP_443.name: (
        ONLY_TCP_443,
        (
            MASQUERADE,
            "iptables -A FORWARD -i lan -p tcp --dport 443 -j ACCEPT",
            "iptables -A FORWARD -i lan -j DROP",
            GUARD,
        ),
    ),
}


@pytest.mark.parametrize(("kind", "commands"), GOLDEN.values(), ids=GOLDEN)
def test_rules_of_each_kind(kind: Nat, commands: tuple[str, ...]) -> None:
    assert ruleset(kind, W, [H]).commands == commands


def test_every_kind_has_a_name_rules_and_a_behaviour_of_its_own() -> None:
    assert set(GOLDEN) == {kind.name for kind in KINDS} - {kind.name for kind in FIREWALLS}
    assert len(set(KINDS)) == len(KINDS) == len(GOLDEN) + len(FIREWALLS)


def test_a_lifetime_is_two_sysctls() -> None:
    assert ruleset(SHORT_LIFETIME, W, [H]).sysctls == (
        ("net/netfilter/nf_conntrack_udp_timeout", "3"),
        ("net/netfilter/nf_conntrack_udp_timeout_stream", "6"),
    )
    assert all(ruleset(kind, W, [H]).sysctls == () for kind, _ in GOLDEN.values() if kind is not SHORT_LIFETIME)


def test_every_host_of_a_carrier_has_a_port_block_of_its_own() -> None:
    assert ruleset(CARRIER, W, [H, H2]).commands[:2] == (
        f"iptables -t nat -A POSTROUTING -o wan -s 192.168.1.10 -p udp {SNAT}:10240-11263",
        f"iptables -t nat -A POSTROUTING -o wan -s 192.168.1.11 -p udp {SNAT}:11264-12287",
    )
    assert port_block(CARRIER, 53) == range(64512, 65536)


@pytest.mark.parametrize(
    ("block", "number", "words"),
    [
        (range(10240, 11264), 54, "no ports for host 54"),
        (range(512, 1024), 0, "no ports for host 0"),
        (range(10000, 11024), 0, "2\\^n ports"),
        (range(10240, 11240), 0, "2\\^n ports"),
        (range(10240, 11264, 2), 0, "2\\^n ports"),
        (range(10240, 10240), 0, "2\\^n ports"),
        (None, 0, "2\\^n ports"),
    ],
)
def test_a_port_block_that_no_probe_could_tell_is_refused(block: range | None, number: int, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        port_block(Nat("block", port_preservation=False, port_block=block), number)


def test_a_table_is_made_only_for_the_kinds_that_let_in_more_than_conntrack_or_choose_ports_otherwise() -> None:
    opens = {kind.name for kind in KINDS if kind.translates and (kind.filtering is not APDF or kind.hairpinning)}
    chooses = {PORT_RESTRICTED_RANDOM.name, CARRIER.name}
    made = {kind.name for kind in KINDS if kind not in FIREWALLS and ruleset(kind, W, [H]).learnt}
    assert made == opens | chooses
    assert ruleset(replace(FULL_CONE, udp=Udp.ALLOWED, filtering=APDF), W, [H]).learnt == ()


FEW = range(10240, 10256)  # a port block whose order of ports can be read
LEARNING = [
    FULL_CONE,
    ADDRESS_RESTRICTED,
    PORT_RESTRICTED_HAIRPIN,
    replace(CARRIER, port_block=FEW),
    replace(CARRIER_OPEN, port_block=FEW),
    SYMMETRIC_OPEN,
]


@pytest.mark.parametrize("kind", LEARNING, ids=lambda kind: kind.name)
def test_table_of_each_way_to_filter_and_to_hairpin(kind: Nat) -> None:
    assert ruleset(kind, W, [H]).nft == (GOLDEN_FOLDER / f"{slug(kind.name)}.nft").read_text(encoding="utf-8")


def test_all_that_a_table_remembers_can_be_flushed() -> None:
    for kind in LEARNING:
        rules = ruleset(kind, W, [H])
        declared = re.findall(r"^\t((?:map|set) \w+)", rules.nft, re.MULTILINE)
        assert list(rules.learnt) == declared
        assert flush_text(rules.learnt).splitlines() == [
            f"flush {each.split()[0]} ip netlab {each.split()[1]}" for each in declared
        ]


def test_a_binding_is_remembered_as_long_as_conntrack_keeps_its_flows() -> None:
    table = ruleset(replace(FULL_CONE, lifetime=Lifetime(3, 6)), W, [H]).nft
    assert re.findall(r"map inside_(\w+) .* timeout (\d+)s;", table) == [("one_way", "3"), ("two_way", "6")]


def test_an_unguarded_router_leaves_a_taken_port_to_conntrack() -> None:
    assert "snat" in ruleset(FULL_CONE, W, [H]).nft
    assert "snat ip to" not in ruleset(FULL_CONE, W, [H], guarded=False).nft
    assert "snat ip to" not in ruleset(replace(FULL_CONE, guard=Guard.NONE), W, [H]).nft


def test_a_hairpin_is_mapped_by_the_ports_for_our_own_address() -> None:
    commands = ruleset(replace(ADDRESS_DEPENDENT, hairpinning=True), W, [H]).commands
    assert commands[3] == f"iptables -t nat -A MAP -p udp -m connmark --mark 0x2 {SNAT}:3008-3967"
    assert f"iptables -t nat -A MAP -p udp -d 0.0.0.1/16.0.3.3 {SNAT}:3008-3967" in commands


@pytest.mark.parametrize("kind", [PORT_RESTRICTED, SYMMETRIC, FULL_CONE, UDP_BLOCKED], ids=lambda kind: kind.name)
def test_an_unguarded_router_lacks_the_guard_and_nothing_else(kind: Nat) -> None:
    assert (*ruleset(kind, W, [H], guarded=False).commands, GUARD) == ruleset(kind, W, [H]).commands


@pytest.mark.parametrize(
    "nat",
    [
        Nat("ADM", mapping=Mapping.ADDRESS_DEPENDENT),
        Nat("APDM that keeps ports", mapping=Mapping.ADDRESS_AND_PORT_DEPENDENT),
        Nat("ADM in blocks", mapping=Mapping.ADDRESS_DEPENDENT, port_preservation=False, port_block=BLOCK),
        Nat("filters without NAT", translates=False),
        Nat("EIM that counts", port_preservation=False, stride=1),
        Nat("counts backwards", mapping=Mapping.ADDRESS_AND_PORT_DEPENDENT, port_preservation=False, stride=-1),
        Nat("counts too far", mapping=Mapping.ADDRESS_AND_PORT_DEPENDENT, port_preservation=False, stride=100),
        Nat("block that keeps ports", port_block=range(10240, 11264)),
        Nat("talks shorten it", lifetime=Lifetime(6, 3)),
        Nat("forgets at once", lifetime=Lifetime(0, 3)),
        Nat("guard that nobody sees", port_preservation=False, guard=Guard.REJECT),
        Nat("filters what it blocks", udp=Udp.DROP, filtering=Filtering.ENDPOINT_INDEPENDENT),
        Nat("hairpins what it blocks", udp=Udp.REJECT, hairpinning=True),
        Nat("UDP and 443 only", udp=Udp.ALLOWED, tcp=Tcp.ONLY_443),
    ],
    ids=lambda nat: nat.name,
)
def test_a_behaviour_without_proved_rules_is_refused_by_name(nat: Nat) -> None:
    with pytest.raises(ValueError, match=nat.name):
        ruleset(nat, W, [H])


def test_restore_text_groups_by_table_and_keeps_the_order() -> None:
    commands = ["iptables -t nat -A A x", "iptables -A INPUT y", "iptables -t nat -A B z"]
    assert restore_text(commands) == "*nat\n-A A x\n-A B z\nCOMMIT\n*filter\n-A INPUT y\nCOMMIT\n"


@pytest.mark.parametrize("command", ["", "iptables", "nft add rule", "ip6tables -A INPUT"])
def test_restore_text_refuses_other_commands(command: str) -> None:
    with pytest.raises(ValueError, match="not an iptables command"):
        restore_text([command])


@pytest.mark.parametrize(("program", "version"), [("iptables", Version.IPV4), ("ip6tables", Version.IPV6)])
def test_a_router_without_nat_routes_or_lets_in_only_what_was_asked_for(program: str, version: Version) -> None:
    echo = (f"{program} -A FORWARD -i wan -p icmpv6 --icmpv6-type echo-request -j ACCEPT",)
    unasked = f"{program} -A FORWARD -i wan -m conntrack --ctstate NEW,INVALID -j"
    pings = echo if version is Version.IPV6 else ()
    assert firewall(NONE, version) == ()
    assert firewall(FIREWALL, version) == (*pings, f"{unasked} DROP")
    assert firewall(FIREWALL_REJECTING, version) == (*pings, f"{unasked} REJECT")
    assert restore_text(firewall(FIREWALL, version), program).endswith(f"{unasked[len(program) + 1 :]} DROP\nCOMMIT\n")


@pytest.mark.parametrize("nat", [PORT_RESTRICTED, Nat("ADF", False, filtering=Filtering.ADDRESS_DEPENDENT)])
def test_a_firewall_that_nobody_proved_is_refused_by_name(nat: Nat) -> None:
    with pytest.raises(ValueError, match=nat.name):
        firewall(nat, Version.IPV4)


def test_an_address_dependent_mapping_tells_all_public_addresses_apart_or_is_refused() -> None:
    usual = [IPv4Address(address) for address in ("20.0.0.1", "20.0.0.2", "11.0.0.1", "11.0.1.1", "13.0.1.10")]
    assert address_mask(usual) == ADDRESS_MASK
    for more in (["20.0.0.5"], ["11.0.4.1", "11.0.8.1"], [f"11.0.{router}.1" for router in range(26)]):
        addresses = {*usual, *map(IPv4Address, more)}
        mask = address_mask(addresses)
        assert mask & ADDRESS_MASK == ADDRESS_MASK
        assert mask.bit_count() <= MAX_ADDRESS_BITS
        assert len({int(address) & mask for address in addresses}) == len(addresses)
    with pytest.raises(ValueError, match="cannot tell 255 public addresses apart"):
        address_mask(IPv4Address(f"11.{number % 3}.{number}.1") for number in range(255))
