"""BBR on paths of every kind, in virtual time, with numbers.

Rates are a tenth or less of what the program is used at, so that a run takes seconds: what matters is how many round
trips and packets a path holds.
"""

from __future__ import annotations

import functools
import random

import pytest
from bottleneck import Flow, Path, Simulation
from rival_cubic import Cubic

from p2p.core.transport.bbr import Bbr
from p2p.core.transport.bbr_model import AmbientLoss, MaxBandwidth, MinRtt
from p2p.core.transport.packets import MAX_RECORD

DATAGRAM = 1472


def mbit(rate: float) -> float:
    """Bytes a second."""
    return rate * 1e6 / 8


def path(rate: float, rtt: float, queue: float, **flaws: float) -> Path:
    """`rate` in Mbit/s, `rtt` in seconds, `queue` in bandwidth-delay products."""
    return Path(mbit(rate), max(mbit(rate) * rtt * queue, 2 * 1500), random=random.Random(7), **flaws)  # type: ignore[arg-type]


def send(link: Path, rtt: float, seconds: float) -> Flow:
    """As much as the link carries in so many seconds, to its end."""
    flow = Flow(link, Bbr, delay=rtt / 2, records=int(link.rate * seconds / MAX_RECORD))
    Simulation(flow).run(10 * seconds)
    assert flow.finished_at is not None
    return flow


def assert_fast(flow: Flow, loss: float, rtt: float) -> None:
    """The two figures that every path has to meet."""
    size = flow.delivered * MAX_RECORD
    assert flow.finished_at is not None
    assert flow.finished_at - flow.start <= size / (0.85 * (1 - loss) * flow.path.rate) + 12 * rtt
    assert flow.sender.stats.bytes_retransmitted / size <= loss + 0.02


@pytest.mark.parametrize(
    ("rate", "rtt", "loss", "burst", "queue"),
    [
        (40, 0.02, 0.0, 0, 0.5),
        (40, 0.02, 0.05, 0, 1),
        (40, 0.05, 0.0, 0, 0.5),
        (40, 0.05, 0.01, 0, 1),
        (40, 0.05, 0.03, 8, 1),
        (40, 0.05, 0.05, 0, 4),
        (40, 0.1, 0.001, 0, 0.5),
        (40, 0.1, 0.03, 0, 1),
        (40, 0.2, 0.01, 8, 4),
        (40, 0.3, 0.0, 0, 1),
        (40, 0.3, 0.05, 0, 0.5),
        (10, 0.05, 0.0, 0, 25 * 1500 / (mbit(10) * 0.05)),
    ],
)
def test_every_path_is_filled(rate: float, rtt: float, loss: float, burst: float, queue: float) -> None:
    flow = send(path(rate, rtt, queue, loss=loss, burst=burst), rtt, max(6.0, 60 * rtt))
    assert_fast(flow, loss, rtt)


def test_a_deep_queue_stays_empty() -> None:
    """The round trip under load is at most a quarter longer than the idle one, once Startup is over."""
    flow = send(path(40, 0.05, 4), 0.05, 10.0)
    steady = [delay for at, delay in flow.path.delays if at > flow.start + 2]
    assert sum(steady) / len(steady) <= 0.25 * 0.05
    assert flow.path.overflowed == 0


@pytest.mark.parametrize(("before", "after"), [(50, 5), (40, 4), (5, 50)])
@pytest.mark.parametrize("rtt", [0.02, 0.025, 0.1])
def test_ten_times_the_rate_or_a_tenth_is_found_within_ten_seconds(before: float, after: float, rtt: float) -> None:
    link = path(before, rtt, max(1, after / before))
    flow = Flow(link, Bbr, delay=rtt / 2)

    def change() -> None:
        link.rate = mbit(after)

    Simulation(flow, changes=((6.0, change),)).run(20.0)
    assert flow.rate(16.0, 20.0) >= 0.8 * mbit(after)
    late = [delay for at, delay in link.delays if at > flow.start + 16]
    assert sum(late) / len(late) <= 0.5 * rtt + 0.01


@pytest.mark.parametrize(("rtt", "queue"), [(0.02, 1), (0.05, 0.5), (0.05, 1), (0.05, 4), (0.1, 1)])
@pytest.mark.parametrize("rival", [Cubic, Bbr])
def test_a_path_is_shared(rtt: float, queue: float, rival: type[Cubic] | type[Bbr]) -> None:
    link = path(25, rtt, queue)
    ours, other = Flow(link, Bbr, delay=rtt / 2), Flow(link, rival, delay=rtt / 2, start=1.0)
    Simulation(ours, other).run(30.0)
    mine, theirs = (flow.rate(12.0, 30.0) for flow in (ours, other))
    assert 0.25 <= mine / (mine + theirs) <= 0.8
    assert mine + theirs >= 0.85 * link.rate


@functools.cache
def straight_time(rate: float, seconds: float) -> float:
    """What others are compared with: seconds for as much as the link carries in `seconds`."""
    flow = send(path(rate, 0.05, 1), 0.05, seconds)
    assert flow.finished_at is not None
    return flow.finished_at - flow.start


