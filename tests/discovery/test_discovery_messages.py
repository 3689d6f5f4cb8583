"""The bytes of the discovery: golden vectors, round trips, and what is no message."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2p.core.discovery.keys import Run, RunKeys, Side, password, seat_of
from p2p.core.discovery.messages import (
    Alive,
    Announce,
    Confirm,
    Content,
    Cookie,
    Forward,
    Here,
    Leave,
    Left,
    Message,
    Open,
    Sealed,
    Share,
    Shared,
    decode,
    decode_content,
    encode,
    encode_content,
)
from p2p.core.errors import DecodeError, VersionError
from p2p.core.introduction import MAX_PAYLOAD, NamePair, Nameplate, Pairing
from p2p.core.role import Role

A, B, N, C = b"instance", b"otherone", b"thenonce", bytes(range(16))
SHARE, CONFIRMATION = b"A" + bytes(32), bytes(range(32))

GOLDEN: list[tuple[Message, str]] = [
    (Announce(A, Role.SENDER, 40000), "6c616e 01 01" + A.hex() + "01 9c40" + "00" * 29),
    (Here(A, B, Role.RECEIVER), "6c616e 01 02" + (A + B).hex() + "02"),
    (Open(A, B, N), "6c616e 01 03" + (A + B + N).hex() + "00" * 16),
    (Cookie(A, B, N, C), "6c616e 01 04" + (A + B + N + C).hex()),
    (Share(A, B, N, C, Role.SENDER, SHARE), "6c616e 01 05" + (A + B + N + C).hex() + "01" + SHARE.hex()),
    (
        Shared(A, B, N, Role.RECEIVER, SHARE, CONFIRMATION),
        "6c616e 01 06" + (A + B + N).hex() + "02" + SHARE.hex() + CONFIRMATION.hex(),
    ),
    (Confirm(A, B, N, CONFIRMATION), "6c616e 01 07" + (A + B + N + CONFIRMATION).hex()),
    (Sealed(A, 7, bytes(17)), "6c616e 01 08" + A.hex() + "0000000000000007" + "00" * 17),
]
CONTENTS: list[tuple[Content, str]] = [
    (Alive(1500), "01 000005dc"), (Forward(b"hi"), "02 6869"), (Leave(), "03"), (Left(), "04"),
]  # fmt: skip


def fixed(size: int) -> st.SearchStrategy[bytes]:
    return st.binary(min_size=size, max_size=size)


IDS, ROLES = fixed(8), st.sampled_from(Role)
MESSAGES = st.one_of(
    st.builds(Announce, IDS, ROLES, st.integers(1, 65535)),
    st.builds(Here, IDS, IDS, ROLES),
    st.builds(Open, IDS, IDS, IDS),
    st.builds(Cookie, IDS, IDS, IDS, fixed(16)),
    st.builds(Share, IDS, IDS, IDS, fixed(16), ROLES, fixed(33)),
    st.builds(Shared, IDS, IDS, IDS, ROLES, fixed(33), fixed(32)),
    st.builds(Confirm, IDS, IDS, IDS, fixed(32)),
    st.builds(Sealed, IDS, st.integers(0, 2**64 - 1), st.binary(min_size=17, max_size=100)),
)


@pytest.mark.parametrize(("message", "layout"), GOLDEN, ids=lambda value: type(value).__name__)
def test_layouts_do_not_change(message: Message, layout: str) -> None:
    assert encode(message) == bytes.fromhex(layout)
    assert decode(bytes.fromhex(layout)) == message


@pytest.mark.parametrize(("content", "layout"), CONTENTS, ids=lambda value: type(value).__name__)
def test_layouts_of_sealed_contents_do_not_change(content: Content, layout: str) -> None:
    assert encode_content(content) == bytes.fromhex(layout)
    assert decode_content(bytes.fromhex(layout)) == content


@given(MESSAGES)
def test_every_message_round_trips_and_no_byte_may_be_missing_or_too_many(message: Message) -> None:
    data = encode(message)
    assert decode(data) == message
    if not isinstance(message, Sealed):
        for wrong in (data[:-1], data + b"\0"):
            with pytest.raises(DecodeError):
                decode(wrong)


def test_what_an_announcement_or_an_open_brings_about_is_no_longer_than_itself() -> None:
    lengths = {type(message).__name__: len(encode(message)) for message, _ in GOLDEN}
    assert lengths["Here"] <= lengths["Announce"]
    assert lengths["Open"] <= lengths["Announce"]
    assert lengths["Cookie"] <= lengths["Open"]


def test_another_version_is_told_from_garbage() -> None:
    with pytest.raises(VersionError) as error:
        decode(b"lan\x02whatever")
    assert error.value.version == 2


@pytest.mark.parametrize("content", [b"", b"\x01\0\0", b"\x02", b"\x02" + bytes(MAX_PAYLOAD + 1), b"\x03\0", b"\x09"])
def test_contents_that_are_none(content: bytes) -> None:
    with pytest.raises(DecodeError):
        decode_content(content)


TRANSCRIPT = "1aaa353acb975c5cbf45d4f458629b4dae615356b6d7a01e24d527a6f4e5f9a4"
CHANNEL = "b6718aed89cdb44f"
INITIATOR_0 = "fce024851beb61da56de3be7df3da1bb99d5ecaad8a8b0a793544a46547fe15d"
RUN = Run(N, A, B, Role.SENDER, Role.RECEIVER, b"A" + bytes(32), b"B" + bytes(32))


def test_derived_keys_do_not_change() -> None:
    keys = RunKeys(bytes(32), RUN)
    assert RUN.transcript().hex() == TRANSCRIPT
    assert keys.channel.hex() == CHANNEL
    assert keys.confirmation(Side.INITIATOR, 0).hex() == INITIATOR_0


def test_a_confirmation_tells_its_seat_and_is_no_other_sides() -> None:
    keys = RunKeys(bytes(32), RUN)
    for side in Side:
        for seat in (0, 1):
            assert keys.confirmed_seat(side, keys.confirmation(side, seat)) == seat
            assert keys.confirmed_seat(side.other, keys.confirmation(side, seat)) is None


names = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=16)


@given(names, names, names, names)
def test_only_the_two_of_a_pairing_have_its_password(one: str, two: str, three: str, four: str) -> None:
    if one == two or three == four:
        return
    assert password(NamePair(one, two)) == password(NamePair(two, one))
    assert seat_of(NamePair(one, two), Role.SENDER) != seat_of(NamePair(two, one), Role.RECEIVER)
    others: list[Pairing] = [Nameplate("1"), Nameplate("12")]
    if {one, two} != {three, four}:
        others.append(NamePair(three, four))
    assert len({password(pairing) for pairing in [NamePair(one, two), *others]}) == len(others) + 1
