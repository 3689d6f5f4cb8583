"""The client machine asks for a relay, and changes between UDP and a TCP connection, in virtual time."""

from __future__ import annotations

import pytest
from rendezvous_world import ALICE, BOB, FIRST, Network, Peer, World

from p2p.core.address import Address
from p2p.core.datagram import MAIN
from p2p.core.rendezvous import events as c
from p2p.core.rendezvous.messages import (
    CLIENT_SIZE,
    Join,
    Relay,
    Relayed,
    RelayState,
    Unsupported,
    decode,
    encode,
    push_transaction,
)
from p2p.core.rendezvous.relay import CONSENT
from p2p.core.role import Role

SENDER, RECEIVER = Role


def states(peer: Peer) -> list[RelayState]:
    return [event.state for event in peer.of(c.Relayed)]


def ask(world: World, peer: Peer) -> None:
    peer.machine.ask_relay(world.now)


def pair(world: World) -> tuple[Peer, Peer]:
    alice, bob = world.join(ALICE, SENDER), world.join(BOB, RECEIVER)
    assert world.run(30, lambda: bool(alice.of(c.Paired) and bob.of(c.Paired)))
    return alice, bob


def test_both_ask_and_both_are_told_at_once() -> None:
    world = World()
    alice, bob = pair(world)
    ask(world, alice)
    world.run(1)
    assert states(alice) == [RelayState.ALONE]
    ask(world, bob)
    world.run(0.1)
    assert states(alice)[-1] is states(bob)[-1] is RelayState.OPEN
    assert bob.of(c.Relayed)[0] == c.Relayed(RelayState.OPEN, 25_000_000, 20_000_000_000)


def test_who_asks_before_there_is_a_seat_asks_when_there_is_one() -> None:
    world = World()
    alice, bob = world.add_peer(ALICE, SENDER), world.add_peer(BOB, RECEIVER)
    for peer in (alice, bob):
        ask(world, peer)
        world.start(peer)
    world.run(1)
    assert states(alice)[-1] is states(bob)[-1] is RelayState.OPEN


@pytest.mark.parametrize("seed", range(20))
def test_it_opens_whatever_is_lost_and_stays_open(seed: int) -> None:
    world = World(seed, Network(loss=0.2, duplicate=0.1, delay=(0.01, 0.2)))
    alice, bob = pair(world) if seed % 2 else (world.join(ALICE, SENDER), world.join(BOB, RECEIVER))
    for peer in (alice, bob):
        ask(world, peer)
    assert world.run(60, lambda: states(alice)[-1:] == states(bob)[-1:] == [RelayState.OPEN])
    opened = len(alice.events), len(bob.events)
    world.run(120)
    assert alice.events[opened[0] :].count(c.PeerLeft()) == 0
    later = states(alice)[-5:] + states(bob)[-5:]
    assert set(later) == {RelayState.OPEN}


def test_a_restarted_server_opens_it_again() -> None:
    world = World()
    alice, bob = pair(world)
    ask(world, alice)
    ask(world, bob)
    world.run(3)
    world.stop_server()
    world.run(20)
    world.start_server()
    before = len(alice.events), len(bob.events)
    world.run(6)
    for peer, seen in ((alice, before[0]), (bob, before[1])):
        assert [each.state for each in peer.events[seen:] if isinstance(each, c.Relayed)][-1] is RelayState.OPEN


def test_who_drops_it_is_forgotten() -> None:
    world = World()
    alice, bob = pair(world)
    ask(world, alice)
    ask(world, bob)
    world.run(3)
    alice.machine.drop_relay(world.now)
    asked = len(alice.of(c.Relayed))
    world.run(CONSENT + 6)
    assert len(alice.of(c.Relayed)) == asked
    assert states(bob)[-1] is RelayState.ALONE


def test_a_lost_question_is_repeated_and_an_answered_one_is_not() -> None:
    world = World()
    alice = world.join(ALICE, SENDER)
    world.run(1)
    world.stop_server()
    ask(world, alice)
    world.run(3)
    asked = [message for message in world.messages_to(FIRST) if isinstance(message, Relay)]
    assert len(asked) == 4  # 0, 0.25, 0.75, 1.75 s
    assert len({message.transaction for message in asked}) == 1
    world.start_server()
    world.run(6)
    before = len([message for message in world.messages_to(FIRST) if isinstance(message, Relay)])
    world.run(4.5)
    assert len([message for message in world.messages_to(FIRST) if isinstance(message, Relay)]) <= before + 1


