"""Packets and frames: golden vectors, round trips, and arbitrary bytes."""

from __future__ import annotations

import contextlib
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2p.core.errors import DecodeError
from p2p.core.transport import packets
from p2p.core.transport.frames import (
    Ack,
    Close,
    Frame,
    PathChallenge,
    PathResponse,
    Ping,
    Segment,
    decode_frames,
    encode_frame,
)

PREFIX = b"\xd0abcdefg"
CIPHERTEXT = random.Random(7).randbytes(packets.MAX_CIPHERTEXT)


def encode(number: int, offset: int, count: int, payload: int, last: int) -> bytes:
    return packets.encode_data(PREFIX, number, 77, CIPHERTEXT, offset=offset, count=count, payload=payload, last=last)


def test_data_packet_golden_vector() -> None:
    data = packets.encode_data(PREFIX, 0x0102030405, 0x0A0B, b"\xee" * 20, offset=4, count=1, payload=3, last=3)
    assert data.hex() == "d061626364656667" "0000000102030405" "00000a0b" "0004" "0014" "eeeeee"


def test_a_burst_is_its_packets_one_behind_the_other() -> None:
    burst = encode(2**40 - 3, 1000, 5, 1176, 90)
    singles = [encode(2**40 - 3 + i, 1000 + i * 1176, 1, 1176, 1176 if i < 4 else 90) for i in range(5)]
    assert burst == b"".join(singles)


