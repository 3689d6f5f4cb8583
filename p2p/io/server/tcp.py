"""The rendezvous server's TCP connections: for peers whose network lets no UDP through. Frames in, frames out."""

from __future__ import annotations

import contextlib
import logging
import selectors
import socket
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from p2p.core.address import Address
from p2p.core.datagram import Buffer
from p2p.core.errors import DecodeError
from p2p.core.prefix import prefix
from p2p.core.rendezvous.frames import FrameReader, frame, frame_burst
from p2p.core.rendezvous.seats import FIRST_CONNECTION
from p2p.io.descriptors import descriptors
from p2p.io.net.gather import send_queued
from p2p.io.net.listener import Listener

ACCEPT_BATCH = 16  # connections of one listener before the others get their turn
# Of all; each may have 64 KiB of a frame that is not whole, and with an open relay QUEUE: 400 MB if all do their worst.
MAX_CONNECTIONS = 1024
MAX_PER_NETWORK = 64  # per IPv4 /24 or IPv6 /56: an office without UDP fits, a flood from one network does not take all
SPARE_DESCRIPTORS = 192  # for all else that the process has open: a UDP port has 33 sockets, and there may be four
READ_SIZE = 65_536  # bytes of one connection before the others get their turn
SEATLESS = 15.0  # seconds that a connection may last without a seat: a lease
QUEUE = 256 * 1024  # bytes that wait for a peer; more datagrams of the relay are dropped, as a router would
MESSAGES = 64 * 1024  # bytes above it for the server's own messages; who does not read even those is cut off
UNSENT = 128 * 1024  # bytes in the kernel that are not under way yet: what waits there can be dropped no more

log = logging.getLogger("p2p.server")

Take = Callable[[list[bytes], Address, int], None]


@dataclass(slots=True)
class TcpCounters:
    """What happened since the start."""

    connections: int = 0
    connections_refused: int = 0  # a cap was reached
    connections_cut: int = 0  # not frames, nobody reads, or no seat in time
    queue_drops: int = 0  # bursts of the relay for a connection that takes no more now


class Connection:
    """One, by its number."""

    __slots__ = ("address", "number", "output", "queued", "reader", "socket", "watches_output")

    def __init__(self, number: int, accepted: socket.socket, address: Address) -> None:
        self.number = number
        self.socket = accepted
        self.address = address
        self.reader = FrameReader()
        self.output: deque[memoryview] = deque()
        self.queued = 0  # bytes
        self.watches_output = False