def test_nobody_else_can_say_that_it_is_open() -> None:
    world = World()
    alice, _ = pair(world)
    ask(world, alice)
    world.run(1)
    for transaction in (bytes(8), push_transaction(bytes(CLIENT_SIZE))):
        alice.machine.handle_datagram(encode(Relayed(transaction, RelayState.OPEN, 1, 1)), FIRST, world.now)
    world.run(0.1)
    assert set(states(alice)) == {RelayState.ALONE}


def test_a_network_without_udp_is_left_for_tcp() -> None:
    world = World()
    alice, bob = world.add_peer(ALICE, SENDER), world.join(BOB, RECEIVER)
    alice.has_udp = False
    world.start(alice)
    world.run(2.5)
    assert alice.of(c.Silent)
    world.connect(alice)
    assert world.run(1, lambda: bool(alice.of(c.Paired) and bob.of(c.Paired)))
    here = world.tunnel_address(alice)
    assert alice.of(c.Mapped) == [c.Mapped(here, -1)]
    assert alice.of(c.Answering)
    world.forward(alice, b"to bob")
    world.forward(bob, b"to alice")
    world.run(1)
    assert [each.payload for each in alice.of(c.Message) + bob.of(c.Message)] == [b"to alice", b"to bob"]
    world.leave(alice)
    world.run(1)
    assert alice.of(c.Gone)
    assert bob.of(c.PeerLeft)


@pytest.mark.parametrize("when", [0.0, 0.005, 0.015, 0.025, 0.1, 7.0])
def test_the_way_may_change_at_any_time_and_the_seat_moves_along(when: float) -> None:
    world = World()
    alice, bob = world.join(ALICE, SENDER), world.join(BOB, RECEIVER)
    world.run(when)
    world.connect(alice)
    world.run(1)
    assert alice.of(c.Paired)
    assert not alice.of(c.PeerLeft)
    alice.has_udp = False
    world.forward(bob, b"still there?")
    world.run(1)
    assert [each.payload for each in alice.of(c.Message)] == [b"still there?"]
    alice.has_udp = True
    alice.machine.use(MAIN, world.now)
    world.run(1)
    alice.connection = None
    world.forward(bob, b"and now?")
    world.run(1)
    assert alice.of(c.Message)[-1].payload == b"and now?"
    assert alice.of(c.Mapped)[-1] == c.Mapped(alice.address)
    assert len(bob.of(c.Paired)) == 1
    assert not bob.of(c.PeerLeft)


def test_a_broken_connection_is_followed_by_another_with_the_relay_in_it() -> None:
    world = World()
    alice, bob = pair(world)
    ask(world, alice)
    ask(world, bob)
    world.connect(alice)
    world.run(1)
    world.connect(alice)
    world.run(1)
    assert world.server is not None
    assert alice.connection is not None
    sent = world.server.handle_burst(bob.address, 0, 1000, 0, world.now)
    assert sent == (world.tunnel_address(alice), alice.connection, 1000)
    assert not alice.of(c.PeerLeft)


def test_the_way_that_is_not_in_use_cannot_end_anything() -> None:
    world = World()
    alice = world.add_peer(ALICE, SENDER)
    alice.has_udp = False
    world.start(alice)
    world.connect(alice)
    alice.machine.handle_datagram(encode(Unsupported(2, 3)), FIRST, world.now)
    alice.machine.handle_error(world.now)
    world.run(5)
    assert not alice.of(c.Outdated)
    assert not alice.of(c.ServerUnreachable)
    assert alice.of(c.Waiting)


def test_no_cookie_of_one_way_is_taken_for_the_other() -> None:
    """Else the JOIN that follows would bear it, and cost a round trip more, or go on for ever."""
    world = World()
    alice = world.join(ALICE, SENDER)
    world.run(0.012)  # the COOKIE to the UDP address is under way
    world.connect(alice)
    world.run(1)
    joins = [decode(data) for _, source, _, data in world.trace if source == world.tunnel_address(alice)]
    cookies = [message.cookie for message in joins if isinstance(message, Join)]
    assert len(set(cookies) - {bytes(16)}) == 1
    assert Address(alice.address.host, alice.address.port) != world.tunnel_address(alice)


def test_an_answer_that_was_overtaken_by_the_push_does_not_undo_it() -> None:
    world = World()
    alice, bob = pair(world)
    late = iter([0.2])  # before the question would be repeated
    world.extra_delay = lambda to, data: next(late, 0.0) if to == alice.address and data[4] == Relayed.TYPE else 0.0
    ask(world, alice)
    world.run(0.1)
    ask(world, bob)
    world.run(1)
    assert states(alice)[-1] is RelayState.OPEN
    assert RelayState.ALONE not in states(alice)
