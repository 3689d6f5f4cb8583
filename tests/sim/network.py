"""An internet in memory: virtual clock, links with impairments, NATs as one key function each, TCP on LANs."""

from __future__ import annotations

import heapq
import itertools
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum, auto

from p2p.core.address import Address

SOCKET_BUFFER = 256 * 1024  # bytes that a TCP connection holds
TTL = 64
LINK_DELAY = 0.010  # seconds one way, host to host


class Behaviour(Enum):
    """Mapping and filtering in the words of RFC 4787."""

    ENDPOINT_INDEPENDENT = auto()
    ADDRESS_DEPENDENT = auto()
    ADDRESS_AND_PORT_DEPENDENT = auto()

    def key(self, remote: Address) -> object:
        match self:
            case Behaviour.ENDPOINT_INDEPENDENT:
                return None
            case Behaviour.ADDRESS_DEPENDENT:
                return remote.host
            case Behaviour.ADDRESS_AND_PORT_DEPENDENT:
                return remote


@dataclass(frozen=True, slots=True)
class NatKind:
    mapping: Behaviour
    filtering: Behaviour
    udp_blocked: bool = False


EIM = Behaviour.ENDPOINT_INDEPENDENT
ADF = Behaviour.ADDRESS_DEPENDENT
APDF = Behaviour.ADDRESS_AND_PORT_DEPENDENT
NAT_KINDS: dict[str, NatKind | None] = {
    "none": None,
    "full cone": NatKind(EIM, EIM),
    "address-restricted": NatKind(EIM, ADF),
    "port-restricted": NatKind(EIM, APDF),
    "symmetric": NatKind(APDF, APDF),
    "symmetric EIF": NatKind(APDF, EIM),
    "UDP blocked": NatKind(EIM, EIM, udp_blocked=True),
}


class Nat:
    """A router between one LAN and the core. Ports are drawn at random: nothing may rely on port preservation."""

    def __init__(self, kind: NatKind, address: str, rng: random.Random) -> None:
        self.kind = kind
        self.address = address
        self._rng = rng
        self._ports: dict[tuple[Address, object], int] = {}
        self._insides: dict[int, Address] = {}
        self._contacted: dict[int, set[object]] = {}

    def outbound(self, source: Address, destination: Address) -> Address | None:
        """The mapped source of a datagram, or None when it is dropped."""
        if self.kind.udp_blocked:
            return None
        key = (source, self.kind.mapping.key(destination))
        if key not in self._ports:
            port = next(p for p in iter(lambda: self._rng.randrange(1024, 65536), None) if p not in self._insides)
            self._ports[key] = port
            self._insides[port] = source
            self._contacted[port] = set()
        port = self._ports[key]
        self._contacted[port].add(self.kind.filtering.key(destination))
        return Address(self.address, port)

    def inbound(self, port: int, source: Address) -> Address | None:
        """The inside address that a datagram goes to, or None when it is dropped."""
        if self.kind.udp_blocked or port not in self._insides:
            return None
        allowed = self.kind.filtering.key(source) in self._contacted[port]
        return self._insides[port] if allowed else None


@dataclass(slots=True)
class Impairment:
    """Probabilities for each datagram on its way between two hosts."""

    loss: float = 0.0
    duplicate: float = 0.0
    reorder: float = 0.0
    corrupt: float = 0.0


@dataclass(eq=False)
class Host:
    """A machine with one address, behind `nat` or public."""

    name: str
    address: str
    nat: Nat | None = None
    impairment: Impairment = field(default_factory=Impairment)
    udp: dict[int, Callable[[bytes, Address], None]] = field(default_factory=dict)
    tcp: dict[int, Callable[[TcpPipe], None]] = field(default_factory=dict)
    is_up: bool = True


class TcpPipe:
    """One direction-less TCP connection between two programs; what is written arrives in order and whole."""

    def __init__(self, network: Network, address: Address) -> None:
        self._network = network
        self.address = address
        self.other: TcpPipe
        self.on_data: Callable[[bytes], None] = lambda _: None
        self.on_closed: Callable[[], None] = lambda: None
        self.on_room: Callable[[], None] = lambda: None
        self._in_flight = 0
        self.is_open = True

    @property
    def is_full(self) -> bool:
        """Whether the socket would take no more: what was written is not acknowledged yet."""
        return self._in_flight >= SOCKET_BUFFER

    def write(self, data: bytes) -> None:
        self._in_flight += len(data)
        self._network.after(LINK_DELAY, lambda: self.other._arrive(data))
        self._network.after(2 * LINK_DELAY, lambda: self._acknowledge(len(data)))

    def _acknowledge(self, length: int) -> None:
        self._in_flight -= length
        if self.is_open:
            self.on_room()

    def close(self) -> None:
        if self.is_open:
            self.is_open = False
            self._network.after(LINK_DELAY, self.other._end)

    def _arrive(self, data: bytes) -> None:
        if self.is_open:
            self.on_data(data)

    def _end(self) -> None:
        if self.is_open:
            self.is_open = False
            self.on_closed()


