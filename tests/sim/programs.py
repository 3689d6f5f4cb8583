"""The server and the two peers as programs of the in-memory network: the core as it is, everything else in memory."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from itertools import product

from blake3 import blake3
from sim.network import TTL, Host, Network, TcpPipe

from p2p.core.address import Address
from p2p.core.datagram import MAIN, CloseSockets, OpenSockets, UseSocket
from p2p.core.errors import ExitCode, Failure
from p2p.core.peer import events
from p2p.core.peer.config import PeerConfig
from p2p.core.peer.peer import Peer
from p2p.core.rendezvous.frames import FrameReader, frame
from p2p.core.rendezvous.messages import NamePair, Nameplate
from p2p.core.rendezvous.relay import RELAYED_FIRST_BYTES
from p2p.core.rendezvous.seats import FIRST_CONNECTION
from p2p.core.rendezvous.server import RendezvousServer
from p2p.core.role import Role
from p2p.core.stun.server import Endpoints, StunServer, looks_like_stun
from p2p.core.transfer.events import Complete, Open, Whole, Write
from p2p.core.transfer.messages import DATA_HEADER, PIECE, Entry
from p2p.core.transfer.sender import ReadWhole
from p2p.core.transport.lan import Close, Connect

SERVER_PORTS = (8080, 8081)
UDP_PORT = 40_000
TCP_PORT = 40_001
SCRATCH = range(1001, 1009)
SEGMENT_LIMIT = 65_535


class SimServer:
    """The rendezvous server on a public host."""

    def __init__(self, network: Network, host: Host, alternate: Host | None = None) -> None:
        """`alternate`: the machine's second address, as a host of its own."""
        self._network, self.host = network, host
        self._hosts = [host] if alternate is None else [host, alternate]
        self.machine: RendezvousServer
        self.restart()

    def restart(self) -> None:
        """Forgets everything, as a restarted process does."""
        self.machine = RendezvousServer(self._network.rng.randbytes)
        self.stun = StunServer(Endpoints(SERVER_PORTS, tuple(host.address for host in self._hosts)))
        for index, (host, port) in enumerate(product(self._hosts, SERVER_PORTS)):
            host.udp[port] = lambda data, source, index=index: self._receive(data, source, index)
        self.host.tcp[SERVER_PORTS[0]] = self._accept
        self._pipes: dict[int, TcpPipe] = {}
        self._next_pipe = FIRST_CONNECTION

    def stop(self) -> None:
        for host in self._hosts:
            host.udp.clear()
        self.host.tcp.clear()
        for pipe in self._pipes.values():
            pipe.close()

    def _accept(self, pipe: TcpPipe) -> None:
        number, reader = self._next_pipe, FrameReader()
        self._next_pipe += 1
        self._pipes[number] = pipe

        def on_data(data: bytes) -> None:
            for datagram in reader.feed(data):
                self._receive(datagram, pipe.address, number)

        pipe.on_data = on_data
        pipe.on_closed = lambda: self._pipes.pop(number, None)

    def _receive(self, data: bytes, source: Address, index: int) -> None:
        now = self._network.now
        if (at := self.machine.poll_timeout()) is not None and at <= now:
            self.machine.handle_timeout(now)
        if looks_like_stun(data):
            if index < FIRST_CONNECTION and (answer := self.stun.handle_datagram(data, source, index, now)) is not None:
                self._send(answer.index, answer.destination, answer.data)
        elif data[0] in RELAYED_FIRST_BYTES:
            passage = self.machine.handle_burst(source, index, len(data), 0, now)
            if passage is not None:
                self._send(passage.port_index, passage.destination, data)
        else:
            self.machine.handle_datagram(data, source, index, now)
        while (out := self.machine.poll_transmit()) is not None:
            self._send(out.port_index, out.destination, bytes(out.data))

    def _send(self, index: int, destination: Address, data: bytes) -> None:
        if index < FIRST_CONNECTION:
            self._network.send(self._hosts[index >> 1], SERVER_PORTS[index & 1], destination, data)
        elif (pipe := self._pipes.get(index)) is not None and not pipe.is_full:
            pipe.write(frame(data))


