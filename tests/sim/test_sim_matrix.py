"""Every pair of the simulator's NATs once; `sim.matrix` runs as many seeds as one likes."""

from __future__ import annotations

import pytest
from sim.matrix import PAIRS, run


@pytest.mark.parametrize("number", range(len(PAIRS)), ids=[f"{left} x {right}" for left, right in PAIRS])
def test_a_pair_takes_the_best_path_that_there_is_in_time(number: int) -> None:
    result = run(*PAIRS[number], seed=number)
    assert not result.wrong, result
