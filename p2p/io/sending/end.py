"""The sending end of a transfer on this machine: walks, counts, and reads what the transfer asks for."""

from __future__ import annotations

import selectors
import time
from collections.abc import Sequence
from concurrent.futures import Future
from itertools import takewhile
from typing import Final, Protocol, assert_never

from p2p.core.errors import CallerError
from p2p.core.peer.peer import Peer
from p2p.core.transfer.entries import File, Kind
from p2p.core.transfer.events import Read, ReadPipe, ReadWhole, Unreadable, WantEntries
from p2p.core.transfer.limits import MAX_PIECES, MAX_ROOTS
from p2p.core.transfer.messages import DATA_HEADER, PIECE, Offer, OfferKind, Root, Totals
from p2p.core.transfer.names import portable_component
from p2p.core.transfer.sender import TransferSender
from p2p.io.sending.counting import CLOSE_PATIENCE, Count, Counter
from p2p.io.sending.pipes import PipeData, PipeError, PipeReader
from p2p.io.sending.sources import Named, PathLike, Readable, SourceError, Text, look_up
from p2p.io.sending.walk import Exclude, Found, Renamed, Walk
from p2p.io.worker import Worker

COUNT_PATIENCE: Final = 1.0  # seconds in which all is counted, as a rule, so that the offer can say how much it is
READS_A_TURN: Final = 8  # reads, of a piece or of many, before the loop looks at its sockets again
ENTRIES_A_BATCH: Final = 500  # of the walk: some 5 ms of its thread
TEXT_NAME: Final = "text"
PLAIN_MODE: Final = 0o666  # of what is no file here: the receiver's umask says the rest

Batch = tuple[list[Found], bool]  # and whether it is the last


