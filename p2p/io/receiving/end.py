"""The receiving end of a transfer: what arrives goes to the disk, beside a loop that does not wait for it."""

from __future__ import annotations

import contextlib
import selectors
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import assert_never

from p2p.core.errors import ExitCode
from p2p.core.peer.peer import Peer
from p2p.core.text import escape
from p2p.core.transfer.events import (
    Announced,
    Complete,
    Drop,
    FileAction,
    Keep,
    LeaveFolder,
    LeaveHole,
    MakeFolder,
    MakeHardlink,
    MakeSymlink,
    Whole,
    Write,
)
from p2p.core.transfer.limits import MAX_CHUNKS
from p2p.core.transfer.messages import CHUNK, CHUNK_DIGEST, Offer, OfferKind
from p2p.core.transfer.receiver import TransferReceiver
from p2p.io.descriptors import descriptors
from p2p.io.receiving.checking import Checker, Digests
from p2p.io.receiving.destination import Destination
from p2p.io.receiving.jobs import Damaged, Discard, Finish, Job, LookedUp, Outcome, Problem, Stored
from p2p.io.receiving.journal import Journal, JournalInUse, Journals
from p2p.io.receiving.parts import Found, Part
from p2p.io.receiving.storage_errors import StorageError, problem
from p2p.io.receiving.taken import Policy
from p2p.io.sending.sources import PathLike
from p2p.io.worker import Worker

SMALL_BATCH = 256  # small files stored at a time, and so synced: each needs a descriptor until it is named
DESCRIPTORS = 1024  # a usual limit; where there are fewer, a batch is smaller
BATCH = 1024  # jobs done at a time, before what became of them is reported
MAX_JOBS = 4096  # jobs that wait before no more is taken from the path: a few hundred bytes each, and their contents
NOTHING = Digests(b"")
# Bytes of digests that are computed and not told: 4 TB of files. A sender may announce the same large one 4,096 times.
MAX_UNTOLD = 2**26


@dataclass(slots=True)
class Answer:
    """What the sender is to hear of a file. `digests` is None while they are computed."""

    number: int
    digests: Digests | None
    problem: str | None = None
    cost: int = 0
    """Bytes that the digests take at most."""


