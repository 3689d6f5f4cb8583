"""The pacer, the path MTU search, and the rival that BBR is measured against (CUBIC, HyStart++), with numbers."""

from __future__ import annotations

import pytest
from rival_cubic import Cubic
from rival_hystart import HyStart, Phase

from p2p.core.transport.congestion import AckSample
from p2p.core.transport.pacer import Pacer
from p2p.core.transport.packets import DATA_HEADER, MAX_BURST, MAX_CIPHERTEXT, MAX_SEGMENTS
from p2p.core.transport.path_mtu import RAISE_INTERVAL, SHRUNK_PAUSE, SIZES, PathMtu

SIZE = 1200


def ack(now: float, size: int, *, sent_at: float | None = None, rtt: float = 0.1, limited: bool = False) -> AckSample:
    return AckSample(
        now=now,
        bytes_acked=size,
        rtt=rtt,
        min_rtt=0.1,
        smoothed_rtt=0.1,
        bytes_in_flight=0,
        largest_acked=10,
        sent_at=now - 0.1 if sent_at is None else sent_at,
        delivered=size,
        delivered_at_send=0,
        in_flight_at_send=size,
        lost_since_send=0,
        delivery_rate=None,
        app_limited=limited,
    )


def in_avoidance(window: int = 100) -> Cubic:
    """100 datagrams, then a loss at time 1: window 70, W_max 100."""
    cubic = Cubic(SIZE)
    cubic.on_ack(ack(0.5, (window - 10) * SIZE))
    assert cubic.window == window * SIZE
    cubic.on_congestion_event(1.0, 0.9, SIZE, (window - 1) * SIZE)
    return cubic


def test_initial_window_and_slow_start() -> None:
    cubic = Cubic(SIZE)
    assert cubic.window == 12_000
    assert Cubic(1472).window == 14_720
    assert Cubic(8972).window == 17_944
    cubic.on_ack(ack(1.0, 12_000))
    assert cubic.window == 24_000


def test_pacing_rate_is_twice_the_window_in_slow_start_and_a_quarter_more_after() -> None:
    assert Cubic(SIZE).pacing_rate(0.1) == pytest.approx(240_000)
    assert in_avoidance().pacing_rate(0.1) == pytest.approx(1.25 * 70 * SIZE / 0.1)


def test_a_loss_leaves_seven_tenths_once_a_round() -> None:
    cubic = in_avoidance()
    assert cubic.window == pytest.approx(70 * SIZE, abs=1)
    cubic.on_congestion_event(1.05, 0.95, SIZE, 0)  # sent before the recovery period began
    assert cubic.window == pytest.approx(70 * SIZE, abs=1)
    cubic.on_ack(ack(1.06, 10 * SIZE, sent_at=0.96))
    assert cubic.window == pytest.approx(70 * SIZE, abs=1)
    cubic.on_congestion_event(1.2, 1.1, SIZE, 0)
    assert cubic.window == pytest.approx(49 * SIZE, abs=1)


def test_the_window_never_falls_below_two_datagrams() -> None:
    cubic = Cubic(SIZE)
    for at in range(1, 20):
        cubic.on_congestion_event(at, at - 0.5, SIZE, 0)
    assert cubic.window == 2 * SIZE


def grow(cubic: Cubic, start: float, duration: float) -> float:
    """A whole window acknowledged every RTT of 0.1 s. Returns when the next ACK would come."""
    for index in range(round(duration * 10)):
        cubic.on_ack(ack(start + index / 10, cubic.window))
    return start + duration


def test_cubic_growth_is_back_at_w_max_after_k() -> None:
    """K = cbrt((1000 - 700) / 0.4) = 9.086 s; each ACK sets the window for one RTT ahead."""
    cubic = in_avoidance(1000)
    now = grow(cubic, 1.2, 6.0)
    assert cubic.window / SIZE == pytest.approx(1000 + 0.4 * (6.0 - 9.086) ** 3, abs=0.5)
    now = grow(cubic, now, 3.1)
    assert cubic.window / SIZE == pytest.approx(1000, abs=0.1)
    grow(cubic, now, 3.0)
    assert cubic.window / SIZE == pytest.approx(1000 + 0.4 * (12.1 - 9.086) ** 3, abs=0.5)


def test_reno_friendly_region_on_a_small_window() -> None:
    """With 10 ms RTT, W_est grows 0.529 datagrams a round trip and outruns the cubic."""
    cubic = Cubic(SIZE)
    cubic.on_congestion_event(1.0, 0.9, SIZE, 0)
    assert cubic.window == 7 * SIZE
    for round_trip in range(4):
        cubic.on_ack(ack(1.1 + round_trip * 0.01, cubic.window, sent_at=1.05 + round_trip * 0.01))
    assert cubic.window / SIZE == pytest.approx(7 + 4 * 0.529, abs=0.2)


