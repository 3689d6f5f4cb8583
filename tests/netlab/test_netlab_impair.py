"""Every parameter of an impairment against what it does, in virtual time: nothing here waits."""

from __future__ import annotations

import json
from itertools import groupby, pairwise
from math import sqrt
from statistics import fmean, pstdev

import pytest
from hypothesis import given
from hypothesis import strategies as st

from netlab.impair import DEFAULT_QUEUE, Engine, GilbertElliott, Impairment, from_json, to_json
from netlab.netem import commands

SIZE = 1000  # bytes
GAP = 0.010  # seconds between packets that shall not meet
COUNT = 20_000
SIGMAS = 6  # a right engine would miss such a band once in 500 million seeds; the seeds are fixed besides

probabilities = st.floats(0, 1)
positive = st.floats(0.01, 1)
bursts = st.builds(GilbertElliott, positive, positive, probabilities, probabilities)


@st.composite
def impairments(draw: st.DrawFn) -> Impairment:
    delay = draw(st.floats(0, 1))
    rate = draw(st.none() | st.floats(1e3, 1e9))
    bound = draw(st.sampled_from(["queue_packets", "queue_bytes", ""])) if rate else ""
    loss = draw(st.sampled_from([{"burst": draw(bursts)}, {"loss": draw(probabilities)}]))
    return Impairment(
        delay=delay,
        jitter=delay * draw(probabilities),
        rate=rate,
        reorder=draw(probabilities) if delay else 0.0,
        duplicate=draw(probabilities),
        corrupt=draw(probabilities),
        **loss,
        **({bound: draw(st.integers(0, 20_000))} if bound else {}),
    )


arrivals = st.lists(st.tuples(st.integers(20, 1500), st.floats(0, 0.1)), max_size=60)


def run(engine: Engine, traffic: list[tuple[int, float]]) -> list[list[tuple[float, float | None]]]:
    now, left = 0.0, []
    for size, gap in traffic:
        now += gap
        left.append(engine.handle(size, now))
    return left


def steady(impairment: Impairment, count: int = COUNT, gap: float = GAP, seed: int = 1) -> tuple[Engine, list]:
    engine = Engine(impairment, seed=seed, direction="up")
    return engine, [engine.handle(SIZE, i * gap) for i in range(count)]


def share_is(got: int, of: int, probability: float) -> bool:
    return abs(got - of * probability) <= SIGMAS * sqrt(of * probability * (1 - probability))


@given(impairments(), arrivals, st.integers())
def test_the_same_seed_decides_the_same(impairment, traffic, seed) -> None:
    one, two = (Engine(impairment, seed=seed, direction="up") for _ in range(2))
    assert run(one, traffic) == run(two, traffic)
    assert one.counts == two.counts


@given(impairments(), arrivals, st.integers())
def test_nothing_leaves_before_it_came_and_every_packet_is_accounted_for(impairment, traffic, seed) -> None:
    engine = Engine(impairment, seed=seed, direction="up")
    now = 0.0
    for (_, gap), copies in zip(traffic, run(engine, traffic), strict=True):
        now += gap
        assert all(departure >= now for departure, _ in copies)
        assert all(where is None or 0 <= where < 1 for _, where in copies)
    counts = engine.counts
    assert counts["packets"] + counts["duplicated"] == counts["left"] + counts["lost"] + counts["overflowed"]


@given(impairments(), arrivals, st.integers())
def test_those_that_take_the_delay_keep_their_order(impairment, traffic, seed) -> None:
    ordered = Impairment(**{name: getattr(impairment, name) for name in Impairment.__slots__} | {"reorder": 0.0})
    engine = Engine(ordered, seed=seed, direction="up")
    departures = [departure for copies in run(engine, traffic) for departure, _ in copies]
    assert departures == sorted(departures)


@given(impairments())
def test_an_impairment_survives_json(impairment) -> None:
    assert from_json(json.loads(json.dumps(to_json(impairment)))) == impairment


