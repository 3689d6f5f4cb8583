"""A path that breaks in mid-transfer: the two find each other again, and the rest crosses over another one."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
from scenarios import Scenario
from sim.programs import SimPeer
from sim.worlds import World

from p2p.core.errors import ExitCode, Failure
from p2p.core.peer import events
from p2p.core.peer.events import PathKind
from p2p.core.transport.idle import IDLE_TIMEOUT

CONTENT = random.Random(3).randbytes(8_000_000)
FILES = {"big": CONTENT, "empty": b"", "small": b"abc", "last": CONTENT[:300_000]}
NATTED = Scenario("port-restricted", "port-restricted")
ONE_LAN = Scenario("port-restricted", "port-restricted", one_lan=True)
OPEN = Scenario("full cone", "full cone")
BOTH_PATHS = pytest.mark.parametrize("scenario", [NATTED, ONE_LAN], ids=["punched", "LAN"])
RECONNECT = 900.0  # virtual seconds to look for the other side
FOUND = IDLE_TIMEOUT + 15.0  # virtual seconds from a broken path to the end, where nothing else is wrong


def start(world: World, **options: object) -> tuple[SimPeer, SimPeer]:
    """Runs until a good part has arrived."""
    sender, receiver = world.sender(FILES, reconnect=RECONNECT, **options), world.receiver(reconnect=RECONNECT)
    sender.start()
    receiver.start()
    world.network.run(lambda: receiver.machine.progress.done > 1_000_000, 30.0)
    return sender, receiver


def assert_all_arrived(sender: SimPeer, receiver: SimPeer) -> None:
    assert (sender.exit_code, receiver.exit_code) == (ExitCode.DONE, ExitCode.DONE)
    assert receiver.received == FILES
    assert sum(isinstance(event, events.Done) for event in sender.events) == 1
    assert sum(isinstance(event, events.Done) for event in receiver.events) == 1
    assert sum(isinstance(event, events.Offered) for event in receiver.events) == 1


def paths(peer: SimPeer) -> list[PathKind]:
    return [event.kind for event in peer.events if isinstance(event, events.PathChosen)]


def losses(peer: SimPeer) -> int:
    return sum(isinstance(event, events.PathLost) for event in peer.events)


def break_tcp(*peers: SimPeer) -> None:
    for peer in peers:
        for pipe in list(peer.attempt.pipes.values()):
            pipe.reset()


def darken(world: World, peers: tuple[SimPeer, SimPeer], seconds: float) -> None:
    """Both are without a network; what is written to a TCP connection goes nowhere, and nobody says so."""
    for host in world.hosts:
        host.is_up = False
    for peer in peers:
        for pipe in peer.attempt.pipes.values():
            pipe.other = pipe
            pipe.on_data = lambda _: None

    def lighten() -> None:
        for host in world.hosts:
            host.is_up = True

    world.network.after(seconds, lighten)


def at_progress(world: World, receiver: SimPeer, marks: list[int], action: Callable[[], None]) -> None:
    """Calls `action` each time that so much has arrived."""
    left = sorted(marks)

    def look() -> None:
        if left and receiver.machine.progress.done >= left[0]:
            del left[0]
            action()
        if left:
            world.network.after(0.005, look)

    look()


@pytest.mark.parametrize("seed", range(3))
def test_a_nat_that_forgets_its_mappings_ten_times(seed: int) -> None:
    """The other NAT lets nobody in from a port that it does not know: another path each time."""
    world = World(NATTED, seed)
    sender, receiver = world.sender(FILES, reconnect=RECONNECT), world.receiver(reconnect=RECONNECT)
    sender.start()
    receiver.start()
    nats = [host.nat for host in world.hosts]
    marks = [500_000 + 700_000 * number for number in range(10)]
    at_progress(world, receiver, marks, lambda: world.network.rng.choice(nats).rebind())
    world.run(sender, receiver, limit=10 * FOUND + 30)
    assert_all_arrived(sender, receiver)
    assert losses(sender) == losses(receiver) == 10


@pytest.mark.parametrize("seed", range(3))
def test_an_open_nat_that_forgets_its_mappings_ten_times_costs_no_path(seed: int) -> None:
    """The connection just follows."""
    world = World(OPEN, seed)
    sender, receiver = world.sender(FILES, reconnect=RECONNECT), world.receiver(reconnect=RECONNECT)
    sender.start()
    receiver.start()
    marks = [500_000 + 700_000 * number for number in range(10)]
    at_progress(world, receiver, marks, world.hosts[0].nat.rebind)
    world.run(sender, receiver, limit=60.0)
    assert_all_arrived(sender, receiver)
    assert losses(sender) == losses(receiver) == 0
    assert any(isinstance(event, events.PathMoved) for event in receiver.events)


def test_the_way_back_is_computed_once_and_not_in_every_turn() -> None:
    world = World(NATTED, seed=1)
    sender, receiver = start(world)
    ours, theirs = sender.peer.way_back, receiver.peer.way_back
    assert ours is not None
    assert theirs is not None
    assert (ours.secret, ours.pairing.me) == (theirs.secret, theirs.pairing.friend)
    assert sender.peer.way_back is ours
    assert receiver.peer.way_back is theirs


@pytest.mark.parametrize("who", [0, 1], ids=["sender", "receiver"])
@BOTH_PATHS
def test_a_machine_that_gets_other_addresses_ten_times(scenario: Scenario, who: int) -> None:
    world = World(scenario)
    peers = world.sender(FILES, reconnect=RECONNECT), world.receiver(reconnect=RECONNECT)
    for peer in peers:
        peer.start()
    host, number = world.hosts[who], [9]

    def move() -> None:
        number[0] += 1
        world.network.move(host, f"{host.address.rpartition('.')[0]}.{number[0]}")
        break_tcp(*peers)

    at_progress(world, peers[1], [500_000 + 700_000 * mark for mark in range(10)], move)
    world.run(*peers, limit=10 * FOUND + 30)
    assert_all_arrived(*peers)


@BOTH_PATHS
@pytest.mark.parametrize("pause", [0.5, 20.0])
def test_the_server_restarts_while_a_path_is_lost(scenario: Scenario, pause: float) -> None:
    world = World(scenario)
    peers = start(world)
    darken(world, peers, 1.0)
    for host in world.hosts:
        host.nat.rebind()
    world.server.stop()
    world.network.after(IDLE_TIMEOUT + pause, world.server.restart)
    world.run(*peers, limit=2 * FOUND + pause)
    assert_all_arrived(*peers)


def test_tcp_that_breaks_goes_on_by_udp() -> None:
    world = World(ONE_LAN)
    peers = start(world)
    for host in world.hosts:
        host.takes_tcp = False
    break_tcp(*peers)
    world.run(*peers, limit=FOUND)
    assert_all_arrived(*peers)
    assert paths(peers[0]) == paths(peers[1]) == [PathKind.TCP, PathKind.UDP]


def test_udp_that_breaks_goes_on_by_tcp() -> None:
    world = World(ONE_LAN)
    for host in world.hosts:
        host.takes_tcp = False
    peers = start(world)
    for host in world.hosts:
        host.takes_tcp = True
    darken(world, peers, IDLE_TIMEOUT + 1.0)
    world.run(*peers, limit=2 * FOUND)
    assert_all_arrived(*peers)
    assert paths(peers[0]) == paths(peers[1]) == [PathKind.UDP, PathKind.TCP]


def test_tcp_that_is_tampered_with_goes_on_over_another_path() -> None:
    world = World(ONE_LAN)
    peers = start(world)
    pipe = next(iter(peers[1].attempt.pipes.values()))
    pipe.on_data(b"\0\x20" + bytes(32))
    world.run(*peers, limit=FOUND)
    assert_all_arrived(*peers)
    assert losses(peers[1]) == 1


@BOTH_PATHS
@pytest.mark.parametrize("who", [0, 1], ids=["sender", "receiver"])
def test_one_side_sleeps_for_five_minutes(scenario: Scenario, who: int) -> None:
    world = World(scenario)
    peers = start(world)
    peers[who].freeze(300.0)
    world.run(*peers, limit=300.0 + 2 * FOUND)
    assert_all_arrived(*peers)


@BOTH_PATHS
@pytest.mark.parametrize("seconds", [5.0, 60.0])
def test_both_lose_their_network(scenario: Scenario, seconds: float) -> None:
    world = World(scenario)
    peers = start(world)
    darken(world, peers, seconds)
    world.run(*peers, limit=seconds + 2 * FOUND)
    assert_all_arrived(*peers)
    if scenario is NATTED and seconds < IDLE_TIMEOUT:
        assert losses(peers[0]) == losses(peers[1]) == 0


@BOTH_PATHS
@pytest.mark.parametrize("seconds", [1.0, 14.0])
def test_the_path_breaks_when_only_the_receiver_knows_that_all_arrived(scenario: Scenario, seconds: float) -> None:
    world = World(scenario)
    peers = start(world)
    sender, receiver = peers
    world.network.run(lambda: receiver.machine.is_finished, 30.0)
    assert not sender.machine.ended
    darken(world, peers, seconds)
    world.run(*peers, limit=seconds + 2 * FOUND)
    assert_all_arrived(*peers)


@BOTH_PATHS
def test_an_end_that_was_heard_needs_no_other_path(scenario: Scenario) -> None:
    """By the sender's last word, or by what the transport knows."""
    world = World(scenario)
    peers = start(world)
    world.run(*peers, limit=10.0)
    assert_all_arrived(*peers)
    assert [len(peer.attempts) for peer in peers] == [1, 1]
    assert [peer.peer.rejoin for peer in peers] == [None, None]


