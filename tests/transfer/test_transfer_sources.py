"""What may be sent, and how a change in the meantime is seen: on real files."""

from __future__ import annotations

import errno
import os
import resource
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nobody import as_nobody

from p2p.core.errors import ExitCode
from p2p.core.transfer.entries import Kind
from p2p.core.transfer.limits import MAX_HOLE
from p2p.core.transfer.messages import PIECE, Root
from p2p.core.transfer.names import safe_name
from p2p.io.sending.sources import Source, SourceError, Text, Trouble, behind, look_up

BLOCK = 4096  # bytes; what file systems give a place on the disk
DATA = st.lists(st.tuples(st.integers(0, 40), st.binary(min_size=1, max_size=3 * BLOCK)), max_size=4)


def source_of(path: Path) -> Source:
    """As the walk finds it."""
    return Source(0, str(path), path.lstat())


def read(source: Source, offset: int, length: int = PIECE) -> bytes:
    buffer = bytearray(length)
    source.read_into([memoryview(buffer)], offset)
    return bytes(buffer)


def read_all(source: Source) -> bytes:
    size = source.size
    return b"".join(read(source, offset, min(PIECE, size - offset)) for offset in range(0, size, PIECE))


def open_files() -> list[str]:
    return os.listdir("/proc/self/fd")


# what the person named


def test_a_file_and_a_folder(tmp_path: Path) -> None:
    (tmp_path / "a.bin").write_bytes(b"abc")
    (tmp_path / "folder").mkdir()
    named = look_up([tmp_path / "a.bin", tmp_path / "folder"])
    assert [each.root for each in named] == [Root(Kind.FILE, "a.bin", 3), Root(Kind.FOLDER, "folder", 0)]
    assert [each.is_folder for each in named] == [False, True]


def test_a_folder_named_by_where_we_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    assert [each.name for each in look_up([".", "../here/"])] == ["here", "here (1)"]


def test_a_link_that_the_person_names_is_followed(tmp_path: Path) -> None:
    (tmp_path / "target").write_bytes(b"abc")
    (tmp_path / "link").symlink_to("target")
    (tmp_path / "folder").mkdir()
    (tmp_path / "other").symlink_to("folder")
    file, folder = look_up([tmp_path / "link", tmp_path / "other"])
    assert (file.name, folder.root) == ("link", Root(Kind.FOLDER, "other", 0))
    assert Source(0, file.path, file.status, follows=True).read_whole() == b"abc"


def test_equal_names_become_distinct(tmp_path: Path) -> None:
    paths = []
    for folder in ("a", "b", "c"):
        (tmp_path / folder).mkdir()
        paths.append(tmp_path / folder / "x.txt")
    paths.insert(1, tmp_path / "x (1).txt")
    for path in paths:
        path.touch()
    assert [each.name for each in look_up(paths)] == ["x.txt", "x (1).txt", "x (2).txt", "x (3).txt"]


def test_names_that_other_systems_cannot_bear(tmp_path: Path) -> None:
    paths = [os.fsencode(tmp_path) + b"/" + name for name in (b"12:30.png", b"back\\slash", b"latin\xe9", b"a\nb")]
    for path in paths:
        Path(os.fsdecode(path)).touch()
    names = [each.name for each in look_up([os.fsdecode(path) for path in paths])]
    assert names == ["12_30.png", "back_slash", "latin\ufffd", "a_b"]
    assert [safe_name(name) for name in names] == names


def make_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda _: None, "does not exist: check the name"),
        (os.mkfifo, "is a named pipe, not a file or folder"),
        (make_socket, "is a socket, not a file or folder"),
        (lambda path: path.symlink_to("/dev/null"), "is a device, not a file or folder"),
        (lambda path: path.symlink_to(path), "cannot be read: Too many levels"),
        (lambda path: path.symlink_to("/proc/self/status"), "does not tell its size"),
    ],
)
def test_what_cannot_be_sent(tmp_path: Path, make: Callable[[Path], None], words: str) -> None:
    path = tmp_path / "thing\x1b"
    make(path)
    before = open_files()
    with pytest.raises(SourceError) as caught:
        look_up([path])
    assert words in str(caught.value)
    assert str(tmp_path / "thing\\x1b") in str(caught.value)
    assert str(tmp_path) not in caught.value.public
    assert caught.value.failure.code is ExitCode.STORAGE
    assert open_files() == before


