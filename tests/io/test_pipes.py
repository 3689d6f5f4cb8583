"""Reading pipes and commands for real: nothing ahead of a wish, silence, and ends of every kind."""

from __future__ import annotations

import array
import contextlib
import fcntl
import os
import select
import termios
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from blake3 import blake3

from p2p.core.errors import CallerError, ExitCode
from p2p.core.transfer.messages import CHUNK
from p2p.io.sending.pipes import CommandReader, PipeError, PipeReader, how_it_ended

GUARD = 20.0  # seconds


def outcome(reader: PipeReader):
    while (data := reader.poll()) is None:
        assert select.select([reader], [], [], GUARD)[0], "nothing came"
        reader.handle_readable()
    return data


def read(reader: PipeReader, length: int = CHUNK):
    reader.want(length)
    return outcome(reader)


def read_all(reader: PipeReader) -> bytes:
    parts = []
    while True:
        data, is_end = read(reader)
        parts.append(data)
        if is_end:
            return b"".join(parts)


def waiting(fd: int) -> int:
    """Bytes in the pipe."""
    count = array.array("i", [0])
    fcntl.ioctl(fd, termios.FIONREAD, count)
    return count[0]


@pytest.fixture
def ends() -> Iterator[tuple[int, int]]:
    """What is read from, and what is written to."""
    reader, writer = os.pipe()
    yield reader, writer
    for fd in (reader, writer):
        with contextlib.suppress(OSError):
            os.close(fd)


@pytest.fixture
def reader(ends) -> Iterator[PipeReader]:
    made = PipeReader(ends[0])
    yield made
    made.close()


def test_fifty_megabytes_arrive_as_they_were_written(reader, ends):
    block = os.urandom(1_000_003)
    expected = blake3(block * 50).digest()

    def produce() -> None:
        with os.fdopen(ends[1], "wb") as file:
            for _ in range(50):
                file.write(block)

    producer = threading.Thread(target=produce)
    producer.start()
    hashed = blake3()
    while True:
        data, is_end = read(reader)
        assert len(data) <= CHUNK
        hashed.update(data)
        if is_end:
            break
    producer.join()
    assert hashed.digest() == expected


def test_an_empty_pipe_is_a_good_end(reader, ends):
    os.close(ends[1])
    assert read(reader) == (b"", True)
    with pytest.raises(CallerError):
        reader.want(1)


def test_nothing_is_read_ahead_of_a_wish(reader, ends):
    os.write(ends[1], bytes(5000))
    assert waiting(ends[0]) == 5000
    assert read(reader, 1000) == (bytes(1000), False)
    assert waiting(ends[0]) == 4000
    with pytest.raises(CallerError):
        reader.want(0)


def test_one_wish_at_a_time(reader, ends):
    reader.want(10)
    with pytest.raises(CallerError):
        reader.want(10)
    os.write(ends[1], b"x")
    assert outcome(reader) == (b"x", False)


def test_a_silent_producer_holds_nobody_up(reader, ends):
    reader.want(10)
    assert reader.poll() is None
    assert select.select([reader], [], [], 0)[0] == []
    os.write(ends[1], b"at last")
    assert outcome(reader) == (b"at last", False)


def test_closing_waits_for_no_producer(ends):
    reader = PipeReader(ends[0])
    reader.want(10)
    reader.close()  # a wait would last for ever: the other end stays open


def test_a_pipe_that_somebody_made_non_blocking_is_waited_for(reader, ends):
    os.set_blocking(ends[0], False)
    reader.want(10)
    assert select.select([reader], [], [], 0.1)[0] == []
    os.write(ends[1], b"x")
    assert outcome(reader) == (b"x", False)


def test_a_file_in_the_place_of_a_pipe(tmp_path: Path):
    path = tmp_path / "file"
    path.write_bytes(content := os.urandom(3_000_000))
    with path.open("rb") as file:
        reader = PipeReader(file.fileno())
        assert read_all(reader) == content
        reader.close()


def test_a_folder_cannot_be_read(tmp_path: Path):
    fd = os.open(tmp_path, os.O_RDONLY)
    with pytest.raises(PipeError, match=r"^Standard input cannot be read: Is a directory$") as caught:
        PipeReader(fd)
    os.close(fd)
    assert caught.value.failure.code is ExitCode.STORAGE


def test_an_error_in_the_middle_is_told_once_and_names_no_path_to_the_other_side(ends):
    reader = PipeReader(ends[1], "The tape")  # which is for writing
    reader.want(10)
    with pytest.raises(PipeError, match=r"^The tape cannot be read: Bad file descriptor$") as caught:
        outcome(reader)
    assert caught.value.public == "cannot be read: Bad file descriptor"
    assert reader.poll() is None
    with pytest.raises(CallerError):
        reader.want(10)
    reader.close()


# commands


@pytest.fixture
def run() -> Iterator:
    made = []

    def run(command: str) -> CommandReader:
        made.append(CommandReader(command))
        return made[-1]

    yield run
    for reader in made:
        reader.close()


def test_what_a_command_writes(run):
    assert read_all(run("printf hello; printf ' world'")) == b"hello world"


def test_much_of_a_command(run):
    assert read_all(run("head -c 20000000 /dev/zero")) == bytes(20_000_000)


def test_a_command_that_writes_nothing(run):
    assert read(run("true")) == (b"", True)


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("printf half; exit 3", "ended with exit code 3"),
        ("printf half; kill -KILL $$", r"was ended by signal 9 \(SIGKILL\)"),
        ("printf half; sh -c 'kill -TERM $$'; exit $?", r"ended with exit code 143 \(SIGTERM\)"),
        ("printf half; no-such-command-at-all 2>/dev/null", "ended with exit code 127"),
    ],
)
def test_a_command_that_fails_is_no_good_end(run, command, words):
    reader = run(command)
    data, is_end = read(reader)
    assert (data, is_end) == (b"half", False)
    with pytest.raises(PipeError, match=words) as caught:
        read(reader)
    assert caught.value.failure.code is ExitCode.INTEGRITY
    assert "printf" not in caught.value.public  # what else stands in a command is nobody's business
    assert caught.value.public.startswith("the command that makes it ")


def test_a_command_begins_with_the_first_wish(run, tmp_path: Path):
    marker = tmp_path / "ran"
    reader = run(f"touch {marker}; echo ready")
    reader.close()
    assert not marker.exists()
    reader = run(f"touch {marker}; echo ready")
    assert read(reader) == (b"ready\n", False)
    assert marker.exists()


@pytest.mark.parametrize("command", ["echo $$; exec sleep 1000", "trap '' TERM; echo $$; exec sleep 1000"])
def test_closing_ends_the_command(run, command):
    reader = run(command)
    process = int(read(reader).data)
    reader.want(10)
    reader.close()
    with pytest.raises(ProcessLookupError):  # it is gone, and reaped
        os.kill(process, 0)


def test_a_command_ends_though_another_one_runs(run):
    """The writing end of its pipe is in no other program."""
    first, second = run("echo one; exec sleep 1000"), run("echo two")
    second.want(10)
    assert read(first) == (b"one\n", False)
    assert outcome(second) == (b"two\n", False)
    assert read(second) == (b"", True)


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (1, "ended with exit code 1"),
        (-9, "was ended by signal 9 (SIGKILL)"),
        (137, "ended with exit code 137 (SIGKILL)"),
        (255, "ended with exit code 255"),
    ],
)
def test_how_it_ended(code, words):
    assert how_it_ended(code) == words
