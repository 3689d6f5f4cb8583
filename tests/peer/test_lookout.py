"""Lookouts at a real server machine, in virtual time: who finds whom, and whom nobody ever finds."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p2p.core.address import Address
from p2p.core.introduction import NamePair, Paired, Pairing
from p2p.core.peer.lookout import AGAIN, GRACE, AnotherRun, BothSuspect, Lookouts, Post
from p2p.core.rendezvous.client import RendezvousClient
from p2p.core.rendezvous.messages import LEASE
from p2p.core.rendezvous.server import RendezvousServer, peer_tag
from p2p.core.role import Role
from p2p.core.transport.idle import SUSPICION

SERVER = Address("203.0.113.1", 8080)
ALICE, BOB = NamePair("alice", "bob"), NamePair("bob", "alice")
OWN = {"alice": NamePair("a" * 32, "b" * 32), "bob": NamePair("b" * 32, "a" * 32)}
SECRETS = {"alice": bytes(15) + b"a", "bob": bytes(15) + b"b"}
STEP = 0.05  # virtual seconds
ROUND_TRIPS = 0.5  # virtual seconds, for a seat to be had and the other side to be told


class World:
    """A server; programs each on an address of its own. A datagram takes no time, or is lost."""

    def __init__(self, seed: int = 0) -> None:
        self.rng = random.Random(seed)
        self.now = 0.0
        self.loss = 0.0
        self.is_up = True
        self.server = RendezvousServer(self.rng.randbytes)
        self.sides: dict[Address, Side | Fresh] = {}

    def restart(self) -> None:
        self.server = RendezvousServer(self.rng.randbytes)

    def run(self, seconds: float, until: Callable[[], bool] = lambda: False) -> None:
        for _ in range(round(seconds / STEP)):
            self.now += STEP
            for side in self.sides.values():
                side.turn(self.now)
            self.carry()
            if until():
                return

    def carry(self) -> None:
        moved = True
        while moved:
            moved = False
            for address, side in self.sides.items():
                while (transmit := side.machine.poll_transmit()) is not None:
                    moved = True
                    if self.is_up and self.rng.random() >= self.loss:
                        self.server.handle_datagram(b"".join(transmit.buffers), address, 0, self.now)
            while (answer := self.server.poll_transmit()) is not None:
                moved = True
                if self.rng.random() >= self.loss and answer.destination in self.sides:
                    self.sides[answer.destination].machine.handle_datagram(answer.data, SERVER, self.now)


class Side:
    """A program that has had a path. `heard_at` None: it was lost."""

    def __init__(self, world: World, name: str, port: int, *, at_first: bool = True) -> None:
        pairing, role = (ALICE, Role.SENDER) if name == "alice" else (BOB, Role.RECEIVER)
        other = "bob" if name == "alice" else "alice"
        post = Post(pairing, SECRETS[name]) if at_first else None
        self.machine = Lookouts(
            SERVER, role, world.rng.randbytes, own=OWN[name], at_first=post, friend=peer_tag(SECRETS[other])
        )
        self.heard_at: float | None = 0.0
        self.hears = False
        self.events: list[BothSuspect | AnotherRun] = []
        world.sides[Address("198.51.100.1", port)] = self

    def turn(self, now: float) -> None:
        if self.hears and self.heard_at is not None:
            self.heard_at = now
        self.machine.handle_timeout(now)
        self.machine.look(self.heard_at, now)
        while (event := self.machine.poll_event()) is not None:
            self.events.append(event)
            if isinstance(event, BothSuspect):
                self.heard_at = None


class Fresh:
    """A program that was just started, by whomever, and waits."""

    def __init__(self, world: World, pairing: Pairing, role: Role, port: int) -> None:
        self.secret = world.rng.randbytes(16)
        self.machine = RendezvousClient(SERVER, pairing, role, world.rng.randbytes, secret=self.secret)
        self.machine.start(world.now)
        self.found = False
        world.sides[Address("198.51.100.1", port)] = self

    def turn(self, now: float) -> None:
        self.machine.handle_timeout(now)
        while (event := self.machine.poll_event()) is not None:
            self.found |= isinstance(event, Paired)


def both(world: World) -> tuple[Side, Side]:
    return Side(world, "alice", 1), Side(world, "bob", 2)


def test_two_that_hear_nothing_of_each_other_give_the_path_up() -> None:
    world = World()
    sides = both(world)
    world.run(SUSPICION + GRACE + ROUND_TRIPS)
    assert [side.events for side in sides] == [[BothSuspect()], [BothSuspect()]]


def test_who_is_only_heard_badly_on_one_side_gives_nothing_up() -> None:
    world = World()
    alice, bob = both(world)
    bob.hears = True
    world.run(10 * SUSPICION)
    assert alice.events == bob.events == []


def test_a_path_that_was_only_dark_is_kept() -> None:
    world = World()
    sides = both(world)
    world.is_up = False
    world.run(2 * SUSPICION)
    world.is_up = True
    world.run(10.0, until=lambda: all(side.machine._private.found for side in sides))
    world.run(0.8 * GRACE)
    for side in sides:
        side.hears = True
    world.run(20.0)
    assert [side.events for side in sides] == [[], []]
    assert len(world.server) == 0  # and no seat is left


def test_one_that_lost_the_path_is_found_by_the_other() -> None:
    world = World()
    alice, bob = both(world)
    alice.heard_at = None
    world.run(SUSPICION + GRACE + ROUND_TRIPS)
    assert alice.events == []
    assert bob.events == [BothSuspect()]


@pytest.mark.parametrize("is_lost", [False, True])
def test_who_was_started_again_is_found(is_lost: bool) -> None:
    world = World()
    alice = Side(world, "alice", 1)
    if is_lost:
        alice.heard_at = None
    world.run(1.0)
    fresh = Fresh(world, BOB, Role.RECEIVER, 3)
    world.run(SUSPICION)
    assert alice.events == [AnotherRun(peer_tag(fresh.secret))]
    world.run(30.0)
    assert len(alice.events) == 1  # the visit goes on


def test_nobody_is_found_by_a_path_that_is_not_silent() -> None:
    world = World()
    alice = Side(world, "alice", 1)
    alice.hears = True
    fresh = Fresh(world, BOB, Role.RECEIVER, 3)
    world.run(30.0)
    assert alice.events == []
    assert not fresh.found


def test_a_stranger_is_visited_once_and_his_next_run_no_sooner_than_that() -> None:
    world = World()
    alice = Side(world, "alice", 1)
    alice.heard_at = None
    stranger = Fresh(world, BOB, Role.RECEIVER, 3)
    world.run(1.0)
    alice.machine.end_visit(peer_tag(stranger.secret), world.now, is_stranger=True)
    world.run(3 * AGAIN)
    assert len(alice.events) == 1
    stranger.machine.leave(world.now)
    world.run(1.0)
    other = Fresh(world, BOB, Role.RECEIVER, 4)
    world.run(3 * AGAIN)
    assert alice.events[1:] == [AnotherRun(peer_tag(other.secret))]


def test_without_a_first_post_nobody_is_visited() -> None:
    world = World()
    bob = Side(world, "bob", 2, at_first=False)
    bob.heard_at = None
    fresh = Fresh(world, ALICE, Role.SENDER, 3)
    world.run(LEASE)
    assert bob.events == []
    assert not fresh.found


def test_the_seat_of_a_visit_is_that_of_the_lookout() -> None:
    """Who was started again sees one run, and is not left in between."""
    world = World()
    alice = Side(world, "alice", 1)
    alice.heard_at = None
    fresh = Fresh(world, BOB, Role.RECEIVER, 3)
    world.run(1.0)
    visit = Fresh(world, ALICE, Role.SENDER, 4)
    visit.machine = RendezvousClient(SERVER, ALICE, Role.SENDER, world.rng.randbytes, secret=SECRETS["alice"])
    visit.machine.start(world.now)
    world.run(1.0)
    assert visit.found
    assert fresh.found


ACTIONS = st.sampled_from(["alice hears", "bob hears", "alice loses", "bob loses", "restart", "dark", "light", "wait"])


@settings(max_examples=200, deadline=None)
@given(
    steps=st.lists(st.tuples(ACTIONS, st.floats(0.05, 8.0)), max_size=12),
    loss=st.sampled_from([0.0, 0.3]),
    seed=st.integers(0, 2**16),
)
def test_two_that_live_never_take_each_other_for_started_again(
    steps: list[tuple[str, float]], loss: float, seed: int
) -> None:
    """In whatever order paths fall silent and are heard again, and the server restarts, or is away."""
    world = World(seed)
    world.loss = loss
    alice, bob = both(world)
    for action, seconds in steps:
        match action:
            case "alice hears" | "bob hears":
                side = alice if action.startswith("alice") else bob
                side.hears = not side.hears
            case "alice loses" | "bob loses":
                (alice if action.startswith("alice") else bob).heard_at = None
            case "restart":
                world.restart()
            case "dark" | "light":
                world.is_up = action == "light"
        world.run(seconds)
    assert not any(isinstance(event, AnotherRun) for side in (alice, bob) for event in side.events)
    world.is_up, world.loss = True, 0.0
    alice.hears = bob.hears = False
    world.run(2 * LEASE)
    for side in (alice, bob):
        assert side.heard_at is None  # each has lost the path, or given it up
        assert not any(isinstance(event, AnotherRun) for event in side.events)
