"""STUN messages: the vectors of RFC 5769, our own layouts, and what no bytes may do."""

from __future__ import annotations

import contextlib
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2p.core.address import Address
from p2p.core.errors import DecodeError
from p2p.core.stun.messages import Error, Indication, Message, Request, ServerEndpoints, Success, decode, encode

TRANSACTION = bytes.fromhex("b7e7a701bc34d686fa87dfae")
CLASSIC = bytes(range(16))

# RFC 5769 sections 2.1 to 2.3
SAMPLE_REQUEST = bytes.fromhex(
    "000100582112a442b7e7a701bc34d686fa87dfae802200105354554e207465737420636c69656e74"
    "002400046e0001ff80290008932ff9b151263b36000600096576746a3a68367659202020"
    "000800149aeaa70cbfd8cb56781ef2b5b2d3f249c1b571a280280004e57a3bcf"
)
SAMPLE_IPV4_RESPONSE = bytes.fromhex(
    "0101003c2112a442b7e7a701bc34d686fa87dfae8022000b7465737420766563746f7220"
    "002000080001a147e112a643000800142b91f599fd9e90c38c7489f92af9ba53f06be7d780280004c07d4c96"
)
SAMPLE_IPV6_RESPONSE = bytes.fromhex(
    "010100482112a442b7e7a701bc34d686fa87dfae8022000b7465737420766563746f7220"
    "002000140002a1470113a9faa5d3f179bc25f4b5bed2b9d900080014a382954e4be67bf11784c97c8292c275bfe3ed41"
    "80280004c8fb0b4c"
)

ports = st.integers(0, 65535)
hosts = st.one_of(st.ip_addresses(v=4), st.ip_addresses(v=6)).map(str)
addresses = st.builds(Address, hosts, ports)
transactions = st.one_of(
    st.binary(min_size=12, max_size=12),
    st.binary(min_size=16, max_size=16).filter(lambda key: not key.startswith(bytes.fromhex("2112a442"))),
)
endpoints = st.builds(ServerEndpoints, st.tuples(ports, ports), st.one_of(st.none(), hosts))
requests = st.builds(
    Request,
    transactions,
    change_ip=st.booleans(),
    change_port=st.booleans(),
    response_port=st.one_of(st.none(), ports),
    padding=st.integers(0, 200),
    room=st.integers(0, 100),
    fingerprint=st.booleans(),
    unknown=st.sampled_from([(), (0x7FFF,), (0x0030, 0x0031)]),
)
successes = st.builds(
    Success,
    transactions,
    addresses,
    origin=st.one_of(st.none(), addresses),
    other=st.one_of(st.none(), addresses),
    endpoints=st.one_of(st.none(), endpoints),
    padding=st.integers(0, 200),
    fingerprint=st.booleans(),
)
errors = st.builds(
    Error, transactions, st.integers(300, 699), st.lists(ports, max_size=8).map(tuple), fingerprint=st.booleans()
)
messages = st.one_of(requests, successes, errors, st.builds(Indication, transactions))


def test_the_request_of_rfc_5769_is_read_and_its_fingerprint_fits() -> None:
    assert decode(SAMPLE_REQUEST) == Request(TRANSACTION, fingerprint=True)


@pytest.mark.parametrize(
    ("data", "mapped"),
    [
        (SAMPLE_IPV4_RESPONSE, Address("192.0.2.1", 32853)),
        (SAMPLE_IPV6_RESPONSE, Address("2001:db8:1234:5678:11:2233:4455:6677", 32853)),
    ],
)
def test_the_responses_of_rfc_5769_are_read(data: bytes, mapped: Address) -> None:
    assert decode(data) == Success(TRANSACTION, mapped, fingerprint=True)


@pytest.mark.parametrize("data", [SAMPLE_REQUEST, SAMPLE_IPV4_RESPONSE, SAMPLE_IPV6_RESPONSE])
def test_no_changed_bit_passes_the_fingerprint(data: bytes) -> None:
    for position in range(8 * len(data)):
        forged = bytearray(data)
        forged[position >> 3] ^= 1 << (position & 7)
        with contextlib.suppress(DecodeError):
            # What is no fingerprint any more does not claim to be one.
            assert not getattr(decode(forged), "fingerprint", False)


