"""The rendezvous server's loop: two UDP ports of one address or two, and TCP connections, by one `selectors` loop."""

from __future__ import annotations

import contextlib
import logging
import os
import selectors
import signal
import socket
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial

from p2p.core.address import Address
from p2p.core.rendezvous.frames import bursts
from p2p.core.rendezvous.messages import MAGIC
from p2p.core.rendezvous.relay import RELAYED_FIRST_BYTES, RelayLimits
from p2p.core.rendezvous.seats import FIRST_CONNECTION
from p2p.core.rendezvous.server import DEFAULT_RELAY, RendezvousServer
from p2p.core.stun.server import Endpoints, StunServer, looks_like_stun
from p2p.io.net.udp import MAX_PAYLOAD, MAX_SEGMENTS
from p2p.io.server.bind import bind, bind_other_host, bind_tcp
from p2p.io.server.lanes import Lane, open_lanes
from p2p.io.server.log import EventLog
from p2p.io.server.tcp import Tunnels
from p2p.io.server.udp import UdpPort

SUMMARY_INTERVAL = 600.0  # seconds between two lines of counters
BUSY = 16  # sockets that have something: with fewer, each may be read from that much longer
LAST = 1000  # rank of what is no UDP port
MAX_ORIGINS = 512  # local addresses told apart; all of 127/8 is local, so the number is not the machine's choice

log = logging.getLogger("p2p.server")


@dataclass(slots=True)
class LoopCounters:
    """What happened since the start."""

    unsent: int = 0  # datagrams and bursts that the kernel did not take


