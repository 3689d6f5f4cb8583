"""The TCP hub over real sockets: holding the other side back, and connections that fail."""

from __future__ import annotations

import errno
import selectors
import socket
import time

import pytest

from p2p.core.address import Address
from p2p.io.net.interfaces import machine_addresses
from p2p.io.net.tcp import TcpHub

GUARD = 10.0  # seconds


@pytest.fixture
def hub():
    with selectors.DefaultSelector() as selector:
        made = TcpHub(selector, "127.0.0.1")
        yield made
        made.close_all()


def turn(hub: TcpHub, until) -> None:
    end = time.monotonic() + GUARD
    while not until():
        assert time.monotonic() < end
        for key, mask in hub._selector.select(0.05):
            key.data(mask)


def test_a_paused_connection_is_not_read_until_it_may_go_on(hub: TcpHub) -> None:
    accepted: list[int] = []
    heard: list[bytes] = []
    closed: list[int] = []
    hub.on_accepted = lambda connection, _: accepted.append(connection)
    hub.on_data = lambda _, data: heard.append(bytes(data))
    hub.on_closed = lambda connection, _: closed.append(connection)
    with socket.create_connection(("127.0.0.1", hub.port)) as other:
        turn(hub, lambda: bool(accepted))
        hub.pause(accepted[0])
        other.sendall(b"hello")
        assert hub._selector.select(0.1) == []
        hub.send(accepted[0], [b"we still speak"])
        assert other.recv(100) == b"we still speak"
        assert hub._selector.select(0.1) == []
        hub.pause(None)
        turn(hub, lambda: heard == [b"hello"])
    turn(hub, lambda: closed == accepted)


def test_a_paused_connection_can_be_closed(hub: TcpHub) -> None:
    accepted: list[int] = []
    hub.on_accepted = lambda connection, _: accepted.append(connection)
    with socket.create_connection(("127.0.0.1", hub.port)) as other:
        turn(hub, lambda: bool(accepted))
        hub.pause(accepted[0])
        hub.close(accepted[0], now=time.monotonic())
        assert other.recv(1) == b""


def test_why_a_connection_failed_is_told(hub: TcpHub) -> None:
    failed: list[tuple[int, int]] = []
    hub.on_closed = lambda connection, error: failed.append((connection, error))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        hub.connect(0, Address(*free.getsockname()))
        hub.connect(0, Address(*free.getsockname()))  # the number is taken: nothing happens
        turn(hub, lambda: bool(failed))
    hub.connect(2, Address("255.255.255.255", 1))
    assert failed[0] == (0, errno.ECONNREFUSED)
    assert failed[1:] == [(2, failed[1][1])]
    assert failed[1][1] != errno.ECONNREFUSED


def test_the_hub_takes_both_versions_and_names_who_came() -> None:
    link = next((each.host for each in machine_addresses() if "%" in each.host), None)
    with selectors.DefaultSelector() as selector:
        hub = TcpHub(selector)
        sources: list[Address] = []
        connected: list[int] = []
        hub.on_accepted = lambda _, source: sources.append(source)
        hub.on_connected = connected.append
        hosts = ["127.0.0.1", "::1", *([link] if link else [])]
        for number, host in enumerate(hosts):
            hub.connect(2 * number, Address(host, hub.port))
            turn(hub, lambda: len(connected) == len(sources) == number + 1)  # noqa: B023 (called at once)
        assert [source.host for source in sources] == hosts
        hub.close_all()


def test_a_link_local_address_on_no_interface_fails_at_once() -> None:
    with selectors.DefaultSelector() as selector:
        hub = TcpHub(selector)
        closed: list[int] = []
        hub.on_closed = lambda connection, _: closed.append(connection)
        hub.connect(2, Address("fe80::1%gone", 9))
        assert closed == [2]
        hub.close_all()
