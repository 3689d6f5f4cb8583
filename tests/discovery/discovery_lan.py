"""A network in memory: machines with addresses, multicast to all of them, loss; one seed decides everything."""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from math import inf
from typing import TypeVar

from p2p.core.address import Address
from p2p.core.datagram import MAIN, MULTICAST
from p2p.core.discovery.discovery import Discovery
from p2p.core.discovery.messages import GROUP_PORT, Announce, Message, decode, encode
from p2p.core.introduction import Event, NamePair, Pairing
from p2p.core.role import Role

ALICE = NamePair("alice", "bob")
BOB = NamePair("bob", "alice")
PORT = 40000

EventT = TypeVar("EventT")


@dataclass
class Peer:
    machine: Discovery
    addresses: tuple[Address, ...]
    events: list[Event] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    is_up: bool = True

    def of(self, kind: type[EventT]) -> list[EventT]:
        return [event for event in self.events if isinstance(event, kind)]


class Lan:
    """Everybody hears the multicasts of everybody, himself included."""

    def __init__(self, seed: int = 7, *, loss: float = 0.0, duplicate: float = 0.0, delay: float = 0.001) -> None:
        self.random = random.Random(seed)
        self.loss, self.duplicate, self.delay = loss, duplicate, delay
        self.now = 1000.0
        self.peers: list[Peer] = []
        self.trace: list[tuple[float, Address, Address, bytes]] = []  # sent: when, from, to, what
        self.is_cut: Callable[[Address, Address], bool] = lambda _from, _to: False
        self._calls: list[tuple[float, int, Callable[[], None]]] = []
        self._count = 0

    def join(self, pairing: Pairing, role: Role, *hosts: str) -> Peer:
        hosts = hosts or (f"192.168.1.{len(self.peers) + 1}",)
        peer = Peer(Discovery(pairing, role, PORT, self.random.randbytes), tuple(Address(h, PORT) for h in hosts))
        self.peers.append(peer)
        peer.machine.start(self.now)
        self._drain()
        return peer

    def forward(self, peer: Peer, payload: bytes) -> None:
        peer.machine.forward(payload, self.now)
        self._drain()

    def leave(self, peer: Peer) -> None:
        peer.machine.leave(self.now)
        self._drain()

    def crash(self, peer: Peer) -> None:
        peer.is_up = False

    def inject(self, data: bytes | Message, source: Address, destination: Address) -> None:
        """What somebody who is no peer sends."""
        self._carry(source, destination, data if isinstance(data, bytes) else encode(data))

    def multicast(self, data: bytes | Message, source: Address) -> None:
        for peer in self.peers:
            self._travel(source, peer.addresses[0], data if isinstance(data, bytes) else encode(data), MULTICAST)

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
                at = peer.machine.poll_timeout()
                if peer.is_up and at is not None and at <= self.now:
                    peer.machine.handle_timeout(self.now)
                    assert (peer.machine.poll_timeout() or inf) > self.now, "a deadline that does not go away"
            self._drain()
        return True

    def instance(self, peer: Peer) -> bytes:
        """The random number that the peer announces."""
        return self.sent_by(peer, Announce)[0].sender

    def sent_by(self, peer: Peer, kind: type[EventT]) -> list[EventT]:
        messages = [decode(data) for _, source, _, data in self.trace if source in peer.addresses]
        return [message for message in messages if isinstance(message, kind)]

    def _deadlines(self) -> list[float]:
        deadlines = [peer.machine.poll_timeout() for peer in self.peers if peer.is_up]
        deadlines.append(self._calls[0][0] if self._calls else None)
        return [deadline for deadline in deadlines if deadline is not None]

    def _drain(self) -> None:
        for peer in self.peers:
            while peer.is_up and (transmit := peer.machine.poll_transmit()) is not None:
                data = b"".join(transmit.buffers)
                if transmit.local != MULTICAST:
                    family = ":" in transmit.destination.host
                    source = next(a for a in peer.addresses if (":" in a.host) is family)
                    self._carry(source, transmit.destination, data)
                    continue
                for source in peer.addresses:
                    self.trace.append((self.now, source, transmit.destination, data))
                    for other in self.peers:
                        for address in other.addresses:
                            if (":" in address.host) is (":" in source.host):
                                self._travel(Address(source.host, GROUP_PORT), address, data, MULTICAST)
            while (event := peer.machine.poll_event()) is not None:
                peer.events.append(event)
                peer.times.append(self.now)

    def _carry(self, source: Address, destination: Address, data: bytes) -> None:
        self.trace.append((self.now, source, destination, data))
        self._travel(source, destination, data)

    def _travel(self, source: Address, destination: Address, data: bytes, local: int = MAIN) -> None:
        if self.is_cut(source, destination):
            return
        for _ in range(2 if self.random.random() < self.duplicate else 1):
            if self.random.random() >= self.loss:
                self.call_at(self.now + self.delay, lambda: self._deliver(source, destination, data, local))

    def call_at(self, when: float, call: Callable[[], None]) -> None:
        self._count += 1
        heapq.heappush(self._calls, (when, self._count, call))

    def _deliver(self, source: Address, destination: Address, data: bytes, local: int) -> None:
        for peer in self.peers:
            if destination in peer.addresses and peer.is_up:
                peer.machine.handle_datagram(data, source, self.now, local)
