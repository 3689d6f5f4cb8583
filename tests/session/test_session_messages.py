"""Session messages on the wire."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2p.core.errors import DecodeError, VersionError
from p2p.core.session.messages import (
    MAX_REASON,
    Bye,
    Confirm,
    Hello,
    Message,
    Mode,
    Ready,
    Reason,
    Reject,
    Reply,
    Signal,
    decode_bye,
    decode_message,
    encode_bye,
)

nonces = st.binary(min_size=16, max_size=16)
sealed = st.binary(min_size=16, max_size=60)


def sized(length: int) -> st.SearchStrategy[bytes]:
    return st.binary(min_size=length, max_size=length)


def with_secret(mode: Mode) -> st.SearchStrategy[Message]:
    return st.one_of(
        st.builds(Hello, st.just(mode), nonces, sized(33)),
        st.builds(Reply, st.just(mode), nonces, nonces, sized(33), sized(32)),
        st.builds(Confirm, nonces, nonces, st.just(b""), sized(32), sealed),
        st.builds(Ready, nonces, nonces, st.just(b""), sealed),
        st.builds(Reject, nonces, nonces, st.sampled_from(Reason), st.integers(0, 255), st.integers(0, 255)),
        st.builds(Bye, nonces, nonces, sealed),
        st.builds(Signal, nonces, nonces, st.integers(0, 2**32 - 1), sealed),
    )


BY_MODE = {
    Mode.CODE: with_secret(Mode.CODE),
    Mode.CONTACT: with_secret(Mode.CONTACT),
    Mode.OPEN: st.one_of(
        st.builds(Hello, st.just(Mode.OPEN), nonces, sized(32)),
        st.builds(Reply, st.just(Mode.OPEN), nonces, nonces, sized(32), st.just(b"")),
        st.builds(Confirm, nonces, nonces, sized(48), sized(32), sealed),
        st.builds(Ready, nonces, nonces, sized(32), sealed),
    ),
}
cases = st.sampled_from(Mode).flatmap(lambda mode: st.tuples(st.just(mode), BY_MODE[mode]))


@given(cases)
def test_round_trip(case: tuple[Mode, Message]) -> None:
    mode, message = case
    assert decode_message(message.encode(), mode) == message


@given(st.binary(max_size=200), st.integers(0, 8), st.sampled_from(Mode))
def test_arbitrary_bytes_are_a_message_or_a_decode_error(data: bytes, kind: int, mode: Mode) -> None:
    for candidate in (data, bytes([1, kind]) + data, bytes([1, kind, mode]) + data):
        try:
            message = decode_message(candidate, mode)
        except DecodeError:
            continue
        assert message.encode() == candidate


def test_layouts() -> None:
    s, r = b"S" * 16, b"R" * 16
    assert Hello(Mode.CODE, s, b"x" * 33).encode() == b"\x01\x01\x01" + s + b"x" * 33
    assert Reply(Mode.CODE, s, r, b"x" * 33, b"c" * 32).encode() == b"\x01\x02\x01" + s + r + b"x" * 33 + b"c" * 32
    assert Confirm(s, r, b"o" * 48, b"c" * 32, b"z" * 16).encode() == (
        b"\x01\x03" + s + r + b"o" * 48 + b"c" * 32 + b"z" * 16
    )
    assert Ready(s, r, b"c" * 32, b"z" * 16).encode() == b"\x01\x04" + s + r + b"c" * 32 + b"z" * 16
    assert Hello(Mode.CONTACT, s, b"x" * 33).encode() == b"\x01\x01\x03" + s + b"x" * 33
    assert Reject(s, r, Reason.CONTACT_MISMATCH, 0, 3).encode() == b"\x01\x05" + s + r + b"\x05\x00\x03"
    assert Reject(s, r, Reason.BURNT, 3, 3).encode() == b"\x01\x05" + s + r + b"\x02\x03\x03"
    assert Bye(s, r, b"z" * 16).encode() == b"\x01\x06" + s + r + b"z" * 16
    assert encode_bye(130, "ä") == b"\x82\x00\x02\xc3\xa4"


def test_other_versions_are_told_apart() -> None:
    with pytest.raises(VersionError) as caught:
        decode_message(b"\x07whatever", Mode.CODE)
    assert caught.value.version == 7


@given(st.integers(0, 255), st.text(max_size=600))
def test_bye_keeps_what_fits(exit_code: int, reason: str) -> None:
    code, text = decode_bye(encode_bye(exit_code, reason))
    assert code == exit_code
    assert reason.startswith(text)
    assert len(text.encode()) > MAX_REASON - 4 or text == reason


@given(st.binary(max_size=40))
def test_arbitrary_bytes_are_a_bye_or_a_decode_error(data: bytes) -> None:
    try:
        code, text = decode_bye(data)
    except DecodeError:
        return
    assert encode_bye(code, text) == data
