"""Plans of guesses: which they are, and that no report makes them exceed their caps."""

from __future__ import annotations

import random
from bisect import bisect_left
from dataclasses import replace
from itertools import islice, pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from punch_world import KEYS

from p2p.core.address import Address
from p2p.core.datagram import MAIN, Transmit
from p2p.core.nat_report import Mapping, NatReport
from p2p.core.punch.agent import CHECK_INTERVAL, PUNCH_TIMEOUT, PunchAgent
from p2p.core.punch.checklist import MAX_TOLD
from p2p.core.punch.checks import Answer, Check, decode
from p2p.core.punch.description import Candidate, Description, Kind
from p2p.core.punch.events import OpenSockets
from p2p.core.punch.search import BURST
from p2p.core.punch.strategy import (
    ALL_PORTS,
    LITTLE_PATIENCE,
    MAX_PROBES,
    MAX_SOCKETS,
    OPENER_TTL,
    PROBE_RATE,
    Plan,
    drawn,
    plan,
)

APDM = Mapping.ADDRESS_AND_PORT_DEPENDENT
EASY = NatReport(Mapping.ENDPOINT_INDEPENDENT)
RANDOM = NatReport(APDM)
CARRIER = NatReport(APDM, ports=range(10_240, 11_264))
COUNTS = NatReport(APDM, stride=4, newest=40_000)
KEPT = NatReport(APDM, preserves_ports=True)
OURS, THEIRS = Address("198.51.100.1", 30_000), Address("198.51.100.2", 40_000)

mappings = st.sampled_from(Mapping)
pools = st.tuples(st.integers(1, 65_535), st.integers(1, 65_535)).map(lambda ends: range(min(ends), max(ends) + 1))
reports = st.builds(
    NatReport, mappings, st.booleans(), st.integers(-32_768, 32_767), st.just(range(0)) | pools, st.integers(0, 65_535)
)
addresses = st.builds(
    Address,
    st.sampled_from(["198.51.100.2", "10.0.0.9", "192.0.2.1", "2001:db8::1", "224.0.0.1", "127.0.0.1"]),
    st.integers(0, 65_535),
)
kinds = st.sampled_from([Kind.HOST, Kind.SERVER_REFLEXIVE, Kind.MAPPED, Kind.HOST_TCP])
candidates = st.lists(st.builds(Candidate, kinds, addresses), max_size=16).map(tuple)
descriptions = st.builds(Description, reports, candidates, st.booleans())


def of(nat: NatReport, address: Address, *others: Candidate) -> Description:
    return Description(nat, (*others, Candidate(Kind.SERVER_REFLEXIVE, address)))


def made(ours: NatReport, theirs: NatReport, controlling: bool = True) -> Plan:
    return plan(controlling, of(ours, OURS), of(theirs, THEIRS), random.Random(1).randbytes)


def ports(made: Plan, volley: int = 0, count: int = 10_000) -> list[int]:
    return [shot.address.port for shot in islice(made.volleys[volley].shots, count)]


@pytest.mark.parametrize(("ours", "theirs"), [(EASY, EASY), (CARRIER, CARRIER)])
def test_behind_one_router_of_the_provider_the_relay_comes_sooner(ours: NatReport, theirs: NatReport) -> None:
    neighbour = plan(True, of(ours, OURS), of(theirs, OURS._replace(port=30_001)), random.Random(1).randbytes)
    assert neighbour.patience == LITTLE_PATIENCE < made(ours, theirs).patience
    assert len(neighbour.volleys) == len(made(ours, theirs).volleys)


@given(st.integers(0, 65_535), st.integers(0, 3_000), st.integers(0, 2**32))
def test_ports_are_drawn_without_repetition(first: int, length: int, seed: int) -> None:
    pool = range(first, first + length)
    found = list(drawn(pool, random.Random(seed).randbytes))
    assert sorted(found) == list(pool)


def test_ports_are_drawn_evenly() -> None:
    firsts = [next(drawn(range(10), random.Random(seed).randbytes)) for seed in range(5_000)]
    assert all(400 <= firsts.count(port) <= 600 for port in range(10))


def test_the_next_ports_are_tried_first() -> None:
    assert ports(made(EASY, COUNTS), count=3) == [40_004, 40_008, 40_012]
    backwards = NatReport(APDM, stride=-3, newest=1_026)
    assert ports(made(EASY, backwards), count=3) == [65_535 - (1_024 - 1_023) + 1, 65_532, 65_529]


