"""Two agents behind the NATs of tests/sim/network.py; what each says of itself goes over a server to the other.

alice ── NAT ──┐
              core ── server
  bob ── NAT ──┘
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from sim.network import APDF, EIM, NAT_KINDS, TTL, Host, Impairment, Nat, NatKind, Network

from p2p.core.address import Address
from p2p.core.datagram import MAIN
from p2p.core.nat_report import Mapping, NatReport
from p2p.core.punch.agent import PunchAgent
from p2p.core.punch.description import Candidate, Description, Kind
from p2p.core.punch.events import CloseSockets, Opened, OpenSockets, PunchEvent, PunchFailed, Selected

SERVER = Address("203.0.113.1", 8080)
FIRST_PORT = 20_000
KEYS = {True: bytes(32), False: bytes([1]) * 32}
SIGNAL_DELAY = 0.020  # seconds over the server


@dataclass
class Peer:
    host: Host
    nat: Nat | None
    controlling: bool
    description: Description
    agent: PunchAgent
    sockets: set[int] = field(default_factory=lambda: {MAIN})
    most_sockets: int = 1
    events: list[tuple[float, PunchEvent]] = field(default_factory=list)
    sent: list[tuple[float, int, Address, int | None]] = field(default_factory=list)
    started: float | None = None
    wake: float | None = None

    @property
    def selected(self) -> list[Selected]:
        return [event for _, event in self.events if isinstance(event, Selected)]

    @property
    def direct_at(self) -> float | None:
        """When a direct path was selected, counted from the start."""
        return next((at for at, e in self.events if isinstance(e, Selected) and e.kind is not Kind.RELAYED), None)

    @property
    def has_failed(self) -> bool:
        return any(isinstance(event, PunchFailed) for _, event in self.events)


def report(kind: NatKind | None, newest: int) -> NatReport:
    """What perfect measurements say."""
    if kind is None:
        return NatReport(Mapping.ENDPOINT_INDEPENDENT, preserves_ports=True)
    if kind.udp_blocked:
        return NatReport(Mapping.NO_UDP)
    small = kind.ports if len(kind.ports) < 60_000 else range(0)
    mapping = {EIM: Mapping.ENDPOINT_INDEPENDENT, APDF: Mapping.ADDRESS_AND_PORT_DEPENDENT}
    return NatReport(mapping.get(kind.mapping, Mapping.ADDRESS_DEPENDENT), kind.preserves, kind.stride, small, newest)


class PunchWorld:
    """`foreign`: flows a second of others behind each NAT. `carrier`: a NAT in front of each side's."""

    def __init__(
        self,
        left: str,
        right: str,
        seed: int = 0,
        *,
        foreign: float = 0.0,
        loss: float = 0.0,
        carrier: NatKind | None = None,
        kinds: dict[str, NatKind | None] = NAT_KINDS,
        signals: bool = True,
    ) -> None:
        self.network = Network(seed)
        self.signals = signals
        self.network.add_host("server", SERVER.host)
        parts = []
        for number, name in enumerate((left, right), 1):
            kind, public = kinds[name], f"198.51.100.{number}"
            if kind is None:
                host = self.network.add_host(f"host{number}", public)
                nat = None
            else:
                outer = self.network.add_nat(carrier, public) if carrier else None
                nat = self.network.add_nat(kind, f"100.64.{number}.1" if outer else public, outer)
                nat.foreign = foreign
                host = self.network.add_host(f"host{number}", f"192.168.{number}.2", nat)
            host.impairment = Impairment(loss=loss)
            parts.append((host, nat, self._describe(host, nat)))
        (_, _, ours), (_, _, theirs) = parts
        self.peers: list[Peer] = []
        for (host, nat, description), other, controlling in zip(parts, (theirs, ours), (True, False), strict=True):
            keys = KEYS[controlling], KEYS[not controlling]
            agent = PunchAgent(controlling, *keys, description, other, self.network.rng.randbytes)
            self.peers.append(Peer(host, nat, controlling, description, agent))
        for peer in self.peers:
            self._listen(peer, MAIN)

    def _describe(self, host: Host, nat: Nat | None) -> Description:
        own = Address(host.address, FIRST_PORT)
        candidates = [Candidate(Kind.HOST, own)]
        if nat is None:
            return Description(report(None, own.port), tuple(candidates))
        if nat.kind.udp_blocked:
            return Description(report(nat.kind, 0), tuple(candidates))
        seen = own
        for port in (SERVER.port, SERVER.port + 1):
            seen, at = own, nat
            while at is not None:
                mapped = at.outbound(seen, SERVER._replace(port=port))
                assert mapped is not None
                seen, at = mapped, at.outer
        candidates.append(Candidate(Kind.SERVER_REFLEXIVE, seen))
        outermost = nat.outer or nat
        told = outermost if outermost.kind.mapping is not EIM else nat
        return Description(report(told.kind, told.newest), tuple(candidates))

    def start(self, skew: float = 0.0) -> None:
        """The controlling agent starts, and the other one `skew` seconds later (or before)."""
        first, second = self.peers if skew >= 0 else self.peers[::-1]
        self._start(first)
        self.network.after(abs(skew), lambda: self._start(second))

    def relay(self, after: float) -> None:
        """The server forwards from then on: each side's main socket reaches the other's by the server's address."""
        for peer in self.peers:
            self.network.after(after, lambda peer=peer: self._relayed(peer))

    def run(self, limit: float = 30.0) -> bool:
        """Lets time pass until both have a direct path; False when that does not come."""
        try:
            self.network.run(lambda: all(peer.direct_at is not None for peer in self.peers), limit)
        except TimeoutError:
            return False
        return True

    def rest(self, seconds: float) -> None:
        end = self.network.now + seconds
        self.network.after(seconds, lambda: None)
        self.network.run(lambda: self.network.now >= end, seconds)

    def _start(self, peer: Peer) -> None:
        peer.started = self.network.now
        peer.agent.start(self.network.now)
        self._pump(peer)

    def _relayed(self, peer: Peer) -> None:
        peer.agent.relay(MAIN, SERVER, self.network.now)
        self._pump(peer)

    def _listen(self, peer: Peer, number: int) -> None:
        def receive(data: bytes, source: Address) -> None:
            peer.agent.handle_datagram(data, source, number, self.network.now)
            self._pump(peer)

        peer.host.udp[FIRST_PORT + number] = receive

    def _pump(self, peer: Peer) -> None:
        now = self.network.now
        while (action := peer.agent.poll_action()) is not None:
            match action:
                case OpenSockets(first, count):
                    for number in range(first, first + count):
                        peer.sockets.add(number)
                        self._listen(peer, number)
                    peer.most_sockets = max(peer.most_sockets, len(peer.sockets))
                case CloseSockets(numbers):
                    for number in numbers:
                        peer.sockets.remove(number)
                        del peer.host.udp[FIRST_PORT + number]
        while (transmit := peer.agent.poll_transmit()) is not None:
            assert transmit.local in peer.sockets
            peer.sent.append((now, transmit.local, transmit.destination, transmit.ttl))
            self._send(peer, transmit.local, transmit.destination, b"".join(transmit.buffers), transmit.ttl or TTL)
        while (event := peer.agent.poll_event()) is not None:
            if isinstance(event, Opened):
                self._opened(peer)
            peer.events.append((now - (peer.started or 0.0), event))
        if (at := peer.agent.poll_timeout()) is not None and (peer.wake is None or peer.wake > at or peer.wake <= now):
            peer.wake = max(at, now)
            self.network.after(peer.wake - now, lambda: self._wake(peer))

    def _wake(self, peer: Peer) -> None:
        at = peer.agent.poll_timeout()
        if at is not None and at <= self.network.now + 1e-9:
            peer.agent.handle_timeout(self.network.now + 1e-9)
        peer.wake = None
        self._pump(peer)

    def _send(self, peer: Peer, local: int, destination: Address, data: bytes, ttl: int) -> None:
        if destination == SERVER:
            other = self.peers[peer.controlling]
            self.network.after(2 * SIGNAL_DELAY, lambda: self._forwarded(other, data))
        else:
            self.network.send(peer.host, FIRST_PORT + local, destination, data, ttl)

    def _forwarded(self, peer: Peer, data: bytes) -> None:
        peer.agent.handle_datagram(data, SERVER, MAIN, self.network.now)
        self._pump(peer)

    def _opened(self, peer: Peer) -> None:
        peer.description = replace(peer.description, has_opened=True)
        if self.signals:
            self.tell(peer)

    def tell(self, peer: Peer) -> None:
        """The other side hears, over the server, what this one says of itself now."""
        other = self.peers[peer.controlling]

        def told() -> None:
            other.agent.update(other.description, peer.description, self.network.now)
            self._pump(other)

        self.network.after(2 * SIGNAL_DELAY, told)
