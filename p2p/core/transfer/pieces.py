"""Content that was said, as the sender keeps it until the other side has it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import islice
from typing import NamedTuple

from blake3 import blake3

from p2p.core.datagram import Buffer
from p2p.core.transfer.events import Read
from p2p.core.transfer.messages import CHUNK_DIGEST, DATA_HEADER, PIECE, MessageType

_ABOUT_ONE_FILE = frozenset(
    [MessageType.DATA, MessageType.HOLE, MessageType.SAME, MessageType.FILE_END, MessageType.LEFT_OUT]
)


class Piece(NamedTuple):
    """A DATA record, as it can be made again. One is made for each record, and a tuple is made fastest."""

    file: int
    offset: int
    length: int

    def follows(self, other: Piece) -> bool:
        """Whether one read gives both, `other` first."""
        return other.length == PIECE and (self.file, self.offset) == (other.file, other.offset + PIECE)


def next_read(repeated: Iterable[bytes | Piece], most: int) -> Read | None:
    """What to read to say the first of these again, `most` pieces at a time; None where a record is as it was."""
    pieces: list[Piece] = []
    for item in islice(repeated, most):
        if not isinstance(item, Piece) or (pieces and not item.follows(pieces[-1])):
            break
        pieces.append(item)
    return Read(pieces[0].file, pieces[0].offset, sum(piece.length for piece in pieces)) if pieces else None


def file_of(item: bytes | Piece) -> int | None:
    """The file whose content this is about."""
    if isinstance(item, Piece):
        return item.file
    return int.from_bytes(item[1:5], "big") if item[0] in _ABOUT_ONE_FILE else None


def is_left_out(item: bytes | Piece) -> bool:
    return isinstance(item, bytes) and item[0] == MessageType.LEFT_OUT


def is_chunk(records: Sequence[Buffer], digest: bytes) -> bool:
    chunk = blake3()
    for record in records:
        chunk.update(memoryview(record)[DATA_HEADER:])
    return chunk.digest(CHUNK_DIGEST) == digest
