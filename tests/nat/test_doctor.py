"""The examination in virtual time, against a real StunServer behind the NATs of tests/nat/nat_world.py."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace

import pytest
from nat_world import (
    HERE,
    ONE_HOST,
    OUTSIDE,
    SERVER,
    STUN,
    TWO_HOSTS,
    Behaviour,
    World,
    counted,
    preserved,
    random_ports,
)

from p2p.core.address import Address
from p2p.core.datagram import MAIN, Transmit
from p2p.core.doctor import words
from p2p.core.doctor.doctor import (
    DEADLINE,
    LIFETIME_SOCKETS,
    MAPPED_SOCKET,
    SOCKETS,
    Doctor,
    Event,
    Found,
    Over,
    Topic,
)
from p2p.core.doctor.facts import Facts, Network, Upstream
from p2p.core.doctor.tcp import TcpOutcome
from p2p.core.nat.filtering import Filtering
from p2p.core.nat.path_mtu import OVERHEAD, PathMtuFound, PathMtuTest
from p2p.core.nat_report import Mapping
from p2p.core.peer.outlook import Ease, Reach
from p2p.core.portmap.events import BehindAnotherNat, Lost, Mapped, NoMapper, Protocol
from p2p.core.rendezvous.frames import FrameReader, frame
from p2p.core.rendezvous.messages import Cookie, Hello, decode, encode
from p2p.core.transport.lan import Connect

STRICT, OPEN = Filtering.ADDRESS_AND_PORT_DEPENDENT, Filtering.ENDPOINT_INDEPENDENT
SYMMETRIC = Mapping.ADDRESS_AND_PORT_DEPENDENT
BLOCK = range(10240, 11264)
NOBODY = NoMapper(tuple((protocol, "no answer") for protocol in Protocol))
FAST = 6.0  # seconds in which all has to be known on a network that lets UDP through

Answer = Callable[[Doctor, int, Address, float], None]


class Network1420(World):
    """Drops what is larger than the path, and whatever comes before it is there."""

    mtu = 1420
    begins_at = 0.0

    def _send(self, machine, transmit: Transmit) -> None:
        size = sum(map(len, transmit.buffers)) + OVERHEAD[transmit.destination.version]
        if size <= self.mtu and self.now >= self.begins_at:
            super()._send(machine, transmit)


def answered(doctor: Doctor, number: int, _address: Address, now: float) -> None:
    doctor.handle_connected(number, now)
    output = doctor.poll_tcp_output()
    assert output is not None
    assert output[0] == number
    (hello,) = [decode(each) for buffer in output[1] for each in FrameReader().feed(buffer)]
    assert isinstance(hello, Hello)
    cookie = Cookie(hello.transaction, bytes(16), Address(OUTSIDE, 1))
    whole = frame(encode(cookie))
    doctor.handle_data(number, whole[:9], now)
    doctor.handle_data(number, whole[9:], now)


def refused(doctor: Doctor, number: int, _address: Address, now: float) -> None:
    doctor.handle_closed(number, now, refused=True)


def stranger(doctor: Doctor, number: int, _address: Address, now: float) -> None:
    doctor.handle_connected(number, now)
    doctor.handle_data(number, b"HTTP/1.1 400 Bad Request\r\n\r\n", now)


def replayed(doctor: Doctor, number: int, _address: Address, now: float) -> None:
    """A rendezvous server's words that are no answer to ours."""
    doctor.handle_connected(number, now)
    cookie = Cookie(bytes(8), bytes(16), Address(OUTSIDE, 1))
    doctor.handle_data(number, frame(encode(cookie)), now)


def silent(_doctor: Doctor, _number: int, _address: Address, _now: float) -> None:
    """A firewall that drops the SYN."""


def only_443(doctor: Doctor, number: int, address: Address, now: float) -> None:
    (answered if address.port == 443 else silent)(doctor, number, address, now)


def doctor_in(world: World, *, server: Address | None = SERVER, stun: tuple[Address, ...] = (), **more) -> Doctor:
    count = LIFETIME_SOCKETS if more.get("with_lifetime") else SOCKETS
    return Doctor(
        Facts(server=server, v4=Network(HERE)),
        servers=[] if server is None else [server],
        stun_servers=stun,
        sockets={number: world.ports[number] for number in range(MAIN, count + 1)},
        random_bytes=random.Random(7).randbytes,
        **{"has_mapper": True} | more,
    )


def examine(world: World, doctor: Doctor, *mapper: object, tcp: Answer = answered) -> tuple[Over, list[Event]]:
    """Its end, and all it said. `mapper`: what the router says, as soon as it knows how others see us."""
    doctor.start(world.now)
    while (action := doctor.poll_tcp_action()) is not None:
        if isinstance(action, Connect):
            assert not action.from_listener
            tcp(doctor, action.connection, action.address, world.now)
    for said in mapper:
        doctor.handle_mapper(said, world.now)
    events = world.until(doctor, lambda event: isinstance(event, Over))
    assert doctor.poll_timeout() is None
    over = events[-1]
    assert isinstance(over, Over)
    return over, events


