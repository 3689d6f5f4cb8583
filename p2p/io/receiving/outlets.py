"""Ends of a transfer that are no folder: standard output, and the screen for a text."""

from __future__ import annotations

import os
import select
import selectors
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from typing import Final

from p2p.core.calling import option
from p2p.core.datagram import Buffer
from p2p.core.errors import ExitCode, Failure
from p2p.core.peer.peer import Peer
from p2p.core.text import escape
from p2p.core.transfer.entries import Kind
from p2p.core.transfer.events import Announced, Complete, Drop, FileAction, LeaveHole, Whole, Write
from p2p.core.transfer.limits import MAX_TEXT
from p2p.core.transfer.messages import Offer
from p2p.core.transfer.receiver import TransferReceiver
from p2p.io.sending.pipes import PipeError, wait_for
from p2p.io.worker import Worker

STDOUT = 1
MAX_UNWRITTEN = 4 << 20  # bytes that wait for a slow reader of our output; beyond, records stay with the path
MAX_PIECES = 1 << 14  # of them: a sender may say a byte at a time, and each takes some 300
BATCH = 1 << 20  # bytes that the thread writes at a time: what a pipe holds
NO_NAME = "-"  # under which it is reported as stored
NO_FILE = Failure(ExitCode.REFUSED, "The other side sends something else than the one file that it offered. Stopped")
NO_FILE_TOLD = "it takes one file and was sent something else"

_ZEROS: Final = memoryview(bytes(BATCH))


WriteSome = Callable[[memoryview], int]


class StdoutEnd:
    """Writes the content of the one file of an offer to a descriptor, in order, in a thread.

    While the reader of that lags, the machine takes no records, and the other side is slowed down.
    """

    def __init__(
        self,
        selector: selectors.BaseSelector,
        fd: int = STDOUT,
        name: str = "standard output",
        *,
        write: WriteSome | None = None,
    ) -> None:
        """`write` is used instead of the descriptor: it waits, and returns how much it took. Raises OSError."""
        self.machine = TransferReceiver()
        self.written = 0
        """Bytes that went out and cannot be taken back."""
        self._selector = selector
        self._write_some: WriteSome = write or partial(os.write, fd)
        self._fd = fd
        self._name = name
        self._option = f" ({option('--out -')})" if write is None else ""
        self._queue: deque[Buffer] = deque()
        self._unwritten = self._pieces = 0  # bytes, and in how many pieces, of the queue and of what the thread has
        self._whole: int | None = None  # the number of the file, once all of it came
        self._error: OSError | None = None
        self._worker = Worker("p2p-stdout")
        selector.register(self._worker.fileno(), selectors.EVENT_READ, self._collect)

    @property
    def regret(self) -> str | None:
        """What a person has to know after a run that failed."""
        if not self.written:
            return None
        return f"{self.written:,} bytes went to {self._name} already and cannot be taken back: do not use them"

    def handle_offer(self, offer: Offer) -> None:
        """Raises PipeError unless it is one file."""
        require_one_file(offer, f"{self._name}{self._option}")

    def accept(self, _: Offer, peer: Peer, now: float) -> None:
        self.machine.accept()
        peer.advance(now)

    def advance(self, peer: Peer, now: float) -> bool:
        if peer.failure is not None and self.machine.ended:  # else only an attempt to find the other side failed
            self._queue.clear()  # it failed: nobody is to take for good what comes now
            return False
        if self._error is not None:
            peer.fail(self._failure(self._error), "whoever it was passed on to there has stopped reading", now)
            return False
        while (action := self.machine.poll_action()) is not None:
            if not self._take(action):
                peer.fail(NO_FILE, NO_FILE_TOLD, now)
                return False
        self._write_next()
        is_behind = self._unwritten >= MAX_UNWRITTEN or self._pieces >= MAX_PIECES
        was_behind, self.machine.is_behind = self.machine.is_behind, is_behind
        is_stored = self._whole is not None and not self._unwritten
        if self._whole is not None and is_stored:
            number, self._whole = self._whole, None
            self.machine.handle_stored(number, NO_NAME)
        if is_stored or (was_behind and not self.machine.is_behind):
            peer.advance(now)
        return False

    def close(self) -> None:
        """Waits for nothing: a write that hangs ends with the program."""
        if not self._worker.is_closed:
            self._selector.unregister(self._worker.fileno())
        self._worker.close()

    def _take(self, action: FileAction) -> bool:
        """Whether it is about one file."""
        match action:
            case Write(pieces=pieces):
                self._put(pieces)
            case LeaveHole(length=length):
                self._put([_ZEROS[: min(BATCH, length - start)] for start in range(0, length, BATCH)])
            case Whole(number, content):
                self._put([content])
                self._whole = number
            case Complete(number):
                self._whole = number
            case Announced(number=0) | Drop():
                pass
            case _:
                return False
        return True

    def _put(self, buffers: list[Buffer]) -> None:
        self._queue.extend(buffers)
        self._unwritten += sum(map(len, buffers))
        self._pieces += len(buffers)

    def _write_next(self) -> None:
        if self._worker.pending or not self._queue:
            return
        batch: list[Buffer] = []
        size = 0
        while self._queue and size < BATCH:
            batch.append(self._queue.popleft())
            size += len(batch[-1])
        self._worker.submit(self._write, batch, done=self._note_written)

    def _write(self, batch: list[Buffer]) -> tuple[int, int]:
        """In the thread. Blocks until all is written; returns how many bytes, and pieces, that is."""
        size = 0
        for buffer in batch:
            view = memoryview(buffer)
            size += len(view)
            while view:
                try:
                    count = self._write_some(view)
                except BlockingIOError:  # somebody else made it so
                    wait_for(self._fd, select.POLLOUT)
                    continue
                self.written += count
                view = view[count:]
        return size, len(batch)

    def _collect(self, _: int) -> None:
        self._worker.handle_readable()

    def _note_written(self, outcome: Future[tuple[int, int]]) -> None:
        try:
            size, pieces = outcome.result()
        except OSError as error:
            self._error = error
            return
        self._unwritten -= size
        self._pieces -= pieces

    def _failure(self, error: OSError) -> Failure:
        why = "whoever read it has stopped reading" if isinstance(error, BrokenPipeError) else error.strerror
        return Failure(ExitCode.STORAGE, f"Cannot write to {self._name}: {why}. The sender was told")