class Tunnels:
    """Accepts and keeps connections. `take` gets the datagrams of each read, with the source and the number."""

    def __init__(
        self,
        listeners: list[socket.socket],
        selector: selectors.BaseSelector,
        take: Take,
        clock: Callable[[], float],
    ) -> None:
        self.counters = TcpCounters()
        self._selector = selector
        self._take = take
        self._clock = clock
        self._connections: dict[int, Connection] = {}
        self._per_network: dict[str, int] = {}
        self._limit = min(MAX_CONNECTIONS, descriptors(2 * MAX_CONNECTIONS) - SPARE_DESCRIPTORS)
        self._next = FIRST_CONNECTION
        self._deadlines: deque[tuple[float, int]] = deque()  # when to see whether each has a seat; in order
        self._buffer = memoryview(bytearray(READ_SIZE))
        self._listeners = [
            Listener(each, selector, self._accept, batch=ACCEPT_BATCH, clock=clock, tell=log.warning)
            for each in listeners
        ]

    def __len__(self) -> int:
        return len(self._connections)

    def send(self, number: int, datagram: bytes) -> None:
        """A message of the server. Whoever lets too many of them wait is cut off."""
        connection = self._connections.get(number)
        if connection is None:
            return  # it went away; its seat has not expired yet
        self._queue(connection, frame(datagram))
        if connection.queued > QUEUE + MESSAGES:
            self._cut(connection, "it does not read")

    def send_burst(self, number: int, data: Buffer, segment_size: int) -> None:
        """Datagrams of the relay, of `segment_size` bytes (0: one). Dropped when QUEUE is full."""
        connection = self._connections.get(number)
        if connection is None or connection.queued + len(data) > QUEUE:
            self.counters.queue_drops += 1
        else:
            self._queue(connection, frame_burst(data, segment_size))

    def handle_timeout(self, now: float, has_seat: Callable[[int], bool]) -> None:
        for listener in self._listeners:
            listener.handle_timeout(now)
        while self._deadlines and self._deadlines[0][0] <= now:
            _, number = self._deadlines.popleft()
            connection = self._connections.get(number)
            if connection is None:
                continue
            if has_seat(number):
                self._deadlines.append((now + SEATLESS, number))
            else:
                self._cut(connection, "it takes no seat")

    def poll_timeout(self) -> float | None:
        deadlines = [self._deadlines[0][0]] if self._deadlines else []
        resting = [at for each in self._listeners if (at := each.poll_timeout()) is not None]
        return min([*deadlines, *resting], default=None)

    def close(self) -> None:
        for connection in list(self._connections.values()):
            self._remove(connection)

    def _accept(self, accepted: socket.socket, source: tuple[str, int]) -> None:
        address = Address(source[0].removeprefix("::ffff:"), source[1])
        network = prefix(address)
        if len(self._connections) >= self._limit or self._per_network.get(network, 0) >= MAX_PER_NETWORK:
            self.counters.connections_refused += 1
            accepted.close()
            return
        self._add(accepted, address, network)

    def _add(self, accepted: socket.socket, address: Address, network: str) -> None:
        accepted.setblocking(False)
        with contextlib.suppress(OSError):  # reset already, or not known here
            accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if hasattr(socket, "TCP_NOTSENT_LOWAT"):
                accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, UNSENT)
        connection = Connection(self._next, accepted, address)
        self._next += 1
        self._connections[connection.number] = connection
        self._per_network[network] = self._per_network.get(network, 0) + 1
        self._deadlines.append((self._clock() + SEATLESS, connection.number))
        self.counters.connections += 1
        self._selector.register(accepted, selectors.EVENT_READ, partial(self._ready, connection))

    def _ready(self, connection: Connection, mask: int) -> None:
        is_there = connection.number in self._connections  # another's turn may have ended it since the selector spoke
        if is_there and mask & selectors.EVENT_WRITE:
            self._flush(connection)
        if mask & selectors.EVENT_READ and connection.number in self._connections:
            self._read(connection)

    def _read(self, connection: Connection) -> None:
        try:
            length = connection.socket.recv_into(self._buffer)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            length = 0
        if not length:
            self._remove(connection)
            return
        try:
            datagrams = connection.reader.feed(self._buffer[:length])
        except DecodeError as error:
            self._cut(connection, str(error))
            return
        self._take(datagrams, connection.address, connection.number)

    def _queue(self, connection: Connection, data: bytes) -> None:
        connection.output.append(memoryview(data))
        connection.queued += len(data)
        if not connection.watches_output:
            self._flush(connection)

    def _flush(self, connection: Connection) -> None:
        output = connection.output
        try:
            connection.queued -= send_queued(connection.socket, output)
        except OSError:
            self._remove(connection)
            return
        if bool(output) != connection.watches_output:
            connection.watches_output = bool(output)
            events = selectors.EVENT_READ | (selectors.EVENT_WRITE if output else 0)
            self._selector.modify(connection.socket, events, self._selector.get_key(connection.socket).data)

    def _cut(self, connection: Connection, why: str) -> None:
        if connection.number in self._connections:
            self.counters.connections_cut += 1
            log.debug("cut off a connection from %s: %s", prefix(connection.address), why)
            self._remove(connection)

    def _remove(self, connection: Connection) -> None:
        del self._connections[connection.number]
        network = prefix(connection.address)
        self._per_network[network] -= 1
        if not self._per_network[network]:
            del self._per_network[network]
        self._selector.unregister(connection.socket)
        connection.socket.close()
