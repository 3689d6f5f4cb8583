"""One connection of the transport over UDP (docs/protocol.md section 6, docs/transport.md)."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass
from typing import assert_never

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from p2p.core.address import Address
from p2p.core.datagram import Buffer, Transmit
from p2p.core.errors import CallerError, DecodeError
from p2p.core.transport import packets
from p2p.core.transport.closing import Closing, State
from p2p.core.transport.congestion import CongestionController
from p2p.core.transport.cubic import Cubic
from p2p.core.transport.events import Closed, Event, IdleTimedOut, PathMtuChanged, Stats
from p2p.core.transport.frames import (
    SEGMENT_HEADER,
    Ack,
    Close,
    Frame,
    Ping,
    Segment,
    clip,
    decode_frames,
    encode_frame,
)
from p2p.core.transport.incoming import IncomingRecords
from p2p.core.transport.outgoing import Chunk, OutgoingRecords
from p2p.core.transport.pacer import Pacer
from p2p.core.transport.packets import MAX_RECORD, DataPiece
from p2p.core.transport.path_mtu import PathMtu
from p2p.core.transport.received import ReceivedPackets
from p2p.core.transport.recovery import PROBES, AckOutcome, Recovery
from p2p.core.transport.rtt import RttEstimator
from p2p.core.transport.sent import Run

__all__ = ["MAX_RECORD", "Connection", "ConnectionKeys"]

IDLE_TIMEOUT = 12.0  # seconds without anything genuine from the peer; docs/protocol.md section 6
KEEPALIVE_INTERVAL = 3.0  # seconds without sending; well under the 30 s that NATs keep a UDP mapping (RFC 4787 REQ-5)
SEND_QUEUE = 0.004  # seconds of the pacing rate that may wait sealed: the loop comes round more often than that
MIN_SEND_QUEUE = 4  # records
MAX_SEND_QUEUE = 64  # records: 4 MB
WINDOW_UPDATE_FRACTION = 4  # an ACK goes out of its own accord once a quarter of the window was taken
ACK_PING_INTERVAL = 1.0  # seconds between the PINGs that a receiver of data adds to its ACKs, to learn what is old news
BUNDLED_ACK_RANGES = 8  # in a probe; the rest of it is for data
MAX_EVENTS = 64  # unread events; a program that never asks loses the oldest
SEGMENT_OVERHEAD = packets.SEALED_HEADER + packets.TAG + SEGMENT_HEADER


@dataclass(frozen=True, slots=True)
class ConnectionKeys:
    """32 bytes each, of which an id uses the first 7. `out` is what we send, `in` what the peer sends."""

    records_out: bytes
    records_in: bytes
    control_out: bytes
    control_in: bytes
    id_out: bytes
    id_in: bytes


class Connection:
    """Carries records in order, each exactly once, sealed, over datagrams that may be lost, changed or forged."""

    def __init__(
        self,
        keys: ConnectionKeys,
        remote: Address,
        now: float,
        *,
        receive_window_records: int = 256,
        controller: CongestionController | None = None,
    ) -> None:
        self._remote = remote
        self._seal = AESGCM(keys.control_out)
        self._open = AESGCM(keys.control_in)
        self._data_out, self._sealed_out = _prefixes(keys.id_out)
        self._data_in, self._sealed_in = _prefixes(keys.id_in)
        self._outgoing = OutgoingRecords(keys.records_out)
        self._incoming = IncomingRecords(keys.records_in, receive_window_records)
        self._rtt = RttEstimator()
        self._recovery = Recovery(self._rtt, now)
        self._controller: CongestionController = controller if controller is not None else Cubic()
        self._pacer = Pacer(now)
        self._mtu = PathMtu()
        self._received = ReceivedPackets()
        self._closing = Closing()
        self._events: deque[Event] = deque(maxlen=MAX_EVENTS)
        self._next_number = 0
        self._heard_at = self._sent_at = now
        self._busy_at = -math.inf  # when the window or the pacer last held data back
        self._congestion_at = -math.inf
        self._pacing_deadline: float | None = None
        self._stuck_deadline: float | None = None
        self._probes = 0
        self._ping_due = False
        self._blocked_probes = 0
        self._advertised = 0
        self._ack_ping_at = now
        self._data_since_ping = False
        self._bytes_sent = self._dropped = 0

    # Input

    def handle_datagram(self, data: Buffer, segment_size: int, source: Address, now: float) -> None:
        """One read from the socket: a datagram, or with `segment_size` > 0 a coalesced burst. Keeps no reference."""
        if source != self._remote:
            self._dropped += 1
            return
        length = len(data)
        if 0 < segment_size < length:
            if data[:8] == self._data_in and (piece := packets.decode_burst(data, segment_size)) is not None:
                self._on_data(piece, now)
                return
            view = memoryview(data)
            for start in range(0, length, segment_size):
                self._on_datagram(view[start : start + segment_size], now)
        else:
            self._on_datagram(data, now)

    def handle_timeout(self, now: float) -> None:
        """Called when poll_timeout has come; early calls do nothing."""
        self._closing.handle_timeout(now)
        if self._closing.state is not State.OPEN:
            return
        if now >= self._heard_at + IDLE_TIMEOUT:
            self._closing.on_idle()
            self._events.append(IdleTimedOut(now - self._heard_at))
            return
        self._mtu.handle_timeout(now)
        lost = self._recovery.handle_timeout(now)
        if lost:
            self._on_lost(lost, now)
        elif (pto := self._recovery.pto_deadline()) is not None and now >= pto:
            self._on_pto()
        if self._stuck_deadline is not None and now >= self._stuck_deadline:
            self._stuck_deadline = None
            self._outgoing.resend_oldest()
        if (blocked := self._blocked_deadline()) is not None and now >= blocked:
            self._blocked_probes += 1
            self._ping_due = True
        if now >= self._sent_at + KEEPALIVE_INTERVAL:
            self._ping_due = True

    def handle_message_too_big(self, transmit: Transmit, now: float) -> None:
        """The socket refused `transmit` (EMSGSIZE): nothing of it left."""
        size = transmit.segment_size or sum(len(buffer) for buffer in transmit.buffers)
        shrunk = self._mtu.on_too_big(size, now)
        refused = [run for run in self._recovery.sent if max(run.size, run.last_size) >= size]
        self._recovery.forget(refused)
        for run in refused:
            self._outgoing.on_lost(run)
        if shrunk:
            self._on_datagram_size()

    # Command

    def can_send(self) -> bool:
        """Whether a record may be queued: the peer has room for it and a few milliseconds' worth is not waiting yet."""
        return self._closing.state is State.OPEN and self._outgoing.has_room(self._send_queue())

    def send(self, plaintext: Buffer, now: float) -> None:  # noqa: ARG002
        """Seals a record and queues it. A few records beyond can_send() are taken, for words such as ABORT.

        Raises CallerError for a record above MAX_RECORD bytes, on a full queue, or after the connection was closed.
        """
        if self._closing.state is not State.OPEN:
            raise CallerError("the connection is closed")
        if not self._outgoing.has_reserve(self._send_queue()):
            raise CallerError("the send queue is full: ask can_send() first")
        self._outgoing.seal(plaintext)

    def close(self, exit_code: int, reason: str, now: float) -> None:
        """Ends the connection at once; records not delivered yet are dropped. `reason` may be cut to 512 bytes."""
        if self._closing.state is State.OPEN:
            self._closing.close(exit_code, clip(reason), now, self._rtt.pto)
            self._events.append(Closed(exit_code, reason, by_peer=False))

    # Output

    def poll_transmit(self, now: float) -> Transmit | None:
        """What to send next; ask until None, after every input."""
        self._pacing_deadline = None
        if self._closing.state is not State.OPEN:
            frame = self._closing.poll_frame(now)
            return self._send_frames([frame], now, eliciting=False) if frame is not None else None
        if self._received.is_due(now) or self._is_window_update_due():
            return self._send_ack(now)
        if self._probes:
            self._probes -= 1
            return self._send_probe(now)
        if (size := self._mtu.next_probe()) is not None and self._rtt.has_sample:
            self._mtu.on_probe_sent()
            return self._send_frames([Ping()], now, probe_size=size)
        transmit = self._send_data(now)
        if transmit is None and self._ping_due:
            return self._send_frames([Ping()], now)
        return transmit

    def poll_record(self) -> bytes | None:
        """The next record in order."""
        return self._incoming.poll_record()

    def poll_event(self) -> Event | None:
        return self._events.popleft() if self._events else None

    def poll_timeout(self) -> float | None:
        """When to call handle_timeout and poll_transmit again, pacing included; None once drained."""
        if self._closing.state is not State.OPEN:
            return self._closing.poll_timeout()
        deadlines = (
            self._heard_at + IDLE_TIMEOUT,
            self._sent_at + KEEPALIVE_INTERVAL,
            self._recovery.poll_timeout(),
            self._received.poll_timeout(),
            self._pacing_deadline,
            self._stuck_deadline,
            self._blocked_deadline(),
            self._mtu.poll_timeout(),
        )
        return min(at for at in deadlines if at is not None)

    @property
    def is_idle(self) -> bool:
        """Whether every record sent is delivered."""
        return self._outgoing.is_delivered

    @property
    def is_drained(self) -> bool:
        """Closed, and nothing more to send or to answer."""
        return self._closing.is_drained

    @property
    def stats(self) -> Stats:
        return Stats(
            smoothed_rtt=self._rtt.smoothed,
            min_rtt=self._rtt.min,
            rtt_variance=self._rtt.variance,
            congestion_window=self._controller.window,
            bytes_in_flight=self._recovery.bytes_in_flight,
            pacing_rate=self._controller.pacing_rate(self._rtt.smoothed),
            datagram_size=self._mtu.size,
            bytes_sent=self._bytes_sent,
            bytes_acked=self._recovery.delivered,
            bytes_lost=self._recovery.bytes_lost,
            bytes_retransmitted=self._outgoing.bytes_retransmitted,
            packets_sent=self._next_number,
            packets_dropped=self._dropped,
            records_sent=self._outgoing.next,
            records_delivered=self._outgoing.delivered,
            records_received=self._incoming.delivered,
            records_failed=self._incoming.records_failed,
            is_sealing_segments=self._outgoing.is_sealing_segments,
        )

    # Receiving

    def _on_datagram(self, datagram: Buffer, now: float) -> None:
        prefix = datagram[:8]
        try:
            if prefix == self._data_in:
                self._on_data(packets.decode_data(datagram), now)
            elif prefix == self._sealed_in:
                self._on_sealed(datagram, now)
            else:
                self._dropped += 1
        except (DecodeError, InvalidTag):
            self._dropped += 1

    def _on_data(self, piece: DataPiece, now: float) -> None:
        """A DATA packet never closes or moves the connection: anybody on the path can write one."""
        if self._closing.state is not State.OPEN:
            self._closing.on_datagram(now)
            return
        failed, verified = self._incoming.records_failed, self._incoming.records_verified
        if not self._incoming.on_clear(piece.record, piece.offset, piece.record_length, piece.data):
            self._dropped += piece.count
            return
        self._data_since_ping = True
        self._received.on_packets(piece.packet_number, piece.count, now, self._rtt.smoothed, genuine=False)
        if self._incoming.records_verified != verified:
            self._heard_at = now
        if self._incoming.records_failed != failed:
            self._received.demand()

    def _on_sealed(self, datagram: Buffer, now: float) -> None:
        header = bytes(datagram[: packets.SEALED_HEADER])
        if len(datagram) < packets.SEALED_HEADER + packets.TAG:
            raise DecodeError("SEALED packet is cut short")
        number = int.from_bytes(header[8:], "big")
        plaintext = self._open.decrypt(packets.nonce(number), datagram[packets.SEALED_HEADER :], header)
        frames = decode_frames(plaintext)
        if number > self._received.largest_sealed:  # a replayed packet does not keep the connection alive
            self._heard_at = now
        if self._closing.state is not State.OPEN:
            self._on_late_frames(frames, now)
            return
        is_counted, is_eliciting = True, False
        for frame in frames:
            match frame:
                case Ping():
                    is_eliciting = True
                    self._received.demand()
                case Ack():
                    self._on_ack(frame, now)
                case Segment(record, offset, record_length, data):
                    is_eliciting = self._data_since_ping = True
                    is_counted &= self._incoming.on_sealed(record, offset, record_length, data)
                case Close():
                    self._on_close(frame, now)
                    return
                case _:
                    assert_never(frame)
        if is_eliciting and is_counted:
            self._received.on_packets(number, 1, now, self._rtt.smoothed, genuine=True)
        elif is_counted:
            self._received.on_unasked(number)

    def _on_late_frames(self, frames: list[Frame], now: float) -> None:
        for frame in frames:
            if isinstance(frame, Close):
                self._on_close(frame, now)
                return
        self._closing.on_datagram(now)

    def _on_close(self, frame: Close, now: float) -> None:
        if self._closing.on_close(frame, now, self._rtt.pto):
            self._events.append(Closed(frame.exit_code, frame.reason, by_peer=True))

    def _on_ack(self, ack: Ack, now: float) -> None:
        ranges = ack.ranges
        if ranges[0][1] > self._next_number:  # numbers never sent: the peer was shown forged packets
            ranges = tuple((low, min(high, self._next_number)) for low, high in ranges if low < self._next_number)
        if self._outgoing.on_delivered(ack.delivered):
            self._stuck_deadline = None
        if self._outgoing.on_limit(ack.record_limit):
            self._blocked_probes = 0
        if ranges:
            self._on_ack_outcome(self._recovery.on_ack(ranges, ack.delay, now, self._busy_at), now)
        for record, failures in ack.failed:
            self._outgoing.on_failed(record, failures, now)
        if not self._outgoing.is_oldest_stuck():
            self._stuck_deadline = None
        elif self._stuck_deadline is None:
            self._stuck_deadline = now + self._rtt.pto

    def _on_ack_outcome(self, outcome: AckOutcome, now: float) -> None:
        for run in outcome.acked:
            if run.is_path_probe:
                if self._mtu.on_probe_acked(run.size):
                    self._on_datagram_size()
                continue
            self._mtu.on_acked(run.size)
            self._outgoing.on_acked(run)
            if run.ack_floor >= 0:
                self._received.on_ack_acked(run.ack_floor)
        for run in outcome.late:
            self._outgoing.on_acked(run)
        if outcome.lost:
            self._on_lost(outcome.lost, now)
        if outcome.is_spurious:
            self._controller.on_spurious_congestion_event(now)
        if outcome.is_persistent:
            self._controller.on_persistent_congestion(now)
            self._rtt.forget_min()
        if outcome.sample is not None:
            self._probes = 0
            self._controller.on_ack(outcome.sample)

    def _on_lost(self, lost: list[Run], now: float) -> None:
        congestive = [run for run in lost if not run.is_path_probe]
        for run in lost:
            if run.is_path_probe:
                self._mtu.on_probe_lost(run.size, now)
            else:
                self._outgoing.on_lost(run)
        if not congestive:
            return
        sent_at = congestive[-1].sent_at
        is_new = sent_at > self._congestion_at
        if is_new:
            self._congestion_at = now
        self._recovery.on_congestion_event(congestive, is_new)
        lost_bytes = sum(run.bytes for run in congestive)
        self._controller.on_congestion_event(now, sent_at, lost_bytes, self._recovery.bytes_in_flight)
        if self._mtu.on_lost(max(run.size for run in congestive), now):
            self._on_datagram_size()

    def _on_datagram_size(self) -> None:
        self._controller.on_datagram_size(self._mtu.size)
        self._events.append(PathMtuChanged(self._mtu.size))

    def _on_pto(self) -> None:
        self._recovery.pto_count += 1
        self._probes = PROBES
        # Forged packet numbers can crowd ours out of the peer's ACKs; what it says it has is then out of flight anyhow.
        delivered = self._outgoing.delivered
        self._recovery.forget([run for run in self._recovery.sent if 0 <= run.record < delivered])

    # Sending

    def _send_data(self, now: float) -> Transmit | None:
        """One burst: consecutive pieces of one record in as many packets as window and pacer allow."""
        chunk = self._outgoing.next_chunk()
        if chunk is None:
            return None
        size = self._mtu.size
        overhead = SEGMENT_OVERHEAD if chunk.generation else packets.DATA_HEADER
        count = min(-(-chunk.length // (size - overhead)), packets.MAX_SEGMENTS, packets.MAX_BURST // size)
        window = self._controller.window
        in_flight = self._recovery.bytes_in_flight
        room = window - in_flight
        # No dribbling: with something in flight, its acknowledgement will make room for a decent burst.
        if in_flight and (room < size or room < min(count * size, window // 8)):
            self._busy_at = now
            return None
        rate = self._controller.pacing_rate(self._rtt.smoothed)
        budget = self._pacer.budget(now, rate, size)
        if not budget:
            self._busy_at = now
            self._pacing_deadline = self._pacer.deadline(rate, size)
            return None
        count = min(count, max(1, min(budget, room) // size))
        return self._send_chunk(chunk, count, size, overhead, now)

    def _send_chunk(self, chunk: Chunk, count: int, size: int, overhead: int, now: float) -> Transmit:
        payload = size - overhead
        length = min(chunk.length, count * payload)
        last = length - (count - 1) * payload
        number = self._take_numbers(count)
        if chunk.generation:
            data = self._seal_segments(chunk, number, count, payload, last)
        else:
            data = packets.encode_data(
                self._data_out,
                number,
                chunk.record,
                chunk.ciphertext,
                offset=chunk.offset,
                count=count,
                payload=payload,
                last=last,
            )
        run = Run(
            number, count, now, size, last + overhead, chunk.record, chunk.generation, chunk.offset, payload, last
        )
        self._outgoing.on_sent(chunk, length)
        self._register(run, now)
        self._pacer.on_sent(run.bytes)
        return self._transmit(data, size if count > 1 else 0, now)

    def _seal_segments(self, chunk: Chunk, number: int, count: int, payload: int, last: int) -> bytes:
        """Every segment sealed on its own: for records that somebody tampered with. Costs Python 4 µs a packet."""
        parts = []
        for index in range(count):
            offset = chunk.offset + index * payload
            piece = chunk.ciphertext[offset : offset + (payload if index < count - 1 else last)]
            frame = encode_frame(Segment(chunk.record, offset, len(chunk.ciphertext), piece))
            header = packets.sealed_header(self._sealed_out, number + index)
            parts += [header, self._seal.encrypt(packets.nonce(number + index), frame, header)]
        return b"".join(parts)

    def _send_probe(self, now: float) -> Transmit:
        """A PTO probe: sealed, so that it counts as a sign of life, and of the size every path carries."""
        chunk = self._outgoing.next_chunk()
        is_repetition = chunk is None
        room = packets.BASE_DATAGRAM - SEGMENT_OVERHEAD
        if chunk is None:
            skip = self._probes * room
            for run in self._recovery.sent:
                chunk = self._outgoing.outstanding_chunk(run, skip)
                if chunk is not None:
                    break
                skip = 0
        frames: list[Frame] = []
        if len(self._received.ranges):
            frames.append(self._ack(now, BUNDLED_ACK_RANGES))
        if chunk is None:
            frames.append(Ping())
            return self._send_frames(frames, now)
        room -= sum(len(encode_frame(frame)) for frame in frames)
        length = min(chunk.length, room)
        piece = chunk.ciphertext[chunk.offset : chunk.offset + length]
        frames.append(Segment(chunk.record, chunk.offset, len(chunk.ciphertext), piece))
        if is_repetition:
            self._outgoing.bytes_retransmitted += length
        else:
            self._outgoing.on_sent(chunk, length)
        return self._send_frames(frames, now, chunk=chunk, chunk_length=length)

    def _send_ack(self, now: float) -> Transmit:
        if not len(self._received.ranges):
            self._received.on_ack_sent()
            return self._send_frames([Ping()], now)
        frames: list[Frame] = [self._ack(now)]
        self._received.on_ack_sent()
        self._advertised = self._incoming.limit
        if self._data_since_ping and now >= self._ack_ping_at:
            self._data_since_ping = False
            is_gapless = len(self._received.ranges) == 1
            self._ack_ping_at = now + (ACK_PING_INTERVAL if is_gapless else min(self._rtt.smoothed, ACK_PING_INTERVAL))
            frames.append(Ping())
            return self._send_frames(frames, now)
        return self._send_frames(frames, now, eliciting=False)

    def _ack(self, now: float, limit: int | None = None) -> Ack:
        return Ack(
            tuple(self._received.ranges.newest_first())[:limit],
            self._received.delay(now),
            self._incoming.limit,
            self._incoming.delivered,
            self._incoming.failed,
        )

    def _send_frames(
        self,
        frames: list[Frame],
        now: float,
        *,
        eliciting: bool = True,
        probe_size: int = 0,
        chunk: Chunk | None = None,
        chunk_length: int = 0,
    ) -> Transmit:
        """One SEALED packet."""
        number = self._take_numbers(1)
        header = packets.sealed_header(self._sealed_out, number)
        plaintext = b"".join([encode_frame(frame) for frame in frames])
        if probe_size:
            plaintext = plaintext.ljust(probe_size - packets.SEALED_HEADER - packets.TAG, b"\0")
        data = header + self._seal.encrypt(packets.nonce(number), plaintext, header)
        if eliciting:
            self._ping_due = False
            run = Run(number, 1, now, len(data), len(data), is_path_probe=bool(probe_size))
            if any(isinstance(frame, Ack) for frame in frames):
                run.ack_floor = self._received.largest_sealed
            if chunk is not None:
                run.record, run.generation, run.offset = chunk.record, chunk.generation, chunk.offset
                run.payload = run.last_payload = chunk_length
            self._register(run, now)
        return self._transmit(data, 0, now)

    def _take_numbers(self, count: int) -> int:
        number = self._next_number
        self._next_number += count
        return number

    def _register(self, run: Run, now: float) -> None:
        self._recovery.on_sent(run)
        if not run.is_path_probe:
            self._controller.on_packets_sent(now, run.bytes, run.end - 1, self._recovery.bytes_in_flight)

    def _transmit(self, data: bytes, segment_size: int, now: float) -> Transmit:
        self._sent_at = now
        self._bytes_sent += len(data)
        return Transmit(self._remote, (data,), segment_size)

    # Deadlines and limits

    def _send_queue(self) -> int:
        rate = self._controller.pacing_rate(self._rtt.smoothed)
        return int(min(max(rate * SEND_QUEUE / MAX_RECORD, MIN_SEND_QUEUE), MAX_SEND_QUEUE))

    def _is_window_update_due(self) -> bool:
        taken = self._incoming.limit - self._advertised
        return self._advertised > 0 and taken >= max(1, self._incoming.window // WINDOW_UPDATE_FRACTION)

    def _blocked_deadline(self) -> float | None:
        """When to ask for room again: a zero-window probe, in case the ACK that announced room was lost."""
        if not self._outgoing.is_blocked or self._recovery.sent:
            return None
        return self._sent_at + self._recovery.pto_interval(self._blocked_probes)


def _prefixes(connection_id: bytes) -> tuple[bytes, bytes]:
    """The first 8 bytes of DATA and of SEALED packets."""
    short = connection_id[: packets.CONNECTION_ID_LENGTH]
    return bytes([packets.DATA]) + short, bytes([packets.SEALED]) + short
