"""The real server process on loopback: datagrams forwarded by UDP and in TCP connections."""

from __future__ import annotations

import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress

import pytest
from harness import Program
from test_server_process import PATIENCE, Server, Talker, running

from p2p.core.address import Address
from p2p.core.datagram import TUNNEL, Transmit
from p2p.core.introduction import NamePair
from p2p.core.rendezvous import events as c
from p2p.core.rendezvous.frames import FrameReader, frame
from p2p.core.rendezvous.messages import Cookie, Hello, RelayState, Unsupported, decode, encode
from p2p.core.role import Role
from p2p.io.net.udp import UdpSocket

HELLO = encode(Hello(b"12345678"))  # 64 bytes


@contextmanager
def peers(server: Server, *ways: str, ports: tuple[int, ...] = ()) -> Iterator[list[Program]]:
    with ExitStack() as stack:
        started = []
        for (me, friend, role), way in zip((("a", "b", "sender"), ("b", "a", "receiver")), ways, strict=True):
            port = str(ports[0] if way == "tcp" and ports else server.ports[0])
            arguments = ["tests/relay_client.py", server.host, port, way, me, friend, role]
            started.append(Program(subprocess.Popen, arguments))
            stack.callback(started[-1].kill)
        yield started


def free_tcp_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


@pytest.mark.parametrize("ways", [("udp", "udp"), ("udp", "tcp"), ("tcp", "tcp")], ids="-".join)
def test_two_peers_talk_through_the_server(ways: tuple[str, str]) -> None:
    extra = free_tcp_port()
    with running("--host", "127.0.0.1", "--tcp-port", str(extra)) as server:
        with peers(server, *ways, ports=(extra,)) as both:
            for peer in both:
                peer.wait_for("heard 20")
        _, log = server.stop()
    assert re.search(r'relay opened: "[ab]" with "[ab]", at 127', log)
    assert re.search(r"relays opened 1, relayed bytes \d+", log)
    assert ("connections " in log) is ("tcp" in ways)


def test_without_a_relay_nothing_is_forwarded() -> None:
    with running("--host", "127.0.0.1", "--no-relay") as server:
        alice = Talker(server.first, NamePair("alice", "bob"), Role.SENDER)
        alice.machine.ask_relay(0.0)
        alice.until(c.Relayed)
        assert [event.state for event in alice.events if isinstance(event, c.Relayed)] == [RelayState.NONE]
        alice.socket.close()


class Pair:
    """Two peers on real sockets with an open relay."""

    def __init__(self, server: Server) -> None:
        self.server = server.first
        self.alice = Talker(self.server, NamePair("alice", "bob"), Role.SENDER)
        self.bob = Talker(self.server, NamePair("bob", "alice"), Role.RECEIVER)
        for each in (self.alice, self.bob):
            each.machine.ask_relay(0.0)
            each.until(c.Relayed)
        while not any(isinstance(e, c.Relayed) and e.state is RelayState.OPEN for e in self.alice.events):
            self.alice.until_next()

    def close(self) -> None:
        self.alice.socket.close()
        self.bob.socket.close()

    def heard_by_bob(self, count: int) -> list[bytes]:
        found: list[bytes] = []
        while len(found) < count:
            data, source = self.bob.socket.recvfrom(65_536)
            if data[:1] != b"p":
                assert source == self.server
                found.append(data)
        return found


def move_to_tcp(talker: Talker, connection: socket.socket) -> None:
    """Until its relay is open there."""
    reader, machine = FrameReader(), talker.machine
    talker.events.clear()
    machine.use(TUNNEL, 0.0)
    while not any(isinstance(event, c.Relayed) for event in talker.events):
        while (transmit := machine.poll_transmit()) is not None:
            connection.sendall(frame(b"".join(transmit.buffers)))
        for datagram in reader.feed(connection.recv(65_536)):
            machine.handle_datagram(datagram, Address("", 0), 0.0, TUNNEL)
        while (event := machine.poll_event()) is not None:
            talker.events.append(event)


def test_what_the_kernel_coalesced_is_cut_apart_by_what_it_is() -> None:
    """A HELLO of 64 bytes amid datagrams of 64 bytes for the friend, in one super-packet."""
    with running("--host", "127.0.0.1") as server:
        pair = Pair(server)
        sender = UdpSocket(pair.alice.socket)
        burst = [b"\xd0" + bytes([number]) * 63 for number in range(6)]
        junk = b"x" * 64
        data = b"".join([*burst[:3], HELLO, junk, *burst[3:]])
        assert sender.send(Transmit(pair.server, (data,), 64))
        assert pair.heard_by_bob(6) == burst
        pair.alice.socket.settimeout(PATIENCE)
        answers = []
        while not answers:
            got = pair.alice.socket.recv(2048)
            answers += [decode(got)] if isinstance(decode(got), Cookie) else []
        pair.close()
        _, log = server.stop()
    assert "malformed 1" in log
    assert f"relayed bytes {6 * 64}" in log


