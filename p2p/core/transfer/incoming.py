"""The receiver's side of the stream of entries: what was announced, and what comes of it, becomes work for the disk."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import assert_never

from blake3 import blake3

from p2p.core.errors import CallerError, ExitCode, P2PError, RemoteError
from p2p.core.text import escape
from p2p.core.transfer.entries import Entry, File, Folder, Hardlink, Kind, Leave, Numbered, Skipped, Symlink
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
from p2p.core.transfer.hashing import update_with_zeros
from p2p.core.transfer.limits import MAX_ANNOUNCED, MAX_CHUNKS, MAX_LINKED, MAX_PIECES, MAX_TEXT, MAX_TOTAL
from p2p.core.transfer.messages import CHUNK, PIECE, Data, FileEnd, Hole, Offer, OfferKind, Same, WholeFile
from p2p.core.transfer.names import safe_name, stays_inside
from p2p.core.transfer.paths import Trail


class ContentError(P2PError):
    """What arrived is not what was read over there."""


@dataclass(slots=True)
class Incoming:
    """A file that was announced and is not here yet. `told`: how many bytes of it were said to be here."""

    number: int
    path: str
    size: int | None
    told: int = 0
    is_answered: bool = False
    offset: int = 0
    kept: int = 0
    is_lost: bool = False  # it cannot be stored; its content is passed over
    _hash: blake3 | None = None

    @property
    def hash(self) -> blake3:
        """Begun when it is needed: thousands of files that go whole wait at a time, and each would hold 2 KB."""
        if self._hash is None:
            self._hash = blake3()
        return self._hash


@dataclass(frozen=True, slots=True)
class Handed:
    """What was handed to the disk. `digest` is None for what has no content."""

    number: int
    path: str
    size: int = 0
    digest: bytes | None = None
    kept: int = 0
    has_descriptor: bool = False


class IncomingFiles:
    """Entries and contents go in, work for the disk comes out, in an order in which it can be done."""

    def __init__(self) -> None:
        self.answers = False
        """Whether the sender waits to hear what of each file is here."""
        self.offer: Offer | None = None
        """What was said yes to."""
        self.number = 0
        """How many entries came that have a number."""
        self.announced = 0
        """How many of them are files."""
        self.done = self.kept = self.holes = self.files = 0
        """Bytes of content, those of them that were here before or are holes, and files, all whole ones."""
        self.actions: deque[FileAction] = deque()
        self.handed: deque[Handed] = deque()
        """What of the actions is to be reported as stored, once the disk has it."""
        self.skipped: deque[tuple[str, str, ExitCode]] = deque()
        """Path, reason and code of what the other side did not send."""
        self.digest = b""
        """Of the last file."""
        self._digests = blake3()
        self._trail = Trail()
        self._roots = 0
        self._linked: set[int] = set()
        self._announced: deque[Incoming] = deque()
        self._unanswered: deque[Incoming] = deque()

    @property
    def path(self) -> str:
        return self._announced[0].path if self._announced else ""

    @property
    def is_between(self) -> bool:
        """Whether no folder is open and no content is due."""
        return not self._announced and not self._trail.depth

    @property
    def digests(self) -> bytes:
        """BLAKE3 over the digests of all files."""
        digest: bytes = self._digests.digest()
        return digest

    # input: all raise RemoteError where the sender broke the protocol

    def handle_entry(self, entry: Entry) -> None:
        if isinstance(entry, Leave):
            self.actions.append(LeaveFolder(self._trail.leave()))
            return
        if isinstance(entry, Skipped):  # of any spelling: it is only shown
            if not self._trail.depth:
                self._take_root(None)
            self.skipped.append((self._trail.path(entry.name), entry.reason, entry.exit_code))
            return
        number, parent, name = self.number, self._trail.folder, safe_name(entry.name)
        if not self._trail.depth:
            self._take_root(entry)
        if self._announced and number - self._announced[0].number >= MAX_ANNOUNCED:
            raise RemoteError(f"more than {MAX_ANNOUNCED} entries ahead of their content")
        path = self._trail.path(name)
        self.number += 1
        if name != entry.name:
            entry = replace(entry, name=name)
        match entry:
            case File():
                self._handle_file(number, parent, path, entry)
                return
            case Folder():
                self._trail.enter(number, name)
                self.actions.append(MakeFolder(number, parent, entry))
            case Symlink(target=target):
                if not stays_inside(target, self._trail.depth - 1):
                    raise RemoteError(f"{escape(path)} is a link that leads elsewhere: {escape(target[:80])}")
                self.actions.append(MakeSymlink(number, parent, entry))
            case Hardlink(to=to):
                if to not in self._linked:  # a link with another name elsewhere would lead elsewhere
                    raise RemoteError(f"{escape(path)} is another name of what is no file with several")
                self.actions.append(MakeHardlink(number, parent, entry))
            case _:
                assert_never(entry)
        self.handed.append(Handed(number, path))

    def handle_data(self, data: Data) -> None:
        file = self._take_range(data.file, data.offset, len(data.piece))
        file.hash.update(data.piece)
        if file.is_lost:
            return
        last = self.actions[-1] if self.actions else None
        if isinstance(last, Write) and last.number == file.number and len(last.pieces) < MAX_PIECES:
            last.pieces.append(data.piece)
        else:
            self.actions.append(Write(file.number, data.offset, [data.piece]))

    def handle_hole(self, hole: Hole) -> None:
        file = self._take_range(hole.file, hole.offset, hole.length)
        update_with_zeros(file.hash, hole.length)
        self.holes += hole.length
        if not file.is_lost:
            self.actions.append(LeaveHole(file.number, hole.offset, hole.length))

    def handle_same(self, same: Same) -> None:
        file = self._take_range(same.file, same.offset, same.length)
        end = same.offset + same.length
        if same.offset % CHUNK or end > file.told or (end % CHUNK and end not in (file.told, file.size)):
            raise RemoteError(f"SAME of {same.length} bytes at {same.offset} of file {file.number}: not told")
        file.kept += same.length
        self.kept += same.length
        if not file.is_lost:
            self.actions.append(Keep(file.number, same.offset, same.length))

    def handle_file_end(self, end: FileEnd) -> None:
        """Raises ContentError."""
        file = self._current(end.file)
        if file.size not in (None, file.offset):
            raise RemoteError(f"end of file {end.file} at offset {file.offset} of {file.size}")
        if not file.kept and file.hash.digest() != end.digest:
            raise ContentError(file.path)
        self._announced.popleft()
        if not file.is_lost:
            self.actions.append(Complete(file.number, file.offset, end.digest, must_verify=file.kept > 0))
            handed = Handed(file.number, file.path, file.offset, end.digest, file.kept, has_descriptor=True)
            self.handed.append(handed)
        self._end_file(end.digest)

    def handle_whole(self, whole: WholeFile) -> None:
        """Raises ContentError."""
        number, digest, content = whole
        file = self._current(number)
        if len(content) != file.size or file.told or file.offset:
            raise RemoteError(f"whole file {number} of {len(content)} bytes where {file.size} were due")
        if blake3(content).digest() != digest:
            raise ContentError(file.path)
        self._announced.popleft()
        if not file.is_lost:
            self.actions.append(Whole(number, content, digest))
            self.handed.append(Handed(number, file.path, len(content), digest))
        self.done += len(content)
        self._end_file(digest)

    def handle_left_out(self, number: int) -> str | None:
        """Returns its path, or None when it was lost before."""
        file = self._current(number)
        self._announced.popleft()
        if file.is_lost:
            return None
        self.actions.append(Drop(number))
        return file.path

    # commands

    def answer(self, number: int, digests: Sequence[bytes], lacking: int) -> tuple[Sequence[bytes], int]:
        """What is here of the file that is due an answer. Returns what of it the sender may be told."""
        if not 0 <= lacking < MAX_PIECES or (lacking and not digests):
            raise CallerError(f"{len(digests)} chunks, the last one without {lacking} pieces")
        if not self._unanswered or self._unanswered[0].number != number:
            raise CallerError(f"file {number} is not due an answer")
        file = self._unanswered.popleft()
        most = min(MAX_CHUNKS, -(-(file.size or 0) // CHUNK))
        if len(digests) > most:
            digests, lacking = digests[:most], 0
        file.told, file.is_answered = len(digests) * CHUNK - lacking * PIECE, True
        return digests, lacking

    def lose(self, number: int) -> bool:
        """It cannot be stored: what comes of it is passed over. Returns whether anything was still to come."""
        file = next((file for file in self._announced if file.number == number), None)
        if file is not None:
            file.is_lost = True
        return file is not None

    def clear(self) -> None:
        for queue in (self.actions, self.handed, self.skipped, self._announced, self._unanswered):
            queue.clear()

    # inside

    def _handle_file(self, number: int, parent: int | None, path: str, entry: File) -> None:
        assert self.offer is not None, "there are no entries before the yes"
        if (entry.size is None) != (self.offer.kind is OfferKind.PIPE):
            raise RemoteError(f"{escape(path)} is a pipe where none was offered, or is none")
        if self.offer.kind is OfferKind.TEXT and (entry.size or 0) > MAX_TEXT:
            raise RemoteError(f"a text of {entry.size} bytes, where {MAX_TEXT} are allowed")
        if (entry.size or 0) > MAX_TOTAL:
            raise RemoteError(f"{escape(path)} has {entry.size} bytes: no file system holds that")
        if entry.is_linked:
            if len(self._linked) >= MAX_LINKED:
                raise RemoteError(f"more than {MAX_LINKED} files with several names")
            self._linked.add(number)
        self.announced += 1
        file = Incoming(number, path, entry.size)
        self._announced.append(file)
        if self.answers:
            self._unanswered.append(file)
        self.actions.append(Announced(number, parent, path, entry))

    def _take_root(self, entry: Numbered | None) -> None:
        """What lies in no folder is what the person was asked about, in that order; None: it could not be sent."""
        offer, number = self.offer, self._roots
        assert offer is not None, "there are no entries before the yes"
        self._roots += 1
        if number >= offer.roots:
            raise RemoteError(f"more than the {offer.roots} things that were offered")
        if entry is None:
            return
        if number >= len(offer.shown) and entry.name.startswith("."):
            raise RemoteError(f"{escape(entry.name)} is hidden, and was not named in the offer")
        if number < len(offer.shown) and safe_name(entry.name) != offer.shown[number].name:
            raise RemoteError(f"{escape(entry.name)} where {escape(offer.shown[number].name)} was offered")
        if isinstance(entry, Symlink) or (offer.kind is not OfferKind.TREE and not isinstance(entry, File)):
            raise RemoteError(f"{escape(entry.name)} is no file and no folder")
        if number < len(offer.shown) and isinstance(entry, Folder) != (offer.shown[number].kind is Kind.FOLDER):
            raise RemoteError(f"{escape(entry.name)} is not of the kind that was offered")
        if number < len(offer.shown) and isinstance(entry, File) and offer.shown[number].size not in (None, entry.size):
            raise RemoteError(f"{escape(entry.name)} is not of the size that was offered")

    def _current(self, number: int) -> Incoming:
        file = self._announced[0] if self._announced else None
        if file is None or file.number != number:
            raise RemoteError(f"content of file {number} where {file.number if file else 'none'} was due")
        if self.answers and not file.is_answered:
            raise RemoteError(f"content of file {number} before it was answered")
        return file

    def _take_range(self, number: int, offset: int, length: int) -> Incoming:
        file = self._current(number)
        limit = MAX_TOTAL if file.size is None else file.size
        if offset != file.offset or not 0 < length <= limit - offset:
            raise RemoteError(f"{length} bytes at {offset} of file {number}, which has {limit}; {file.offset} was due")
        file.offset += length
        self.done += length
        return file

    def _end_file(self, digest: bytes) -> None:
        self._digests.update(digest)
        self.digest = digest
        self.files += 1
