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
LINK_DELAY = 0.010  # seconds one way, host to host, unless a network says otherwise
TTL = 64
CORE_HOPS = 2  # plain routers between any two NATs; as in netlab
ALL_PORTS = range(1024, 65536)


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
    """`stride`: a NAT that counts; otherwise ports are drawn from `ports`, or kept where `preserves` says so.

    An unguarded router gives a port to whoever knocks at it before anything went out to him (as Linux does that drops
    nothing on its INPUT chain): a later flow to him gets another.

    Without translation it is a firewall: the host has the address itself, and all of its ports.
    """

    mapping: Behaviour
    filtering: Behaviour
    udp_blocked: bool = False
    stride: int = 0
    ports: range = ALL_PORTS
    preserves: bool = False
    guarded: bool = True
    translates: bool = True


EIM = Behaviour.ENDPOINT_INDEPENDENT
ADF = Behaviour.ADDRESS_DEPENDENT
APDF = Behaviour.ADDRESS_AND_PORT_DEPENDENT
NAT_KINDS: dict[str, NatKind | None] = {
    "none": None,
    "full cone": NatKind(EIM, EIM),
    "address-restricted": NatKind(EIM, ADF),
    "port-restricted": NatKind(EIM, APDF),
    "unguarded": NatKind(EIM, APDF, preserves=True, guarded=False),
    "symmetric": NatKind(APDF, APDF),
    "symmetric EIF": NatKind(APDF, EIM),
    "symmetric, preserving": NatKind(APDF, APDF, preserves=True),
    "address-dependent": NatKind(ADF, APDF),
    "sequential": NatKind(APDF, APDF, stride=1),
    "stride 4": NatKind(APDF, APDF, stride=4),
    "backwards": NatKind(APDF, APDF, stride=-2),
    "sequential, address-dependent": NatKind(ADF, APDF, stride=1),
    "carrier symmetric": NatKind(APDF, APDF, ports=range(10240, 11264)),
    "UDP blocked": NatKind(EIM, EIM, udp_blocked=True),
    "firewall": NatKind(EIM, APDF, preserves=True, translates=False),
    "firewall, UDP blocked": NatKind(EIM, APDF, preserves=True, translates=False, udp_blocked=True),
}


class Mapping:
    """One external port for one inside address (and destination, or part of it)."""

    def __init__(self, port: int, inside: Address, key: object) -> None:
        self.port, self.inside, self.key = port, inside, key
        self.contacted: set[object] = set()


