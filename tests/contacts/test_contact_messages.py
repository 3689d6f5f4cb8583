"""The bytes of records about contacts."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2p.core.contacts import messages
from p2p.core.contacts.messages import Held, Key, Message, No, Why, decode, encode
from p2p.core.errors import DecodeError, VersionError
from p2p.core.transfer.codec import is_numbered
from p2p.core.transfer.messages import CONTACT, MessageType

MESSAGES = (
    st.binary(min_size=32, max_size=32).map(Key)
    | st.binary(min_size=32, max_size=32).map(Held)
    | st.sampled_from(Why).map(No)
)


@given(MESSAGES)
def test_round_trip(message: Message) -> None:
    assert decode(encode(message)) == message


def test_golden_vectors() -> None:
    assert encode(Key(bytes(range(32)))) == bytes([20, 1, 1, *range(32)])
    assert encode(Held(bytes(range(32)))) == bytes([20, 1, 2, *range(32)])
    assert encode(No(Why.CHANGED)) == bytes([20, 1, 3, 2])


@given(st.binary(max_size=60) | st.binary(max_size=60).map(lambda tail: b"\x14\x01" + tail))
def test_any_bytes_are_a_message_or_a_decode_error(data: bytes) -> None:
    try:
        message = decode(data)
    except DecodeError:
        return
    assert data in (encode(message), data[:1] + data[1:2] + encode(message)[2:])  # NO is alike in every version


def test_other_versions() -> None:
    with pytest.raises(VersionError):
        decode(bytes([20, 2, 1, 7]))
    assert decode(bytes([20, 2, 3, 1])) == No(Why.NOT_ASKED)


def test_its_type_is_none_of_the_transfer_and_not_numbered() -> None:
    assert CONTACT == messages.TYPE
    assert CONTACT not in set(MessageType)
    assert not is_numbered(encode(No(Why.CHANGED)))
