"""Samples the NAT before us, and says how it behaves: docs/connecting.md, "What is known beforehand"."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias, assert_never

from p2p.core import nat_report
from p2p.core.address import Address
from p2p.core.datagram import MAIN, Transmit
from p2p.core.errors import CallerError
from p2p.core.nat.endpoints import endpoints_of
from p2p.core.nat.filtering import FilteringFound, FilteringTest
from p2p.core.nat.hairpin import HairpinFound, HairpinTest
from p2p.core.nat.inference import Pool, Sample, mapping_of, new_ports, pool_of, preserves_ports, stride_of
from p2p.core.nat_report import NatReport
from p2p.core.stun.client import Answered, Questions, Refused, Unanswered

# Datagrams of one run, repetitions not counted: as many samples as prediction and port blocks take, and no more than
# a router's table would notice.
MAX_SAMPLES: Final = 12
SCRATCH: Final = 4  # sockets; with two destinations each, eight mappings made one right after the other
MAX_STUN_SERVERS: Final = 4  # of others: each is one datagram, and two of them say what there is to say
MAX_KEPT: Final = 256  # samples; a run that waits for days may be refreshed for every friend that comes
FIRST_SENDS: Final = 4  # times that the first request goes out: at 0, 0.25, 0.75 and 1.75 s
NO_UDP_AFTER: Final = 2.5  # seconds without any answer
SENDS: Final = 3  # of all others: at 0, 1 and 3 RTO
PATIENCE: Final = 3  # RTOs, 0.3 s to 1.5 s, after which the report does not wait for an answer any more


@dataclass(frozen=True, slots=True)
class NatFound:
    """What is known now. It comes again whenever more is known.

    `reflexive`: our main socket as others see it, each address once, that of the server's first port before others.
    `is_settled`: every answer is here, or late; a description is not to wait any longer. `pool` has the probability
    that the ports of `report` are chance.
    """

    report: NatReport
    reflexive: tuple[Address, ...]
    is_settled: bool
    pool: Pool | None = None


NatEvent: TypeAlias = NatFound | FilteringFound | HairpinFound


class NatProbe:
    """Asks every endpoint of the server from the main socket, then, where ports depend on it, from scratch sockets.

    1. MAIN to `server`, whose answer names its endpoints, and to `stun_servers`; 2. MAIN to the other endpoints, one
    scratch socket to the first; 3. if what they see differs, all scratch sockets in one burst, so that nearly nothing
    comes between their mappings.
    A NAT that does not look at the destination costs 5 datagrams (3 with one address), any other 12.
    """

    def __init__(
        self,
        server: Address,
        main_port: int,
        scratch: Mapping[int, int],
        random_bytes: Callable[[int], bytes],
        stun_servers: Sequence[Address] = (),
    ) -> None:
        """`scratch`: numbers of fresh sockets, and the port that each is bound to; SCRATCH of them are used.

        `server` is the rendezvous server's first port; `stun_servers` are of others, and of the same IP version.
        """
        self._server = server
        self._stun_servers = tuple(stun_servers)[:MAX_STUN_SERVERS]
        self._ports = {MAIN: main_port, **scratch}
        self._scratch = list(scratch)[:SCRATCH]
        self._questions = Questions(random_bytes)
        self._random_bytes = random_bytes
        self._samples: list[Sample] = []
        self._events: deque[NatEvent] = deque()
        self._awaited: dict[int, float] = {}  # questions that the report waits for, and until when
        self._endpoints: tuple[Address, ...] = ()
        self._asked: set[tuple[int, Address]] = set()
        self._generation_start = 0  # number of the first question since the last refresh
        self._no_udp_at: float | None = None
        self._said: NatFound | None = None
        self._is_started = False
        self._is_silent = False
        self._tests: list[FilteringTest | HairpinTest] = []

    @property
    def endpoints(self) -> tuple[Address, ...]:
        """The server's, as far as it told them: the one that was asked, its other port, those of its other host."""
        return self._endpoints

    # commands

    def start(self, now: float) -> None:
        """Raises CallerError the second time."""
        if self._is_started:
            raise CallerError("the NAT probe was started before")
        self._is_started = True
        self._no_udp_at = now + NO_UDP_AFTER
        self._ask(self._server, MAIN, now, sends=FIRST_SENDS)
        for other in self._stun_servers:
            self._ask(other, MAIN, now, has_room=False)

    def refresh(self, scratch: Mapping[int, int], now: float) -> None:
        """Takes new samples from fresh sockets, for a friend has come: ports have been given to others meanwhile.

        NatFound follows, settled within a round trip.
        """
        if not self._endpoints:
            return  # nothing is known that could be old
        self._ports |= scratch
        self._generation_start = self._questions.asked
        for local in list(scratch)[:MAX_SAMPLES]:
            self._ask(self._endpoints[0], local, now)
        self._tell()

    def measure_filtering(self, local: int, now: float) -> None:
        """Finds out whom a mapping lets in, with the fresh socket of that number. FilteringFound follows within 4 s."""
        self._add_test(FilteringTest(self._endpoints, local, self._random_bytes), now)

    def measure_hairpin(self, local: int, now: float) -> None:
        """Finds out whether the NAT turns back what goes to its own external address. HairpinFound follows within
        2 s."""
        reflexive = self._reflexive()
        self._add_test(HairpinTest(reflexive[0] if reflexive else None, local, self._random_bytes), now)

    # input

    def handle_datagram(
        self, data: bytes | bytearray | memoryview, source: Address, local: int, now: float
    ) -> None:
        self._questions.handle_datagram(data, source, local, now)
        for test in self._tests:
            test.handle_datagram(data, source, local, now)
        self._advance(now)

    def handle_timeout(self, now: float) -> None:
        self._questions.handle_timeout(now)
        for test in self._tests:
            test.handle_timeout(now)
        if self._no_udp_at is not None and self._no_udp_at <= now:
            self._no_udp_at = None
            self._is_silent = True
        self._advance(now)

    # output

    def poll_transmit(self) -> Transmit | None:
        for machine in (self._questions, *self._tests):
            if (transmit := machine.poll_transmit()) is not None:
                return transmit
        return None

    def poll_event(self) -> NatEvent | None:
        return self._events.popleft() if self._events else None

    def poll_timeout(self) -> float | None:
        timeouts = [machine.poll_timeout() for machine in (self._questions, *self._tests)]
        timeouts += [self._no_udp_at, min(self._awaited.values(), default=None)]
        return min((at for at in timeouts if at is not None), default=None)

    # inside

    def _advance(self, now: float) -> None:
        while (result := self._questions.poll_result()) is not None:
            match result:
                case Answered():
                    self._handle_answer(result, now)
                case Refused(question, _) | Unanswered(question):
                    self._awaited.pop(question.number, None)
                case _:
                    assert_never(result)
        for number in [number for number, until in self._awaited.items() if until <= now]:
            del self._awaited[number]
        for test in list(self._tests):
            if (found := test.poll_event()) is not None:
                self._events.append(found)
                self._tests.remove(test)
        self._tell()

    def _handle_answer(self, answer: Answered, now: float) -> None:
        question = answer.question
        self._awaited.pop(question.number, None)
        self._no_udp_at = None
        if len(self._samples) >= MAX_KEPT:
            self._samples.remove(next(sample for sample in self._samples if sample.local != MAIN))
        self._samples.append(
            Sample(
                question.number,
                question.local,
                self._ports[question.local],
                question.destination,
                answer.mapped,
                is_in_order=answer.is_first,
            )
        )
        if question.destination == self._server and not self._endpoints:
            self._endpoints = endpoints_of(answer)
            for endpoint in self._endpoints[1:]:
                self._ask(endpoint, MAIN, now)
            for local in self._scratch[:1]:
                self._ask(self._server, local, now)
        if self._endpoints and _depends(mapping_of(self._samples)):
            self._sample_in_order(now)

    def _sample_in_order(self, now: float) -> None:
        """Every scratch socket to one address and then to another (of one address, to the other port), once."""
        hosts = {endpoint.host for endpoint in self._endpoints}
        first = self._endpoints[0]
        others = [e for e in self._endpoints if (e.host != first.host if len(hosts) > 1 else e != first)]
        for destination in (first, *others[:1]):
            for local in self._scratch:
                if len(self._asked) < MAX_SAMPLES and (local, destination) not in self._asked:
                    self._ask(destination, local, now)

    def _ask(self, destination: Address, local: int, now: float, *, sends: int = SENDS, has_room: bool = True) -> None:
        if len(self._asked) < MAX_SAMPLES:  # no burst looks at it any more then
            self._asked.add((local, destination))
        question = self._questions.ask(destination, local, now, sends=sends, has_room=has_room)
        if destination == self._server and local == MAIN:
            self._awaited[question.number] = now + NO_UDP_AFTER
        else:
            self._awaited[question.number] = now + PATIENCE * self._questions.rto

    def _tell(self) -> None:
        if not self._is_started:
            return
        reflexive = self._reflexive()
        if not reflexive and not self._is_silent:
            return
        is_settled = not self._awaited and (self._is_silent or bool(self._samples))
        report, pool = self._infer()
        found = NatFound(report, reflexive, is_settled, pool)
        if found != self._said:
            self._said = found
            self._events.append(found)

    def _infer(self) -> tuple[NatReport, Pool | None]:
        if not self._samples:
            return NatReport(nat_report.Mapping.NO_UDP), None
        mapping = mapping_of(self._samples)
        recent = new_ports(sample for sample in self._samples if sample.number >= self._generation_start)
        ports = new_ports(self._samples)
        preserves = preserves_ports(self._samples)
        repeated = [sample.mapped.port for sample in self._samples if not sample.is_in_order]
        stride = stride_of(recent, repeated) if _depends(mapping) and not preserves else 0
        if not stride and _depends(mapping) and not preserves and len(recent) < len(ports):
            stride = stride_of(ports, repeated)
        pool = None if stride or preserves else pool_of(ports)
        newest = (recent or ports or [0])[-1]
        return NatReport(mapping, preserves, stride, pool.ports if pool else range(0), newest), pool

    def _reflexive(self) -> tuple[Address, ...]:
        order = [self._server, *self._endpoints]
        mine = sorted(
            (sample for sample in self._samples if sample.local == MAIN),
            key=lambda sample: order.index(sample.destination) if sample.destination in order else len(order),
        )
        return tuple(dict.fromkeys(sample.mapped for sample in mine))

    def _add_test(self, test: FilteringTest | HairpinTest, now: float) -> None:
        self._tests.append(test)
        test.start(now)
        self._advance(now)


def _depends(mapping: nat_report.Mapping) -> bool:
    return NatReport(mapping).is_dependent
