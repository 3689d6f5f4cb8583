"""The peer's address changes under way: who is followed, who is not, and what it costs.

    Alice ──── her NAT ──── Bob's NAT ──── Bob        Mallory, elsewhere, who may see packets and overtake them

`World.addresses` is where each is reached now, and whence its packets seem to come; all others are strays.
"""

from __future__ import annotations

import random

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from transport_link import ALICE, BOB, START, World, keys

from p2p.core.address import Address
from p2p.core.datagram import Transmit
from p2p.core.transport.connection import MAX_RECORD, Connection
from p2p.core.transport.events import IdleTimedOut, PathMtuChanged, PeerMoved
from p2p.core.transport.frames import PathChallenge, PathResponse, Ping, Segment, decode_frames
from p2p.core.transport.migration import (
    AMPLIFICATION,
    CANDIDATE_INTERVAL,
    MAX_CANDIDATES,
    MAX_CHALLENGES,
    OLD_TIME,
    PACKET_SIZE,
    Migration,
    Moved,
    State,
)
from p2p.core.transport.packets import DATA, SEALED

RECORDS = [random.Random(number).randbytes(MAX_RECORD) for number in range(120)]
MALLORY = Address("203.0.113.9", 9)
PORT = {True: Address(ALICE.host, 1999), False: Address(BOB.host, 2999)}
HOST = {True: Address("192.0.2.77", 1001), False: Address("198.51.100.88", 2002)}
STALL = 1.0  # seconds of virtual time; the round trip is 50 ms


def moves(world: World, is_alice: bool) -> list[PeerMoved]:
    machine = world.alice if is_alice else world.bob
    return [event for event in machine.events if isinstance(event, PeerMoved)]


def arrived_since(world: World, count: int) -> bool:
    return len(world.bob.received) > count


@pytest.mark.parametrize("other", [PORT, HOST], ids=["port", "address"])
@pytest.mark.parametrize("who", [True, False], ids=["sender", "receiver"])
def test_a_rebinding_is_followed_and_nothing_is_lost(who: bool, other: dict[bool, Address]) -> None:
    world = World(to_bob=list(RECORDS))
    world.run_for(0.3)
    assert world.alice.connection.stats.datagram_size == 1472
    world.addresses[who] = other[who]
    had = len(world.bob.received)
    world.run(STALL, until=lambda: bool(moves(world, not who)))
    world.run(STALL, until=lambda: arrived_since(world, had))
    world.run(10)
    assert world.bob.received == RECORDS
    assert moves(world, not who) == [PeerMoved(other[who])]
    assert moves(world, who) == []
    mover_sees = (world.bob if who else world.alice).connection
    assert mover_sees.remote == other[who]


def test_both_move_one_after_the_other_again_and_again() -> None:
    world = World(to_bob=list(RECORDS), to_alice=list(RECORDS[:60]), rate=2.5e6)
    for step in range(6):
        world.run_for(0.7)
        assert not world.is_done()
        who = step % 2 == 0
        world.addresses[who] = Address(f"192.0.2.{100 + step}", 3000 + step)
    world.run(20)
    assert world.bob.received == RECORDS
    assert world.alice.received == RECORDS[:60]
    assert len(moves(world, True)) == len(moves(world, False)) == 3


@settings(max_examples=20, deadline=None, derandomize=True, phases=[Phase.explicit, Phase.generate])
@given(seed=st.integers(0, 2**16), at=st.floats(0.0, 0.9), who=st.booleans(), is_port=st.booleans())
def test_whenever_it_happens(seed: int, at: float, who: bool, is_port: bool) -> None:
    world = World(seed=seed, to_bob=list(RECORDS), to_alice=[b"yes"])
    world.run_for(at)
    world.addresses[who] = (PORT if is_port else HOST)[who]
    world.run(10)
    assert world.bob.received == RECORDS