def test_seeds_and_directions_decide_differently() -> None:
    lost = {
        (seed, direction): tuple(not Engine.handle(engine, SIZE, 0.0) for _ in range(100))
        for seed in (1, 2)
        for direction in ("up", "down")
        for engine in [Engine(Impairment(loss=0.5), seed=seed, direction=direction)]
    }
    assert len(set(lost.values())) == 4


def test_one_parameter_moves_no_other_decision() -> None:
    _, plain = steady(Impairment(loss=0.1), 1000)
    _, more = steady(Impairment(loss=0.1, delay=0.1, jitter=0.01, duplicate=0.3, corrupt=0.3, reorder=0.3), 1000)
    assert [bool(copies) for copies in plain] == [bool(copies) for copies in more]


def test_no_impairment_does_nothing() -> None:
    _, left = steady(Impairment(), 100)
    assert left == [[(i * GAP, None)] for i in range(100)]


def test_independent_loss_is_its_share_and_comes_alone() -> None:
    engine, left = steady(Impairment(loss=0.05))
    assert share_is(engine.counts["lost"], COUNT, 0.05)
    lengths = [len(list(group)) for lost, group in groupby(not copies for copies in left) if lost]
    assert fmean(lengths) == pytest.approx(1 / 0.95, abs=SIGMAS * sqrt(0.05) / 0.95 / sqrt(len(lengths)))


def test_bursts_have_their_length_and_their_share() -> None:
    burst = GilbertElliott.of(0.02, mean_burst=5)
    assert burst.mean_loss == pytest.approx(0.02)
    count = 10 * COUNT
    engine, left = steady(Impairment(burst=burst), count)
    lengths = [len(list(group)) for lost, group in groupby(not copies for copies in left) if lost]
    # Geometric lengths of mean m have the variance m (m - 1).
    assert fmean(lengths) == pytest.approx(5, abs=SIGMAS * sqrt(5 * 4 / len(lengths)))
    # Losses of one burst are one event: the variance of the share is (1 + m) / (1 - m) times, m = 1 - p - r.
    memory = 1 - burst.to_bad - burst.to_good
    sigma = sqrt(0.02 * 0.98 / count * (1 + memory) / (1 - memory))
    assert engine.counts["lost"] / count == pytest.approx(0.02, abs=SIGMAS * sigma)


def test_elliott_loses_in_both_states() -> None:
    burst = GilbertElliott(to_bad=0.1, to_good=0.1, loss_bad=0.6, loss_good=0.2)
    assert burst.mean_loss == pytest.approx(0.4)
    engine, _ = steady(Impairment(burst=burst))
    sigma = sqrt(0.4 * 0.6 / COUNT * 1.8 / 0.2)  # at most: all of the variance correlated
    assert engine.counts["lost"] / COUNT == pytest.approx(0.4, abs=SIGMAS * sigma)


def test_delay_is_exact_without_jitter() -> None:
    _, left = steady(Impairment(delay=0.05), 100)
    assert left == [[(i * GAP + 0.05, None)] for i in range(100)]


def test_jitter_is_uniform_around_the_delay() -> None:
    _, left = steady(Impairment(delay=0.05, jitter=0.004))
    delays = [departure - i * GAP for i, ((departure, _),) in enumerate(left)]
    assert min(delays) >= 0.046 - 1e-9
    assert max(delays) <= 0.054 + 1e-9
    sigma = 0.008 / sqrt(12)
    assert fmean(delays) == pytest.approx(0.05, abs=SIGMAS * sigma / sqrt(COUNT))
    assert pstdev(delays) == pytest.approx(sigma, rel=0.03)
    fifths = [sum(0.046 + k * 0.0016 <= each < 0.046 + (k + 1) * 0.0016 for each in delays) for k in range(5)]
    assert all(share_is(got, COUNT, 0.2) for got in fifths)


def test_jitter_keeps_the_order_of_a_dense_flow() -> None:
    _, left = steady(Impairment(delay=0.05, jitter=0.05), gap=0.0001)
    departures = [departure for ((departure, _),) in left]
    assert departures == sorted(departures)


