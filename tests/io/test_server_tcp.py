"""The server's TCP connections, with a clock of our own: caps, full queues, and who takes no seat."""

from __future__ import annotations

import selectors
import socket
from collections.abc import Iterator
from contextlib import ExitStack, suppress

import pytest

from p2p.core.address import Address
from p2p.core.rendezvous.frames import FrameReader, frame
from p2p.core.rendezvous.seats import FIRST_CONNECTION
from p2p.io.server import tcp as server_tcp
from p2p.io.server.tcp import MESSAGES, QUEUE, SEATLESS, Tunnels

PATIENCE = 20.0


class Hall:
    """Tunnels behind one listener, and the peers that connect to it."""

    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack
        self.now = 100.0
        self.taken: list[tuple[list[bytes], Address, int]] = []
        self._selector = stack.enter_context(selectors.DefaultSelector())
        self._listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        self._listener.setblocking(False)
        self.tunnels = Tunnels([self._listener], self._selector, self._take, lambda: self.now)
        stack.callback(self.tunnels.close)

    def _take(self, datagrams: list[bytes], source: Address, number: int) -> None:
        self.taken.append((datagrams, source, number))

    def connect(self, receive_buffer: int = 0) -> socket.socket:
        peer = self._stack.enter_context(socket.socket())
        if receive_buffer:
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        peer.settimeout(PATIENCE)
        peer.connect(self._listener.getsockname())
        self.turn()
        return peer

    def turn(self) -> None:
        """Until nothing is left to do."""
        while ready := self._selector.select(0.05):
            for key, mask in ready:
                key.data(mask)

    def wait(self, seconds: float, *seated: int) -> None:
        self.now += seconds
        self.tunnels.handle_timeout(self.now, lambda number: number in seated)


@pytest.fixture
def hall() -> Iterator[Hall]:
    with ExitStack() as stack:
        yield Hall(stack)


def is_open(peer: socket.socket) -> bool:
    peer.setblocking(False)
    with suppress(BlockingIOError, ConnectionResetError):
        return peer.recv(1, socket.MSG_PEEK) != b""
    return True


def test_frames_come_in_with_their_source_and_number(hall: Hall) -> None:
    peers = [hall.connect(), hall.connect()]
    for number, peer in enumerate(peers):
        peer.sendall(frame(b"one") + frame(bytes([number])))
    hall.turn()
    assert sorted(hall.taken, key=lambda each: each[2]) == [
        ([b"one", bytes([number])], Address(*peer.getsockname()), FIRST_CONNECTION + number)
        for number, peer in enumerate(peers)
    ]


def test_a_connection_without_a_seat_ends_and_one_with_a_seat_stays(hall: Hall) -> None:
    peers = [hall.connect(), hall.connect()]
    assert hall.tunnels.poll_timeout() == hall.now + SEATLESS
    hall.wait(SEATLESS - 0.1)
    assert len(hall.tunnels) == 2
    hall.wait(0.1, FIRST_CONNECTION)
    assert [is_open(peer) for peer in peers] == [True, False]
    hall.wait(SEATLESS, FIRST_CONNECTION)
    assert len(hall.tunnels) == 1
    hall.wait(SEATLESS)
    assert len(hall.tunnels) == 0
    assert hall.tunnels.poll_timeout() is None


def test_a_network_has_its_share_of_connections(hall: Hall, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_tcp, "MAX_PER_NETWORK", 3)
    peers = [hall.connect() for _ in range(5)]
    assert [is_open(peer) for peer in peers] == [True] * 3 + [False] * 2
    peers[0].close()
    hall.turn()
    assert is_open(hall.connect())
    assert hall.tunnels.counters.connections_refused == 2


def test_there_is_an_end_to_all_connections(hall: Hall) -> None:
    vars(hall.tunnels)["_limit"] = 2
    assert [is_open(hall.connect()) for _ in range(3)] == [True, True, False]


def test_a_full_queue_drops_the_relays_datagrams_and_keeps_the_servers_messages(hall: Hall) -> None:
    peer = hall.connect(receive_buffer=4096)
    burst = b"".join(bytes([0xD0, number]) + bytes(998) for number in range(50))
    while not hall.tunnels.counters.queue_drops:
        hall.tunnels.send_burst(FIRST_CONNECTION, burst, 1000)
    for number in range(20):
        hall.tunnels.send(FIRST_CONNECTION, b"p%d" % number)
    reader, got = FrameReader(), list[bytes]()
    while not got or got[-1] != b"p19":
        hall.turn()
        got += reader.feed(peer.recv(65_536))
    messages = [datagram for datagram in got if datagram[:1] == b"p"]
    assert messages == [b"p%d" % number for number in range(20)]
    relayed = [datagram for datagram in got if datagram[:1] != b"p"]
    assert relayed == [burst[at : at + 1000] for at in range(0, len(burst), 1000)] * (len(relayed) // 50), "whole"
    assert QUEUE - len(burst) <= sum(map(len, relayed)) <= 10 * QUEUE
    hall.tunnels.send_burst(FIRST_CONNECTION, burst, 1000)
    assert hall.tunnels.counters.queue_drops == 1, "there is room again"


def test_who_reads_nothing_at_all_is_cut_off(hall: Hall) -> None:
    hall.connect(receive_buffer=4096)
    sent = 0
    while len(hall.tunnels):
        hall.tunnels.send(FIRST_CONNECTION, bytes(1000))
        sent += 1000
        assert sent < 20 * (QUEUE + MESSAGES)
    assert hall.tunnels.counters.connections_cut == 1
    hall.tunnels.send(FIRST_CONNECTION, b"nobody is there any more")
    hall.tunnels.send_burst(FIRST_CONNECTION, b"nobody", 0)


def test_a_peer_that_resets_in_mid_sentence_is_forgotten(hall: Hall) -> None:
    peer = hall.connect()
    peer.sendall(frame(b"whole") + b"\0\x20half")
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    peer.close()
    hall.turn()
    hall.tunnels.send(FIRST_CONNECTION, b"late")
    assert len(hall.tunnels) == 0


def test_what_the_selector_said_of_a_connection_that_ended_since_is_void(hall: Hall) -> None:
    hall.connect().sendall(frame(b"late"))
    ((key, _),) = vars(hall.tunnels)["_selector"].select(PATIENCE)
    hall.tunnels.close()
    key.data(selectors.EVENT_READ | selectors.EVENT_WRITE)
    assert hall.taken == []
