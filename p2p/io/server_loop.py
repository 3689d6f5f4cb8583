"""The rendezvous server's sockets: two UDP ports and a TCP greeting, in one `selectors` loop."""

from __future__ import annotations

import contextlib
import logging
import os
import selectors
import signal
import socket
import struct
import sys
from collections.abc import Callable, Iterator
from dataclasses import astuple, fields

from p2p.core.address import Address
from p2p.core.rendezvous.server import UNSUPPORTED, RendezvousServer
from p2p.io.server_log import EventLog

RECEIVE_BATCH = 64  # datagrams of one socket before the others, the deadlines and the answers get their turn
ACCEPT_BATCH = 16  # TCP connections likewise; each is answered and closed at once, so none is ever held
TCP_BACKLOG = 64
LONGEST_DATAGRAM = 2048  # bytes; every message is shorter, and what is cut here is malformed anyway
RECEIVE_BUFFER = 4 << 20  # bytes of socket buffer asked for: some 5000 datagrams while the loop is busy
SUMMARY_INTERVAL = 600.0  # seconds between two lines of counters
PORT_ATTEMPTS = 20  # free UDP ports tried until one is free for TCP too (--port 0)
MAX_ORIGINS = 512  # local addresses told apart; all of 127/8 is local, so the number is not the machine's choice

# Linux, absent from `socket` before Python 3.14 (linux/in.h): a reply has to leave from the address that was asked.
IP_PKTINFO = 8
IN_PKTINFO = struct.Struct("=I4s4s")  # ifindex, local address, destination in the header
IN6_PKTINFO = struct.Struct("=16sI")  # address, ifindex
CAN_CHOOSE_SOURCE = sys.platform == "linux"

log = logging.getLogger("p2p.server")


class UdpPort:
    """One UDP socket, and which of its local addresses a datagram was sent to."""

    def __init__(self, bound: socket.socket, is_wildcard: bool) -> None:
        self.socket = bound
        self._is_v6 = bound.family == socket.AF_INET6
        self._tells_destination = is_wildcard and CAN_CHOOSE_SOURCE
        bound.setblocking(False)
        with contextlib.suppress(OSError):
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)
        if self._tells_destination and self._is_v6:
            bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)
        elif self._tells_destination:
            bound.setsockopt(socket.IPPROTO_IP, IP_PKTINFO, 1)

    def receive(self) -> Iterator[tuple[bytes, Address, bytes]]:
        """Up to RECEIVE_BATCH datagrams that are there: payload, source, local address (empty where not known)."""
        space = socket.CMSG_SPACE(IN6_PKTINFO.size) if self._tells_destination else 0
        for _ in range(RECEIVE_BATCH):
            try:
                data, ancillary, _, source = self.socket.recvmsg(LONGEST_DATAGRAM, space)
            except BlockingIOError:
                return
            except OSError as error:  # an ICMP error to something sent before: nothing was lost
                log.debug("receiving: %s", error)
                continue
            yield data, Address(source[0].removeprefix("::ffff:"), source[1]), _local_address(ancillary)

    def send(self, data: bytes, destination: Address, local: bytes) -> None:
        """Raises OSError."""
        host = destination.host
        if self._is_v6 and ":" not in host:
            host = f"::ffff:{host}"
        ancillary = []
        if local and self._is_v6:
            ancillary = [(socket.IPPROTO_IPV6, socket.IPV6_PKTINFO, IN6_PKTINFO.pack(local, 0))]
        elif local:
            ancillary = [(socket.IPPROTO_IP, IP_PKTINFO, IN_PKTINFO.pack(0, local, bytes(4)))]
        self.socket.sendmsg([data], ancillary, 0, (host, destination.port))


