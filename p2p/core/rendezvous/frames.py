"""Datagrams in a TCP connection: docs/protocol.md, section 1, "Over TCP"."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from p2p.core.datagram import Buffer
from p2p.core.errors import CallerError, DecodeError

LENGTH_SIZE = 2  # bytes before each datagram
MAX_DATAGRAM = 65_507  # bytes: what UDP over IPv4 can carry, so that everything fits that could have come by UDP


def frame(datagram: Buffer) -> bytes:
    """length(2) datagram. Raises CallerError for an empty one and for one above MAX_DATAGRAM."""
    if not 1 <= len(datagram) <= MAX_DATAGRAM:
        raise CallerError(f"a datagram of {len(datagram)} bytes; 1 to {MAX_DATAGRAM} fit a frame")
    return b"".join((len(datagram).to_bytes(LENGTH_SIZE, "big"), datagram))


def frame_burst(datagrams: Buffer, segment_size: int) -> bytes:
    """A frame for each datagram of `segment_size` bytes (0: one); only the last may be shorter. Raises CallerError."""
    if not 0 < segment_size < len(datagrams):
        return frame(datagrams)
    view, length = memoryview(datagrams), segment_size.to_bytes(LENGTH_SIZE, "big")
    whole = len(view) - len(view) % segment_size
    parts: list[Buffer] = []
    for start in range(0, whole, segment_size):
        parts += (length, view[start : start + segment_size])
    if whole < len(view):
        parts.append(frame(view[whole:]))
    return b"".join(parts)


class FrameReader:
    """Cuts what a connection brings into datagrams; keeps at most one that is not whole yet."""

    def __init__(self, limit: int = MAX_DATAGRAM) -> None:
        """`limit`: bytes of the longest datagram that is taken."""
        self._limit = limit
        self._partial = b""

    def feed(self, data: Buffer) -> list[bytes]:
        """The datagrams that are whole now. Raises DecodeError for a length that cannot be; nothing can follow that."""
        buffer = self._partial + data if self._partial else bytes(data)
        datagrams = []
        at, end = 0, len(buffer)
        while at + LENGTH_SIZE <= end:
            start = at + LENGTH_SIZE
            length = int.from_bytes(buffer[at:start], "big")
            if not 1 <= length <= self._limit:
                raise DecodeError(f"a frame of {length} bytes where 1 to {self._limit} are allowed")
            if start + length > end:
                break
            at = start + length
            datagrams.append(buffer[start:at])
        self._partial = buffer[at:]
        return datagrams


def bursts(datagrams: Iterable[bytes], first_bytes: bytes, limit: int, count: int) -> Iterator[tuple[bytes, int]]:
    """Joins those that begin with one of `first_bytes`, each after the other, as UDP_GRO would: data, segment size.

    Of one size, but perhaps the last; `limit` bytes and `count` datagrams at most. All others go alone, with size 0.
    """
    run: list[bytes] = []
    length = 0
    for datagram in datagrams:
        joins = datagram[0] in first_bytes
        if run and (not joins or len(datagram) > len(run[0]) or length + len(datagram) > limit or len(run) == count):
            yield _joined(run)
            run, length = [], 0
        if not joins:
            yield datagram, 0
            continue
        run.append(datagram)
        length += len(datagram)
        if len(datagram) < len(run[0]):
            yield _joined(run)
            run, length = [], 0
    if run:
        yield _joined(run)


def _joined(run: list[bytes]) -> tuple[bytes, int]:
    return b"".join(run), len(run[0]) if len(run) > 1 else 0
