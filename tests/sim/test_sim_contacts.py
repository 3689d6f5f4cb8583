"""Two who become contacts, and two who are, over whole runs with paths that break."""

from __future__ import annotations

import random

import pytest
from scenarios import Scenario
from sim.programs import SimPeer
from sim.worlds import World

from p2p.core.contacts.exchange import ContactExchange, State
from p2p.core.contacts.keys import KEY, ContactKeys
from p2p.core.errors import ExitCode
from p2p.core.peer import events
from p2p.core.transport.idle import IDLE_TIMEOUT

FILES = {"big": random.Random(5).randbytes(4_000_000), "small": b"abc"}
NATTED = Scenario("port-restricted", "port-restricted")
ONE_LAN = Scenario("port-restricted", "port-restricted", one_lan=True)
SCENARIOS = pytest.mark.parametrize("scenario", [NATTED, ONE_LAN], ids=["punched", "LAN"])
NAMES = ("alice", "bob")
RECONNECT = 900.0  # virtual seconds to look for the other side


def keys(seed: int) -> ContactKeys:
    return ContactKeys(random.Random(seed).randbytes(KEY), NAMES)


SECRET = keys(1).secret(keys(2).public)


def cut_often(world: World, sender: SimPeer, receiver: SimPeer, rng: random.Random) -> float:
    """Breaks whatever path there is, eight times. Returns when the last time is."""

    def cut() -> None:
        for host in world.hosts:
            host.nat.rebind()
        for peer in (sender, receiver):
            for pipe in list(peer.attempt.pipes.values()):
                pipe.reset()

    at = 0.0
    for _ in range(8):
        at += rng.choice([rng.uniform(0.0, 0.2), rng.uniform(0.0, 0.2), rng.uniform(10.0, 16.0)])
        world.network.after(at, cut)
    return at


@SCENARIOS
def test_contacts_need_no_code(scenario: Scenario) -> None:
    world = World(scenario)
    options = {"secret": SECRET, "is_contact": True}
    sender, receiver = world.sender(FILES, **options), world.receiver(**options)
    sender.start()
    receiver.start()
    world.run(sender, receiver, limit=30.0)
    assert (sender.exit_code, receiver.exit_code) == (ExitCode.DONE, ExitCode.DONE)
    assert receiver.received == FILES
    assert events.Connecting(None, is_contact=True) in sender.events


@pytest.mark.parametrize("who", ["sender", "receiver"])
@pytest.mark.parametrize("other", [b"amber-walnut-tiger", None])
def test_a_contact_and_a_code_end_on_both_sides(who: str, other: bytes | None) -> None:
    world = World(NATTED)
    by_contact, otherwise = {"secret": SECRET, "is_contact": True}, {"secret": other}
    sender = world.sender(FILES, **(by_contact if who == "sender" else otherwise))
    receiver = world.receiver(**(by_contact if who == "receiver" else otherwise))
    sender.start()
    receiver.start()
    world.run(sender, receiver, limit=10.0)
    assert (sender.exit_code, receiver.exit_code) == (ExitCode.USAGE, ExitCode.USAGE)
    one, two = (sender, receiver) if who == "sender" else (receiver, sender)
    assert "and used that key" in one.peer.failure.message
    assert "contacts forget" in one.peer.failure.message
    assert "The other side uses the key by which it remembers you" in two.peer.failure.message


def test_somebody_with_another_key_does_not_keep_the_friend_out() -> None:
    world = World(NATTED)
    sender = world.sender(FILES, secret=SECRET, is_contact=True)
    sender.start()
    for seed in range(5):  # more than would burn a code
        stranger = world.receiver(secret=bytes([seed]) * 32, is_contact=True)
        stranger.start()
        world.run(stranger, limit=5.0)
        assert stranger.exit_code is ExitCode.WRONG_CODE
        assert "does not have the key by which you remember alice" in stranger.peer.failure.message
    receiver = world.receiver(secret=SECRET, is_contact=True)
    receiver.start()
    world.run(sender, receiver, limit=30.0)
    assert (sender.exit_code, receiver.exit_code) == (ExitCode.DONE, ExitCode.DONE)
    assert events.CodeRejected(5, 255, is_contact=True) in sender.events


@pytest.mark.parametrize("is_contact", [False, True])
@pytest.mark.parametrize("seed", range(4))
def test_paths_that_break_at_any_moment(seed: int, is_contact: bool) -> None:
    """With the exchange on top of a code, and by the key of a contact: what is left goes over the next path."""
    rng = random.Random(seed)
    world = World(rng.choice([NATTED, ONE_LAN]), seed)
    sides = [ContactExchange(None if is_contact else keys(number)) for number in (1, 2)]
    options = {"reconnect": RECONNECT, **({"secret": SECRET, "is_contact": True} if is_contact else {})}
    sender = world.sender(FILES, contact=sides[0], **options)
    receiver = world.receiver(contact=sides[1], **options)
    sender.start()
    receiver.start()
    world.network.run(lambda: sender.path is not None and receiver.path is not None, 30.0)
    last = cut_often(world, sender, receiver, rng)
    world.run(sender, receiver, limit=last + 4 * (IDLE_TIMEOUT + 15.0))
    assert (sender.exit_code, receiver.exit_code) == (ExitCode.DONE, ExitCode.DONE)
    assert receiver.received == FILES
    assert [side.state for side in sides] == [State.DEAF if is_contact else State.REMEMBERED] * 2
