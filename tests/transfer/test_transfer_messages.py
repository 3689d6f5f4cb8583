"""The bytes of the transfer protocol: golden vectors, round trips, and nothing but DecodeError for anything else."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2p.core.errors import DecodeError, ExitCode, VersionError
from p2p.core.transfer.codec import decode, encode, is_numbered, write_data_header
from p2p.core.transfer.entries import (
    MAX_NAME_BYTES,
    MAX_REASON_BYTES,
    Entry,
    File,
    Folder,
    Hardlink,
    Kind,
    Leave,
    Skipped,
    Symlink,
)
from p2p.core.transfer.limits import MAX_HOLE, MAX_ROOTS, SMALL
from p2p.core.transfer.messages import (
    CHUNK_DIGEST,
    CONTACT,
    DATA_HEADER,
    MAX_DIGESTS,
    MAX_MESSAGE,
    PIECE,
    TOKEN,
    UNNUMBERED,
    Abort,
    Accept,
    Continue,
    Data,
    Entries,
    FileEnd,
    Finish,
    Finished,
    Have,
    Hole,
    Keepalive,
    LeftOut,
    Message,
    MessageType,
    Offer,
    OfferKind,
    Problem,
    Refuse,
    Root,
    Same,
    Taken,
    Totals,
    WholeFile,
    WholeFiles,
)

TOKEN_BYTES = bytes(range(TOKEN))
ROOTS = (Root(Kind.FOLDER, "d", 0), Root(Kind.FILE, "p", None))
GOLDEN: list[tuple[Message, str]] = [
    (
        Offer(OfferKind.TREE, TOKEN_BYTES, Totals(5, 2**33, is_final=True, others=7, holes=6), 3, ROOTS),
        "01 02 00 01 000102030405060708090a0b0c0d0e0f 00000003"
        "   0000000000000005 0000000200000000 0000000000000007 0000000000000006"
        "   01 0000000000000000 0001 64    03 ffffffffffffffff 0001 70",
    ),
    (
        Offer(OfferKind.PIPE, TOKEN_BYTES, Totals(1, None, is_final=False), 1, ROOTS[1:]),
        "01 02 01 00 000102030405060708090a0b0c0d0e0f 00000001"
        "   0000000000000001 ffffffffffffffff 0000000000000000 0000000000000000"
        "   03 ffffffffffffffff 0001 70",
    ),
    (
        Entries(
            (
                Folder("ü", 0o755, -1),
                File("a.txt", 0o644, 10**18, 2**40),
                File("b", 0o600, 0, None, is_linked=True),
                Symlink("l", 7, "../x"),
                Hardlink("h", 2),
                Skipped("s", "no", ExitCode.INTEGRITY),
                Leave(),
            )
        ),
        "02 01 01ed ffffffffffffffff 0002 c3bc"
        "   03 01a4 0de0b6b3a7640000 0000010000000000 0005 612e747874"
        "   03 8180 0000000000000000 ffffffffffffffff 0001 62"
        "   04 0000000000000007 0001 6c 0004 2e2e2f78"
        "   05 00000002 0001 68"
        "   06 08 0001 73 0002 6e6f"
        "   02",
    ),
    (Accept(answers=False), "03 00 0000000000000000"),
    (Accept(answers=True, rate=2**33), "03 01 0000000200000000"),
    (Refuse(ExitCode.REFUSED, "no"), "04 05 0002 6e6f"),
    (Data(1, 61_440, b"abc"), "05 00000001 000000000000f000 616263"),
    (FileEnd(7, b"\xaa" * 32), "06 00000007" + "aa" * 32),
    (Finish(9, b"\xbb" * 32), "07 00000009" + "bb" * 32),
    (Finished(b"\xcc" * 32), "08" + "cc" * 32),
    (Abort(ExitCode.CANCELLED, ""), "09 82 0000"),
    (Keepalive(), "0a"),
    (
        WholeFiles((WholeFile(2, b"\xdd" * 32, b"abc"), WholeFile(5, b"\xee" * 32, b""))),
        "0b 00000002 0003" + "dd" * 32 + "616263 00000005 0000" + "ee" * 32,
    ),
    (Totals(3, 4, False, 2, 1), "0c 00 0000000000000003 0000000000000004 0000000000000002 0000000000000001"),
    (Totals(1, None, is_final=True), "0c 01 0000000000000001 ffffffffffffffff" + 32 * "0"),
    (Hole(1, 2, MAX_HOLE), "0d 00000001 0000000000000002 0000000001000000"),
    (Same(1, 983_040, 983_040), "0e 00000001 00000000000f0000 00000000000f0000"),
    (Have(1, 2, (b"\x11" * 16, b"\x22" * 16), is_last=False), "0f 00000001 00000002 00" + "11" * 16 + "22" * 16),
    (Have(1, 0, (), is_last=True), "0f 00000001 00000000 01"),
    (Have(1, 2, (b"\x11" * 16,), is_last=True, lacking=15), "0f 00000001 00000002 f1" + "11" * 16),
    (Continue(2**40), "10 0000010000000000"),
    (Taken(64), "11 0000000000000040"),
    (Problem(3, "full"), "12 00000003 0004 66756c6c"),
    (LeftOut(3, ExitCode.STORAGE, "no"), "13 00000003 09 0002 6e6f"),
]


@pytest.mark.parametrize(("message", "layout"), GOLDEN, ids=lambda value: type(value).__name__)
def test_golden_vector(message: Message, layout: str) -> None:
    wire = bytes.fromhex(layout)
    assert encode(message).hex() == wire.hex()
    assert decode(wire) == message


def test_every_message_has_a_golden_vector() -> None:
    assert {bytes.fromhex(layout)[0] for _, layout in GOLDEN} == set(MessageType)


@pytest.mark.parametrize("layout", [layout for _, layout in GOLDEN])
def test_a_byte_missing_or_too_many(layout: str) -> None:
    wire = bytes.fromhex(layout)
    if wire[0] == MessageType.DATA:
        return
    with pytest.raises(DecodeError):
        decode(wire + b"\0")
    is_whole_without_its_last = wire[0] == MessageType.ENTRIES
    if not is_whole_without_its_last:
        with pytest.raises(DecodeError):
            decode(wire[:-1])


@given(
    st.binary(max_size=200)
    | st.tuples(st.sampled_from(MessageType), st.binary(max_size=120)).map(lambda each: bytes([each[0]]) + each[1])
    | st.tuples(st.sampled_from(Kind), st.binary(max_size=80)).map(lambda each: bytes([2, each[0]]) + each[1])
)
def test_any_bytes_decode_or_raise_decode_error(data: bytes) -> None:
    try:
        message = decode(data)
    except DecodeError:
        return
    assert encode(message) == data


NAMES = st.text(st.characters(exclude_categories=["Cs"]), max_size=60)
MODES, TIMES = st.integers(0, 2**15 - 1), st.integers(-(2**63), 2**63 - 1)
NUMBERS, SIZES = st.integers(0, 2**32 - 1), st.integers(0, 2**64 - 2) | st.none()
LENGTHS = st.integers(0, 2**64 - 1)
CODES = st.sampled_from([code for code in ExitCode if code is not ExitCode.DONE])
DIGESTS = st.binary(min_size=32, max_size=32)
ENTRIES: st.SearchStrategy[Entry] = st.one_of(
    st.builds(Folder, NAMES, MODES, TIMES),
    st.builds(Leave),
    st.builds(File, NAMES, MODES, TIMES, SIZES, st.booleans()),
    st.builds(Symlink, NAMES, TIMES, NAMES),
    st.builds(Hardlink, NAMES, NUMBERS),
    st.builds(Skipped, NAMES, NAMES, CODES),
)
NUMBERS_OF_8 = st.integers(0, 2**64 - 1)
TOTALS = st.builds(Totals, NUMBERS_OF_8, SIZES, st.booleans(), NUMBERS_OF_8, NUMBERS_OF_8)
A_ROOT = st.builds(Root, st.sampled_from([Kind.FOLDER, Kind.FILE]), NAMES, SIZES)
MESSAGES: st.SearchStrategy[Message] = st.one_of(
    st.builds(
        *(Offer, st.sampled_from(OfferKind), st.binary(min_size=TOKEN, max_size=TOKEN), TOTALS, NUMBERS),
        st.lists(A_ROOT, max_size=MAX_ROOTS).map(tuple),
    ),
    TOTALS,
    st.lists(ENTRIES, min_size=1, max_size=8).map(lambda entries: Entries(tuple(entries))),
    st.builds(Accept, st.booleans(), LENGTHS),
    st.builds(Refuse, CODES, NAMES),
    st.builds(Data, NUMBERS, LENGTHS, st.binary(min_size=1, max_size=50)),
    st.builds(Hole, NUMBERS, LENGTHS, st.integers(1, MAX_HOLE)),
    st.builds(Same, NUMBERS, LENGTHS, LENGTHS),
    st.builds(FileEnd, NUMBERS, DIGESTS),
    st.lists(st.builds(WholeFile, NUMBERS, DIGESTS, st.binary(max_size=50)), min_size=1, max_size=5).map(
        lambda files: WholeFiles(tuple(files))
    ),
    st.builds(LeftOut, NUMBERS, CODES, NAMES),
    st.builds(Finish, NUMBERS, DIGESTS),
    st.builds(
        *(Have, NUMBERS, NUMBERS),
        st.lists(st.binary(min_size=CHUNK_DIGEST, max_size=CHUNK_DIGEST), min_size=1, max_size=4).map(tuple),
        st.booleans(),
    ),
    st.builds(Problem, NUMBERS, NAMES),
    st.builds(Finished, DIGESTS),
    st.builds(Abort, CODES, NAMES),
    st.builds(Continue, LENGTHS),
    st.builds(Taken, LENGTHS),
)


@given(MESSAGES)
def test_every_message_survives_the_way(message: Message) -> None:
    assert decode(encode(message)) == message


def test_only_what_is_about_the_path_itself_is_not_numbered() -> None:
    unnumbered = {MessageType(record[0]) for message, _ in GOLDEN if not is_numbered(record := encode(message))}
    assert unnumbered == {9, 10, 16, 17}
    assert {*unnumbered, CONTACT} == UNNUMBERED


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


WRONG = {
    "no entry: it could be said for ever": "02",
    "no whole file": "0b",
    "an answer that says nothing": "0f 00000001 00000000 00",
    "a shorter chunk, and others behind it": "0f 00000001 00000000 10" + "11" * 16,
    "a shorter chunk that is none": "0f 00000001 00000000 11",
    "flags from the future, of HAVE": "0f 00000001 00000000 03",
    "half a digest": "0f 00000001 00000000 01 1122",
    "an empty hole": "0d 00000001 0000000000000002 0000000000000000",
    "a hole that takes long": "0d 00000001 0000000000000002 0000000001000001",
    "a link that is offered": GOLDEN[1][1].replace(" 03 ff", " 04 ff"),
    "a skipped thing that is offered": GOLDEN[1][1].replace(" 03 ff", " 06 ff"),
    "flags from the future, of OFFER": GOLDEN[0][1].replace("01 02 00 01", "01 02 00 02"),
    "flags from the future, of ACCEPT": "03 02 0000000000000000",
    "flags from the future, of TOTALS": "0c 80 0000000000000003 0000000000000004",
    "a kind of offer from the future": GOLDEN[0][1].replace("01 02 00 01", "01 02 03 01"),
    "an entry from the future": "02 07",
    "a message from the future": "14",
    "a name that is not UTF-8": "02 05 00000001 0001 ff",
    "a name longer than any system has": "02 05 00000001 1001" + "61" * (MAX_NAME_BYTES + 1),
    "a reason that nobody reads": "12 00000003 0401" + "61" * (MAX_REASON_BYTES + 1),
    "a small file that is none": f"0b 00000002 {SMALL + 1:04x}" + "dd" * 32 + "61" * (SMALL + 1),
}


@pytest.mark.parametrize("what", WRONG)
def test_no_message(what: str) -> None:
    with pytest.raises(DecodeError):
        decode(bytes.fromhex(WRONG[what]))


def test_more_roots_by_name_than_are_told() -> None:
    roots = (Root(Kind.FILE, "a", 0),) * (MAX_ROOTS + 4)
    wire = encode(Offer(OfferKind.TREE, TOKEN_BYTES, Totals(20, 0, is_final=True), len(roots), roots))
    decoded = decode(wire)
    assert isinstance(decoded, Offer)
    assert (decoded.roots, len(decoded.shown)) == (MAX_ROOTS + 4, MAX_ROOTS)
    with pytest.raises(DecodeError):
        decode(wire + bytes.fromhex("03 0000000000000000 0001 61"))


def test_what_is_longest_still_fits_one_record() -> None:
    names = (Root(Kind.FILE, "a" * 255, 0),) * MAX_ROOTS
    longest: list[Message] = [
        Offer(OfferKind.TREE, TOKEN_BYTES, Totals(20, 0, is_final=True), MAX_ROOTS, names),
        Have(0, 0, (bytes(CHUNK_DIGEST),) * MAX_DIGESTS, is_last=True),
        Entries((Symlink("a" * 255, 0, "a" * 4095),)),
        Problem(0, "a" * 5000),
    ]
    for message in longest:
        wire = encode(message)
        assert len(wire) <= MAX_MESSAGE
        decode(wire)


@pytest.mark.parametrize("version", [0, 1, 3, 255])
def test_another_version_is_named(version: int) -> None:
    with pytest.raises(VersionError) as caught:
        decode(bytes([1, version]) + bytes.fromhex("00000002 0000000100000001"))
    assert caught.value.version == version


@pytest.mark.parametrize("code", [0, 11, 255])
@pytest.mark.parametrize("start", ["04", "09", "13 00000001", "02 06"])
def test_the_other_side_cannot_declare_success_or_nonsense(code: int, start: str) -> None:
    with pytest.raises(DecodeError, match=r"exit code|ExitCode"):
        decode(bytes.fromhex(start) + bytes([code, 0, 0, 0, 0]))


@given(st.text(max_size=2000))
def test_reasons_are_cut_between_characters(reason: str) -> None:
    message = decode(encode(Abort(ExitCode.STORAGE, reason)))
    assert isinstance(message, Abort)
    assert len(message.reason.encode()) <= MAX_REASON_BYTES
    assert reason.encode("utf-8", "replace").decode().startswith(message.reason)
