"""The sending half of a transfer."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum, auto
from typing import assert_never

from blake3 import blake3

from p2p.core.datagram import Buffer
from p2p.core.errors import CallerError, ExitCode, RemoteError
from p2p.core.transfer import messages
from p2p.core.transfer.events import Aborted, Accepted, FileSent, Finished, Progress, Refused, SenderEvent
from p2p.core.transfer.limits import MAX_FILES, MAX_PIECES, MAX_TOTAL, SMALL
from p2p.core.transfer.messages import (
    DATA_HEADER,
    MAX_MESSAGE,
    MAX_NAME_BYTES,
    PIECE,
    WHOLE_FILE_HEADER,
    WHOLE_FILES_HEADER,
    Abort,
    Accept,
    Data,
    Entries,
    Entry,
    FileEnd,
    Finish,
    Keepalive,
    Offer,
    Refuse,
    WholeFile,
    WholeFiles,
)

__all__ = [
    "Aborted",
    "Accepted",
    "FileSent",
    "Finished",
    "Progress",
    "Read",
    "ReadWhole",
    "Refused",
    "SenderEvent",
    "TransferSender",
]


class State(Enum):
    IDLE = auto()
    OFFERING = auto()
    WAITING = auto()
    SENDING = auto()
    FINISHING = auto()
    FINISHED = auto()
    ENDED = auto()


# What the receiver may say in which state. A missing row is the receiver's fault.
# REFUSE is welcome early: the number of files alone may be too much for it.
TRANSITIONS: dict[tuple[State, type[messages.Message]], State] = {
    (State.OFFERING, Refuse): State.ENDED,
    (State.WAITING, Refuse): State.ENDED,
    (State.WAITING, Accept): State.SENDING,
    (State.FINISHING, messages.Finished): State.FINISHED,
}


@dataclass(frozen=True, slots=True)
class ReadWhole:
    """Wanted: the whole content of each of the small files [first, end)."""

    first: int
    end: int


@dataclass(frozen=True, slots=True)
class Read:
    """Wanted: bytes [offset, offset + length) of a file, as pieces of PIECE bytes, the last one of what is left.

    Each is placed `DATA_HEADER` bytes into a record of its own.
    """

    file: int
    offset: int
    length: int

    @property
    def pieces(self) -> int:
        return -(-self.length // PIECE)

    @property
    def last(self) -> int:
        """Bytes of the last piece."""
        return self.length - (self.pieces - 1) * PIECE


class TransferSender:
    """Offers files, waits for the yes, hands them out in order, waits for the verified end.

    Records go out in the order in which they are given: call `poll_record` until it is None, then `poll_read`. For a
    `Read`, read each piece straight behind the room for its header, give the records to `handle_read` and send them
    next; for a `ReadWhole`, send the record that `handle_whole` makes of the contents. Look at `poll_event` before
    `poll_record`.
    """

    def __init__(self, entries: Sequence[Entry]) -> None:
        """Raises CallerError for entries that no receiver would take."""
        self._entries = tuple(entries)
        _check_entries(self._entries)
        self._total = sum(entry.size for entry in self._entries)
        self._state = State.IDLE
        self._events: deque[SenderEvent] = deque()
        self._control: deque[bytes] = deque()
        self._named = 0  # entries sent
        self._file = 0
        self._polled = 0  # bytes of the file that `poll_read` has asked for
        self._handled = 0  # bytes of the file that were handed out
        self._done = 0  # bytes of all files handed out
        self._reads: deque[Read | ReadWhole] = deque()
        self._hash = blake3()
        self._digests = blake3()
        self._shown_digest = b""

    @property
    def progress(self) -> Progress:
        return Progress(self._done, self._total, min(self._file, len(self._entries) - 1))

    @property
    def ended(self) -> bool:
        """Finished, refused or aborted: nothing but a last ABORT will come from `poll_record`."""
        return self._state in (State.FINISHED, State.ENDED)

    def start(self) -> None:
        if self._state is not State.IDLE:
            raise CallerError("start() was called before")
        self._state = State.OFFERING
        self._control.append(messages.encode(Offer(len(self._entries), self._total)))

    def handle_record(self, plaintext: Buffer) -> None:
        """Raises RemoteError if the receiver broke the protocol; the ABORT that tells it so is then queued."""
        if self.ended:
            return  # what was under way when this side ended
        try:
            self._handle_message(messages.decode(plaintext))
        except RemoteError as error:
            self._end(Abort(ExitCode.INTERNAL, f"protocol error: {error}"))
            raise

    def handle_read(self, read: Read, records: Sequence[bytearray | memoryview]) -> bool:
        """`records` hold the pieces of the oldest read that is outstanding, each behind room for its header.

        Returns whether to send them: False after the transfer ended in between. Copies nothing.
        """
        if self.ended:
            return False
        if not self._reads or self._reads[0] != read:
            raise CallerError(f"{read} is not the oldest read that is outstanding")
        if len(records) != read.pieces or sum(map(len, records)) != read.pieces * DATA_HEADER + read.length:
            raise CallerError(f"{len(records)} records of {sum(map(len, records))} bytes for {read}")
        self._reads.popleft()
        update, offset = self._hash.update, read.offset
        for record in records:
            messages.write_data_header(record, read.file, offset)
            update(memoryview(record)[DATA_HEADER:])
            offset += PIECE
        self._handled += read.length
        self._done += read.length
        self._queue_file_end()
        return True

    def handle_whole(self, read: ReadWhole, contents: Sequence[bytes]) -> bytes | None:
        """The record that carries the files of the oldest read that is outstanding; None after the transfer ended."""
        if self.ended:
            return None
        sizes = [entry.size for entry in self._entries[read.first : read.end]]
        if not self._reads or self._reads[0] != read or sizes != [len(content) for content in contents]:
            raise CallerError(f"{read} is not the oldest read that is outstanding, or contents have other lengths")
        self._reads.popleft()
        files = tuple(WholeFile(blake3(content).digest(), content) for content in contents)
        for file in files:
            self._end_file(file.digest)
        self._done += sum(sizes)
        return messages.encode(WholeFiles(read.first, files))

    def handle_source_changed(self, file: int, reason: str, exit_code: ExitCode = ExitCode.INTEGRITY) -> None:
        """The file is not what was offered, or cannot be read any more. `reason` is told to the other side."""
        if not 0 <= file < len(self._entries):
            raise CallerError(f"there is no file {file}")
        self.abort(exit_code, reason)

    def abort(self, exit_code: ExitCode, reason: str) -> None:
        """Ends the transfer and tells the other side why. Does nothing when it has ended already."""
        if exit_code is ExitCode.DONE:
            raise CallerError("an abort is no success")
        if not self.ended:
            self._end(Abort(exit_code, reason))
            self._events.append(Aborted(exit_code, reason, by_peer=False))

    def poll_record(self) -> bytes | None:
        """The next control record; it goes out before anything that `poll_read` asks for afterwards."""
        if self._control:
            record = self._control.popleft()
            if self._state is State.SENDING and self._file == len(self._entries) and not self._control:
                self._state = State.FINISHING  # that was FINISH
            return record
        if self._state is State.OFFERING:
            return self._next_entries()
        return None

    def poll_read(self, room: int = 1) -> Read | ReadWhole | None:
        """The next to read, for at most `room` records. Several may be outstanding when all are of one large file."""
        if self._state is not State.SENDING or self._control or room < 1 or self._file == len(self._entries):
            return None
        if self._entries[self._file].size <= SMALL:
            return None if self._reads else self._next_small()
        length = min(min(room, MAX_PIECES) * PIECE, self._entries[self._file].size - self._polled)
        if not length:
            return None
        read = Read(self._file, self._polled, length)
        self._polled += length
        self._reads.append(read)
        return read

    def poll_event(self) -> SenderEvent | None:
        return self._events.popleft() if self._events else None

    def _next_small(self) -> ReadWhole:
        """As many small files as one record holds."""
        end, size = self._file, WHOLE_FILES_HEADER
        while end < len(self._entries) and (length := self._entries[end].size) <= SMALL:
            size += WHOLE_FILE_HEADER + length
            if size > MAX_MESSAGE:
                break
            end += 1
        read = ReadWhole(self._file, end)
        self._reads.append(read)
        return read

    def _handle_message(self, message: messages.Message) -> None:
        match message:
            case Keepalive():
                return
            case Abort(exit_code, reason):
                self._end(None)
                self._events.append(Aborted(exit_code, reason, by_peer=True))
                return
        state = TRANSITIONS.get((self._state, type(message)))
        if state is None:
            raise RemoteError(f"{type(message).__name__} from the receiver while {self._state.name.lower()}")
        match message:
            case Accept():
                self._state = state
                self._events.append(Accepted())
            case Refuse(exit_code, reason):
                self._end(None)
                self._events.append(Refused(exit_code, reason))
            case messages.Finished(digest):
                self._handle_finished(digest)
            case Offer() | Entries() | Data() | FileEnd() | WholeFiles() | Finish():
                raise CallerError("TRANSITIONS lets the receiver speak as a sender")
            case _:
                assert_never(message)

    def _handle_finished(self, digest: bytes) -> None:
        if digest != self._digests.digest():
            self.abort(ExitCode.INTEGRITY, "the receiver confirms other content than was sent: send it again")
            return
        self._state = State.FINISHED
        self._events.append(Finished(self._shown_digest))

    def _next_entries(self) -> bytes:
        """As many entries as one record holds, built when asked for: thousands of names are not queued."""
        size, first = 1, self._named
        while self._named < len(self._entries):
            encoded = len(messages.encode_entry(self._entries[self._named]))
            if size + encoded > MAX_MESSAGE:
                break
            size += encoded
            self._named += 1
        if self._named == len(self._entries):
            self._state = State.WAITING
        return messages.encode(Entries(self._entries[first : self._named]))

    def _queue_file_end(self) -> None:
        if self._handled == self._entries[self._file].size:
            digest = self._hash.digest()
            self._control.append(messages.encode(FileEnd(self._file, digest)))
            self._end_file(digest)
            self._polled = self._handled = 0
            self._hash = blake3()

    def _end_file(self, digest: bytes) -> None:
        self._digests.update(digest)
        self._shown_digest = digest if len(self._entries) == 1 else self._digests.digest()
        self._events.append(FileSent(self._file, digest))
        self._file += 1
        if self._file == len(self._entries):
            self._control.append(messages.encode(Finish(self._digests.digest())))

    def _end(self, last: Abort | None) -> None:
        """What was queued is void: the other side hears nothing after the ABORT."""
        untold = self._state is State.IDLE
        self._state = State.ENDED
        self._control.clear()
        self._reads.clear()
        if last is not None and not untold:
            self._control.append(messages.encode(last))


def _check_entries(entries: Sequence[Entry]) -> None:
    if not 0 < len(entries) <= MAX_FILES:
        raise CallerError(f"{len(entries)} files: between 1 and {MAX_FILES} go in one transfer")
    for number, entry in enumerate(entries):
        if entry.file != number:
            raise CallerError(f"file {entry.file} stands at place {number}")
        if not 0 < len(entry.name.encode("utf-8")) <= MAX_NAME_BYTES:
            raise CallerError(f"the name of file {number} is empty or too long")
    if sum(entry.size for entry in entries) > MAX_TOTAL:
        raise CallerError(f"more than {MAX_TOTAL} bytes")
