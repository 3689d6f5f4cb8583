"""The real server process on loopback."""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace

import pytest

from p2p.core.address import Address
from p2p.core.introduction import NamePair, Nameplate, Pairing
from p2p.core.rendezvous import events as c
from p2p.core.rendezvous.client import RendezvousClient
from p2p.core.rendezvous.messages import Cookie, Hello, Join, Joined, Message, decode, encode
from p2p.core.role import Role
from p2p.io.net.udp import IS_LINUX

PATIENCE = 20.0  # seconds until a test gives up; nothing is asserted about how long things take


@dataclass
class Server:
    process: subprocess.Popen[str]
    host: str
    ports: tuple[int, int]

    @property
    def first(self) -> Address:
        return Address(self.host, self.ports[0])

    def stop(self, number: signal.Signals = signal.SIGTERM) -> tuple[int, str]:
        """Exit code and log."""
        self.process.send_signal(number)
        _, log = self.process.communicate(timeout=PATIENCE)
        return self.process.returncode, log


@contextlib.contextmanager
def running(*options: str) -> Iterator[Server]:
    command = [sys.executable, "-m", "p2p.server", "--port", "0", *options]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        match = re.fullmatch(r"listening on (\S+) ports (\d+) and (\d+)\n", line)
        assert match, line
        yield Server(process, match[1], (int(match[2]), int(match[3])))
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()


class Talker:
    """A RendezvousClient on a real socket, with a clock that does not wait for anybody."""

    def __init__(self, server: Address, pairing: Pairing, role: Role) -> None:
        family = socket.AF_INET6 if ":" in server.host else socket.AF_INET
        self.socket = socket.socket(family, socket.SOCK_DGRAM)
        self.socket.bind((server.host if server.host != "0.0.0.0" else "127.0.0.1", 0))
        self.socket.settimeout(PATIENCE)
        self.machine = RendezvousClient(server, pairing, role, secrets.token_bytes)
        self.events: list[c.Event] = []
        self.machine.start(0.0)

    def until(self, kind: type[c.Event]) -> None:
        self.pump()
        while not any(isinstance(event, kind) for event in self.events):
            self.until_next()

    def until_next(self) -> None:
        """Takes one datagram."""
        data, source = self.socket.recvfrom(2048)
        self.machine.handle_datagram(data, Address(source[0], source[1]), 0.0)
        self.pump()

    def pump(self) -> None:
        while (transmit := self.machine.poll_transmit()) is not None:
            self.socket.sendto(b"".join(transmit.buffers), transmit.destination)
        while (event := self.machine.poll_event()) is not None:
            self.events.append(event)

    def leave(self) -> None:
        self.machine.leave(0.0)
        self.until(c.Gone)
        self.socket.close()


def ask(server: Address, message: Message) -> Message:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        asking.settimeout(PATIENCE)
        asking.sendto(encode(message), server)
        data, source = asking.recvfrom(2048)
        assert source == server
        return decode(data)


def test_two_peers_meet_at_the_process() -> None:
    with running("--host", "127.0.0.1") as server:
        alice = Talker(server.first, NamePair("alice", "bob"), Role.SENDER)
        alice.until(c.Waiting)
        bob = Talker(server.first, NamePair("bob", "alice"), Role.RECEIVER)
        bob.until(c.Paired)
        alice.until(c.Paired)
        alice.until(c.Mapped)
        here = Address(*alice.socket.getsockname())
        assert [event for event in alice.events if isinstance(event, c.Mapped)] == [c.Mapped(here)]
        alice.machine.forward(b"the payload is nobody's business", 0.0)
        alice.pump()
        bob.until(c.Message)
        secret = vars(alice.machine)["_client"]
        cookie = vars(alice.machine)["_cookie"]
        alice.leave()
        bob.until(c.PeerLeft)
        bob.leave()
        code, log = server.stop()
    assert code == 0
    assert 'waiting: "alice" with "bob" as sender, at 127.0.0.0/24' in log
    assert 'paired: "bob" with "alice" as receiver, at 127.0.0.0/24' in log
    assert 'left: "alice" with "bob" as sender' in log
    assert "127.0.0.1:" not in log
    assert "INFO stopping: SIGTERM" in log
    assert re.search(r"since the start: .*paired 1, left 2, forwarded 1, .*seats taken now: 0", log)
    for hidden in (secret, cookie):
        assert hidden.hex() not in log
        assert repr(hidden)[2:-1] not in log
    assert "payload" not in log


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_right_after_the_first_line_is_a_clean_stop(number: signal.Signals) -> None:
    with running("--host", "127.0.0.1") as server:
        code, log = server.stop(number)
    assert code == 0
    assert f"stopping: {number.name}" in log
    assert "Traceback" not in log


def test_names_from_strangers_are_escaped() -> None:
    with running("--host", "127.0.0.1") as server:
        mallory = Talker(server.first, NamePair("x\n2099 ERROR on\x1b[31m fire", 'y" as\u202e sender'), Role.SENDER)
        mallory.until(c.Waiting)
        plate = Talker(server.first, Nameplate("7\x07"), Role.SENDER)
        plate.until(c.Waiting)
        _, log = server.stop()
        mallory.socket.close()
        plate.socket.close()
    assert r'"x\x0a2099 ERROR on\x1b[31m fire" with "y\" as\u202e sender" as sender' in log
    assert r'code "7\x07"' in log
    assert all(line.isprintable() for line in log.splitlines())


def test_verbose_tells_addresses_and_quiet_tells_nothing() -> None:
    for option, shows in (("--verbose", True), ("--quiet", False)):
        with running("--host", "127.0.0.1", option) as server:
            alice = Talker(server.first, NamePair("alice", "bob"), Role.SENDER)
            alice.until(c.Waiting)
            where = str(Address(*alice.socket.getsockname()))
            code, log = server.stop()
            alice.socket.close()
        assert code == 0
        assert (where in log) is shows
        assert bool(log) is shows