class Nat:
    """A router between one LAN and the core, or the LAN of `outer`. Nothing may rely on port preservation.

    `foreign`: flows a second that other hosts of the LAN open; only a NAT that counts shows them.
    """

    def __init__(self, kind: NatKind, address: str, network: Network, outer: Nat | None = None) -> None:
        self.kind = kind
        self.address = address
        self.outer = outer
        self.foreign = 0.0
        self._network = network
        self._counter = kind.ports[network.rng.randrange(len(kind.ports))]
        self._counted_at = 0.0
        self._mappings: dict[tuple[Address, object], Mapping] = {}
        self._by_port: dict[int, list[Mapping]] = {}
        self._taken: set[tuple[int, Address]] = set()
        self._opened: dict[int, Address] = {}
        self._through: dict[tuple[Address, Address], int] = {}  # who came in by such a port: it is also the way out

    def rebind(self) -> None:
        """Forgets all mappings, as a router does that was restarted or ran out of them: every flow gets another."""
        for table in (self._mappings, self._by_port, self._taken, self._through):
            table.clear()

    @property
    def newest(self) -> int:
        """The port of the mapping that was made last."""
        return next(reversed(self._mappings.values())).port

    def open(self, port: int, inside: Address) -> None:
        """Lets everybody in by `port`, as a port mapper does."""
        self._opened[port] = inside

    def outbound(self, source: Address, destination: Address) -> Address | None:
        """The mapped source of a datagram, or None when it is dropped."""
        if self.kind.udp_blocked:
            return None
        if (opened := self._through.get((source, destination))) is not None:
            return Address(self.address, opened)
        key = self.kind.mapping.key(destination)
        mapping = self._mappings.get((source, key))
        if mapping is not None and (mapping.port, destination) in self._taken and destination not in mapping.contacted:
            mapping = self._mappings.get((source, destination))
            key = destination
        if mapping is None:
            mapping = Mapping(self._free_port(source, key, destination), source, key)
            self._mappings[source, key] = mapping
            self._by_port.setdefault(mapping.port, []).append(mapping)
        mapping.contacted |= {self.kind.filtering.key(destination), destination}
        return Address(self.address, mapping.port)

    def inbound(self, port: int, source: Address) -> Address | None:
        """The inside address that a datagram goes to, or None when it is dropped."""
        if self.kind.udp_blocked:
            return None
        if (inside := self._opened.get(port)) is not None:
            self._through[inside, source] = port
            return inside
        for mapping in self._by_port.get(port, []):
            if self.kind.filtering.key(source) in mapping.contacted and (port, source) not in self._taken:
                return mapping.inside
        if not self.kind.guarded:
            self._taken.add((port, source))
        return None

    def _free_port(self, source: Address, key: object, destination: Address) -> int:
        if self.kind.preserves and self._is_free(source.port, key, destination):
            return source.port
        ports = self.kind.ports
        if self.kind.stride:
            elapsed = self._network.now - self._counted_at
            self._counted_at = self._network.now
            steps = 1 + _poisson(self.foreign * elapsed, self._network.rng)
            self._counter = ports[(self._counter + steps * self.kind.stride - ports[0]) % len(ports)]
            while not self._is_free(self._counter, key, destination):
                self._counter = ports[(self._counter + self.kind.stride - ports[0]) % len(ports)]
            return self._counter
        draws = iter(lambda: ports[self._network.rng.randrange(len(ports))], None)
        return next(port for port in draws if self._is_free(port, key, destination))

    def _is_free(self, port: int, key: object, destination: Address) -> bool:
        """Linux uses a port again for another destination; for a mapping that serves all of them it cannot."""
        same = (key is None or mapping.key in (None, key) for mapping in self._by_port.get(port, []))
        return (port, destination) not in self._taken and not any(same)


def _poisson(mean: float, rng: random.Random) -> int:
    count, left = 0, mean
    while (left := left - rng.expovariate(1.0)) > 0:
        count += 1
    return count


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
    takes_tcp: bool = True  # else a firewall drops what TCP wants of it
    lost_until: tuple[float, str] = (0.0, "")  # until then all is lost that it sends to others than that address


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
        self._network.after(self._network.delay, lambda: self.other._arrive(data))
        self._network.after(2 * self._network.delay, lambda: self._acknowledge(len(data)))

    def _acknowledge(self, length: int) -> None:
        self._in_flight -= length
        if self.is_open:
            self.on_room()

    def close(self) -> None:
        if self.is_open:
            self.is_open = False
            self._network.after(self._network.delay, self.other._end)

    def reset(self) -> None:
        """Somebody between the two breaks it off: both ends see it, and what was on its way is lost."""
        for end in (self, self.other):
            if end.is_open:
                end.is_open = False
                end.on_closed()

    def _arrive(self, data: bytes) -> None:
        if self.is_open:
            self.on_data(data)

    def _end(self) -> None:
        if self.is_open:
            self.is_open = False
            self.on_closed()


