"""The loop of a peer: send what is pending, report events, wait for the earliest deadline, receive."""

from __future__ import annotations

import contextlib
import errno
import math
import selectors
import time
from collections.abc import Callable
from typing import Protocol

from p2p.core.address import Address
from p2p.core.datagram import MULTICAST, Transmit
from p2p.core.errors import ExitCode, Failure
from p2p.core.peer import events, explain
from p2p.core.peer.peer import Peer
from p2p.core.transport.lan import Close, Connect
from p2p.io.ends import End
from p2p.io.interrupts import Stop
from p2p.io.net.multicast import MulticastGroups
from p2p.io.net.sockets import UdpSockets
from p2p.io.net.surroundings import Surroundings
from p2p.io.net.tcp import TcpHub
from p2p.io.net.udp import SendResult

TICK = 0.1  # seconds between two looks at the progress
TRANSMITS_A_TURN = 64  # bursts sent before the loop looks at its sockets again
FAREWELL = 2.0  # seconds in which the other side is told, after an error of ours, that this one has failed
READS_A_TURN = 4  # batches read from the UDP socket in one turn


class Beside(Protocol):
    """What goes on beside a peer, in the turns of its loop, with sockets of its own."""

    def advance(self, now: float) -> float:
        """Returns until when to wait at most."""

    def handle_timeouts(self, now: float) -> None: ...


