"""The receiving half of a transfer."""

from __future__ import annotations

import dataclasses
from collections import deque
from collections.abc import Sequence
from enum import Enum, auto
from typing import assert_never

from blake3 import blake3

from p2p.core.datagram import Buffer
from p2p.core.errors import CallerError, ExitCode, RemoteError
from p2p.core.text import escape
from p2p.core.transfer import messages
from p2p.core.transfer.events import Aborted, Complete, Finished, Offered, Open, Progress, ReceiverEvent, Whole, Write
from p2p.core.transfer.limits import MAX_FILES, MAX_PIECES, MAX_TOTAL, MAX_UNNAMED, MAX_UNSTORED
from p2p.core.transfer.messages import (
    PIECE,
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
from p2p.core.transfer.names import safe_name

__all__ = [
    "Aborted",
    "Complete",
    "Finished",
    "Offered",
    "Open",
    "Progress",
    "ReceiverEvent",
    "TransferReceiver",
    "Whole",
    "Write",
]


class State(Enum):
    AWAITING_OFFER = auto()
    AWAITING_ENTRIES = auto()
    DECIDING = auto()
    RECEIVING = auto()
    STORING = auto()
    FINISHED = auto()
    ENDED = auto()


# What the sender may say in which state. A missing row is the sender's fault.
# The state after ENTRIES is DECIDING once all files are named.
TRANSITIONS: dict[tuple[State, type[messages.Message]], State] = {
    (State.AWAITING_OFFER, Offer): State.AWAITING_ENTRIES,
    (State.AWAITING_ENTRIES, Entries): State.AWAITING_ENTRIES,
    (State.RECEIVING, Data): State.RECEIVING,
    (State.RECEIVING, FileEnd): State.RECEIVING,
    (State.RECEIVING, WholeFiles): State.RECEIVING,
    (State.RECEIVING, Finish): State.STORING,
}


class TransferReceiver:
    """Takes an offer, asks for the decision, hands out verified files in order, confirms the end.

    A `Write` refers to the buffers of records; those of several records in a row become one. While `ready` is False
    too many files wait for the disk: take no further record until `handle_stored` has made it True.
    """

    def __init__(self) -> None:
        self._state = State.AWAITING_OFFER
        self._events: deque[ReceiverEvent] = deque()
        self._control: deque[bytes] = deque()
        self._files = 0
        self._total = 0
        self._named = 0  # bytes promised by the entries so far
        self._entries: list[Entry] = []
        self._file = 0
        self._offset = 0
        self._done = 0
        self._hash = blake3()
        self._digests = blake3()
        self._shown_digest = b""
        self._final_names: dict[int, str] = {}
        self._unstored: set[int] = set()  # those of the files without a name that came in pieces

    @property
    def progress(self) -> Progress:
        return Progress(self._done, self._total, max(0, min(self._file, len(self._entries) - 1)))

    @property
    def unnamed(self) -> int:
        """Files that were handed out as `Complete` or `Whole` and are not stored yet."""
        return self._file - len(self._final_names)

    @property
    def unstored(self) -> int:
        """Those of them that were `Complete`: each holds a descriptor."""
        return len(self._unstored)

    @property
    def ready(self) -> bool:
        """Whether to hand in further records."""
        return self.unstored < MAX_UNSTORED and self.unnamed < MAX_UNNAMED

    @property
    def ended(self) -> bool:
        """Finished, refused or aborted: nothing but what is queued will come from `poll_record`."""
        return self._state in (State.FINISHED, State.ENDED)

    def handle_record(self, plaintext: Buffer) -> None:
        """Raises RemoteError if the sender broke the protocol; the ABORT that tells it so is then queued."""
        if self.ended:
            return  # what was under way when this side ended
        try:
            self._handle_message(messages.decode(plaintext))
        except RemoteError as error:
            self._end(Abort(ExitCode.INTERNAL, f"protocol error: {error}"))
            raise

    def handle_stored(self, file: int, final_name: str) -> None:
        """The file is durable and bears `final_name`."""
        if self._state is State.ENDED:
            return  # it was stored while the other side gave up
        if not 0 <= file < self._file or file in self._final_names:
            raise CallerError(f"file {file} does not wait to be stored")
        self._final_names[file] = final_name
        self._unstored.discard(file)
        self._finish_when_stored()

    def handle_storage_error(self, file: int, reason: str) -> None:
        """The file could not be written or named. `reason` is told to the other side."""
        if not 0 <= file < max(1, len(self._entries)):
            raise CallerError(f"there is no file {file}")
        self.abort(ExitCode.STORAGE, reason)

    def accept(self) -> None:
        """Says yes. Does nothing when the transfer ended while the question stood."""
        if self.ended:
            return
        self._require_offer()
        self._state = State.RECEIVING
        self._control.append(messages.encode(Accept()))

    def refuse(self, exit_code: ExitCode, reason: str) -> None:
        """Says no, and why. Does nothing when the transfer ended while the question stood."""
        if self.ended:
            return
        self._require_offer()
        self._end(Refuse(exit_code, reason))
        self._events.append(Aborted(exit_code, reason, by_peer=False))

    def abort(self, exit_code: ExitCode, reason: str) -> None:
        """Ends the transfer and tells the other side why. Does nothing when it has ended already."""
        if exit_code is ExitCode.DONE:
            raise CallerError("an abort is no success")
        if not self.ended:
            self._end(Abort(exit_code, reason))
            self._events.append(Aborted(exit_code, reason, by_peer=False))

    def poll_record(self) -> bytes | None:
        return self._control.popleft() if self._control else None

    def poll_event(self) -> ReceiverEvent | None:
        return self._events.popleft() if self._events else None

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
            raise RemoteError(f"{type(message).__name__} from the sender while {self._state.name.lower()}")
        self._state = state
        match message:
            case Data():
                self._handle_data(message)
            case Offer():
                self._handle_offer(message)
            case Entries(entries):
                self._handle_entries(entries)
            case FileEnd():
                self._handle_file_end(message)
            case WholeFiles(first, files):
                self._handle_whole_files(first, files)
            case Finish(digest):
                self._handle_finish(digest)
            case Accept() | Refuse() | messages.Finished():
                raise CallerError("TRANSITIONS lets the sender speak as a receiver")
            case _:
                assert_never(message)

    def _handle_offer(self, offer: Offer) -> None:
        if not 0 < offer.files <= MAX_FILES:
            raise RemoteError(f"offer of {offer.files} files: between 1 and {MAX_FILES} go in one transfer")
        if offer.size > MAX_TOTAL:
            raise RemoteError(f"offer of {offer.size} bytes: no file system holds that")
        self._files, self._total = offer.files, offer.size

    def _handle_entries(self, entries: tuple[Entry, ...]) -> None:
        for entry in entries:
            number = len(self._entries)
            if number == self._files or entry.file != number:
                raise RemoteError(f"file {entry.file} named where file {number} of {self._files} was due")
            name = safe_name(entry.name)
            if "/" in name:
                raise RemoteError(f"{escape(name)} lies in a folder: version 1 carries plain files")
            self._named += entry.size
            if self._named > self._total:
                raise RemoteError("the files are larger than the offer")
            self._entries.append(dataclasses.replace(entry, name=name))
        if len(self._entries) == self._files:
            if self._named != self._total:
                raise RemoteError("the files are smaller than the offer")
            self._state = State.DECIDING
            self._events.append(Offered(tuple(self._entries), self._total))

    def _handle_data(self, data: Data) -> None:
        entry = self._current(data.file)
        if data.offset != self._offset:
            raise RemoteError(f"DATA at offset {data.offset} where {self._offset} was due")
        if len(data.piece) != min(PIECE, entry.size - self._offset):
            raise RemoteError(f"DATA of {len(data.piece)} bytes at offset {data.offset} of {entry.size}")
        if self._offset == 0:
            self._events.append(Open(data.file, entry))
        self._hash.update(data.piece)
        last = self._events[-1] if self._events else None
        if isinstance(last, Write) and len(last.pieces) < MAX_PIECES:  # of this file: between two stands a Complete
            last.pieces.append(data.piece)
        else:
            self._events.append(Write(data.file, data.offset, [data.piece]))
        self._offset += len(data.piece)
        self._done += len(data.piece)

    def _handle_file_end(self, end: FileEnd) -> None:
        entry = self._current(end.file)
        if self._offset != entry.size:
            raise RemoteError(f"end of file {end.file} at offset {self._offset} of {entry.size}")
        digest = self._hash.digest()
        if digest != end.digest:
            self.abort(ExitCode.INTEGRITY, f"{escape(entry.name)} arrived with other content: send it again")
            return
        if entry.size == 0:
            self._events.append(Open(end.file, entry))
        self._events.append(Complete(end.file, digest))
        self._unstored.add(end.file)
        self._end_file(digest)
        self._offset = 0
        self._hash = blake3()

    def _handle_whole_files(self, first: int, files: Sequence[WholeFile]) -> None:
        if self._offset:
            raise RemoteError(f"whole files where offset {self._offset} of file {self._file} was due")
        for file, (digest, content) in enumerate(files, first):
            entry = self._current(file)
            if len(content) != entry.size:
                raise RemoteError(f"whole file of {len(content)} bytes where {entry.size} were due")
            if blake3(content).digest() != digest:
                self.abort(ExitCode.INTEGRITY, f"{escape(entry.name)} arrived with other content: send it again")
                return
            self._events.append(Whole(file, entry, content, digest))
            self._done += entry.size
            self._end_file(digest)

    def _end_file(self, digest: bytes) -> None:
        self._digests.update(digest)
        self._shown_digest = digest if self._files == 1 else self._digests.digest()
        self._file += 1

    def _handle_finish(self, digest: bytes) -> None:
        if self._file != self._files:
            raise RemoteError(f"FINISH after {self._file} of {self._files} files")
        if digest != self._digests.digest():
            self.abort(ExitCode.INTEGRITY, "the files do not match the sender's final digest: send them again")
            return
        self._finish_when_stored()

    def _finish_when_stored(self) -> None:
        if self._state is State.STORING and len(self._final_names) == self._files:
            self._state = State.FINISHED
            self._control.append(messages.encode(messages.Finished(self._digests.digest())))
            names = tuple(self._final_names[file] for file in range(self._files))
            self._events.append(Finished(self._shown_digest, names))

    def _current(self, file: int) -> Entry:
        if file != self._file or file == self._files:
            raise RemoteError(f"file {file} where file {self._file} of {self._files} was due")
        return self._entries[file]

    def _require_offer(self) -> None:
        if self._state is not State.DECIDING:
            raise CallerError(f"nothing to decide while {self._state.name.lower()}")

    def _end(self, last: Abort | Refuse | None) -> None:
        self._state = State.ENDED
        self._control.clear()
        if last is not None:
            self._control.append(messages.encode(last))
