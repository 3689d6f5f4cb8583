"""The sockets of the port mapping, against a router on loopback that lives in a thread."""

from __future__ import annotations

import contextlib
import gc
import itertools
import os
import selectors
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from portmap.fake_router import PORT, WAN, Router

from p2p.core.address import Address
from p2p.core.portmap.events import Event, Mapped, NoMapper, Protocol
from p2p.io.net import port_mapper
from p2p.io.net.port_mapper import PortMapper, find_router

GUARD = 30.0  # seconds
QUIET = 0.1  # seconds without a packet, after which the clock goes on to the next deadline
_NETS = itertools.count(os.getpid() % 200 + 2)


class Bench:
    """A router at 127.N.M.1 (ports 5351, 1900, 5431), we at 127.N.M.2, and a clock that can be moved on."""

    def __init__(self, router: Router, stack: ExitStack) -> None:
        net = f"127.{os.getpid() % 200 + 20}.{next(_NETS) % 250}"
        self.gateway, self.client = f"{net}.1", f"{net}.2"
        self.router = router
        router.location = f"http://{self.gateway}:5431/desc.xml"
        self.selector = stack.enter_context(selectors.DefaultSelector())
        self.ahead = 0.0
        self.page: Callable[[socket.socket], None] = self._answer_page  # may be replaced before `serve`
        self._stack = stack
        self._served = stack.enter_context(selectors.DefaultSelector())
        self._is_over = False
        self.mapper = PortMapper(self.selector, PORT, port_mapper.Router(self.gateway, self.client), clock=self.clock)
        stack.callback(self.mapper.close, 0.0)

    def clock(self) -> float:
        return time.monotonic() + self.ahead

    def serve(self, *, udp: bool = True, http: bool = True) -> None:
        if udp:
            self._listen(5351, socket.SOCK_DGRAM, self._answer)
        if http:
            self._listen(1900, socket.SOCK_DGRAM, self._answer_search)
            self._listen(5431, socket.SOCK_STREAM, self.page)
        thread = threading.Thread(target=self._serve)
        thread.start()
        self._stack.callback(self.stop, thread)

    def stop(self, thread: threading.Thread) -> None:
        self._is_over = True
        thread.join()

    def _serve(self) -> None:
        while not self._is_over:
            for key, _ in self._served.select(0.02):
                key.data()

    def run(self, until: Callable[[], bool]) -> None:
        end = time.monotonic() + GUARD
        while not until():
            assert time.monotonic() < end
            at = self.mapper.poll_timeout()
            ready = self.selector.select(QUIET)
            for key, mask in ready:
                key.data(mask)
            if not ready and at is not None:
                self.ahead += max(0.0, at - self.clock())
            self.mapper.handle_timeout(self.clock())

    def event(self) -> Event:
        found: list[Event] = []

        def polled() -> bool:
            event = self.mapper.poll_event()
            if event is not None:
                found.append(event)
            return bool(found)

        self.run(polled)
        return found[0]

    @property
    def registered(self) -> int:
        return len(self.selector.get_map())

    def _listen(self, port: int, kind: socket.SocketKind, callback: Callable[[socket.socket], None]) -> None:
        sock = self._stack.enter_context(socket.socket(socket.AF_INET, kind))
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((self.gateway, port))
        if kind == socket.SOCK_STREAM:
            sock.listen()
        sock.setblocking(False)
        self._served.register(sock, selectors.EVENT_READ, lambda: callback(sock))

    def _answer(self, sock: socket.socket) -> None:
        data, source = sock.recvfrom(2000)
        for answer in self.router.answer(data, self.clock()):
            sock.sendto(answer, source)

    def _answer_search(self, sock: socket.socket) -> None:
        _, source = sock.recvfrom(2000)
        if Protocol.UPNP in self.router.offers:
            sock.sendto(self.router.search_answer(), source)

    def _answer_page(self, listener: socket.socket) -> None:
        connection, _ = listener.accept()
        connection.settimeout(GUARD)
        with connection:
            request = b""
            while b"\r\n\r\n" not in request or (b"Envelope" in request and b"</s:Envelope>" not in request):
                request += connection.recv(4096)
            connection.sendall(self.router.http(request, self.clock()))


@pytest.fixture
def bench() -> Iterator[Callable[[Router], Bench]]:
    with ExitStack() as stack:
        yield lambda router: Bench(router, stack)


@pytest.mark.parametrize("protocol", Protocol, ids=lambda protocol: protocol.value)
def test_maps_and_releases_over_real_sockets(bench: Callable[[Router], Bench], protocol: Protocol) -> None:
    made = bench(Router(offers={protocol}))
    made.serve()
    made.mapper.start()
    assert made.event() == Mapped(Address(WAN, PORT), protocol, 3600)
    assert list(made.router.mappings) == [PORT]
    made.mapper.close(GUARD)
    assert made.router.mappings == {}
    assert made.registered == 0


