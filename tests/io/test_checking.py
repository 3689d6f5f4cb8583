"""What is here already: whole chunks of regular files, read from the disk, with holes passed over."""

from __future__ import annotations

import os
import random
import selectors
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from blake3 import blake3
from hypothesis import given
from hypothesis import strategies as st

from p2p.core.transfer.limits import MAX_PIECES
from p2p.core.transfer.messages import CHUNK, CHUNK_DIGEST, PIECE
from p2p.io.receiving.checking import READ, Checker, Digests, Stopped, digest_of

PATIENCE = 30.0  # seconds until a hang is called one


@pytest.fixture
def checker() -> Iterator[Checker]:
    checker = Checker()
    yield checker
    checker.close(PATIENCE)


def opened(path: Path) -> Callable[[], int]:
    return lambda: os.open(path, os.O_RDONLY | os.O_NONBLOCK)


def run(checker: Checker, *files: tuple[Callable[[], int | None], int]) -> list[list[bytes]]:
    """The digests of each, once all have been told."""
    told: list[list[bytes]] = []
    for open_file, size in files:
        checker.check(open_file, size, lambda digests: told.append(list(digests)))
    with selectors.DefaultSelector() as selector:
        selector.register(checker, selectors.EVENT_READ)
        while len(told) < len(files):
            assert selector.select(PATIENCE), "the checker did not wake the loop"
            checker.handle_readable()
    return told


def chunks_of(content: bytes) -> list[bytes]:
    starts = range(0, len(content), CHUNK)
    return [blake3(content[start : start + CHUNK]).digest(CHUNK_DIGEST) for start in starts]


def content_of(length: int) -> bytes:
    return random.Random(length).randbytes(length)


