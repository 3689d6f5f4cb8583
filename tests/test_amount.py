"""Rates as people type them."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2p.core.amount import MIN_RATE, parse_rate
from p2p.core.errors import CallerError


@pytest.mark.parametrize(
    ("text", "rate"),
    [
        ("10000", 10_000),
        ("500k", 500_000),
        ("500K", 500_000),
        ("20M", 20_000_000),
        ("1.5G", 1_500_000_000),
        ("20MB/s", 20_000_000),
        (" 20 MB/s ", 20_000_000),
        ("512Ki", 524_288),
        ("2MiB", 2_097_152),
        ("0.01M", 10_000),
    ],
)
def test_a_rate_is_bytes_a_second(text, rate):
    assert parse_rate(text) == rate


@pytest.mark.parametrize(
    "text", ["", "k", "fast", "-1M", "1e9", "nan", "inf", "20Mb", "20Mbit", "1.2.3M", "2 0M", "٣M", "5T"]
)
def test_what_is_no_rate(text):
    with pytest.raises(CallerError, match=r"as in 500k, 20M or 1\.5G"):
        parse_rate(text)


@pytest.mark.parametrize("text", ["0", "1", "9999", "9.9k"])
def test_a_rate_at_which_a_path_would_seem_dead(text):
    with pytest.raises(CallerError, match="10k bytes a second or more"):
        parse_rate(text)


@given(st.text(max_size=30))
def test_it_raises_nothing_else(text):
    with contextlib.suppress(CallerError):
        assert MIN_RATE <= parse_rate(text) < float("inf")
