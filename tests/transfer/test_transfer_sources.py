"""What may be sent, and how a change in the meantime is seen: on real files."""

from __future__ import annotations

import os
import resource
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from p2p.core.errors import ExitCode
from p2p.core.transfer.messages import PIECE
from p2p.core.transfer.names import safe_name
from p2p.io.files import Source, SourceError, open_sources
from p2p.io.sources import behind


def read_all(source: Source) -> bytes:
    content = bytearray()
    for offset in range(0, source.entry.size, PIECE):
        content += read(source, offset, min(PIECE, source.entry.size - offset))
    return bytes(content)


def read(source: Source, offset: int, length: int = PIECE) -> bytes:
    buffer = bytearray(length)
    source.read_into([memoryview(buffer)], offset)
    return bytes(buffer)


def test_entry_and_content(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    content = os.urandom(2 * PIECE + 5)
    path.write_bytes(content)
    path.chmod(0o4751)
    os.utime(path, ns=(1, 1_234_567_890_123_456_789))
    [source] = open_sources([path])
    assert (source.entry.name, source.entry.size, source.entry.mode) == ("a.bin", len(content), 0o751)
    assert source.entry.mtime_ns == 1_234_567_890_123_456_789
    assert read_all(source) == content


def test_a_link_that_the_person_names_is_followed(tmp_path: Path) -> None:
    (tmp_path / "target").write_bytes(b"abc")
    (tmp_path / "link").symlink_to("target")
    [source] = open_sources([tmp_path / "link"])
    assert (source.entry.name, read_all(source)) == ("link", b"abc")


def test_equal_names_become_distinct(tmp_path: Path) -> None:
    paths = []
    for folder in ("a", "b", "c"):
        (tmp_path / folder).mkdir()
        paths.append(tmp_path / folder / "x.txt")
    paths.insert(1, tmp_path / "x (1).txt")
    for path in paths:
        path.touch()
    names = [source.entry.name for source in open_sources(paths)]
    assert names == ["x.txt", "x (1).txt", "x (2).txt", "x (3).txt"]


def test_names_that_other_systems_cannot_bear(tmp_path: Path) -> None:
    paths = [os.fsencode(tmp_path) + b"/" + name for name in (b"12:30.png", b"back\\slash", b"latin\xe9", b"a\nb")]
    for path in paths:
        Path(os.fsdecode(path)).touch()
    names = [source.entry.name for source in open_sources([os.fsdecode(path) for path in paths])]
    assert names == ["12_30.png", "back_slash", "latin\ufffd", "a_b"]
    assert [safe_name(name) for name in names] == names


def make_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda _: None, "does not exist: check the name"),
        (lambda path: path.mkdir(), "is a folder, not a file: pack it first"),
        (os.mkfifo, "is a named pipe, not a file"),
        (make_socket, "is a socket, not a file"),
        (lambda path: path.symlink_to("/dev/null"), "is a device, not a file"),
        (lambda path: path.symlink_to(path), "cannot be read: Too many levels"),
        (lambda path: path.symlink_to("/proc/self/status"), "does not tell its size"),
    ],
)
def test_what_cannot_be_sent(tmp_path: Path, make: Callable[[Path], None], words: str) -> None:
    path = tmp_path / "thing\x1b"
    make(path)
    with pytest.raises(SourceError) as caught:
        open_sources([path])
    assert words in str(caught.value)
    assert str(tmp_path / "thing\\x1b") in str(caught.value)
    assert str(tmp_path) not in caught.value.public
    assert caught.value.failure.code is ExitCode.STORAGE


def test_an_unreadable_file(public_path: Path, as_nobody: Callable[[str, Path], str]) -> None:
    (public_path / "secret").touch(0o000)
    script = "from p2p.io.files import open_sources; import sys; open_sources([sys.argv[1]])"
    assert "cannot be read by this user: check its permissions" in as_nobody(script, public_path / "secret")


def grow(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"more")