def test_a_whole_record_fits_one_super_packet_at_the_smallest_datagram() -> None:
    payload = packets.BASE_DATAGRAM - packets.DATA_HEADER
    count = -(-packets.MAX_CIPHERTEXT // payload)
    assert count == packets.MAX_SEGMENTS
    assert packets.MAX_CIPHERTEXT + count * packets.DATA_HEADER <= packets.MAX_BURST


@given(
    number=st.integers(0, 2**61),
    count=st.integers(2, 54),
    payload=st.integers(1, 1176),
    offset=st.integers(0, 1000),
    data=st.data(),
)
def test_burst_round_trip(number: int, count: int, payload: int, offset: int, data: st.DataObject) -> None:
    last = data.draw(st.integers(1, min(payload, packets.MAX_CIPHERTEXT - offset - (count - 1) * payload)))
    burst = encode(number, offset, count, payload, last)
    [piece] = packets.decode_burst(memoryview(burst), payload + packets.DATA_HEADER)
    assert (piece.packet_number, piece.packets, piece.record, piece.offset) == (number, count, 77, offset)
    assert piece.data == CIPHERTEXT[offset : offset + (count - 1) * payload + last]
    assert piece.record_length == len(CIPHERTEXT)


@given(st.integers(0, 9), st.integers(8, 23), st.integers(0, 7))
def test_a_burst_with_one_changed_header_bit_is_not_one_run(index: int, byte: int, bit: int) -> None:
    burst = bytearray(encode(1000, 0, 10, 100, 100))
    burst[index * 124 + byte] ^= 1 << bit
    assert len(packets.decode_burst(burst, 124)) != 1


@given(
    numbers=st.lists(st.integers(0, 43), min_size=2, max_size=64), last=st.integers(1, 1448), seed=st.integers(0, 2**32)
)
def test_what_came_one_by_one_is_taken_apart_as_if_it_had_not_been_put_together(
    numbers: list[int], last: int, seed: int
) -> None:
    """Any packets of a record, in any order, the last of them perhaps shorter: as the socket coalesces them."""
    numbers = sorted(numbers) if seed % 2 else numbers
    whole = [encode(1000 + number, number * 1400, 1, 1400, 1400) for number in numbers[:-1]]
    datagrams = [*whole, encode(1000 + numbers[-1], numbers[-1] * 1400, 1, 1400, min(last, 1400))]
    pieces = packets.decode_burst(b"".join(datagrams), 1424)
    one_by_one = [packets.decode_data(datagram) for datagram in datagrams]
    assert [piece.packet_number for piece in pieces] == [
        each.packet_number
        for index, each in enumerate(one_by_one)
        if index == 0 or each.packet_number != one_by_one[index - 1].packet_number + 1
    ]
    assert sum(piece.packets for piece in pieces) == len(datagrams)
    assert b"".join(piece.data for piece in pieces) == b"".join(bytes(each.data) for each in one_by_one)
    assert all(piece.offset == (piece.packet_number - 1000) * 1400 for piece in pieces)


def test_a_burst_with_something_else_in_it_is_left_to_be_taken_one_by_one() -> None:
    burst = encode(1000, 0, 10, 100, 100)
    assert packets.decode_burst(burst[:124] + b"\xd1" + burst[125:], 124) == []
    assert packets.decode_burst(burst[:124] + b"\xd1" + bytes(123) + burst[248:], 124) == []


@given(st.binary(max_size=200), st.integers(1, 100))
def test_arbitrary_bytes_never_raise_anything_but_decode_error(data: bytes, segment_size: int) -> None:
    packets.decode_burst(PREFIX + data, segment_size)
    for decode in (packets.decode_data, decode_frames):
        with contextlib.suppress(DecodeError):
            decode(data)


def ranges() -> st.SearchStrategy[tuple[tuple[int, int], ...]]:
    def build(steps: list[tuple[int, int]]) -> tuple[tuple[int, int], ...]:
        found, at = [], 0
        for gap, length in steps:
            found.append((at + gap, at + gap + length))
            at += gap + length
        return tuple(reversed(found))

    step = st.tuples(st.integers(1, 2**32 - 1), st.integers(1, 2**20))
    return st.lists(step, min_size=1, max_size=129).map(build)


FRAMES: st.SearchStrategy[Frame] = st.one_of(
    st.just(Ping()),
    st.builds(
        Ack,
        ranges=ranges(),
        delay=st.integers(0, 2**32 - 1).map(lambda us: us / 1e6),
        record_limit=st.integers(0, 2**32 - 1),
        delivered=st.integers(0, 2**32 - 1),
        failed=st.lists(st.tuples(st.integers(0, 2**32 - 1), st.integers(0, 255)), max_size=8).map(tuple),
    ),
    st.builds(
        Segment,
        st.integers(0, 2**32 - 1),
        st.integers(0, 99),
        st.just(999),
        st.binary(min_size=1, max_size=99),
        st.booleans(),
    ),
    st.builds(Close, st.integers(0, 255), st.booleans(), st.text(max_size=100)),
    st.builds(PathChallenge, st.binary(min_size=8, max_size=8)),
    st.builds(PathResponse, st.binary(min_size=8, max_size=8)),
)


@given(st.lists(FRAMES, max_size=5))
def test_frames_round_trip(frames: list[Frame]) -> None:
    assert decode_frames(b"".join(map(encode_frame, frames)) + bytes(3)) == frames


def test_frame_golden_vectors() -> None:
    ack = Ack(((90, 101), (50, 80)), 0.000007, 300, 44, ((44, 2),))
    assert encode_frame(ack).hex() == (
        "02" "0000000000000064" "00000007" "0000012c" "0000002c" "01" "0000002c02" "01" "0000000b" "0000000a" "0000001e"
    )
    assert encode_frame(Segment(1, 2, 100, b"xy")).hex() == "03" "00000001" "0002" "0064" "0002" "7879"
    assert encode_frame(Segment(1, 2, 100, b"xy", is_lone=True)).hex() == "05" "00000001" "0002" "0064" "0002" "7879"
    assert encode_frame(Close(7, True, "å")).hex() == "04" "07" "01" "0002" "c3a5"
    assert encode_frame(Ping()).hex() == "01"
    assert encode_frame(PathChallenge(bytes(range(8)))).hex() == "06" "0001020304050607"
    assert encode_frame(PathResponse(bytes(range(8)))).hex() == "07" "0001020304050607"


@pytest.mark.parametrize(
    "frame",
    [
        "08",  # unknown type
        "05" "0000000100",  # cut short
        "06" "00010203040506",
        "07" "00010203040506",
        "0001",  # padding that is not zero
        "02" "0000000000000004" "00000000" "00000000" "00000000" "00" "00" "00000006",  # below number zero
        "02" "0000000000000004" "00000000" "00000000" "00000000" "00" "01" "00000001" "00000000" "00000001",  # no gap
        "02" "0000000000000004" "00000000" "00000000" "00000000" "00" "00" "00000000",  # empty
        "02" "4000000000000000" "00000000" "00000000" "00000000" "00" "00" "00000001",  # number too large
        "03" "00000001" "0063" "0064" "0002" "7879",  # outside its record
        "04" "07" "02" "0000",  # neither first nor final
        "04" "07" "01" "0001" "ff",  # not UTF-8
    ],
)
def test_malformed_frames(frame: str) -> None:
    with pytest.raises(DecodeError):
        decode_frames(bytes.fromhex(frame))


def test_a_long_reason_is_cut_between_characters() -> None:
    assert decode_frames(encode_frame(Close(1, False, "å" * 300))) == [Close(1, False, "å" * 256)]
    assert decode_frames(encode_frame(Close(1, False, "a" + "å" * 300))) == [Close(1, False, "a" + "å" * 255)]
