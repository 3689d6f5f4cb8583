"""Golden rules: a change of any of them must be meant, and proved again by the probe."""

from __future__ import annotations

from ipaddress import IPv4Address

import pytest

from netlab.nat import (
    ADDRESS_RESTRICTED,
    FULL_CONE,
    NONE,
    PORT_RESTRICTED,
    PORT_RESTRICTED_RANDOM,
    SYMMETRIC,
    UDP_BLOCKED,
    UDP_REJECTED,
    Filtering,
    Mapping,
    Nat,
    SetKind,
    SetSpec,
    restore_text,
    ruleset,
)

W = IPv4Address("11.0.0.1")
H = IPv4Address("192.168.1.10")
H2 = IPv4Address("192.168.1.11")
MASQUERADE = "iptables -t nat -A POSTROUTING -o wan -j MASQUERADE"
GUARD = "iptables -A INPUT -i wan -p udp -m conntrack --ctstate NEW -j DROP"

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
}


@pytest.mark.parametrize(("kind", "commands"), GOLDEN.values(), ids=GOLDEN)
def test_rules_of_each_kind(kind: Nat, commands: tuple[str, ...]) -> None:
    assert ruleset(kind, W, [H]).commands == commands


def test_sets_are_made_only_for_the_kinds_that_use_them() -> None:
    assert ruleset(FULL_CONE, W, [H, H2]).sets == (
        SetSpec("fc0", SetKind.BITMAP_PORT, 60),
        SetSpec("fc1", SetKind.BITMAP_PORT, 60),
    )
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
