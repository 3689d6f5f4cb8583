"""Descriptions and checks on the wire."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2p.core.address import Address
from p2p.core.errors import CallerError, DecodeError
from p2p.core.nat_report import Mapping, NatReport
from p2p.core.punch.checks import Answer, Check, decode
from p2p.core.punch.description import MAX_CANDIDATES, UNTOLD, Candidate, Description, Kind, reachable, usable

KEY = bytes(range(32))
TRANSACTION = bytes(range(0xA0, 0xAC))

addresses = st.builds(Address, st.ip_addresses().map(str), st.integers(0, 65535))
told = st.sampled_from([kind for kind in Kind if kind not in UNTOLD])
candidates = st.lists(st.builds(Candidate, told, addresses), max_size=MAX_CANDIDATES).map(tuple)
ports = st.tuples(st.integers(1, 65535), st.integers(1, 65535)).map(lambda pair: range(min(pair), max(pair) + 1))
nats = st.builds(
    NatReport,
    st.sampled_from(Mapping),
    st.booleans(),
    st.integers(-(1 << 15), (1 << 15) - 1),
    ports | st.just(range(0)),
    st.integers(0, 65535),
)
descriptions = st.builds(Description, nats, candidates, st.booleans(), st.booleans())
transactions = st.binary(min_size=12, max_size=12)
checks = st.builds(Check, transactions, st.booleans()) | st.builds(Answer, transactions, addresses)


@given(descriptions)
def test_descriptions_round_trip(description: Description) -> None:
    assert Description.decode(description.encode()) == description


@given(st.binary(max_size=80) | st.binary(max_size=80).map(lambda data: b"\x02\x01\x02" + data))
def test_arbitrary_bytes_are_a_description_or_a_decode_error(data: bytes) -> None:
    try:
        description = Description.decode(data)
    except DecodeError:
        return
    assert description.encode() == data


@given(checks)
def test_checks_round_trip(message: Check | Answer) -> None:
    assert decode(message.encode(KEY), KEY) == message


@given(st.binary(max_size=80), st.booleans())
def test_arbitrary_bytes_are_no_check(data: bytes, tagged: bool) -> None:
    """Also when whoever sends them has the key."""
    if tagged:
        data += Check(b"", False).encode(KEY)[-16:]
    with pytest.raises(DecodeError):
        decode(data, KEY)


@given(st.sampled_from([b"", b"\xc0", b"\xc1", b"\xc2"]), st.binary(max_size=60))
def test_genuinely_tagged_bytes_are_a_check_or_a_decode_error(kind: bytes, rest: bytes) -> None:
    body = kind + rest
    tag = _tag(body)
    try:
        message = decode(body + tag, KEY)
    except DecodeError:
        return
    assert message.encode(KEY) == body + tag


@given(checks, st.data())
def test_any_changed_bit_is_noticed(message: Check | Answer, data: st.DataObject) -> None:
    encoded = bytearray(message.encode(KEY))
    bit = data.draw(st.integers(0, len(encoded) * 8 - 1))
    encoded[bit // 8] ^= 1 << bit % 8
    with pytest.raises(DecodeError):
        decode(bytes(encoded), KEY)


def test_golden_vectors() -> None:
    check, answer = Check(TRANSACTION, True), Answer(TRANSACTION, Address("192.0.2.1", 0x1234))
    six = Answer(TRANSACTION, Address("2001:db8::1", 0x1234))
    body = "c001" + "a0a1a2a3a4a5a6a7a8a9aaab"
    assert check.encode(KEY).hex() == body + _tag(bytes.fromhex(body)).hex()
    body = "c1" + "a0a1a2a3a4a5a6a7a8a9aaab" + "04" + "b295" + "62a3a6a4"
    assert answer.encode(KEY).hex() == body + _tag(bytes.fromhex(body)).hex()
    body = "c1" + "a0a1a2a3a4a5a6a7a8a9aaab" + "06" + "b295" + "82a2a91da6a7a8a9aaaba0a1a2a3a4a4"
    assert six.encode(KEY).hex() == body + _tag(bytes.fromhex(body)).hex()
    description = Description(
        NatReport(Mapping.ADDRESS_AND_PORT_DEPENDENT, True, -2, range(10240, 11264), 10300),
        (Candidate(Kind.HOST, Address("10.0.0.1", 5000)), Candidate(Kind.HOST_TCP, Address("::1", 80))),
        has_opened=True,
        takes_relay=False,
    )
    host, tcp = "01" + "04" + "1388" + "0a000001", "03" + "06" + "0050" + "00" * 15 + "01"
    nat = "03" + "01" + "fffe" + "2800" + "2bff" + "283c"
    assert description.encode().hex() == "02" + "03" + nat + "02" + host + tcp


def test_caps() -> None:
    candidate, nothing = Candidate(Kind.HOST, Address("10.0.0.1", 5000)), b"\x02\x00" + NatReport().encode()
    with pytest.raises(CallerError, match="17"):
        Description(NatReport(), (candidate,) * 17).encode()
    with pytest.raises(DecodeError, match="17"):
        Description.decode(nothing + b"\x11" + candidate_bytes() * 17)
    for kind in UNTOLD:
        with pytest.raises(CallerError, match="relayed"):
            Description(NatReport(), (Candidate(kind, Address("10.0.0.1", 1)),)).encode()
        with pytest.raises(DecodeError, match="in a description"):
            Description.decode(nothing + b"\x01" + bytes([kind]) + candidate_bytes()[1:])


def candidate_bytes() -> bytes:
    return bytes.fromhex("01" + "04" + "1388" + "0a000001")


def _tag(body: bytes) -> bytes:
    import hashlib  # noqa: PLC0415
    import hmac  # noqa: PLC0415

    return hmac.new(KEY, body, hashlib.sha256).digest()[:16]


@given(st.lists(st.builds(Candidate, told, addresses)), st.lists(st.builds(Candidate, told, addresses)))
def test_whatever_both_describe_what_is_usable_can_be_sent_to(remote: list[Candidate], local: list[Candidate]) -> None:
    for candidate in usable(remote, local):
        assert candidate in remote
        assert not local or any((":" in ours.address.host) == (":" in candidate.address.host) for ours in local)


def test_what_a_translator_to_ipv4_shows_of_us_is_no_version_of_ours() -> None:
    v4, ours = Candidate(Kind.HOST, Address("192.0.2.1", 7)), Candidate(Kind.HOST, Address("2001:db8::2", 9))
    seen = Candidate(Kind.SERVER_REFLEXIVE, Address("198.51.100.1", 9))
    assert usable([v4], [ours, seen]) == []


def test_candidates_of_a_version_that_we_have_not_are_left_out() -> None:
    v4, v6, link = (Candidate(Kind.HOST, Address(host, 7)) for host in ("192.0.2.1", "2001:db8::1", "fe80::1"))
    ours4, ours6, here = (Candidate(Kind.HOST, Address(h, 9)) for h in ("192.0.2.2", "2001:db8::2", "fe80::2%eth0"))
    there = Candidate(Kind.HOST, Address("fe80::3%wlan0", 9))
    assert usable([v6, v4, link], [ours4]) == [v4]
    assert usable([v6, v4, link], [ours6]) == [v6]
    assert usable([v6, v4, link], [here, there]) == [
        Candidate(Kind.HOST, Address(f"fe80::1%{zone}", 7)) for zone in ("eth0", "wlan0")
    ]
    assert usable([v6, v4, link], []) == [v6, v4]  # who knows nothing of itself tries


@pytest.mark.parametrize("host", ["::ffff:255.255.255.255", "::ffff:224.0.0.1", "::ffff:10.0.0.1", "fe80::1", "ff02::"])
def test_a_peer_cannot_send_us_anywhere(host: str) -> None:
    assert not reachable(Address(host, 7))


def test_an_interface_makes_a_link_local_address_one_host() -> None:
    assert reachable(Address("fe80::1%eth0", 7))
