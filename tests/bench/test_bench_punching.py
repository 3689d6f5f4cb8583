"""What `python -m bench.punching --check` calls a miss, on figures that are made up."""

from __future__ import annotations

import pytest

from bench.punching import CELLS, RANDOM, SEQUENTIAL, Cell, Run, misses
from netlab.nat import PORT_RESTRICTED, PORT_RESTRICTED_UNGUARDED, SYMMETRIC, SYMMETRIC_SEQUENTIAL


def cell(left: object, right: object) -> Cell:
    return next(each for each in CELLS if (each.left, each.right) == (left, right))


def found(*seconds: float | None) -> list[Run | None]:
    """None: no path."""
    return [None if each is None else Run(each, "punched / punched", 100, 0.1) for each in seconds]


def test_random_ports_are_found_in_98_of_100_runs_within_six_seconds() -> None:
    pair = cell(PORT_RESTRICTED, SYMMETRIC)
    assert misses(pair, found(*[0.8] * 98, 6.1, None)) == []
    (words,) = misses(pair, found(*[0.8] * 97, 6.1, 6.1, None))
    assert words == "port-restricted x symmetric: 97 of 100 direct within 6 s, wanted 98 %"
    assert misses(pair, found(*[2.6] * 100)) == ["port-restricted x symmetric: median 2.60 s, wanted 2.5 s"]


@pytest.mark.parametrize("left", [PORT_RESTRICTED, SYMMETRIC_SEQUENTIAL], ids=lambda nat: nat.name)
def test_counting_ports_are_found_in_a_second_in_half_of_the_runs(left: object) -> None:
    pair = cell(left, SYMMETRIC_SEQUENTIAL)
    assert misses(pair, found(*[0.9] * 60, *[3.0] * 40)) == []
    assert misses(pair, found(*[0.9] * 40, *[3.0] * 60)) == [f"{pair}: median 3.00 s, wanted 1 s"]


def test_runs_without_a_path_count_in_the_median() -> None:
    rate, median = misses(cell(SYMMETRIC_SEQUENTIAL, SYMMETRIC_SEQUENTIAL), found(0.5, None, None))
    assert "1 of 3 direct" in rate
    assert median.endswith("median no path, wanted 1 s")


def test_unguarded_routers_are_direct_every_time_whatever_the_skew() -> None:
    unguarded = [each for each in CELLS if each.right is PORT_RESTRICTED_UNGUARDED]
    assert {each.skew for each in unguarded} == {0.0, 0.05, 0.15, 0.3}
    for each in unguarded:
        assert misses(each, found(*[0.1] * 100)) == []
        assert len(misses(each, found(*[0.1] * 99, None))) == 1


def test_nothing_measured_is_a_miss() -> None:
    assert list(RANDOM.misses([])) == list(SEQUENTIAL.misses([])) == ["no run"]
