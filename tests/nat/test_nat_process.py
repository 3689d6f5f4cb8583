"""NatProbe against the real server process on loopback."""

from __future__ import annotations

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


@pytest.fixture
def sockets() -> Iterator[Sockets]:
    made: list[socket.socket] = []

    def make() -> socket.socket:
        made.append(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        return made[-1]

    yield Sockets(make, "127.0.0.1")
    for each in made:
        each.close()


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
    assert found.reflexive == (Address("127.0.0.1", main[MAIN]),)
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
                    assert cookie.alternate_port == ports[1]
    finally:
        program.process.terminate()
        program.finish()
