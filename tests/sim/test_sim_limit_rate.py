"""The receiver's wish for a rate reaches the sender, and holds on every path, in virtual time."""

from __future__ import annotations

import random

import pytest
from scenarios import Scenario
from sim.programs import SimPeer
from sim.worlds import World

from p2p.core.peer import events

RATE = 1_000_000.0
CONTENT = random.Random(6).randbytes(2_500_000)
AHEAD = 500_000  # bytes that the queues of the sender hold when it is told
OTHERWISE = 1_500_000.0  # bytes a second: without a limit all of these paths carry more than that


def duration(peer: SimPeer) -> float:
    """Seconds from the yes to the end."""
    began = next(at for at, event in peer.timeline if isinstance(event, events.TransferStarted))
    return next(at for at, event in peer.timeline if isinstance(event, events.Done)) - began


@pytest.mark.parametrize(
    ("scenario", "path"),
    [
        (Scenario("none", "none"), "direct UDP"),
        (Scenario("port-restricted", "port-restricted", one_lan=True), "direct TCP (LAN)"),
        (Scenario("symmetric", "symmetric"), "relay"),
    ],
    ids=["udp", "tcp", "relay"],
)
def test_a_receiver_that_wants_less_gets_less(scenario: Scenario, path: str) -> None:
    free, limited = (run(scenario, rate) for rate in (None, RATE))
    assert limited.path.description.startswith(path)
    assert (len(CONTENT) - AHEAD) / RATE < duration(limited) < 1.1 * len(CONTENT) / RATE
    assert duration(free) < len(CONTENT) / OTHERWISE


def run(scenario: Scenario, rate: float | None) -> SimPeer:
    world = World(scenario, 7)
    sender, receiver = world.sender({"file": CONTENT}), world.receiver()
    if rate is not None:
        receiver.machine.rate_limit = rate
    sender.start()
    receiver.start()
    world.run(sender, receiver, limit=60.0)
    assert receiver.received == {"file": CONTENT}
    return sender