def test_a_name_with_a_nul() -> None:
    with pytest.raises(SourceError, match="is no file name"):
        look_up(["a\0b"])


@pytest.mark.parametrize("make", [Path.touch, Path.mkdir])
def test_what_this_user_may_not_read(public_path: Path, make: Callable[[Path], None]) -> None:
    make(public_path / "secret")
    (public_path / "secret").chmod(0)
    _, err = as_nobody("from p2p.io.sending.sources import look_up", "look_up(sys.argv[1:])", public_path / "secret")
    assert "cannot be read by this user: check its permissions" in err


# content, and what changes


def grow(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"more")


def rewrite(path: Path) -> None:
    with path.open("r+b") as file:
        file.write(b"other")
    os.utime(path, ns=(5, 5))


def replace(path: Path) -> None:
    """By a file that looks the same, as a stranger who may write in the folder would."""
    status = path.stat()
    (path.parent / "new").write_bytes(b"x" * status.st_size)
    os.utime(path.parent / "new", ns=(status.st_atime_ns, status.st_mtime_ns))
    (path.parent / "new").rename(path)


@pytest.mark.parametrize("read_before", [0, 1, 2])
@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda path: os.truncate(path, 2 * PIECE + 1), "became shorter"),
        (lambda path: os.truncate(path, 0), "became shorter"),
        (grow, "grew"),
        (rewrite, "was changed"),
    ],
)
def test_a_change_is_seen(tmp_path: Path, change: Callable[[Path], None], words: str, read_before: int) -> None:
    path = tmp_path / "a"
    path.write_bytes(bytes(3 * PIECE))
    source = source_of(path)
    before = open_files()
    for piece in range(read_before):
        read(source, piece * PIECE)
    change(path)

    def read_the_rest() -> None:
        for piece in range(read_before, 3):
            read(source, piece * PIECE)

    with pytest.raises(SourceError, match=words) as caught:
        read_the_rest()
    assert caught.value.unreadable.exit_code is ExitCode.INTEGRITY
    assert caught.value.unreadable.reason == f"{words} while it was being sent: send it again when nothing writes to it"
    assert open_files() == before


def test_a_change_before_its_turn_is_seen_at_the_first_piece(tmp_path: Path) -> None:
    """Not after gigabytes were sent in vain."""
    path = tmp_path / "a"
    path.write_bytes(bytes(3 * PIECE))
    source = source_of(path)
    rewrite(path)
    with pytest.raises(SourceError, match="was changed"):
        read(source, 0)


def in_place_of(make: Callable[[Path], object]) -> Callable[[Path], object]:
    def change(path: Path) -> None:
        path.unlink()
        make(path)

    return change


def make_link(path: Path) -> None:
    path.rename(path.parent / "moved")
    path.symlink_to("moved")


@pytest.mark.parametrize(
    ("change", "words", "code"),
    [
        (Path.unlink, "was removed before it was sent", ExitCode.STORAGE),
        (replace, "was replaced", ExitCode.INTEGRITY),
        (make_link, "became a link", ExitCode.INTEGRITY),
        (in_place_of(os.mkfifo), "became a named pipe", ExitCode.INTEGRITY),
        (in_place_of(make_socket), "became a socket", ExitCode.INTEGRITY),
        (in_place_of(Path.mkdir), "became a folder", ExitCode.INTEGRITY),
    ],
)
@pytest.mark.parametrize("whole", [False, True])
def test_what_is_no_more_what_it_was(
    tmp_path: Path, change: Callable[[Path], object], words: str, code: ExitCode, whole: bool
) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"abc")
    source = source_of(path)
    change(path)
    with pytest.raises(SourceError, match=words) as caught:
        source.read_whole() if whole else read(source, 0, 3)
    assert caught.value.unreadable.exit_code is code
    assert str(tmp_path) not in caught.value.unreadable.reason


