"""The bytes of the transfer protocol: golden vectors, round trips, and nothing but DecodeError for anything else."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2p.core.errors import DecodeError, ExitCode, VersionError
from p2p.core.transfer.messages import (
    DATA_HEADER,
    MAX_MESSAGE,
    MAX_REASON_BYTES,
    PIECE,
    Abort,
    Accept,
    Data,
    Entries,
    Entry,
    FileEnd,
    Finish,
    Finished,
    Keepalive,
    Message,
    Offer,
    Refuse,
    WholeFile,
    WholeFiles,
    decode,
    encode,
    write_data_header,
)

GOLDEN: list[tuple[Message, str]] = [
    (Offer(2, 0x1_0000_0001), "01 01 00000002 0000000100000001"),
    (
        Entries((Entry(0, 5, -1, 0o644, "a.txt"), Entry(1, 2**40, 10**18, 0o755, "ü"))),
        "02 00000000 0000000000000005 ffffffffffffffff 01a4 0005 612e747874"
        "   00000001 0000010000000000 0de0b6b3a7640000 01ed 0002 c3bc",
    ),
    (Accept(), "03"),
    (Refuse(ExitCode.REFUSED, "no"), "04 05 0002 6e6f"),
    (Data(1, 61_440, b"abc"), "05 00000001 000000000000f000 616263"),
    (FileEnd(7, b"\xaa" * 32), "06 00000007" + "aa" * 32),
    (
        WholeFiles(2, (WholeFile(b"\xdd" * 32, b"abc"), WholeFile(b"\xee" * 32, b""))),
        "0b 00000002 0003" + "dd" * 32 + "616263 0000" + "ee" * 32,
    ),
    (Finish(b"\xbb" * 32), "07" + "bb" * 32),
    (Finished(b"\xcc" * 32), "08" + "cc" * 32),
    (Abort(ExitCode.CANCELLED, ""), "09 82 0000"),
    (Keepalive(), "0a"),
]


@pytest.mark.parametrize(("message", "layout"), GOLDEN, ids=lambda value: type(value).__name__)
def test_golden_vector(message: Message, layout: str) -> None:
    wire = bytes.fromhex(layout)
    assert encode(message) == wire
    assert decode(wire) == message


@pytest.mark.parametrize("layout", [layout for _, layout in GOLDEN])
def test_a_byte_missing_or_too_many(layout: str) -> None:
    wire = bytes.fromhex(layout)
    if wire[0] != 5:
        with pytest.raises(DecodeError):
            decode(wire + b"\0")
        with pytest.raises(DecodeError):
            decode(wire[:-1])


@given(st.binary(max_size=200) | st.binary(max_size=100).map(lambda tail: b"\2" + tail))
def test_any_bytes_decode_or_raise_decode_error(data: bytes) -> None:
    try:
        message = decode(data)
    except DecodeError:
        return
    assert encode(message) == data


TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=60)
ENTRIES = st.builds(
    Entry,
    st.integers(0, 2**32 - 1),
    st.integers(0, 2**64 - 1),
    st.integers(-(2**63), 2**63 - 1),
    st.integers(0, 2**16 - 1),
    TEXT,
)


@given(st.lists(ENTRIES, min_size=1, max_size=8))
def test_entries_round_trip(entries: list[Entry]) -> None:
    assert decode(encode(Entries(tuple(entries)))) == Entries(tuple(entries))


def test_data_is_a_view_and_its_length_is_bounded() -> None:
    record = bytearray(MAX_MESSAGE)
    write_data_header(record, 3, 5)
    data = decode(record)
    assert isinstance(data, Data)
    assert (data.file, data.offset, len(data.piece)) == (3, 5, PIECE)
    record[DATA_HEADER] = 0x55
    assert data.piece[0] == 0x55, "the piece was copied"
    for length in (DATA_HEADER, MAX_MESSAGE + 1):
        with pytest.raises(DecodeError):
            decode(b"\5" + bytes(length - 1))


def test_entries_without_an_entry() -> None:
    """They could be sent for ever."""
    with pytest.raises(DecodeError):
        decode(b"\2")


def test_another_version_is_named() -> None:
    with pytest.raises(VersionError) as caught:
        decode(bytes.fromhex("01 02 00000002 0000000100000001"))
    assert caught.value.version == 2


@pytest.mark.parametrize("code", [0, 11, 255])
def test_the_other_side_cannot_declare_success_or_nonsense(code: int) -> None:
    with pytest.raises(DecodeError, match="exit code"):
        decode(bytes([9, code, 0, 0]))


@given(st.text(max_size=2000))
def test_reasons_are_cut_between_characters(reason: str) -> None:
    message = decode(encode(Abort(ExitCode.STORAGE, reason)))
    assert isinstance(message, Abort)
    assert len(message.reason.encode()) <= MAX_REASON_BYTES
    assert reason.encode("utf-8", "replace").decode().startswith(message.reason)