def test_a_flood_of_rubbish_is_counted_and_answered_by_nothing() -> None:
    with running("--host", "127.0.0.1") as server, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as flood:
        for number in range(3000):
            flood.sendto((b"p2p\1\3" if number % 2 else b"") + os.urandom(number % 1400), server.first)
            if number % 50 == 0:
                assert isinstance(ask(server.first, Hello(b"12345678")), Cookie)
        flood.setblocking(False)
        with pytest.raises(BlockingIOError):
            flood.recv(2048)
        code, log = server.stop()
    assert code == 0
    match = re.search(r"datagrams (\d+), malformed (\d+), .*cookies 60", log)
    assert match
    assert int(match[2]) >= 0.9 * (int(match[1]) - 60) > 1000
    assert len(log) < 1000


@pytest.mark.skipif(not IS_LINUX, reason="other systems have one queue a port")
def test_who_waits_is_heard_however_many_others_come() -> None:
    """The process stands still meanwhile, so that nothing depends on who is faster."""
    with (
        running("--host", "127.0.0.1") as server,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as waiting,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as flood,
    ):
        waiting.settimeout(PATIENCE)
        waiting.connect(server.first)
        waiting.send(encode(Hello(b"12345678")))
        cookie = decode(waiting.recv(2048))
        assert isinstance(cookie, Cookie)
        join = Join(b"12345678", cookie.cookie, bytes(16), Role.SENDER, NamePair("alice", "bob"))
        waiting.send(encode(join))
        assert isinstance(decode(waiting.recv(2048)), Joined)
        server.process.send_signal(signal.SIGSTOP)
        garbage = [encode(Hello(b"floodfld")), encode(replace(join, cookie=bytes(16))), b"\xc0" * 9, b"\xff" * 64]
        for _ in range(20_000):
            for data in garbage:
                flood.sendto(data, server.first)
        waiting.send(encode(replace(join, transaction=b"renewal.")))
        server.process.send_signal(signal.SIGCONT)
        renewed = decode(waiting.recv(2048))
        assert isinstance(renewed, Joined)
        assert renewed.transaction == b"renewal."
        _, log = server.stop()
    assert re.search(r"dropped as garbage 20000, dropped from full queues [1-9]", log)


def test_replies_leave_from_the_address_and_port_that_were_asked() -> None:
    with running("--host", "0.0.0.0") as server:
        for host in ("127.0.0.1", "127.0.0.2", "127.5.6.7"):
            for port in server.ports:
                with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
                    asking.bind(("127.0.0.1", 0))
                    asking.settimeout(PATIENCE)
                    asking.sendto(encode(Hello(b"12345678")), (host, port))
                    data, source = asking.recvfrom(2048)
                assert source == (host, port)
                assert isinstance(decode(data), Cookie)


def has_ipv6() -> bool:
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as probe:
        probe.bind(("::1", 0))
        return True
    return False


@pytest.mark.skipif(not has_ipv6(), reason="no IPv6 loopback here")
@pytest.mark.parametrize("host", ["::1", "::"])
def test_ipv6(host: str) -> None:
    with running("--host", host) as server:
        alice = Talker(Address("::1", server.ports[0]), NamePair("alice", "bob"), Role.SENDER)
        alice.until(c.Waiting)
        if host == "::":
            reply = ask(Address("127.0.0.2", server.ports[1]), Hello(b"12345678"))
            assert isinstance(reply, Cookie)
            assert reply.mapped.host == "127.0.0.1"
        code, log = server.stop()
        alice.socket.close()
    assert code == 0
    assert "::/56" in log


def refusal(*options: str) -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, "-m", "p2p.server", *options], capture_output=True, text=True, timeout=PATIENCE, check=False
    )
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    return done.returncode, done.stderr


def test_a_port_in_use_is_said_in_one_sentence() -> None:
    with running("--host", "127.0.0.1") as server:
        for options in (
            ["--port", str(server.ports[0])],
            ["--port", "0", "--alternate-port", str(server.ports[1])],
        ):
            code, words = refusal("--host", "127.0.0.1", *options)
            assert code == 1
            assert f"UDP port {options[-1]} of 127.0.0.1: it is in use" in words
            assert words.count("\n") == 1


def test_a_tcp_port_in_use_is_said_too() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        code, words = refusal("--host", "127.0.0.1", "--port", str(port), "--alternate-port", "0")
    assert code == 1
    assert f"TCP port {port} of 127.0.0.1: it is in use" in words


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        (["--host", "no-such-host.invalid"], 2, "no address for the host 'no-such-host.invalid'"),
        (["--host", "192.0.2.77", "--port", "0"], 1, "not an address of this machine"),
        (["--port", "65536"], 2, "not a port"),
        (["--port", "eighty"], 2, "not a port"),
        (["--port", "65535"], 2, "--alternate-port"),
        (["--port", "8080", "--alternate-port", "8080"], 2, "are the same"),
        (["--quiet", "--verbose"], 2, "not allowed with"),
        (["--alt-host", "127.0.0.2"], 2, "--alt-host needs --host"),
        (["--host", "127.0.0.1", "--alt-host", "127.0.0.1"], 2, "are the same"),
        (["--host", "127.0.0.1", "--alt-host", "::1", "--port", "0"], 2, "of one IP version"),
        (["--host", "127.0.0.1", "--alt-host", "192.0.2.77", "--port", "0"], 1, "not an address of this machine"),
    ],
)
def test_what_cannot_be_is_said(options: list[str], code: int, words: str) -> None:
    got, said = refusal(*options)
    assert got == code
    assert words in said