def test_fast_convergence() -> None:
    """A loss at 700, below W_max 1000: the new W_max is 595, not 700, and K = cbrt((595 - 490) / 0.4) = 6.403 s."""
    cubic = in_avoidance(1000)
    cubic.on_congestion_event(2.0, 1.9, SIZE, 0)
    grow(cubic, 2.2, 6.0)
    assert cubic.window / SIZE == pytest.approx(595 + 0.4 * (6.0 - 6.403) ** 3, abs=0.5)


def test_app_limited_acks_do_not_grow_the_window() -> None:
    cubic = Cubic(SIZE)
    cubic.on_ack(ack(1.0, 12_000, limited=True))
    assert cubic.window == 12_000
    late = in_avoidance()
    late.on_ack(ack(1.2, SIZE))
    for tenth in range(100):
        late.on_ack(ack(1.3 + tenth / 10, 70 * SIZE, limited=True))
    before = late.window
    late.on_ack(ack(11.3, SIZE))
    assert late.window - before < SIZE  # ten idle seconds did not count as growth


def test_persistent_congestion_falls_to_the_minimum() -> None:
    cubic = in_avoidance()
    cubic.on_persistent_congestion(3.0)
    assert cubic.window == 2 * SIZE


def test_a_spurious_congestion_event_is_undone() -> None:
    cubic = in_avoidance()
    cubic.on_spurious_congestion_event(1.3)
    assert cubic.window == 100 * SIZE
    assert cubic.in_slow_start


def rounds(hystart: HyStart, rtts: list[float], start: int = 0) -> int:
    """One round per RTT, ten samples each."""
    number = start
    for rtt in rtts:
        for _ in range(10):
            number += 1
            hystart.on_ack(rtt, number, number + 9)
    return number


def test_hystart_leaves_slow_start_when_the_rtt_rises_by_an_eighth() -> None:
    steady = HyStart()
    rounds(steady, [0.1, 0.1, 0.111])
    assert steady.phase is Phase.SLOW_START
    assert steady.growth(4000) == 4000
    rising = HyStart()
    number = rounds(rising, [0.1, 0.1, 0.113])
    assert rising.phase is Phase.CONSERVATIVE
    assert rising.growth(4000) == 1000
    rounds(rising, [0.114] * 5, number)
    assert rising.phase is Phase.DONE


def test_hystart_threshold_lies_between_4_and_16_ms() -> None:
    near = HyStart()
    rounds(near, [0.001, 0.001, 0.0049])
    assert near.phase is Phase.SLOW_START
    rounds(near, [0.0101], 30)
    assert near.phase is Phase.CONSERVATIVE
    far = HyStart()
    rounds(far, [0.6, 0.6, 0.6165])
    assert far.phase is Phase.CONSERVATIVE


def test_hystart_resumes_when_the_rise_was_jitter() -> None:
    hystart = HyStart()
    number = rounds(hystart, [0.1, 0.1, 0.12])
    assert hystart.phase is Phase.CONSERVATIVE
    rounds(hystart, [0.1], number)
    assert hystart.phase is Phase.SLOW_START


def test_pacer_begins_with_ten_datagrams_and_then_keeps_the_rate() -> None:
    pacer = Pacer(0.0)
    pacer.set_rate(1_200_000.0, SIZE)  # a datagram a millisecond
    assert pacer.budget(0.0) == 12_000
    pacer.on_sent(12_000)
    assert pacer.budget(0.0) == 0
    assert pacer.deadline() == pytest.approx(0.001)
    assert pacer.budget(0.001) == SIZE


def test_pacer_sends_a_millisecond_at_a_time_at_high_rates() -> None:
    pacer = Pacer(0.0)
    pacer.set_rate(50e6, SIZE)  # 50 kB a millisecond
    pacer.on_sent(pacer.budget(0.0))
    total, now = 0, 0.0
    for _ in range(1000):
        now += 0.001
        while budget := pacer.budget(now):
            assert budget <= 50_000 + 1
            pacer.on_sent(budget)
            total += budget
    assert total == pytest.approx(50e6 + 3 * 50_000, rel=0.01)


def test_pacer_catches_up_a_few_milliseconds_and_no_more() -> None:
    pacer = Pacer(0.0)
    pacer.set_rate(50e6, SIZE)
    total = 0
    while budget := pacer.budget(1.0):
        pacer.on_sent(budget)
        total += budget
    assert total == pytest.approx(4 * 50_000, abs=2 * SIZE)