@pytest.mark.parametrize(
    ("behaviour", "ease"),
    [
        (Behaviour(), Ease.EASY),
        (Behaviour(filtering=OPEN), Ease.OPEN),
        (Behaviour(filtering=Filtering.ADDRESS_DEPENDENT), Ease.LENIENT),
        (Behaviour(SYMMETRIC, allocate=counted(4)), Ease.COUNTING),
        (Behaviour(SYMMETRIC, allocate=random_ports(range(1024, 65536))), Ease.RANDOM),
        (Behaviour(SYMMETRIC, allocate=random_ports(BLOCK)), Ease.POOL),
        (Behaviour(allocate=random_ports(BLOCK), hairpins=True), Ease.EASY),
    ],
)
def test_the_facts_are_those_of_the_nat(behaviour: Behaviour, ease: Ease) -> None:
    world = World(behaviour)
    over, events = examine(world, doctor_in(world), NOBODY)
    nat = over.facts.v4.nat
    assert nat is not None
    assert nat.mapping is behaviour.mapping
    assert nat.preserves_ports is (behaviour.allocate is preserved)
    assert over.facts.v4.filtering is behaviour.filtering
    assert over.facts.v4.hairpins is behaviour.hairpins
    assert (over.facts.upstream is Upstream.LIKELY_CARRIER) is (nat.ports == BLOCK)
    assert (nat.ports == BLOCK) is (ease is Ease.POOL or behaviour.hairpins)
    assert over.facts.ease is ease
    assert over.facts.mtu == 1500
    assert over.facts.tcp_ports(4) == {443, 8080}
    assert {event.topic for event in events if isinstance(event, Found)} == set(Topic) - {Topic.LIFETIME}
    assert over.seconds < FAST


def test_with_one_address_of_the_server_the_doubt_is_told() -> None:
    world = World(Behaviour(filtering=OPEN), ONE_HOST)
    facts = examine(world, doctor_in(world), NOBODY)[0].facts
    assert facts.ease is Ease.LENIENT
    rows = dict(words.rows(facts))
    assert "as far as a server with one address can tell" in rows["Ports"]
    assert "one address cannot tell" in rows["Who gets in"]


@pytest.mark.parametrize("loss", [0.1, 0.3])
def test_losses_cost_time_and_no_facts(loss: float) -> None:
    right = 0
    for seed in range(20):
        world = World(Behaviour(SYMMETRIC, allocate=counted(1)), seed=seed, loss=loss, delay=0.05)
        over, _ = examine(world, doctor_in(world), NOBODY)
        assert over.seconds <= DEADLINE
        right += over.facts.ease is Ease.COUNTING
    assert right >= 18


@pytest.mark.parametrize(
    ("tcp", "ease", "outcomes"),
    [
        (answered, Ease.BLOCKED, {8080: TcpOutcome.ANSWERED, 443: TcpOutcome.ANSWERED}),
        (only_443, Ease.CAGED, {8080: TcpOutcome.SILENT, 443: TcpOutcome.ANSWERED}),
        (refused, Ease.UNKNOWN, {8080: TcpOutcome.REFUSED, 443: TcpOutcome.REFUSED}),
        (stranger, Ease.UNKNOWN, {8080: TcpOutcome.STRANGER, 443: TcpOutcome.STRANGER}),
        (replayed, Ease.UNKNOWN, {8080: TcpOutcome.STRANGER, 443: TcpOutcome.STRANGER}),
        (silent, Ease.UNKNOWN, {8080: TcpOutcome.SILENT, 443: TcpOutcome.SILENT}),
    ],
)
def test_without_udp_it_is_tcp_that_tells(tcp: Answer, ease: Ease, outcomes: dict[int, TcpOutcome]) -> None:
    world = World(Behaviour(blocked=True))
    over, _ = examine(world, doctor_in(world), NOBODY, tcp=tcp)
    assert {each.address.port: each.outcome for each in over.facts.tcp} == outcomes
    assert over.facts.ease is ease
    assert over.facts.is_answered is over.facts.is_udp_blocked is (ease is not Ease.UNKNOWN)
    assert over.seconds < FAST


@pytest.mark.parametrize("leads_to", [MAPPED_SOCKET, MAIN, None])
def test_a_port_that_the_router_opened_is_tried_by_a_stranger(leads_to: int | None) -> None:
    leads_to_us = leads_to == MAPPED_SOCKET
    world = World(Behaviour(SYMMETRIC, allocate=random_ports(range(2000, 65536))))
    external = Address(OUTSIDE, 1234)
    if leads_to is not None:  # the server has been written to by no mapping of that port
        world.router.internal[external.port] = (world.ports[leads_to], {SERVER}, [world.now])
    over, events = examine(world, doctor_in(world), Mapped(external, Protocol.UPNP, 60))
    assert over.facts.proved is leads_to_us
    assert over.facts.ease is (Ease.OPEN if leads_to_us else Ease.RANDOM)
    assert {reach for _, reach in over.facts.table} >= {Reach.DIRECT}
    last = [event for event in events if isinstance(event, Found) and event.topic is Topic.PORT_MAPPER][-1]
    assert last.facts.proved is leads_to_us
    assert over.seconds < FAST


