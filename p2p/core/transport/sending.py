"""The sending half of a connection: what leaves, when, and what its acknowledgements mean."""

from __future__ import annotations

import math
from collections import deque

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from p2p.core.address import Address
from p2p.core.datagram import Transmit
from p2p.core.transport import packets
from p2p.core.transport.congestion import NewController
from p2p.core.transport.events import Event, PathMtuChanged
from p2p.core.transport.frames import SEGMENT_HEADER, Ack, Frame, Ping, Segment, encode_frame
from p2p.core.transport.outgoing import Chunk, OutgoingRecords
from p2p.core.transport.pacer import Pacer
from p2p.core.transport.packets import MAX_RECORD
from p2p.core.transport.path_mtu import PathMtu
from p2p.core.transport.recovery import PROBES, AckOutcome, Recovery
from p2p.core.transport.rtt import RttEstimator
from p2p.core.transport.sent import NO_RECORD, Run

SEND_QUEUE = 0.004  # seconds of the pacing rate that may wait sealed: the loop comes round more often than that
MIN_SEND_QUEUE = 4  # records
MAX_SEND_QUEUE = 16  # records: 1 MB, which stays in a processor's cache; with 64 the queue alone made 10 ms of RTT
WORTHWHILE = 8  # a burst waits until this part of the window, or all that it needs, is free
SEGMENT_OVERHEAD = packets.SEALED_HEADER + packets.TAG + SEGMENT_HEADER


