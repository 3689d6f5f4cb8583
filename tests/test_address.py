"""Zones: names of our own interfaces, which no message bears."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from p2p.core.address import Address, decode_address, encode_address, in_zones, is_private, link, needs_zone, split_zone

LINK = Address("fe80::1", 7)
ZONED = Address("fe80::1%eth0", 7)


def test_the_wire_has_no_zone() -> None:
    assert encode_address(ZONED) == encode_address(LINK) == bytes.fromhex("060007fe800000000000000000000000000001")
    assert decode_address(encode_address(ZONED)) == (LINK, 19)


def test_a_link_local_address_is_meant_on_each_interface() -> None:
    assert in_zones(LINK, ["eth0", "wlan0"]) == [ZONED, Address("fe80::1%wlan0", 7)]
    assert in_zones(LINK, []) == []
    assert in_zones(ZONED, ["wlan0"]) == [ZONED]
    for host in ("10.0.0.1", "169.254.0.1", "2001:db8::1"):
        assert in_zones(Address(host, 7), ["eth0"]) == [Address(host, 7)]


def test_an_address_with_a_zone_is_an_address() -> None:
    assert is_private(ZONED.host)
    assert not needs_zone(ZONED.host)
    assert str(ZONED) == "[fe80::1%eth0]:7"
    assert split_zone(ZONED.host) == ("fe80::1", "eth0")
    assert ZONED.without_zone == LINK.without_zone == LINK


def test_two_addresses_of_one_link_have_its_first_64_bits_in_common() -> None:
    assert link("2001:db8::1") == link("2001:db8::ffff:1") != link("2001:db8:0:1::1")
    assert link("fe80::1%eth0") is link("192.0.2.1") is link("::1") is None


@given(st.ip_addresses(v=6), st.text("abcdefgh.0123456789-", min_size=1, max_size=15))
def test_any_address_with_any_zone_is_written_like_the_one_without(ip: object, zone: str) -> None:
    assert encode_address(Address(f"{ip}%{zone}", 7)) == encode_address(Address(str(ip), 7))
