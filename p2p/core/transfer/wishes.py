"""What the sender wants of its disk: one thing at a time, of what comes next or of what is said again."""

from __future__ import annotations

from dataclasses import replace

from p2p.core.errors import CallerError
from p2p.core.transfer.events import Read, ReadPipe, ReadWhole
from p2p.core.transfer.limits import MAX_PIECES
from p2p.core.transfer.messages import PIECE
from p2p.core.transfer.outgoing import OutgoingFiles
from p2p.core.transfer.pieces import Piece, next_read
from p2p.core.transfer.records import Records

Wish = Read | ReadWhole | ReadPipe


class Wishes:
    """One stands until it is fulfilled, whatever becomes of the path meanwhile."""

    def __init__(self) -> None:
        self.standing: Wish | None = None
        self.repeats = False
        """It is for what was sent before."""
        self._is_void = False  # and is not wanted any more

    def repeat(self, records: Records[Piece], room: int) -> None:
        """What the first of those records that are said again is made of, and of those behind it."""
        self.standing, self.repeats = next_read(records.repeated, min(room, MAX_PIECES)), True

    def go_ahead(self, files: OutgoingFiles, room: int) -> None:
        """What was not sent yet."""
        self.standing, self.repeats = files.next_wish(min(room, MAX_PIECES)), False

    def take(self, wish: Wish) -> bool:
        """It is fulfilled. Returns whether its answer is of use."""
        if self.standing != wish:
            raise CallerError(f"{wish} is not what was wanted: {self.standing}")
        self.standing = None
        is_void, self._is_void = self._is_void, False
        return not is_void

    def shorten(self, read: Read, length: int) -> Read:
        """What is wanted instead."""
        if self.standing != read or not read.may_be_hole or not 0 < length < read.length or length % PIECE:
            raise CallerError(f"{length} bytes of {read}")
        self.standing = wish = replace(read, length=length)
        return wish

    def go_on(self) -> None:
        """There is a new path: what was to be said again on the last one may not have to be."""
        self._is_void = self.standing is not None and self.repeats

    def clear(self) -> None:
        self.standing = None
