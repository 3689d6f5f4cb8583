"""The two ends of a transfer on this machine: files that are read, files that are written."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future
from typing import Protocol

from p2p.core.errors import ExitCode, Failure
from p2p.core.peer.peer import Peer
from p2p.core.transfer.events import Complete, Open, Whole, Write
from p2p.core.transfer.limits import MAX_PIECES
from p2p.core.transfer.messages import DATA_HEADER, PIECE, Entry
from p2p.core.transfer.sender import ReadWhole
from p2p.io.files import Destination, FileError, Part, Source
from p2p.io.worker import Worker

SMALL_BATCH = 64  # small files stored at a time: each needs a descriptor until it is named
READS_A_TURN = 8  # reads, of a piece or of many, before the loop looks at its sockets again


class End(Protocol):
    """What the loop does with files, once a turn."""

    def advance(self, peer: Peer, now: float) -> bool:
        """Returns whether it produced something for the path to carry."""

    def close(self) -> None: ...


class SendingEnd:
    """Reads what the transfer asks for."""

    def __init__(self, sources: Sequence[Source]) -> None:
        self._sources = sources
        self._records = [memoryview(bytearray(DATA_HEADER + PIECE)) for _ in range(MAX_PIECES)]
        self._pieces = [record[DATA_HEADER:] for record in self._records]
        self._open: int | None = None

    def advance(self, peer: Peer, now: float) -> bool:
        for number in range(READS_A_TURN):
            if (read := peer.poll_read(now)) is None:
                return number > 0
            if isinstance(read, ReadWhole):
                if not self._send_small(peer, read, now):
                    return False
                continue
            source = self._sources[read.file]
            count, last = read.pieces, read.last
            records, pieces = self._records[:count], self._pieces[:count]
            if last < PIECE:
                records[-1], pieces[-1] = records[-1][: DATA_HEADER + last], pieces[-1][:last]
            try:
                if self._open != read.file:
                    self._leave()
                    self._open = read.file
                source.read_into(pieces, read.offset)
            except FileError as error:
                peer.fail(error.failure, error.public, now)
                return False
            peer.handle_read(read, records, now)
        return True

    def _send_small(self, peer: Peer, read: ReadWhole, now: float) -> bool:
        try:
            contents = [source.read_whole() for source in self._sources[read.first : read.end]]
        except FileError as error:
            peer.fail(error.failure, error.public, now)
            return False
        peer.handle_whole(read, contents, now)
        return True

    def close(self) -> None:
        self._leave()

    def _leave(self) -> None:
        if self._open is not None:
            self._sources[self._open].close()
            self._open = None


class ReceivingEnd:
    """Writes what arrives; makes whole files durable in another thread, so that the loop goes on answering."""

    def __init__(self, destination: Destination, worker: Worker) -> None:
        self._destination = destination
        self._worker = worker
        self._parts: dict[int, Part] = {}
        self._complete: list[tuple[int, Part]] = []
        self._small: list[Whole] = []
        self._stored: list[tuple[list[int], Future[list[str]]]] = []

    def reserve(self, entries: Sequence[Entry]) -> None:
        """Raises StorageError unless everything fits."""
        self._destination.reserve(entry.size for entry in entries)

    def advance(self, peer: Peer, now: float) -> bool:
        try:
            self._take_actions(peer)
        except FileError as error:
            peer.fail(error.failure, error.public, now)
        self._report_stored(peer, now)
        self._store_whole()
        return False

    def close(self) -> None:
        self._destination.close()

    def _take_actions(self, peer: Peer) -> None:
        while (action := peer.poll_file_action()) is not None:
            match action:
                case Write(file, offset, pieces):
                    self._parts[file].write(offset, pieces)
                case Open(file, entry):
                    self._parts[file] = self._destination.open(entry)
                case Complete(file, _):
                    self._complete.append((file, self._parts.pop(file)))
                case Whole():
                    self._small.append(action)

    def _store_whole(self) -> None:
        """One batch of each kind at a time; what becomes whole meanwhile shares the next one's trip to the disk."""
        if self._worker.pending:
            return
        if self._complete:
            files = [file for file, _ in self._complete]
            parts = [part for _, part in self._complete]
            self._complete.clear()
            self._worker.submit(self._destination.finish, parts, done=lambda f: self._stored.append((files, f)))
        if self._small:
            batch, self._small = self._small[:SMALL_BATCH], self._small[SMALL_BATCH:]
            numbers, small = [each.file for each in batch], [(each.entry, each.content) for each in batch]
            self._worker.submit(self._destination.store, small, done=lambda f: self._stored.append((numbers, f)))

    def _report_stored(self, peer: Peer, now: float) -> None:
        stored, self._stored = self._stored, []
        for files, future in stored:
            try:
                names = future.result()
            except FileError as error:
                peer.fail(error.failure, error.public, now)
                return
            peer.handle_stored(list(zip(files, names, strict=True)), now)


def decide(peer: Peer, end: ReceivingEnd, entries: Sequence[Entry], now: float) -> bool:
    """Refuses at once what cannot be stored. Returns whether the question whether to take it is still open."""
    try:
        end.reserve(entries)
    except FileError as error:
        peer.refuse(error.failure, error.public, now)
        return False
    return True


NOT_ASKED = Failure(
    ExitCode.USAGE,
    "Refused, because there is no terminal to ask on: pass --yes to take whatever the other side sends",
)
SAID_NO = Failure(ExitCode.REFUSED, "Refused, as you said. Nothing was written")
