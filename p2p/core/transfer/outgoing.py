"""The sender's side of the stream of entries: what is announced, and what of it is still to be sent."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from blake3 import blake3

from p2p.core.errors import CallerError, RemoteError
from p2p.core.transfer.entries import Entry, File, Folder, Leave, Skipped, encode_entry
from p2p.core.transfer.events import Read, ReadPipe, ReadWhole
from p2p.core.transfer.limits import MAX_AHEAD, MAX_CHUNKS, MAX_ENTRIES, MAX_TOTAL, SMALL
from p2p.core.transfer.messages import CHUNK, CHUNK_DIGEST, MAX_MESSAGE, PIECE, WHOLE_FILE_HEADER, Have, MessageType
from p2p.core.transfer.paths import Trail


@dataclass(slots=True)
class Outgoing:
    """A file that was announced and is not sent yet. `digests`, CHUNK_DIGEST bytes each, are of the chunks that the
    receiver has, from its beginning; of the last one `lacking` pieces are not there.

    A chunk that was compared and is another is sent up to `differs_until`.
    """

    number: int
    path: str
    size: int | None
    digests: bytearray = field(default_factory=bytearray)  # grows by as little as one at a time
    lacking: int = 0
    is_answered: bool = False
    is_unwanted: bool = False
    offset: int = 0
    kept: int = 0
    differs_until: int = 0
    _hash: blake3 | None = None

    @property
    def hash(self) -> blake3:
        """Begun when it is needed: thousands of files that go whole wait at a time, and each would hold 2 KB."""
        if self._hash is None:
            self._hash = blake3()
        return self._hash

    @property
    def goes_whole(self) -> bool:
        return self.size is not None and self.size <= SMALL and not self.digests

    @property
    def chunks(self) -> int:
        return len(self.digests) // CHUNK_DIGEST

    @property
    def to_compare(self) -> bytes | None:
        """The digest of the chunk that begins here, if the receiver has one and it was not found to be another."""
        if not self.digests:
            return None
        number, within = divmod(self.offset, CHUNK)
        is_next = not within and number < self.chunks and self.offset >= self.differs_until
        return bytes(self.digests[number * CHUNK_DIGEST : (number + 1) * CHUNK_DIGEST]) if is_next else None

    @property
    def comparable(self) -> int:
        """Bytes of the chunk that is to be compared next, if the file does not end before."""
        is_last = self.offset // CHUNK == self.chunks - 1
        return CHUNK - self.lacking * PIECE if is_last else CHUNK


class OutgoingFiles:
    """Entries of the walk go in, are announced a record at a time, and stay as files until they are sent."""

    def __init__(self) -> None:
        self.answers = False
        """Whether the receiver says of each file what it has."""
        self.number = 0
        """How many entries were announced that have a number."""
        self.skipped: deque[tuple[str, Skipped]] = deque()
        """Those of them that could not be sent, with their paths."""
        self._entries: deque[Entry] = deque()
        self._is_last = False
        self._is_asked = False
        self._trail = Trail()
        self._announced: deque[Outgoing] = deque()
        self._unanswered: deque[Outgoing] = deque()

    @property
    def first(self) -> Outgoing | None:
        """The one to be sent next, if there is one and the receiver has said what it has of it."""
        first = self._announced[0] if self._announced else None
        return first if first is not None and (first.is_answered or not self.answers) else None

    @property
    def current(self) -> Outgoing:
        """The one that a wish stands for."""
        first = self.first
        assert first is not None, "a wish stands for a file"
        return first

    @property
    def is_unwanted(self) -> bool:
        """Whether the receiver said that it cannot store the next one."""
        return (first := self.first) is not None and first.is_unwanted

    @property
    def path(self) -> str:
        return self._announced[0].path if self._announced else ""

    @property
    def oldest(self) -> int:
        """The first file that is not sent yet."""
        return self._announced[0].number if self._announced else self.number

    @property
    def is_done(self) -> bool:
        """Whether everything was announced and sent. Raises CallerError when a walk did not come back up."""
        done = self._is_last and not self._entries and not self._announced
        if done and self._trail.depth:
            raise CallerError("the walk ended within a folder")
        return done

    def wants_entries(self) -> bool:
        """Whether to ask for more of the walk: once, and again when they came."""
        if self._is_last or self._is_asked or len(self._entries) >= MAX_AHEAD:
            return False
        self._is_asked = True
        return True

    def extend(self, entries: Sequence[Entry], is_last: bool) -> None:
        if self._is_last:
            raise CallerError("the walk had ended")
        self._is_asked = False
        self._entries.extend(entries)
        self._is_last = is_last

    def announce(self) -> bytes | None:
        """The next ENTRIES, when it is time for it."""
        announced, entries = self._announced, self._entries
        if not entries or (
            announced and (not self.answers or self.number - announced[0].number > MAX_AHEAD // 2)
        ):
            return None
        size, encoded = 1, [bytes([MessageType.ENTRIES])]
        while entries and not (announced and self.number - announced[0].number >= MAX_AHEAD):
            part = encode_entry(entries[0])
            size += len(part)
            if size > MAX_MESSAGE:
                break
            encoded.append(part)
            self._note(entries.popleft())
        return b"".join(encoded)

    def small_ones(self) -> tuple[int, ...]:
        """The numbers of as many whole files as one record holds, from the first on."""
        numbers, size = [], 1
        for file in self._announced:
            size += WHOLE_FILE_HEADER + (file.size or 0)
            if size > MAX_MESSAGE or not file.goes_whole or (self.answers and not file.is_answered):
                break
            numbers.append(file.number)
        return tuple(numbers)

    def next_wish(self, most: int) -> Read | ReadWhole | ReadPipe | None:
        """What is to be read next, `most` pieces of it, or whole files for one record."""
        file = self.first
        if file is None:
            return None
        if file.size is None:
            return ReadPipe(file.number, most * PIECE)
        if file.goes_whole:
            return ReadWhole(self.small_ones())
        left = file.size - file.offset
        if file.to_compare is not None:
            return Read(file.number, file.offset, min(file.comparable, left))
        is_compared = file.offset < file.differs_until
        if is_compared:
            left = file.differs_until - file.offset
        return Read(file.number, file.offset, min(most * PIECE, left), may_be_hole=not is_compared)

    def take(self) -> Outgoing:
        """Takes the first one off."""
        return self._announced.popleft()

    def handle_have(self, have: Have) -> None:
        """Raises RemoteError."""
        if not self._unanswered or self._unanswered[0].number != have.file:
            raise RemoteError(f"HAVE of file {have.file}, which is not due")
        file = self._unanswered[0]
        if have.first != file.chunks:
            raise RemoteError(f"HAVE of chunk {have.first} where {file.chunks} was due")
        file.digests += b"".join(have.digests)
        if file.chunks > min(MAX_CHUNKS, -(-(file.size or 0) // CHUNK)):
            raise RemoteError(f"HAVE of {file.chunks} chunks of a file of {file.size} bytes")
        if have.is_last:
            file.lacking, file.is_answered = have.lacking, True
            self._unanswered.popleft()

    def give_up(self, number: int) -> None:
        """The receiver cannot store that one, which may be a file to come."""
        for file in self._announced:
            if file.number == number:
                file.is_unwanted = True

    def clear(self) -> None:
        for queue in (self._entries, self._announced, self._unanswered, self.skipped):
            queue.clear()

    def _note(self, entry: Entry) -> None:
        match entry:
            case Leave():
                self._trail.leave()
                return
            case Skipped(name):
                self.skipped.append((self._trail.path(name), entry))
                return
            case Folder(name):
                self._trail.enter(self.number, name)
            case File(name, size=size):
                if (size or 0) > MAX_TOTAL:
                    raise CallerError(f"a file of more than {MAX_TOTAL} bytes")
                file = Outgoing(self.number, self._trail.path(name), size)
                self._announced.append(file)
                if self.answers:
                    self._unanswered.append(file)
            case _:
                pass
        self.number += 1
        if self.number > MAX_ENTRIES:
            raise CallerError(f"more than {MAX_ENTRIES} entries")