class PeerLoop:
    """Runs one peer to its end, which is the end of one path. It never knows what a message means."""

    def __init__(
        self,
        peer: Peer,
        *,
        sockets: UdpSockets,
        tcp: TcpHub,
        end: End,
        interrupts: Stop,
        selector: selectors.BaseSelector,
        on_event: Callable[[events.PeerEvent, float], None],
        on_tick: Callable[[float], None],
        patience: float | None,
        impatience: Failure | None = None,
        groups: MulticastGroups | None = None,
        surroundings: Surroundings | None = None,
        ticks_at_once: bool = False,
    ) -> None:
        """`patience`: seconds to wait for the other side before giving up; None: for ever.

        `impatience` is how that ends, when there is a better reason than that nobody came. `groups`: where to look for
        the other side without a server. `surroundings`: what is watched besides. `ticks_at_once`: `on_tick` is called
        before there is a path as well.
        """
        self._peer = peer
        self._sockets = sockets
        sockets.on_readable = self._receive
        self._tcp = tcp
        self.end = end
        """Another takes its place when the transfer is another one."""
        self._interrupts = interrupts
        self._selector = selector
        self._on_event = on_event
        self._on_tick = on_tick
        self._patience = patience
        self._impatience = impatience
        self._groups = groups
        self._surroundings = surroundings
        self.beside: Beside | None = None
        self._is_started = False
        self._deadline: float | None = None
        self._next_tick: float | None = time.monotonic() if ticks_at_once else None
        self._unsent: Transmit | None = None
        self._peer_due: float | None = None  # as of the last `advance`: to ask the peer takes a tenth of a turn
        self._is_stopping = False
        tcp.on_connected = lambda connection: peer.handle_connected(connection, time.monotonic())
        tcp.on_accepted = lambda connection, source: peer.handle_accepted(connection, source, time.monotonic())
        tcp.on_data = lambda connection, data: peer.handle_tcp_data(connection, data, time.monotonic())
        tcp.on_closed = lambda connection, error: peer.handle_tcp_closed(
            connection, time.monotonic(), refused=error == errno.ECONNREFUSED
        )

    def run(self) -> None:
        """Until the peer is over; starts it, unless that was done. Raises KeyboardInterrupt at the second Ctrl-C.

        Whatever else is raised in it, the other side is told of first.
        """
        with contextlib.closing(self):
            try:
                if not self._is_started:
                    self.start(time.monotonic())
                while not self.is_over:
                    self._turn()
            except Exception as error:
                self._say_farewell(error)
                raise
        self._report(time.monotonic())

    @property
    def is_over(self) -> bool:
        return self._peer.is_over and not self._tcp.is_flushing

    def start(self, now: float) -> None:
        self._is_started = True
        if self._groups is not None:
            self._groups.watch(self._receive_from_group)
        if self._patience is not None:
            self._deadline = now + self._patience
        self._peer.start(now)
        if self._surroundings is not None:
            self._surroundings.start()

    def close(self) -> None:
        self._sockets.close()

    def _turn(self) -> None:
        now = time.monotonic()
        wait = max(0.0, self.advance(now) - time.monotonic())
        for key, mask in self._selector.select(wait):
            key.data(mask)
        self.handle_timeouts(time.monotonic())

    def _say_farewell(self, error: Exception) -> None:
        """Any step may be the one that raises, again and again: each is tried by itself."""
        told, now = explain.failed_over_there(error), time.monotonic()
        deadline = now + FAREWELL
        self._unsent = None  # it may be what cannot be sent
        with contextlib.suppress(Exception):
            self._peer.fail(Failure(ExitCode.INTERRUPTED, told), told, now)  # what crosses: it may be gone on with
        while (now := time.monotonic()) < deadline:
            with contextlib.suppress(Exception):
                if self.is_over:
                    return
            with contextlib.suppress(Exception):
                self._transmit(now)
            with contextlib.suppress(Exception):
                self._drive_tcp(now)
            self._hear_last(now)

    def _hear_last(self, now: float) -> None:
        """The rest of a turn of the farewell."""
        until = now + TICK
        with contextlib.suppress(Exception):
            until = min(until, self._peer.poll_timeout() or until, self._tcp.poll_timeout() or until)
        for key, mask in self._selector.select(max(0.0, until - now)):
            with contextlib.suppress(Exception):
                key.data(mask)
        now = time.monotonic()
        with contextlib.suppress(Exception):
            if (at := self._peer.poll_timeout()) is not None and at <= now:
                self._peer.handle_timeout(now)
        with contextlib.suppress(Exception):
            self._tcp.handle_timeout(now)

    def advance(self, now: float) -> float:
        """The part of a turn before the wait. Returns until when to wait."""
        self.end.advance(self._peer, now)
        # TCP first: our SYN is to open our own firewall before the other side is told to send its own. And again for
        # what goes by the tunnel.
        moved = self._drive_tcp(now) + self._transmit(now) + self._drive_tcp(now)
        is_busy = moved > 0 and self.end.advance(self._peer, now)  # what went out made room for more
        if self._surroundings is not None:
            self._surroundings.advance(now)
        self._report(now)
        beside = self.beside.advance(now) if self.beside is not None else math.inf
        self._peer_due = self._peer.poll_timeout()
        return now if is_busy else min(self._earliest(), beside)

    def _transmit(self, now: float) -> int:
        """Returns how many bursts went out."""
        while (action := self._peer.poll_socket_action()) is not None:
            self._sockets.handle(action)
        sent = 0
        while sent < TRANSMITS_A_TURN and (transmit := self._unsent or self._peer.poll_transmit(now)) is not None:
            try:
                result = self._send(transmit)
            except OSError as error:
                result = SendResult.SENT  # lost, as far as the machines are concerned
                self._peer.handle_send_refused(transmit, error.strerror or str(error), now)
            if result is SendResult.WOULD_BLOCK:
                self._unsent = transmit
                break
            self._unsent = None
            sent += 1
            if result is SendResult.TOO_BIG:
                self._peer.handle_message_too_big(transmit, now)
        self._sockets.watch_writable(self._unsent.local if self._unsent is not None else None)
        return sent

    def _send(self, transmit: Transmit) -> SendResult:
        """Raises OSError as `UdpSocket.send` does."""
        if transmit.local != MULTICAST:
            return self._sockets.send(transmit)
        if self._groups is not None:
            self._groups.send(b"".join(transmit.buffers))
        return SendResult.SENT

    def _drive_tcp(self, now: float) -> int:
        """Returns how many times buffers were handed to the kernel."""
        moved = 0
        while (output := self._peer.poll_tcp_output(self._tcp.has_output)) is not None:
            self._tcp.send(*output)
            moved += 1
        while (action := self._peer.poll_tcp_action()) is not None:
            match action:
                case Connect(connection, address, from_listener):
                    self._tcp.connect(connection, address, from_listener=from_listener)
                case Close(connection, flush):
                    self._tcp.close(connection, now=now, flush=flush)
        self._tcp.pause(self._peer.paused_tcp)
        return moved

    def _receive(self, local: int, mask: int) -> None:
        if not mask & selectors.EVENT_READ:
            return
        for _ in range(READS_A_TURN):
            batch = self._sockets[local].receive()
            now = time.monotonic()
            empty = True
            for data, segment_size, source in batch:
                empty = False
                self._peer.handle_datagram(data, segment_size, source, now, local)
            if empty:
                return
            self.end.advance(self._peer, now)

    def _receive_from_group(self, data: bytes, source: Address) -> None:
        self._peer.handle_datagram(data, 0, source, time.monotonic(), MULTICAST)

    def _report(self, now: float) -> None:
        while (event := self._peer.poll_event()) is not None:
            if isinstance(event, events.Connecting):
                self._deadline = None
                if self._groups is not None:
                    self._groups.close()
            elif isinstance(event, events.PathChosen):  # before it, nothing moves that one would look at
                self._next_tick = now
            self._on_event(event, now)
        if self._next_tick is not None and now >= self._next_tick:
            self._next_tick = now + TICK
            self._on_tick(now)

    def _earliest(self) -> float:
        groups = self._groups.poll_timeout() if self._groups is not None else None
        around = self._surroundings.poll_timeout() if self._surroundings is not None else None
        timeouts = (self._peer_due, self._tcp.poll_timeout(), self._deadline, self._next_tick)
        return min((t for t in (*timeouts, groups, around) if t is not None), default=time.monotonic() + TICK)

    def handle_timeouts(self, now: float) -> None:
        """The part of a turn behind the wait."""
        if self.beside is not None:
            self.beside.handle_timeouts(now)
        if self._peer_due is not None and self._peer_due <= now:
            self._peer.handle_timeout(now)
        self._tcp.handle_timeout(now)
        if self._surroundings is not None:
            self._surroundings.handle_timeout(now)
        if self._groups is not None:
            self._groups.handle_timeout(now)
        if self._deadline is not None and self._deadline <= now:
            self._deadline = None
            if self._impatience is not None:
                self._peer.fail(self._impatience, "it gave up waiting", now)
            elif self._patience is not None:
                self._peer.give_up(self._patience, now)
        if self._interrupts.is_asked and not self._is_stopping:
            self._is_stopping = True
            failure = self._interrupts.together if self._peer.has_met else self._interrupts.alone
            self._peer.fail(failure, self._interrupts.told, now)
