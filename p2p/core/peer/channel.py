"""One face for both kinds of path: records in order, back-pressure, an end with a reason."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

from p2p.core.address import Address
from p2p.core.datagram import Buffer, Transmit
from p2p.core.errors import ExitCode, RemoteError
from p2p.core.transfer.codec import encode
from p2p.core.transfer.messages import Abort, Keepalive
from p2p.core.transport import events as udp
from p2p.core.transport.connection import Connection
from p2p.core.transport.idle import IDLE_TIMEOUT, KEEPALIVE_INTERVAL
from p2p.core.transport.tcp import MAX_RECORD, TcpChannel
from p2p.core.transport.throttle import Throttle

MAX_UNREAD = 64  # records, 4 MB, that wait for a slow disk; on TCP nothing but the socket's own window holds the rest


@dataclass(frozen=True, slots=True)
class Ended:
    """The other side closed and gave this reason."""

    exit_code: int
    reason: str


@dataclass(frozen=True, slots=True)
class Vanished:
    """The path closed without a word (reset, end of stream)."""


@dataclass(frozen=True, slots=True)
class Lost:
    """Nothing was heard for so many seconds."""

    silence: float


@dataclass(frozen=True, slots=True)
class Damaged:
    """What arrived was not what our peer sent, and the path has no way to ask again."""

    what: str


ChannelEnd = Ended | Vanished | Lost | Damaged


class Channel(Protocol):
    """What the transfer needs of a path."""

    def room(self) -> int:
        """Records that it takes now."""
        ...

    def send(self, plaintext: Buffer, now: float) -> None: ...
    def poll_record(self) -> Buffer | None: ...
    def poll_end(self) -> ChannelEnd | None: ...
    def poll_moved(self) -> Address | None:
        """Where the other side is now, once after it moved there."""

    def handle_timeout(self, now: float) -> None: ...
    def poll_timeout(self) -> float | None: ...
    def close(self, code: ExitCode, reason: str, now: float) -> None: ...
    def drop(self, now: float) -> None:
        """Gives this path up, for another one."""

    @property
    def heard_at(self) -> float:
        """When something came from the other side last."""
        ...

    @property
    def tells_delivery(self) -> bool:
        """Whether `is_delivered` is the other side's word."""
        ...

    @property
    def is_delivered(self) -> bool:
        """Whether closing now cuts off nothing that was said."""
    @property
    def is_over(self) -> bool:
        """Closed on both sides, or as good as that: nothing is left to say."""
    @property
    def rtt(self) -> float | None: ...


class UdpLink:
    """A connection over UDP."""

    tells_delivery = True

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._moved: Address | None = None
        self.room = connection.room
        self.send = connection.send
        self.poll_record = connection.poll_record
        self.handle_timeout = connection.handle_timeout
        self.poll_timeout = connection.poll_timeout

    @property
    def connection(self) -> Connection:
        return self._connection

    @property
    def is_delivered(self) -> bool:
        return self._connection.is_idle or not self._connection.is_open

    @property
    def is_over(self) -> bool:
        return self._connection.is_drained

    @property
    def rtt(self) -> float | None:
        return self._connection.stats.smoothed_rtt

    @property
    def heard_at(self) -> float:
        return self._connection.heard_at

    def poll_end(self) -> ChannelEnd | None:
        while (event := self._connection.poll_event()) is not None:
            match event:
                case udp.Closed(ExitCode.INTERRUPTED, "", by_peer) if by_peer:
                    return Vanished()
                case udp.Closed(exit_code, reason, by_peer) if by_peer:
                    return Ended(exit_code, reason)
                case udp.IdleTimedOut(silence):
                    return Lost(silence)
                case udp.PeerMoved(address):
                    self._moved = address
                case _:
                    pass  # path MTU and the like: for statistics only
        return None

    def poll_moved(self) -> Address | None:
        address, self._moved = self._moved, None
        return address

    def close(self, code: ExitCode, reason: str, now: float) -> None:
        self._connection.close(int(code), reason, now)

    def drop(self, now: float) -> None:
        self._connection.close(ExitCode.INTERRUPTED, "", now)

    def handle_datagram(self, data: Buffer, segment_size: int, source: Address, now: float) -> None:
        self._connection.handle_datagram(data, segment_size, source, now)

    def poll_transmit(self, now: float) -> Transmit | None:
        return self._connection.poll_transmit(now)


class TcpLink:
    """An authenticated TCP connection with keep-alives and an idle time-out."""

    tells_delivery = False

    def __init__(self, channel: TcpChannel, now: float, idle_timeout: float = IDLE_TIMEOUT) -> None:
        self._channel = channel
        self._idle_timeout = idle_timeout
        self._last_sent = now
        self._last_received = now
        self._end: ChannelEnd | None = None
        self._closed = False
        self.wants_close = False
        self._throttle = Throttle()
        self.poll_record = channel.poll_record

    @property
    def is_delivered(self) -> bool:
        return True  # the caller flushes before it closes

    @property
    def is_over(self) -> bool:
        return self._closed

    @property
    def is_full(self) -> bool:
        """Whether to leave what comes in the socket, because what came is not read yet."""
        return not self._closed and self._channel.unread >= MAX_UNREAD

    @property
    def rtt(self) -> float | None:
        return None

    def limit_rate(self, limit: float) -> None:
        """No more than so many bytes of records a second from now on."""
        self._throttle.set_limit(limit)

    def room(self) -> int:
        room = self._channel.room()
        return room if self._throttle.limit == math.inf else min(room, self._throttle.records(MAX_RECORD))

    @property
    def heard_at(self) -> float:
        return self._last_received

    def send(self, plaintext: Buffer, now: float) -> None:
        self._last_sent = now
        self._channel.send(plaintext)
        self._throttle.on_sent(len(plaintext), now)

    def poll_end(self) -> ChannelEnd | None:
        end, self._end = self._end, None
        return end

    def poll_moved(self) -> Address | None:
        return None

    def handle_data(self, data: Buffer, now: float) -> None:
        self._last_received = now
        if self._closed:
            return
        try:
            self._channel.handle_data(data)
        except RemoteError as error:
            self._close(Damaged(str(error)))

    def handle_closed(self) -> None:
        self._close(Vanished())

    def handle_timeout(self, now: float) -> None:
        if self._closed:
            return
        self._throttle.handle_timeout(now)
        if self.is_full:
            self._last_received = now  # the silence is ours
        if now >= self._last_received + self._idle_timeout:
            self._close(Lost(self._idle_timeout))
        elif now >= self._last_sent + KEEPALIVE_INTERVAL:
            self._last_sent = now
            if self._channel.room():  # else: data is queued, which says as much
                self._channel.send(encode(Keepalive()))

    def poll_timeout(self) -> float | None:
        if self._closed:
            return None
        silence = min(self._last_received + self._idle_timeout, self._last_sent + KEEPALIVE_INTERVAL)
        held_until = self._throttle.poll_timeout()
        return silence if held_until is None else min(silence, held_until)

    def close(self, code: ExitCode, reason: str, now: float) -> None:
        """Says why, if there is a why; the caller then flushes and closes the connection."""
        if self._closed:
            return
        if code is not ExitCode.DONE:
            self._channel.send(encode(Abort(code, reason)), urgent=True)
        self._last_sent = now
        self._closed = True
        self.wants_close = True

    def drop(self, now: float) -> None:
        self.close(ExitCode.DONE, "", now)

    def poll_output(self) -> list[Buffer]:
        return self._channel.poll_output()

    def _close(self, end: ChannelEnd) -> None:
        if not self._closed:
            self._closed = True
            self.wants_close = True
            self._end = end
