"""Records on their way in: assembled, verified, handed on in order."""

from __future__ import annotations

from collections import deque

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from p2p.core.datagram import Buffer
from p2p.core.ranges import RangeSet
from p2p.core.transport.frames import MAX_FAILED
from p2p.core.transport.packets import INITIAL_LIMIT, nonce

MAX_FAILURES = 255  # what the one byte of an ACK can say


class _Assembly:
    """One record as far as it has come. Bytes of sealed segments are genuine and stay; clear ones may be forged."""

    __slots__ = ("buffer", "clear", "sealed")

    def __init__(self, length: int) -> None:
        self.buffer = bytearray(length)
        self.clear = RangeSet()
        self.sealed = RangeSet()

    def add_clear(self, offset: int, data: Buffer) -> None:
        end = offset + len(data)
        if len(self.sealed):
            for low, high in self.sealed.gaps(offset, end):
                self.buffer[low:high] = data[low - offset : high - offset]
        else:
            self.buffer[offset:end] = data
        self.clear.add(offset, end)

    def add_sealed(self, offset: int, data: Buffer) -> None:
        end = offset + len(data)
        self.buffer[offset:end] = data
        self.sealed.add(offset, end)

    @property
    def is_whole(self) -> bool:
        length = len(self.buffer)
        if not len(self.sealed):
            return self.clear.covers(0, length)
        return all(self.clear.covers(low, high) for low, high in self.sealed.gaps(0, length))


class IncomingRecords:
    """Memory is bounded by the window: partial, verified and unread records together never exceed it."""

    def __init__(self, key: bytes, window: int) -> None:
        self._aead = AESGCM(key)
        self._window = window
        self._ready: deque[bytes] = deque()
        self._verified: dict[int, bytes] = {}  # behind a record that is still missing
        self._partial: dict[int, _Assembly] = {}
        self._failures: dict[int, int] = {}
        self.delivered = 0  # records below this one were verified, without a gap
        self.taken = 0  # and below this one handed on
        self.records_failed = 0
        self.records_verified = 0

    @property
    def limit(self) -> int:
        """Records below this one may be sent."""
        return max(self.taken + self._window, INITIAL_LIMIT)

    @property
    def window(self) -> int:
        return self._window

    @property
    def failed(self) -> tuple[tuple[int, int], ...]:
        """Records whose tag was wrong, and how often; the oldest ones."""
        if not self._failures:
            return ()
        return tuple(sorted(self._failures.items())[:MAX_FAILED])

    def poll_record(self) -> bytes | None:
        if not self._ready:
            return None
        self.taken += 1
        return self._ready.popleft()

    def on_clear(self, record: int, offset: int, record_length: int, data: Buffer) -> bool:
        """Bytes of a DATA packet. Returns whether the packet counts as received (False: outside the window)."""
        if record >= self.limit:
            return False
        if record < self.delivered or record in self._verified or record in self._failures:
            return True  # had it already, or only sealed segments are believed for it
        assembly = self._partial.get(record)
        if assembly is None:
            if len(data) == record_length:
                self._verify(record, data)
                return True
            assembly = self._partial[record] = _Assembly(record_length)
        if len(assembly.buffer) != record_length:
            if not len(assembly.sealed):  # one of the two lengths is a lie
                self._fail(record, None)
            return True
        assembly.add_clear(offset, data)
        if assembly.is_whole:
            self._complete(record, assembly)
        return True

    def on_sealed(self, record: int, offset: int, record_length: int, data: Buffer) -> bool:
        """Bytes of a SEGMENT frame: genuine. Returns whether the packet counts as received."""
        if record >= self.limit:
            return False
        if record < self.delivered or record in self._verified:
            return True
        assembly = self._partial.get(record)
        if assembly is None or len(assembly.buffer) != record_length:
            assembly = self._partial[record] = _Assembly(record_length)
        assembly.add_sealed(offset, data)
        if assembly.is_whole:
            self._complete(record, assembly)
        return True

    def forget_clear(self) -> None:
        """Drops all bytes that were not authenticated."""
        for number, assembly in list(self._partial.items()):
            if len(assembly.sealed):
                assembly.clear = RangeSet()
            else:
                del self._partial[number]

    def _complete(self, record: int, assembly: _Assembly) -> None:
        if self._verify(record, assembly.buffer):
            del self._partial[record]

    def _verify(self, record: int, ciphertext: Buffer) -> bool:
        try:
            plaintext = self._aead.decrypt(nonce(record), ciphertext, None)
        except InvalidTag:
            self._fail(record, self._partial.get(record))
            return False
        self._failures.pop(record, None)
        self.records_verified += 1
        if record != self.delivered:
            self._verified[record] = plaintext
            return True
        self._ready.append(plaintext)
        self.delivered += 1
        while self._verified and (following := self._verified.pop(self.delivered, None)) is not None:
            self._ready.append(following)
            self.delivered += 1
        return True

    def _fail(self, record: int, assembly: _Assembly | None) -> None:
        self.records_failed += 1
        self._failures[record] = min(self._failures.get(record, 0) + 1, MAX_FAILURES)
        if assembly is not None and len(assembly.sealed):
            assembly.clear = RangeSet()
        else:
            self._partial.pop(record, None)
