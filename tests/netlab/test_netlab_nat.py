"""Golden rules: a change of any of them must be meant, and proved again by the probe."""

from __future__ import annotations

from ipaddress import IPv4Address

import pytest

from netlab.nat import (
    ADDRESS_DEPENDENT,
    ADDRESS_RESTRICTED,
    CARRIER,
    CARRIER_SYMMETRIC,
    FULL_CONE,
    FULL_CONE_HAIRPIN,
    KINDS,
    NONE,
    ONLY_TCP_443,
    PORT_RESTRICTED,
    PORT_RESTRICTED_HAIRPIN,
    PORT_RESTRICTED_RANDOM,
    PORT_RESTRICTED_REJECTING,
    PORT_RESTRICTED_UNGUARDED,
    SHORT_LIFETIME,
    SYMMETRIC,
    SYMMETRIC_SEQUENTIAL,
    SYMMETRIC_STRIDE,
    UDP_BLOCKED,
    UDP_REJECTED,
    Filtering,
    Lifetime,
    Mapping,
    Nat,
    SetKind,
    SetSpec,
    Tcp,
    Udp,
    port_block,
    restore_text,
    ruleset,
)

W = IPv4Address("11.0.0.1")
H = IPv4Address("192.168.1.10")
H2 = IPv4Address("192.168.1.11")
MASQUERADE = "iptables -t nat -A POSTROUTING -o wan -j MASQUERADE"
GUARD = "iptables -A INPUT -i wan -p udp -m conntrack --ctstate NEW -j DROP"