def test_a_coarse_search_meets_any_row_of_256_neighbours() -> None:
    (_, coarse, _) = made(EASY, NatReport(APDM, stride=1, newest=30_000)).volleys
    tried = sorted(shot.address.port for shot in coarse.shots)
    assert all(later - before < MAX_SOCKETS for before, later in pairwise([ALL_PORTS.start, *tried, ALL_PORTS.stop]))


def test_each_has_the_half_that_the_other_lacks() -> None:
    guess, be_guessed = made(EASY, RANDOM), made(RANDOM, EASY, controlling=False)
    assert guess.sockets == 0
    assert be_guessed.sockets == MAX_SOCKETS
    shots = list(be_guessed.volleys[0].shots)
    assert [shot.local for shot in shots] == list(range(1, MAX_SOCKETS + 1))
    assert {(shot.address, shot.ttl) for shot in shots} == {(THEIRS, OPENER_TTL)}
    assert guess.volleys[0].at > be_guessed.volleys[0].at  # there is something to be guessed by then
    assert {shot.local for shot in guess.volleys[0].shots} == {MAIN}


def test_two_that_count_aim_at_one_port_and_sweep_a_row() -> None:
    aim, sweep = made(COUNTS, COUNTS, controlling=True), made(COUNTS, COUNTS, controlling=False)
    (one,) = set(ports(aim))
    # One candidate each was checked before: its mapping is the next one.
    assert one == 40_000 + 4 * (1 + 32)
    assert ports(sweep) == [40_000 + 4 * (1 + step) for step in range(1, 33)]


def test_a_pool_is_searched_first_and_not_alone() -> None:
    found = ports(made(EASY, CARRIER), count=100)
    assert sum(port in CARRIER.ports for port in found) == 25
    assert made(RANDOM, RANDOM).volleys == ()
    assert len(ports(made(CARRIER, CARRIER))) == 2_714


def test_ports_of_the_inside_are_tried_where_a_nat_keeps_them() -> None:
    inside = Candidate(Kind.HOST, Address("192.168.1.2", 5_555))
    found = plan(True, of(EASY, OURS), of(KEPT, THEIRS, inside), random.Random(1).randbytes)
    assert ports(found)[0] == 5_555


@pytest.mark.parametrize("theirs", [RANDOM, COUNTS, CARRIER])
def test_no_machine_of_our_own_network_is_guessed_at(theirs: NatReport) -> None:
    private = Address("10.0.0.9", 5_000)
    outside = plan(True, of(EASY, OURS), of(theirs, private), random.Random(1).randbytes)
    assert outside.volleys == ()
    inside = plan(True, of(EASY, Address("10.0.0.8", 5_000)), of(theirs, private), random.Random(1).randbytes)
    assert inside.volleys  # the server is in the same private network as both


def test_an_unknown_nat_is_taken_for_the_worst_when_the_other_is_easy() -> None:
    assert ports(made(EASY, NatReport()), count=5)
    assert made(NatReport(), EASY).sockets == MAX_SOCKETS
    assert made(NatReport(), NatReport()).volleys == ()


Sent = list[tuple[float, int, Address]]


def driven(agent: PunchAgent, changes: list[tuple[float, Description, Description]]) -> tuple[Sent, set[int]]:
    """Lets an agent run that nobody answers, and changes descriptions at those times; the sockets that it opened."""
    sent: Sent = []
    opened: set[int] = set()
    now, changes = 0.0, list(changes)
    agent.start(now)
    while True:
        while (action := agent.poll_action()) is not None:
            if isinstance(action, OpenSockets):
                numbers = set(range(action.first, action.first + action.count))
                assert not numbers & opened
                opened |= numbers
        while (transmit := agent.poll_transmit()) is not None:
            sent.append((now, transmit.local, transmit.destination))
        if (at := agent.poll_timeout()) is None:
            return sent, opened
        if changes and changes[0][0] <= at:
            now, local, remote = changes.pop(0)
            agent.update(local, remote, now)
        else:
            now = max(now, at)
            agent.handle_timeout(now)