class Sender:
    """Numbers, seals and logs every packet; owns loss recovery, congestion control, pacing and the path MTU search."""

    def __init__(
        self,
        prefixes: tuple[bytes, bytes],
        *,
        records_key: bytes,
        control_key: bytes,
        remote: Address,
        local: int,
        new_controller: NewController,
        events: deque[Event],
        now: float,
    ) -> None:
        self._data_prefix, self._sealed_prefix = prefixes
        self._aead = AESGCM(control_key)
        self._remote, self._local = remote, local
        self._events = events
        self.outgoing = OutgoingRecords(records_key)
        self.rtt = RttEstimator()
        self.recovery = Recovery(self.rtt, now)
        self.mtu = PathMtu(remote.version)
        self._new_controller = new_controller
        self.controller = new_controller(self.mtu.size)
        self.next_number = 0  # every packet has its own, whatever it carries and however often
        self.bytes_sent = 0
        self.sent_at = now
        self.pacing_deadline: float | None = None
        self.queue = MIN_SEND_QUEUE  # unsent records that may wait
        self.probes = 0
        self._pacer = Pacer(now)
        self._rate_limit = math.inf  # bytes a second
        self._busy_at = -math.inf  # when the window or the pacer last held data back
        self._congestion_at = -math.inf
        self._stuck_deadline: float | None = None
        self._blocked_probes = 0
        self._refresh()

    @property
    def pacing_rate(self) -> float:
        """Bytes a second."""
        return self._pacer.rate

    def limit_rate(self, limit: float) -> None:
        """No more than so many bytes of UDP payload a second from now on."""
        self._rate_limit = limit
        self._refresh()

    def handle_timeout(self, now: float) -> bool:
        """Returns whether a PING must ask the peer for room."""
        self.mtu.handle_timeout(now)
        lost = self.recovery.handle_timeout(now)
        if lost:
            self._on_lost(lost, now)
        elif (pto := self.recovery.pto_deadline()) is not None and now >= pto:
            self._on_pto()
        if self._stuck_deadline is not None and now >= self._stuck_deadline:
            self._stuck_deadline = None
            self.outgoing.resend_oldest()
        if (blocked := self._blocked_deadline()) is not None and now >= blocked:
            self._blocked_probes += 1
            return True
        return False

    def poll_timeout(self) -> float:
        deadlines = (
            self.recovery.poll_timeout(),
            self.pacing_deadline,
            self._stuck_deadline,
            self._blocked_deadline(),
            self.mtu.poll_timeout(),
        )
        return min([at for at in deadlines if at is not None], default=math.inf)

    def on_too_big(self, size: int, now: float) -> None:
        """Datagrams of `size` bytes never left."""
        shrunk = self.mtu.on_too_big(size, now)
        refused = [run for run in self.recovery.sent if max(run.size, run.last_size) >= size]
        self.recovery.forget(refused)
        for run in refused:
            self.outgoing.on_lost(run)
        if shrunk:
            self._on_datagram_size()

    def on_moved(self, remote: Address, rtt: float, local: int | None = None) -> None:
        """The peer is elsewhere: what is in flight to where it was is sent again. The log of numbers goes on.

        `local`: the socket to leave by from now on; None: as before.

        Another address is another network, of which nothing is known but one round trip (RFC 9000 section 9.4).
        """
        is_other_network = remote.host != self._remote.host
        self._remote = remote
        self._local = self._local if local is None else local
        in_flight = list(self.recovery.sent)
        self.recovery.forget(in_flight)
        self.recovery.pto_count = self.probes = 0
        for run in in_flight:
            self.outgoing.on_lost(run)
        self.mtu.on_probe_forgotten()
        if is_other_network:
            self.rtt.restart(rtt)
            self.recovery.restart()
            self.mtu = PathMtu(remote.version)
            self.controller = self._new_controller(self.mtu.size)
            self._on_datagram_size()

    def on_ack(self, ack: Ack, now: float) -> int:
        """Returns the number below which the peer knows what we have received, -1 if that is no news."""
        ranges = ack.ranges
        delay: float | None = ack.delay
        was_sealing = self.outgoing.is_sealing_segments
        if ranges[0][1] > self.next_number:  # numbers never sent: the peer was shown forged packets
            delay = None  # says how long the forged one waited
            ranges = tuple((low, min(high, self.next_number)) for low, high in ranges if low < self.next_number)
        if self.outgoing.on_delivered(ack.delivered):
            self._stuck_deadline = None
        if ranges != ack.ranges:
            self.outgoing.seal_all()
        if self.outgoing.on_limit(ack.record_limit):
            self._blocked_probes = 0
        ack_floor = -1
        if ranges:
            ack_floor = self._on_outcome(self.recovery.on_ack(ranges, delay, now, self._busy_at), now)
        for record, failures in ack.failed:
            self.outgoing.on_failed(record, failures, now)
        if self.outgoing.is_sealing_segments and not was_sealing:
            # The peer will not acknowledge them, and that says nothing about the path; nor does what forged numbers
            # taught: acknowledged before they arrived, they make the round trip look short.
            self.recovery.forget([run for run in self.recovery.sent if run.record != NO_RECORD and not run.generation])
            self.recovery.distrust(now)
            self.controller = self._new_controller(self.mtu.size)
            self._refresh()
        if not self.outgoing.is_oldest_stuck():
            self._stuck_deadline = None
        elif self._stuck_deadline is None:
            self._stuck_deadline = now + self.rtt.pto
        return ack_floor

    def send_data(self, now: float) -> Transmit | None:
        """One burst: consecutive pieces of one record in as many packets as window and pacer allow."""
        chunk = self.outgoing.next_chunk()
        if chunk is None:
            return None
        size = self.mtu.size
        overhead = SEGMENT_OVERHEAD if chunk.generation else packets.DATA_HEADER
        count = -(-chunk.length // (size - overhead))
        if count * size > packets.MAX_BURST or count > packets.MAX_SEGMENTS:
            count = min(packets.MAX_SEGMENTS, packets.MAX_BURST // size)
        in_flight = self.recovery.sent.bytes
        room = self._window - in_flight
        if in_flight and room < count * size and room < max(size, min(count * size, self._window // WORTHWHILE)):
            self._busy_at = now
            return None
        budget = self._pacer.budget(now)
        if not budget:
            self._busy_at = now
            self.pacing_deadline = self._pacer.deadline()
            return None
        allowed = (budget if budget < room else room) // size
        return self._send_chunk(chunk, count if count <= allowed else max(1, allowed), overhead, now)

    def send_probe(self, ack: Ack | None, ack_floor: int, now: float) -> Transmit:
        """A PTO probe: sealed, so that it counts as a sign of life, and of the size that every path carries."""
        self.probes -= 1
        room = packets.BASE_DATAGRAM - SEGMENT_OVERHEAD
        is_repetition = False
        # The first of two probes brings what is next, the other repeats the oldest: one of them always is of use.
        chunk = self.outgoing.next_chunk() if self.probes else None
        if chunk is None:
            chunk = self._outstanding_chunk(self.probes * room)
            is_repetition = chunk is not None
        if chunk is None:
            chunk = self.outgoing.next_chunk()
        frames: list[Frame] = [] if ack is None else [ack]
        if chunk is None:
            return self.send_frames([*frames, Ping()], now, ack_floor=ack_floor)
        length = min(chunk.length, room - sum(len(encode_frame(frame)) for frame in frames))
        piece = chunk.ciphertext[chunk.offset : chunk.offset + length]
        frames.append(self._segment(chunk, chunk.offset, piece))
        if is_repetition:
            self.outgoing.bytes_retransmitted += length
        else:
            self.outgoing.on_sent(chunk, length)
        return self.send_frames(frames, now, ack_floor=ack_floor, chunk=chunk, length=length)

    def send_path_probe(self, size: int, now: float) -> Transmit:
        """PING and PADDING, `size` bytes of UDP payload in all."""
        self.mtu.on_probe_sent()
        padding = size - packets.SEALED_HEADER - packets.TAG - 1
        data, number = self._seal(encode_frame(Ping()) + bytes(padding))
        self._register(Run(number, 1, now, size, size, is_path_probe=True), now)
        return self._transmit(data, 0, now)

    def send_frames(
        self,
        frames: list[Frame],
        now: float,
        *,
        eliciting: bool = True,
        ack_floor: int = -1,
        chunk: Chunk | None = None,
        length: int = 0,
        destination: Address | None = None,
    ) -> Transmit:
        """One SEALED packet; with `length` bytes of `chunk` among its frames, or none. None: to where the peer is."""
        data, number = self._seal(b"".join([encode_frame(frame) for frame in frames]))
        if eliciting:
            run = Run(number, 1, now, len(data), len(data), ack_floor=ack_floor)
            if chunk is not None:
                run.record, run.generation, run.offset = chunk.record, chunk.generation, chunk.offset
                run.payload = run.last_payload = length
            self._register(run, now)
        if destination is not None and destination != self._remote:
            self.bytes_sent += len(data)
            return Transmit(destination, (data,), local=self._local)
        return self._transmit(data, 0, now)

    def _send_chunk(self, chunk: Chunk, count: int, overhead: int, now: float) -> Transmit:
        size = self.mtu.size
        payload = size - overhead
        length = chunk.length if chunk.length < count * payload else count * payload
        last = length - (count - 1) * payload
        number = self.next_number
        self.next_number += count
        if chunk.generation:
            data = self._seal_segments(chunk, number, count, payload, last)
        else:
            data = packets.encode_data(
                self._data_prefix,
                number,
                chunk.record,
                chunk.ciphertext,
                offset=chunk.offset,
                count=count,
                payload=payload,
                last=last,
            )
        last_size = last + overhead
        run = Run(number, count, now, size, last_size, chunk.record, chunk.generation, chunk.offset, payload, last)
        self.outgoing.on_sent(chunk, length)
        self._register(run, now)
        self._pacer.on_sent(len(data))
        return self._transmit(data, size if count > 1 else 0, now)

    def _seal_segments(self, chunk: Chunk, number: int, count: int, payload: int, last: int) -> bytes:
        """Every segment sealed on its own, for records that somebody tampered with: 5 µs of Python a packet."""
        parts = []
        for index in range(count):
            offset = chunk.offset + index * payload
            piece = chunk.ciphertext[offset : offset + (payload if index < count - 1 else last)]
            frame = encode_frame(self._segment(chunk, offset, piece))
            header = packets.sealed_header(self._sealed_prefix, number + index)
            parts += [header, self._aead.encrypt(packets.nonce(number + index), frame, header)]
        return b"".join(parts)

    def _segment(self, chunk: Chunk, offset: int, piece: bytes) -> Segment:
        return Segment(chunk.record, offset, len(chunk.ciphertext), piece, self.outgoing.is_sealing_segments)

    def _seal(self, plaintext: bytes) -> tuple[bytes, int]:
        number = self.next_number
        self.next_number += 1
        header = packets.sealed_header(self._sealed_prefix, number)
        return header + self._aead.encrypt(packets.nonce(number), plaintext, header), number

    def _register(self, run: Run, now: float) -> None:
        self.recovery.on_sent(run)
        if not run.is_path_probe:
            self.controller.on_packets_sent(now, run.bytes, run.end - 1, self.recovery.bytes_in_flight)

    def _transmit(self, data: bytes, segment_size: int, now: float) -> Transmit:
        self.sent_at = now
        self.bytes_sent += len(data)
        return Transmit(self._remote, (data,), segment_size, None, self._local)

    def _outstanding_chunk(self, skip: int) -> Chunk | None:
        """The oldest bytes in flight that still matter, beginning `skip` bytes into their run if it is that long."""
        for run in self.recovery.sent:
            chunk = self.outgoing.outstanding_chunk(run, skip) or self.outgoing.outstanding_chunk(run, 0)
            if chunk is not None:
                return chunk
        return None

    def _on_outcome(self, outcome: AckOutcome, now: float) -> int:
        ack_floor = -1
        for run in outcome.acked:
            if run.is_path_probe:
                if self.mtu.on_probe_acked(run.size):
                    self._on_datagram_size()
                continue
            self.mtu.on_acked(run.size)
            self.outgoing.on_acked(run)
            ack_floor = max(ack_floor, run.ack_floor)
        for run in outcome.late:
            self.outgoing.on_acked(run)
        if outcome.lost:
            self._on_lost(outcome.lost, now)
        if outcome.is_reordered:
            self.controller.on_reordering(now)
        if outcome.is_spurious:
            self.controller.on_spurious_congestion_event(now)
        if outcome.is_persistent:
            self.controller.on_persistent_congestion(now)
            self.rtt.forget_min()
        if outcome.sample is not None:
            self.probes = 0
            self.controller.on_ack(outcome.sample)
        self._refresh()
        return ack_floor

    def _on_lost(self, lost: list[Run], now: float) -> None:
        congestive = [run for run in lost if not run.is_path_probe]
        for run in lost:
            if run.is_path_probe:
                self.mtu.on_probe_lost(run.size, now)
            else:
                self.outgoing.on_lost(run)
        if not congestive:
            return
        sent_at = congestive[-1].sent_at
        is_new = sent_at > self._congestion_at
        if is_new:
            self._congestion_at = now
        self.recovery.on_congestion_event(congestive, is_new)
        lost_bytes = sum(run.bytes for run in congestive)
        self.controller.on_congestion_event(now, sent_at, lost_bytes, self.recovery.bytes_in_flight)
        if self.mtu.on_lost(max(run.size for run in congestive), now):
            self._on_datagram_size()
        self._refresh()

    def _on_pto(self) -> None:
        self.recovery.pto_count += 1
        self.probes = PROBES
        # Forged packet numbers can crowd ours out of the peer's ACKs; what it says it has is out of flight anyway.
        delivered = self.outgoing.delivered
        self.recovery.forget([run for run in self.recovery.sent if 0 <= run.record < delivered])

    def _on_datagram_size(self) -> None:
        self.controller.on_datagram_size(self.mtu.size)
        self._events.append(PathMtuChanged(self.mtu.size))
        self._refresh()

    def _refresh(self) -> None:
        """What the hot path needs of the controller, computed once an ACK."""
        self._window = self.controller.window
        rate = min(self.controller.pacing_rate(self.rtt.smoothed), self._rate_limit)
        self._pacer.set_rate(rate, self.mtu.size)
        self.queue = int(min(max(rate * SEND_QUEUE / MAX_RECORD, MIN_SEND_QUEUE), MAX_SEND_QUEUE))

    def _blocked_deadline(self) -> float | None:
        """When to ask for room again: a zero-window probe, in case the ACK that announced room was lost."""
        if not self.outgoing.is_blocked or self.recovery.sent:
            return None
        return self.sent_at + self.recovery.pto_interval(self._blocked_probes)
