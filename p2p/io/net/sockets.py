"""The UDP sockets of a peer by number: the main one, and those that a search for a path asks for."""

from __future__ import annotations

import contextlib
import selectors
from collections.abc import Callable
from typing import assert_never

from p2p.core.datagram import MAIN, CloseSockets, OpenSockets, SocketAction, Transmit, UseSocket
from p2p.io.net.udp import SendResult, UdpSocket

SCRATCH = range(1001, 1009)  # numbers above all that a search for a path asks for
EXTRA_BUFFER = 64 * 1024  # bytes; a socket of a search carries a few short datagrams until it wins


class UdpSockets:
    """All are watched by `selector`; `on_readable` is called with the number of one that has something, and the mask.

    One that was not opened for want of descriptors or ports loses what is sent by it, as a network would.
    """

    def __init__(self, selector: selectors.BaseSelector, main: UdpSocket) -> None:
        self._selector = selector
        self.on_readable: Callable[[int, int], None] = lambda _, __: None
        self._sockets: dict[int, UdpSocket] = {}
        self._writable: set[int] = set()
        self._add(MAIN, main)

    def __getitem__(self, number: int) -> UdpSocket:
        return self._sockets[number]

    def __contains__(self, number: int) -> bool:
        return number in self._sockets

    def open_scratch(self) -> dict[int, int]:
        """Fresh ones for samples of the NAT: their numbers, and the port that each is bound to."""
        self._open(SCRATCH.start, len(SCRATCH))
        return {number: self._sockets[number].address.port for number in SCRATCH if number in self._sockets}

    def handle(self, action: SocketAction) -> None:
        match action:
            case OpenSockets(first, count):
                self._open(first, count)
            case CloseSockets(numbers):
                for number in numbers:
                    self._close(number)
            case UseSocket(number):
                if number in self._sockets:
                    self._sockets[number].enlarge_buffers()
            case _:
                assert_never(action)

    def close(self) -> None:
        """All of them."""
        for number in list(self._sockets):
            self._close(number)

    def send(self, transmit: Transmit) -> SendResult:
        """Raises OSError as `UdpSocket.send` does."""
        chosen = self._sockets.get(transmit.local)
        return SendResult.SENT if chosen is None else chosen.send(transmit)

    def watch_writable(self, number: int | None) -> None:
        """Whether to wake up when that socket takes more; None: no socket is waited for."""
        wanted = set() if number is None else {number} & self._sockets.keys()
        for changed in wanted ^ self._writable:
            events = selectors.EVENT_READ | (selectors.EVENT_WRITE if changed in wanted else 0)
            registered = self._sockets[changed].fileno()
            self._selector.modify(registered, events, self._selector.get_key(registered).data)
        self._writable = wanted

    def _open(self, first: int, count: int) -> None:
        """Sockets of the main one's kind, on any port, under the numbers from `first` on."""
        main = self._sockets[MAIN]
        for number in range(first, first + count):
            if number in self._sockets:
                continue
            try:
                made = UdpSocket.bind(main.address.host, buffer_size=EXTRA_BUFFER, reads_like=main)
            except OSError:
                return
            self._add(number, made)

    def _close(self, number: int) -> None:
        if (closed := self._sockets.pop(number, None)) is not None:
            self._writable.discard(number)
            self._selector.unregister(closed.fileno())
            closed.close()

    def _add(self, number: int, sock: UdpSocket) -> None:
        self._sockets[number] = sock

        def ready(mask: int) -> None:
            with contextlib.suppress(KeyError):  # closed by what another socket's datagram meant
                self.on_readable(number, mask)

        self._selector.register(sock.fileno(), selectors.EVENT_READ, ready)
