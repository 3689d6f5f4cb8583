"""Nothing passes for a while, in either direction; then the rate is back at once. In virtual time."""

from __future__ import annotations

import pytest
from bottleneck import Flow, Path, Simulation
from transport_link import START, World

from p2p.core.transport.events import IdleTimedOut
from p2p.core.transport.packets import MAX_RECORD
from p2p.core.transport.recovery import MAX_PTO_INTERVAL

RATE = 10e6  # bytes a second


@pytest.mark.parametrize("dark", [2, 10, 60])
@pytest.mark.parametrize("delay", [0.001, 0.025, 0.1])
def test_the_rate_is_back_within_a_probe_timeout_and_ten_round_trips(delay: float, dark: int) -> None:
    path = Path(rate=RATE, queue=max(RATE * 2 * delay, 200_000))
    flow = Flow(path, delay=delay, idle_timeout=90.0)
    light = 3.0 + dark

    def cut(is_cut: bool) -> None:
        path.is_cut = is_cut

    Simulation(flow, changes=((3.0, lambda: cut(True)), (light, lambda: cut(False)))).run(light + 6)
    back = light + MAX_PTO_INTERVAL + 20 * delay
    assert flow.rate(light - 1, light) == 0
    assert flow.rate(back, back + 2) > 0.85 * RATE
    assert flow.sender.stats.datagram_size == 1472


def test_the_first_packet_after_it_is_half_a_second_late_at_most() -> None:
    world = World(to_bob=[bytes(MAX_RECORD)] * 600, idle_timeout=90.0)
    world.run_for(1)
    world.alice.link.is_cut = world.bob.link.is_cut = True
    dark = world.now
    world.run_for(60)
    for machine in (world.alice, world.bob):  # the receiver asks as well: perhaps only its own packets pass
        times = [at for at, _ in machine.transmits if at > dark]
        assert max(after - before for before, after in zip([dark + 0.2, *times], times, strict=False)) <= 0.5
        assert len(times) < 400
    world.alice.link.is_cut = world.bob.link.is_cut = False
    world.run(10)


@pytest.mark.parametrize("timeout", [6.0, 30.0])
def test_each_side_is_as_patient_as_it_was_told(timeout: float) -> None:
    world = World(to_bob=[b"hello"], idle_timeout=timeout)
    world.run(5)
    world.alice.link.is_cut = world.bob.link.is_cut = True
    world.run_for(timeout - 1.1)  # the last keep-alive may be a second old
    assert world.alice.connection.is_open
    assert world.bob.connection.is_open
    world.run_for(1.2)
    assert isinstance(world.alice.events[-1], IdleTimedOut)
    assert isinstance(world.bob.events[-1], IdleTimedOut)
    assert world.now > START
