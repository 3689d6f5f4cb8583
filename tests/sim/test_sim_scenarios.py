"""The scenario table in memory: the whole core of both peers and the server, in virtual time."""

from __future__ import annotations

import random

import pytest
from scenarios import SCENARIOS, Scenario
from sim.network import Impairment
from sim.worlds import World, meet

from p2p.core.errors import ExitCode

CONTENT = random.Random(1).randbytes(200_000)
LIMIT = 60.0  # virtual seconds
NO_PATH_LIMIT = 15.0  # virtual seconds in which both sides must have said that there is no path


@pytest.mark.parametrize("scenario", SCENARIOS, ids=str)
def test_every_network_ends_as_the_table_says(scenario: Scenario) -> None:
    world = World(scenario)
    if scenario.left == "UDP blocked":
        sender = world.sender({"file": CONTENT})
        sender.start()
        world.network.run(lambda: sender.is_over, NO_PATH_LIMIT)
        assert sender.exit_code is ExitCode.NO_PATH
        assert "UDP is blocked" in sender.peer.failure.message
        return
    sender, receiver = meet(world, {"file": CONTENT}, LIMIT if scenario.path else NO_PATH_LIMIT)
    assert (sender.exit_code, receiver.exit_code) == (scenario.exit_code, scenario.exit_code)
    if scenario.path is None:
        assert sender.peer.failure.message.startswith("No direct path")
        assert receiver.received == {}
    else:
        assert sender.path.description.startswith(scenario.path)
        assert receiver.path.description.startswith(scenario.path)
        assert receiver.received == {"file": CONTENT}


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("one_lan", [False, True])
def test_bad_networks_only_take_longer(seed: int, one_lan: bool) -> None:
    world = World(Scenario("port-restricted", "port-restricted", one_lan=one_lan), seed)
    for host in world.hosts:
        host.impairment = Impairment(loss=0.15, duplicate=0.1, reorder=0.3, corrupt=0.02)
    files = {"a": CONTENT, "empty": b"", "b": CONTENT[:61_440]}
    sender, receiver = meet(world, files, 120.0)
    assert (sender.exit_code, receiver.exit_code) == (ExitCode.DONE, ExitCode.DONE)
    assert receiver.received == files