def rewrite(path: Path) -> None:
    with path.open("r+b") as file:
        file.write(b"other")
    os.utime(path, ns=(5, 5))


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
    [source] = open_sources([path])
    for piece in range(read_before):
        read(source, piece * PIECE)
    change(path)

    def read_the_rest() -> None:
        for piece in range(read_before, 3):
            read(source, piece * PIECE)

    with pytest.raises(SourceError, match=words) as caught:
        read_the_rest()
    assert caught.value.failure.code is ExitCode.INTEGRITY
    assert "send it again" in str(caught.value)


def test_a_change_before_its_turn_is_seen_at_the_first_piece(tmp_path: Path) -> None:
    """Not after gigabytes were sent in vain."""
    path = tmp_path / "a"
    path.write_bytes(bytes(3 * PIECE))
    [source] = open_sources([path])
    rewrite(path)
    with pytest.raises(SourceError, match="was changed"):
        read(source, 0)


def test_a_file_that_vanished_or_was_replaced_before_its_turn(tmp_path: Path) -> None:
    gone, replaced = tmp_path / "gone", tmp_path / "replaced"
    gone.write_bytes(b"abc")
    replaced.write_bytes(b"abc")
    sources = open_sources([gone, replaced])
    gone.unlink()
    (tmp_path / "new").write_bytes(b"xyz")
    (tmp_path / "new").rename(replaced)
    with pytest.raises(SourceError, match="does not exist") as caught:
        read_all(sources[0])
    assert caught.value.code is ExitCode.STORAGE
    with pytest.raises(SourceError, match="was changed"):
        read_all(sources[1])


def test_a_file_that_is_unlinked_while_it_is_read_is_still_whole(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"x" * 2 * PIECE)
    [source] = open_sources([path])
    read(source, 0)
    path.unlink()
    assert read(source, PIECE) == b"x" * PIECE


def test_one_read_fills_many_buffers(tmp_path: Path) -> None:
    path = tmp_path / "a"
    content = os.urandom(2 * PIECE + 5)
    path.write_bytes(content)
    [source] = open_sources([path])
    buffers = [bytearray(PIECE), bytearray(PIECE), bytearray(5)]
    source.read_into([memoryview(buffer) for buffer in buffers], 0)
    assert b"".join(buffers) == content


@pytest.mark.parametrize("count", range(9))
def test_what_is_left_behind_a_short_read_or_write(count: int) -> None:
    assert b"".join(behind([b"abc", b"de", b"", b"fgh"], count)) == b"abcdefgh"[count:]


def test_an_empty_file_that_grew(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.touch()
    [source] = open_sources([path])
    assert source.read_whole() == b""
    grow(path)
    with pytest.raises(SourceError, match="grew"):
        source.read_whole()


def test_a_small_file_is_read_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"abc")
    [source] = open_sources([path])
    before = os.listdir("/proc/self/fd")
    assert source.read_whole() == b"abc"
    grow(path)
    with pytest.raises(SourceError, match="grew"):
        source.read_whole()
    path.unlink()
    with pytest.raises(SourceError, match="does not exist"):
        source.read_whole()
    assert os.listdir("/proc/self/fd") == before


def test_thousands_of_files_need_one_descriptor(tmp_path: Path) -> None:
    paths = [tmp_path / str(number) for number in range(1000)]
    for path in paths:
        path.write_bytes(b"abc")
    before = len(os.listdir("/proc/self/fd"))
    sources = open_sources(paths)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (before + 8, hard))
    try:
        assert all(read_all(source) == b"abc" for source in sources)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert len(os.listdir("/proc/self/fd")) == before


def test_nothing_is_read_through_a_pipe_that_replaces_the_file(tmp_path: Path) -> None:
    """Opening a pipe for reading waits for ever; the child would never end."""
    path = tmp_path / "a"
    path.write_bytes(b"abc")
    script = (
        "import os, sys; from p2p.io.files import open_sources\n"
        "[source] = open_sources(sys.argv[1:]); os.unlink(sys.argv[1]); os.mkfifo(sys.argv[1])\n"
        "source.read_into([memoryview(bytearray(3))], 0)"
    )
    result = subprocess.run(
        [sys.executable, "-c", script, path], capture_output=True, text=True, timeout=30, check=False
    )
    assert "is a named pipe" in result.stderr