def test_a_file_that_becomes_a_link_between_two_looks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """To itself under another name, so that nothing but O_NOFOLLOW sees it."""
    path = tmp_path / "a"
    path.write_bytes(b"abc")
    source = source_of(path)
    open_ = os.open

    def change_and_open(opened: str, flags: int, *, dir_fd: int | None = None) -> int:
        make_link(path)
        return open_(opened, flags, dir_fd=dir_fd)

    monkeypatch.setattr(os, "open", change_and_open)
    with pytest.raises(SourceError, match="became a link"):
        source.read_whole()


def test_nothing_is_read_through_a_pipe_that_replaces_the_file(tmp_path: Path) -> None:
    """Opening a pipe for reading waits for ever; the child would never end."""
    path = tmp_path / "a"
    path.write_bytes(b"abc")
    script = (
        "import os, sys; from p2p.io.sending.sources import Source\n"
        "source = Source(0, sys.argv[1], os.lstat(sys.argv[1])); os.unlink(sys.argv[1]); os.mkfifo(sys.argv[1])\n"
        "source.read_into([memoryview(bytearray(3))], 0)"
    )
    result = subprocess.run(
        [sys.executable, "-c", script, path], capture_output=True, text=True, timeout=30, check=False
    )
    assert "became a named pipe" in result.stderr


def test_a_file_that_is_unlinked_while_it_is_read_is_still_whole(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"x" * 2 * PIECE)
    source = source_of(path)
    read(source, 0)
    path.unlink()
    assert read(source, PIECE) == b"x" * PIECE


def test_a_file_is_read_again_after_its_end(tmp_path: Path) -> None:
    """As a path that was lost asks for it."""
    path = tmp_path / "a"
    content = os.urandom(2 * PIECE)
    path.write_bytes(content)
    source = source_of(path)
    before = open_files()
    assert read_all(source) == content
    assert open_files() == before
    assert read(source, PIECE) == content[PIECE:]
    assert read(source, 0) == content[:PIECE]
    source.close()
    rewrite(path)
    with pytest.raises(SourceError, match="was changed"):
        read(source, 0)
    assert open_files() == before


def test_one_read_fills_many_buffers(tmp_path: Path) -> None:
    path = tmp_path / "a"
    content = os.urandom(2 * PIECE + 5)
    path.write_bytes(content)
    buffers = [bytearray(PIECE), bytearray(PIECE), bytearray(5)]
    source_of(path).read_into([memoryview(buffer) for buffer in buffers], 0)
    assert b"".join(buffers) == content


@pytest.mark.parametrize("count", range(9))
def test_what_is_left_behind_a_short_read_or_write(count: int) -> None:
    assert b"".join(behind([b"abc", b"de", b"", b"fgh"], count)) == b"abcdefgh"[count:]


def test_an_empty_file_that_grew(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.touch()
    source = source_of(path)
    assert source.read_whole() == b""
    grow(path)
    with pytest.raises(SourceError, match="grew"):
        source.read_whole()


def test_a_file_that_does_not_tell_its_size() -> None:
    source = source_of(Path("/proc/self/status"))
    with pytest.raises(SourceError, match="does not tell its size") as caught:
        source.read_whole()
    assert caught.value.unreadable.exit_code is ExitCode.STORAGE


def test_a_small_file_is_read_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"abc")
    source = source_of(path)
    before = open_files()
    assert source.read_whole() == b"abc"
    grow(path)
    with pytest.raises(SourceError, match="grew"):
        source.read_whole()
    path.unlink()
    with pytest.raises(SourceError, match="was removed before it was sent"):
        source.read_whole()
    assert open_files() == before


def test_thousands_of_files_need_one_descriptor(tmp_path: Path) -> None:
    paths = [tmp_path / str(number) for number in range(1000)]
    for path in paths:
        path.write_bytes(b"abc")
    before = len(open_files())
    sources = [Source(0, named.path, named.status) for named in look_up(paths)]
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (before + 8, hard))
    try:
        assert all(read_all(source) == b"abc" for source in sources)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert len(open_files()) == before