class SendingEnd:
    """Reads what the transfer asks for. It outlives the path, and so the peer."""

    def __init__(
        self, offer: Offer, entries: EntrySource, *, counter: Counter | None = None, pipe: Piped | None = None
    ) -> None:
        """`of_tree`, `of_pipe`, `of_reader` and `of_text` are what to call."""
        self.machine = TransferSender(offer)
        self._totals = offer.totals
        self._entries = entries
        self._counter = counter
        self._pipe = pipe
        self._sources: dict[int, Readable] = {}  # by number, oldest first; until the transfer has passed them
        self._open: Readable | None = None  # the one that was read last, and may hold a descriptor
        self._records = [memoryview(bytearray(DATA_HEADER + PIECE)) for _ in range(MAX_PIECES)]
        self._pieces = [record[DATA_HEADER:] for record in self._records]

    @classmethod
    def of_tree(
        cls, paths: Sequence[PathLike], exclude: Exclude, token: bytes, selector: selectors.BaseSelector
    ) -> SendingEnd:
        """Files and folders. Raises SourceError for the first of `paths` that is missing, unreadable or neither, and
        CallerError for more hidden ones than can be told by name.
        """
        named = look_up(paths)
        if len(named) > MAX_ROOTS:  # then not all are told by name, and hidden ones have to be
            named.sort(key=lambda each: not each.name.startswith("."))
            if named[MAX_ROOTS].name.startswith("."):
                raise CallerError(f"more than {MAX_ROOTS} hidden files or folders are named: name a folder of them")
        counter, totals = None, Totals(0, 0, is_final=False)
        if any(each.is_folder for each in named):
            counter = Counter(named, exclude, selector)
        else:
            totals = Count(named, exclude).step(len(named) + 1)
        shown = tuple(each.root for each in named[:MAX_ROOTS])
        offer = Offer(OfferKind.TREE, token, totals, len(named), shown)
        return cls(offer, Walker(named, exclude, selector), counter=counter)

    @classmethod
    def of_pipe(cls, fd: int, name: str, token: bytes, selector: selectors.BaseSelector) -> SendingEnd:
        """What comes out of a descriptor, as a file of that name. Raises PipeError if it cannot be read."""
        return cls.of_reader(PipeReader(fd), name, token, selector)

    @classmethod
    def of_reader(cls, reader: PipeReader, name: str, token: bytes, selector: selectors.BaseSelector) -> SendingEnd:
        """The same for a pipe that is read already, or for a command."""
        name = portable_component(name)
        offer = Offer(OfferKind.PIPE, token, Totals(1, None, is_final=True), 1, (Root(Kind.FILE, name, None),))
        entries = Given([Found(File(name, PLAIN_MODE, time.time_ns(), None), None)])
        return cls(offer, entries, pipe=Piped(reader, selector))

    @classmethod
    def of_text(cls, text: str, token: bytes, selector: selectors.BaseSelector) -> SendingEnd:  # noqa: ARG003
        """`text` has MAX_TEXT bytes in UTF-8 at most."""
        content = text.encode("utf-8", "replace")  # of bytes that are no text, as they can come from a command line
        size = len(content)
        offer = Offer(OfferKind.TEXT, token, Totals(1, size, is_final=True), 1, (Root(Kind.FILE, TEXT_NAME, size),))
        entry = File(TEXT_NAME, PLAIN_MODE, time.time_ns(), size)
        return cls(offer, Given([Found(entry, Text(0, content))]))

    @property
    def totals(self) -> Totals:
        """As counted so far."""
        return self._counter.totals if self._counter is not None else self._totals

    @property
    def is_counted(self) -> bool:
        return self.totals.is_final

    @property
    def notes(self) -> Sequence[Renamed]:
        """What is sent under another name than it has here, the first MAX_LISTED of `notes_count`."""
        return self._entries.renamed

    @property
    def notes_count(self) -> int:
        return self._entries.renamed_count

    def advance(self, peer: Peer, now: float) -> bool:
        """Returns whether something was handed to the path."""
        is_told = self._tell_totals() + self._tell_entries()
        has_sent = self._send_piped(peer, now)
        for _ in range(READS_A_TURN):
            wanted = peer.poll_wanted(now)
            match wanted:
                case Read():
                    self._read(peer, wanted, now)
                    has_sent = True
                case ReadWhole():
                    contents = [_whole(self._sources[number]) for number in wanted.files]
                    peer.send(self.machine.handle_whole(wanted, contents), now)
                    has_sent = True
                case ReadPipe():
                    assert self._pipe is not None, "only a pipe has a file without a size"
                    self._pipe.want(wanted)
                case WantEntries():
                    self._entries.want()
                    is_told += self._tell_entries()
                case None:
                    break
                case _:
                    assert_never(wanted)
        if self._open is not None and self._open.number < self.machine.next_file:
            self._open.close()  # its end was not read, for the receiver cannot store it, say
            self._open = None
        if is_told or has_sent:
            peer.advance(now)
        return has_sent

    def close(self) -> None:
        for source in self._sources.values():
            source.close()
        self._entries.close()
        if self._counter is not None:
            self._counter.close()
        if self._pipe is not None:
            self._pipe.close()

    def _read(self, peer: Peer, read: Read, now: float) -> None:
        source = self._sources[read.file]
        if self._open is not None and self._open is not source:
            self._open.close()
        self._open = source
        try:
            if read.may_be_hole:
                if length := source.hole_at(read.offset):
                    self.machine.handle_hole(read, length)
                    return
                length = -(-(source.data_until(read.offset) - read.offset) // PIECE) * PIECE
                if length < read.length:
                    read = self.machine.shorten(read, length)
            count, last = read.pieces, read.last
            records, pieces = self._records[:count], self._pieces[:count]
            if last < PIECE:
                records[-1], pieces[-1] = records[-1][: DATA_HEADER + last], pieces[-1][:last]
            source.read_into(pieces, read.offset)
        except SourceError as error:
            self.machine.handle_left_out(read, error.unreadable)
            return
        if self.machine.handle_read(read, records):
            peer.send(records, now)

    def _tell_totals(self) -> bool:
        totals = self.totals
        if totals == self._totals:
            return False
        self._totals = totals
        self.machine.handle_totals(totals)
        return True

    def _tell_entries(self) -> bool:
        if (batch := self._entries.poll()) is None:
            return False
        found, is_last = batch
        oldest = self.machine.oldest_file
        for number in list(takewhile(lambda number: number < oldest, self._sources)):
            self._sources.pop(number).close()  # one that was read again may still be open
        self._sources.update((source.number, source) for _, source in found if source is not None)
        self.machine.handle_entries([entry for entry, _ in found], is_last)
        return True

    def _send_piped(self, peer: Peer, now: float) -> bool:
        if self._pipe is None or (piped := self._pipe.poll()) is None:
            return False
        wish, came = piped
        if isinstance(came, Unreadable):
            self.machine.handle_left_out(wish, came)
        else:
            peer.send(self.machine.handle_pipe(wish, came.data, came.is_end), now)
        return True


class EntrySource(Protocol):
    """Where the entries come from: asked by `want`, answered by `poll`, once each."""

    @property
    def renamed(self) -> Sequence[Renamed]: ...
    @property
    def renamed_count(self) -> int: ...
    def want(self) -> None: ...
    def poll(self) -> Batch | None: ...
    def close(self) -> None: ...


class Walker:
    """The walk, in a thread beside the loop."""

    def __init__(self, named: Sequence[Named], exclude: Exclude, selector: selectors.BaseSelector) -> None:
        self._walk = Walk(named, exclude)
        self._worker = Worker("p2p-walker")
        self._batch: Batch | None = None
        self._selector = selector
        selector.register(self._worker.fileno(), selectors.EVENT_READ, self._handle_readable)

    @property
    def renamed(self) -> Sequence[Renamed]:
        return self._walk.renamed

    @property
    def renamed_count(self) -> int:
        return self._walk.renamed_count

    def want(self) -> None:
        self._worker.submit(self._walk.take, ENTRIES_A_BATCH, done=self._take)

    def poll(self) -> Batch | None:
        batch, self._batch = self._batch, None
        return batch

    def close(self) -> None:
        self._selector.unregister(self._worker.fileno())
        self._walk.stop()
        if self._worker.close(CLOSE_PATIENCE):
            self._walk.close()

    def _handle_readable(self, _: int) -> None:
        self._worker.handle_readable()

    def _take(self, outcome: Future[Batch]) -> None:
        self._batch = outcome.result()


class Given:
    """Entries that need no walk."""

    renamed: Sequence[Renamed] = ()
    renamed_count = 0

    def __init__(self, found: list[Found]) -> None:
        self._found = found
        self._is_wanted = False

    def want(self) -> None:
        self._is_wanted = True

    def poll(self) -> Batch | None:
        if not self._is_wanted:
            return None
        self._is_wanted = False
        return self._found, True

    def close(self) -> None: ...


class Piped:
    """A pipe, read in a thread beside the loop, and the wish that it is read for."""

    def __init__(self, reader: PipeReader, selector: selectors.BaseSelector) -> None:
        self._reader = reader
        self._selector = selector
        self._wish: ReadPipe | None = None
        self._failure: Unreadable | None = None
        selector.register(reader.fileno(), selectors.EVENT_READ, lambda _: reader.handle_readable())

    def want(self, wish: ReadPipe) -> None:
        self._wish = wish
        try:
            self._reader.want(wish.length)
        except PipeError as error:
            self._failure = _unreadable(error)

    def poll(self) -> tuple[ReadPipe, PipeData | Unreadable] | None:
        """What came of it, once."""
        if (wish := self._wish) is None:
            return None
        came: PipeData | Unreadable | None
        try:
            came = self._failure or self._reader.poll()
        except PipeError as error:
            came = _unreadable(error)
        if came is None:
            return None
        self._wish = None
        return wish, came

    def close(self) -> None:
        self._selector.unregister(self._reader.fileno())
        self._reader.close()


def _unreadable(error: PipeError) -> Unreadable:
    return Unreadable(error.code, error.public)


def _whole(source: Readable) -> bytes | Unreadable:
    try:
        return source.read_whole()
    except SourceError as error:
        return error.unreadable