@pytest.mark.parametrize("version", [4, 6])
def test_path_mtu_search_finds_each_size(version: int) -> None:
    for truth in SIZES:
        mtu, now, probes = PathMtu(version), 0.0, 0
        while (size := mtu.next_probe()) is not None:
            probes += 1
            mtu.on_probe_sent()
            assert mtu.next_probe() is None  # one at a time
            if size <= truth:
                mtu.on_probe_acked(size)
            else:
                mtu.on_probe_lost(size, now)
        assert mtu.size == truth
        assert probes <= 5 * 3
    assert mtu.poll_timeout() is None


def test_path_mtu_tries_ethernet_first_and_again_later() -> None:
    mtu = PathMtu()
    assert mtu.next_probe() == 1472
    for _ in range(3):
        assert mtu.next_probe() == 1472
        mtu.on_probe_sent()
        mtu.on_probe_lost(1472, 5.0)
    assert mtu.next_probe() == 1392
    assert mtu.poll_timeout() == 5.0 + RAISE_INTERVAL
    mtu.handle_timeout(5.0 + RAISE_INTERVAL)
    assert mtu.next_probe() == 1472


def test_message_too_big_ends_a_probe_at_once_and_shrinks_data() -> None:
    mtu = PathMtu()
    mtu.on_probe_sent()
    assert not mtu.on_too_big(1472, 0.0)
    assert mtu.next_probe() == 1392
    mtu.on_probe_sent()
    assert mtu.on_probe_acked(1392)
    assert mtu.on_too_big(1392, 0.0)
    assert mtu.size == 1200
    assert mtu.next_probe() == 1280


def found(mtu: PathMtu, truth: int, now: float) -> int:
    """What a search finds on a path that carries `truth` bytes."""
    while (size := mtu.next_probe()) is not None:
        mtu.on_probe_sent()
        if size <= truth:
            mtu.on_probe_acked(size)
        else:
            mtu.on_probe_lost(size, now)
    return mtu.size


def test_black_hole_falls_back_and_searches_again() -> None:
    mtu = PathMtu()
    mtu.on_probe_sent()
    mtu.on_probe_acked(1472)
    assert not mtu.on_lost(1472, 1.0)
    assert not mtu.on_lost(1472, 2.0)
    mtu.on_acked(1472)  # one got through: begin counting again
    assert [mtu.on_lost(1472, 3.0), mtu.on_lost(1200, 3.0), mtu.on_lost(1472, 3.0), mtu.on_lost(1472, 4.0)] == [
        False,
        False,
        False,
        True,
    ]
    assert mtu.size == 1200
    assert mtu.next_probe() == 1392  # what is smaller may well pass
    assert found(mtu, 1372, 4.0) == 1372


def test_what_passed_once_is_tried_again_soon_and_then_less_and_less_often() -> None:
    mtu = PathMtu()
    assert found(mtu, 1472, 0.0) == 1472
    for at in (1.0, 2.0, 3.0):
        mtu.on_lost(1472, at)
    assert found(mtu, 1300, 3.0) == 1280
    now, waits = 3.0, []
    for _ in range(9):
        restart = mtu.poll_timeout()
        assert restart is not None
        waits.append(restart - now)
        now = restart
        mtu.handle_timeout(now)
        assert found(mtu, 1300, now) == 1280
    assert waits[:4] == [SHRUNK_PAUSE, 2 * SHRUNK_PAUSE, 4 * SHRUNK_PAUSE, 8 * SHRUNK_PAUSE]
    assert max(waits) == RAISE_INTERVAL
    mtu.handle_timeout(now + RAISE_INTERVAL)
    assert found(mtu, 1472, now) == 1472


@pytest.mark.parametrize(("link", "over_ipv4", "over_ipv6"), [
    (1280, 1252, 1232), (1400, 1372, 1352), (1420, 1392, 1372), (1460, 1432, 1412), (1492, 1464, 1444),
    (1500, 1472, 1452), (9000, 7962, 7962),
])  # fmt: skip
def test_common_links_are_filled(link: int, over_ipv4: int, over_ipv6: int) -> None:
    assert found(PathMtu(4), link - 28, 0.0) == over_ipv4
    assert found(PathMtu(6), link - 48, 0.0) == over_ipv6


@pytest.mark.parametrize(("version", "headers"), [(4, 28), (6, 48)])
def test_ethernet_is_tried_first(version: int, headers: int) -> None:
    assert PathMtu(version).next_probe() == 1500 - headers


def test_a_record_is_one_super_packet_at_every_size() -> None:
    for size in SIZES:
        payload = size - DATA_HEADER
        count = -(-MAX_CIPHERTEXT // payload)
        assert count <= MAX_SEGMENTS
        assert MAX_CIPHERTEXT + count * DATA_HEADER <= MAX_BURST
