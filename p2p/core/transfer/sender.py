"""The sending half of a transfer."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import replace
from typing import assert_never

from blake3 import blake3

from p2p.core.amount import MIN_RATE
from p2p.core.datagram import Buffer
from p2p.core.errors import CallerError, ExitCode, RemoteError
from p2p.core.transfer import codec, messages
from p2p.core.transfer.entries import Entry
from p2p.core.transfer.events import (
    Aborted,
    Accepted,
    FileSent,
    Finished,
    NotTransferred,
    Progress,
    Read,
    ReadPipe,
    ReadWhole,
    Refused,
    SenderEvent,
    Unreadable,
    Wanted,
    WantEntries,
)
from p2p.core.transfer.hashing import update_with_zeros
from p2p.core.transfer.limits import MAX_HOLE
from p2p.core.transfer.messages import (
    DATA_HEADER,
    PIECE,
    Abort,
    Accept,
    Data,
    FileEnd,
    Finish,
    Have,
    Hole,
    LeftOut,
    Message,
    MessageType,
    Offer,
    Problem,
    ReceiverMessage,
    Refuse,
    Same,
    Totals,
    WholeFile,
    WholeFiles,
)
from p2p.core.transfer.outgoing import Outgoing, OutgoingFiles
from p2p.core.transfer.pieces import Piece, file_of, is_chunk, is_left_out
from p2p.core.transfer.records import Records
from p2p.core.transfer.sent import Sent
from p2p.core.transfer.states import FROM_RECEIVER, SenderState
from p2p.core.transfer.totals import GrowingTotals
from p2p.core.transfer.wishes import Wishes
from p2p.core.transfer.worst import Missing


class TransferSender:
    """Offers, waits for the yes, walks and hands out contents in order, waits for the verified end.

    Records go out in the order in which they are given: call `poll_record` until it is None, then `poll_wanted`. For a
    `Read`, read each piece straight behind the room for its header, give the records to `handle_read` and send them
    next if it says so. One wish at a time stands, besides WantEntries, and stands until it is answered, also when the
    path is another by then: what is of no use any more is passed over. Look at `poll_event` before `poll_record`.
    """

    def __init__(self, offer: Offer) -> None:
        self._offer = offer
        self._totals = GrowingTotals(offer.totals)
        self._state = SenderState.IDLE
        self._events: deque[SenderEvent] = deque()
        self._records: Records[Piece] = Records(waits=True)
        self._files = OutgoingFiles()
        self._wishes = Wishes()
        self._sent = Sent()
        self._missing = Missing()
        self.rate_limit = math.inf
        """Bytes a second that the receiver asked for, on any path."""

    @property
    def progress(self) -> Progress:
        return self._sent.progress(self._totals.now, self._files.path)

    @property
    def ended(self) -> bool:
        """Finished, refused or aborted: nothing but a last TAKEN or ABORT will come from `poll_record`."""
        return self._state in (SenderState.FINISHED, SenderState.ENDED)

    @property
    def oldest_file(self) -> int:
        """The first of the files that may have to be read again."""
        kept = next((item.file for item in self._records.kept if isinstance(item, Piece)), self._files.oldest)
        return min(kept, self._files.oldest)

    @property
    def next_file(self) -> int:
        """The first of the files that were not sent yet. Those before it are read again only for another path."""
        return self._files.oldest

    # commands

    def start(self) -> None:
        if self._state is not SenderState.IDLE:
            raise CallerError("start() was called before")
        self._state = SenderState.WAITING
        self._records.say(replace(self._offer, totals=self._totals.tell()))

    def stop(self) -> None:
        """Ends it without a word: the channel says why."""
        if not self.ended:
            self._end(None)

    def go_on(self) -> None:
        """There is a new path. What was on its way on the last one, in either direction, is lost."""
        if not self.ended:
            self._records.go_on()
            self._wishes.go_on()

    def abort(self, exit_code: ExitCode, reason: str) -> None:
        """Ends the transfer and tells the other side why. Does nothing when it has ended already."""
        if exit_code is ExitCode.DONE:
            raise CallerError("an abort is no success")
        if not self.ended:
            self._end(Abort(exit_code, reason))
            self._events.append(Aborted(exit_code, reason, by_peer=False))

    # input

    def handle_record(self, plaintext: Buffer) -> None:
        """Raises RemoteError if the receiver broke the protocol; the ABORT that tells it so is then queued."""
        if self.ended:
            return  # what was under way when this side ended
        try:
            self._handle_message(codec.decode(plaintext))
        except RemoteError as error:
            self._end(Abort(ExitCode.INTERNAL, f"protocol error: {error}"))
            raise

    def handle_totals(self, totals: Totals) -> None:
        """How much has been counted by now. The other side hears it when it has grown by a sixteenth, or is final."""
        self._totals.update(totals)

    def handle_entries(self, entries: Sequence[Entry], is_last: bool) -> None:
        """The next of the walk."""
        if not self.ended:
            self._files.extend(entries, is_last)

    def handle_read(self, read: Read, records: Sequence[bytearray | memoryview]) -> bool:
        """`records` hold the pieces of `read`, each behind room for its header. Copies nothing.

        Returns whether to send them: False after the transfer ended in between, and when they need not cross.
        """
        if self.ended:
            return False
        is_again = self._wishes.repeats
        if not self._wishes.take(read):
            return False
        if len(records) != read.pieces or sum(map(len, records)) != read.pieces * DATA_HEADER + read.length:
            raise CallerError(f"{len(records)} records of {sum(map(len, records))} bytes for {read}")
        if is_again:
            for number, record in enumerate(records):
                codec.write_data_header(record, read.file, read.offset + number * PIECE)
                self._records.repeated.popleft()
            return True
        file = self._files.current
        if (digest := file.to_compare) is not None and not is_chunk(records, digest):
            file.differs_until = read.offset + read.length  # it is wanted again, and in memory by then
            return False
        update, keep, offset = file.hash.update, self._records.keep, read.offset
        crosses = False
        for record in records:
            codec.write_data_header(record, read.file, offset)
            update(memoryview(record)[DATA_HEADER:])
            if digest is None:
                crosses = keep(Piece(read.file, offset, len(record) - DATA_HEADER))
            offset += PIECE
        if digest is not None:
            self._records.say(Same(read.file, read.offset, read.length))
            file.kept += read.length
            self._sent.kept += read.length
        self._advance(file, read.length)
        return crosses

    def handle_hole(self, read: Read, length: int) -> None:
        """Where `read` begins, `length` bytes, MAX_HOLE at most, have no place on the disk: they are zero."""
        if self.ended or not self._wishes.take(read):
            return
        file = self._files.current
        if not read.may_be_hole or not 0 < length <= min(MAX_HOLE, (file.size or 0) - file.offset):
            raise CallerError(f"a hole of {length} bytes for {read}")
        self._records.say(Hole(file.number, file.offset, length))
        update_with_zeros(file.hash, length)
        self._sent.holes += length
        self._advance(file, length)

    def shorten(self, read: Read, length: int) -> Read:
        """What is wanted instead: a hole begins within `length` bytes, which are whole pieces."""
        return self._wishes.shorten(read, length)

    def handle_whole(self, read: ReadWhole, contents: Sequence[bytes | Unreadable]) -> list[bytes]:
        """What the files of `read` hold, or why they cannot be read. Returns the records to send next."""
        if self.ended or not self._wishes.take(read):
            return []
        whole: list[WholeFile] = []
        records: list[bytes] = []
        for number, content in zip(read.files, contents, strict=True):
            file = self._files.take()
            if isinstance(content, Unreadable):
                if whole:
                    records.append(codec.encode(WholeFiles(tuple(whole))))
                    whole.clear()
                records.append(codec.encode(LeftOut(number, content.exit_code, content.reason)))
                self._miss(file.path, content.reason, content.exit_code)
            elif len(content) != file.size:
                raise CallerError(f"{len(content)} bytes of {file.path} where {file.size} were due")
            else:
                whole.append(WholeFile(number, blake3(content).digest(), content))
                file.offset = len(content)
                self._sent.done += file.offset
                self._note_sent(file, whole[-1].digest)
        if whole:
            records.append(codec.encode(WholeFiles(tuple(whole))))
        return [record for record in records if self._records.keep(record)]

    def handle_pipe(self, read: ReadPipe, data: bytes, is_end: bool) -> list[bytes]:
        """The next bytes; `is_end`: there are no more behind them. Returns the records to send next."""
        if self.ended:
            return []
        if len(data) > read.length or (not data and not is_end):
            raise CallerError(f"a pipe gave {len(data)} bytes for {read}, and has not ended")
        if not self._wishes.take(read):
            return []
        file = self._files.current
        records = []
        for start in range(0, len(data), PIECE):
            piece = data[start : start + PIECE]
            record = codec.encode(Data(file.number, file.offset, piece))
            if self._records.keep(record):
                records.append(record)
            file.hash.update(piece)
            self._advance(file, len(piece))
        if is_end:
            self._finish_file(file)
        return records

    def handle_left_out(self, read: Read | ReadPipe, why: Unreadable) -> None:
        """It cannot be read, or is not what it was."""
        if self.ended:
            return
        is_again = self._wishes.repeats
        if not self._wishes.take(read):
            return
        if is_again:
            self._leave_out_again(read.file, why)
            return
        left = self._files.take()
        self._records.say(LeftOut(left.number, why.exit_code, why.reason))
        self._miss(left.path, why.reason, why.exit_code)

    # output

    def poll_record(self) -> bytes | None:
        """The next control record; it goes out before anything that `poll_wanted` asks for afterwards."""
        if not self._records and not self._records.is_full:
            self._say_next()
        return self._records.poll()

    def poll_wanted(self, room: int = 1) -> Wanted | None:
        """What is to be read next, for at most `room` records."""
        if self.ended:
            return None
        if self._files.wants_entries():
            return WantEntries()
        if self._wishes.standing is not None or room < 1 or self._records.is_held:
            return None
        if self._records.repeated:
            self._wishes.repeat(self._records, room)
        elif self._state is SenderState.SENDING and not self._records and not self._records.is_full:
            self._wishes.go_ahead(self._files, room)
        return self._wishes.standing

    def poll_event(self) -> SenderEvent | None:
        return self._events.popleft() if self._events else None

    # inside: what is read

    def _leave_out_again(self, number: int, why: Unreadable) -> None:
        """What was said of a file on another path, and did not arrive there, cannot be made again."""
        records = self._records
        said = {item[0] for item in records.unsaid if isinstance(item, bytes) and file_of(item) == number}
        if MessageType.FILE_END in said:  # its digest is in that of all files
            self.abort(why.exit_code, why.reason)
            return
        if MessageType.LEFT_OUT in said:
            records.withdraw(lambda item: file_of(item) == number and not is_left_out(item))
            return
        left = self._files.take()
        left_out = codec.encode(LeftOut(number, why.exit_code, why.reason))
        records.withdraw(lambda item: file_of(item) == number, left_out)
        self._miss(left.path, why.reason, why.exit_code)

    def _advance(self, file: Outgoing, length: int) -> None:
        file.offset += length
        self._sent.done += length
        if file.offset == file.size:
            self._finish_file(file)

    def _finish_file(self, file: Outgoing) -> None:
        self._files.take()
        digest = file.hash.digest()
        self._records.say(FileEnd(file.number, digest))
        self._note_sent(file, digest)

    def _note_sent(self, file: Outgoing, digest: bytes) -> None:
        self._sent.note_file(digest)
        self._events.append(FileSent(file.path, file.offset, digest, file.kept))

    def _say_next(self) -> None:
        """Totals that have changed, the next ENTRIES when it is time for them, FINISH when nothing is left to say."""
        if self._state in (SenderState.WAITING, SenderState.SENDING) and self._totals.are_worth_telling:
            self._records.say(self._totals.tell())
        if self._state is not SenderState.SENDING:
            return
        while self._wishes.standing is None and self._files.is_unwanted:  # the rest of it need not cross
            left = self._files.take()
            self._records.say(LeftOut(left.number, ExitCode.STORAGE, "it cannot be stored over there"))
        if (entries := self._files.announce()) is not None:
            self._records.say(entries)
            while self._files.skipped:
                path, skipped = self._files.skipped.popleft()
                self._miss(path, skipped.reason, skipped.exit_code)
        elif self._files.is_done:
            self._state = SenderState.FINISHING
            self._records.say(Finish(self._files.number, self._sent.digests))

    def _miss(self, path: str, reason: str, exit_code: ExitCode, *, by_peer: bool = False) -> None:
        if self._missing.note(exit_code):
            self._events.append(NotTransferred(path, reason, exit_code, by_peer=by_peer))

    # inside: what the receiver says

    def _handle_message(self, message: Message) -> None:
        if isinstance(message, Abort):
            self._end(None)
            self._events.append(Aborted(message.exit_code, message.reason, by_peer=True))
            return
        if self._records.handle(message):
            return
        state = FROM_RECEIVER.get((self._state, type(message)))
        if state is None:
            raise RemoteError(f"{type(message).__name__} from the receiver while {self._state.name.lower()}")
        assert isinstance(message, ReceiverMessage)
        match message:
            case Accept(answers, rate):
                self.rate_limit = float(max(rate, MIN_RATE)) if rate else math.inf
                self._state, self._files.answers = state, answers
                self._events.append(Accepted(answers))
            case Refuse(exit_code, reason):
                self._end(None)
                self._events.append(Refused(exit_code, reason))
            case Have():
                self._files.handle_have(message)
            case Problem(number, reason):
                if number >= self._files.number:
                    raise RemoteError(f"PROBLEM with entry {number}, which was not announced")
                self._files.give_up(number)
                self._miss("", reason, ExitCode.STORAGE, by_peer=True)
            case messages.Finished(digest):
                self._handle_finished(digest)
            case _:
                assert_never(message)

    def _handle_finished(self, digest: bytes) -> None:
        if digest != self._sent.digests:
            self.abort(ExitCode.INTEGRITY, "the receiver confirms other content than was sent: send it again")
            return
        self._state = SenderState.FINISHED
        self._records.tell()
        self._events.append(Finished(self._sent.shown, self._missing.worst, self._missing.count))

    def _end(self, last: Abort | None) -> None:
        """What was queued is void: the other side hears nothing after the ABORT."""
        untold = self._state is SenderState.IDLE
        self._state = SenderState.ENDED
        self._records.clear()
        self._files.clear()
        self._wishes.clear()
        if last is not None and not untold:
            self._records.say(last)
