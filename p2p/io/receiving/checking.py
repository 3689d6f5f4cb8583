"""What of a file is on this disk already: the digests of its chunks, read from the disk and from nothing else."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import sys
from collections.abc import Callable, Sequence
from functools import cache
from typing import Final, overload

from blake3 import blake3

from p2p.core.errors import P2PError
from p2p.core.transfer.hashing import update_with_zeros
from p2p.core.transfer.limits import MAX_CHUNKS
from p2p.core.transfer.messages import CHUNK, CHUNK_DIGEST, PIECE
from p2p.io.worker import Worker

READ: Final = 2**20  # bytes; reads of 4, 8 and 16 MiB are no faster
# Bytes from which on BLAKE3 is shared among processors. A chunk in memory, with two busy ones: 0.7 to 1.0 GB/s became
# 1.2 to 2.2; from a disk of 0.9 GB/s it is the same.
SHARED: Final = 2**18

OpenFile = Callable[[], int | None]


class Stopped(P2PError):
    """Whoever wanted to know has gone."""


class Digests(Sequence[bytes]):
    """Of the chunks of a file, from the first on. 16 bytes each: as objects of their own they would take 49.

    `lacking`: pieces by which the last chunk is shorter. `in_begun`: see parts.Found.
    """

    def __init__(self, data: bytes | bytearray, lacking: int = 0, in_begun: bytes | bytearray = b"") -> None:
        self.lacking = lacking
        self.in_begun = in_begun
        self._data = data

    def __len__(self) -> int:
        return len(self._data) // CHUNK_DIGEST

    @overload
    def __getitem__(self, index: int) -> bytes: ...

    @overload
    def __getitem__(self, index: slice) -> Digests: ...

    def __getitem__(self, index: int | slice) -> bytes | Digests:
        if isinstance(index, slice):
            start, stop, step = index.indices(len(self))
            if step != 1:
                raise ValueError("digests are told in their order")
            return Digests(self._data[start * CHUNK_DIGEST : max(start, stop) * CHUNK_DIGEST])
        first = range(len(self))[index] * CHUNK_DIGEST
        return bytes(self._data[first : first + CHUNK_DIGEST])


class Checker:
    """Computes chunk digests in a thread, one file after the other.

    Register `fileno()` at the selector for reading, and call `handle_readable` when it is.
    """

    def __init__(self) -> None:
        self._worker = Worker("p2p-checker")
        self._buffer = memoryview(bytearray(CHUNK))
        self._is_closed = False
        self._announced = 0  # bytes of all files that were queued
        self._read = self._absent = 0  # bytes of them that were compared, and that turned out not to be here

    @property
    def checked(self) -> tuple[int, int]:
        """Bytes compared, and bytes to compare: of those whose turn has not come, what was announced."""
        return self._read, self._announced - self._absent

    def fileno(self) -> int:
        return self._worker.fileno()

    def handle_readable(self) -> None:
        """Runs the `done` of what has been read."""
        self._worker.handle_readable()

    def check(
        self, open_file: OpenFile, size: int, done: Callable[[Digests], None], open_begun: OpenFile | None = None
    ) -> None:
        """Queues a file of which `size` bytes were announced; `done` gets its digests, in order of the calls.

        They are of whole chunks, and of a last one of as many whole pieces as are there; of a file that has exactly
        that size, it ends where the file does. `open_file` runs in the thread when the file's turn has come, so
        thousands may wait without a descriptor; it gives one that is closed afterwards, or None where nothing is there.
        What cannot be read is not there. `open_begun`, of the part that is to replace the file: a chunk that it has on
        the disk from end to end is newer than that of the file.
        """
        self._announced += size
        self._worker.submit(self._check, open_file, size, open_begun, done=lambda future: done(future.result()))

    def close(self, timeout: float = 0.0) -> bool:
        """Stops within a chunk, runs no `done`. Waits up to `timeout` seconds; returns whether the thread has ended."""
        self._is_closed = True
        return self._worker.close(timeout)

    def _check(self, open_file: OpenFile, size: int, open_begun: OpenFile | None) -> Digests:
        """In the thread."""
        read = self._read
        digests, in_begun = bytearray(), bytearray()
        lacking = 0
        try:
            with contextlib.ExitStack() as stack, contextlib.suppress(OSError):
                fd, begun = open_file(), None if open_begun is None else open_begun()
                for each in (fd, begun):
                    if each is not None:
                        stack.callback(os.close, each)
                if fd is not None:
                    lacking = self._read_chunks(fd, begun, size, digests, in_begun)
        finally:
            self._absent += size - (self._read - read)
        return Digests(digests, lacking, in_begun)

    def _read_chunks(self, fd: int, begun: int | None, size: int, digests: bytearray, in_begun: bytearray) -> int:
        """Returns how many pieces the last chunk lacks. Raises OSError; what was read until then stands."""
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            return 0
        length, most = min(size, status.st_size), min(size, MAX_CHUNKS * CHUNK)
        if status.st_size != size:
            length -= length % PIECE
        extents = Extents(fd)
        newer, newer_size = (Extents(begun), os.fstat(begun).st_size) if begun is not None else (None, 0)
        for offset in range(0, most, CHUNK):
            whole = min(CHUNK, most - offset)
            is_newer = newer is not None and offset + whole <= newer_size and newer.is_data(offset, whole)
            if not is_newer and offset >= length:
                break
            source = begun if is_newer and begun is not None else fd
            chunk = self._buffer[: whole if is_newer else min(whole, length - offset)]
            if not is_newer and extents.is_hole(offset, len(chunk)):
                digests += _digest_of_zeros(len(chunk))
            elif self._is_closed or read_full(source, chunk, offset) < len(chunk):
                return 0
            else:
                digests += blake3(chunk, max_threads=_threads(len(chunk))).digest(CHUNK_DIGEST)
            self._read += len(chunk)
            if begun is not None:
                in_begun.append(is_newer)
            if len(chunk) < whole:
                return (CHUNK - len(chunk)) // PIECE
        return 0


class Extents:
    """Where a file has bytes on the disk, asked in ascending order. Moves the position of the descriptor."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._data = self._hole = 0  # where bytes are next, and where they end

    def is_hole(self, offset: int, length: int) -> bool:
        """Whether none of these bytes is on the disk: they are zero, and need not be read."""
        if offset >= self._hole:
            self._find(offset)
        return offset + length <= self._data

    def is_data(self, offset: int, length: int) -> bool:
        """Whether all of these bytes are on the disk, as far as the file system can tell."""
        if offset >= self._hole:
            self._find(offset)
        return self._data <= offset and offset + length <= self._hole

    def _find(self, offset: int) -> None:
        try:
            self._data = os.lseek(self._fd, offset, os.SEEK_DATA)
            self._hole = os.lseek(self._fd, self._data, os.SEEK_HOLE)
        except OSError as error:
            self._data = sys.maxsize if error.errno == errno.ENXIO else offset  # no more of them; or no such call here
            self._hole = sys.maxsize


