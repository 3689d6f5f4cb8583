"""The lookouts of a run on a UDP socket of their own (docs/connecting.md, "Lookouts")."""

from __future__ import annotations

import contextlib
import selectors
import time

from p2p.core.peer.lookout import Lookouts
from p2p.io.net.udp import UdpSocket

BUFFER = 64 * 1024  # bytes; a few datagrams a second


class LookoutSocket:
    """Carries their datagrams as long as it is open."""

    def __init__(self, lookouts: Lookouts, selector: selectors.BaseSelector) -> None:
        """Raises OSError."""
        self._lookouts = lookouts
        self._selector = selector
        self._socket = UdpSocket.bind_all(buffer_size=BUFFER)
        selector.register(self._socket.fileno(), selectors.EVENT_READ, lambda _: self._receive())

    def advance(self) -> None:
        """Sends what is pending."""
        while (transmit := self._lookouts.poll_transmit()) is not None:
            with contextlib.suppress(OSError):  # what is lost, or refused, is said again
                self._socket.send(transmit)

    def close(self) -> None:
        """Gives the seats up; nobody waits for the server's answer: a seat runs out."""
        self._lookouts.close(time.monotonic())
        self.advance()
        self._selector.unregister(self._socket.fileno())
        self._socket.close()

    def _receive(self) -> None:
        now = time.monotonic()
        for data, segment_size, source in self._socket.receive():
            step = segment_size or len(data)
            for start in range(0, len(data), step or 1):
                self._lookouts.handle_datagram(bytes(data[start : start + step]), source, now)