@pytest.mark.parametrize("sender_first", [True, False], ids=["sender first", "receiver first"])
def test_a_better_path_takes_over_without_loss_or_stall(sender_first: bool) -> None:
    """As when a direct path is found behind a relay: both are told by other means, half a round trip apart."""
    world = World(to_bob=list(RECORDS), to_alice=[b"yes"])
    world.run_for(0.3)
    relay = dict(world.addresses)
    for is_alice in (sender_first, not sender_first):
        machine = world.alice if is_alice else world.bob
        world.addresses[is_alice] = HOST[is_alice]
        world.others[is_alice].add(relay[is_alice])
        machine.connection.move_to(HOST[not is_alice], 7, 0.05)
        world.run_for(0.025)
    had, when = len(world.bob.received), world.now
    world.run(STALL, until=lambda: arrived_since(world, had))
    assert world.now - when < 4 * 0.05  # a record of 62 KB from a new congestion window of 12 KB: three round trips
    world.run(10)
    assert world.bob.received == RECORDS
    assert world.alice.received == [b"yes"]
    for machine, is_alice in ((world.alice, True), (world.bob, False)):
        assert machine.connection.remote == HOST[not is_alice]
        assert {transmit.local for _, transmit in machine.transmits} == {0, 7}
        assert {t.destination for at, t in machine.transmits if at > when} == {HOST[not is_alice]}
        assert moves(world, is_alice) == [PeerMoved(HOST[not is_alice])]
    assert world.strays == []
    assert world.alice.connection.stats.bytes_retransmitted < 0.1 * sum(map(len, RECORDS))


def test_what_comes_late_by_the_former_path_is_taken_and_moves_nothing() -> None:
    world = World(to_bob=list(RECORDS[:20]))
    world.run_for(0.05)
    world.others[True].add(HOST[True])
    world.bob.connection.move_to(HOST[True], 0, 0.05)
    world.run(20)
    assert world.bob.received == RECORDS[:20]
    assert world.bob.connection.remote == HOST[True]
    assert moves(world, False) == [PeerMoved(HOST[True])]


def test_a_receiver_to_whom_nothing_comes_any_more_asks_within_a_probe_timeout() -> None:
    """Its NAT forgot the mapping while the data was on its way: only what it sends itself tells where it is now."""
    world = World(to_bob=list(RECORDS))
    world.run_for(0.3)
    world.bob.connection._received.on_ack_sent()  # it has just acknowledged all
    world.addresses[False] = PORT[False]
    silent = world.now
    world.run(0.5, until=lambda: any(at > silent for at, _ in world.bob.transmits))
    world.run(10)
    assert world.bob.received == RECORDS


def test_a_lull_costs_one_ping() -> None:
    world = World(to_bob=[RECORDS[0]])
    world.run(2)
    world.run_for(0.4)
    before = len(world.bob.transmits)
    world.run_for(0.5)  # less than the keep-alive takes
    assert len(world.bob.transmits) == before


def test_another_port_keeps_what_is_known_of_the_path_and_another_address_does_not() -> None:
    for other, is_kept in ((PORT, True), (HOST, False)):
        world = World(to_bob=list(RECORDS), delay=0.01)
        world.run_for(0.3)
        alice = world.alice.connection
        before, controller = alice.stats, alice._sender.controller
        world.alice.link.delay = world.bob.link.delay = 0.05
        world.addresses[False] = other[False]
        world.run(STALL, until=lambda world=world: bool(moves(world, True)))  # type: ignore[misc]
        assert (alice._sender.controller is controller) is is_kept
        assert (alice.stats.min_rtt == before.min_rtt) is is_kept
        assert (PathMtuChanged(1200) in world.alice.events) is not is_kept
        if not is_kept:
            assert 0.1 <= alice.stats.min_rtt <= 0.13
        world.run(10)
        assert world.bob.received == RECORDS
        assert alice.stats.datagram_size == 1472


def test_what_was_in_flight_to_the_old_address_is_no_congestion() -> None:
    world = World(to_bob=list(RECORDS), queue=2_000_000)
    world.run_for(0.5)
    lost = world.alice.connection.stats.bytes_lost
    world.addresses[False] = PORT[False]
    world.run(10)
    assert world.alice.connection.stats.bytes_lost == lost
    assert world.bob.received == RECORDS


def sealed_of(world: World, is_alice: bool) -> list[bytes]:
    machine = world.alice if is_alice else world.bob
    return [datagram for datagram in machine.link.sent if datagram[0] == SEALED]


def sent_to(world: World, address: Address) -> list[Transmit]:
    transmits = world.alice.transmits + world.bob.transmits
    return [transmit for _, transmit in transmits if transmit.destination == address]