def test_the_path_breaks_while_the_person_is_asked() -> None:
    world = World(NATTED)
    sender, receiver = world.sender(FILES, reconnect=RECONNECT), world.receiver(reconnect=RECONNECT)
    receiver.attempt._answer = lambda: None  # type: ignore[method-assign]
    sender.start()
    receiver.start()
    world.network.run(lambda: any(isinstance(event, events.Offered) for event in receiver.events), 30.0)
    world.hosts[0].nat.rebind()
    world.network.run(lambda: len(receiver.attempts) == len(sender.attempts) == 2, FOUND)
    receiver.machine.accept()
    world.run(sender, receiver, limit=FOUND)
    assert_all_arrived(sender, receiver)


def test_the_person_says_no_while_the_path_is_lost() -> None:
    world = World(NATTED)
    sender, receiver = world.sender(FILES, reconnect=RECONNECT), world.receiver(reconnect=RECONNECT)
    receiver.attempt._answer = lambda: None  # type: ignore[method-assign]
    sender.start()
    receiver.start()
    world.network.run(lambda: any(isinstance(event, events.Offered) for event in receiver.events), 30.0)
    world.hosts[0].nat.rebind()
    world.network.run(lambda: len(receiver.attempts) == 2, FOUND)
    receiver.peer.refuse(Failure(ExitCode.REFUSED, "you said no"), "the person there said no", world.network.now)
    receiver.attempt.pump()
    world.run(receiver, limit=FOUND)
    assert receiver.exit_code is ExitCode.REFUSED
    assert receiver.received == {}