def test_a_burst_stays_a_burst_up_to_a_shorter_last_one() -> None:
    with running("--host", "127.0.0.1") as server:
        pair = Pair(server)
        sender, receiver = UdpSocket(pair.alice.socket), UdpSocket(pair.bob.socket)
        data = b"\xd0" * (50 * 1200 + 7)
        assert sender.send(Transmit(pair.server, (data,), 1200))
        got: list[tuple[int, int]] = []
        while not got:
            pair.bob.socket.settimeout(PATIENCE)
            pair.bob.socket.recv(1, socket.MSG_PEEK)
            pair.bob.socket.setblocking(False)
            got = [(len(burst), size) for burst, size, _ in receiver.receive() if burst[0] == 0xD0]
        pair.close()
    assert got == [(50 * 1200 + 7, 1200)]


def test_where_the_kernel_cuts_nothing_the_server_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("P2P_NO_GSO", "1")
    with running("--host", "127.0.0.1") as server:
        pair = Pair(server)
        with connect(server) as tunnel:
            move_to_tcp(pair.alice, tunnel)
            datagrams = [bytes([0xD0, number]) + bytes(998) for number in range(40)]
            tunnel.sendall(b"".join(map(frame, datagrams)))
            assert pair.heard_by_bob(40) == datagrams
        pair.close()


def test_strangers_are_not_forwarded_and_hear_nothing() -> None:
    with running("--host", "127.0.0.1") as server, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:
        pair = Pair(server)
        stranger.sendto(b"\xd0 let me in", pair.server)
        stranger.sendto(HELLO, pair.server)
        stranger.settimeout(PATIENCE)
        assert isinstance(decode(stranger.recv(2048)), Cookie), "the first answer that there is"
        pair.alice.socket.sendto(b"\xd0 true", pair.server)
        assert pair.heard_by_bob(1) == [b"\xd0 true"]
        for first in (b"\x00", b"\xbf", b"\xe0", b"\xff"):
            pair.alice.socket.sendto(first + b" no datagram of the relay", pair.server)
        pair.alice.socket.sendto(b"\xc0 last", pair.server)
        assert pair.heard_by_bob(1) == [b"\xc0 last"]
        pair.close()
        _, log = server.stop()
    assert "relay unwanted 1" in log


def connect(server: Server) -> socket.socket:
    return socket.create_connection(server.first, PATIENCE)


def read_frame(connection: socket.socket, reader: FrameReader) -> bytes:
    while True:
        data = connection.recv(1)  # any cut will do
        assert data
        if found := reader.feed(data):
            return found[0]


def test_tcp_is_answered_as_udp_is_however_it_is_cut() -> None:
    with running("--host", "127.0.0.1") as server, connect(server) as connection:
        reader = FrameReader()
        for byte in frame(HELLO):
            connection.sendall(bytes([byte]))
        cookie = decode(read_frame(connection, reader))
        assert isinstance(cookie, Cookie)
        assert cookie.mapped == Address(*connection.getsockname())
        connection.sendall(frame(HELLO) + frame(b"rubbish") + frame(b"p2p\x09\1....") + frame(HELLO))
        answers = [type(decode(read_frame(connection, reader))) for _ in range(3)]
        assert answers == [Cookie, Unsupported, Cookie]


def test_what_is_no_frame_ends_the_connection() -> None:
    with running("--host", "127.0.0.1") as server:
        for rubbish in (b"\0\0", b"GET / HTTP/1.1\r\n\r\n" + bytes(70_000), b"\xff\xff"):
            with connect(server) as connection:
                connection.sendall(rubbish)
                with suppress(ConnectionResetError):  # where it had not read everything
                    assert connection.recv(100) == b""
        _, log = server.stop()
    assert "connections 3, connections cut 3" in log
    assert "Traceback" not in log


def refusal(*options: str) -> tuple[int, str]:
    command = [sys.executable, "-m", "p2p.server", *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)
    return done.returncode, done.stderr


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--relay-rate", "fast"], "'fast' is not a number"),
        (["--relay-total", "-1"], "'-1' is not a number"),
        (["--relay-bytes", "nan"], "'nan' is not a number"),
        (["--tcp-port", "8080"], "named twice"),
        (["--tcp-port", "443", "--tcp-port", "443"], "named twice"),
        (["--tcp-port", "0"], "that peers can know"),
        (["--tcp-port", "70000"], "not a port"),
    ],
)
def test_senseless_options_are_refused_in_words(options: list[str], words: str) -> None:
    code, said = refusal(*options)
    assert code == 2
    assert words in said


def test_a_tcp_port_that_cannot_be_had_is_said() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = str(other.getsockname()[1])
        code, said = refusal("--host", "127.0.0.1", "--port", "0", "--tcp-port", port)
    assert code == 1
    assert f"TCP port {port} of 127.0.0.1: it is in use" in said