def digest_of(fd: int, stop: Callable[[], bool] = bool, on_read: Callable[[int], None] | None = None) -> bytes:
    """The BLAKE3 of a whole file, for `Complete.must_verify`. Blocks on the disk. `on_read` hears of so many bytes.

    Raises OSError, and Stopped within a megabyte after `stop` says True.
    """
    status = os.fstat(fd)
    if not stat.S_ISREG(status.st_mode):
        raise OSError(errno.EINVAL, "not a regular file")
    hash_ = blake3(max_threads=_threads(status.st_size))
    extents = Extents(fd)
    buffer = memoryview(bytearray(min(READ, status.st_size)))
    for offset in range(0, status.st_size, READ):
        if stop():
            raise Stopped
        part = buffer[: status.st_size - offset]
        if extents.is_hole(offset, len(part)):
            update_with_zeros(hash_, len(part))
        else:
            hash_.update(part[: read_full(fd, part, offset)])  # shorter: it was cut off meanwhile, and will not match
        if on_read is not None:
            on_read(len(part))
    digest: bytes = hash_.digest()
    return digest


def read_full(fd: int, buffer: memoryview, offset: int) -> int:
    """Returns how many bytes there were: fewer only at the end of the file. Raises OSError."""
    done = 0
    while done < len(buffer) and (count := os.preadv(fd, [buffer[done:]], offset + done)):
        done += count
    return done


def _threads(length: int) -> int:
    return blake3.AUTO if length >= SHARED else 1


@cache
def _zero_chunk() -> bytes:
    digest: bytes = blake3(bytes(CHUNK)).digest(CHUNK_DIGEST)
    return digest


def _digest_of_zeros(length: int) -> bytes:
    if length == CHUNK:
        return _zero_chunk()
    digest: bytes = blake3(bytes(length)).digest(CHUNK_DIGEST)
    return digest