def test_nobody_who_comes_back_is_waited_for_to_the_end() -> None:
    world = World(NATTED)
    sender, receiver = world.sender(FILES, reconnect=60.0), world.receiver(reconnect=60.0)
    sender.start()
    receiver.start()
    world.network.run(lambda: receiver.machine.progress.done > 1_000_000, 30.0)
    sender.kill()
    world.run(receiver, limit=60.0 + FOUND)
    assert receiver.exit_code is ExitCode.NO_PEER  # of the last attempt; the program's own is 7
    assert receiver.received == {}


@pytest.mark.parametrize("seed", range(6))
def test_paths_that_break_at_any_moment(seed: int) -> None:
    """Before the offer, while deciding, in the middle, at the end, in the middle of going on."""
    rng = random.Random(seed)
    world = World(rng.choice([NATTED, ONE_LAN]), seed)
    sender, receiver = world.sender(FILES, reconnect=RECONNECT), world.receiver(reconnect=RECONNECT)
    sender.start()
    receiver.start()
    world.network.run(lambda: sender.path is not None and receiver.path is not None, 30.0)

    def cut() -> None:
        for host in world.hosts:
            host.nat.rebind()
        break_tcp(sender, receiver)

    at = 0.0
    for _ in range(8):
        at += rng.choice([rng.uniform(0.0, 0.5), rng.uniform(0.0, 0.5), rng.uniform(10.0, 16.0)])
        world.network.after(at, cut)
    world.run(sender, receiver, limit=at + 4 * FOUND)
    assert_all_arrived(sender, receiver)
