"""`python -m p2p.peer doctor`: sockets, interfaces and the port mapper for one examination, and its screen."""

from __future__ import annotations

import argparse
import contextlib
import errno
import secrets
import selectors
import time
from collections.abc import Sequence
from itertools import groupby

from p2p.core.address import Address
from p2p.core.datagram import MAIN, OpenSockets
from p2p.core.doctor.doctor import LIFETIME_SOCKETS, MAPPED_SOCKET, SOCKETS, Doctor, Over
from p2p.core.doctor.facts import Facts, Interface, Network
from p2p.core.errors import ExitCode
from p2p.core.transport.lan import Close, Connect
from p2p.io.net.interfaces import machine_addresses, source_address
from p2p.io.net.port_mapper import SOMEWHERE, PortMapper, find_router
from p2p.io.net.resolve import resolve, resolve_stun
from p2p.io.net.sockets import UdpSockets
from p2p.io.net.tcp import TcpHub
from p2p.io.net.udp import UdpSocket
from p2p.io.terminal.doctor_screen import DoctorScreen

LEASE = 120  # seconds: what a killed run leaves open on the router is closed soon
RESOLVER_PATIENCE = 5.0  # seconds for the addresses of the servers
SOMEWHERE_V6 = "2001:db8::1"  # RFC 3849: nobody's, to learn by which address we would leave
READS_A_TURN = 4  # batches read from a socket in one turn


def run(options: argparse.Namespace) -> ExitCode:
    """Raises CallerError for what is wrong with the options."""
    screen = DoctorScreen(
        as_json=options.json, quiet=options.quiet, verbose=options.verbose, with_lifetime=options.lifetime
    )
    servers = [] if options.server is None else resolve(options.server, patience=RESOLVER_PATIENCE)
    stun_servers = resolve_stun(options.stun, patience=RESOLVER_PATIENCE)
    known = look_at_machine(servers)
    screen.begin(known)
    with contextlib.ExitStack() as stack:
        stack.callback(screen.close)
        selector = stack.enter_context(selectors.DefaultSelector())
        sockets = UdpSockets(selector, UdpSocket.bind_all())
        stack.callback(sockets.close)
        count = LIFETIME_SOCKETS if options.lifetime else SOCKETS
        sockets.handle(OpenSockets(1, count))
        tcp = TcpHub(selector)
        stack.callback(tcp.close_all)
        mapper: PortMapper | None = None
        if known.v4.host is not None and MAPPED_SOCKET in sockets:
            router = find_router(next((each.host for each in servers if each.version == 4), SOMEWHERE))
            mapper = PortMapper(selector, sockets[MAPPED_SOCKET].address.port, router, lifetime=LEASE)
            stack.callback(mapper.close)
        doctor = Doctor(
            known,
            servers=servers,
            stun_servers=stun_servers,
            sockets={number: sockets[number].address.port for number in range(MAIN, count + 1) if number in sockets},
            random_bytes=secrets.token_bytes,
            has_mapper=mapper is not None,
            with_lifetime=options.lifetime,
            deadline=options.timeout,
        )
        facts = _Loop(doctor, sockets=sockets, tcp=tcp, mapper=mapper, selector=selector, screen=screen).run()
    if options.server is not None and not servers:
        return screen.fail(f"No address can be found for the server {options.server}", known=facts)
    if (servers or stun_servers) and not facts.is_answered:
        return screen.fail(None, known=facts)
    return ExitCode.STORAGE if screen.output_is_gone else ExitCode.DONE


def look_at_machine(servers: Sequence[Address]) -> Facts:
    """What takes no asking: interfaces, and by which address each version of IP would leave."""
    found = [each for each in machine_addresses() if not each.ip.is_loopback and not each.ip.is_link_local]
    by_name = {name: list(each) for name, each in groupby(found, lambda each: each.interface)}
    interfaces = tuple(
        Interface(name, tuple(a.host for a in each), is_tunnel=each[0].is_tunnel, is_virtual=each[0].is_virtual)
        for name, each in by_name.items()
    )
    towards = {
        version: next((each for each in servers if each.version == version), Address(somewhere, 9))
        for version, somewhere in ((4, SOMEWHERE), (6, SOMEWHERE_V6))
    }
    v4, v6 = (Network(host=source_address(towards[version])) for version in (4, 6))
    return Facts(server=servers[0] if servers else None, interfaces=interfaces, v4=v4, v6=v6)