def test_a_mapping_at_another_address_waits_for_what_the_router_says_then() -> None:
    world = World(Behaviour())
    doctor = doctor_in(world)
    doctor.start(world.now)
    doctor.handle_mapper(Mapped(Address("10.0.0.5", 1234), Protocol.PCP, 60), world.now)
    events = world.run(doctor, 5.0)
    assert not any(isinstance(event, Over) for event in events)
    assert doctor.reflexive == OUTSIDE
    doctor.handle_mapper(Lost("its external address is another"), world.now)
    doctor.handle_mapper(BehindAnotherNat(Protocol.PCP, "10.0.0.5", None), world.now)
    over = world.until(doctor, lambda event: isinstance(event, Over))[-1]
    assert isinstance(over, Over)
    assert over.facts.upstream is Upstream.ANOTHER


def test_a_router_that_says_nothing_is_waited_for_until_the_deadline() -> None:
    world = World(Behaviour())
    over, _ = examine(world, doctor_in(world))
    assert over.seconds == pytest.approx(DEADLINE)
    assert over.facts.ease is Ease.EASY
    world = World(Behaviour())
    assert examine(world, doctor_in(world, deadline=1.0))[0].seconds == pytest.approx(1.0)


def test_a_stun_server_alone_tells_of_the_nat() -> None:
    world = World(Behaviour(filtering=OPEN), TWO_HOSTS)
    over, _ = examine(world, doctor_in(world, server=None, stun=(STUN,)), NOBODY)
    assert over.facts.is_answered
    assert over.facts.tcp == ()
    assert over.facts.v4.nat is not None
    assert over.facts.v4.nat.is_predictable


def test_without_anybody_to_ask_it_ends_with_what_the_router_says() -> None:
    world = World(Behaviour())
    over, events = examine(world, doctor_in(world, server=None), NOBODY)
    assert over.seconds == 0.0
    assert world.sent == []
    assert [type(event) for event in events] == [Found, Over]
    assert over.facts.mapper == NOBODY


def test_sockets_that_could_not_be_opened_cost_the_facts_that_needed_them() -> None:
    world = World(Behaviour())
    doctor = Doctor(
        Facts(server=SERVER, v4=Network(HERE)),
        servers=[SERVER],
        stun_servers=(),
        sockets={MAIN: world.ports[MAIN]},
        random_bytes=random.Random(7).randbytes,
        has_mapper=False,
        with_lifetime=True,
    )
    over, _ = examine(world, doctor)
    assert over.facts.ease is Ease.EASY
    assert over.facts.v4 == replace(over.facts.v4, filtering=None, hairpins=None, lifetime=None)


def test_the_lifetime_is_measured_when_it_is_asked_for() -> None:
    world = World(Behaviour(lifetime=33.0))
    over, events = examine(world, doctor_in(world, with_lifetime=True), NOBODY)
    found = over.facts.v4.lifetime
    assert found is not None
    assert (found.at_least, found.at_most) == (30.0, 45.0)
    assert any(isinstance(event, Found) and event.topic is Topic.LIFETIME for event in events)


@pytest.mark.parametrize(("mtu", "found"), [(1500, 1500), (1499, 1492), (1420, 1420), (1300, 1280), (1279, None)])
def test_the_largest_size_that_is_answered_is_the_mtu(mtu: int, found: int | None) -> None:
    world = Network1420(Behaviour())
    world.mtu = mtu
    test = PathMtuTest(SERVER, 3, random.Random(7).randbytes)
    test.start(world.now)
    assert world.until(test, lambda _: True) == [PathMtuFound(found)]
    assert test.poll_timeout() is None


@pytest.mark.parametrize(("silence", "found"), [(0.2, 1500), (0.7, 1500), (0.9, None)])
def test_a_size_is_sent_three_times(silence: float, found: int | None) -> None:
    world = Network1420(Behaviour())
    world.mtu, world.begins_at = 1500, world.now + silence
    test = PathMtuTest(SERVER, 3, random.Random(7).randbytes)
    test.start(world.now)
    assert world.until(test, lambda _: True) == [PathMtuFound(found)]


def test_an_answer_of_another_than_who_was_asked_proves_no_size() -> None:
    world = Network1420(Behaviour())
    world.mtu = 1279
    test = PathMtuTest(SERVER, 3, random.Random(7).randbytes)
    test.start(world.now)
    (first, *_) = iter(test.poll_transmit, None)
    answer = world._servers[0][1].handle_datagram(b"".join(first.buffers), Address(OUTSIDE, 9), 0, world.now)
    assert answer is not None
    test.handle_datagram(answer.data, STUN, 3, world.now)
    test.handle_datagram(answer.data, SERVER, 4, world.now)
    assert test.poll_event() is None
    test.handle_datagram(answer.data, SERVER, 3, world.now)
    assert test.poll_event() == PathMtuFound(1500)