@pytest.mark.parametrize("length", [0, 1, PIECE, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK, 3 * CHUNK + 70_000])
@pytest.mark.parametrize("announced", [0, 1, CHUNK, CHUNK + 1, 2 * CHUNK + 5, 3 * CHUNK + 70_000, 9 * CHUNK])
def test_whole_pieces_and_the_last_one_only_of_a_file_of_that_size(
    checker: Checker, tmp_path: Path, length: int, announced: int
) -> None:
    (tmp_path / "file").write_bytes(content := content_of(length))
    told: list[Digests] = []
    checker.check(opened(tmp_path / "file"), announced, told.append)
    end, lacking = length, 0
    if length != announced:
        end = min(length, announced) // PIECE * PIECE
        lacking = (MAX_PIECES - end % CHUNK // PIECE) % MAX_PIECES
    assert run(checker, (opened(tmp_path / "file"), announced)) == [chunks_of(content[:end])]
    assert (list(told[0]), told[0].lacking) == (chunks_of(content[:end]), lacking)
    assert checker.checked == (2 * end, 2 * end)


def test_files_are_told_in_their_order_and_counted(checker: Checker, tmp_path: Path) -> None:
    for number in range(5):
        (tmp_path / str(number)).write_bytes(content_of(number * CHUNK))
    files = [(opened(tmp_path / str(number)), number * CHUNK) for number in (3, 0, 4, 1)]
    told = run(checker, *files, (lambda: None, 10**12), (opened(tmp_path / "missing"), 10**12))
    assert told == [*(chunks_of(content_of(number * CHUNK)) for number in (3, 0, 4, 1)), [], []]
    assert checker.checked == (8 * CHUNK, 8 * CHUNK)


def test_only_regular_files_are_read(checker: Checker, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    others = [tmp_path / "fifo", tmp_path, Path("/dev/zero")]
    assert run(checker, *((opened(path), 2 * CHUNK) for path in others)) == [[], [], []]
    for path in others:
        fd = opened(path)()
        with pytest.raises(OSError, match="not a regular file"):
            digest_of(fd)
        os.close(fd)


def test_the_descriptor_is_closed_whatever_happens(checker: Checker, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(content_of(CHUNK))
    descriptors = []

    def write_only() -> int:
        descriptors.append(os.open(tmp_path / "file", os.O_WRONLY))
        return descriptors[-1]

    def readable() -> int:
        descriptors.append(os.open(tmp_path / "file", os.O_RDONLY))
        return descriptors[-1]

    before = sorted(os.listdir("/proc/self/fd"))
    assert run(checker, (write_only, CHUNK), (readable, CHUNK)) == [[], chunks_of(content_of(CHUNK))]
    assert sorted(os.listdir("/proc/self/fd")) == before
    assert len(descriptors) == 2


def sparse(path: Path, size: int, *islands: tuple[int, bytes]) -> None:
    with path.open("wb") as file:
        file.truncate(size)
        for offset, content in islands:
            file.seek(offset)
            file.write(content)


def read_by_this_process() -> int:
    """Bytes that read calls returned."""
    for line in Path("/proc/self/io").read_text().splitlines():
        if line.startswith("rchar:"):
            return int(line.split()[1])
    raise AssertionError("no rchar")


def test_holes_are_not_read_but_hashed(checker: Checker, tmp_path: Path) -> None:
    size = 1000 * CHUNK + 1234
    island = content_of(5000)
    sparse(tmp_path / "file", size, (3 * CHUNK + 17, island), (7 * CHUNK - 10, island), (size - 5, b"\0\0end"))
    before = read_by_this_process()
    [told] = run(checker, (opened(tmp_path / "file"), size))
    assert read_by_this_process() - before < 10 * CHUNK
    expected = [blake3(bytes(CHUNK)).digest(CHUNK_DIGEST)] * 1000
    with (tmp_path / "file").open("rb") as file:
        for number in (3, 6, 7):
            file.seek(number * CHUNK)
            expected[number] = blake3(file.read(CHUNK)).digest(CHUNK_DIGEST)
    assert told == [*expected, blake3(bytes(1229) + b"\0\0end").digest(CHUNK_DIGEST)]


@pytest.mark.parametrize("size", [0, 1, CHUNK, READ - 1, READ, READ + 1, 2 * READ + 77])
def test_the_digest_of_a_whole_file(tmp_path: Path, size: int) -> None:
    (tmp_path / "file").write_bytes(content := content_of(size))
    with (tmp_path / "file").open("rb") as file:
        assert digest_of(file.fileno()) == blake3(content).digest()


def test_the_digest_of_a_sparse_file_counts_its_holes(tmp_path: Path) -> None:
    sparse(tmp_path / "file", 5 * READ + 99, (READ + 5, b"island"), (3 * READ, content_of(READ)))
    with (tmp_path / "file").open("rb") as file:
        before = read_by_this_process()
        digest = digest_of(file.fileno())
        assert read_by_this_process() - before < 3 * READ
    assert digest == blake3((tmp_path / "file").read_bytes()).digest()


def test_a_file_that_is_cut_off_meanwhile_has_another_digest_and_that_is_all(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(content := content_of(3 * READ))
    with (tmp_path / "file").open("r+b") as file:

        def cut() -> bool:
            file.truncate(READ + 7)
            return False

        assert digest_of(file.fileno(), cut) != blake3(content).digest()


def test_a_digest_that_nobody_waits_for_is_given_up(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(content_of(3 * READ))
    answers = iter([False, True])
    with (tmp_path / "file").open("rb") as file, pytest.raises(Stopped):
        digest_of(file.fileno(), lambda: next(answers))


def test_closing_stops_within_a_chunk_and_tells_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(content_of(4 * CHUNK))
    checker = Checker()
    reached, go_on = threading.Event(), threading.Event()
    told: list[object] = []

    def slow() -> int:
        reached.set()
        go_on.wait(PATIENCE)
        return os.open(tmp_path / "file", os.O_RDONLY)

    checker.check(slow, 4 * CHUNK, told.append)
    checker.check(slow, 4 * CHUNK, told.append)
    assert reached.wait(PATIENCE)
    assert not checker.close()
    go_on.set()
    assert checker.close(PATIENCE)
    assert told == []
    assert checker.checked[0] == 0


@given(st.lists(st.binary(min_size=CHUNK_DIGEST, max_size=CHUNK_DIGEST), max_size=20), st.integers(), st.integers())
def test_digests_are_a_list_of_them(digests: list[bytes], start: int, stop: int) -> None:
    kept = Digests(b"".join(digests))
    assert list(kept) == digests
    assert len(kept) == len(digests)
    assert tuple(kept[start:stop]) == tuple(digests[start:stop])
    assert tuple(kept[:stop]) == tuple(digests[:stop])
    for index in range(-len(digests), len(digests)):
        assert kept[index] == digests[index]
    with pytest.raises(IndexError):
        kept[len(digests)]
