"""Non-blocking TCP connections by number, for the LAN race and for the channel that won."""

from __future__ import annotations

import contextlib
import errno
import selectors
import socket
import time
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any

from p2p.core.address import Address
from p2p.core.datagram import Buffer
from p2p.io.net.addresses import from_socket, to_socket
from p2p.io.net.gather import send_queued
from p2p.io.net.listener import Listener

READ_SIZE = 256 * 1024  # bytes a read: about four records
MAX_WAITING = 64  # connections held at once, ours and strangers'; more than the LAN race ever keeps
SHARES_PORTS = hasattr(socket, "SO_REUSEPORT")  # a port for the listener and for connections that we open
DRAIN_TIMEOUT = 2.0  # seconds we go on reading after the last word, so that the kernel does not reset it away


class TcpHub:
    """All TCP sockets of a peer. Callbacks say what happened; numbers name connections.

    Connections that we open have the numbers that the caller gave (even ones); those that come in get odd numbers.
    """

    def __init__(
        self, selector: selectors.BaseSelector, host: str = "::", *, note: Callable[[str], None] = lambda _: None
    ) -> None:
        """Listens on all addresses, IPv6 and IPv4, or on one. `note`: for a sentence of trouble. Raises OSError."""
        self._selector = selector
        listener = _listen(host)
        self.port: int = listener.getsockname()[1]
        self._listener = Listener(listener, selector, self._accept, batch=1, clock=time.monotonic, tell=note)
        self._sockets: dict[int, socket.socket] = {}
        self._output: dict[int, deque[memoryview]] = {}
        self._connecting: set[int] = set()
        self._closing: dict[int, float] = {}  # number → when to give up waiting for the other end
        self._next_incoming = 1
        self._buffer = bytearray(READ_SIZE)
        self.on_connected: Callable[[int], None] = lambda _: None
        self.on_accepted: Callable[[int, Address], None] = lambda _, __: None
        self.on_data: Callable[[int, memoryview], None] = lambda _, __: None
        self.on_closed: Callable[[int, int], None] = lambda _, __: None  # with the errno of a connect that failed, or 0
        self._paused: int | None = None

    def connect(self, connection: int, address: Address, *, from_listener: bool = False) -> None:
        """`from_listener`: from the port that we listen on, so that one mapping of our NAT serves for both."""
        if connection in self._sockets:
            return
        is_v6 = address.version == 6
        try:
            destination = to_socket(address, is_v6=is_v6)
            sock = socket.socket(socket.AF_INET6 if is_v6 else socket.AF_INET, socket.SOCK_STREAM)
            if from_listener and SHARES_PORTS:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
                sock.bind(("::" if is_v6 else "0.0.0.0", self.port))
        except OSError as error:  # no such interface, no such family here, no descriptor left
            self.on_closed(connection, error.errno or 0)
            return
        sock.setblocking(False)
        code = sock.connect_ex(destination)
        if code not in (0, errno.EINPROGRESS, errno.EWOULDBLOCK):
            sock.close()
            self.on_closed(connection, code)
            return
        self._connecting.add(connection)
        self._add(connection, sock, selectors.EVENT_WRITE)

    def send(self, connection: int, buffers: list[Buffer]) -> None:
        if connection in self._sockets and connection not in self._closing:
            self._output[connection].extend(memoryview(b).cast("B") for b in buffers)
            self._flush(connection)

    def pause(self, connection: int | None) -> None:
        """Leaves what comes on this connection, and on no other, in the socket, where it slows the sender down."""
        if connection == self._paused:
            return
        before, self._paused = self._paused, connection
        for each in (before, connection):
            if each in self._sockets and each not in self._connecting:
                self._watch(each)

    def has_output(self, connection: int) -> bool:
        return bool(self._output.get(connection))

    def close(self, connection: int, *, now: float, flush: bool = False) -> None:
        """Closes; with `flush`, says everything that is queued first and then waits briefly for the other end."""
        if connection not in self._sockets:
            return
        if not flush or connection in self._connecting:
            self._remove(connection)
            return
        self._closing[connection] = now + DRAIN_TIMEOUT
        self._flush(connection)

    @property
    def is_flushing(self) -> bool:
        return bool(self._closing)

    def poll_timeout(self) -> float | None:
        resting = self._listener.poll_timeout()
        return min([*self._closing.values(), *([] if resting is None else [resting])], default=None)

    def handle_timeout(self, now: float) -> None:
        self._listener.handle_timeout(now)
        for connection, deadline in list(self._closing.items()):
            if deadline <= now:
                self._remove(connection)

    def close_all(self) -> None:
        for connection in list(self._sockets):
            self._remove(connection)
        self._listener.close()

    def _accept(self, sock: socket.socket, source: Any) -> None:
        if len(self._sockets) >= MAX_WAITING:
            sock.close()
            return
        sock.setblocking(False)
        connection = self._next_incoming
        self._next_incoming += 2
        self._add(connection, sock, selectors.EVENT_READ)
        self.on_accepted(connection, from_socket(source))

    def _add(self, connection: int, sock: socket.socket, events: int) -> None:
        with contextlib.suppress(OSError):  # reset already
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._sockets[connection] = sock
        self._output[connection] = deque()
        self._selector.register(sock, events, partial(self._ready, connection))

    def _ready(self, connection: int, mask: int) -> None:
        sock = self._sockets.get(connection)
        if sock is None:
            return
        if connection in self._connecting:
            self._connecting.discard(connection)
            if error := sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
                self._remove(connection)
                self.on_closed(connection, error)
                return
            self._watch(connection)
            self.on_connected(connection)
            return
        if mask & selectors.EVENT_READ:
            self._read(connection, sock)
        if mask & selectors.EVENT_WRITE and connection in self._sockets:
            self._flush(connection)

    def _read(self, connection: int, sock: socket.socket) -> None:
        try:
            length = sock.recv_into(self._buffer)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            length = 0
        if connection in self._closing:
            if length == 0:
                self._remove(connection)
            return
        if length == 0:
            self._remove(connection)
            self.on_closed(connection, 0)
        else:
            self.on_data(connection, memoryview(self._buffer)[:length])

    def _flush(self, connection: int) -> None:
        sock, output = self._sockets[connection], self._output[connection]
        try:
            send_queued(sock, output)
        except OSError:
            output.clear()
            self._remove(connection)
            self.on_closed(connection, 0)
            return
        self._watch(connection)
        if not output and connection in self._closing:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_WR)

    def _watch(self, connection: int) -> None:
        sock = self._sockets[connection]
        events = selectors.EVENT_WRITE if self._output[connection] else 0
        if connection != self._paused or connection in self._closing:
            events |= selectors.EVENT_READ
        registered = self._selector.get_map().get(sock)
        if registered is None:
            if events:
                self._selector.register(sock, events, partial(self._ready, connection))
        elif not events:
            self._selector.unregister(sock)
        elif registered.events != events:
            self._selector.modify(sock, events, registered.data)

    def _remove(self, connection: int) -> None:
        sock = self._sockets.pop(connection)
        self._output.pop(connection)
        self._connecting.discard(connection)
        self._closing.pop(connection, None)
        if sock in self._selector.get_map():
            self._selector.unregister(sock)
        sock.close()


def _listen(host: str) -> socket.socket:
    """IPv4 alone where IPv6 is switched off."""
    if host != "::":
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, 0), family=family, backlog=MAX_WAITING, reuse_port=SHARES_PORTS)
    try:
        return socket.create_server(
            (host, 0), family=socket.AF_INET6, backlog=MAX_WAITING, reuse_port=SHARES_PORTS, dualstack_ipv6=True
        )
    except (OSError, ValueError):  # the latter where no socket can be of both kinds
        return socket.create_server(("0.0.0.0", 0), backlog=MAX_WAITING, reuse_port=SHARES_PORTS)