class Network:
    """Hosts, routers and the virtual clock that all of them live by."""

    def __init__(self, seed: int = 0) -> None:
        self.now = 0.0
        self.rng = random.Random(seed)
        self._queue: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self._hosts: dict[tuple[str, Nat | None], Host] = {}
        self._nats: dict[str, Nat] = {}

    def add_host(self, name: str, address: str, nat: Nat | None = None) -> Host:
        host = Host(name, address, nat)
        self._hosts[address, nat] = host
        return host

    def add_nat(self, kind: NatKind, address: str) -> Nat:
        self._nats[address] = Nat(kind, address, self.rng)
        return self._nats[address]

    def after(self, delay: float, action: Callable[[], None]) -> None:
        heapq.heappush(self._queue, (self.now + delay, next(self._order), action))

    def run(self, until: Callable[[], bool], limit: float) -> None:
        """Lets time pass until `until()`; raises TimeoutError after `limit` virtual seconds."""
        end = self.now + limit
        while not until():
            if not self._queue or self._queue[0][0] > end:
                raise TimeoutError(f"nothing came of it within {limit} virtual seconds")
            self.now, _, action = heapq.heappop(self._queue)
            action()

    def send(self, host: Host, port: int, destination: Address, data: bytes, ttl: int = TTL) -> None:
        """A datagram from a host's port; what becomes of it is decided on its way."""
        if not host.is_up:
            return
        impairment = host.impairment
        if self.rng.random() < impairment.loss:
            return
        copies = 2 if self.rng.random() < impairment.duplicate else 1
        for _ in range(copies):
            delay = LINK_DELAY * (4 * self.rng.random() if self.rng.random() < impairment.reorder else 1)
            body = _flip_bit(data, self.rng) if self.rng.random() < impairment.corrupt else data
            self.after(delay, lambda body=body: self._route(host, Address(host.address, port), destination, body))

    def connect(self, host: Host, destination: Address, done: Callable[[TcpPipe | None], None]) -> None:
        """TCP reaches hosts on the same LAN, and public ones; elsewhere it gets no answer at all."""
        target = self._hosts.get((destination.host, host.nat)) or self._hosts.get((destination.host, None))
        if target is None or not target.is_up:
            return
        accept = target.tcp.get(destination.port)
        if accept is None:
            self.after(LINK_DELAY, lambda: done(None))
            return
        near, far = TcpPipe(self, destination), TcpPipe(self, Address(host.address, 50_000))
        near.other, far.other = far, near

        def connected() -> None:
            done(near)
            if not near.is_open:  # it was closed while the answer was under way
                near.on_closed()

        self.after(LINK_DELAY, lambda: accept(far))
        self.after(2 * LINK_DELAY, connected)

    def _route(self, host: Host, source: Address, destination: Address, data: bytes) -> None:
        neighbour = self._hosts.get((destination.host, host.nat))
        if neighbour is not None:
            _deliver(neighbour, destination.port, data, source)
            return
        if host.nat is not None:
            mapped = host.nat.outbound(source, destination)
            if mapped is None:
                return
            source = mapped
        if (nat := self._nats.get(destination.host)) is not None and nat is not host.nat:
            inside = nat.inbound(destination.port, source)
            if inside is not None:
                _deliver(self._hosts[inside.host, nat], inside.port, data, source)
        elif (target := self._hosts.get((destination.host, None))) is not None:
            _deliver(target, destination.port, data, source)


def _deliver(host: Host, port: int, data: bytes, source: Address) -> None:
    if host.is_up and port in host.udp:
        host.udp[port](data, source)


def _flip_bit(data: bytes, rng: random.Random) -> bytes:
    position = rng.randrange(8 * len(data)) if data else 0
    return bytes(byte ^ (1 << position % 8) if index == position // 8 else byte for index, byte in enumerate(data))
