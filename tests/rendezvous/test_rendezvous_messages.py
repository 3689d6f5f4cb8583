"""The bytes of docs/protocol.md, section 1."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from p2p.core.address import Address
from p2p.core.errors import CallerError, DecodeError, VersionError
from p2p.core.rendezvous.messages import (
    MAX_NAMEPLATE,
    MAX_PAYLOAD,
    NO_PEER,
    BadNames,
    Cookie,
    Forward,
    Forwarded,
    Hello,
    Join,
    Joined,
    Leave,
    Left,
    Message,
    NamePair,
    Nameplate,
    Refused,
    RefusedReason,
    Relay,
    Relayed,
    RelayState,
    SeatState,
    Unsupported,
    decode,
    encode,
)
from p2p.core.role import Role

T = bytes(range(0x10, 0x18))
COOKIE = bytes(range(0x20, 0x30))
CLIENT = bytes(range(0x40, 0x50))
TAG = bytes(range(0x60, 0x68))
V4 = Address("192.0.2.1", 0x1234)
V6 = Address("2001:db8::1", 0x1234)

GOLDEN: list[tuple[Message, str]] = [
    (Hello(T), "703270 01 01 1011121314151617" + "00" * 51),
    (
        Cookie(T, COOKIE, V4),
        "703270 01 02 1011121314151617 202122232425262728292a2b2c2d2e2f 04 1234 c0000201",
    ),
    (
        Join(T, COOKIE, CLIENT, Role.RECEIVER, NamePair("bö", "al")),
        "703270 01 03 1011121314151617 202122232425262728292a2b2c2d2e2f 404142434445464748494a4b4c4d4e4f"
        "02 00 01 03 62c3b6 02 616c",
    ),
    (
        Join(T, COOKIE, CLIENT, Role.SENDER, Nameplate("7")),
        "703270 01 03 1011121314151617 202122232425262728292a2b2c2d2e2f 404142434445464748494a4b4c4d4e4f"
        "01 00 02 01 37",
    ),
    (
        Joined(T, SeatState.PAIRED, 15, TAG, V6),
        "703270 01 04 1011121314151617 01 0f 6061626364656667 06 1234 20010db8000000000000000000000001",
    ),
    (
        Joined(T, SeatState.CONTESTED, 15, NO_PEER, V4),
        "703270 01 04 1011121314151617 02 0f 0000000000000000 04 1234 c0000201",
    ),
    (Refused(T, RefusedReason.NOT_JOINED), "703270 01 05 1011121314151617 06"),
    (Forward(CLIENT, b"hi"), "703270 01 06 404142434445464748494a4b4c4d4e4f 6869"),
    (Forwarded(TAG, b"hi"), "703270 01 07 6061626364656667 6869"),
    (Leave(T, CLIENT), "703270 01 08 1011121314151617 404142434445464748494a4b4c4d4e4f"),
    (Left(T), "703270 01 09 1011121314151617"),
    (Relay(T, CLIENT), "703270 01 0a 1011121314151617 404142434445464748494a4b4c4d4e4f"),
    (
        Relayed(T, RelayState.OPEN, 25_000, 20_000_000_000),
        "703270 01 0b 1011121314151617 02 000061a8 00000004a817c800",
    ),
    (Unsupported(1, 3), "703270 01 7f 01 03"),
]


def bytes_of(length: int) -> st.SearchStrategy[bytes]:
    return st.binary(min_size=length, max_size=length)


def text_of(limit: int) -> st.SearchStrategy[str]:
    return st.text(st.characters(codec="utf-8"), min_size=1, max_size=limit).filter(lambda t: len(t.encode()) <= limit)


ADDRESSES = st.builds(
    Address, st.one_of(st.ip_addresses(v=4).map(str), st.ip_addresses(v=6).map(str)), st.integers(0, 65535)
)
PAIRINGS = st.one_of(
    st.lists(text_of(64), min_size=2, max_size=2, unique=True).map(lambda names: NamePair(*names)),
    text_of(32).map(Nameplate),
)
JOINED = st.one_of(
    st.builds(
        Joined,
        bytes_of(8),
        st.sampled_from([SeatState.WAITING, SeatState.CONTESTED]),
        st.integers(0, 255),
        st.just(NO_PEER),
        ADDRESSES,
    ),
    st.builds(
        Joined,
        bytes_of(8),
        st.just(SeatState.PAIRED),
        st.integers(0, 255),
        bytes_of(8).filter(lambda tag: tag != NO_PEER),
        ADDRESSES,
    ),
)
PAYLOADS = st.binary(min_size=1, max_size=MAX_PAYLOAD)
REQUESTS: st.SearchStrategy[Message] = st.one_of(
    st.builds(Hello, bytes_of(8)),
    st.builds(Join, bytes_of(8), bytes_of(16), bytes_of(16), st.sampled_from(Role), PAIRINGS),
    st.builds(Forward, bytes_of(16), PAYLOADS),
    st.builds(Leave, bytes_of(8), bytes_of(16)),
    st.builds(Relay, bytes_of(8), bytes_of(16)),
)
MESSAGES: st.SearchStrategy[Message] = st.one_of(
    REQUESTS,
    JOINED,
    st.builds(Cookie, bytes_of(8), bytes_of(16), ADDRESSES),
    st.builds(Refused, bytes_of(8), st.sampled_from(RefusedReason)),
    st.builds(Forwarded, bytes_of(8), PAYLOADS),
    st.builds(Left, bytes_of(8)),
    st.builds(
        Relayed, bytes_of(8), st.sampled_from(RelayState), st.integers(0, 2**32 - 1), st.integers(0, 2**64 - 1)
    ),
    st.builds(Unsupported, st.integers(0, 255), st.integers(0, 255)),
)


@pytest.mark.parametrize(("message", "layout"), GOLDEN, ids=lambda value: type(value).__name__)
def test_golden_vectors(message: Message, layout: str) -> None:
    data = bytes.fromhex(layout.replace(" ", ""))
    assert encode(message) == data
    assert decode(data) == message


def test_every_message_has_a_golden_vector() -> None:
    assert {type(message) for message, _ in GOLDEN} == set(Message.__args__)


@given(MESSAGES)
def test_round_trip(message: Message) -> None:
    assert decode(encode(message)) == message


@given(st.one_of(st.binary(max_size=200), st.binary(max_size=200).map(lambda tail: b"p2p\1" + tail)))
@example(b"p2p\1\5" + bytes(8) + b"\0")
@example(b"p2p")
def test_decode_raises_nothing_but_decode_error(data: bytes) -> None:
    with contextlib.suppress(DecodeError):
        assert encode(decode(data)) == data


@given(MESSAGES, st.data())
def test_damage_is_refused_or_still_a_message(message: Message, data: st.DataObject) -> None:
    whole = encode(message)
    at = data.draw(st.integers(0, len(whole) - 1))
    damaged = whole[:at] + bytes([data.draw(st.integers(0, 255))]) + whole[at + 1 :]
    with contextlib.suppress(DecodeError):
        assert encode(decode(damaged)) == damaged
    if not isinstance(message, Forward | Forwarded):
        with pytest.raises(DecodeError):
            decode(whole[:at])
        with pytest.raises(DecodeError):
            decode(whole + b"\0")


@pytest.mark.parametrize("version", [0, 2, 255])
def test_another_version_is_told_apart(version: int) -> None:
    with pytest.raises(VersionError) as caught:
        decode(b"p2p" + bytes([version, 99]) + b"whatever")
    assert caught.value.version == version


@pytest.mark.parametrize(
    ("me", "friend"),
    [(b"same", b"same"), (b"", b"b"), (b"a", b""), (b"x" * 65, b"b"), (b"a", b"x" * 65), (b"\xff", b"b")],
)
def test_bad_names_say_what_they_answer(me: bytes, friend: bytes) -> None:
    pairing = bytes([1, len(me)]) + me + bytes([len(friend)]) + friend
    with pytest.raises(BadNames) as caught:
        decode(b"p2p\1\3" + T + COOKIE + CLIENT + b"\1\0" + pairing)
    assert caught.value.transaction == T


@pytest.mark.parametrize(("me", "friend"), [("a", "a"), ("", "b"), ("ä" * 33, "b"), ("\ud800", "b")])
def test_bad_names_are_the_callers_fault(me: str, friend: str) -> None:
    with pytest.raises(CallerError):
        NamePair(me, friend)


@pytest.mark.parametrize("text", ["", "x" * (MAX_NAMEPLATE + 1), "\udcff"])
def test_bad_nameplates_are_the_callers_fault(text: str) -> None:
    with pytest.raises(CallerError):
        Nameplate(text)