class _Loop:
    """Sends what is pending, reports events, waits for the earliest deadline, receives."""

    def __init__(
        self,
        doctor: Doctor,
        *,
        sockets: UdpSockets,
        tcp: TcpHub,
        mapper: PortMapper | None,
        selector: selectors.BaseSelector,
        screen: DoctorScreen,
    ) -> None:
        self._doctor = doctor
        self._sockets = sockets
        self._tcp = tcp
        self._mapper = mapper
        self._selector = selector
        self._screen = screen
        self._facts: Facts | None = None
        self._told_mapper: str | None = None
        sockets.on_readable = self._receive
        tcp.on_accepted = lambda connection, _: tcp.close(connection, now=time.monotonic())
        tcp.on_connected = lambda connection: doctor.handle_connected(connection, time.monotonic())
        tcp.on_data = lambda connection, data: doctor.handle_data(connection, data, time.monotonic())
        tcp.on_closed = lambda connection, error: doctor.handle_closed(
            connection, time.monotonic(), refused=error == errno.ECONNREFUSED
        )

    def run(self) -> Facts:
        if self._mapper is not None:
            self._mapper.start()
        self._doctor.start(time.monotonic())
        while self._facts is None:
            self._turn()
        return self._facts

    def _turn(self) -> None:
        now = time.monotonic()
        self._ask_mapper(now)
        self._send(now)
        self._report()
        deadlines = [self._doctor.poll_timeout(), self._mapper.poll_timeout() if self._mapper is not None else None]
        at = min((each for each in deadlines if each is not None), default=now)
        wait = 0.0 if self._facts is not None else max(0.0, at - time.monotonic())
        for key, mask in self._selector.select(min(wait, self._screen.tick(time.monotonic()))):
            key.data(mask)
        now = time.monotonic()
        if (due := self._doctor.poll_timeout()) is not None and due <= now:
            self._doctor.handle_timeout(now)
        if self._mapper is not None:
            self._mapper.handle_timeout(now)

    def _ask_mapper(self, now: float) -> None:
        if self._mapper is None:
            return
        seen = self._doctor.reflexive
        if seen is not None and seen != self._told_mapper:
            self._told_mapper = seen
            self._mapper.set_reflexive(seen)
        while (event := self._mapper.poll_event()) is not None:
            self._doctor.handle_mapper(event, now)

    def _send(self, now: float) -> None:
        while (transmit := self._doctor.poll_transmit()) is not None:
            with contextlib.suppress(OSError):  # a firewall of this machine; it looks like a network that drops it
                self._sockets.send(transmit)
        while (action := self._doctor.poll_tcp_action()) is not None:
            match action:
                case Connect(connection, address):
                    self._tcp.connect(connection, address)
                case Close(connection):
                    self._tcp.close(connection, now=now)
        while (output := self._doctor.poll_tcp_output()) is not None:
            self._tcp.send(*output)

    def _report(self) -> None:
        while (event := self._doctor.poll_event()) is not None:
            self._screen.handle_event(event)
            if isinstance(event, Over):
                self._facts = event.facts

    def _receive(self, local: int, mask: int) -> None:
        if not mask & selectors.EVENT_READ:
            return
        for _ in range(READS_A_TURN):
            is_empty = True
            for data, segment_size, source in self._sockets[local].receive():
                is_empty = False
                step = segment_size or max(len(data), 1)
                for start in range(0, len(data), step):
                    self._doctor.handle_datagram(data[start : start + step], source, local, time.monotonic())
            if is_empty:
                return
