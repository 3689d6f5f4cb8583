"""Peers and a server on a virtual network: one table of what can go wrong, and the events a person hears of."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rendezvous_world import ALICE, ALTERNATE, BOB, FIRST, Network, Peer, World
from test_rendezvous_messages import MESSAGES

from p2p.core.address import Address
from p2p.core.errors import CallerError
from p2p.core.rendezvous import events as c
from p2p.core.rendezvous.client import RendezvousClient
from p2p.core.rendezvous.messages import (
    LEASE,
    NO_PEER,
    Cookie,
    Forward,
    Forwarded,
    Hello,
    Join,
    Joined,
    Leave,
    Left,
    NamePair,
    Nameplate,
    Pairing,
    Refused,
    RefusedReason,
    SeatState,
    Unsupported,
    encode,
    push_transaction,
)
from p2p.core.rendezvous.server_events import Limits
from p2p.core.rendezvous.timing import COOKIES_IN_A_ROW, OUTDATED_WAIT, REFUSED_PATIENCE
from p2p.core.role import Role

SENDER, RECEIVER = Role
BOGUS = Address("198.51.100.250", 1)


def push_to(peer: Peer) -> bytes:
    return push_transaction(vars(peer.machine)["_client"])


def kinds(events: list[c.Event]) -> list[type[c.Event]]:
    return [type(event) for event in events]


def test_two_peers_meet_and_talk() -> None:
    world = World()
    alice = world.join(ALICE, SENDER)
    world.run(12)
    bob = world.join(BOB, RECEIVER)
    world.run(3)
    world.forward(alice, b"hello")
    world.forward(bob, b"hallo")
    world.run(1)
    assert kinds(alice.events) == [c.Mapped, c.Waiting, c.Paired, c.Message]
    assert kinds(bob.events) == [c.Mapped, c.Paired, c.Message]
    assert alice.of(c.Mapped) == [c.Mapped(alice.address)]
    assert alice.of(c.Waiting) == [c.Waiting(alice.address)]
    assert bob.of(c.Message) == [c.Message(bob.of(c.Paired)[0].peer_tag, b"hello")]
    assert alice.of(c.Message) == [c.Message(alice.of(c.Paired)[0].peer_tag, b"hallo")]


def test_meeting_takes_two_round_trips() -> None:
    world = World(network=Network(delay=(0.1, 0.1)))
    world.join(ALICE, SENDER)
    world.run(1)
    bob = world.add_peer(BOB, RECEIVER)
    begun = world.now
    world.start(bob)
    assert world.run(1, lambda: bool(bob.of(c.Paired)))
    assert world.now - begun == pytest.approx(0.4)


def test_the_one_that_waits_hears_of_the_friend_at_once() -> None:
    world = World(network=Network(delay=(0.1, 0.1)))
    alice = world.join(ALICE, SENDER)
    world.run(1)
    bob = world.join(BOB, RECEIVER)
    assert world.run(1, lambda: bool(alice.of(c.Paired)))
    assert abs(alice.times[-1] - bob.times[-1]) < 0.001


def test_a_new_address_is_noticed_on_both_sides() -> None:
    world = World()
    alice = world.join(ALICE, SENDER)
    world.run(3)
    moved = alice.address = Address("192.0.2.99", 50000)
    world.run(6)
    assert alice.of(c.Mapped)[-1] == c.Mapped(moved)
    bob = world.join(BOB, RECEIVER)
    world.run(1)
    world.forward(bob, b"found you")
    world.run(1)
    assert kinds(alice.events) == [c.Mapped, c.Waiting, c.Mapped, c.Paired, c.Message]


def test_a_server_restart_while_waiting_goes_unnoticed() -> None:
    world = World()
    alice = world.join(ALICE, SENDER)
    world.run(7)
    world.stop_server()
    world.start_server()
    world.run(60)
    bob = world.join(BOB, RECEIVER)
    world.run(1)
    assert kinds(alice.events) == [c.Mapped, c.Waiting, c.Paired]
    assert bob.of(c.Paired)


def test_a_server_restart_while_paired_goes_unnoticed() -> None:
    world = World()
    alice, bob = world.join(ALICE, SENDER), world.join(BOB, RECEIVER)
    world.run(7)
    before = [kinds(alice.events), kinds(bob.events)]
    world.stop_server()
    world.start_server()
    world.run(60)
    assert [kinds(alice.events), kinds(bob.events)] == before
    world.forward(alice, b"still there?")
    world.run(1)
    assert bob.of(c.Message)


def test_talking_finds_a_restarted_server_within_three_round_trips() -> None:
    world = World()
    alice, bob = world.join(ALICE, SENDER), world.join(BOB, RECEIVER)
    world.run(7)
    world.stop_server()
    world.start_server()
    for peer in (alice, bob):
        world.forward(peer, b"lost")
    world.run(0.06)
    world.forward(alice, b"found")
    world.run(0.02)
    assert [message.payload for message in bob.of(c.Message)] == [b"found"]


@pytest.mark.parametrize("is_refused", [True, False])
def test_a_server_that_is_down_for_long_is_reported_and_found_again(is_refused: bool) -> None:
    world = World()
    world.port_is_closed = is_refused
    alice = world.join(ALICE, SENDER)
    world.run(1)
    world.stop_server()
    world.run(19)
    world.start_server()
    world.run(5)
    complaints = [event for event in alice.events if isinstance(event, c.Silent | c.ServerUnreachable)]
    if is_refused:
        assert complaints == [c.ServerUnreachable()] * 3
    else:
        assert [event.since_seconds for event in alice.of(c.Silent)] == pytest.approx([2, 7, 12])
    assert alice.events[2:] == [*complaints, c.Answering()]
    assert alice.of(c.Waiting), "the seat is taken again in the same state: no second Waiting"
    assert len(alice.of(c.Waiting)) == 1
    assert world.server is not None
    assert len(world.server) == 1


def test_a_short_restart_with_a_closed_port_is_no_news() -> None:
    world = World()
    world.port_is_closed = True
    alice = world.join(ALICE, SENDER)
    world.run(4.9)
    world.stop_server()
    world.run(1)
    world.start_server()
    world.run(20)
    assert kinds(alice.events) == [c.Mapped, c.Waiting]


def test_a_closed_port_at_the_start_is_told_at_once() -> None:
    world = World()
    world.stop_server()
    world.port_is_closed = True
    alice = world.join(ALICE, SENDER)
    world.run(0.1)
    assert alice.events == [c.ServerUnreachable()]
    world.start_server()
    world.run(1)
    assert kinds(alice.events) == [c.ServerUnreachable, c.Answering, c.Mapped, c.Waiting]


def test_a_silent_server_is_told_after_two_seconds_and_every_five() -> None:
    world = World()
    world.stop_server()
    alice = world.join(ALICE, SENDER)
    world.run(13)
    assert [event.since_seconds for event in alice.of(c.Silent)] == pytest.approx([2, 7, 12])
    assert kinds(alice.events) == [c.Silent] * 3


def test_a_crashed_predecessor_gives_way_after_its_lease() -> None:
    world = World()
    first = world.join(ALICE, SENDER)
    world.run(10.5)
    first.is_up = False
    second = world.join(ALICE, SENDER, first.address.host)
    begun = world.now
    assert world.run(30, lambda: bool(second.of(c.Waiting)))
    assert world.now - begun < LEASE + 1.5
    assert [event for event in second.events if isinstance(event, c.Contested | c.Refused)] == [
        c.Contested(RefusedReason.TAKEN)
    ]


def test_a_seat_that_stays_taken_is_refused_in_the_end() -> None:
    world = World()
    first = world.join(ALICE, SENDER)
    world.run(1)
    third = world.join(ALICE, SENDER)
    begun = world.now
    assert world.run(60, lambda: third.machine.is_closed)
    assert REFUSED_PATIENCE <= world.now - begun < REFUSED_PATIENCE + 1.5
    assert kinds(third.events) == [c.Mapped, c.Contested, c.Refused]
    assert third.events[1:] == [c.Contested(RefusedReason.TAKEN), c.Refused(RefusedReason.TAKEN)]
    bob = world.join(BOB, RECEIVER)
    world.run(1)
    assert kinds(first.events) == [c.Mapped, c.Waiting, c.Paired]
    assert bob.of(c.Paired)


def test_two_senders_are_both_told_and_the_first_still_finds_a_receiver() -> None:
    world = World()
    alice = world.join(ALICE, SENDER)
    world.run(1)
    bob = world.join(BOB, SENDER)
    world.run(3)
    assert bob.events[-1] == c.Refused(RefusedReason.SAME_ROLE)
    assert bob.machine.is_closed
    assert alice.events[2:] == [c.Contested(RefusedReason.SAME_ROLE)]
    world.join(BOB, RECEIVER)
    world.run(1)
    assert kinds(alice.events)[3:] == [c.Paired]


def test_the_waiting_one_is_told_of_the_same_role_even_when_the_push_is_lost() -> None:
    world = World()
    alice = world.join(ALICE, SENDER)
    world.run(1)
    world.join(BOB, SENDER)
    alice.address, there = Address("192.0.2.250", 1), alice.address
    world.run(0.5)
    alice.address = there
    assert not alice.of(c.Contested)
    world.run(6)
    assert alice.of(c.Contested) == [c.Contested(RefusedReason.SAME_ROLE)]
    world.run(60)
    assert len(alice.of(c.Contested)) == 1


def test_two_receivers_of_one_code() -> None:
    world = World()
    first = world.join(Nameplate("42"), RECEIVER)
    world.run(1)
    second = world.join(Nameplate("42"), RECEIVER)
    world.run(30)
    assert first.events[2:] == [c.Contested(RefusedReason.SAME_ROLE)]
    assert second.events[1:] == [c.Contested(RefusedReason.SAME_ROLE), c.Refused(RefusedReason.SAME_ROLE)]


def test_a_full_server_is_asked_again() -> None:
    world = World(limits=Limits(entries=1))
    first = world.join(ALICE, SENDER)
    world.run(1)
    second = world.join(NamePair("carol", "dave"), SENDER)
    world.run(3)
    assert second.events[1:] == [c.Contested(RefusedReason.SERVER_FULL)]
    world.leave(first)
    world.run(3)
    assert kinds(second.events)[2:] == [c.Waiting]


def test_leaving_tells_the_friend_at_once() -> None:
    world = World()
    alice, bob = world.join(ALICE, SENDER), world.join(BOB, RECEIVER)
    world.run(2)
    begun = world.now
    world.leave(alice)
    assert world.run(1, lambda: alice.machine.is_closed and bool(bob.of(c.PeerLeft)))
    assert world.now - begun == pytest.approx(0.02)
    assert alice.events[-1] == c.Gone()
    assert kinds(bob.events)[-2:] == [c.PeerLeft, c.Waiting]
    assert alice.machine.poll_timeout() is None
    world.join(ALICE, SENDER)
    world.run(1)
    assert kinds(bob.events)[-1] is c.Paired


@pytest.mark.parametrize("after", [0.0, 0.015, 0.025, 3.0])
def test_leaving_ends_within_a_second_whatever_the_server_does(after: float) -> None:
    world = World()
    alice = world.join(ALICE, SENDER)
    world.run(after)
    world.stop_server()
    begun = world.now
    world.leave(alice)
    assert world.run(10, lambda: alice.machine.is_closed)
    assert world.now - begun <= 1.0
    assert alice.events[-1] == c.Gone()
    assert sum(data[4] == Leave.TYPE for _, _, _, data in world.trace) <= 6


def test_a_friend_that_crashed_is_gone_after_its_lease() -> None:
    world = World()
    alice, bob = world.join(ALICE, SENDER), world.join(BOB, RECEIVER)
    world.run(1)
    bob.is_up = False
    assert world.run(LEASE, lambda: bool(alice.of(c.PeerLeft)))
    again = world.join(BOB, RECEIVER)
    world.run(1)
    assert kinds(alice.events)[-3:] == [c.PeerLeft, c.Waiting, c.Paired]
    assert alice.of(c.Paired)[0] != alice.of(c.Paired)[1]
    assert again.of(c.Paired)


def test_a_friend_that_left_is_missed_even_when_the_push_is_lost() -> None:
    world = World()
    alice, bob = world.join(ALICE, SENDER), world.join(BOB, RECEIVER)
    world.run(1)
    alice.address, there = Address("192.0.2.250", 1), alice.address
    world.leave(bob)
    world.run(0.5)
    alice.address = there
    assert world.run(13, lambda: bool(alice.of(c.PeerLeft)))
    assert alice.events[-1] == c.Waiting(alice.address)


def test_an_answer_overtaken_by_the_push_does_not_undo_the_pairing() -> None:
    world = World()
    alice = world.add_peer(ALICE, SENDER)
    world.extra_delay = lambda to, data: 0.2 if to == alice.address and data[4] == Joined.TYPE else 0.0
    world.start(alice)
    world.run(0.035)  # the answer "waiting" is on its way
    world.extra_delay = lambda _to, _data: 0.0
    world.join(BOB, RECEIVER)
    world.run(30)
    assert kinds(alice.events) == [c.Mapped, c.Paired]
    world.forward(alice, b"still paired")
    world.run(1)
    assert world.peers[1].of(c.Message)


@pytest.mark.parametrize("paired", [False, True])
def test_what_is_forged_in_the_servers_name_changes_nothing(paired: bool) -> None:
    """By somebody who knows both addresses, but sees neither requests nor answers."""
    world = World()
    alice = world.join(ALICE, SENDER)
    if paired:
        world.join(BOB, RECEIVER)
    world.run(1)
    before, asked = kinds(alice.events), len(world.trace)
    chance = random.Random(1)
    for _ in range(1000):
        for transaction in (bytes(8), chance.randbytes(8)):
            for forged in (
                Joined(transaction, SeatState.PAIRED, LEASE, b"12345678", alice.address),
                Joined(transaction, SeatState.WAITING, LEASE, NO_PEER, alice.address),
                Joined(transaction, SeatState.CONTESTED, LEASE, NO_PEER, alice.address),
                Refused(transaction, RefusedReason.TAKEN),
                Refused(transaction, RefusedReason.NOT_JOINED),
                Cookie(transaction, bytes(16), BOGUS),
                Forwarded(transaction, b"x"),
                Left(transaction),
                Unsupported(2, 3),
            ):
                alice.machine.handle_datagram(encode(forged), FIRST, world.now)
        world.run(0.01)
    assert kinds(alice.events) == before
    assert len(world.trace) - asked < 10 * 2 * (4 + 1)  # ten seconds in which it asked again, and was answered


def test_a_late_push_that_the_friend_left_is_put_right_at_once() -> None:
    world = World()
    alice = world.join(ALICE, SENDER)
    world.join(BOB, RECEIVER)
    world.run(1)
    late = Joined(push_to(alice), SeatState.WAITING, LEASE, NO_PEER, alice.address)
    alice.machine.handle_datagram(encode(late), FIRST, world.now)
    world.run(0.1)
    assert kinds(alice.events)[-4:] == [c.Paired, c.PeerLeft, c.Waiting, c.Paired]


def test_a_message_makes_up_for_the_lost_push_of_the_pairing() -> None:
    world = World()
    alice = world.join(ALICE, SENDER)
    world.run(1)
    alice.address, there = Address("192.0.2.250", 1), alice.address
    bob = world.join(BOB, RECEIVER)
    world.run(0.5)
    alice.address = there
    world.forward(bob, b"first")
    world.run(0.1)
    world.forward(bob, b"second")
    world.run(0.1)
    assert kinds(alice.events)[2:] == [c.Paired, c.Message]
    assert alice.of(c.Message)[0].payload == b"second"


def test_what_a_former_friend_said_is_not_delivered() -> None:
    world = World()
    alice = world.join(ALICE, SENDER)
    world.join(BOB, RECEIVER)
    world.run(1)
    alice.machine.handle_datagram(encode(Forwarded(b"formerly", b"late")), FIRST, world.now)
    world.run(1)
    assert not alice.of(c.Message)


def test_patience_begins_anew_with_every_refusal_after_a_seat() -> None:
    world = World()
    first = world.join(ALICE, SENDER)
    world.run(1)
    second = world.join(ALICE, SENDER)
    first.is_up = False
    assert world.run(20, lambda: bool(second.of(c.Waiting)))
    world.run(9)
    world.start_server()
    third = world.join(ALICE, SENDER)
    world.run(8)
    assert second.events[-1] == c.Contested(RefusedReason.TAKEN)
    world.leave(third)
    world.run(3)
    assert kinds(second.events)[-2:] == [c.Contested, c.Waiting]


def test_the_address_is_said_at_once_and_only_when_it_changes() -> None:
    world = World()
    alice = world.join(ALICE, SENDER)
    world.run(20)
    assert alice.of(c.Mapped) == [c.Mapped(alice.address)]
    assert alice.times[0] == pytest.approx(1000.02)
    assert {to for _, source, to, _ in world.trace if source == alice.address} == {FIRST}


def test_another_version_is_the_end_only_while_an_answer_is_due() -> None:
    unsupported = encode(Unsupported(2, 3))
    for data, version in ((unsupported, 3), (b"p2p\4\2whatever", 4)):
        world = World()
        alice = world.join(ALICE, SENDER)
        world.run(1)
        alice.machine.handle_datagram(data, FIRST, world.now)
        world.run(0.1)
        assert not alice.of(c.Outdated)
        world.stop_server()
        world.run(8)  # silent, so it may have been replaced
        alice.machine.handle_datagram(data, FIRST, world.now)
        world.run(OUTDATED_WAIT - 0.1)
        assert not alice.of(c.Outdated)
        world.run(0.2)
        assert alice.of(c.Outdated) == [c.Outdated(version)]
        assert alice.machine.is_closed


def test_a_forged_word_of_another_version_is_refuted_by_the_servers_answer() -> None:
    """It bears no number, so who knows our address can send it before the first answer comes."""
    world = World()
    alice = world.join(ALICE, SENDER)
    for _ in range(20):
        alice.machine.handle_datagram(encode(Unsupported(2, 3)), FIRST, world.now)
        alice.machine.handle_datagram(b"p2p\4\2whatever", FIRST, world.now)
        world.run(0.05)
    world.run(2 * OUTDATED_WAIT)
    assert not alice.of(c.Outdated)
    assert alice.of(c.Waiting)


def test_a_nat_that_changes_our_address_every_time_does_not_make_us_flood() -> None:
    now = 0.0
    machine = RendezvousClient(FIRST, ALICE, SENDER, random.Random(1).randbytes)
    machine.start(now)
    sent = 0
    for step in range(1000):
        now = step / 100
        machine.handle_timeout(now)
        while (transmit := machine.poll_transmit()) is not None:
            data = bytes(transmit.buffers[0])
            sent += 1
            transaction = data[5:13]
            answer = Cookie(transaction, bytes(16), Address("192.0.2.1", step + 1))
            machine.handle_datagram(encode(answer), FIRST, now)
    assert sent <= COOKIES_IN_A_ROW + 1 + 10 / 2


def test_strangers_are_ignored() -> None:
    world = World()
    alice = world.join(ALICE, SENDER)
    world.run(1)
    for source in (Address("203.0.113.1", 9999), Address("203.0.113.2", 8080), ALTERNATE):
        push = Joined(push_to(alice), SeatState.PAIRED, LEASE, b"12345678", alice.address)
        alice.machine.handle_datagram(encode(push), source, world.now)
    world.run(1)
    assert not alice.of(c.Paired)


def test_misuse_is_the_callers_fault() -> None:
    machine = RendezvousClient(FIRST, ALICE, SENDER, random.Random(1).randbytes)
    machine.start(0.0)
    with pytest.raises(CallerError):
        machine.start(0.0)
    for payload in (b"", bytes(1025)):
        with pytest.raises(CallerError):
            machine.forward(payload, 0.0)
    machine.forward(b"to nobody", 0.0)
    machine.leave(0.0)
    assert machine.poll_event() == c.Gone()
    machine.leave(0.0)
    assert machine.poll_event() is None


def test_the_secret_that_owns_the_seat_is_never_told_to_the_friend() -> None:
    world = World()
    alice, bob = world.join(ALICE, SENDER), world.join(BOB, RECEIVER)
    world.run(1)
    world.forward(alice, b"hello")
    world.run(1)
    secret = next(m for m in world.messages_to(FIRST) if isinstance(m, Join)).client
    assert any(secret in data for _, _, to, data in world.trace if to == FIRST)
    assert not any(secret in data for _, _, to, data in world.trace if to in (alice.address, bob.address))
    assert any(isinstance(m, Forward) for m in world.messages_to(FIRST))
    assert isinstance(world.messages_to(FIRST)[0], Hello)


NETWORKS = st.builds(
    Network,
    loss=st.floats(0, 0.4),
    duplicate=st.floats(0, 0.4),
    delay=st.tuples(st.floats(0, 0.2), st.floats(0.2, 1.0)),
)


@given(st.integers(0, 2**32), NETWORKS, st.floats(0, 20), st.booleans())
@settings(max_examples=150, deadline=None)
def test_two_peers_always_meet(seed: int, network: Network, pause: float, restarts: bool) -> None:
    """Loss up to 40 %, duplicates, reordering by up to a second, and perhaps a server that loses its memory."""
    world = World(seed, network)
    alice = world.join(ALICE, SENDER)
    world.run(pause)
    bob = world.join(BOB, RECEIVER)
    if restarts:
        world.call_at(world.now + world.random.uniform(0, 10), world.start_server)

    def have_met() -> bool:
        return all(peer.of(c.Paired) for peer in (alice, bob))

    assert world.run(90, have_met)

    def have_talked() -> bool:
        if not all(peer.of(c.Message) for peer in (alice, bob)):
            world.forward(alice, b"from alice")
            world.forward(bob, b"from bob")
            world.run(0.5)
        return all(peer.of(c.Message) for peer in (alice, bob))

    assert any(have_talked() for _ in range(200))
    assert {m.payload for m in alice.of(c.Message)} == {b"from bob"}
    assert {m.payload for m in bob.of(c.Message)} == {b"from alice"}
    assert len({m.peer_tag for m in bob.of(c.Message)}) == 1


@given(st.lists(st.tuples(st.one_of(MESSAGES.map(encode), st.binary(max_size=80)), st.booleans()), max_size=20))
@settings(max_examples=100)
def test_nothing_the_server_says_breaks_a_peer(datagrams: list[tuple[bytes, bool]]) -> None:
    world = World()
    alice = world.join(ALICE, SENDER)
    world.run(0.03)
    for data, is_alternate in datagrams:
        alice.machine.handle_datagram(data, ALTERNATE if is_alternate else FIRST, world.now)
        world.run(0.3)
    if not alice.machine.is_closed:
        world.leave(alice)
        assert world.run(2, lambda: alice.machine.is_closed)
    assert alice.machine.poll_timeout() is None


PAIRINGS: list[tuple[Pairing, Pairing]] = [(ALICE, BOB), (Nameplate("42"), Nameplate("42"))]


@pytest.mark.parametrize("pairings", PAIRINGS)
@given(st.data())
@settings(max_examples=30, deadline=None)
def test_who_holds_a_seat_survives_a_crowd(pairings: tuple[Pairing, Pairing], data: st.DataObject) -> None:
    """Others come and go with the same names: the two first keep each other."""
    world = World(data.draw(st.integers(0, 1000)))
    alice, bob = world.join(pairings[0], SENDER), world.join(pairings[1], RECEIVER)
    world.run(2)
    before = kinds(alice.events), kinds(bob.events)
    for _ in range(data.draw(st.integers(1, 5))):
        other = world.join(data.draw(st.sampled_from(pairings)), data.draw(st.sampled_from(Role)))
        world.run(data.draw(st.floats(0, 6)))
        if data.draw(st.booleans()):
            world.leave(other)
    world.run(20)
    assert (kinds(alice.events), kinds(bob.events)) == before