def test_replayed_packets_from_elsewhere_are_dropped_and_answered_by_nothing() -> None:
    world = World(to_bob=list(RECORDS), to_alice=[b"yes"])
    chance = random.Random(3)
    while not world.is_done():
        world.run_for(0.05)
        for is_alice in (True, False):
            sent = (world.bob if is_alice else world.alice).link.sent
            arrived = sealed_of(world, not is_alice)[:-40] + [
                datagram for datagram in sent if datagram[0] == DATA
            ]
            for datagram in chance.sample(arrived, min(20, len(arrived))):
                world.deliver(is_alice, datagram, 0, MALLORY)
    assert world.bob.received == RECORDS
    assert sent_to(world, MALLORY) == []
    assert moves(world, True) == moves(world, False) == []


def test_a_data_packet_from_elsewhere_never_moves_anything() -> None:
    """Not even one that is the newest of all: its header proves nothing."""
    world = World(to_bob=list(RECORDS))
    world.run_for(0.3)
    world.bob.link.is_cut = world.alice.link.is_cut = True
    dropped = world.bob.connection.stats.packets_dropped
    for number in range(1, 50):
        newest = (10**6 + number).to_bytes(8, "big")
        forged = bytes([DATA]) + keys("alice", "bob").id_out[:7] + newest + bytes(6) + b"\xf8\x10" + bytes(100)
        world.deliver(False, forged, 0, MALLORY)
        world.deliver(False, forged * 3, len(forged), MALLORY)
    assert world.bob.connection.stats.packets_dropped == dropped + 49 * 4
    world.run_for(0.1)
    assert sent_to(world, MALLORY) == []


class Race:
    """Mallory takes a copy of each SEALED packet that Alice sends, and brings it to Bob from her address, first.

    What comes to her from Bob she sees; with `carries` she brings it to Alice, and the answers back.
    """

    def __init__(self, world: World, *, carries: bool = False) -> None:
        self.world, self.carries = world, carries
        self.seen = {True: 0, False: 0}
        self.got: list[bytes] = []

    def strike(self) -> None:
        world = self.world
        for is_alice, machine in ((True, world.alice), (False, world.bob)):
            fresh = machine.link.sent[self.seen[is_alice] :]
            self.seen[is_alice] = len(machine.link.sent)
            if not is_alice and not self.carries:
                continue
            for datagram in fresh:
                if datagram[0] == SEALED:
                    world.deliver(not is_alice, datagram, 0, MALLORY)

    def run(self, limit: float) -> None:
        end = self.world.now + limit
        while not self.world.is_done():
            assert self.world.step(end), "not done"
            self.strike()


def test_who_is_faster_than_the_path_but_cannot_answer_wins_nothing() -> None:
    world = World(to_bob=list(RECORDS), to_alice=list(RECORDS[:30]))
    race = Race(world)
    race.run(10)
    assert world.bob.received == RECORDS
    assert world.alice.received == RECORDS[:30]
    assert moves(world, False) == []
    assert world.bob.connection.remote == ALICE


def test_who_is_faster_and_answers_is_left_alone_while_the_old_path_answers_too() -> None:
    """She carries the challenge on and the answer back before the true path does (RFC 9000 section 9.3.3)."""
    world = World(to_bob=RECORDS[:30], to_alice=RECORDS[:10])
    race = Race(world, carries=True)
    race.run(30)  # what she brings makes the path look shorter than it is, and so narrower
    assert len(sent_to(world, MALLORY)) > 0
    assert moves(world, True) == moves(world, False) == []
    assert world.bob.received == RECORDS[:30]
    assert world.alice.received == RECORDS[:10]


def test_what_a_stranger_gets_of_it_is_limited() -> None:
    """She brings the newest packets first, each from another of her victims' addresses."""
    world = World(to_bob=list(RECORDS) * 4, rate=2.5e6)
    victims = [Address("203.0.113.200", port) for port in range(1, 2000)]
    brought = 0
    seen = 0
    began = world.now
    while not world.is_done():
        assert world.step(world.now + 30)
        fresh = world.alice.link.sent[seen:]
        seen = len(world.alice.link.sent)
        for datagram in fresh:
            if datagram[0] == SEALED and brought < len(victims):
                world.deliver(False, datagram, 0, victims[brought])
                brought += 1
    assert brought > 20
    at_victims = sum(len(sent_to(world, victim)) for victim in victims)
    challenged = MAX_CANDIDATES + (world.now - began) / CANDIDATE_INTERVAL + 1
    assert 0 < at_victims <= challenged * MAX_CHALLENGES
    assert world.bob.received == RECORDS * 4
    assert moves(world, False) == []