class ServerLoop:
    """Binds on construction (raises OSError, also socket.gaierror), serves in `run`.

    `alternate_port` None means the port after the first; 0 means any free one, as for `port`. `alt_host` is a second
    address of this machine, of the same IP version, and `host` then no wildcard. `tcp_ports` are further TCP ports of
    `host`. `relay` None: nothing is forwarded.
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
        tcp_ports: Sequence[int] = (),
        relay: RelayLimits | None = DEFAULT_RELAY,
    ) -> None:
        self._events = events
        self._clock = clock
        with contextlib.ExitStack() as stack:
            first, second, tcp = bind(stack, host, port, alternate_port)
            others = () if alt_host is None else bind_other_host(stack, alt_host, first, second)
            listeners = [tcp, *(bind_tcp(stack, first, tcp_port) for tcp_port in tcp_ports)]
            self._selector = stack.enter_context(selectors.DefaultSelector())
            self._tunnels = Tunnels(listeners, self._selector, self._take_frames, clock)
            stack.callback(self._tunnels.close)
            self._sockets = stack.pop_all()
        self.hosts: tuple[str, ...] = tuple(bound.getsockname()[0] for bound in (first, *others[:1]))
        self.ports: tuple[int, int] = (first.getsockname()[1], second.getsockname()[1])
        is_wildcard = self.hosts[0] in ("0.0.0.0", "::")
        self._machine = RendezvousServer(os.urandom, relay=relay)
        key = self._machine.tag_key
        self._udp = [
            UdpPort(bound, is_wildcard, open_lanes(self._sockets, bound, key)) for bound in (first, second, *others)
        ]
        self._stun = StunServer(Endpoints(self.ports, () if is_wildcard else self.hosts))
        # The machine's port_index: which socket, and which of the local addresses.
        self._origins: list[tuple[int, bytes]] = [(index, b"") for index in range(len(self._udp))]
        self._origin_index = {origin: index for index, origin in enumerate(self._origins)}
        self._counters = LoopCounters()
        self._share = 1  # times its reads that a socket has this turn
        self._ranks: dict[int, int] = {}  # by file descriptor: renewals first (server_lanes.Kind)

    def run(self, signalled: socket.socket) -> None:
        """Serves until a signal number arrives on `signalled` (see `stop_signals`), then closes the sockets.

        0 is no signal: the program that this server is part of wants it to end.
        """
        with self._sockets:
            for index, port in enumerate(self._udp):
                for rank, lane in enumerate(port.lanes):
                    self._selector.register(lane.socket, selectors.EVENT_READ, partial(self._receive, index, lane))
                    self._ranks[lane.socket.fileno()] = rank
            self._selector.register(signalled, selectors.EVENT_READ, None)
            next_summary = self._clock() + SUMMARY_INTERVAL
            summarised = self._counts()
            while True:
                timeouts = (next_summary, self._machine.poll_timeout(), self._tunnels.poll_timeout())
                deadline = min(at for at in timeouts if at is not None)
                ready = self._selector.select(max(0.0, deadline - self._clock()))
                self._share = max(1, BUSY // (len(ready) or 1))
                # A JOIN before the LEAVE that came after it, though they wait in two queues.
                for key, mask in sorted(ready, key=self._rank):
                    if key.data is None:
                        number = signalled.recv(1)[0]
                        log.info("stopping: %s", signal.Signals(number).name if number else "no longer wanted")
                        self._flush()
                        log.info("%s", self._summary())
                        return
                    key.data(mask)
                    self._flush()  # so that no answer waits for what others have to be forwarded
                now = self._clock()
                self._machine.handle_timeout(now)
                self._tunnels.handle_timeout(now, self._machine.has_seat)
                self._flush()
                if now >= next_summary:
                    next_summary = now + SUMMARY_INTERVAL
                    if summarised != self._counts():
                        summarised = self._counts()
                        log.info("%s", self._summary())

    def close(self) -> None:
        """Instead of `run`."""
        self._sockets.close()

    def _rank(self, ready: tuple[selectors.SelectorKey, int]) -> int:
        """Where it stands among those that are ready in one turn."""
        return self._ranks.get(ready[0].fd, LAST)

    def _receive(self, index: int, lane: Lane, _: int) -> None:
        now = self._clock()
        for data, segment_size, source, local in self._udp[index].receive(lane, self._share):
            self._take(data, segment_size, source, self._origin(index, local), now)

    def _take_frames(self, datagrams: list[bytes], source: Address, connection: int) -> None:
        now = self._clock()
        for data, segment_size in bursts(datagrams, RELAYED_FIRST_BYTES, MAX_PAYLOAD, MAX_SEGMENTS):
            self._take(data, segment_size, source, connection, now)

    def _take(self, data: memoryview | bytes, segment_size: int, source: Address, port_index: int, now: float) -> None:
        """One read. Of a burst only the addresses and lengths are known to be alike; what is in it, the bytes say."""
        is_burst = 0 < segment_size < len(data)
        if not is_burst and data[:1] == MAGIC[:1]:  # as all below would find; nearly every datagram is one of these
            self._machine.handle_datagram(bytes(data), source, port_index, now)
            return
        first_bytes = bytes(data[::segment_size]) if is_burst else bytes(data[:1])
        if first_bytes and not first_bytes.translate(None, RELAYED_FIRST_BYTES):
            self._forward(data, segment_size if is_burst else 0, source, port_index, now)
        elif is_burst:
            for start in range(0, len(data), segment_size):
                self._take(data[start : start + segment_size], 0, source, port_index, now)
        elif looks_like_stun(datagram := bytes(data)) and port_index < FIRST_CONNECTION:
            self._answer_stun(datagram, source, port_index, now)
        else:
            self._machine.handle_datagram(datagram, source, port_index, now)

    def _forward(
        self, data: memoryview | bytes, segment_size: int, source: Address, port_index: int, now: float
    ) -> None:
        passage = self._machine.handle_burst(source, port_index, len(data), segment_size, now)
        if passage is None:
            return
        destination, to, length = passage
        if to >= FIRST_CONNECTION:
            self._tunnels.send_burst(to, data[:length], segment_size)
        else:
            self._send(data[:length], segment_size, destination, *self._origins[to])

    def _answer_stun(self, data: bytes, source: Address, port_index: int, now: float) -> None:
        index, local = self._origins[port_index]
        answer = self._stun.handle_datagram(data, source, index, now)
        if answer is not None:
            self._send(answer.data, 0, answer.destination, answer.index, local)

    def _flush(self) -> None:
        while (transmit := self._machine.poll_transmit()) is not None:
            if transmit.port_index >= FIRST_CONNECTION:
                self._tunnels.send(transmit.port_index, transmit.data)
            else:
                self._send(transmit.data, 0, transmit.destination, *self._origins[transmit.port_index])
        now = self._clock()
        while (event := self._machine.poll_event()) is not None:
            self._events.write(event, now)

    def _send(
        self, data: memoryview | bytes, segment_size: int, destination: Address, index: int, local: bytes
    ) -> None:
        try:
            self._udp[index].send(data, segment_size, destination, local)
        except OSError as error:  # unreachable, full buffer, firewall: as good as lost, and peers repeat
            self._counters.unsent += 1
            log.debug("sending: %s", error)

    def _origin(self, index: int, local: bytes) -> int:
        origin = (index, local)
        known = self._origin_index.get(origin)
        if known is None:
            if len(self._origins) >= MAX_ORIGINS:
                return index
            known = self._origin_index[origin] = len(self._origins)
            self._origins.append(origin)
        return known

    def _counts(self) -> dict[str, int]:
        machine = self._machine
        parts = (machine.counters, machine.relay_counters, self._stun.counters, self._tunnels.counters, self._counters)
        counts = {name.replace("_", " "): count for part in parts for name, count in asdict(part).items()}
        counts["dropped as garbage"] = sum(port.garbage for port in self._udp)
        counts["dropped from full queues"] = sum(port.overflown for port in self._udp)
        return counts

    def _summary(self) -> str:
        happened = ", ".join(f"{name} {count}" for name, count in self._counts().items() if count)
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
