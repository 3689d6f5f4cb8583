"""NatProbe against the real server process on loopback."""

from __future__ import annotations

import contextlib
import socket
import subprocess
from collections.abc import Iterator

import pytest
from harness import Program
from probe_runner import Sockets

from p2p.core.address import Address
from p2p.core.datagram import MAIN
from p2p.core.nat.filtering import Filtering, FilteringFound
from p2p.core.nat.hairpin import HairpinFound
from p2p.core.nat.probe import SCRATCH, NatEvent, NatFound, NatProbe
from p2p.core.nat_report import Mapping, NatReport
from p2p.core.rendezvous.messages import Cookie, Hello, decode, encode

GUARD = 20.0  # seconds


def has_ipv6() -> bool:
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as asking:
        asking.bind(("::1", 0))
        return True
    return False


@contextlib.contextmanager
def sockets_at(host: str) -> Iterator[Sockets]:
    with contextlib.ExitStack() as stack:

        def make() -> socket.socket:
            family = socket.AF_INET6 if ":" in host else socket.AF_INET
            return stack.enter_context(socket.socket(family, socket.SOCK_DGRAM))

        yield Sockets(make, host)


@pytest.fixture
def sockets() -> Iterator[Sockets]:
    with sockets_at("127.0.0.1") as made:
        yield made


def serving(*options: str) -> tuple[Program, list[int]]:
    program = Program(subprocess.Popen, ["-m", "p2p.server", "--port", "0", *options])
    ports = program.wait_for(r"listening on .* ports (\d+) and (\d+)")
    return program, [int(port) for port in ports.groups()]


def settle(sockets: Sockets, server: Address) -> tuple[NatProbe, NatFound]:
    main = sockets.open(1)
    probe = NatProbe(server, main[MAIN], sockets.open(SCRATCH), sockets.random_bytes)
    probe.start(sockets.clock())
    found = sockets.until(probe, is_settled)[-1]
    assert isinstance(found, NatFound)
    assert found.reflexive == (Address(server.host, main[MAIN]),)
    return probe, found


def is_settled(event: NatEvent) -> bool:
    return isinstance(event, NatFound) and event.is_settled


@pytest.mark.parametrize(
    ("options", "mapping", "filtering"),
    [
        (
            ["--host", "127.0.0.1", "--alt-host", "127.0.0.2"],
            Mapping.ENDPOINT_INDEPENDENT,
            Filtering.ENDPOINT_INDEPENDENT,
        ),
        (["--host", "127.0.0.1"], Mapping.NOT_PORT_DEPENDENT, Filtering.NOT_PORT_DEPENDENT),
        (["--host", "0.0.0.0"], Mapping.NOT_PORT_DEPENDENT, Filtering.NOT_PORT_DEPENDENT),
        (["--host", "::"], Mapping.NOT_PORT_DEPENDENT, Filtering.NOT_PORT_DEPENDENT),
    ],
)
def test_the_probe_sees_what_the_server_has(
    sockets: Sockets, options: list[str], mapping: Mapping, filtering: Filtering
) -> None:
    program, ports = serving(*options)
    try:
        probe, found = settle(sockets, Address("127.0.0.1", ports[0]))
        assert found.report == NatReport(mapping, preserves_ports=True, newest=found.report.newest)
        hosts = ["127.0.0.1", "127.0.0.2"] if "--alt-host" in options else ["127.0.0.1"]
        assert probe.endpoints == tuple(Address(host, port) for host in hosts for port in ports)
        probe.measure_filtering(*sockets.open(1), sockets.clock())
        assert FilteringFound(filtering) in sockets.until(probe, lambda event: isinstance(event, FilteringFound))
        probe.measure_hairpin(*sockets.open(1), sockets.clock())
        assert HairpinFound(True) in sockets.until(probe, lambda event: isinstance(event, HairpinFound))
    finally:
        program.process.terminate()
        program.finish()
    assert "stun answered" in program.err


@pytest.mark.skipif(not has_ipv6(), reason="no IPv6 loopback here")
@pytest.mark.parametrize("host", ["::1", "::"])
def test_over_ipv6(host: str) -> None:
    program, ports = serving("--host", host)
    try:
        with sockets_at("::1") as sockets:
            probe, found = settle(sockets, Address("::1", ports[0]))
            assert found.report.mapping is Mapping.NOT_PORT_DEPENDENT
            assert probe.endpoints == tuple(Address("::1", port) for port in ports)
    finally:
        program.process.terminate()
        program.finish()


def test_rendezvous_is_answered_on_every_socket_alike_and_from_it() -> None:
    program, ports = serving("--host", "127.0.0.1", "--alt-host", "127.0.0.2")
    try:
        for host in ("127.0.0.1", "127.0.0.2"):
            for port in ports:
                with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
                    asking.settimeout(GUARD)
                    asking.bind(("127.0.0.1", 0))
                    asking.sendto(encode(Hello(bytes(8))), (host, port))
                    data, source = asking.recvfrom(2048)
                    assert source == (host, port)
                    cookie = decode(data)
                    assert isinstance(cookie, Cookie)
                    assert cookie.mapped == asking.getsockname()
    finally:
        program.process.terminate()
        program.finish()