def test_an_address_that_does_not_answer_is_given_up_and_the_old_one_serves_on() -> None:
    """The newest packet came from elsewhere, once; then the peer is silent for a while, and still where it was."""
    world = World(to_bob=[b"x"])
    world.run(2)
    world.run_for(1)
    bob = world.bob.connection
    ping = world.alice.connection._sender.send_frames([Ping()], world.now).buffers[0]
    world.alice.link.is_cut = True  # the old path does not answer either
    world.deliver(False, bytes(ping), 0, MALLORY)
    world.run_for(8)
    world.alice.link.is_cut = False
    sizes = [len(transmit.buffers[0]) for transmit in sent_to(world, MALLORY)]
    assert sizes
    assert sum(sizes) <= AMPLIFICATION * len(ping)
    assert bob.remote == ALICE
    world.alice.to_send = list(reversed(RECORDS))
    world.run(10)
    assert world.bob.received == [b"x", *RECORDS]


def test_an_idle_connection_moves_with_its_keep_alive() -> None:
    world = World(to_bob=[b"x"])
    world.run(2)
    world.addresses[False] = HOST[False]
    world.run_for(20)
    assert moves(world, True) == [PeerMoved(HOST[False])]
    assert not [event for event in world.alice.events + world.bob.events if isinstance(event, IdleTimedOut)]


def test_a_packet_that_is_not_counted_as_received_is_still_no_news_when_it_is_replayed() -> None:
    world = World()
    beyond = Segment(10**6, 0, 100, bytes(100))
    datagram = bytes(world.alice.connection._sender.send_frames([beyond], START).buffers[0])
    world.deliver(False, datagram)
    world.deliver(False, datagram, 0, MALLORY)
    world.run_for(1)
    assert sent_to(world, MALLORY) == []


def test_without_entropy_it_stays_where_it_is() -> None:
    connection = Connection(keys("alice", "bob"), BOB, START)
    ping = World().bob.connection._sender.send_frames([Ping()], START).buffers[0]
    connection.handle_datagram(ping, 0, MALLORY, START)
    transmit = connection.poll_transmit(START)
    while transmit is not None:
        assert transmit.destination == BOB
        transmit = connection.poll_transmit(START)


def test_a_packet_full_of_challenges_is_answered_once_and_never_by_more_bytes() -> None:
    connection = Connection(keys("alice", "bob"), BOB, START)
    sender = World().bob.connection._sender
    question = sender.send_frames([PathChallenge(bytes([n]) * 8) for n in range(100)], START).buffers[0]
    for source in (MALLORY, BOB):
        connection.handle_datagram(question, 0, source, START)  # the second time from Bob's address: answered again
        answers = []
        while (transmit := connection.poll_transmit(START)) is not None:
            answers.append(transmit)
        assert [transmit.destination for transmit in answers] == [source]
        assert len(answers[0].buffers[0]) <= len(question)
        assert frames_of(answers[0]) == [PathResponse(bytes([99]) * 8)]
    connection.handle_datagram(question, 0, MALLORY, START)  # replayed
    assert connection.poll_transmit(START) is None


def frames_of(transmit: Transmit) -> list[object]:
    """What Alice sent."""
    bob = World().bob.connection
    datagram = bytes(transmit.buffers[0])
    return list(decode_frames(bob._open.decrypt(bytes(4) + datagram[8:16], datagram[16:], datagram[:16])))


# The machine by itself


def machine() -> Migration:
    return Migration(BOB, START, random.Random(1).randbytes)


def polled(migration: Migration) -> list[tuple[Address, object]]:
    frames = []
    while (frame := migration.poll_frame()) is not None:
        frames.append(frame)
    return frames


def asked(migration: Migration) -> dict[Address, bytes]:
    return {address: frame.data for address, frame in polled(migration) if isinstance(frame, PathChallenge)}


@pytest.mark.parametrize("pto", [0.01, 0.1, 0.6])
def test_the_old_address_has_its_time_to_answer(pto: float) -> None:
    migration = machine()
    migration.on_packet(MALLORY, 100, START, pto, False)
    questions = asked(migration)
    assert set(questions) == {MALLORY, BOB}
    assert migration.on_response(MALLORY, questions[MALLORY], START + 0.04) is None
    assert migration.state is State.ANSWERED
    now, moved = START, None
    while moved is None:
        at = migration.poll_timeout()
        assert at is not None
        assert at > now
        now, moved = at, migration.handle_timeout(at)
        assert set(asked(migration)) <= {BOB}
    assert now == START + max(pto, OLD_TIME)
    assert moved == Moved(MALLORY, pytest.approx(0.04))
    assert migration.remote == MALLORY


