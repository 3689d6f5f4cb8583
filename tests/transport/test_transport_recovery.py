"""RTT, loss detection, PTO, persistent congestion and the run log, with numbers."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2p.core.transport.recovery import MAX_PTO_INTERVAL, Recovery
from p2p.core.transport.rtt import RttEstimator
from p2p.core.transport.sent import Run, SentLog

BUSY = 1e9  # the window was full all along


def run(first: int, count: int = 1, sent_at: float = 0.0, record: int = 0) -> Run:
    return Run(first, count, sent_at, 1000, 600, record=record, payload=900, last_payload=500)


def recovery(rtt: float = 0.1) -> Recovery:
    """With one sample of `rtt`: smoothed = rtt, variance = rtt / 2."""
    estimator = RttEstimator()
    made = Recovery(estimator, 0.0)
    made.on_sent(run(0, sent_at=0.0))
    made.on_ack(((0, 1),), 0.0, rtt, BUSY)
    return made


def test_first_sample_sets_everything() -> None:
    rtt = RttEstimator()
    assert rtt.pto == pytest.approx(0.333 + 4 * 0.1665 + 0.005)
    rtt.update(0.1, 0.003)
    assert (rtt.smoothed, rtt.variance, rtt.min, rtt.latest) == (0.1, 0.05, 0.1, 0.1)
    assert rtt.pto == pytest.approx(0.1 + 0.2 + 0.005)


def test_later_samples_are_smoothed_and_freed_of_the_ack_delay() -> None:
    rtt = RttEstimator()
    rtt.update(0.1, 0.0)
    rtt.update(0.184, 0.004)  # adjusted 0.180
    assert rtt.variance == pytest.approx(0.75 * 0.05 + 0.25 * 0.080)
    assert rtt.smoothed == pytest.approx(0.875 * 0.1 + 0.125 * 0.180)
    assert rtt.min == 0.1
    rtt.update(0.102, 0.004)  # the delay would take it below min_rtt: not subtracted
    assert rtt.smoothed == pytest.approx(0.875 * 0.11 + 0.125 * 0.102)


def test_a_copy_of_an_old_ack_does_not_inflate_the_rtt() -> None:
    rtt = RttEstimator()
    rtt.update(0.1, 0.0)
    rtt.update(3.101, 3.0)
    assert rtt.latest == pytest.approx(0.106)
    assert rtt.smoothed == pytest.approx(0.875 * 0.1 + 0.125 * 0.101)


def test_packet_threshold_is_three() -> None:
    made = recovery()
    for number in range(1, 5):
        made.on_sent(run(number, sent_at=0.1 + number / 1000))
    assert made.on_ack(((3, 4),), 0.0, 0.2, BUSY).lost == []  # 1 is two below 3
    lost = made.on_ack(((3, 5),), 0.0, 0.2, BUSY).lost
    assert [(each.first, each.count) for each in lost] == [(1, 1)]


def test_packet_threshold_cuts_a_run() -> None:
    made = recovery()
    made.on_sent(run(1, 10, sent_at=0.1))
    outcome = made.on_ack(((8, 9),), 0.0, 0.2, BUSY)
    assert [(each.first, each.end) for each in outcome.acked] == [(8, 9)]
    assert [(each.first, each.end, each.offset) for each in outcome.lost] == [(1, 6, 0)]
    assert [(each.first, each.end) for each in made.sent] == [(6, 8), (9, 11)]


def test_time_threshold_is_nine_eighths() -> None:
    made = recovery(0.1)
    made.on_sent(run(1, sent_at=1.0))
    made.on_sent(run(2, sent_at=1.0))
    made.on_ack(((2, 3),), 0.0, 1.1, BUSY)
    assert made.poll_timeout() == pytest.approx(1.0 + 9 / 8 * 0.1)
    assert made.handle_timeout(1.11) == []
    assert [each.first for each in made.handle_timeout(1.113)] == [1]
    assert made.bytes_in_flight == 0


def test_pto_doubles_up_to_the_cap_and_restarts_with_an_ack() -> None:
    made = recovery(0.1)
    assert made.poll_timeout() is None
    made.on_sent(run(1, sent_at=1.0))
    made.on_sent(run(2, sent_at=1.0))
    pto = 0.1 + 4 * 0.05 + 0.005
    assert made.poll_timeout() == pytest.approx(1.0 + pto)
    made.pto_count = 1
    assert made.poll_timeout() == pytest.approx(1.0 + MAX_PTO_INTERVAL)
    quick = recovery(0.01)
    assert [quick.pto_interval(count) for count in range(5)] == pytest.approx([0.035, 0.07, 0.14, 0.28, 0.5])
    made.on_ack(((1, 2),), 0.0, 1.1, BUSY)
    assert made.pto_count == 0
    assert made.poll_timeout() is not None
    assert made.poll_timeout() > 1.1 + 0.1


def test_persistent_congestion_needs_three_ptos_without_an_ack() -> None:
    for span, expected in ((0.76, False), (0.77, True)):  # 3 * (0.1 + 4 * 0.0375 + 0.005) = 0.765
        made = recovery(0.1)
        made.on_sent(run(1, sent_at=1.0))
        made.on_sent(run(2, sent_at=1.0 + span))
        made.on_sent(run(3, sent_at=3.0))
        assert made.on_ack(((3, 4),), 0.0, 3.1, BUSY).is_persistent is expected


def test_no_persistent_congestion_across_an_acknowledged_packet() -> None:
    made = recovery(0.1)
    for number, at in ((1, 1.0), (2, 1.6), (3, 2.2), (4, 3.0)):
        made.on_sent(run(number, sent_at=at))
    assert not made.on_ack(((4, 5), (2, 3)), 0.0, 3.1, BUSY).is_persistent


def test_a_late_ack_takes_the_congestion_back_and_makes_judgement_slower() -> None:
    made = recovery(0.1)
    for number in range(1, 7):
        made.on_sent(run(number, sent_at=1.0))
    lost = made.on_ack(((6, 7),), 0.0, 1.1, BUSY).lost
    assert [each.first for each in lost] == [1, 2, 3]
    made.on_congestion_event(lost, is_new=True)
    assert not made.on_ack(((6, 7), (1, 3)), 0.0, 1.1, BUSY).is_spurious
    outcome = made.on_ack(((1, 7),), 0.0, 1.1, BUSY)
    assert outcome.is_spurious
    assert sum(each.count for each in outcome.late) == 1
    for number in range(7, 12):
        made.on_sent(run(number, sent_at=1.2))
    assert made.on_ack(((11, 12),), 0.0, 1.3, BUSY).lost == []  # 7 is four below: not three any more


def test_delivery_rate_spans_the_flight() -> None:
    made = recovery(0.1)
    for index in range(5):
        made.on_sent(run(1 + index * 10, 10, sent_at=1.0 + index * 0.01))
    size = 9 * 1000 + 600
    outcome = made.on_ack(((1, 51),), 0.0, 1.2, BUSY)
    assert outcome.sample is not None
    assert outcome.sample.bytes_acked == 5 * size
    assert outcome.sample.delivery_rate == pytest.approx(5 * size / 0.2)
    assert outcome.sample.delivered - outcome.sample.delivered_at_send == 5 * size


def test_no_rtt_sample_when_the_largest_was_known() -> None:
    made = recovery(0.1)
    made.on_sent(run(1, sent_at=1.0))
    made.on_sent(run(2, sent_at=1.0))
    made.on_ack(((2, 3),), 0.0, 1.1, BUSY)
    outcome = made.on_ack(((1, 3),), 0.0, 1.105, BUSY)
    assert outcome.sample is not None
    assert outcome.sample.rtt is None


@given(st.integers(0, 2**32), st.lists(st.tuples(st.integers(0, 300), st.integers(1, 60)), max_size=40))
def test_the_log_takes_exactly_what_was_asked(seed: int, takes: list[tuple[int, int]]) -> None:
    chance = random.Random(seed)
    log = SentLog()
    model: dict[int, tuple[int, int]] = {}  # packet number → offset, bytes
    number = 0
    for record in range(12):
        number += chance.randrange(3)  # numbers that carry no data
        count = chance.randrange(1, 30)
        log.add(run(number, count, record=record))
        for index in range(count):
            model[number + index] = (index * 900, 1000 if index < count - 1 else 600)
        number += count
    for start, length in takes:
        taken = log.take(start, start + length)
        found = {}
        for each in taken:
            for index in range(each.count):
                size = each.size if index < each.count - 1 else each.last_size
                found[each.first + index] = (each.offset + index * each.payload, size)
        assert found == {key: model.pop(key) for key in sorted(model) if start <= key < start + length}
        assert log.bytes == sum(size for _, size in model.values())
        assert sum(each.count for each in log) == len(model)


def test_what_overtook_the_others_does_not_measure_the_round_trip() -> None:
    made = recovery()
    for number in range(1, 31):
        made.on_sent(run(number, sent_at=1.0 + number / 1000))
    made.on_ack(((20, 21), (0, 1)), 0.0, 1.07, BUSY)  # 20 comes by a way of 50 ms, and those before it seem lost
    assert made.on_ack(((20, 21), (0, 16)), 0.0, 1.115, BUSY).is_reordered  # they all came
    outcome = made.on_ack(((30, 31), (0, 21)), 0.0, 1.12, BUSY)
    assert not outcome.is_reordered
    assert outcome.sample is not None
    assert outcome.sample.rtt == pytest.approx(0.101)  # that of 19, which came in the midst of others; not 30's 0.09
    for number in range(31, 50):
        made.on_sent(run(number, sent_at=2.0 + number / 1000))
    outcome = made.on_ack(((49, 50), (0, 45)), 0.0, 2.144, BUSY)
    assert outcome.sample is not None
    assert outcome.sample.rtt == pytest.approx(0.1)  # that of 44, not that of 49
    made.restart()  # another path, on which nothing has overtaken anything yet
    made.on_sent(run(60, sent_at=2.2))
    outcome = made.on_ack(((60, 61),), 0.0, 2.22, BUSY)
    assert outcome.sample is not None
    assert outcome.sample.rtt == pytest.approx(0.02)
