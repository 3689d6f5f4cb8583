"""Content that was said, as the sender keeps it until the other side has it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from blake3 import blake3

from p2p.core.datagram import Buffer
from p2p.core.transfer.messages import CHUNK_DIGEST, DATA_HEADER, PIECE, MessageType

_ABOUT_ONE_FILE = frozenset(
    [MessageType.DATA, MessageType.HOLE, MessageType.SAME, MessageType.FILE_END, MessageType.LEFT_OUT]
)


@dataclass(frozen=True, slots=True)
class Piece:
    """A DATA record, as it can be made again."""

    file: int
    offset: int
    length: int

    def follows(self, other: Piece) -> bool:
        """Whether one read gives both, `other` first."""
        return other.length == PIECE and (self.file, self.offset) == (other.file, other.offset + PIECE)


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