class TextEnd:
    """Keeps a text until it is whole and verified, and hands it to `on_text`."""

    def __init__(self, on_text: Callable[[str], None], machine: TransferReceiver | None = None) -> None:
        """`machine`: of the end that this one stands in for, since only the offer says that it is a text."""
        self.machine = machine or TransferReceiver()
        self._on_text = on_text
        self._content = bytearray()

    def handle_offer(self, offer: Offer) -> None:
        """Raises PipeError unless it is one text that is not too long."""
        require_one_file(offer, "the screen")
        if (offer.totals.size or 0) > MAX_TEXT:
            message = f"A text of {offer.totals.size:,} bytes is offered: have it sent as a file"
            raise PipeError(message, f"a text has {MAX_TEXT:,} bytes at most", ExitCode.REFUSED)

    def accept(self, _: Offer, peer: Peer, now: float) -> None:
        self.machine.accept()
        peer.advance(now)

    def advance(self, peer: Peer, now: float) -> bool:
        if peer.failure is not None and self.machine.ended:  # else only an attempt to find the other side failed
            return False
        while (action := self.machine.poll_action()) is not None:
            match action:
                case Write(pieces=pieces) if len(self._content) + sum(map(len, pieces)) <= MAX_TEXT:
                    for piece in pieces:
                        self._content += piece
                case Whole(number, content) if len(content) <= MAX_TEXT:
                    self._content += content
                    self._show(number, peer, now)
                case Complete(number):
                    self._show(number, peer, now)
                case Announced(number=0) | Drop():
                    pass
                case _:
                    peer.fail(NO_FILE, NO_FILE_TOLD, now)
                    return False
        return False

    def close(self) -> None:
        pass

    def _show(self, number: int, peer: Peer, now: float) -> None:
        self._on_text(self._content.decode("utf-8", "replace"))
        self.machine.handle_stored(number, NO_NAME)
        peer.advance(now)


def require_one_file(offer: Offer, where: str) -> None:
    """Raises PipeError where something else is offered than one file, which is all that `where` can take."""
    if offer.roots == 1 and offer.shown[0].kind is Kind.FILE:
        return
    what = f"{offer.roots} things" if offer.roots != 1 else "a folder"
    message = f"The other side offers {what}, and {where} takes one file alone"
    packed = option("send --from-command 'tar c FOLDER'")
    advice = f"Say {option('--out FOLDER')}, or have it packed: {packed}"
    raise PipeError(f"{message}. {advice}", f"it takes one file alone, and {what} were offered", ExitCode.REFUSED)


def printable(text: str) -> str:
    """A text of the other side for a terminal: nothing in it moves or hides anything; lines and tabs stay."""
    return "\n".join("\t".join(map(escape, line.split("\t"))) for line in text.replace("\r\n", "\n").split("\n"))

