"""Both machines with real files on both sides."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from p2p.core.errors import ExitCode
from p2p.core.transfer.events import Aborted, Complete, Finished, Offered, Open, Whole, Write
from p2p.core.transfer.limits import SMALL
from p2p.core.transfer.messages import DATA_HEADER, PIECE
from p2p.core.transfer.receiver import TransferReceiver
from p2p.core.transfer.sender import ReadWhole, TransferSender
from p2p.io.files import Destination, Part, SourceError, StorageError, open_sources


def transfer(
    paths: list[Path], inbox: Path, at_record: Callable[[int], None] = lambda _: None
) -> tuple[Finished | Aborted, Finished | Aborted]:
    """Returns how it ended for the sender and for the receiver; `at_record` may interfere before each piece."""
    sources = open_sources(paths)
    sender, receiver = TransferSender([source.entry for source in sources]), TransferReceiver()
    parts: dict[int, Part] = {}
    ends: dict[str, Finished | Aborted] = {}
    sender.start()
    pieces = 0
    with Destination(inbox) as destination:
        while len(ends) < 2:
            record: bytes | bytearray | None = sender.poll_record()
            read = sender.poll_read() if record is None else None
            if isinstance(read, ReadWhole):
                at_record(pieces)
                pieces += 1
                try:
                    small = [source.read_whole() for source in sources[read.first : read.end]]
                    record = sender.handle_whole(read, small)
                except SourceError as error:
                    sender.handle_source_changed(read.first, error.public, error.code)
            elif read is not None:
                at_record(pieces)
                pieces += 1
                record = bytearray(DATA_HEADER + read.length)
                try:
                    sources[read.file].read_into([memoryview(record)[DATA_HEADER:]], read.offset)
                    sender.handle_read(read, [record])
                except SourceError as error:
                    sender.handle_source_changed(read.file, error.public, error.code)
                    record = None
            if record is not None:
                receiver.handle_record(record)
            while (event := receiver.poll_event()) is not None:
                match event:
                    case Offered(entries):
                        destination.reserve(entry.size for entry in entries)
                        receiver.accept()
                    case Open(file, entry):
                        parts[file] = destination.open(entry)
                    case Write(file, offset, written):
                        parts[file].write(offset, written)
                    case Whole(file, entry, content):
                        try:
                            receiver.handle_stored(file, destination.store([(entry, content)])[0])
                        except StorageError as error:
                            receiver.handle_storage_error(file, error.public)
                    case Complete(file):
                        try:
                            receiver.handle_stored(file, destination.finish([parts[file]])[0])
                        except StorageError as error:
                            receiver.handle_storage_error(file, error.public)
                    case Finished() | Aborted():
                        ends["receiver"] = event
            while (answer := receiver.poll_record()) is not None:
                sender.handle_record(answer)
            while (outcome := sender.poll_event()) is not None:
                if isinstance(outcome, Finished | Aborted):
                    ends["sender"] = outcome
    return ends["sender"], ends["receiver"]


def grow(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"more")


def test_files_of_every_size_arrive(tmp_path: Path) -> None:
    sizes = [0, 1, PIECE - 1, PIECE, PIECE + 1, 10 * PIECE]
    paths = [tmp_path / f"{size}.bin" for size in sizes]
    for path, size in zip(paths, sizes, strict=True):
        path.write_bytes(os.urandom(size))
        path.chmod(0o640)
        os.utime(path, ns=(0, size * 1_000_000_007))
    inbox = tmp_path / "inbox"
    sent, received = transfer(paths, inbox)
    assert isinstance(sent, Finished)
    assert isinstance(received, Finished)
    assert sent.digest == received.digest
    assert received.names == tuple(path.name for path in paths)
    for path in paths:
        twin = inbox / path.name
        assert twin.read_bytes() == path.read_bytes()
        assert (twin.stat().st_mode, twin.stat().st_mtime_ns) == (path.stat().st_mode, path.stat().st_mtime_ns)


@pytest.mark.parametrize(
    ("interfere", "code", "words"),
    [
        (lambda path: os.truncate(path, 5 * PIECE), ExitCode.INTEGRITY, "became shorter while it was being sent"),
        (grow, ExitCode.INTEGRITY, "grew while it was being sent"),
    ],
)
def test_a_change_in_the_middle_ends_both_sides(
    tmp_path: Path, interfere: Callable[[Path], None], code: ExitCode, words: str
) -> None:
    path, inbox = tmp_path / "a.bin", tmp_path / "inbox"
    path.write_bytes(bytes(10 * PIECE))
    sent, received = transfer([path], inbox, lambda piece: interfere(path) if piece == 4 else None)
    assert sent == Aborted(code, f"a.bin {words}", by_peer=False)
    assert received == Aborted(code, f"a.bin {words}", by_peer=True)
    assert not inbox.exists()


def test_a_second_file_that_vanishes_leaves_the_first(tmp_path: Path) -> None:
    first, second, inbox = tmp_path / "first", tmp_path / "second", tmp_path / "inbox"
    first.write_bytes(bytes(SMALL + 1))  # it does not share a record with the second
    second.write_bytes(b"two")
    sent, received = transfer([first, second], inbox, lambda piece: second.unlink() if piece == 1 else None)
    assert sent == Aborted(ExitCode.STORAGE, "second does not exist", by_peer=False)
    assert received == Aborted(ExitCode.STORAGE, "second does not exist", by_peer=True)
    assert [path.name for path in inbox.iterdir()] == ["first"]


def test_the_folder_goes_away_under_the_receiver(tmp_path: Path) -> None:
    path, inbox = tmp_path / "a", tmp_path / "inbox"
    path.write_bytes(b"x" * 2 * PIECE)

    def remove(piece: int) -> None:
        if piece == 1:
            for part in inbox.iterdir():
                part.unlink()
            inbox.rmdir()

    sent, received = transfer([path], inbox, remove)
    assert isinstance(sent, Aborted)
    assert isinstance(received, Aborted)
    assert (sent.exit_code, sent.by_peer) == (ExitCode.STORAGE, True)
    assert sent.reason == "the receiver cannot store a: the folder or the temporary file was removed by someone else"