class ServerLoop:
    """Binds on construction (raises OSError, also socket.gaierror), serves in `run`.

    `alternate_port` None means the port after the first; 0 means any free one, as for `port`.
    """

    def __init__(
        self, host: str, port: int, alternate_port: int | None, events: EventLog, clock: Callable[[], float]
    ) -> None:
        self._events = events
        self._clock = clock
        with contextlib.ExitStack() as stack:
            sockets = _bind(stack, host, port, alternate_port)
            self._sockets = stack.pop_all()
        first, second, self._tcp = sockets
        self.host: str = first.getsockname()[0]
        self.ports: tuple[int, int] = (first.getsockname()[1], second.getsockname()[1])
        is_wildcard = self.host in ("0.0.0.0", "::")
        self._udp = [UdpPort(bound, is_wildcard) for bound in (first, second)]
        self._machine = RendezvousServer(os.urandom, self.ports)
        # The machine's port_index: which socket, and which of the local addresses.
        self._origins: list[tuple[int, bytes]] = [(0, b""), (1, b"")]
        self._origin_index = {origin: index for index, origin in enumerate(self._origins)}
        self._unsent = 0
        self._greeted = 0

    def run(self, signalled: socket.socket) -> None:
        """Serves until a signal number arrives on `signalled` (see `stop_signals`), then closes the sockets."""
        with self._sockets, selectors.DefaultSelector() as selector:
            for index, port in enumerate(self._udp):
                selector.register(port.socket, selectors.EVENT_READ, index)
            selector.register(self._tcp, selectors.EVENT_READ, self._tcp)
            selector.register(signalled, selectors.EVENT_READ, signalled)
            next_summary = self._clock() + SUMMARY_INTERVAL
            summarised = self._counts()
            while True:
                self._flush()
                deadline = min(next_summary, self._machine.poll_timeout() or next_summary)
                for key, _ in selector.select(max(0.0, deadline - self._clock())):
                    if key.data is signalled:
                        log.info("stopping: %s", signal.Signals(signalled.recv(1)[0]).name)
                        self._flush()
                        log.info("%s", self._summary())
                        return
                    if key.data is self._tcp:
                        self._greet()
                    else:
                        self._receive(key.data)
                now = self._clock()
                self._machine.handle_timeout(now)
                if now >= next_summary:
                    next_summary = now + SUMMARY_INTERVAL
                    if summarised != self._counts():
                        summarised = self._counts()
                        log.info("%s", self._summary())

    def _receive(self, index: int) -> None:
        now = self._clock()
        for data, source, local in self._udp[index].receive():
            self._machine.handle_datagram(data, source, self._origin(index, local), now)

    def _flush(self) -> None:
        while (transmit := self._machine.poll_transmit()) is not None:
            index, local = self._origins[transmit.port_index]
            try:
                self._udp[index].send(transmit.data, transmit.destination, local)
            except OSError as error:  # unreachable, full buffer, firewall: as good as lost, and peers repeat
                self._unsent += 1
                log.debug("sending: %s", error)
        now = self._clock()
        while (event := self._machine.poll_event()) is not None:
            self._events.write(event, now)

    def _origin(self, index: int, local: bytes) -> int:
        origin = (index, local)
        known = self._origin_index.get(origin)
        if known is None:
            if len(self._origins) >= MAX_ORIGINS:
                return index
            known = self._origin_index[origin] = len(self._origins)
            self._origins.append(origin)
        return known

    def _greet(self) -> None:
        """Tells who connects by TCP that the server is up: its UDP is what does not get through."""
        for _ in range(ACCEPT_BATCH):
            try:
                connection, _ = self._tcp.accept()
            except OSError:  # none left, or gone again
                return
            with connection, contextlib.suppress(OSError):
                connection.setblocking(False)
                connection.send(UNSUPPORTED)
                self._greeted += 1

    def _counts(self) -> tuple[int, ...]:
        return (*astuple(self._machine.counters), self._unsent, self._greeted)

    def _summary(self) -> str:
        names = [field.name.replace("_", " ") for field in fields(self._machine.counters)]
        counts = zip([*names, "unsent", "greeted by TCP"], self._counts(), strict=True)
        happened = ", ".join(f"{name} {count}" for name, count in counts if count)
        return f"since the start: {happened or 'nothing happened'}; seats taken now: {len(self._machine)}"


@contextlib.contextmanager
def stop_signals() -> Iterator[socket.socket]:
    """A socket on which the number of each SIGTERM or SIGINT arrives as a byte: no handler runs in between."""
    reader, writer = socket.socketpair()
    with reader, writer:
        writer.setblocking(False)
        stops = (signal.SIGTERM, signal.SIGINT)
        before_fd = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
        before = [signal.signal(number, lambda *_: None) for number in stops]
        try:
            yield reader
        finally:
            for number, handler in zip(stops, before, strict=True):
                signal.signal(number, handler)
            signal.set_wakeup_fd(before_fd)


def _bind(
    stack: contextlib.ExitStack, host: str, port: int, alternate_port: int | None
) -> tuple[socket.socket, socket.socket, socket.socket]:
    """The first port, the alternate port, and TCP at the first port's number. Raises OSError."""
    family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM, flags=socket.AI_PASSIVE)[0]
    ip = str(address[0])
    for attempt in range(PORT_ATTEMPTS):
        first = _open(family, socket.SOCK_DGRAM, ip, port)
        try:
            tcp = _open(family, socket.SOCK_STREAM, ip, first.getsockname()[1])
            break
        except OSError:
            first.close()
            if port != 0 or attempt == PORT_ATTEMPTS - 1:
                raise
    stack.enter_context(first)
    stack.enter_context(tcp)
    if alternate_port is None:
        alternate_port = 0 if port == 0 else port + 1
    second = stack.enter_context(_open(family, socket.SOCK_DGRAM, ip, alternate_port))
    return first, second, tcp


def _open(family: int, kind: int, ip: str, port: int) -> socket.socket:
    opened = socket.socket(family, kind)
    try:
        if family == socket.AF_INET6:
            opened.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0 if ip == "::" else 1)
        if kind == socket.SOCK_STREAM:
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        opened.bind((ip, port))
        if kind == socket.SOCK_STREAM:
            opened.listen(TCP_BACKLOG)
            opened.setblocking(False)
    except OSError as error:
        opened.close()
        error.filename = f"{'TCP' if kind == socket.SOCK_STREAM else 'UDP'} port {port} of {ip}"
        raise
    return opened


def _local_address(ancillary: list[tuple[int, int, bytes]]) -> bytes:
    for level, kind, data in ancillary:
        if (level, kind) == (socket.IPPROTO_IP, IP_PKTINFO) and len(data) == IN_PKTINFO.size:
            return bytes(IN_PKTINFO.unpack(data)[1])
        if (level, kind) == (socket.IPPROTO_IPV6, socket.IPV6_PKTINFO) and len(data) == IN6_PKTINFO.size:
            address = bytes(IN6_PKTINFO.unpack(data)[0])
            return b"" if address[0] == 0xFF else address  # nothing can be sent from a multicast address
    return b""
