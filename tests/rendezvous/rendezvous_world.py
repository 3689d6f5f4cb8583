"""A virtual network with one rendezvous server: no socket, no sleeping, one seed decides everything."""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from math import inf
from typing import TypeVar

from p2p.core.address import Address
from p2p.core.datagram import MAIN, TUNNEL
from p2p.core.rendezvous import events as c
from p2p.core.rendezvous import server_events as s
from p2p.core.rendezvous.client import RendezvousClient
from p2p.core.rendezvous.messages import Message, NamePair, Pairing, decode
from p2p.core.rendezvous.seats import FIRST_CONNECTION
from p2p.core.rendezvous.server import RendezvousServer
from p2p.core.rendezvous.server_events import Limits
from p2p.core.role import Role

FIRST = Address("203.0.113.1", 8080)
ALTERNATE = Address("203.0.113.1", 8081)

ALICE = NamePair("alice", "bob")
BOB = NamePair("bob", "alice")

EventT = TypeVar("EventT")


@dataclass
class Network:
    """What happens to a datagram on its way."""

    loss: float = 0.0
    duplicate: float = 0.0
    delay: tuple[float, float] = (0.01, 0.01)  # seconds, uniform


@dataclass
class Peer:
    machine: RendezvousClient
    address: Address  # as the server sees it: where its NAT lets it out
    events: list[c.Event] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    is_up: bool = True
    connection: int | None = None  # its port index at the server
    has_udp: bool = True

    def of(self, kind: type[EventT]) -> list[EventT]:
        return [event for event in self.events if isinstance(event, kind)]


class World:
    def __init__(self, seed: int = 7, network: Network | None = None, limits: Limits | None = None) -> None:
        self.random = random.Random(seed)
        self.network = network or Network()
        self.limits = limits or Limits()
        self.now = 1000.0
        self.server: RendezvousServer | None = None
        self.server_events: list[s.Event] = []
        self.port_is_closed = False  # ECONNREFUSED while the server is down
        self.extra_delay: Callable[[Address, bytes], float] = lambda _to, _data: 0.0
        self.peers: list[Peer] = []
        self.trace: list[tuple[float, Address, Address, bytes]] = []  # sent: when, from, to, what
        self._connections = FIRST_CONNECTION
        self._calls: list[tuple[float, int, Callable[[], None]]] = []
        self._count = 0
        self.start_server()

    def start_server(self) -> None:
        self.server = RendezvousServer(self.random.randbytes, self.limits)

    def stop_server(self) -> None:
        self.server = None

    def add_peer(self, pairing: Pairing, role: Role, host: str | None = None) -> Peer:
        host = host or f"198.51.{len(self.peers)}.7"
        peer = Peer(RendezvousClient(FIRST, pairing, role, self.random.randbytes), Address(host, 40000))
        self.peers.append(peer)
        return peer

    def start(self, peer: Peer) -> Peer:
        peer.machine.start(self.now)
        self._drain()
        return peer

    def join(self, pairing: Pairing, role: Role, host: str | None = None) -> Peer:
        return self.start(self.add_peer(pairing, role, host))

    def connect(self, peer: Peer) -> None:
        """A new TCP connection to the server; the one before, if any, is gone."""
        peer.connection = self._connections
        self._connections += 1
        peer.machine.use(TUNNEL, self.now)
        self._drain()

    def forward(self, peer: Peer, payload: bytes) -> None:
        peer.machine.forward(payload, self.now)
        self._drain()

    def leave(self, peer: Peer) -> None:
        peer.machine.leave(self.now)
        self._drain()

    def run(self, seconds: float, until: Callable[[], bool] = lambda: False) -> bool:
        """Lets `seconds` pass, or fewer when `until` comes true; returns whether it did."""
        end = self.now + seconds
        self._drain()
        while not until():
            deadline = min(self._deadlines(), default=inf)
            if deadline > end:
                self.now = end
                return False
            self.now = max(self.now, deadline)
            while self._calls and self._calls[0][0] <= self.now:
                heapq.heappop(self._calls)[2]()
            for peer in self.peers:
                if peer.is_up:
                    peer.machine.handle_timeout(self.now)
            if self.server is not None:
                self.server.handle_timeout(self.now)
            self._drain()
        return True

    def messages_to(self, destination: Address) -> list[Message]:
        return [decode(data) for _, _, to, data in self.trace if to == destination]

    def _deadlines(self) -> list[float]:
        deadlines = [peer.machine.poll_timeout() for peer in self.peers if peer.is_up]
        deadlines.append(self.server.poll_timeout() if self.server is not None else None)
        deadlines.append(self._calls[0][0] if self._calls else None)
        return [deadline for deadline in deadlines if deadline is not None]

    def _drain(self) -> None:
        for peer in self.peers:
            while peer.is_up and (transmit := peer.machine.poll_transmit()) is not None:
                data = b"".join(transmit.buffers)
                if transmit.local == TUNNEL and peer.connection is not None:
                    self._carry(self.tunnel_address(peer), transmit.destination, data, peer.connection)
                elif transmit.local == MAIN and peer.has_udp:
                    self._carry(peer.address, transmit.destination, data)
            while (event := peer.machine.poll_event()) is not None:
                peer.events.append(event)
                peer.times.append(self.now)
        if self.server is None:
            return
        while (out := self.server.poll_transmit()) is not None:
            if out.port_index >= FIRST_CONNECTION:
                self._carry(FIRST, out.destination, out.data, out.port_index)
            else:
                self._carry((FIRST, ALTERNATE)[out.port_index], out.destination, out.data)
        while (said := self.server.poll_event()) is not None:
            self.server_events.append(said)

    def tunnel_address(self, peer: Peer) -> Address:
        assert peer.connection is not None
        return Address(peer.address.host, 50_000 + peer.connection - FIRST_CONNECTION)

    def _carry(self, source: Address, destination: Address, data: bytes, connection: int | None = None) -> None:
        self.trace.append((self.now, source, destination, data))
        if connection is not None:
            self.call_at(self.now + 0.01, lambda: self._deliver(source, destination, data, connection))
            return
        for _ in range(2 if self.random.random() < self.network.duplicate else 1):
            if self.random.random() >= self.network.loss:
                self.call_at(
                    self.now + self.random.uniform(*self.network.delay) + self.extra_delay(destination, data),
                    lambda: self._deliver(source, destination, data),
                )

    def call_at(self, when: float, call: Callable[[], None]) -> None:
        self._count += 1
        heapq.heappush(self._calls, (when, self._count, call))

    def _deliver(self, source: Address, destination: Address, data: bytes, connection: int | None = None) -> None:
        if destination in (FIRST, ALTERNATE):
            if self.server is not None:
                port_index = (FIRST, ALTERNATE).index(destination) if connection is None else connection
                self.server.handle_datagram(data, source, port_index, self.now)
            elif self.port_is_closed:
                for peer in self.peers:
                    if peer.address == source:
                        peer.machine.handle_error(self.now)
            return
        for peer in self.peers:
            if not peer.is_up:
                continue
            if connection is not None and peer.connection == connection:
                peer.machine.handle_datagram(data, source, self.now, TUNNEL)
            elif connection is None and peer.address == destination and peer.has_udp:
                peer.machine.handle_datagram(data, source, self.now)
