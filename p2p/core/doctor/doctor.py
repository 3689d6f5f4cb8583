"""The examination: asks the server by UDP and TCP, over both versions of IP, and puts together what comes of it."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from typing import Final, TypeAlias, assert_never

from p2p.core.address import Address
from p2p.core.datagram import MAIN, Buffer, Transmit
from p2p.core.doctor.facts import HTTPS, Facts, Network
from p2p.core.doctor.tcp import TcpTest
from p2p.core.nat.filtering import FilteringFound
from p2p.core.nat.hairpin import HairpinFound
from p2p.core.nat.lifetime import CONTROL_AGE, LifetimeTest
from p2p.core.nat.path_mtu import PathMtuTest
from p2p.core.nat.probe import SCRATCH, NatFound, NatProbe
from p2p.core.portmap.events import BehindAnotherNat, Lost, Mapped, NoMapper
from p2p.core.portmap.events import Event as MapperEvent
from p2p.core.stun.client import Answered, Question, Questions
from p2p.core.transport.lan import Action

DEADLINE: Final = 8.0  # seconds; the slowest, a router that answers no port mapping, is given up after 3.75 s
AGES: Final = (CONTROL_AGE, 5.0, 10.0, 20.0, 30.0, 45.0, 60.0, 90.0, 120.0, 180.0, 300.0)  # of mappings, seconds
LIFETIME_DEADLINE: Final = AGES[-1] + 15.0  # seconds, with --lifetime

# UDP sockets by number; MAIN is asked about, these are fresh.
_SAMPLES: Final = range(1, 1 + SCRATCH)
_MORE_SAMPLES: Final = range(_SAMPLES.stop, _SAMPLES.stop + 8)  # for the block that random ports come from
_FILTERING, _HAIRPIN, _PATH_MTU, _ASKER = range(_MORE_SAMPLES.stop, _MORE_SAMPLES.stop + 4)
MAPPED_SOCKET: Final = _ASKER + 1  # whose port the router is to open
_IDLE: Final = range(MAPPED_SOCKET + 1, MAPPED_SOCKET + 1 + len(AGES))
SOCKETS: Final = _IDLE.start - 1  # beside MAIN
LIFETIME_SOCKETS: Final = _IDLE.stop - 1


class Topic(Enum):
    NAT = "nat"
    FILTERING = "filtering"
    HAIRPIN = "hairpin"
    LIFETIME = "lifetime"
    TCP = "tcp"
    PORT_MAPPER = "port_mapper"
    MTU = "mtu"


@dataclass(frozen=True, slots=True)
class Found:
    """Something that is new in `facts`; `version` of the Internet Protocol where it is about one of them."""

    topic: Topic
    facts: Facts
    version: int | None = None


@dataclass(frozen=True, slots=True)
class Over:
    """All is known that can be, or its time is over."""

    facts: Facts
    seconds: float


Event: TypeAlias = Found | Over


class Doctor:
    """One examination. What it needs from outside: UDP sockets by number, TCP connections, and what a port mapper says
    of the port of MAPPED_SOCKET."""

    def __init__(
        self,
        known: Facts,
        *,
        servers: Sequence[Address],
        stun_servers: Sequence[Address],
        sockets: Mapping[int, int],
        random_bytes: Callable[[int], bytes],
        has_mapper: bool,
        with_lifetime: bool = False,
        deadline: float | None = None,
    ) -> None:
        """`known`: what takes no asking. `servers`: the rendezvous server's addresses, the first of each version is
        asked. `stun_servers` are of IPv4. `sockets`: SOCKETS fresh ones by number, or LIFETIME_SOCKETS, MAIN too, and
        the port that each is bound to; those that could not be opened are missing.
        """
        self._facts = known
        self._sockets = dict(sockets)
        self._random_bytes = random_bytes
        self._has_mapper = has_mapper
        self._with_lifetime = with_lifetime
        self._patience = deadline if deadline is not None else LIFETIME_DEADLINE if with_lifetime else DEADLINE
        self._started = 0.0
        self._deadline: float | None = None
        self._events: deque[Event] = deque()
        self._probes = self._probes_of(servers, stun_servers)
        self._settled: set[int] = set()  # versions whose probes have said all, and whose tests have begun
        self._pending: dict[int, set[Topic]] = {version: set() for version in self._probes}
        self._path_mtu: PathMtuTest | None = None
        self._lifetime: LifetimeTest | None = None
        self._questions = Questions(random_bytes)
        self._proof: Question | None = None  # to come to the port that the router opened
        self._is_over = False
        firsts = [next((each for each in servers if each.version == version), None) for version in (4, 6)]
        asked = [first for first in firsts if first is not None]
        tcp = dict.fromkeys([*asked, *(Address(each.host, HTTPS) for each in asked)])
        self._tcp = TcpTest([address for address in tcp if self._host(address.version) is not None], random_bytes)

    @property
    def reflexive(self) -> str | None:
        """Where the internet sees this machine (IPv4), which a port mapper wants to know."""
        seen = self._facts.v4.reflexive
        return seen[0].host if seen else None

    # commands

    def start(self, now: float) -> None:
        self._started = now
        self._deadline = now + self._patience
        self._tcp.start(now)
        for probe in self._probes.values():
            probe.start(now)
        self._advance(now)

    # input

    def handle_datagram(self, data: Buffer, source: Address, local: int, now: float) -> None:
        for probe in self._probes.values():
            probe.handle_datagram(data, source, local, now)
        for test in (self._path_mtu, self._lifetime, self._questions):
            if test is not None:
                test.handle_datagram(data, source, local, now)
        self._advance(now)

    def handle_connected(self, connection: int, now: float) -> None:
        self._tcp.handle_connected(connection)
        self._advance(now)

    def handle_data(self, connection: int, data: Buffer, now: float) -> None:
        self._tcp.handle_data(connection, data)
        self._advance(now)

    def handle_closed(self, connection: int, now: float, *, refused: bool) -> None:
        self._tcp.handle_closed(connection, refused=refused)
        self._advance(now)

    def handle_mapper(self, event: MapperEvent, now: float) -> None:
        match event:
            case Mapped() | NoMapper() | BehindAnotherNat():
                self._facts = replace(self._facts, mapper=event, proved=None)
                if isinstance(event, Mapped):
                    self._prove(event.external, now)
                if self._proof is None:
                    self._say(Topic.PORT_MAPPER)
            case Lost():
                self._facts = replace(self._facts, mapper=None, proved=None)
            case _:
                assert_never(event)
        self._advance(now)

    def handle_timeout(self, now: float) -> None:
        for machine in self._machines():
            if (at := machine.poll_timeout()) is not None and at <= now:
                machine.handle_timeout(now)
        if self._deadline is not None and self._deadline <= now:
            self._end(now)
        self._advance(now)

    # output

    def poll_transmit(self) -> Transmit | None:
        for machine in (*self._probes.values(), self._path_mtu, self._lifetime, self._questions):
            if machine is not None and (transmit := machine.poll_transmit()) is not None:
                return transmit
        return None

    def poll_tcp_action(self) -> Action | None:
        return self._tcp.poll_action()

    def poll_tcp_output(self) -> tuple[int, list[Buffer]] | None:
        return self._tcp.poll_output()

    def poll_event(self) -> Event | None:
        return self._events.popleft() if self._events else None

    def poll_timeout(self) -> float | None:
        if self._is_over:
            return None
        timeouts = [self._deadline, *(machine.poll_timeout() for machine in self._machines())]
        return min((at for at in timeouts if at is not None), default=None)

    # inside

    def _machines(self) -> list[NatProbe | PathMtuTest | LifetimeTest | Questions | TcpTest]:
        tests = [each for each in (self._path_mtu, self._lifetime) if each is not None]
        return [*self._probes.values(), *tests, self._questions, self._tcp]

    def _host(self, version: int) -> str | None:
        return (self._facts.v4 if version == 4 else self._facts.v6).host

    def _probes_of(self, servers: Sequence[Address], stun_servers: Sequence[Address]) -> dict[int, NatProbe]:
        scratch = {number: self._sockets[number] for number in _SAMPLES if number in self._sockets}
        probes = {}
        for version in (4, 6):
            own = [each for each in servers if each.version == version][:1]
            others = [each for each in stun_servers if each.version == version]
            asked = [*own, *others]
            if asked and self._host(version) is not None:
                first, rest = asked[0], asked[1:]
                probes[version] = NatProbe(first, self._sockets[MAIN], scratch, self._random_bytes, rest)
                self._put(version, replace(self._network(version), asked=True))
        return probes

    def _advance(self, now: float) -> None:
        if self._is_over:
            return
        for version, probe in self._probes.items():
            while (found := probe.poll_event()) is not None:
                match found:
                    case NatFound():
                        self._handle_nat(version, found, now)
                    case FilteringFound(filtering):
                        self._put(version, replace(self._network(version), filtering=filtering))
                        self._finish(version, Topic.FILTERING)
                    case HairpinFound(hairpins):
                        self._put(version, replace(self._network(version), hairpins=hairpins))
                        self._finish(version, Topic.HAIRPIN)
                    case _:
                        assert_never(found)
        self._hear_tests(now)
        if self._is_complete():
            self._end(now)

    def _handle_nat(self, version: int, found: NatFound, now: float) -> None:
        known = self._network(version)
        self._put(version, replace(known, nat=found.report, reflexive=found.reflexive))
        if found.is_settled:  # what is known before that may be taken back
            self._say(Topic.NAT, version)
        if found.is_settled and version not in self._settled:
            self._settled.add(version)
            if found.reflexive:
                self._begin_tests(version, now)
        elif found.is_settled:
            self._pending[version].discard(Topic.NAT)

    def _begin_tests(self, version: int, now: float) -> None:
        probe, network = self._probes[version], self._network(version)
        nat = network.nat
        if _FILTERING in self._sockets:
            self._pending[version].add(Topic.FILTERING)
            probe.measure_filtering(_FILTERING, now)
        if version == 4 and _HAIRPIN in self._sockets and network.translates:
            self._pending[version].add(Topic.HAIRPIN)
            probe.measure_hairpin(_HAIRPIN, now)
        fresh = {number: self._sockets[number] for number in _MORE_SAMPLES if number in self._sockets}
        if nat is not None and network.translates and fresh and not (nat.preserves_ports or nat.stride or nat.ports):
            self._pending[version].add(Topic.NAT)
            probe.refresh(fresh, now)
        endpoint = probe.endpoints[0] if probe.endpoints else None
        if self._path_mtu is None and endpoint is not None and _PATH_MTU in self._sockets:
            self._path_mtu = PathMtuTest(endpoint, _PATH_MTU, self._random_bytes)
            self._path_mtu.start(now)
        if self._with_lifetime and self._lifetime is None and endpoint is not None and _IDLE[-1] in self._sockets:
            ages = dict(zip(_IDLE, AGES, strict=True))
            self._lifetime = LifetimeTest(endpoint, _ASKER, ages, self._random_bytes)
            self._lifetime.start(now)
            self._pending[version].add(Topic.LIFETIME)

    def _hear_tests(self, now: float) -> None:
        if self._path_mtu is not None and (sizes := self._path_mtu.poll_event()) is not None:
            self._facts = replace(self._facts, mtu=sizes.mtu or 0)
            self._say(Topic.MTU)
        if self._lifetime is not None and (lifetime := self._lifetime.poll_event()) is not None:
            version = next(version for version, pending in self._pending.items() if Topic.LIFETIME in pending)
            self._put(version, replace(self._network(version), lifetime=lifetime))
            self._finish(version, Topic.LIFETIME)
        while (tcp := self._tcp.poll_event()) is not None:
            self._facts = replace(self._facts, tcp=(*self._facts.tcp, tcp))
            self._say(Topic.TCP)
        while (result := self._questions.poll_result()) is not None:
            if result.question is self._proof:
                self._proof = None
                arrived = isinstance(result, Answered) and result.local == MAPPED_SOCKET
                self._facts = replace(self._facts, proved=arrived)
                self._say(Topic.PORT_MAPPER)
        if self._proof is None and self._facts.proved is None and isinstance(self._facts.mapper, Mapped):
            self._prove(self._facts.mapper.external, now)

    def _prove(self, external: Address, now: float) -> None:
        """Has the server knock at the port that the router opened: MAPPED_SOCKET has written to nobody."""
        probe = self._probes.get(4)
        if self._facts.server is None or probe is None or not probe.endpoints or external.host != self.reflexive:
            return  # whoever is asked answers to the address that he sees, and other STUN servers do not do that
        server = probe.endpoints[0]
        self._proof = self._questions.ask(server, _ASKER, now, sends=3, response_port=external.port)

    def _is_complete(self) -> bool:
        mapper, seen = self._facts.mapper, self.reflexive
        is_refuted = isinstance(mapper, Mapped) and seen not in (None, mapper.external.host)  # it will say so itself
        waits_for_mapper = self._has_mapper and (mapper is None or is_refuted)
        return not (
            waits_for_mapper
            or self._proof is not None
            or len(self._settled) < len(self._probes)
            or any(self._pending.values())
            or not self._tcp.is_over
            or (self._path_mtu is not None and self._facts.mtu is None)
        )

    def _end(self, now: float) -> None:
        if not self._is_over:
            self._is_over = True
            self._events.append(Over(self._facts, now - self._started))

    def _network(self, version: int) -> Network:
        return self._facts.v4 if version == 4 else self._facts.v6

    def _put(self, version: int, network: Network) -> None:
        self._facts = replace(self._facts, v4=network) if version == 4 else replace(self._facts, v6=network)

    def _finish(self, version: int, topic: Topic) -> None:
        self._pending[version].discard(topic)
        self._say(topic, version)

    def _say(self, topic: Topic, version: int | None = None) -> None:
        self._events.append(Found(topic, self._facts, version))
