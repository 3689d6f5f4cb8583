"""What the command line may call the server, and the addresses that come of it."""

from __future__ import annotations

import socket
import threading
from collections.abc import Sequence

import pytest

from p2p.core.address import Address
from p2p.core.errors import CallerError
from p2p.io.net import resolve as module
from p2p.io.net.resolve import DEFAULT_PORT, parse, resolve

V4, V6 = Address("127.0.0.1", 9), Address("::1", 9)


@pytest.mark.parametrize(("text", "host", "port"), [
    ("host", "host", DEFAULT_PORT), ("host:80", "host", 80), ("1.2.3.4:80", "1.2.3.4", 80),
    ("::1", "::1", DEFAULT_PORT), ("2001:db8::1:80", "2001:db8::1:80", DEFAULT_PORT), ("[::1]", "::1", DEFAULT_PORT),
    ("[::1]:80", "::1", 80), ("[fe80::1%eth0]:80", "fe80::1%eth0", 80), ("fe80::1%eth0", "fe80::1%eth0", DEFAULT_PORT),
])  # fmt: skip
def test_names_and_addresses_with_and_without_a_port(text: str, host: str, port: int) -> None:
    assert parse(text) == (host, port)


@pytest.mark.parametrize("text", [
    "", ":80", "host:", "host:x", "host:0", "host:65536", "[::1", "[::1]80", "[::1]:", "[]:80", "[host]:80", "a:b:c",
])  # fmt: skip
def test_what_names_no_server_is_said_to_the_caller(text: str) -> None:
    with pytest.raises(CallerError, match="--server\x0f wants"):
        parse(text)


def test_an_address_is_taken_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(socket, "getaddrinfo")
    assert resolve("2001:DB8::0001") == [Address("2001:db8::1", DEFAULT_PORT)]
    assert resolve("192.0.2.1:9") == [Address("192.0.2.1", 9)]
    assert resolve(f"[fe80::1%{socket.if_nameindex()[0][0]}]:9")[0].host.partition("%")[0] == "fe80::1"


def answers(monkeypatch: pytest.MonkeyPatch, v6: Sequence[Address] | None, v4: Sequence[Address] | None) -> None:
    """What the resolver knows; None: it never says so."""

    def look_up(_: str, __: int, family: socket.AddressFamily) -> Sequence[Address]:
        known = v6 if family == socket.AF_INET6 else v4
        if known is None:
            threading.Event().wait()
        return known or []

    monkeypatch.setattr(module, "_look_up", look_up)


def test_both_versions_are_found_ipv6_first(monkeypatch: pytest.MonkeyPatch) -> None:
    answers(monkeypatch, [V6], [V4])
    monkeypatch.setattr(module, "source_address", lambda _: "here")
    assert resolve("server") == [V6, V4]


def test_a_resolver_that_knows_one_version_and_is_silent_of_the_other_is_not_waited_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    answers(monkeypatch, None, [V4])
    assert resolve("server", patience=3600) == [V4]
    answers(monkeypatch, None, None)
    assert resolve("server", patience=0.01) == []


def test_what_no_route_leads_to_is_left_out_where_something_else_is(monkeypatch: pytest.MonkeyPatch) -> None:
    far = Address("2001:db8::1", 9)
    monkeypatch.setattr(module, "source_address", lambda address: None if address == far else "here")
    answers(monkeypatch, [far], [V4])
    assert resolve("server") == [V4]
    answers(monkeypatch, [far], [])
    assert resolve("server") == [far]


def test_a_name_that_is_none_has_no_address() -> None:
    assert resolve("a..b") == []
