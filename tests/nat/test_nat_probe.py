"""NatProbe against a NAT in memory, in virtual time: every behaviour, loss, silence, foreign traffic."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nat_world import (
    ONE_HOST,
    OUTSIDE,
    SERVER,
    STUN,
    TWO_HOSTS,
    Behaviour,
    World,
    counted,
    random_ports,
)

from p2p.core.address import Address
from p2p.core.datagram import MAIN
from p2p.core.errors import CallerError
from p2p.core.nat.endpoints import endpoints_of
from p2p.core.nat.filtering import Filtering, FilteringFound
from p2p.core.nat.hairpin import HairpinFound, HairpinTest
from p2p.core.nat.inference import Sample
from p2p.core.nat.lifetime import CONTROL_AGE, LifetimeFound, LifetimeTest
from p2p.core.nat.probe import MAX_KEPT, MAX_SAMPLES, NO_UDP_AFTER, SCRATCH, NatEvent, NatFound, NatProbe
from p2p.core.nat_report import Mapping, NatReport
from p2p.core.stun.client import Answered, Question
from p2p.core.stun.messages import ServerEndpoints, Success, decode, encode
from p2p.core.stun.server import Endpoints, StunServer

ALL = random_ports(range(1024, 65536))
BLOCK = range(10_240, 11_264)

EIM, ADM, APDM = Mapping.ENDPOINT_INDEPENDENT, Mapping.ADDRESS_DEPENDENT, Mapping.ADDRESS_AND_PORT_DEPENDENT
PRESERVING = Behaviour()
RANDOM = Behaviour(allocate=ALL)
SYMMETRIC = Behaviour(APDM, allocate=ALL)
SEQUENTIAL = Behaviour(APDM, allocate=counted(1))
BLOCKED = Behaviour(blocked=True)


def probe_in(world: World, stun_servers: tuple[Address, ...] = ()) -> NatProbe:
    scratch = {number: world.ports[number] for number in range(1, 1 + SCRATCH)}
    return NatProbe(SERVER, world.ports[MAIN], scratch, random.Random(7).randbytes, stun_servers)


def is_settled(event: NatEvent) -> bool:
    return isinstance(event, NatFound) and event.is_settled


def settle(world: World, probe: NatProbe) -> NatFound:
    probe.start(world.now)
    found = world.until(probe, is_settled)[-1]
    assert isinstance(found, NatFound)
    return found


@pytest.mark.parametrize("foreign", [0.0, 1.0])
@pytest.mark.parametrize(
    ("behaviour", "expected", "sent"),
    [
        (PRESERVING, NatReport(EIM, preserves_ports=True), 5),
        (RANDOM, NatReport(EIM), 5),
        (Behaviour(ADM, allocate=ALL), NatReport(ADM), 12),
        (SYMMETRIC, NatReport(APDM), 12),
        (Behaviour(APDM, allocate=random_ports(BLOCK)), NatReport(APDM, ports=BLOCK), 12),
        (SEQUENTIAL, NatReport(APDM, stride=1), 12),
        (Behaviour(APDM, allocate=counted(4)), NatReport(APDM, stride=4), 12),
        (Behaviour(APDM, allocate=counted(-2)), NatReport(APDM, stride=-2), 12),
        (Behaviour(APDM, allocate=counted(1, 65_530)), NatReport(APDM, stride=1), 12),
        (Behaviour(ADM, allocate=counted(2)), NatReport(ADM, stride=2), 12),
    ],
)
@pytest.mark.parametrize("seed", range(5))
def test_every_behaviour_is_told_and_costs_no_more_than_said(
    behaviour: Behaviour, expected: NatReport, sent: int, foreign: float, seed: int
) -> None:
    world = World(replace(behaviour, foreign=foreign), seed=seed)
    found = settle(world, probe_in(world))
    assert replace(found.report, newest=0) == expected
    assert len(world.sent) == sent <= MAX_SAMPLES
    assert all(address.host == OUTSIDE for address in found.reflexive)
    if behaviour.mapping is EIM:
        assert len(found.reflexive) == 1
    if expected.stride:
        assert found.report.newest == world.router.last


@pytest.mark.parametrize(
    ("behaviour", "expected", "sent"),
    [
        (PRESERVING, Mapping.NOT_PORT_DEPENDENT, 3),
        (Behaviour(ADM, allocate=ALL), Mapping.NOT_PORT_DEPENDENT, 3),
        (SYMMETRIC, APDM, 10),
        (SEQUENTIAL, APDM, 10),
    ],
)
def test_one_address_of_the_server_leaves_open_what_it_cannot_tell(
    behaviour: Behaviour, expected: Mapping, sent: int
) -> None:
    world = World(behaviour, ONE_HOST)
    assert settle(world, probe_in(world)).report.mapping is expected
    assert len(world.sent) == sent


@pytest.mark.parametrize(
    ("behaviour", "expected"), [(PRESERVING, EIM), (Behaviour(ADM, allocate=ALL), ADM), (SYMMETRIC, APDM)]
)
def test_a_public_stun_server_is_a_second_address(behaviour: Behaviour, expected: Mapping) -> None:
    world = World(behaviour, ONE_HOST)
    assert settle(world, probe_in(world, (STUN,))).report.mapping is expected


def test_public_stun_servers_count_against_the_number_of_samples() -> None:
    world = World(SYMMETRIC)
    settle(world, probe_in(world, (STUN, Address(STUN.host, 3479))))
    assert len(world.sent) == MAX_SAMPLES


def test_public_stun_servers_alone_tell_what_they_can() -> None:
    world = World(PRESERVING, deaf=frozenset(range(4)))
    found = settle(world, probe_in(world, (STUN, Address(STUN.host, 3479))))
    assert found.report == NatReport(Mapping.NOT_PORT_DEPENDENT, preserves_ports=True, newest=world.ports[MAIN])
    assert found.reflexive == (Address(OUTSIDE, world.ports[MAIN]),)


@pytest.mark.parametrize(("behaviour", "rounds"), [(PRESERVING, 2), (SYMMETRIC, 3)])
def test_it_is_settled_with_the_last_needed_answer(behaviour: Behaviour, rounds: int) -> None:
    world = World(behaviour, delay=0.05)
    probe, start = probe_in(world), world.now
    settle(world, probe)
    assert world.now - start == pytest.approx(rounds * 0.1)


def test_the_first_answer_is_told_at_once_and_every_later_one_that_says_more() -> None:
    world = World(PRESERVING, delay=0.05)
    probe = probe_in(world)
    probe.start(world.now)
    first = world.until(probe, lambda event: isinstance(event, NatFound))[-1]
    here = (Address(OUTSIDE, world.ports[MAIN]),)
    report = NatReport(Mapping.UNKNOWN, preserves_ports=True, newest=world.ports[MAIN])
    assert first == NatFound(report, here, is_settled=False)
    assert world.now == pytest.approx(100.1)


@pytest.mark.parametrize("delay", [0.005, 0.05, 0.2])
def test_a_second_address_that_is_deaf_delays_nothing_for_long(delay: float) -> None:
    world = World(PRESERVING, delay=delay, deaf=frozenset({2, 3}))
    probe, start = probe_in(world), world.now
    found = settle(world, probe)
    assert found.report.mapping is Mapping.NOT_PORT_DEPENDENT
    rto = min(max(4 * delay, 0.1), 0.5)
    assert world.now - start == pytest.approx(2 * delay + 3 * rto)


def test_a_late_answer_is_told_too() -> None:
    world = World(PRESERVING, delay=0.4)
    probe = probe_in(world)
    probe.start(world.now)
    events = world.run(probe, 10.0)
    last = events[-1]
    assert isinstance(last, NatFound)
    assert last.is_settled
    assert last.report.mapping is EIM


def test_no_answer_at_all_is_no_udp_in_time_and_taken_back_by_one() -> None:
    world = World(BLOCKED)
    probe, start = probe_in(world), world.now
    assert settle(world, probe) == NatFound(NatReport(Mapping.NO_UDP), (), is_settled=True)
    assert world.now - start == pytest.approx(NO_UDP_AFTER)
    assert [at - start for at, _ in world.sent] == pytest.approx([0.0, 0.25, 0.75, 1.75])
    late = World(PRESERVING, delay=1.4)
    found = [event for event in late.run(started(late), 20.0) if isinstance(event, NatFound)]
    assert found[0].report.mapping is Mapping.NO_UDP
    assert found[-1].report.mapping is EIM


def started(world: World) -> NatProbe:
    probe = probe_in(world)
    probe.start(world.now)
    return probe


@given(st.integers(0, 10_000), st.sampled_from([0.05, 0.3]))
def test_with_loss_nothing_false_is_said_and_it_ends(seed: int, loss: float) -> None:
    for behaviour in (PRESERVING, Behaviour(ADM, allocate=ALL), SYMMETRIC, SEQUENTIAL):
        world = World(behaviour, seed=seed, loss=loss)
        found = settle(world, probe_in(world))
        possible = {
            EIM: {EIM, Mapping.NOT_PORT_DEPENDENT, Mapping.UNKNOWN},
            ADM: {ADM, Mapping.NOT_PORT_DEPENDENT, Mapping.DESTINATION_DEPENDENT, Mapping.UNKNOWN},
            APDM: {APDM, Mapping.DESTINATION_DEPENDENT, Mapping.UNKNOWN},
        }[behaviour.mapping]
        assert found.report.mapping in possible | {Mapping.NO_UDP}
        assert found.report.stride in (range(3 if loss < 0.1 else 10) if behaviour is SEQUENTIAL else {0})
        assert world.now - 100 < NO_UDP_AFTER + 2 * 1.5 + 0.1


@pytest.mark.parametrize("foreign", [0.0, 1.0, 3.0])
def test_a_stride_is_right_under_foreign_traffic_in_nearly_every_run(foreign: float) -> None:
    right = 0
    for seed in range(100):
        world = World(replace(SEQUENTIAL, foreign=foreign), seed=seed)
        right += settle(world, probe_in(world)).report.stride == 1
    assert right >= 95


def test_a_stride_is_right_where_one_datagram_in_eight_is_lost() -> None:
    """What was repeated has made its mapping out of turn."""
    right = 0
    for seed in range(100):
        world = World(SEQUENTIAL, seed=seed, loss=0.125)
        right += settle(world, probe_in(world)).report.stride == 1
    assert right >= 95


def test_a_refresh_finds_the_newest_port_after_others_have_taken_many() -> None:
    world = World(SEQUENTIAL)
    probe = probe_in(world)
    settle(world, probe)
    world.router.last = 41_000  # an hour has passed
    probe.refresh({number: world.ports[number] for number in range(10, 14)}, world.now)
    before = world.now
    found = world.until(probe, is_settled)[-1]
    assert isinstance(found, NatFound)
    assert found.report == NatReport(APDM, stride=1, newest=41_004)
    assert world.now - before == pytest.approx(0.04)


def test_ports_of_before_do_not_spoil_the_stride_of_now() -> None:
    world = World(SEQUENTIAL)
    probe = probe_in(world)
    settle(world, probe)
    for round_, last in enumerate((47_000, 5_000, 30_000)):
        world.router.last = last
        first = 10 + 4 * round_
        probe.refresh({number: world.ports[number] for number in range(first, first + 4)}, world.now)
        found = world.until(probe, is_settled)[-1]
        assert isinstance(found, NatFound)
        assert (found.report.stride, found.report.newest) == (1, last + 4)


def test_a_refresh_makes_a_block_known_behind_a_nat_that_does_not_depend_on_the_destination() -> None:
    world = World(Behaviour(allocate=random_ports(BLOCK)))
    probe = probe_in(world)
    assert settle(world, probe).report.ports == range(0)
    probe.refresh({number: world.ports[number] for number in range(10, 20)}, world.now)
    found = world.until(probe, is_settled)[-1]
    assert isinstance(found, NatFound)
    assert found.report.ports == BLOCK
    assert found.pool is not None
    assert found.pool.chance < 1e-15


def test_what_is_kept_does_not_grow_with_refreshes() -> None:
    world = World(SYMMETRIC)
    probe = probe_in(world)
    settle(world, probe)
    for _ in range(100):
        probe.refresh({number: world.ports[number] for number in range(10, 20)}, world.now)
        world.until(probe, is_settled)
    kept: list[Sample] = vars(probe)["_samples"]
    assert len(kept) <= MAX_KEPT
    assert any(sample.local == MAIN for sample in kept)


@pytest.mark.parametrize("endpoints", [TWO_HOSTS, ONE_HOST])
@pytest.mark.parametrize(
    "filtering",
    [Filtering.ENDPOINT_INDEPENDENT, Filtering.ADDRESS_DEPENDENT, Filtering.ADDRESS_AND_PORT_DEPENDENT],
)
def test_filtering(filtering: Filtering, endpoints: Endpoints) -> None:
    world = World(Behaviour(filtering=filtering), endpoints)
    probe = probe_in(world)
    settle(world, probe)
    probe.measure_filtering(20, world.now)
    found = world.until(probe, lambda event: isinstance(event, FilteringFound), limit=4.0)[-1]
    if endpoints is ONE_HOST and filtering is not Filtering.ADDRESS_AND_PORT_DEPENDENT:
        filtering = Filtering.NOT_PORT_DEPENDENT
    assert found == FilteringFound(filtering)


def test_what_comes_to_another_socket_was_let_in_to_that_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """A NAT that gave one port to two sockets, of which the other one has written to the stranger."""
    world = World(Behaviour(filtering=Filtering.ENDPOINT_INDEPENDENT), TWO_HOSTS)
    probe = probe_in(world)
    settle(world, probe)
    deliver = probe.handle_datagram

    def to_another(data: bytes, source: Address, local: int, now: float) -> None:
        deliver(data, source, local if source == SERVER or local != 20 else 21, now)

    monkeypatch.setattr(probe, "handle_datagram", to_another)
    probe.measure_filtering(20, world.now)
    found = world.until(probe, lambda event: isinstance(event, FilteringFound))[-1]
    assert found == FilteringFound(Filtering.ADDRESS_AND_PORT_DEPENDENT)


def test_filtering_is_unknown_where_nobody_answers() -> None:
    world = World(BLOCKED)
    probe = probe_in(world)
    settle(world, probe)
    probe.measure_filtering(20, world.now)
    assert world.until(probe, lambda event: isinstance(event, FilteringFound))[-1] == FilteringFound(Filtering.UNKNOWN)


@pytest.mark.parametrize("hairpins", [True, False])
@pytest.mark.parametrize("behaviour", [PRESERVING, SYMMETRIC])
def test_hairpin(behaviour: Behaviour, hairpins: bool) -> None:
    world = World(replace(behaviour, hairpins=hairpins))
    probe = probe_in(world)
    settle(world, probe)
    probe.measure_hairpin(20, world.now)
    found = world.until(probe, lambda event: isinstance(event, HairpinFound), limit=2.0)[-1]
    assert found == HairpinFound(hairpins)


def test_a_request_that_comes_back_to_the_socket_that_sent_it_is_no_hairpin() -> None:
    test = HairpinTest(Address(OUTSIDE, 4000), 20, random.Random(7).randbytes)
    test.start(0.0)
    transmit = test.poll_transmit()
    assert transmit is not None
    for local, expected in ((20, None), (MAIN, HairpinFound(True))):
        test.handle_datagram(b"".join(transmit.buffers), Address(OUTSIDE, 4001), local, 0.1)
        assert test.poll_event() == expected


def test_hairpin_is_unknown_without_an_external_address() -> None:
    world = World(BLOCKED)
    probe = probe_in(world)
    settle(world, probe)
    probe.measure_hairpin(20, world.now)
    assert world.until(probe, lambda event: isinstance(event, HairpinFound))[-1] == HairpinFound(None)


AGES = {1: CONTROL_AGE, 2: 10.0, 3: 20.0, 4: 25.0, 5: 45.0, 6: 90.0}


@pytest.mark.parametrize(
    ("lifetime", "expected"),
    [
        (30.0, LifetimeFound(25.0, 45.0)),
        (12.0, LifetimeFound(10.0, 20.0)),
        (5.0, LifetimeFound(CONTROL_AGE, 10.0)),
        (120.0, LifetimeFound(90.0, None)),
        (0.2, LifetimeFound(None, None)),
    ],
)
@pytest.mark.parametrize("loss", [0.0, 0.1])
def test_lifetime(lifetime: float, expected: LifetimeFound, loss: float) -> None:
    world = World(Behaviour(lifetime=lifetime), loss=loss)
    test = LifetimeTest(SERVER, 0, AGES, random.Random(7).randbytes)
    start = world.now
    test.start(start)
    assert world.until(test, lambda _: True) == [expected]
    assert world.now - start <= (expected.at_most or 90.0) + 8.0


def test_a_lifetime_is_not_measured_where_the_server_does_not_answer() -> None:
    world = World(BLOCKED)
    test = LifetimeTest(SERVER, 0, AGES, random.Random(7).randbytes)
    test.start(world.now)
    assert world.until(test, lambda _: True, limit=10.0) == [LifetimeFound(None, None)]


def test_a_lifetime_is_not_measured_by_a_server_that_answers_to_whoever_asked() -> None:
    test = LifetimeTest(SERVER, 0, AGES, random.Random(7).randbytes)
    now = 0.0
    test.start(now)
    while (found := test.poll_event()) is None and now < 10.0:
        while (transmit := test.poll_transmit()) is not None:
            request = decode(b"".join(transmit.buffers))
            answer = encode(Success(request.transaction, Address(OUTSIDE, 40_000 + transmit.local)))
            test.handle_datagram(answer, SERVER, transmit.local, now)
        now = test.poll_timeout() or now
        test.handle_timeout(now)
    assert found == LifetimeFound(None, None)


def test_mistakes_of_the_caller_are_told() -> None:
    world = World(PRESERVING)
    probe = started(world)
    with pytest.raises(CallerError):
        probe.start(world.now)
    for ages in ({}, {1: 10.0}, {0: CONTROL_AGE}):
        with pytest.raises(CallerError):
            LifetimeTest(SERVER, 0, ages, random.Random(7).randbytes)


@pytest.mark.parametrize(
    ("server", "other", "believed"),
    [
        ("203.0.113.1", "203.0.113.2", True),
        ("192.168.1.1", "192.168.1.2", True),
        ("192.168.1.1", "203.0.113.2", True),
        ("203.0.113.1", "192.168.1.2", False),
        ("203.0.113.1", "127.0.0.1", False),
        ("203.0.113.1", "224.0.0.1", False),
        ("203.0.113.1", "255.255.255.255", False),
        ("203.0.113.1", "0.0.0.0", False),
        ("203.0.113.1", "2001:db8::2", False),
        ("2001:db8::1", "2001:db8::2", True),
        ("2001:db8::1", "::ffff:192.168.1.2", False),
        ("2001:db8::1", "fe80::1", False),
        ("2001:db8::1", "::1", False),
    ],
)
def test_a_server_has_us_write_to_no_address_that_cannot_be_its_own(server: str, other: str, believed: bool) -> None:
    question = Question(0, MAIN, Address(server, 8080), 0.0)
    ours, theirs = ServerEndpoints((8080, 8081), other), Address(other, 8081)
    mapped = Address(OUTSIDE, 4000)
    asked = (Address(server, 8080), Address(server, 8081))
    both = (*asked, Address(other, 8080), Address(other, 8081))
    for endpoints, told in ((ours, None), (None, theirs)):
        answer = Answered(question, question.destination, MAIN, mapped, endpoints, told, is_first=True, at=0.1)
        assert endpoints_of(answer) == (both if believed else asked)


def test_without_a_word_of_endpoints_there_is_the_one_that_was_asked() -> None:
    question = Question(0, MAIN, SERVER, 0.0)
    nothing = Answered(question, SERVER, MAIN, Address(OUTSIDE, 4000), None, None, is_first=True, at=0.1)
    assert endpoints_of(nothing) == (SERVER,)
    assert endpoints_of(replace(nothing, endpoints=ServerEndpoints((8080, 0)))) == (SERVER,)


@given(st.binary(max_size=120), st.integers(0, 8))
def test_what_strangers_send_changes_nothing(noise: bytes, local: int) -> None:
    world = World(PRESERVING)
    probe = started(world)
    for data in (noise, b"\1\1" + noise, b"\1\1\0\x0c\x21\x12\xa4\x42" + noise):
        probe.handle_datagram(data, SERVER, local, world.now)
    assert probe.poll_event() is None


def test_an_answer_counts_only_from_where_it_was_asked() -> None:
    world = World(PRESERVING)
    probe = started(world)
    transmit = probe.poll_transmit()
    assert transmit is not None
    lie = StunServer(TWO_HOSTS).handle_datagram(b"".join(transmit.buffers), Address("192.0.2.66", 6), 0, world.now)
    assert lie is not None
    probe.handle_datagram(lie.data, Address(SERVER.host, 9), MAIN, world.now)
    probe.handle_datagram(lie.data, SERVER, 1, world.now)
    assert probe.poll_event() is None
    probe.handle_datagram(lie.data, SERVER, MAIN, world.now)
    assert probe.poll_event() is not None