@pytest.mark.parametrize("flaw", [{"reorder": 0.05, "reorder_delay": 0.025}, {"overtake": 0.05}])
@pytest.mark.parametrize("rate", [40, 200])
def test_reordering_by_half_a_round_trip_costs_little(rate: float, flaw: dict[str, float]) -> None:
    """Whether one packet in twenty is late, or comes by a shorter way and makes the round trip look like half of it."""
    shuffled = send(path(rate, 0.05, 1, **flaw), 0.05, 6.0)
    assert shuffled.finished_at is not None
    assert shuffled.finished_at - shuffled.start <= 1.1 * straight_time(rate, 6.0)
    assert shuffled.sender.stats.bytes_retransmitted <= 0.02 * shuffled.delivered * MAX_RECORD


@pytest.mark.parametrize("seed", [8, 24, 25, 27, 32])
def test_whichever_packets_overtake_others_in_the_first_round_trips(seed: int) -> None:
    """As if by a burst's first packet, behind which nobody sees that it was early, and by rounds that seem short."""
    link = Path(mbit(200), mbit(200) * 0.05, random=random.Random(seed), overtake=0.05)
    shuffled = send(link, 0.05, 4.0)
    assert shuffled.finished_at is not None
    assert shuffled.finished_at - shuffled.start <= 1.1 * straight_time(200, 4.0)


def test_a_policer_is_not_fought() -> None:
    """What a token bucket drops has no queue to show for it, and more sending brings nothing."""
    link = path(400, 0.05, 1, policer_rate=mbit(20), policer_depth=100_000)
    flow = Flow(link, Bbr, delay=0.025)
    Simulation(flow).run(15.0)
    assert flow.rate(3.0, 15.0) >= 0.8 * mbit(20)
    assert flow.sender.stats.bytes_retransmitted <= 0.05 * flow.delivered * MAX_RECORD


def test_lost_acknowledgements_cost_nothing_much() -> None:
    assert_fast(send(path(40, 0.05, 1, ack_loss=0.3), 0.05, 6.0), 0.0, 0.05)


def test_a_pause_of_the_path_is_not_taken_for_loss_for_long() -> None:
    """Everything is held up for 300 ms: losses are declared that were none, and the rate comes back at once."""
    link = path(40, 0.05, 10)
    flow = Flow(link, Bbr, delay=0.025)

    def pause() -> None:
        link.free_at = flow.start + 5.3

    Simulation(flow, changes=((5.0, pause),)).run(12.0)
    assert flow.rate(6.0, 12.0) >= 0.85 * mbit(40)


def test_an_application_that_had_little_to_send_is_not_held_to_it() -> None:
    link = path(40, 0.05, 1)
    flow = Flow(link, Bbr, delay=0.025, supply=mbit(4))

    def more() -> None:
        flow.supply = None

    Simulation(flow, changes=((5.0, more),)).run(11.0)
    assert flow.rate(1.0, 5.0) == pytest.approx(mbit(4), rel=0.1)
    assert flow.rate(9.0, 11.0) >= 0.85 * mbit(40)  # the next probe is at most three seconds away


@pytest.mark.parametrize("seconds", [2.0, 10.0])
def test_a_blackout_is_survived_and_the_rate_comes_back(seconds: float) -> None:
    link = path(40, 0.05, 1)
    flow = Flow(link, Bbr, delay=0.025)

    def cut() -> None:
        link.is_cut = not link.is_cut

    Simulation(flow, changes=((4.0, cut), (4.0 + seconds, cut))).run(12.0 + seconds)
    assert flow.sender.is_open
    assert flow.rate(6.0 + seconds, 12.0 + seconds) >= 0.8 * mbit(40)


def test_the_highest_rate_of_two_cycles_counts() -> None:
    bandwidth = MaxBandwidth()
    bandwidth.on_sample(10.0)
    bandwidth.advance()
    bandwidth.on_sample(5.0)
    assert bandwidth.value == 10.0
    bandwidth.advance()
    assert bandwidth.value == 5.0
    bandwidth.advance()  # no sample in that cycle
    assert bandwidth.value == 5.0


def test_a_minimum_that_was_not_seen_for_ten_seconds_is_forgotten() -> None:
    rtt = MinRtt()
    rtt.on_sample(0.05, 0.0)
    for _ in range(8):
        rtt.on_sample(0.08, 9.0)
    assert rtt.value == 0.05
    rtt.on_sample(0.08, 10.1)
    assert rtt.value == 0.08
    rtt.on_sample(0.081, 12.0)  # as good as the minimum: noise
    assert (rtt.value, rtt.seen_at) == (0.08, 12.0)


def test_the_loss_threshold_follows_the_path() -> None:
    loss = AmbientLoss()
    window = 1_000_000
    assert loss.on_round(30_000, 970_000, is_quiet=False)
    assert not loss.on_round(19_000, 981_000, is_quiet=False)
    assert loss.overflows(2_000, window)
    for _ in range(50):
        loss.on_round(30_000, 970_000, is_quiet=True)
    assert loss.value == pytest.approx(0.03)
    assert not loss.on_round(45_000, 955_000, is_quiet=False)
    assert loss.on_round(60_000, 940_000, is_quiet=False)
    assert not loss.overflows(29_000, window)
    assert loss.overflows(35_000, window)


def test_a_few_datagrams_of_a_small_window_prove_nothing() -> None:
    loss = AmbientLoss()
    assert not loss.on_round(5 * DATAGRAM, 5 * DATAGRAM, is_quiet=True)
    assert not loss.on_round(0, 250_000, is_quiet=True)
    assert loss.on_round(10_000, 90_000, is_quiet=True)
