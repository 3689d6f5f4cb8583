"""The sockets of the port mapping, in the peer's loop; and the router that they lead to."""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import secrets
import selectors
import socket
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from p2p.core.address import Address
from p2p.core.datagram import Transmit
from p2p.core.portmap import nat_pmp, pcp, upnp
from p2p.core.portmap.events import Close, Event, NoMapper, Open, Protocol
from p2p.core.portmap.race import LIFETIME, PortMapping
from p2p.core.portmap.routes import gateway_of, likely_gateway

ROUTES = Path("/proc/thread-self/net/route")  # of the calling thread's network namespace
SOMEWHERE = "198.51.100.1"  # RFC 5737: an address of the internet that is nobody's, for whoever has none to name
RELEASE_PATIENCE = 1.0  # seconds: a router takes some milliseconds; what one does not answer ends with its lease
READS = 16  # datagrams or pieces taken in one turn of the loop, so that nobody on the LAN can keep it busy
PIECE = 16 * 1024  # bytes read from a connection at once
MULTICAST_TTL = 2  # UPnP Device Architecture 2.0, section 1.3.2
_PENDING = {0, errno.EINPROGRESS, errno.EWOULDBLOCK}


@dataclass(frozen=True, slots=True)
class Router:
    """Whom to ask, and from which address of ours. `is_guess`: the system does not tell, so it is only likely."""

    gateway: str
    client: str
    is_guess: bool = False


def find_router(towards: str = SOMEWHERE) -> Router | None:
    """The router on the way to the IPv4 address `towards`; None where there is none to be asked, as on loopback.

    Only Linux is asked for its routes. Elsewhere it is taken to be the first address of the local /24. Sends nothing.
    """
    if ipaddress.IPv4Address(towards).is_loopback:
        return None
    try:
        table = ROUTES.read_text(encoding="ascii", errors="replace")
    except OSError:
        client = _source_address(towards)
        gateway = client and likely_gateway(client)
        return Router(gateway, client, is_guess=True) if client and gateway else None
    gateway = gateway_of(table, towards, little_endian=sys.byteorder == "little")
    client = gateway and _source_address(gateway)
    return Router(gateway, client) if gateway and client else None


def _source_address(towards: str) -> str | None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((towards, nat_pmp.PORT))
            return str(probe.getsockname()[0])
        except OSError:
            return None


