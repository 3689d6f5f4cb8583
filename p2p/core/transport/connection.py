"""One connection of the transport over UDP (docs/protocol.md section 6, docs/transport.md)."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import assert_never

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from p2p.core.address import Address
from p2p.core.datagram import MAIN, Buffer, Transmit
from p2p.core.errors import CallerError, DecodeError
from p2p.core.transport import packets
from p2p.core.transport.bbr import Bbr
from p2p.core.transport.closing import Closing, State
from p2p.core.transport.congestion import NewController
from p2p.core.transport.events import Closed, Event, IdleTimedOut, PeerMoved, Stats
from p2p.core.transport.frames import Ack, Close, Frame, PathChallenge, PathResponse, Ping, Segment, clip, decode_frames
from p2p.core.transport.idle import IDLE_TIMEOUT, KEEPALIVE_INTERVAL
from p2p.core.transport.incoming import IncomingRecords
from p2p.core.transport.keys import ConnectionKeys, prefixes
from p2p.core.transport.migration import Migration, Moved
from p2p.core.transport.packets import MAX_RECORD, DataPiece
from p2p.core.transport.received import ReceivedPackets
from p2p.core.transport.sending import Sender

__all__ = ["MAX_RECORD", "Connection", "ConnectionKeys"]

WINDOW_UPDATE_FRACTION = 4  # an ACK goes out of its own accord once a quarter of the window was taken
ACK_PING_INTERVAL = 1.0  # seconds between the PINGs that a receiver of data adds to its ACKs, to learn what is old news
BULK = 10 * packets.BASE_DATAGRAM  # bytes of a record; one that needs less gains little by larger datagrams
BUNDLED_ACK_RANGES = 8  # in a probe; the rest of it is for data
MAX_FORMER = 4  # addresses of paths that were left for a better one; a packet of them may still be under way
MAX_EVENTS = 64  # unread events; a program that never asks loses the oldest


class Connection:
    """Carries records in order, each exactly once, sealed, over datagrams that may be lost, changed or forged."""

    def __init__(
        self,
        keys: ConnectionKeys,
        remote: Address,
        now: float,
        *,
        receive_window_records: int = 256,
        expects_bulk: bool = False,
        idle_timeout: float = IDLE_TIMEOUT,
        random_bytes: Callable[[int], bytes] | None = None,
        new_controller: NewController = Bbr,
        local: int = MAIN,
    ) -> None:
        """`local` and `remote` are the path: the socket that all leaves by, and where the peer is.

        `expects_bulk`: much will be sent, so that it is well to know beforehand how large a datagram may be.
        Else that is found out when there is a long record to send; a side that only answers never asks.
        Without `random_bytes` the peer is not followed when it moves to another address.
        """
        self._remote = remote
        self._former: deque[Address] = deque(maxlen=MAX_FORMER)
        self._open = AESGCM(keys.control_in)
        self._data_in, self._sealed_in = prefixes(keys.id_in)
        self._events: deque[Event] = deque(maxlen=MAX_EVENTS)
        self._sender = Sender(
            prefixes(keys.id_out),
            records_key=keys.records_out,
            control_key=keys.control_out,
            remote=remote,
            local=local,
            new_controller=new_controller,
            events=self._events,
            now=now,
        )
        self._rtt = self._sender.rtt
        self._outgoing = self._sender.outgoing
        self._incoming = IncomingRecords(keys.records_in, receive_window_records)
        self._received = ReceivedPackets()
        self._closing = Closing()
        self._is_bulk = expects_bulk  # whether to search for the path MTU
        self._migration = Migration(remote, now, random_bytes)
        self._idle_timeout = idle_timeout
        self._heard_at = now
        self._data_at: float | None = None  # when data came; None when its end was noticed
        self._ping_due = False
        self._ignores_data = False  # the peer seals every segment: what comes in the clear is forged, or late
        self._advertised = 0  # the flow control limit that the peer was last told
        self._taken = 0  # records that had been handed on then
        self._ack_ping_at = now
        self._data_since_ping = False
        self._dropped = 0

    # Input

    def handle_datagram(self, data: Buffer, segment_size: int, source: Address, now: float) -> None:
        """One read from the socket: a datagram, or with `segment_size` > 0 a coalesced burst. Keeps no reference."""
        if source != self._remote and source not in self._former:
            self._on_elsewhere(memoryview(data), segment_size, source, now)
            return
        length = len(data)
        if 0 < segment_size < length:
            if data[:8] == self._data_in and (pieces := packets.decode_burst(data, segment_size)):
                for piece in pieces:
                    self._on_data(piece, now)
                return
            view = memoryview(data)
            for start in range(0, length, segment_size):
                self._on_datagram(view[start : start + segment_size], source, now)
        else:
            self._on_datagram(data, source, now)

    def handle_timeout(self, now: float) -> None:
        """Called when poll_timeout has come; early calls do nothing."""
        self._closing.handle_timeout(now)
        if self._closing.state is not State.OPEN:
            return
        if now >= self._heard_at + self._idle_timeout:
            self._closing.on_idle()
            self._events.append(IdleTimedOut(now - self._heard_at))
            return
        if self._sender.handle_timeout(now) or now >= self._sender.sent_at + KEEPALIVE_INTERVAL:
            self._ping_due = True
        if (lull := self._lull_deadline()) is not None and now >= lull:
            self._data_at = None
            self._ping_due = True
        if (moved := self._migration.handle_timeout(now)) is not None:
            self._move(moved)

    def handle_message_too_big(self, transmit: Transmit, now: float) -> None:
        """The socket refused `transmit` (EMSGSIZE): nothing of it left."""
        size = transmit.segment_size or sum(len(buffer) for buffer in transmit.buffers)
        self._sender.on_too_big(size, now)

    # Command

    def room(self) -> int:
        """Records that may be queued: the peer has room for them and a few milliseconds' worth is not waiting yet."""
        return self._outgoing.room(self._sender.queue) if self._closing.state is State.OPEN else 0

    def send(self, plaintext: Buffer, now: float) -> None:  # noqa: ARG002
        """Seals a record and queues it. A few records beyond room() are taken, for words such as ABORT.

        Raises CallerError for a record above MAX_RECORD bytes, on a full queue, or after the connection was closed.
        """
        if self._closing.state is not State.OPEN:
            raise CallerError("the connection is closed")
        if not self._outgoing.has_reserve(self._sender.queue):
            raise CallerError("the send queue is full: ask for room() first")
        self._outgoing.seal(plaintext)
        if len(plaintext) > BULK:
            self._is_bulk = True

    def close(self, exit_code: int, reason: str, now: float) -> None:
        """Ends the connection at once; records not delivered yet are dropped. `reason` may be cut to 512 bytes."""
        if self._closing.state is State.OPEN:
            self._closing.close(exit_code, clip(reason), now, self._rtt.pto)
            self._events.append(Closed(exit_code, reason, by_peer=False))

    def move_to(self, remote: Address, local: int, rtt: float) -> None:
        """Goes on by another path, on which the peer has proved itself by other means than ours; `rtt` in seconds.

        What still comes by the old one is taken; it moves nothing.
        """
        if self._closing.state is not State.OPEN:
            return
        self._former.append(self._remote)
        self._migration.settle_at(remote)
        self._move(Moved(remote, rtt), local)

    def limit_rate(self, limit: float) -> None:
        """Sends at most so many bytes a second; math.inf: as many as the path takes."""
        self._sender.limit_rate(limit)

    # Output

    def poll_transmit(self, now: float) -> Transmit | None:
        """What to send next; ask until None, after every input."""
        sender = self._sender
        sender.pacing_deadline = None
        if self._closing.state is not State.OPEN:
            frame = self._closing.poll_frame(now)
            return sender.send_frames([frame], now, eliciting=False) if frame is not None else None
        if (question := self._migration.poll_frame()) is not None:
            return sender.send_frames([question[1]], now, eliciting=False, destination=question[0])
        if self._received.is_due(now) or (self._incoming.taken != self._taken and self._is_window_update_due()):
            return self._send_ack(now)
        if sender.probes:
            ack = self._ack(now, BUNDLED_ACK_RANGES) if len(self._received.ranges) else None
            return sender.send_probe(ack, self._received.largest_sealed, now)
        if self._is_bulk and (size := sender.mtu.next_probe()) is not None:
            return sender.send_path_probe(size, now)
        transmit = sender.send_data(now)
        if transmit is None and self._ping_due:
            transmit = sender.send_frames([Ping()], now)
        if transmit is not None:
            self._ping_due = False
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
        at = min(
            self._heard_at + self._idle_timeout, self._sender.sent_at + KEEPALIVE_INTERVAL, self._sender.poll_timeout()
        )
        others = (self._received.poll_timeout(), self._lull_deadline(), self._migration.poll_timeout())
        return min([at, *[other for other in others if other is not None]])

    @property
    def is_idle(self) -> bool:
        """Whether every record sent is delivered."""
        return self._outgoing.is_delivered

    @property
    def remote(self) -> Address:
        return self._remote

    @property
    def heard_at(self) -> float:
        """When something genuine came last."""
        return self._heard_at

    @property
    def is_open(self) -> bool:
        """Neither side has closed it, and it has not timed out."""
        return self._closing.state is State.OPEN

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
            congestion_window=self._sender.controller.window,
            bytes_in_flight=self._sender.recovery.bytes_in_flight,
            pacing_rate=self._sender.pacing_rate,
            datagram_size=self._sender.mtu.size,
            bytes_sent=self._sender.bytes_sent,
            bytes_acked=self._sender.recovery.delivered,
            bytes_lost=self._sender.recovery.bytes_lost,
            bytes_retransmitted=self._outgoing.bytes_retransmitted,
            packets_sent=self._sender.next_number,
            packets_dropped=self._dropped,
            records_sent=self._outgoing.next,
            records_delivered=self._outgoing.delivered,
            records_received=self._incoming.delivered,
            records_failed=self._incoming.records_failed,
            is_sealing_segments=self._outgoing.is_sealing_segments,
        )

    # Receiving

    def _on_elsewhere(self, data: memoryview, segment_size: int, source: Address, now: float) -> None:
        """From another address only SEALED packets count: anybody could have written a DATA packet."""
        for start in range(0, len(data), segment_size or len(data)):
            datagram = data[start : start + segment_size] if segment_size else data
            if datagram[:8] == self._sealed_in:
                self._on_datagram(datagram, source, now)
            else:
                self._dropped += 1

    def _on_datagram(self, datagram: Buffer, source: Address, now: float) -> None:
        prefix = datagram[:8]
        try:
            if prefix == self._data_in:
                self._on_data(packets.decode_data(datagram), now)
            elif prefix == self._sealed_in:
                self._on_sealed(datagram, source, now)
            else:
                self._dropped += 1
        except (DecodeError, InvalidTag):
            self._dropped += 1

    def _on_data(self, piece: DataPiece, now: float) -> None:
        """A DATA packet never closes or moves the connection: anybody on the path can write one."""
        if self._closing.state is not State.OPEN:
            self._closing.on_datagram(now)
            return
        if self._ignores_data:
            self._dropped += piece.packets
            return
        failed, verified = self._incoming.records_failed, self._incoming.records_verified
        if not self._incoming.on_clear(piece.record, piece.offset, piece.record_length, piece.data):
            self._dropped += piece.packets
            self._received.demand()  # the peer has to learn the limit
            return
        self._data_since_ping = True
        self._data_at = now
        self._received.on_packets(piece.packet_number, piece.packets, now, self._rtt.smoothed, genuine=False)
        if self._incoming.records_verified != verified:
            self._heard_at = now
        if self._incoming.records_failed != failed:
            self._received.demand()

    def _on_sealed(self, datagram: Buffer, source: Address, now: float) -> None:
        header = bytes(datagram[: packets.SEALED_HEADER])
        if len(datagram) < packets.SEALED_HEADER + packets.TAG:
            raise DecodeError("SEALED packet is cut short")
        number = int.from_bytes(header[8:], "big")
        plaintext = self._open.decrypt(packets.nonce(number), datagram[packets.SEALED_HEADER :], header)
        frames = decode_frames(plaintext)
        is_newest = number > self._received.largest_sealed
        if is_newest:  # a replayed packet neither keeps the connection alive nor moves it
            self._heard_at = now
            self._received.largest_sealed = number
            is_probing = source in self._former or all(isinstance(f, PathChallenge | PathResponse) for f in frames)
            self._migration.on_packet(source, len(datagram), now, self._sender.recovery.pto_interval(0), is_probing)
        elif source != self._remote:
            frames = [frame for frame in frames if isinstance(frame, PathResponse)]
            self._dropped += not frames
        if self._closing.state is not State.OPEN:
            self._on_late_frames(frames, now)
            return
        is_counted, is_eliciting, question = True, False, b""
        for frame in frames:
            match frame:
                case Ping():
                    is_eliciting = True
                    self._received.demand()
                case Ack():
                    self._received.on_ack_acked(self._sender.on_ack(frame, now))
                case Segment(record, offset, record_length, data, is_lone):
                    is_eliciting = self._data_since_ping = True
                    self._data_at = now
                    if is_lone and not self._ignores_data:
                        self._ignores_data = True
                        self._received.forget_clear()
                        self._incoming.forget_clear()
                    is_counted &= self._incoming.on_sealed(record, offset, record_length, data)
                case Close():
                    self._on_close(frame, now)
                    return
                case PathChallenge(data):
                    question = data  # one answer a packet, so that it never is longer than what it answers
                case PathResponse(data):
                    if (moved := self._migration.on_response(source, data, now)) is not None:
                        self._move(moved)
                case _:
                    assert_never(frame)
        if question:
            self._migration.on_challenge(source, question)
        if is_eliciting and is_counted:
            self._received.on_packets(number, 1, now, self._rtt.smoothed, genuine=True)
        elif is_counted:
            self._received.on_unasked(number)
        else:
            self._received.demand()  # data beyond the limit: the peer has to learn it

    def _on_late_frames(self, frames: list[Frame], now: float) -> None:
        for frame in frames:
            if isinstance(frame, Close):
                self._on_close(frame, now)
                return
        self._closing.on_datagram(now)

    def _on_close(self, frame: Close, now: float) -> None:
        if self._closing.on_close(frame, now, self._rtt.pto):
            self._events.append(Closed(frame.exit_code, frame.reason, by_peer=True))

    def _move(self, moved: Moved, local: int | None = None) -> None:
        self._remote = moved.address
        self._sender.on_moved(moved.address, moved.rtt, local)
        self._received.demand()  # the peer, at its new place, learns at once what has arrived ...
        self._ping_due = True  # ... and has to answer, so that it surely does
        self._data_at = None
        self._events.append(PeerMoved(moved.address))

    def _lull_deadline(self) -> float | None:
        """When to ask whether the path is still there, as no more data comes; while a PING is out, PTOs ask."""
        if self._data_at is None or self._sender.recovery.sent:
            return None
        return max(self._data_at, self._heard_at) + self._sender.recovery.pto_interval(0)

    # Acknowledging

    def _send_ack(self, now: float) -> Transmit:
        if not len(self._received.ranges):
            self._received.on_ack_sent()
            return self._sender.send_frames([Ping()], now)
        frames: list[Frame] = [self._ack(now)]
        self._received.on_ack_sent()
        self._advertised, self._taken = self._incoming.limit, self._incoming.taken
        if self._data_since_ping and now >= self._ack_ping_at:
            self._data_since_ping = False
            is_gapless = len(self._received.ranges) == 1
            self._ack_ping_at = now + (ACK_PING_INTERVAL if is_gapless else min(self._rtt.smoothed, ACK_PING_INTERVAL))
            frames.append(Ping())
            return self._sender.send_frames(frames, now, ack_floor=self._received.largest_sealed)
        return self._sender.send_frames(frames, now, eliciting=False)

    def _ack(self, now: float, limit: int | None = None) -> Ack:
        return Ack(
            tuple(self._received.ranges.newest_first())[:limit],
            self._received.delay(now),
            self._incoming.limit,
            self._incoming.delivered,
            self._incoming.failed,
        )

    def _is_window_update_due(self) -> bool:
        taken = self._incoming.limit - self._advertised
        return self._advertised > 0 and taken >= max(1, self._incoming.window // WINDOW_UPDATE_FRACTION)
