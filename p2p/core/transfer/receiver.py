"""The receiving half of a transfer."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import replace
from typing import assert_never

from p2p.core.datagram import Buffer
from p2p.core.errors import CallerError, ExitCode, RemoteError
from p2p.core.text import escape
from p2p.core.transfer import codec, messages
from p2p.core.transfer.events import (
    Aborted,
    FileAction,
    FileStored,
    Finished,
    NotTransferred,
    Offered,
    OtherStored,
    Progress,
    ReceiverEvent,
)
from p2p.core.transfer.incoming import ContentError, Handed, IncomingFiles
from p2p.core.transfer.limits import (
    MAX_ANNOUNCED,
    MAX_DEPTH,
    MAX_ENTRIES,
    MAX_QUEUED,
    MAX_UNNAMED,
    MAX_UNSTORED,
)
from p2p.core.transfer.messages import (
    MAX_DIGESTS,
    Abort,
    Accept,
    Data,
    Entries,
    FileEnd,
    Finish,
    Have,
    Hole,
    LeftOut,
    Message,
    Offer,
    OfferKind,
    Problem,
    Refuse,
    Same,
    SenderMessage,
    Taken,
    Totals,
    WholeFiles,
)
from p2p.core.transfer.names import safe_name
from p2p.core.transfer.records import Records
from p2p.core.transfer.states import FROM_SENDER, ReceiverState
from p2p.core.transfer.totals import Bounds
from p2p.core.transfer.worst import Missing

__all__ = ["TransferReceiver"]


class TransferReceiver:
    """Takes an offer, asks for the decision, hands out verified files in order, confirms the end.

    `poll_action` says what is to be done on the disk, in order. A `Write` refers to the buffers of records; those of
    several records in a row become one. While `ready` is False too much waits for the disk: take no further record
    until `handle_stored` has made it True.
    """

    def __init__(self) -> None:
        self._state = ReceiverState.AWAITING_OFFER
        self._events: deque[ReceiverEvent] = deque()
        self._records: Records[bytes] = Records(waits=False)
        self._files = IncomingFiles()
        self._bounds = Bounds()
        self._unstored: dict[int, Handed] = {}
        self._contents = self._descriptors = 0  # of those unstored
        self._missing = Missing()
        self.rate_limit = math.inf
        """Bytes a second that the sender is asked not to exceed. To be set before `accept`."""
        self.is_behind = False
        """Set by whoever takes the actions: no further records, too many bytes of theirs wait to be written."""

    @property
    def progress(self) -> Progress:
        files, totals = self._files, self._bounds.totals
        done, things = (files.done, files.kept, files.files), max(files.number, totals.files + totals.others)
        total = (totals.size, totals.files, totals.is_final)
        return Progress(*done, *total, files.path, files.holes, totals.holes, things)

    @property
    def answers(self) -> bool:
        """Whether each Announced is to be answered by `handle_have`."""
        return self._files.answers

    @property
    def takes_answers(self) -> bool:
        """Whether to call `handle_have`: fewer answers wait for the way back than are borne."""
        return self._records.queued < MAX_QUEUED

    @property
    def unnamed(self) -> int:
        """What was handed out to the disk and is not stored yet."""
        return len(self._unstored)

    @property
    def unstored(self) -> int:
        """Those of them that were `Complete`: each holds a descriptor."""
        return self._descriptors

    @property
    def ready(self) -> bool:
        """Whether to hand in further records.

        Folders and hard links may wait for contents that come in these, so they count only where they are more than
        can be ahead of content.
        """
        return self._records.awaits_continue or (
            not self.is_behind
            and self._descriptors < MAX_UNSTORED
            and self._contents < MAX_UNNAMED
            and len(self._unstored) < MAX_UNNAMED + MAX_ANNOUNCED + MAX_DEPTH
            and self._records.queued < MAX_QUEUED
        )

    @property
    def ended(self) -> bool:
        """Finished, refused or aborted: nothing but what is queued will come from `poll_record`."""
        return self._state in (ReceiverState.FINISHED, ReceiverState.ENDED)

    @property
    def is_finished(self) -> bool:
        """Everything that can arrive has, and the sender is told so."""
        return self._state is ReceiverState.FINISHED

    @property
    def missed(self) -> int:
        """How many things could not be sent or stored."""
        return self._missing.count

    @property
    def is_confirmed(self) -> bool:
        """Whether the sender has heard that everything arrived."""
        return self.is_finished and self._records.is_confirmed

    # commands

    def accept(self, *, answers: bool = False) -> None:
        """Says yes. Does nothing when the transfer ended while the question stood.

        `answers`: something of these files is here, and `handle_have` will say what.
        """
        if not self.ended:
            self._require_offer()
            self._state, self._files.answers = ReceiverState.RECEIVING, answers
            self._records.say(Accept(answers, 0 if self.rate_limit == math.inf else int(self.rate_limit)))

    def refuse(self, exit_code: ExitCode, reason: str) -> None:
        """Says no, and why. Does nothing when the transfer ended while the question stood."""
        if not self.ended:
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

    def stop(self) -> None:
        """Ends it without a word: the channel says why."""
        if not self.ended:
            self._end(None)

    def go_on(self) -> None:
        """There is a new path. What was on its way on the last one, in either direction, is lost."""
        if self._state is not ReceiverState.ENDED:
            self._records.go_on()

    # input

    def handle_record(self, plaintext: Buffer) -> None:
        """Raises RemoteError if the sender broke the protocol; the ABORT that tells it so is then queued."""
        if self._state is ReceiverState.ENDED:
            return  # what was under way when this side ended
        try:
            if self._state is ReceiverState.FINISHED:
                self._handle_confirmation(codec.decode(plaintext))
                return
            self._handle_message(codec.decode(plaintext))
        except ContentError as error:
            self.abort(ExitCode.INTEGRITY, f"{escape(str(error))} arrived with other content: send it again")
        except RemoteError as error:
            self._end(Abort(ExitCode.INTERNAL, f"protocol error: {error}"))
            raise

    def handle_have(self, number: int, digests: Sequence[bytes], lacking: int = 0) -> None:
        """The chunks of an announced file that are here, from its first on; in the order of the files.

        `lacking`: pieces by which the last of these is shorter, because no more of it is here.
        """
        if self.ended:
            return
        told, lacking = self._files.answer(number, digests, lacking)
        for first in range(0, max(1, len(told)), MAX_DIGESTS):
            part, is_last = tuple(told[first : first + MAX_DIGESTS]), first + MAX_DIGESTS >= len(told)
            self._records.say(Have(number, first, part, is_last, lacking if is_last else 0))

    def handle_stored(self, number: int, final_name: str) -> None:
        """It is on the disk, durable, and bears `final_name` in its folder."""
        if self._state is ReceiverState.ENDED:
            return  # it was stored while the other side gave up
        stored = self._forget(number)
        if stored.digest is not None:
            self._events.append(FileStored(stored.path, stored.size, stored.digest, final_name, stored.kept))
        elif final_name != stored.path.rpartition("/")[2]:
            self._events.append(OtherStored(stored.path, final_name))
        self._finish_when_stored()

    def handle_problem(self, number: int, reason: str, exit_code: ExitCode = ExitCode.STORAGE) -> None:
        """That one cannot be made, written or named; the rest goes on. `reason` names it, and is told to the sender.

        A file that is due an answer gets it first.
        """
        if self.ended:
            return
        if not self._files.lose(number):
            if number not in self._unstored and 0 <= number < self._files.number:
                return  # it was left out over there before we knew
            self._forget(number)
        self._miss("", reason, exit_code)
        self._records.say(Problem(number, reason))
        self._finish_when_stored()

    # output

    def poll_record(self) -> bytes | None:
        return self._records.poll()

    def poll_action(self) -> FileAction | None:
        return self._files.actions.popleft() if self._files.actions else None

    def poll_event(self) -> ReceiverEvent | None:
        return self._events.popleft() if self._events else None

    # inside

    def _handle_message(self, message: Message) -> None:
        if isinstance(message, Abort):
            self._end(None)
            self._events.append(Aborted(message.exit_code, message.reason, by_peer=True))
            return
        if self._records.handle(message):
            return
        state = FROM_SENDER.get((self._state, type(message)))
        if state is None:
            raise RemoteError(f"{type(message).__name__} from the sender while {self._state.name.lower()}")
        self._state = state
        files = self._files
        assert isinstance(message, SenderMessage)
        match message:
            case Data():
                files.handle_data(message)
            case Offer():
                self._handle_offer(message)
            case Totals():
                self._bounds.set(message)
            case Entries(entries):
                for entry in entries:
                    files.handle_entry(entry)
            case Hole():
                files.handle_hole(message)
            case Same():
                files.handle_same(message)
            case FileEnd():
                files.handle_file_end(message)
            case WholeFiles(whole):
                for file in whole:
                    files.handle_whole(file)
            case LeftOut(number, exit_code, reason):
                path = files.handle_left_out(number)
                if path is not None:
                    self._miss(path, reason, exit_code, by_peer=True)
            case Finish(entries, digest):
                self._handle_finish(entries, digest)
            case _:
                assert_never(message)
        self._bounds.check(files.done, files.announced, files.number - files.announced)
        while files.handed:
            handed = files.handed.popleft()
            self._unstored[handed.number] = handed
            self._contents += handed.digest is not None
            self._descriptors += handed.has_descriptor
        while files.skipped:
            path, reason, exit_code = files.skipped.popleft()
            self._miss(path, reason, exit_code, by_peer=True)

    def _handle_offer(self, offer: Offer) -> None:
        if not 0 < offer.roots <= MAX_ENTRIES or not 0 < len(offer.shown) <= offer.roots:
            raise RemoteError(f"offer of {offer.roots} things, {len(offer.shown)} of them by name")
        if offer.kind is not OfferKind.TREE and offer.roots != 1:
            raise RemoteError(f"{offer.roots} things in an offer of kind {offer.kind.name}")
        self._bounds.set(offer.totals)
        shown = tuple(replace(root, name=safe_name(root.name)) for root in offer.shown)
        self._files.offer = replace(offer, shown=shown)
        self._events.append(Offered(self._files.offer))

    def _handle_finish(self, entries: int, digest: bytes) -> None:
        if not self._files.is_between or entries != self._files.number:
            raise RemoteError(f"FINISH after {self._files.number} of {entries} entries, or before their content")
        if digest != self._files.digests:
            self.abort(ExitCode.INTEGRITY, "the files do not match the sender's final digest: send them again")
            return
        self._finish_when_stored()

    def _finish_when_stored(self) -> None:
        if self._state is ReceiverState.STORING and not self._unstored:
            self._state = ReceiverState.FINISHED
            digest = self._files.digests
            self._records.say(messages.Finished(digest))
            shown = self._files.digest if self._files.files == 1 else digest
            self._events.append(Finished(shown, self._missing.worst, self._missing.count))

    def _handle_confirmation(self, message: Message) -> None:
        """What still comes after FINISHED: that the sender has it, now or on another path."""
        if self._records.is_held or isinstance(message, Taken):
            self._records.handle(message)

    def _miss(self, path: str, reason: str, exit_code: ExitCode, *, by_peer: bool = False) -> None:
        if self._missing.note(exit_code):
            self._events.append(NotTransferred(path, reason, exit_code, by_peer=by_peer))

    def _forget(self, number: int) -> Handed:
        handed = self._unstored.pop(number, None)
        if handed is None:
            raise CallerError(f"entry {number} does not wait to be stored")
        self._contents -= handed.digest is not None
        self._descriptors -= handed.has_descriptor
        return handed

    def _require_offer(self) -> None:
        if self._state is not ReceiverState.DECIDING:
            raise CallerError(f"nothing to decide while {self._state.name.lower()}")

    def _end(self, last: Abort | Refuse | None) -> None:
        self._state = ReceiverState.ENDED
        self._records.clear()
        self._files.clear()
        if last is not None:
            self._records.say(last)