def test_the_rate_spaces_packets_that_come_too_fast() -> None:
    _, left = steady(Impairment(rate=8e6, queue_packets=COUNT), 1000, gap=0.0)
    departures = [departure for ((departure, _),) in left]
    assert departures[0] == pytest.approx(SIZE * 8 / 8e6)
    assert [b - a for a, b in pairwise(departures)] == pytest.approx([SIZE * 8 / 8e6] * 999)


def test_a_slow_flow_only_takes_the_time_to_send() -> None:
    _, left = steady(Impairment(rate=8e6), 100)
    assert [copies[0][0] for copies in left] == pytest.approx([i * GAP + 0.001 for i in range(100)])


@given(impairments(), arrivals)
def test_never_more_than_the_rate(impairment, traffic) -> None:
    if impairment.rate is None:
        return
    clean = Impairment(rate=impairment.rate, queue_packets=impairment.queue_packets, queue_bytes=impairment.queue_bytes)
    left = run(Engine(clean, seed=1, direction="up"), traffic)
    sent = [(copies[0][0], size) for copies, (size, _) in zip(left, traffic, strict=True) if copies]
    for (before, _), (after, size) in pairwise(sent):
        assert after - before >= size * 8 / impairment.rate * (1 - 1e-9) - 1e-9


def test_a_queue_in_packets() -> None:
    engine, left = steady(Impairment(rate=8e6, queue_packets=7), 20, gap=0.0)
    assert [bool(copies) for copies in left] == [True] * 8 + [False] * 12  # one is being sent, seven wait
    assert engine.counts["overflowed"] == 12
    assert engine.handle(SIZE, 0.001)  # one was sent, so one has room
    assert not engine.handle(SIZE, 0.001)


def test_a_queue_in_bytes() -> None:
    _, left = steady(Impairment(rate=8e6, queue_bytes=3500), 20, gap=0.0)
    assert [bool(copies) for copies in left] == [True] * 4 + [False] * 16
    engine, _ = steady(Impairment(rate=8e6, queue_bytes=3500), 4, gap=0.0)
    assert not engine.handle(501, 0.0)
    assert engine.handle(500, 0.0)


def test_a_queue_is_bounded_even_if_nobody_says_so() -> None:
    _, left = steady(Impairment(rate=8e6), 2 * DEFAULT_QUEUE, gap=0.0)
    assert sum(map(bool, left)) == 1 + DEFAULT_QUEUE


def test_the_share_that_overtakes() -> None:
    engine, left = steady(Impairment(delay=0.05, reorder=0.1))
    departures = [departure for ((departure, _),) in left]
    # Delays of 50 ms, gaps of 10: an overtaker comes before the five ahead of it that are no overtakers.
    overtook = sum(each < max(departures[max(0, i - 5) : i], default=0.0) for i, each in enumerate(departures))
    assert share_is(engine.counts["reordered"], COUNT, 0.1)
    # One with nothing but overtakers ahead of it passes nobody: one packet in 100,000.
    assert engine.counts["reordered"] - 5 <= overtook <= engine.counts["reordered"]


def test_the_share_that_comes_twice() -> None:
    engine, left = steady(Impairment(duplicate=0.1))
    assert share_is(sum(len(copies) == 2 for copies in left), COUNT, 0.1)
    assert engine.counts["left"] == COUNT + engine.counts["duplicated"]


def test_the_share_that_is_corrupted_and_where() -> None:
    engine, left = steady(Impairment(corrupt=0.1))
    places = [where for ((_, where),) in left if where is not None]
    assert share_is(len(places), COUNT, 0.1)
    assert engine.counts["corrupted"] == len(places)
    assert share_is(sum(where < 0.5 for where in places), len(places), 0.5)


def test_a_change_holds_for_the_packets_after_it() -> None:
    engine = Engine(Impairment(rate=8e6, delay=0.05), seed=1, direction="up")
    assert engine.handle(SIZE, 0.0) == [(pytest.approx(0.051), None)]
    assert engine.handle(SIZE, 0.0) == [(pytest.approx(0.052), None)]
    engine.change(Impairment())
    # It waits for what the link still sends, and overtakes nothing.
    assert engine.handle(SIZE, 0.0) == [(pytest.approx(0.052), None)]
    assert engine.handle(SIZE, 1.0) == [(1.0, None)]
    engine.change(Impairment(loss=1.0))
    assert engine.handle(SIZE, 2.0) == []