def test_the_search_socket_is_closed_once_the_router_has_answered(bench: Callable[[Router], Bench]) -> None:
    made = bench(Router(offers={Protocol.UPNP}))
    made.serve()
    made.mapper.start()
    made.event()
    assert made.registered == 1, "the socket of PCP and NAT-PMP is left"


def test_callbacks_of_sockets_that_were_closed_in_the_same_turn_do_nothing(bench: Callable[[Router], Bench]) -> None:
    made = bench(Router(offers={Protocol.UPNP}))
    made.serve()
    made.mapper.start()
    callbacks = [key.data for key in made.selector.get_map().values()]
    assert len(callbacks) == 2
    made.event()
    for callback in callbacks:
        callback(selectors.EVENT_READ)
    made.mapper.close(GUARD)
    for callback in callbacks:
        callback(selectors.EVENT_READ)


def test_nobody_there_and_icmp_says_so(bench: Callable[[Router], Bench]) -> None:
    made = bench(Router())
    made.mapper.start()
    verdict = made.event()
    assert isinstance(verdict, NoMapper)
    assert dict(verdict.reasons)[Protocol.PCP] == "nobody listens there"


def test_a_control_page_that_refuses(bench: Callable[[Router], Bench]) -> None:
    made = bench(Router(offers={Protocol.UPNP}))
    made.serve(udp=False)
    made.router.location = f"http://{made.gateway}:1/desc.xml"
    made.mapper.start()
    verdict = made.event()
    assert isinstance(verdict, NoMapper)
    assert "refuses the connection" in dict(verdict.reasons)[Protocol.UPNP]


def test_a_page_that_never_ends_is_left(bench: Callable[[Router], Bench]) -> None:
    made = bench(Router(offers={Protocol.UPNP}))

    def flood(listener: socket.socket) -> None:
        connection, _ = listener.accept()
        connection.settimeout(GUARD)
        with connection, contextlib.suppress(OSError):
            connection.send(b"HTTP/1.1 200 OK\r\n\r\n")
            while True:
                connection.send(bytes(10_000))

    made.page = flood
    made.serve()
    made.mapper.start()
    verdict = made.event()
    assert isinstance(verdict, NoMapper)
    assert "too large" in dict(verdict.reasons)[Protocol.UPNP]


def test_a_page_that_says_nothing_is_left(bench: Callable[[Router], Bench]) -> None:
    made = bench(Router(offers={Protocol.UPNP}))
    held: list[socket.socket] = []

    def hold(listener: socket.socket) -> None:
        held.append(listener.accept()[0])
        made.ahead += 60.0

    made.page = hold
    made.serve()
    made.mapper.start()
    verdict = made.event()
    assert isinstance(verdict, NoMapper)
    assert "too slow" in dict(verdict.reasons)[Protocol.UPNP]
    held[0].close()


def test_closing_asks_a_silent_router_no_longer_than_its_patience(bench: Callable[[Router], Bench]) -> None:
    made = bench(Router(offers={Protocol.NAT_PMP}))
    made.serve()
    made.mapper.start()
    made.event()
    made.router.offers.clear()
    made.mapper.close(0.2)
    assert list(made.router.mappings) == [PORT]
    made.mapper.close()
    assert made.mapper.poll_timeout() is None
    assert made.mapper.poll_event() is None


def test_no_router_is_told_and_nothing_is_opened() -> None:
    with selectors.DefaultSelector() as selector:
        mapper = PortMapper(selector, PORT, None)
        mapper.start()
        event = mapper.poll_event()
        assert isinstance(event, NoMapper)
        assert len(event.reasons) == 3
        assert mapper.poll_event() is None
        mapper.set_reflexive(WAN)
        mapper.handle_timeout(1.0)
        mapper.close()
        assert not selector.get_map()


def test_no_socket_is_left_open(bench: Callable[[Router], Bench]) -> None:
    made = bench(Router())
    made.serve()
    made.mapper.start()
    made.mapper.close(0.0)
    gc.collect()  # an unclosed socket is a warning, and a warning is an error


def test_where_the_system_does_not_tell_its_routes_the_router_is_guessed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(port_mapper, "ROUTES", tmp_path / "none")
    monkeypatch.setattr(port_mapper, "_source_address", lambda _: "192.168.7.20")
    assert find_router("8.8.8.8") == port_mapper.Router("192.168.7.1", "192.168.7.20", is_guess=True)
    monkeypatch.setattr(port_mapper, "_source_address", lambda _: None)
    assert find_router("8.8.8.8") is None


def test_the_router_of_this_machine_is_the_next_hop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = tmp_path / "route"
    table.write_text("Iface ...\neth0 00000000 010200C0 0003 0 0 0 00000000 0 0 0\n".replace(" ", "\t"))
    monkeypatch.setattr(port_mapper, "ROUTES", table)
    monkeypatch.setattr(port_mapper, "_source_address", lambda _: "192.0.2.20")
    monkeypatch.setattr(sys, "byteorder", "little")
    assert find_router() == port_mapper.Router("192.0.2.1", "192.0.2.20")
    assert find_router("127.0.0.1") is None
