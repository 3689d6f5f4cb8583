"""Datagrams in a TCP connection, however it cuts them."""

from __future__ import annotations

import contextlib
import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2p.core.errors import CallerError, DecodeError
from p2p.core.rendezvous.frames import MAX_DATAGRAM, FrameReader, frame, frame_burst

DATAGRAMS = st.lists(st.binary(min_size=1, max_size=300), max_size=20)


def cut(data: bytes, cuts: list[int]) -> list[bytes]:
    places = [0, *sorted(min(place, len(data)) for place in cuts), len(data)]
    return [data[start:end] for start, end in itertools.pairwise(places)]


def test_the_layout() -> None:
    assert frame(b"p2p\1\1") == b"\0\5p2p\1\1"
    assert frame_burst(b"aabbc", 2) == b"\0\2aa\0\2bb\0\1c"
    assert frame_burst(b"aabb", 2) == b"\0\2aa\0\2bb"
    assert frame_burst(b"aab", 0) == frame_burst(b"aab", 3) == b"\0\3aab"


@given(DATAGRAMS, st.lists(st.integers(0, 6000), max_size=30))
def test_whatever_the_pieces_the_same_datagrams_come(datagrams: list[bytes], cuts: list[int]) -> None:
    reader = FrameReader()
    pieces = cut(b"".join(map(frame, datagrams)), cuts)
    assert [datagram for piece in pieces for datagram in reader.feed(piece)] == datagrams


@given(st.binary(min_size=1, max_size=3000), st.integers(0, 1200))
def test_a_burst_is_its_datagrams(data: bytes, segment_size: int) -> None:
    step = segment_size or len(data)
    assert FrameReader().feed(frame_burst(memoryview(data), segment_size)) == [
        data[start : start + step] for start in range(0, len(data), step)
    ]


@given(st.lists(st.binary(max_size=500), max_size=20), st.integers(1, 400))
def test_any_bytes_are_datagrams_or_an_error_and_no_more_than_one_is_kept(pieces: list[bytes], limit: int) -> None:
    reader = FrameReader(limit)
    with contextlib.suppress(DecodeError):
        for piece in pieces:
            assert all(1 <= len(datagram) <= limit for datagram in reader.feed(piece))
            assert len(vars(reader)["_partial"]) <= limit + 1


@pytest.mark.parametrize("head", [b"\0\0", b"\0\x0b", b"\xff\xff"])
def test_a_length_that_cannot_be_is_an_error(head: bytes) -> None:
    with pytest.raises(DecodeError):
        FrameReader(10).feed(head)


def test_what_fits_no_frame_is_the_callers_fault() -> None:
    assert FrameReader().feed(frame(bytes(MAX_DATAGRAM))) == [bytes(MAX_DATAGRAM)]
    for datagram in (b"", bytes(MAX_DATAGRAM + 1)):
        with pytest.raises(CallerError):
            frame(datagram)
