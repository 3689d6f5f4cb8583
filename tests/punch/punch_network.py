"""An internet in memory: hosts with punch agents, NATs in RFC 4787's words, a seeded lossy core, a virtual clock.

host ── NAT ──┐
              core (delay, loss, duplication, reordering)
host ── NAT ──┘
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field, replace

from p2p.core.address import Address
from p2p.core.datagram import MAIN
from p2p.core.nat_report import NatReport
from p2p.core.punch.agent import Opened, PunchAgent, PunchFailed, Selected
from p2p.core.punch.description import Candidate, Description, Kind
from p2p.core.punch.events import PunchEvent

Key = Callable[[Address], Hashable]

# RFC 4787 sections 4.1 and 5: what part of the remote address a mapping, or a filter, depends on.
INDEPENDENT: Key = lambda remote: None  # noqa: E731, ARG005
ADDRESS: Key = lambda remote: remote.host  # noqa: E731
ADDRESS_AND_PORT: Key = lambda remote: remote  # noqa: E731

SERVER = Address("198.51.100.1", 8080)
KEYS = {True: bytes(32), False: bytes([1]) * 32}


@dataclass
class Nat:
    public: str
    mapping: Key
    filtering: Key
    next_port: int = 40000
    ports: dict[Hashable, int] = field(default_factory=dict)
    inside: dict[int, Address] = field(default_factory=dict)
    allowed: set[tuple[int, Hashable]] = field(default_factory=set)

    def outbound(self, source: Address, destination: Address) -> Address:
        key = (source, self.mapping(destination))
        if key not in self.ports:
            self.next_port += 7
            self.ports[key] = self.next_port
            self.inside[self.next_port] = source
        port = self.ports[key]
        self.allowed.add((port, self.filtering(destination)))
        return Address(self.public, port)

    def inbound(self, source: Address, port: int) -> Address | None:
        return self.inside.get(port) if (port, self.filtering(source)) in self.allowed else None


PROFILES: dict[str, tuple[Key, Key] | None] = {
    "none": None,
    "full cone": (INDEPENDENT, INDEPENDENT),
    "address-restricted": (INDEPENDENT, ADDRESS),
    "port-restricted": (INDEPENDENT, ADDRESS_AND_PORT),
    "symmetric": (ADDRESS_AND_PORT, ADDRESS_AND_PORT),
}


class Host:
    def __init__(self, name: str, number: int, profile: str) -> None:
        self.name = name
        self.controlling = number == 1
        keys = PROFILES[profile]
        public = f"203.0.113.{number}"
        self.nat = None if keys is None else Nat(public, *keys)
        self.address = Address(public if self.nat is None else "192.168.1.10", 5000)
        reflexive = self.address if self.nat is None else self.nat.outbound(self.address, SERVER)
        self.candidates = [Candidate(Kind.HOST, self.address)]
        if self.nat is not None:
            self.candidates.append(Candidate(Kind.SERVER_REFLEXIVE, reflexive))
        self.description = Description(NatReport(), tuple(self.candidates))
        self.agent: PunchAgent
        self.events: list[tuple[float, PunchEvent]] = []
        self.sent: list[tuple[float, Address, bytes]] = []

    @property
    def selected(self) -> Selected | None:
        return next((event for _, event in self.events if isinstance(event, Selected)), None)

    @property
    def failed_at(self) -> float | None:
        return next((at for at, event in self.events if isinstance(event, PunchFailed)), None)


class Network:
    def __init__(
        self, left: str, right: str, *, seed: int = 1, loss: float = 0.0, duplicate: float = 0.0, jitter: float = 0.0
    ) -> None:
        self.random = random.Random(seed)
        self.loss, self.duplicate, self.jitter = loss, duplicate, jitter
        self.now = 0.0
        self.hosts = (Host("left", 1, left), Host("right", 2, right))
        self.flying: list[tuple[float, int, bytes, Address, Address]] = []
        self.signals: list[tuple[float, int, Host]] = []
        self.count = 0
        self.taps: list[Callable[[bytes, Address, Address], None]] = []
        for host, other in (self.hosts, self.hosts[::-1]):
            host.agent = PunchAgent(
                host.controlling,
                KEYS[host.controlling],
                KEYS[not host.controlling],
                host.description,
                other.description,
                self.random.randbytes,
            )

    def start(self, head_start: float = 0.03) -> None:
        """The left agent starts, and the right one `head_start` seconds later."""
        left, right = self.hosts
        left.agent.start(self.now)
        self.run(self.now + head_start)
        right.agent.start(self.now)

    def run(self, until: float) -> None:
        while True:
            for host in self.hosts:
                while (transmit := host.agent.poll_transmit()) is not None:
                    data = b"".join(transmit.buffers)
                    if transmit.ttl is None:  # an opener dies in the core, behind our NAT
                        host.sent.append((self.now, transmit.destination, data))
                        self._send(host, transmit.destination, data)
                    elif host.nat is not None:
                        host.nat.outbound(host.address, transmit.destination)
                while (event := host.agent.poll_event()) is not None:
                    if isinstance(event, Opened):
                        self._signal(host)
                    else:
                        host.events.append((self.now, event))
            timeouts = [(host.agent.poll_timeout(), host) for host in self.hosts]
            times = [at for at, _ in timeouts if at is not None]
            times += [flight[0] for flight in (*self.flying[:1], *self.signals[:1])]
            if not times or min(times) > until:
                self.now = until
                return
            self.now = max(self.now, min(times))
            if self.signals and self.signals[0][0] <= self.now:
                _, _, told = heapq.heappop(self.signals)
                told.agent.update(told.description, self.hosts[told.controlling].description, self.now)
            elif self.flying and self.flying[0][0] <= self.now:
                _, _, data, source, destination = heapq.heappop(self.flying)
                self._deliver(data, source, destination)
            else:
                for at, host in timeouts:
                    if at is not None and at <= self.now:
                        host.agent.handle_timeout(self.now)

    def _signal(self, host: Host) -> None:
        """Over the server, which is as far away as the other peer."""
        host.description = replace(host.description, has_opened=True)
        other = self.hosts[host.controlling]
        self.count += 1
        heapq.heappush(self.signals, (self.now + 0.04, self.count, other))

    def inject(self, data: bytes, source: Address, destination: Address) -> None:
        """A datagram of somebody else, with whatever source address he likes."""
        self._fly(data, source, destination)

    def _send(self, host: Host, destination: Address, data: bytes) -> None:
        if destination.host.startswith("192.168.") and host.nat is not None:
            return  # an address of its own LAN, where nobody listens
        source = host.address if host.nat is None else host.nat.outbound(host.address, destination)
        copies = 1 + (self.random.random() < self.duplicate)
        for _ in range(copies):
            if self.random.random() >= self.loss:
                self._fly(data, source, destination)
        for tap in self.taps:
            tap(data, source, destination)

    def _fly(self, data: bytes, source: Address, destination: Address) -> None:
        self.count += 1
        at = self.now + 0.02 + self.random.random() * self.jitter
        heapq.heappush(self.flying, (at, self.count, data, source, destination))

    def _deliver(self, data: bytes, source: Address, destination: Address) -> None:
        for host in self.hosts:
            if host.nat is None:
                inside = host.address if destination == host.address else None
            elif destination.host == host.nat.public:
                inside = host.nat.inbound(source, destination.port)
            else:
                inside = None
            if inside == host.address:
                host.agent.handle_datagram(data, source, MAIN, self.now)
