"""Records on their way out: sealed once, kept until the peer says that they were delivered."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import NamedTuple

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from p2p.core.datagram import Buffer
from p2p.core.errors import CallerError
from p2p.core.ranges import RangeSet
from p2p.core.transport.packets import INITIAL_LIMIT, MAX_RECORD, MAX_RECORD_NUMBER, nonce
from p2p.core.transport.sent import NO_RECORD, Run

MAX_KEPT = 1024  # records (63 MiB) kept for a peer that promises more room than anybody needs
RESERVE = 8  # records above the soft queue limit, for words such as ABORT
SUSPICIOUS_FAILURES = 3  # records that failed within the interval below: somebody tampers, seal every segment
SUSPICIOUS_INTERVAL = 10.0  # seconds


@dataclass(slots=True)
class _Record:
    number: int
    ciphertext: bytes
    generation: int = 0  # 0 in the clear, then counts the sealed sendings
    failures: int = 0  # how often the peer said that the tag was wrong
    sent_to: int = 0  # bytes sent at least once in this generation
    acked: RangeSet = field(default_factory=RangeSet)
    lost: RangeSet = field(default_factory=RangeSet)

    @property
    def is_acked(self) -> bool:
        return self.acked.covers(0, len(self.ciphertext))


class Chunk(NamedTuple):
    """A piece of ciphertext that is to be sent: up to `length` bytes from `offset` on."""

    record: int
    generation: int
    ciphertext: bytes
    offset: int
    length: int
    is_retransmission: bool


class OutgoingRecords:
    """Which bytes of which record to send next."""

    def __init__(self, key: bytes) -> None:
        self._aead = AESGCM(key)
        self._records: deque[_Record] = deque()
        self.delivered = 0  # number of the oldest record kept
        self.next = 0  # number of the next record to be sealed
        self._fresh = 0  # number of the first record that has bytes never sent
        self.limit = INITIAL_LIMIT
        self._to_repair: set[int] = set()  # records with lost bytes
        self._failed_at: deque[float] = deque(maxlen=SUSPICIOUS_FAILURES)
        self._seal_all = False
        self.bytes_retransmitted = 0

    @property
    def unsent(self) -> int:
        """Records of which something was never sent."""
        return self.next - self._fresh

    @property
    def is_delivered(self) -> bool:
        return self.delivered == self.next

    @property
    def is_sealing_segments(self) -> bool:
        return self._seal_all

    @property
    def is_blocked(self) -> bool:
        """Only the peer's flow control keeps a record here."""
        return not self._to_repair and self._fresh < self.next and self._fresh >= self.limit

    def room(self, queue: int) -> int:
        """Records that may be queued when `queue` unsent ones are allowed."""
        return max(0, min(queue - self.unsent, self.limit - self.next, self.delivered + MAX_KEPT - self.next))

    def has_reserve(self, queue: int) -> bool:
        return self.unsent < queue + RESERVE and self.next < self.delivered + MAX_KEPT + RESERVE

    def seal(self, plaintext: Buffer) -> None:
        """Raises CallerError for a record that is too long."""
        if len(plaintext) > MAX_RECORD:
            raise CallerError(f"record of {len(plaintext)} bytes where {MAX_RECORD} are allowed")
        if self.next > MAX_RECORD_NUMBER:
            raise CallerError("record numbers are used up")
        ciphertext = self._aead.encrypt(nonce(self.next), plaintext, None)
        self._records.append(_Record(self.next, ciphertext, generation=int(self._seal_all)))
        self.next += 1

    def next_chunk(self) -> Chunk | None:
        """Lost bytes of the oldest record first, then new ones."""
        while self._to_repair:
            record = self._find(min(self._to_repair))
            if record is not None:
                for start, end in record.lost:
                    return Chunk(record.number, record.generation, record.ciphertext, start, end - start, True)
            self._to_repair.discard(min(self._to_repair))
        if self._fresh >= min(self.next, self.limit):
            return None
        record = self._records[self._fresh - self.delivered]
        length = len(record.ciphertext) - record.sent_to
        return Chunk(record.number, record.generation, record.ciphertext, record.sent_to, length, False)

    def on_sent(self, chunk: Chunk, length: int) -> None:
        record = self._find(chunk.record)
        assert record is not None
        if chunk.is_retransmission:
            self.bytes_retransmitted += length
            self._remove_lost(record, chunk.offset + length)
            return
        record.sent_to += length
        if record.sent_to == len(record.ciphertext):
            self._fresh += 1

    def outstanding_chunk(self, run: Run, skip: int) -> Chunk | None:
        """What a probe repeats of a run in flight: its bytes from `skip` on, if they still matter."""
        record = self._find(run.record)
        if record is None or record.generation != run.generation or skip >= run.length:
            return None
        missing = record.acked.gaps(run.offset + skip, run.offset + run.length)
        if not missing:
            return None
        start, end = missing[0]
        return Chunk(record.number, record.generation, record.ciphertext, start, end - start, True)

    def on_acked(self, run: Run) -> None:
        record = self._find(run.record)
        if record is None or record.generation != run.generation:
            return
        record.acked.add(run.offset, run.offset + run.length)
        if record.number in self._to_repair:
            self._set_lost(record, [gap for start, end in record.lost for gap in record.acked.gaps(start, end)])

    def on_lost(self, run: Run) -> None:
        record = self._find(run.record)
        if record is None or record.generation != run.generation:
            return
        for start, end in record.acked.gaps(run.offset, run.offset + run.length):
            record.lost.add(start, end)
            self._to_repair.add(record.number)

    def on_delivered(self, delivered: int) -> bool:
        """The peer has every record below `delivered`. Returns whether that was news."""
        if not self.delivered < delivered <= self.next:
            return False
        for _ in range(delivered - self.delivered):
            self._to_repair.discard(self._records.popleft().number)
        self.delivered = delivered
        self._fresh = max(self._fresh, delivered)
        return True

    def on_limit(self, limit: int) -> bool:
        if limit <= self.limit:
            return False
        self.limit = limit
        return True

    def on_failed(self, number: int, failures: int, now: float) -> None:
        """The peer saw record `number` whole and its tag was wrong, for the `failures`th time."""
        record = self._find(number)
        if record is None or failures <= record.failures or self._seal_all:
            return  # once all is sealed, every byte that counted as received is genuine and stays
        record.failures = failures
        self._failed_at.append(now)
        if len(self._failed_at) == SUSPICIOUS_FAILURES and now - self._failed_at[0] <= SUSPICIOUS_INTERVAL:
            self.seal_all()
        else:
            self._resend_sealed(record)

    def seal_all(self) -> None:
        """Somebody tampers: from now on every segment is sealed, and what crossed in the clear is sent again.

        The peer believes no DATA packet any more, not even those that are still on their way.
        """
        if self._seal_all:
            return
        self._seal_all = True
        for record in self._records:
            if not record.generation:
                self._resend_sealed(record)

    def is_oldest_stuck(self) -> bool:
        """The oldest record was acknowledged in full and is not delivered: an acknowledgement was for forged bytes."""
        return bool(self._records) and self._records[0].is_acked

    def resend_oldest(self) -> None:
        self._resend_sealed(self._records[0])

    def _resend_sealed(self, record: _Record) -> None:
        record.generation += 1
        record.acked = RangeSet()
        if record.number < self._fresh or record.sent_to:  # else it has not been sent at all and will be, sealed
            self._set_lost(record, [(0, record.sent_to)])

    def _find(self, number: int) -> _Record | None:
        index = number - self.delivered
        return self._records[index] if number != NO_RECORD and 0 <= index < len(self._records) else None

    def _remove_lost(self, record: _Record, end: int) -> None:
        record.lost.remove_below(end)
        if not len(record.lost):
            self._to_repair.discard(record.number)

    def _set_lost(self, record: _Record, ranges: list[tuple[int, int]]) -> None:
        record.lost = RangeSet()
        for start, end in ranges:
            record.lost.add(start, end)
        if ranges:
            self._to_repair.add(record.number)
        else:
            self._to_repair.discard(record.number)