def test_an_answer_after_that_moves_at_once() -> None:
    migration = machine()
    migration.on_packet(MALLORY, 100, START, 0.1, False)
    question = asked(migration)[MALLORY]
    for tenth in (1, 2):
        migration.handle_timeout(START + tenth * 0.1)
    assert migration.on_response(MALLORY, question, START + 0.26) == Moved(MALLORY, pytest.approx(0.26))


@pytest.mark.parametrize("first", [True, False])
def test_a_path_that_still_answers_is_never_left(first: bool) -> None:
    migration = machine()
    migration.on_packet(MALLORY, 100, START, 0.1, False)
    questions = asked(migration)
    order = [BOB, MALLORY] if first else [MALLORY, BOB]
    for address in order:
        assert migration.on_response(address, questions[address], START + 0.05) is None
    assert migration.handle_timeout(START + 10) is None
    assert (migration.remote, migration.state) == (BOB, State.SETTLED)


def test_an_answer_counts_only_from_where_it_was_asked() -> None:
    migration = machine()
    migration.on_packet(MALLORY, 100, START, 0.1, False)
    questions = asked(migration)
    migration.on_response(MALLORY, questions[BOB], START + 0.05)
    migration.on_response(BOB, questions[MALLORY], START + 0.05)
    migration.on_response(Address("203.0.113.9", 10), questions[MALLORY], START + 0.05)
    migration.on_response(MALLORY, bytes(8), START + 0.05)
    assert migration.state is State.PROBING


def test_probing_packets_alone_do_not_move_anybody() -> None:
    migration = machine()
    migration.on_packet(MALLORY, 100, START, 0.1, True)
    assert migration.state is State.SETTLED


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 3), st.floats(0.0, 0.5)), max_size=60))
def test_whatever_happens_strangers_get_three_times_what_they_sent_at_most(
    steps: list[tuple[int, int, float]],
) -> None:
    migration, now = machine(), START
    places = [BOB, MALLORY, Address("203.0.113.10", 1), Address("203.0.113.9", 10)]
    received = dict.fromkeys(places, 0)
    sent = dict.fromkeys(places, 0)
    challenges: list[tuple[Address, bytes]] = []
    answered = set()
    for what, place, wait in steps:
        source = places[place]
        now += wait
        match what:
            case 0 | 1:
                received[source] += 33
                migration.on_packet(source, 33, now, 0.1, what == 1)
            case 2:
                received[source] += PACKET_SIZE
                migration.on_packet(source, PACKET_SIZE, now, 0.1, True)
                migration.on_challenge(source, bytes(8))
            case 3 if challenges:
                source, data = challenges[place % len(challenges)]
                answered.add(source)
                migration.on_response(source, data, now)
            case _:
                migration.handle_timeout(now)
        assert len(migration._waiting) <= 4
        for address, frame in polled(migration):
            sent[address] += PACKET_SIZE
            if isinstance(frame, PathChallenge):
                challenges.append((address, frame.data))
        for address in places[1:]:
            assert address in answered or sent[address] <= AMPLIFICATION * received[address]
        assert migration.remote == BOB or migration.remote in answered


@pytest.mark.parametrize("has_answered", [False, True])
def test_the_newest_packet_from_the_old_address_ends_it(has_answered: bool) -> None:
    migration = machine()
    migration.on_packet(MALLORY, 100, START, 0.1, False)
    questions = asked(migration)
    if has_answered:
        migration.on_response(MALLORY, questions[MALLORY], START + 0.01)
    migration.on_packet(BOB, 100, START + 0.02, 0.1, False)
    assert (migration.remote, migration.state, migration.poll_timeout()) == (BOB, State.SETTLED, None)
    assert migration.on_response(MALLORY, questions[MALLORY], START + 0.03) is None


def test_few_addresses_are_asked_in_a_row() -> None:
    migration = machine()
    victims = [Address("203.0.113.200", port) for port in range(1, 200)]
    for victim in victims[:100]:
        migration.on_packet(victim, 100, START, 0.1, False)
        polled(migration)
    assert migration._candidate is not None
    assert migration._candidate.address == victims[MAX_CANDIDATES - 1]
    for victim in victims[100:]:
        migration.on_packet(victim, 100, START + CANDIDATE_INTERVAL, 0.1, False)
    assert migration._candidate.address == victims[100]