class ReceivingEnd:
    """Takes the actions of `machine`, which outlives the path, and tells it what became of them.

    Pieces are written at once, for the system keeps them in memory; all that may wait for the disk is done by a thread,
    one batch at a time, and what arrives meanwhile shares the next one's trip.
    """

    def __init__(
        self, directory: PathLike, policy: Policy, journals: Journals | None, selector: selectors.BaseSelector
    ) -> None:
        """Raises StorageError: nothing can be written there."""
        self.machine = TransferReceiver()
        self._journals = journals
        self._selector = selector
        kept_in = journals.parts_in if journals is not None else _unknown
        self.destination = Destination(directory, policy=policy, kept_in=kept_in)
        self._small_batch = min(SMALL_BATCH, descriptors(DESCRIPTORS) // 4)
        self._policy = policy
        self._worker = Worker("p2p-storing")
        self._checker: Checker | None = None
        self._journal: Journal | None = None
        self._due: set[int] = set()  # what is to be reported
        self._announced: dict[int, Announced] = {}  # files whose content has not ended
        self._parts: dict[int, Part] = {}
        self._found: dict[int, Found] = {}
        self._answers: deque[Answer] = deque()
        self._unchecked: deque[tuple[Answer, Found, int]] = deque()  # and how many bytes were announced
        self._untold = 0
        self._unanswered: set[int] = set()
        self._jobs: deque[Job] = deque()
        self._results: deque[Future[list[Outcome]]] = deque()
        self._room_for: int | None = None  # the total that was compared with what is free
        self._to_reread = self._reread = 0  # bytes; the second is counted by the thread
        self._has_told = False
        self._failure: StorageError | None = None
        self._is_stopped = False
        self.is_left = False
        """Whether something was left for the next run to go on with. Known once it is closed."""
        self._watch(self._worker.fileno(), self._worker.handle_readable)

    @property
    def checked(self) -> tuple[int, int]:
        """Bytes of what is here that were compared, and that are to be compared."""
        return self._checker.checked if self._checker is not None else (0, 0)

    @property
    def reread(self) -> tuple[int, int]:
        """Bytes that were read once more, and that are to be: of files of which something was kept."""
        return self._reread, self._to_reread

    @property
    def note(self) -> str | None:
        """A sentence for the screen: why an interruption could not be gone on with."""
        return self._journal.failure if self._journal is not None else None

    def handle_offer(self, offer: Offer) -> None:
        """Raises StorageError for what cannot be taken. To be called before the person is asked."""
        if self._journal is not None:
            self._journal.close()
            self._journal = None
        if self._journals is not None and offer.kind is OfferKind.TREE:
            try:
                self._journal = self._journals.find(offer.token, Path(self.destination.path))
            except JournalInUse as error:
                raise StorageError(str(error), error.public) from error
        is_all_new = self._journal is None and self._policy is Policy.RENAME  # else nobody knows what of it is here
        if is_all_new and offer.totals.size is not None:
            self._room_for = offer.totals.size - offer.totals.holes
            self.destination.require_room(self._room_for)

    def accept(self, offer: Offer, peer: Peer, now: float) -> None:
        """Says yes, and opens the journal of the offer."""
        answers = self._journal is not None or self._policy is Policy.SKIP
        if self._journal is None and self._journals is not None and offer.kind is OfferKind.TREE:
            with contextlib.suppress(JournalInUse):  # by someone who began while the person was asked
                self._journal = self._journals.begin(offer.token, Path(self.destination.path))
        self.destination.use(self._journal, answers=answers)
        if answers:
            self._checker = Checker()
            self._watch(self._checker.fileno(), self._checker.handle_readable)
        self.machine.accept(answers=answers)
        peer.advance(now)

    def advance(self, peer: Peer, now: float) -> bool:
        """Once a turn of the loop. Returns False: nothing but answers is produced for the path.

        What arrived on a path that was lost is stored all the same.
        """
        if self._failure is not None:  # it came while there was no path
            peer.fail(self._failure.failure, self._failure.public, now)
        elif peer.failure is not None and self.machine.ended:  # else only an attempt to find the other side failed
            self._stop()
        if self._is_stopped:
            return False
        try:
            self._require_room()
            self._take_actions()
            while self._tell():
                peer.advance(now)
                self._take_actions()
        except StorageError as error:
            self._failure = error
            self._stop()
            peer.fail(error.failure, error.public, now)
            return False
        self._submit()
        was_behind, self.machine.is_behind = self.machine.is_behind, len(self._jobs) >= MAX_JOBS
        if was_behind and not self.machine.is_behind:
            peer.advance(now)
        if self.machine.is_finished and not self.machine.missed and self._journal is not None:
            self._journal.finish()  # else the same command again sends what is missing
            self._journal = None
        return False

    def close(self) -> None:
        """Removes what is unfinished, unless a journal names it. Does not wait for the disk."""
        self._stop()
        for watched in (self._worker, self._checker):
            if watched is not None:
                with contextlib.suppress(KeyError, ValueError):  # closed before
                    self._selector.unregister(watched.fileno())
                watched.close()
        self.destination.close()
        if self._journal is not None:
            self.is_left = not self._journal.is_empty
            self._journal.close()
            self._journal = None

    def _watch(self, fd: int, call: Callable[[], None]) -> None:
        self._selector.register(fd, selectors.EVENT_READ, lambda _: call())

    def _stop(self) -> None:
        """Nothing is written any more."""
        self._is_stopped = True
        self.destination.stop()
        self._jobs.clear()

    def _require_room(self) -> None:
        """What is to come grows while the sender counts. Raises StorageError."""
        if self._room_for is None:
            return
        progress = self.machine.progress
        if progress.total is not None and progress.total - progress.holes_total > self._room_for:
            self._room_for = progress.total - progress.holes_total
            self.destination.require_room(progress.left or 0)

    # from the machine to the disk

    def _take_actions(self) -> None:
        """Raises StorageError."""
        while (action := self.machine.poll_action()) is not None:
            self._take_action(action)

    def _take_action(self, action: FileAction) -> None:
        match action:
            case Write(number, offset, pieces):
                self._try(number, lambda part: part.write(offset, pieces))
            case LeaveHole(number, offset, length):
                self._try(number, lambda part: part.leave_hole(offset, length))
            case Keep(number, offset, length):
                self._try(number, lambda part: part.keep(offset, length))
            case Complete(number, size, digest, must_verify):
                if number in self._announced:
                    part = self._part(number)
                    self._forget(number)
                    self._to_reread += size if must_verify else 0
                    self._jobs.append(Finish(number, part, size, digest, must_verify, self._count_reread))
            case Whole(number):
                if self._forget(number):
                    self._jobs.append(action)
            case Drop(number):
                self._drop(number, may_stay=True)
            case Announced(number):
                self._due.add(number)
                self._announced[number] = action
                if self.machine.answers:
                    self._unanswered.add(number)
                self._jobs.append(action)
            case MakeFolder(number) | MakeSymlink(number) | MakeHardlink(number):
                self._due.add(number)
                self._jobs.append(action)
            case LeaveFolder():
                self._jobs.append(action)
            case _:
                assert_never(action)

    def _try(self, number: int, call: Callable[[Part], None]) -> None:
        """Raises StorageError for what concerns all files."""
        if number not in self._announced:
            return  # it has become a problem
        try:
            call(self._part(number))
        except OSError as error:
            path = self._announced[number].path
            if (failure := self.destination.explain(error, path)) is not None:
                raise failure from error
            self._lose(number, problem(error, path))

    def _part(self, number: int) -> Part:
        if (part := self._parts.get(number)) is None:
            path = self._announced[number].path
            part = self._parts[number] = self.destination.open(number, path, self._found.get(number))
        return part

    def _count_reread(self, count: int) -> None:
        self._reread += count

    def _forget(self, number: int) -> bool:
        """Its content has ended. Returns whether it was still wanted."""
        self._parts.pop(number, None)
        self._found.pop(number, None)
        return self._announced.pop(number, None) is not None

    def _drop(self, number: int, *, may_stay: bool = False) -> None:
        """It will not come, or cannot be stored."""
        self._jobs.append(Discard(number, self._parts.get(number), may_stay))
        self._forget(number)
        self._due.discard(number)

    def _submit(self) -> None:
        if self._worker.pending or not self._jobs:
            return
        batch: list[Job] = []
        small = 0
        while self._jobs and small < self._small_batch and len(batch) < BATCH:
            batch.append(self._jobs.popleft())
            small += isinstance(batch[-1], Whole)
        self._worker.submit(self.destination.carry_out, batch, done=self._results.append)

    # from the disk to the machine

    def _tell(self) -> bool:
        """Returns whether the machine was told anything. Raises StorageError."""
        while self._results and not self._is_stopped:
            for outcome in self._results.popleft().result():
                self._take_outcome(outcome)
        while self._answers and self.machine.takes_answers and (digests := self._answers[0].digests) is not None:
            answer = self._answers.popleft()
            if digests.in_begun and (found := self._found.get(answer.number)) is not None:
                self._found[answer.number] = replace(found, in_begun=bytes(digests.in_begun))
            self._untold -= answer.cost
            self._unanswered.discard(answer.number)
            self.machine.handle_have(answer.number, digests, digests.lacking)
            self._has_told = True
            if answer.problem is not None:
                self._lose(answer.number, answer.problem)
        self._check_more()
        has_told, self._has_told = self._has_told, False
        return has_told

    def _take_outcome(self, outcome: Outcome) -> None:
        match outcome:
            case Stored(number, name):
                if number in self._due:
                    self._due.remove(number)
                    self.machine.handle_stored(number, name)
                    self._has_told = True
            case Problem(number, words):
                if number in self._unanswered:
                    self._answers.append(Answer(number, NOTHING, words))
                else:
                    self._lose(number, words)
            case LookedUp(number, found):
                self._answer(number, found)
            case Damaged(path):
                self._stop()
                words = f"{escape(path)} on the receiver's disk is not what was sent: send it again"
                self.machine.abort(ExitCode.INTEGRITY, words)
                self._has_told = True
            case _:
                assert_never(outcome)

    def _answer(self, number: int, found: Found | None) -> None:
        announced = self._announced.get(number)
        answer = Answer(number, NOTHING if found is None or announced is None else None)
        self._answers.append(answer)
        if found is not None and announced is not None:
            self._found[number] = found
            self._unchecked.append((answer, found, announced.entry.size or 0))

    def _check_more(self) -> None:
        while self._unchecked and self._untold < MAX_UNTOLD:
            assert self._checker is not None
            answer, found, size = self._unchecked.popleft()
            here = found.size if found.begun is None else max(found.size, found.begun.size)
            answer.cost = CHUNK_DIGEST * min(MAX_CHUNKS, -(-min(size, here) // CHUNK))
            self._untold += answer.cost
            open_found = partial(self.destination.open_found, found)
            open_begun = None if found.begun is None else partial(self.destination.open_found, found.begun)
            self._checker.check(open_found, size, partial(setattr, answer, "digests"), open_begun)

    def _lose(self, number: int, words: str) -> None:
        """That one cannot be stored; the rest goes on."""
        if number in self._due:
            is_file = number in self._announced
            self._due.remove(number)
            if is_file:
                self._drop(number)
            self.machine.handle_problem(number, words)
            self._has_told = True


def _unknown(_: int) -> None:
    """Which parts the journals of other runs need: this one has no folder to remember things in."""