SNAT = "-j SNAT --to-source 11.0.0.1"
NTH = "iptables -t nat -A POSTROUTING -o wan -p udp -m statistic --mode nth --every"
REMEMBER = "iptables -t mangle -A POSTROUTING -o wan -p udp -s 192.168.1.10 -j SET --add-set"
TURN = (
    "iptables -t nat -A POSTROUTING -o lan -s 192.168.1.10 -p udp -m conntrack --ctstate DNAT"
    " -j SNAT --to-source 11.0.0.1"
)
HAIRPIN = (
    f"{REMEMBER} hp0 src --exist --timeout 60",
    "iptables -t nat -A PREROUTING -i lan -d 11.0.0.1 -p udp"
    " -m set --match-set hp0 dst -j DNAT --to-destination 192.168.1.10",
    TURN,
)
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
    PORT_RESTRICTED_RANDOM.name: (
        PORT_RESTRICTED_RANDOM,
        (
            "iptables -t nat -A POSTROUTING -o wan -p udp -j SNAT --to-source 11.0.0.1:1024-9999",
            MASQUERADE,
            GUARD,
        ),
    ),
    SYMMETRIC.name: (SYMMETRIC, (f"{MASQUERADE} --random-fully", GUARD)),
    UDP_BLOCKED.name: (UDP_BLOCKED, (MASQUERADE, "iptables -A FORWARD -i lan -p udp -j DROP", GUARD)),
    UDP_REJECTED.name: (UDP_REJECTED, (MASQUERADE, "iptables -A FORWARD -i lan -p udp -j REJECT", GUARD)),
    FULL_CONE.name: (
        FULL_CONE,
        (
            MASQUERADE,
            "iptables -t mangle -A POSTROUTING -o wan -p udp -s 192.168.1.10"
            " -j SET --add-set fc0 src --exist --timeout 60",
            "iptables -t nat -A PREROUTING -i wan -d 11.0.0.1 -p udp"
            " -m set --match-set fc0 dst -j DNAT --to-destination 192.168.1.10",
            GUARD,
        ),
    ),
    ADDRESS_RESTRICTED.name: (
        ADDRESS_RESTRICTED,
        (
            MASQUERADE,
            "iptables -t mangle -A POSTROUTING -o wan -p udp -s 192.168.1.10"
            " -j SET --add-set ar0 dst,src --exist --timeout 60",
            "iptables -t nat -A PREROUTING -i wan -p udp"
            " -m set --match-set ar0 src,dst -j DNAT --to-destination 192.168.1.10",
            GUARD,
        ),
    ),
    FULL_CONE_HAIRPIN.name: (
        FULL_CONE_HAIRPIN,
        (
            MASQUERADE,
            f"{REMEMBER} fc0 src --exist --timeout 60",
            "iptables -t nat -A PREROUTING -i wan -d 11.0.0.1 -p udp"
            " -m set --match-set fc0 dst -j DNAT --to-destination 192.168.1.10",
            *HAIRPIN,
            GUARD,
        ),
    ),
    PORT_RESTRICTED_HAIRPIN.name: (PORT_RESTRICTED_HAIRPIN, (MASQUERADE, *HAIRPIN, GUARD)),
    PORT_RESTRICTED_REJECTING.name: (
        PORT_RESTRICTED_REJECTING,
        (MASQUERADE, "iptables -A INPUT -i wan -p udp -m conntrack --ctstate NEW -j REJECT"),
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
    assert set(GOLDEN) == {kind.name for kind in KINDS}
    assert len(set(KINDS)) == len(KINDS) == len(GOLDEN)


def test_a_lifetime_is_two_sysctls() -> None:
    assert ruleset(SHORT_LIFETIME, W, [H]).sysctls == (
        ("net/netfilter/nf_conntrack_udp_timeout", "3"),
        ("net/netfilter/nf_conntrack_udp_timeout_stream", "6"),
    )
    assert all(ruleset(kind, W, [H]).sysctls == () for kind in KINDS if kind is not SHORT_LIFETIME)


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


def test_sets_are_made_only_for_the_kinds_that_use_them() -> None:
    assert ruleset(FULL_CONE, W, [H, H2]).sets == (
        SetSpec("fc0", SetKind.BITMAP_PORT, 60),
        SetSpec("fc1", SetKind.BITMAP_PORT, 60),
    )
    assert ruleset(PORT_RESTRICTED_HAIRPIN, W, [H]).sets == (SetSpec("hp0", SetKind.BITMAP_PORT, 60),)
    assert ruleset(ADDRESS_RESTRICTED, W, [H]).sets == (SetSpec("ar0", SetKind.HASH_IP_PORT, 60),)
    for kind in (NONE, PORT_RESTRICTED, SYMMETRIC, UDP_BLOCKED):
        assert ruleset(kind, W, [H]).sets == ()


def test_a_port_belongs_to_the_host_that_used_it_first() -> None:
    commands = ruleset(FULL_CONE, W, [H, H2]).commands
    assert (
        "iptables -t mangle -A POSTROUTING -o wan -p udp -s 192.168.1.11 -m set ! --match-set fc0 src"
        " -j SET --add-set fc1 src --exist --timeout 60"
    ) in commands


@pytest.mark.parametrize("kind", [PORT_RESTRICTED, SYMMETRIC, FULL_CONE, UDP_BLOCKED], ids=lambda kind: kind.name)
def test_an_unguarded_router_lacks_the_guard_and_nothing_else(kind: Nat) -> None:
    assert (*ruleset(kind, W, [H], guarded=False).commands, GUARD) == ruleset(kind, W, [H]).commands


@pytest.mark.parametrize(
    "nat",
    [
        Nat("ADM", mapping=Mapping.ADDRESS_DEPENDENT),
        Nat("APDM that keeps ports", mapping=Mapping.ADDRESS_AND_PORT_DEPENDENT),
        Nat("EIF with random ports", filtering=Filtering.ENDPOINT_INDEPENDENT, port_preservation=False),
        Nat("ADF behind APDM", mapping=Mapping.ADDRESS_AND_PORT_DEPENDENT, filtering=Filtering.ADDRESS_DEPENDENT),
        Nat("filters without NAT", translates=False),
        Nat("hairpin with random ports", port_preservation=False, hairpinning=True),
        Nat("EIM that counts", port_preservation=False, stride=1),
        Nat("counts backwards", mapping=Mapping.ADDRESS_AND_PORT_DEPENDENT, port_preservation=False, stride=-1),
        Nat("counts too far", mapping=Mapping.ADDRESS_AND_PORT_DEPENDENT, port_preservation=False, stride=100),
        Nat("block that keeps ports", port_block=range(10240, 11264)),
        Nat("EIF that outlives", filtering=Filtering.ENDPOINT_INDEPENDENT, lifetime=Lifetime(3, 6)),
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