class SimPeer:
    """One run of send or recv. Files are dictionaries; the person says yes to everything unless told otherwise."""

    def __init__(
        self,
        network: Network,
        host: Host,
        role: Role,
        server: Address,
        pairing: NamePair | Nameplate,
        *,
        secret: bytes | None = b"amber-walnut-tiger",
        files: dict[str, bytes] | None = None,
        port: int = UDP_PORT,
        accepts: bool = True,
        takes_relay: bool = True,
    ) -> None:
        self._network, self._host, self._port = network, host, port
        self._contents = list((files or {}).values())
        self._accepts = accepts
        self.received: dict[str, bytes] = {}
        self._partial: dict[int, tuple[str, bytearray]] = {}
        self.events: list[events.PeerEvent] = []
        self.timeline: list[tuple[float, events.PeerEvent]] = []
        self._pipes: dict[int, TcpPipe] = {}
        self._next_incoming = 1
        self._wake_at: float | None = None
        entries = [Entry(i, len(data), 0, 0o644, name) for i, (name, data) in enumerate((files or {}).items())]
        self._ports = {MAIN: port}
        scratch = {local: port + 1000 + local for local in SCRATCH}
        for local, scratch_port in scratch.items():
            self._ports[local] = scratch_port
            host.udp[scratch_port] = partial(self.receive, local=local)
        config = PeerConfig(
            role=role,
            servers=[server],
            next_pairing=lambda _: pairing,
            secret=secret,
            udp_candidates=[Address(host.address, port)],
            tcp_candidates=[Address(host.address, port + 1)],
            entries=entries,
            udp_port=port,
            scratch=scratch,
            takes_relay=takes_relay,
        )
        self.peer = Peer(config, network.rng.randbytes)
        host.udp[port] = self.receive
        host.tcp[port + 1] = self._accept
        self.is_alive = True

    def start(self) -> None:
        self.peer.start(self._network.now)
        self._pump()

    def kill(self) -> None:
        """kill -9: nothing more is sent, nothing cleaned up; TCP connections are reset by the system."""
        self.is_alive = False
        for port in self._ports.values():
            self._host.udp.pop(port, None)
        self._host.tcp.pop(self._port + 1, None)
        for pipe in self._pipes.values():
            pipe.close()

    @property
    def is_over(self) -> bool:
        return self.peer.is_over

    @property
    def exit_code(self) -> ExitCode:
        return self.peer.failure.code if self.peer.failure else ExitCode.DONE

    @property
    def path(self) -> events.PathChosen | None:
        return next((e for e in self.events if isinstance(e, events.PathChosen)), None)

    def fail(self, failure: Failure, told: str) -> None:
        self.peer.fail(failure, told, self._network.now)
        self._pump()

    def digest(self) -> bytes:
        """What both sides should report for a single file."""
        return blake3(self._contents[0]).digest()

    def receive(self, data: bytes, source: Address, segment_size: int = 0, local: int = MAIN) -> None:
        """One read of a UDP socket."""
        self.peer.handle_datagram(data, segment_size, source, self._network.now, local)
        self._pump()

    def _accept(self, pipe: TcpPipe) -> None:
        number = self._next_incoming
        self._next_incoming += 2
        self._adopt(number, pipe)
        self.peer.handle_accepted(number, pipe.address, self._network.now)
        self._pump()

    def _connected(self, number: int, pipe: TcpPipe | None) -> None:
        if pipe is None:
            self.peer.handle_tcp_closed(number, self._network.now)
        else:
            self._adopt(number, pipe)
            self.peer.handle_connected(number, self._network.now)
        self._pump()

    def _adopt(self, number: int, pipe: TcpPipe) -> None:
        def on_data(data: bytes) -> None:
            if self.is_alive:
                self.peer.handle_tcp_data(number, data, self._network.now)
                self._pump()

        def on_closed() -> None:
            if self.is_alive:
                self.peer.handle_tcp_closed(number, self._network.now)
                self._pump()

        self._pipes[number] = pipe
        pipe.on_data, pipe.on_closed, pipe.on_room = on_data, on_closed, self._pump

    def _pump(self) -> None:
        if not self.is_alive:
            return
        now = self._network.now
        self._drive_files(now)
        while self._drive_tcp():
            self._drive_files(now)
        self._drive_sockets()
        while (transmit := self.peer.poll_transmit(now)) is not None:
            port = self._ports.get(transmit.local)
            for datagram in _datagrams(transmit.buffers, transmit.segment_size) if port else ():
                self._network.send(self._host, port, transmit.destination, datagram, transmit.ttl or TTL)
        self._drive_tcp()  # the tunnel
        while (event := self.peer.poll_event()) is not None:
            self.events.append(event)
            self.timeline.append((now, event))
            if isinstance(event, events.Offered):
                self._answer()
        self._schedule()

    def _drive_sockets(self) -> None:
        while (action := self.peer.poll_socket_action()) is not None:
            match action:
                case OpenSockets(first, count):
                    for local in range(first, first + count):
                        port = self._ports[local] = self._port + 1000 + local
                        self._host.udp[port] = partial(self.receive, local=local)
                case CloseSockets(numbers):
                    for local in numbers:
                        if (port := self._ports.pop(local, None)) is not None:
                            self._host.udp.pop(port, None)
                case UseSocket():
                    pass

    def _answer(self) -> None:
        if self._accepts:
            self.peer.accept(self._network.now)
        else:
            failure = Failure(ExitCode.REFUSED, "you said no")
            self.peer.refuse(failure, "the person there said no", self._network.now)
        self._network.after(0.0, self._pump)

    def _drive_files(self, now: float) -> None:
        while (read := self.peer.poll_read(now)) is not None:
            if isinstance(read, ReadWhole):
                self.peer.handle_whole(read, self._contents[read.first : read.end], now)
                continue
            content = self._contents[read.file][read.offset : read.offset + read.length]
            pieces = [content[start : start + PIECE] for start in range(0, read.length, PIECE)]
            self.peer.handle_read(read, [bytearray(DATA_HEADER) + piece for piece in pieces], now)
        while (action := self.peer.poll_file_action()) is not None:
            match action:
                case Open(file, entry):
                    self._partial[file] = (entry.name, bytearray(entry.size))
                case Write(file, offset, pieces):
                    data = b"".join(pieces)
                    self._partial[file][1][offset : offset + len(data)] = data
                case Complete(file, _):
                    name, content = self._partial.pop(file)
                    self.received[name] = bytes(content)
                    self.peer.handle_stored([(file, name)], now)
                case Whole(file, entry, whole):
                    self.received[entry.name] = bytes(whole)
                    self.peer.handle_stored([(file, entry.name)], now)

    def _is_full(self, number: int) -> bool:
        return number in self._pipes and self._pipes[number].is_full

    def _drive_tcp(self) -> bool:
        """Returns whether buffers moved: then there is room for more."""
        moved = False
        while (output := self.peer.poll_tcp_output(self._is_full)) is not None:
            number, buffers = output
            if number in self._pipes:
                self._pipes[number].write(b"".join(buffers))
                moved = True
        while (action := self.peer.poll_tcp_action()) is not None:
            match action:
                case Connect(number, address, from_listener):
                    port = self._port + 1 if from_listener else 50_000
                    self._network.connect(self._host, address, partial(self._connected, number), port)
                case Close(number, _):
                    if number in self._pipes:
                        self._pipes.pop(number).close()
        return moved

    def _schedule(self) -> None:
        at = self.peer.poll_timeout()
        if at is None or (self._wake_at is not None and self._network.now < self._wake_at <= at):
            return
        self._wake_at = max(at, self._network.now)
        self._network.after(self._wake_at - self._network.now, self._wake)

    def _wake(self) -> None:
        self._wake_at = None
        if not self.is_alive:
            return
        if (at := self.peer.poll_timeout()) is not None and at <= self._network.now:
            self.peer.handle_timeout(self._network.now)
        self._pump()


def _datagrams(buffers: Sequence[bytes | bytearray | memoryview], segment_size: int) -> list[bytes]:
    """What UDP_SEGMENT does in the kernel."""
    data = b"".join(buffers)
    assert len(data) <= SEGMENT_LIMIT
    step = segment_size or len(data)
    return [data[at : at + step] for at in range(0, len(data), step)]
