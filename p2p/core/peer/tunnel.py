"""The tunnel: datagrams as frames in one TCP connection to the server, for networks that let no UDP out."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from p2p.core.address import Address
from p2p.core.datagram import Buffer, Transmit
from p2p.core.errors import DecodeError
from p2p.core.rendezvous.frames import FrameReader, frame_burst
from p2p.core.transport.lan import Action, Close, Connect

# Bytes that wait for the socket; what comes then and is not a word to the server is lost, as in a queue on the way:
# the transport slows down by that and by nothing else. A tenth of a second at 20 Mbit/s.
MAX_WAITING = 256 * 1024
FIRST_OF_A_PATH = 0xC0  # datagrams between the peers begin with this or more; the transport mends their loss


class Tunnel:
    """TCP connections of negative even numbers to the server's ports; the first that stands is the tunnel."""

    def __init__(self, addresses: Sequence[Address]) -> None:
        self._addresses = {-2 * index: address for index, address in enumerate(addresses, 1)}
        self._trying: set[int] = set()
        self._number: int | None = None
        self._reader = FrameReader()
        self._output: deque[Buffer] = deque()
        self._waiting = 0
        self._actions: deque[Action] = deque()
        self.dropped = 0

    @property
    def number(self) -> int | None:
        """Of the connection that stands."""
        return self._number

    def leads_to(self, number: int) -> Address | None:
        return self._addresses.get(number)

    def open(self) -> None:
        """Tries every port, unless that goes on, or one stands."""
        if self._number is None and not self._trying:
            for number, address in self._addresses.items():
                self._trying.add(number)
                self._actions.append(Connect(number, address, from_listener=True))

    def close(self) -> None:
        for number in [*self._trying, *([self._number] if self._number is not None else [])]:
            self._actions.append(Close(number, flush=number == self._number))
        self._trying.clear()
        self._number = None

    def handle_connected(self, number: int) -> bool:
        """Whether it is the tunnel from now on; else it is not needed, and closed."""
        if number not in self._trying:
            self._actions.append(Close(number))
            return False
        self._number = number
        self._trying.discard(number)
        self._actions.extend(Close(other) for other in self._trying)
        self._trying.clear()
        self._reader = FrameReader()
        self._output.clear()
        self._waiting = 0
        return True

    def handle_closed(self, number: int) -> bool:
        """Whether it was the tunnel, or the last one that was tried."""
        if number == self._number:
            self._number = None
            return True
        self._trying.discard(number)
        return self._number is None and not self._trying

    def handle_data(self, number: int, data: Buffer) -> list[bytes]:
        """The datagrams that are whole now. A server that speaks otherwise is none of ours: closed."""
        if number != self._number:
            return []
        try:
            return self._reader.feed(data)
        except DecodeError:
            self.close()
            return []

    def send(self, transmit: Transmit) -> None:
        """Every datagram of the burst as a frame."""
        data = b"".join(transmit.buffers)
        if self._number is None or (self._waiting + len(data) > MAX_WAITING and data[0] >= FIRST_OF_A_PATH):
            self.dropped += 1
            return
        framed = frame_burst(data, transmit.segment_size)
        self._waiting += len(framed)
        self._output.append(framed)

    def poll_action(self) -> Action | None:
        return self._actions.popleft() if self._actions else None

    def poll_output(self) -> tuple[int, list[Buffer]] | None:
        """All that waits; to be asked for when the connection has nothing more of its own to send."""
        if self._number is None or not self._output:
            return None
        buffers = list(self._output)
        self._output.clear()
        self._waiting = 0
        return self._number, buffers