class PortMapper:
    """Has `internal_port` (UDP) opened by the router, keeps it open, and closes it at the end.

    In the style of the loop: callbacks in the shared selector, `poll_timeout` and `handle_timeout`, `poll_event`.
    Nothing in here blocks but `close`, for RELEASE_PATIENCE at most.
    """

    def __init__(
        self,
        selector: selectors.BaseSelector,
        internal_port: int,
        router: Router | None,
        *,
        random_bytes: Callable[[int], bytes] = secrets.token_bytes,
        clock: Callable[[], float] = time.monotonic,
        lifetime: int = LIFETIME,
    ) -> None:
        self._selector = selector
        self._router = router
        self._clock = clock
        self._machine: PortMapping | None = None
        self._asking: socket.socket | None = None  # connected to the gateway's port of PCP and NAT-PMP
        self._searching: socket.socket | None = None
        self._connections: dict[int, socket.socket] = {}
        self._output: dict[int, bytes] = {}
        self._without_router: list[Event] = []
        if router is not None:
            self._machine = PortMapping(
                router.gateway,
                router.client,
                internal_port,
                random_bytes,
                is_guess=router.is_guess,
                lifetime=lifetime,
            )

    def start(self) -> None:
        if self._machine is None:
            reason = "this machine has no router that could be asked"
            self._without_router.append(NoMapper(tuple((protocol, reason) for protocol in Protocol)))
            return
        self._machine.start(self._clock())
        self._flush()

    def set_reflexive(self, host: str) -> None:
        """Where the internet sees this machine (IPv4); tell it as soon as it is known, and when it changes."""
        if self._machine is not None:
            self._machine.set_reflexive(host, self._clock())
            self._flush()

    def poll_event(self) -> Event | None:
        if self._machine is not None:
            return self._machine.poll_event()
        return self._without_router.pop() if self._without_router else None

    def poll_timeout(self) -> float | None:
        return self._machine.poll_timeout() if self._machine is not None else None

    def handle_timeout(self, now: float) -> None:
        if self._machine is not None and (at := self._machine.poll_timeout()) is not None and at <= now:
            self._machine.handle_timeout(now)
            self._flush()

    def close(self, patience: float = RELEASE_PATIENCE) -> None:
        """Deletes what was leased, closes all sockets. Takes milliseconds; where nobody answers, `patience` seconds."""
        try:
            if self._machine is not None:
                self._release(self._machine, patience)
        finally:
            for number in list(self._connections):
                self._close_connection(number)
            for sock in (self._asking, self._searching):
                if sock is not None:
                    self._forget(sock)
            self._asking = self._searching = self._machine = None

    def _release(self, machine: PortMapping, patience: float) -> None:
        """In a loop of its own: the peer's has ended, or is to do nothing else now."""
        with selectors.DefaultSelector() as own:
            for sock in (self._asking, self._searching, *self._connections.values()):
                if sock is not None and (key := self._selector.get_map().get(sock)) is not None:
                    self._selector.unregister(sock)
                    own.register(sock, key.events, key.data)
            shared, self._selector = self._selector, own
            try:
                now = self._clock()
                deadline = now + patience
                machine.close(now)
                self._flush()
                while not machine.is_closed and now < deadline:
                    at = min(machine.poll_timeout() or deadline, deadline)
                    for key, mask in own.select(max(0.0, at - now)):
                        key.data(mask)
                    now = self._clock()
                    self.handle_timeout(now)
            finally:
                for key in list(own.get_map().values()):
                    own.unregister(key.fileobj)
                self._selector = shared

    def _flush(self) -> None:
        """What the machine wants sent, opened and closed."""
        machine = self._machine
        if machine is None:
            return
        while (transmit := machine.poll_transmit()) is not None:
            self._send(transmit)
        while (action := machine.poll_action()) is not None:
            match action:
                case Open(number, address, data):
                    self._connect(number, address, data)
                case Close(number):
                    self._close_connection(number)
        if self._searching is not None and not machine.is_searching:
            self._forget(self._searching)
            self._searching = None

    def _send(self, transmit: Transmit) -> None:
        """What the kernel does not take is lost; it is asked again anyhow."""
        data = b"".join(transmit.buffers)
        with contextlib.suppress(OSError):
            if transmit.destination.port == upnp.SSDP_PORT:
                self._search_socket().sendto(data, transmit.destination)
                return
            asking = self._ask_socket()
            try:
                asking.send(data)
            except ConnectionRefusedError:  # of the datagram before
                asking.send(data)

    def _ask_socket(self) -> socket.socket:
        assert self._router is not None
        if self._asking is None:
            sock = self._bound(socket.SOCK_DGRAM)
            try:
                sock.connect((self._router.gateway, nat_pmp.PORT))
            except OSError:  # the network is gone; the next question tries again
                sock.close()
                raise
            self._asking = sock
            self._selector.register(sock, selectors.EVENT_READ, self._read_answers)
        return self._asking

    def _search_socket(self) -> socket.socket:
        assert self._router is not None
        if self._searching is None:
            self._searching = self._bound(socket.SOCK_DGRAM)
            self._searching.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton(self._router.client))
            self._searching.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, MULTICAST_TTL)
            self._selector.register(self._searching, selectors.EVENT_READ, self._read_search)
        return self._searching

    def _bound(self, kind: socket.SocketKind) -> socket.socket:
        """A non-blocking socket that leaves from the address which the router knows. Raises OSError."""
        assert self._router is not None
        sock = socket.socket(socket.AF_INET, kind)
        sock.setblocking(False)
        try:
            sock.bind((self._router.client, 0))
        except OSError:
            sock.close()
            raise
        return sock

    def _read_answers(self, _: int) -> None:
        sock, machine = self._asking, self._machine
        if sock is None or machine is None:  # closed by another callback of the same turn
            return
        for _ in range(READS):
            try:
                data, source = sock.recvfrom(pcp.MAX_SIZE + 1)
            except ConnectionRefusedError:
                machine.handle_unreachable(self._clock())
            except OSError:
                break
            else:
                machine.handle_datagram(data, Address(*source), self._clock())
        self._flush()

    def _read_search(self, _: int) -> None:
        sock, machine = self._searching, self._machine
        if sock is None or machine is None:  # closed by another callback of the same turn
            return
        for _ in range(READS):
            try:
                data, source = sock.recvfrom(upnp.MAX_SSDP + 1)
            except OSError:
                break
            machine.handle_datagram(data, Address(*source), self._clock())
        self._flush()

    def _connect(self, number: int, address: Address, data: bytes) -> None:
        assert self._machine is not None
        try:
            sock = self._bound(socket.SOCK_STREAM)
        except OSError as error:
            self._machine.handle_closed(number, self._clock(), _words(error.errno))
            return
        code = sock.connect_ex(address)
        if code not in _PENDING:
            sock.close()
            self._machine.handle_closed(number, self._clock(), _words(code))
            return
        self._connections[number], self._output[number] = sock, data
        self._selector.register(sock, selectors.EVENT_WRITE, partial(self._ready, number))

    def _ready(self, number: int, mask: int) -> None:
        """Writes the request, then reads what comes; the machine says when it has enough."""
        if (sock := self._connections.get(number)) is None:
            return
        assert self._machine is not None
        try:
            if mask & selectors.EVENT_WRITE:
                self._write(number, sock)
            if mask & selectors.EVENT_READ:
                self._read(number, sock)
        except (BlockingIOError, InterruptedError):
            pass
        except OSError as error:
            self._close_connection(number)
            self._machine.handle_closed(number, self._clock(), _words(error.errno))
        self._flush()

    def _write(self, number: int, sock: socket.socket) -> None:
        if code := sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            raise OSError(code, "")
        rest = self._output[number][sock.send(self._output[number]) :]
        self._output[number] = rest
        if not rest:
            self._selector.modify(sock, selectors.EVENT_READ, partial(self._ready, number))

    def _read(self, number: int, sock: socket.socket) -> None:
        assert self._machine is not None
        data = sock.recv(PIECE)
        if data:
            self._machine.handle_data(number, data, self._clock())
        else:
            self._close_connection(number)
            self._machine.handle_closed(number, self._clock())

    def _close_connection(self, number: int) -> None:
        sock = self._connections.pop(number, None)
        self._output.pop(number, None)
        if sock is not None:
            self._forget(sock)

    def _forget(self, sock: socket.socket) -> None:
        if sock in self._selector.get_map():
            self._selector.unregister(sock)
        sock.close()


def _words(code: int | None) -> str:
    """Why a connection to the device came to nothing."""
    match code:
        case errno.ECONNREFUSED:
            return "it refuses the connection to its control page"
        case errno.ETIMEDOUT | errno.EHOSTUNREACH | errno.ENETUNREACH:
            return "its control page cannot be reached"
        case _:
            return "the connection to its control page broke"
