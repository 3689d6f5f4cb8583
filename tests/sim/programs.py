"""The server and the two peers as programs of the in-memory network: the core as it is, everything else in memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from itertools import product

from blake3 import blake3
from sim.network import TTL, Host, Network, TcpPipe
from transfer.in_memory import MemoryDisk, MemorySource, Tree

from p2p.core.address import Address
from p2p.core.contacts.exchange import ContactExchange
from p2p.core.datagram import MAIN, CloseSockets, OpenSockets, UseSocket
from p2p.core.errors import ExitCode, Failure
from p2p.core.peer import events
from p2p.core.peer.config import PeerConfig
from p2p.core.peer.peer import Peer
from p2p.core.peer.rejoin import Rejoin
from p2p.core.rendezvous.frames import FrameReader, frame
from p2p.core.rendezvous.messages import NamePair, Nameplate
from p2p.core.rendezvous.relay import RELAYED_FIRST_BYTES
from p2p.core.rendezvous.seats import FIRST_CONNECTION
from p2p.core.rendezvous.server import RendezvousServer
from p2p.core.role import Role
from p2p.core.stun.server import Endpoints, StunServer, looks_like_stun
from p2p.core.transfer.receiver import TransferReceiver
from p2p.core.transfer.sender import TransferSender
from p2p.core.transport.lan import Close, Connect

SERVER_PORTS = (8080, 8081)
UDP_PORT = 40_000
TCP_PORT = 40_001
SCRATCH = range(1001, 1009)
SEGMENT_LIMIT = 65_535
PORTS_AN_ATTEMPT = 500
CONFIRM_PATIENCE = 20.0  # virtual seconds a receiver that has everything looks for a sender that may not know it
AGAIN = (ExitCode.NO_PEER, ExitCode.NO_PATH, ExitCode.WRONG_CODE, ExitCode.USAGE)  # the next attempt may find it
PAUSE = 1.0  # virtual seconds between two attempts of which the first found no way


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
    """One run of send or recv, over as many paths as it takes. Files are dictionaries; the person says yes to
    everything unless told otherwise.
    """

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
        reconnect: float = 0.0,
        contact: ContactExchange | None = None,
        is_contact: bool = False,
    ) -> None:
        """`reconnect`: virtual seconds to look for the other side after a path was lost, as `Crossing` does.

        `contact`: this side is to remember the other; `is_contact`: `secret` is that of two who do.
        """
        self.contact = contact or ContactExchange()
        self._is_contact = is_contact
        self._network, self.host, self._port = network, host, port
        self._role, self._server, self._takes_relay = role, server, takes_relay
        self._reconnect = reconnect
        self.accepts = accepts
        self._contents = list((files or {}).values())
        self.disk = MemoryDisk()
        self.machine: TransferSender | TransferReceiver
        if role is Role.SENDER:
            tree = Tree.of(files or {})
            self.source = MemorySource(tree)
            self.machine = TransferSender(tree.offer())
        else:
            self.machine = TransferReceiver()
        self.events: list[events.PeerEvent] = []
        self.timeline: list[tuple[float, events.PeerEvent]] = []
        self.is_alive = True
        self.is_done = False
        self._is_ended = False
        self._until: float | None = None
        self._rejoin: Rejoin | None = None
        self.attempts = [self._attempt(pairing, secret, goes_on=False)]

    @property
    def attempt(self) -> Attempt:
        return self.attempts[-1]

    @property
    def peer(self) -> Peer:
        return self.attempt.peer

    @property
    def received(self) -> dict[str, bytes]:
        """What is stored under its name."""
        return {self.disk.names[number]: content for number, content in self.disk.contents().items()}

    @property
    def is_over(self) -> bool:
        return self.peer.is_over and (self._is_ended or not self._goes_on)

    @property
    def exit_code(self) -> ExitCode:
        if self.is_done or self.peer.failure is None:
            return ExitCode.DONE
        return self.peer.failure.code

    @property
    def path(self) -> events.PathChosen | None:
        return next((e for e in self.events if isinstance(e, events.PathChosen)), None)

    def start(self) -> None:
        self.attempt.start()

    def kill(self) -> None:
        """kill -9: nothing more is sent, nothing cleaned up; TCP connections are reset by the system."""
        self.is_alive = False
        self.attempt.close()

    def freeze(self, seconds: float) -> None:
        """The machine sleeps: no timer, no packet; what comes by TCP is there when it wakes up."""
        self.host.is_up = False
        self.attempt.frozen_until = self._network.now + seconds
        self._network.after(seconds, self._thaw)

    def fail(self, failure: Failure, told: str) -> None:
        self.peer.fail(failure, told, self._network.now)
        self.attempt.pump()

    def digest(self) -> bytes:
        """What both sides should report for a single file."""
        return blake3(self._contents[0]).digest()

    def receive(self, data: bytes, source: Address, segment_size: int = 0, local: int = MAIN) -> None:
        """One read of a UDP socket."""
        self.attempt.receive(data, source, segment_size, local)

    def note(self, event: events.PeerEvent) -> None:
        if self.is_done:
            return  # all that is left is that the sender hears it
        self.events.append(event)
        self.timeline.append((self._network.now, event))
        self.is_done |= isinstance(event, events.Done)
        if isinstance(event, events.ContactHeard):
            self.contact.handle_held()
            self.peer.advance(self._network.now)

    def drive_files(self, peer: Peer, now: float) -> None:
        """The end of the transfer on this machine."""
        if isinstance(self.machine, TransferSender):
            while (wanted := peer.poll_wanted(now)) is not None:
                peer.send(self.source.answer(self.machine, wanted), now)
            return
        moved = False
        while (action := self.machine.poll_action()) is not None:
            self.disk.act(self.machine, action)
            moved = True
        while not self.disk.is_idle:
            self.disk.store(self.machine)
            moved = True
        if moved:
            peer.advance(now)

    def end_attempt(self) -> None:
        """The path is gone, and all was said: goes on over another one, if there is something left to do."""
        if not self.attempt.is_open or not self.peer.is_over or self._is_ended:
            return
        if not self._goes_on:
            self._is_ended = True
            return
        now, rejoin = self._network.now, self.peer.rejoin
        self._rejoin = self._rejoin or rejoin
        if rejoin is not None and not (self.is_done and self._until is not None):
            self._until = now + (CONFIRM_PATIENCE if self.is_done else self._reconnect)
        assert self._until is not None
        assert self._rejoin is not None
        if now >= self._until:
            self._is_ended = True
            return
        self.attempt.close()
        self._network.after(0.0 if rejoin is not None else PAUSE, self._try_again)

    # inside

    @property
    def _goes_on(self) -> bool:
        if not self._reconnect:
            return False
        failure = self.peer.failure
        may_come = self._rejoin is not None and failure is not None and failure.code in AGAIN
        return self.peer.rejoin is not None or may_come

    def _attempt(self, pairing: NamePair | Nameplate, secret: bytes | None, *, goes_on: bool) -> Attempt:
        port = self._port + PORTS_AN_ATTEMPT * (len(self.attempts) if goes_on else 0)
        config = PeerConfig(
            role=self._role,
            servers=[self._server],
            next_pairing=lambda _: pairing,
            secret=secret,
            udp_candidates=[Address(self.host.address, port)],
            tcp_candidates=[Address(self.host.address, port + 1)],
            udp_port=port,
            scratch={local: port + 1000 + local for local in SCRATCH},
            takes_relay=self._takes_relay,
            is_contact=self._is_contact and not goes_on,
            rejoin=self._rejoin if goes_on else None,
        )
        return Attempt(self._network, self, config, goes_on=goes_on)

    def _try_again(self) -> None:
        if not self.is_alive:
            return
        assert self._rejoin is not None
        self.attempts.append(self._attempt(self._rejoin.pairing, self._rejoin.secret, goes_on=True))
        self.attempt.start()
        assert self._until is not None
        left, attempt = max(self._until - self._network.now, PAUSE), self.attempt
        self._network.after(left, lambda: attempt.give_up(left))

    def _thaw(self) -> None:
        self.host.is_up = True
        self.attempt.thaw()


class Attempt:
    """Fresh sockets and a peer on them."""

    def __init__(self, network: Network, run: SimPeer, config: PeerConfig, *, goes_on: bool) -> None:
        self._network, self._run, self._host, self._port = network, run, run.host, config.udp_port
        self.pipes: dict[int, TcpPipe] = {}
        self._next_incoming = 1
        self._wake_at: float | None = None
        self.is_open = True
        self.frozen_until = 0.0
        self._frozen: list[Callable[[], None]] = []
        self._ports = {MAIN: config.udp_port}
        for local, scratch_port in config.scratch.items():
            self._ports[local] = scratch_port
            self._host.udp[scratch_port] = partial(self.receive, local=local)
        self.peer = Peer(config, run.machine, network.rng.randbytes, goes_on=goes_on, contact=run.contact)
        self._host.udp[self._port] = self.receive
        self._host.tcp[self._port + 1] = self._accept

    def start(self) -> None:
        self.peer.start(self._network.now)
        self.pump()

    def close(self) -> None:
        """Its sockets are closed."""
        self.is_open = False
        for port in self._ports.values():
            self._host.udp.pop(port, None)
        self._host.tcp.pop(self._port + 1, None)
        for pipe in self.pipes.values():
            pipe.close()

    def give_up(self, seconds: float) -> None:
        """Nobody came in so many seconds."""
        if self.is_open and not self.peer.has_met:
            self.peer.give_up(seconds, self._network.now)
            self.pump()

    def thaw(self) -> None:
        held, self._frozen = self._frozen, []
        for action in held:
            action()
        self._wake()

    def receive(self, data: bytes, source: Address, segment_size: int = 0, local: int = MAIN) -> None:
        """One read of a UDP socket."""
        self.peer.handle_datagram(data, segment_size, source, self._network.now, local)
        self.pump()

    def _accept(self, pipe: TcpPipe) -> None:
        number = self._next_incoming
        self._next_incoming += 2
        self._adopt(number, pipe)
        self.peer.handle_accepted(number, pipe.address, self._network.now)
        self.pump()

    def _connected(self, number: int, pipe: TcpPipe | None) -> None:
        if not self.is_open:
            return
        if pipe is None:
            self.peer.handle_tcp_closed(number, self._network.now)
        else:
            self._adopt(number, pipe)
            self.peer.handle_connected(number, self._network.now)
        self.pump()

    def _adopt(self, number: int, pipe: TcpPipe) -> None:
        def on_data(data: bytes) -> None:
            if self._network.now < self.frozen_until:
                self._frozen.append(partial(on_data, data))
            elif self.is_open:
                self.peer.handle_tcp_data(number, data, self._network.now)
                self.pump()

        def on_closed() -> None:
            if self._network.now < self.frozen_until:
                self._frozen.append(on_closed)
            elif self.is_open:
                self.peer.handle_tcp_closed(number, self._network.now)
                self.pump()

        self.pipes[number] = pipe
        pipe.on_data, pipe.on_closed, pipe.on_room = on_data, on_closed, self.pump

    def pump(self) -> None:
        if not self.is_open or self._network.now < self.frozen_until:
            return
        now = self._network.now
        self._run.drive_files(self.peer, now)
        while self._drive_tcp():
            self._run.drive_files(self.peer, now)
        self._drive_sockets()
        while (transmit := self.peer.poll_transmit(now)) is not None:
            port = self._ports.get(transmit.local)
            for datagram in _datagrams(transmit.buffers, transmit.segment_size) if port else ():
                self._network.send(self._host, port, transmit.destination, datagram, transmit.ttl or TTL)
        self._drive_tcp()  # the tunnel
        while (event := self.peer.poll_event()) is not None:
            self._run.note(event)
            if isinstance(event, events.Offered):
                self._answer()
        if self.peer.is_over:
            self._network.after(0.0, self._run.end_attempt)
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
        if self._run.accepts:
            assert isinstance(self._run.machine, TransferReceiver)
            self._run.machine.accept()
            self.peer.advance(self._network.now)
        else:
            failure = Failure(ExitCode.REFUSED, "you said no")
            self.peer.refuse(failure, "the person there said no", self._network.now)
        self._network.after(0.0, self.pump)

    def _is_full(self, number: int) -> bool:
        return number in self.pipes and self.pipes[number].is_full

    def _drive_tcp(self) -> bool:
        """Returns whether buffers moved: then there is room for more."""
        moved = False
        while (output := self.peer.poll_tcp_output(self._is_full)) is not None:
            number, buffers = output
            if number in self.pipes:
                self.pipes[number].write(b"".join(buffers))
                moved = True
        while (action := self.peer.poll_tcp_action()) is not None:
            match action:
                case Connect(number, address, from_listener):
                    port = self._port + 1 if from_listener else 50_000
                    self._network.connect(self._host, address, partial(self._connected, number), port)
                case Close(number, _):
                    if number in self.pipes:
                        self.pipes.pop(number).close()
        return moved

    def _schedule(self) -> None:
        at = self.peer.poll_timeout()
        if at is None or (self._wake_at is not None and self._network.now < self._wake_at <= at):
            return
        self._wake_at = max(at, self._network.now)
        self._network.after(self._wake_at - self._network.now, self._wake)

    def _wake(self) -> None:
        self._wake_at = None
        if not self.is_open or self._network.now < self.frozen_until:
            return
        if (at := self.peer.poll_timeout()) is not None and at <= self._network.now:
            self.peer.handle_timeout(self._network.now)
        self.pump()


def _datagrams(buffers: Sequence[bytes | bytearray | memoryview], segment_size: int) -> list[bytes]:
    """What UDP_SEGMENT does in the kernel."""
    data = b"".join(buffers)
    assert len(data) <= SEGMENT_LIMIT
    step = segment_size or len(data)
    return [data[at : at + step] for at in range(0, len(data), step)]