@pytest.mark.parametrize(
    "wrong",
    [
        {"loss": 1.1},
        {"corrupt": -0.1},
        {"duplicate": float("nan")},
        {"delay": -1.0},
        {"delay": 0.01, "jitter": 0.02},
        {"rate": 0.0},
        {"queue_packets": 5},
        {"rate": 1e6, "queue_packets": 5, "queue_bytes": 5},
        {"rate": 1e6, "queue_bytes": -1},
        {"loss": 0.1, "burst": GilbertElliott(0.1, 0.1)},
        {"reorder": 0.1},
    ],
)
def test_what_means_nothing_is_refused(wrong) -> None:
    with pytest.raises(ValueError, match=r"."):
        Impairment(**wrong)


@pytest.mark.parametrize("wrong", [(0.0, 0.1), (0.1, 0.0), (2.0, 0.1)])
def test_bursts_that_never_begin_or_end_are_refused(wrong) -> None:
    with pytest.raises(ValueError, match=r"."):
        GilbertElliott(*wrong)


@pytest.mark.parametrize(("loss", "length"), [(0.0, 5), (1.0, 5), (0.1, 0.5), (0.9, 2)])
def test_bursts_that_cannot_be_are_refused(loss, length) -> None:
    with pytest.raises(ValueError, match=r"."):
        GilbertElliott.of(loss, mean_burst=length)


NETEM = "qdisc replace dev far root handle 1: netem limit 1000000"


@pytest.mark.parametrize(
    ("impairment", "golden"),
    [
        (Impairment(), []),
        (Impairment(delay=0.05), [f"{NETEM} delay 50000us"]),
        # With a rate netem keeps the order, as our jitter does.
        (Impairment(delay=0.05, jitter=0.0015), [f"{NETEM} delay 50000us 1500us rate 100gbit"]),
        (Impairment(loss=0.015), [f"{NETEM} loss random 1.5%"]),
        (
            Impairment(burst=GilbertElliott(0.01, 0.25, loss_bad=0.9, loss_good=0.001)),
            [f"{NETEM} loss gemodel 1% 25% 90% 0.1%"],
        ),
        (
            Impairment(delay=0.01, reorder=0.02, duplicate=0.03, corrupt=0.04),
            [f"{NETEM} delay 10000us corrupt 4% duplicate 3% reorder 2%"],
        ),
        (
            Impairment(rate=5e6),
            [
                "qdisc replace dev far root handle 2: tbf rate 5000000bit burst 1600 limit 1073741824",
                "qdisc replace dev far parent 2:1 handle 3: pfifo limit 1000",
            ],
        ),
        (
            Impairment(delay=0.02, rate=1e6, queue_packets=50),
            [
                f"{NETEM} delay 20000us",
                "qdisc replace dev far parent 1:1 handle 2: tbf rate 1000000bit burst 1600 limit 1073741824",
                "qdisc replace dev far parent 2:1 handle 3: pfifo limit 50",
            ],
        ),
        (
            Impairment(loss=0.5, rate=1e6, queue_bytes=64_000),
            [
                f"{NETEM} loss random 50%",
                "qdisc replace dev far parent 1:1 handle 2: tbf rate 1000000bit burst 1600 limit 64000",
            ],
        ),
    ],
)
def test_the_commands_for_netem(impairment, golden) -> None:
    assert commands("far", impairment) == golden


def test_a_change_of_netem_is_in_place_where_the_stages_are_the_same() -> None:
    before = Impairment(delay=0.05)
    assert commands("far", Impairment(delay=0.1), before) == [f"{NETEM} delay 100000us"]
    assert commands("far", Impairment(rate=1e6, queue_bytes=9000), before) == [
        "qdisc del dev far root",
        "qdisc replace dev far root handle 2: tbf rate 1000000bit burst 1600 limit 9000",
    ]
    assert commands("far", Impairment(), before) == ["qdisc del dev far root"]
    assert commands("far", Impairment(), Impairment()) == []