def test_what_the_transfer_is_told_names_no_folder(tmp_path: Path) -> None:
    trouble = Trouble.of(OSError(errno.EIO, "Input/output error", str(tmp_path)))
    assert str(trouble) == "cannot be read: Input/output error: check the disk"


# holes


def write_sparse(path: Path, size: int, *data: tuple[int, bytes]) -> bytes:
    """Returns its content."""
    content = bytearray(size)
    with path.open("wb") as file:
        for offset, some in data:
            file.seek(offset)
            file.write(some)
            content[offset : offset + len(some)] = some
        file.truncate(size)
    return bytes(content)


def send_sparse(source: Source, room: int = PIECE) -> tuple[bytes, int]:
    """As the transfer does it: the content, and how much of it was read."""
    content, was_read = bytearray(), 0
    while len(content) < source.size:
        if hole := source.hole_at(len(content)):
            content += bytes(hole)
        else:
            length = min(room, source.size - len(content))
            content += read(source, len(content), length)
            was_read += length
    return bytes(content), was_read


def test_what_has_no_place_on_the_disk_is_not_read(tmp_path: Path) -> None:
    size = 3 * MAX_HOLE + 5
    content = write_sparse(tmp_path / "a", size, (2 * MAX_HOLE, b"in the middle"))
    source = source_of(tmp_path / "a")
    before = open_files()
    assert source.hole_at(0) == MAX_HOLE
    assert source.hole_at(2 * MAX_HOLE) == 0
    assert send_sparse(source) == (content, PIECE)
    assert open_files() == before  # closed after the last byte, that no read has touched


def test_a_file_that_is_all_hole(tmp_path: Path) -> None:
    write_sparse(tmp_path / "a", 5 * BLOCK + 1)
    source = source_of(tmp_path / "a")
    before = open_files()
    assert source.hole_at(0) == 5 * BLOCK + 1
    assert source.hole_at(BLOCK) == 4 * BLOCK + 1
    assert open_files() == before


def test_a_hole_of_a_file_that_changed(tmp_path: Path) -> None:
    write_sparse(tmp_path / "a", 5 * BLOCK)
    source = source_of(tmp_path / "a")
    os.truncate(tmp_path / "a", BLOCK)
    before = open_files()
    with pytest.raises(SourceError, match="became shorter"):
        source.hole_at(0)
    assert open_files() == before


def test_zeros_that_were_written_are_no_hole(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(bytes(5 * BLOCK))
    source = source_of(tmp_path / "a")
    assert source.hole_at(0) == 0
    assert not any(read_all(source))


@given(data=DATA, more=st.integers(0, 9))
def test_any_sparse_file(tmp_path_factory: pytest.TempPathFactory, data: list[tuple[int, bytes]], more: int) -> None:
    path = tmp_path_factory.getbasetemp() / "sparse"
    size = max((block * BLOCK + len(some) for block, some in data), default=0) + more * BLOCK // 2
    content = write_sparse(path, size, *((block * BLOCK, some) for block, some in data))
    assert send_sparse(source_of(path), BLOCK)[0] == content


def test_a_text() -> None:
    text = Text(3, b"abcdefgh")
    buffers = [bytearray(3), bytearray(2)]
    text.read_into([memoryview(buffer) for buffer in buffers], 2)
    assert [bytes(buffer) for buffer in buffers] == [b"cde", b"fg"]
    assert (text.number, text.read_whole(), text.hole_at(0)) == (3, b"abcdefgh", 0)


def test_an_empty_file_has_not_changed_when_only_its_time_has(tmp_path: Path) -> None:
    """Files in /proc, which say that they are empty, have the time at which one looks."""
    path = tmp_path / "a"
    path.touch()
    source = Source(0, str(path), path.stat())
    os.utime(path, ns=(5, 5))
    assert source.read_whole() == b""
    sizeless = Path("/proc/self/status")
    status = sizeless.stat()
    earlier = os.stat_result([*status[:8], 5, 5], {"st_mtime_ns": 5, "st_blocks": 0})
    with pytest.raises(SourceError, match="does not tell its size"):
        Source(0, str(sizeless), earlier).read_whole()