@pytest.mark.parametrize(
    ("message", "layout"),
    [
        (Request(TRANSACTION), "000100002112a442" + TRANSACTION.hex()),
        (Request(TRANSACTION, room=48), "000100342112a442" + TRANSACTION.hex() + "fd700030" + 48 * "00"),
        (
            Request(TRANSACTION, change_ip=True, change_port=True, response_port=1025),
            "000100102112a442" + TRANSACTION.hex() + "0003000400000006" + "0027000404010000",
        ),
        (
            Success(TRANSACTION, Address("192.0.2.1", 32853)),
            "0101000c2112a442" + TRANSACTION.hex() + "002000080001a147e112a643",
        ),
        (
            Success(TRANSACTION, Address("192.0.2.1", 32853), endpoints=ServerEndpoints((8080, 8081), "192.0.2.9")),
            "010100182112a442" + TRANSACTION.hex() + "002000080001a147e112a643" + "fd7000081f901f91c0000209",
        ),
        (
            Success(CLASSIC, Address("192.0.2.1", 1), Address("192.0.2.2", 2), Address("192.0.2.3", 3)),
            "01010024" + CLASSIC.hex() + "0001000800010001c0000201" + "0004000800010002c0000202"
            "0005000800010003c0000203",
        ),
        (
            Success(TRANSACTION, Address("192.0.2.1", 32853), Address("192.0.2.2", 2), Address("192.0.2.3", 3)),
            "010100242112a442" + TRANSACTION.hex() + "002000080001a147e112a643" + "802b000800010002c0000202"
            "802c000800010003c0000203",
        ),
        (
            Error(TRANSACTION, 420, (0x0003,)),
            "011100102112a442" + TRANSACTION.hex() + "0009000400000414" + "000a000200030000",
        ),
        (Indication(TRANSACTION), "001100002112a442" + TRANSACTION.hex()),
    ],
)  # fmt: skip
def test_layouts(message: Message, layout: str) -> None:
    assert encode(message).hex() == layout
    assert decode(bytes.fromhex(layout)) == message


@given(messages)
def test_what_is_written_is_read(message: Message) -> None:
    assert decode(encode(message)) == message


@given(messages, st.integers(0, 10_000))
def test_what_is_cut_short_or_has_more_is_refused(message: Message, at: int) -> None:
    data = encode(message)
    for wrong in (data[: at % len(data)], data + b"\0"):
        with pytest.raises(DecodeError):
            decode(wrong)


@given(messages, st.binary(max_size=80), st.integers(0, 300))
def test_any_bytes_at_any_place_decode_or_raise_decode_error(message: Message, noise: bytes, at: int) -> None:
    data = bytearray(encode(message))
    data[at : at + len(noise)] = noise
    data[2:4] = (len(data) - 20 & 0xFFFF).to_bytes(2, "big") if len(data) >= 20 else data[2:4]
    with contextlib.suppress(DecodeError):
        decode(data)


def test_of_attributes_that_come_twice_the_first_counts() -> None:
    one, two = (encode(Success(TRANSACTION, Address("192.0.2.1", port))) for port in (1, 2))
    both = bytearray(one + two[20:])
    both[3] = len(both) - 20
    assert decode(both) == Success(TRANSACTION, Address("192.0.2.1", 1))


def test_a_fingerprint_anywhere_but_at_the_end_is_refused() -> None:
    data = bytearray(encode(replace(Request(TRANSACTION), fingerprint=True)) + bytes.fromhex("80220000"))
    data[3] = len(data) - 20
    with pytest.raises(DecodeError):
        decode(data)


def test_what_need_not_be_understood_is_passed_over_and_what_must_is_named() -> None:
    data = bytearray(encode(Request(TRANSACTION)) + bytes.fromhex("ffff0001aa000000" + "7ffe0000"))
    data[3] = len(data) - 20
    assert decode(data) == Request(TRANSACTION, unknown=(0x7FFE,))


@given(messages.filter(lambda message: len(encode(message)) > 20), st.integers(1, 3))
def test_an_attribute_that_is_longer_than_the_message_is_refused(message: Message, missing: int) -> None:
    data = bytearray(encode(message)[:-missing])
    data[2:4] = (len(data) - 20).to_bytes(2, "big")
    with pytest.raises(DecodeError):
        decode(data)
