"""The rendezvous server's sockets: two UDP ports of one address or two, a TCP greeting, in one `selectors` loop."""

from __future__ import annotations

import contextlib
import logging
import os
import selectors
import signal
import socket
from collections.abc import Callable, Iterator
from dataclasses import astuple, fields

from p2p.core.address import Address
from p2p.core.rendezvous.server import UNSUPPORTED, RendezvousServer
from p2p.core.stun.server import Endpoints, StunServer, looks_like_stun
from p2p.io.server_bind import bind, bind_other_host
from p2p.io.server_log import EventLog
from p2p.io.server_udp import UdpPort

ACCEPT_BATCH = 16  # TCP connections likewise; each is answered and closed at once, so none is ever held
SUMMARY_INTERVAL = 600.0  # seconds between two lines of counters
MAX_ORIGINS = 512  # local addresses told apart; all of 127/8 is local, so the number is not the machine's choice

log = logging.getLogger("p2p.server")


class ServerLoop:
    """Binds on construction (raises OSError, also socket.gaierror), serves in `run`.

    `alternate_port` None means the port after the first; 0 means any free one, as for `port`. `alt_host` is a second
    address of this machine, of the same IP version, and `host` then no wildcard.
    """

    def __init__(
        self,
        host: str,
        port: int,
        alternate_port: int | None,
        events: EventLog,
        clock: Callable[[], float],
        *,
        alt_host: str | None = None,
    ) -> None:
        self._events = events
        self._clock = clock
        with contextlib.ExitStack() as stack:
            first, second, self._tcp = bind(stack, host, port, alternate_port)
            others = () if alt_host is None else bind_other_host(stack, alt_host, first, second)
            self._sockets = stack.pop_all()
        self.hosts: tuple[str, ...] = tuple(bound.getsockname()[0] for bound in (first, *others[:1]))
        self.ports: tuple[int, int] = (first.getsockname()[1], second.getsockname()[1])
        is_wildcard = self.hosts[0] in ("0.0.0.0", "::")
        self._udp = [UdpPort(bound, is_wildcard) for bound in (first, second, *others)]
        self._machine = RendezvousServer(os.urandom, self.ports)
        self._stun = StunServer(Endpoints(self.ports, () if is_wildcard else self.hosts))
        # The machine's port_index: which socket, and which of the local addresses.
        self._origins: list[tuple[int, bytes]] = [(index, b"") for index in range(len(self._udp))]
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
            if looks_like_stun(data):
                self._answer_stun(data, source, index, local, now)
            else:
                self._machine.handle_datagram(data, source, self._origin(index, local), now)

    def _answer_stun(self, data: bytes, source: Address, index: int, local: bytes, now: float) -> None:
        answer = self._stun.handle_datagram(data, source, index, now)
        if answer is None:
            return
        try:
            self._udp[answer.index].send(answer.data, answer.destination, local)
        except OSError as error:
            self._unsent += 1
            log.debug("sending: %s", error)

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
        return (*astuple(self._machine.counters), *astuple(self._stun.counters), self._unsent, self._greeted)

    def _summary(self) -> str:
        counters = (self._machine.counters, self._stun.counters)
        names = [field.name.replace("_", " ") for each in counters for field in fields(each)]
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