class Network:
    """Hosts, routers and the virtual clock that all of them live by."""

    def __init__(self, seed: int = 0, delay: float = LINK_DELAY) -> None:
        self.delay = delay
        self.now = 0.0
        self.rng = random.Random(seed)
        self._queue: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self._opening: dict[tuple[Address, Address], Callable[[TcpPipe | None], None]] = {}
        self._hosts: dict[tuple[str, Nat | None], Host] = {}
        self._nats: dict[tuple[str, Nat | None], Nat] = {}

    def add_host(self, name: str, address: str, nat: Nat | None = None) -> Host:
        host = Host(name, address, nat)
        self._hosts[address, nat] = host
        return host

    def move(self, host: Host, address: str) -> None:
        """The machine has another address, in the same network; what goes to the old one reaches nobody."""
        del self._hosts[host.address, host.nat]
        host.address = address
        self._hosts[address, host.nat] = host

    def add_nat(self, kind: NatKind, address: str, outer: Nat | None = None) -> Nat:
        nat = self._nats[address, outer] = Nat(kind, address, self, outer)
        return nat

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
        until, spared = host.lost_until
        if self.now < until and destination.host != spared:
            return
        impairment = host.impairment
        if self.rng.random() < impairment.loss:
            return
        source = Address(host.address, port)
        copies = 2 if self.rng.random() < impairment.duplicate else 1
        for _ in range(copies):
            delay = self.delay * (4 * self.rng.random() if self.rng.random() < impairment.reorder else 1)
            body = _flip_bit(data, self.rng) if self.rng.random() < impairment.corrupt else data
            self.after(delay, lambda body=body: self._route(host, source, destination, body, ttl))

    def connect(
        self, host: Host, destination: Address, done: Callable[[TcpPipe | None], None], port: int = 50_000
    ) -> None:
        """TCP from `port`: reaches hosts on the same LAN, and public ones. Elsewhere it gets no answer, unless the
        other side opens to us at the same time."""
        source = Address(host.address, port)
        target = self._hosts.get((destination.host, host.nat))
        if target is None and host.nat is not None:
            source = Address(host.nat.address, self._tcp_port(host.nat, port))
            target = self._hosts.get((destination.host, None))
        if target is None and (destination.host, None) in self._nats:
            self._open_from_here(source, destination, done)
        if target is None or not (target.is_up and target.takes_tcp):
            return
        accept = target.tcp.get(destination.port)
        if accept is None:
            self.after(self.delay, lambda: done(None))
            return
        near, far = TcpPipe(self, destination), TcpPipe(self, source)
        near.other, far.other = far, near

        self.after(self.delay, lambda: accept(far))
        self.after(2 * self.delay, lambda: _connected(near, done))

    def _tcp_port(self, nat: Nat, port: int) -> int:
        """TCP is mapped as UDP is, and keeps its port where it has one for all destinations."""
        dependent = nat.kind.mapping is not Behaviour.ENDPOINT_INDEPENDENT
        return self.rng.choice(ALL_PORTS) if dependent else port

    def _open_from_here(self, source: Address, destination: Address, done: Callable[[TcpPipe | None], None]) -> None:
        """A SYN through our NAT. The other one's passes ours from then on, and the system repeats its own."""
        theirs = self._opening.pop((destination, source), None)
        if theirs is None:
            self._opening[source, destination] = done
            return
        near, far = TcpPipe(self, destination), TcpPipe(self, source)
        near.other, far.other = far, near
        self.after(self.delay, lambda: _connected(far, theirs))
        self.after(self.delay, lambda: _connected(near, done))

    def _route(self, host: Host, source: Address, destination: Address, data: bytes, ttl: int) -> None:
        """Outwards through NAT after NAT until somebody there has that address, and inwards again."""
        lan = host.nat
        while True:
            if (neighbour := self._hosts.get((destination.host, lan))) is not None:
                _deliver(neighbour, destination.port, data, source)
                return
            if (router := self._nats.get((destination.host, lan))) is not None:
                self._enter(router, source, destination.port, data)
                return
            if lan is None:
                return
            ttl -= 1
            mapped = lan.outbound(source, destination)
            if mapped is None or (lan.address == destination.host):
                return
            source, lan = mapped, lan.outer
            if lan is None and (ttl := ttl - CORE_HOPS) <= 0:
                return

    def _enter(self, router: Nat, source: Address, port: int, data: bytes) -> None:
        inside = router.inbound(port, source)
        if inside is None:
            return
        if (inner := self._nats.get((inside.host, router))) is not None:
            self._enter(inner, source, inside.port, data)
        elif (host := self._hosts.get((inside.host, router))) is not None:  # it may have another address by now
            _deliver(host, inside.port, data, source)


def _connected(pipe: TcpPipe, done: Callable[[TcpPipe | None], None]) -> None:
    done(pipe)
    if not pipe.is_open:  # it was closed while the answer was under way
        pipe.on_closed()


def _deliver(host: Host, port: int, data: bytes, source: Address) -> None:
    if host.is_up and port in host.udp:
        host.udp[port](data, source)


def _flip_bit(data: bytes, rng: random.Random) -> bytes:
    position = rng.randrange(8 * len(data)) if data else 0
    return bytes(byte ^ (1 << position % 8) if index == position // 8 else byte for index, byte in enumerate(data))