def busiest_second(sent: Sent) -> int:
    times = [at for at, _, _ in sent]
    return max((index - bisect_left(times, at - 1.0) for index, at in enumerate(times, 1)), default=0)


MAX_RATE = PROBE_RATE + 1.0 / CHECK_INTERVAL


@pytest.mark.parametrize(("ours", "theirs"), [(EASY, RANDOM), (RANDOM, EASY), (COUNTS, COUNTS), (CARRIER, CARRIER)])
def test_a_peer_that_always_says_something_new_is_not_guessed_at_for_ever(ours: NatReport, theirs: NatReport) -> None:
    changes = [
        (1.4 * number, of(ours, OURS), replace(of(replace(theirs, newest=40_000 + number), THEIRS), has_opened=True))
        for number in range(7)
    ]
    agent = PunchAgent(True, KEYS[True], KEYS[False], *changes[0][1:], random.Random(1).randbytes)
    sent, opened = driven(agent, changes[1:])
    guesses = [1 for _, local, address in sent if local != MAIN or address != THEIRS]
    assert 1_500 <= len(guesses) <= MAX_PROBES
    assert len(guesses) >= MAX_PROBES - 2 or ours is not EASY  # it has guesses without end
    assert len(opened) <= MAX_SOCKETS
    assert busiest_second(sent) <= MAX_RATE + BURST


@settings(max_examples=150, deadline=None)
@given(descriptions, st.lists(descriptions, min_size=1, max_size=4), st.booleans(), st.integers(0, 2**32))
def test_whatever_the_other_side_says_the_caps_hold(
    local: Description, told: list[Description], controlling: bool, seed: int
) -> None:
    """It holds the code, and changes its description again and again."""
    keys = KEYS[controlling], KEYS[not controlling]
    agent = PunchAgent(controlling, *keys, local, told[0], random.Random(seed).randbytes)
    sent, opened = driven(agent, [(4.0 * number, local, each) for number, each in enumerate(told)][1:])
    assert max(opened, default=0) <= MAX_SOCKETS
    assert {local for _, local, _ in sent} <= opened | {MAIN}
    assert len(sent) <= MAX_PROBES + PUNCH_TIMEOUT / CHECK_INTERVAL + MAX_TOLD + 1
    assert busiest_second(sent) <= MAX_RATE + BURST + MAX_TOLD
    hosts = {candidate.address.host for each in told for candidate in each.candidates}
    assert {address.host for _, _, address in sent} <= hosts - {"224.0.0.1"}


def test_descriptions_add_no_more_than_so_many_addresses() -> None:
    told = [
        Description(EASY, tuple(Candidate(Kind.HOST, Address(f"192.0.2.{number}", 1)) for number in range(n, n + 16)))
        for n in range(1, 200, 16)
    ]
    ours = Description(EASY, ())
    agent = PunchAgent(True, KEYS[True], KEYS[False], ours, told[0], random.Random(1).randbytes)
    sent, _ = driven(agent, [(0.5 * number, ours, each) for number, each in enumerate(told)][1:])
    assert len({address for _, _, address in sent}) == MAX_TOLD


def test_a_guess_is_answered_only_from_where_it_went() -> None:
    told = replace(of(RANDOM, THEIRS), has_opened=True)
    agent = PunchAgent(True, KEYS[True], KEYS[False], of(EASY, OURS), told, random.Random(1).randbytes)
    agent.start(0.0)
    while agent.poll_transmit() is not None:
        pass
    agent.handle_timeout(0.51)
    guesses = [each for each in iter(agent.poll_transmit, None) if each.destination != THEIRS]
    sent = decode(bytes(guesses[0].buffers[0]), KEYS[True])
    answer = Answer(sent.transaction, OURS).encode(KEYS[False])
    agent.handle_datagram(answer, guesses[1].destination, MAIN, 0.52)
    agent.handle_datagram(answer, guesses[0].destination, 1, 0.52)
    assert agent.dropped == 2
    agent.handle_datagram(answer, guesses[0].destination, MAIN, 0.52)
    agent.handle_timeout(0.58)
    nominated = [each.destination for each in iter(agent.poll_transmit, None) if is_nomination(each)]
    assert nominated == [guesses[0].destination]


def is_nomination(transmit: Transmit) -> bool:
    message = decode(bytes(transmit.buffers[0]), KEYS[True])
    return isinstance(message, Check) and message.nominate
