"""The token bucket that all caps on how often share, beside the plain one that it stands for."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2p.core.rate import Bucket, Rate


@pytest.mark.parametrize("rate", [Rate(1000, 1000), Rate(300, 100), Rate(60, 20), Rate(8, 0.2), Rate(1, 3)])
@pytest.mark.parametrize("now", [0.0, 0.1, 1e6 / 3, 1e7 / 3])
def test_a_burst_is_exactly_that_and_comes_back_at_the_rate(rate: Rate, now: float) -> None:
    bucket = Bucket(rate)
    assert sum(bucket.take(now) for _ in range(2000)) == rate.burst
    assert not bucket.has(now)
    later = now + 10 * rate.burst / rate.per_second
    assert bucket.has(later)
    assert sum(bucket.take(later) for _ in range(2000)) == rate.burst


@given(
    st.integers(1, 50),
    st.integers(1, 200),
    st.lists(st.tuples(st.integers(0, 3000), st.integers(1, 60)), max_size=60),
)
def test_it_grants_what_a_bucket_of_tokens_would(
    burst: int, per_second: int, steps: list[tuple[int, int]]
) -> None:
    rate, debt = Rate(burst, per_second), 0.0
    tokens, now = Fraction(burst), Fraction(0)  # in milliseconds, so that it is exact
    for pause, amount in steps:
        now += pause
        tokens = min(Fraction(burst), tokens + Fraction(pause * per_second, 1000))
        new = rate.spend(debt, float(now / 1000), amount)
        assert (new is not None) is (tokens >= amount)
        if new is not None:
            debt, tokens = new, tokens - amount


def test_asking_costs_nothing_and_a_refusal_neither() -> None:
    bucket = Bucket(Rate(1, 1))
    assert all(bucket.has(0.0) for _ in range(10))
    assert bucket.take(0.0)
    assert not any(bucket.take(0.5) for _ in range(10))
    assert bucket.take(1.0)
