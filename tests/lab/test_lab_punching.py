"""Two agents behind NATs of real kernels, without the rest of the program: that the simulator's NATs are like these.

Rates over a hundred runs: `python -m bench.punching`, which says how it is done.
"""

from __future__ import annotations

import pytest

from bench.punching import PLAIN, RANDOM, SEQUENTIAL, Cell, Pair, mirror, runs
from netlab.nat import (
    ADDRESS_DEPENDENT,
    CARRIER_SYMMETRIC,
    PORT_RESTRICTED,
    PORT_RESTRICTED_UNGUARDED,
    SYMMETRIC,
    SYMMETRIC_SEQUENTIAL,
    SYMMETRIC_STRIDE,
)
from netlab.topology import two_nats

pytestmark = pytest.mark.netlab
RUNS = 3  # of a second each; one may have bad luck: that two have is less likely than one in 100,000


@pytest.mark.parametrize(
    ("cell", "how"),
    [
        (Cell(PORT_RESTRICTED, SYMMETRIC_STRIDE, SEQUENTIAL), "predicted"),
        (Cell(SYMMETRIC, PORT_RESTRICTED, RANDOM), "birthday"),
        (Cell(PORT_RESTRICTED_UNGUARDED, SYMMETRIC, RANDOM), "birthday"),
        (Cell(PORT_RESTRICTED, ADDRESS_DEPENDENT, RANDOM), "birthday"),
        (Cell(SYMMETRIC_SEQUENTIAL, SYMMETRIC_STRIDE, SEQUENTIAL), "predicted"),
        (Cell(CARRIER_SYMMETRIC, CARRIER_SYMMETRIC, RANDOM), "birthday"),
        (Cell(PORT_RESTRICTED_UNGUARDED, PORT_RESTRICTED_UNGUARDED, PLAIN, skew=0.15), "plain"),
        (Cell(PORT_RESTRICTED, PORT_RESTRICTED_UNGUARDED, PLAIN, skew=0.3), "plain"),
    ],
    ids=str,
)
def test_a_direct_path_is_found(netlab, cell: Cell, how: str) -> None:
    lab = netlab(two_nats(cell.left, cell.right))
    with mirror(lab):
        found = list(runs(Pair(lab), cell, RUNS))
    hows = [run.how for run in found if run is not None]
    assert len(hows) >= RUNS - 1
    assert any(how in each for each in hows), hows
