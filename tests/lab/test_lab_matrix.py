"""Cells of the matrix of all NATs, each by the path that it should take; `python -m bench.matrix` runs them all."""

from __future__ import annotations

import pytest

from bench.matrix import expected
from netlab.matrix import run_pair
from netlab.nat import (
    ADDRESS_DEPENDENT,
    CARRIER_SYMMETRIC,
    FIREWALL,
    FULL_CONE_RANDOM,
    ONLY_TCP_443,
    PORT_RESTRICTED,
    PORT_RESTRICTED_MAPPER,
    PORT_RESTRICTED_RANDOM,
    PORT_RESTRICTED_REJECTING,
    PORT_RESTRICTED_UNGUARDED,
    SYMMETRIC,
    SYMMETRIC_OPEN,
    SYMMETRIC_SEQUENTIAL,
    SYMMETRIC_STRIDE,
    UDP_REJECTED,
    Nat,
)

SIZE = 200_000  # bytes
CELLS = [
    (PORT_RESTRICTED_UNGUARDED, PORT_RESTRICTED_UNGUARDED),
    (PORT_RESTRICTED_REJECTING, PORT_RESTRICTED_RANDOM),
    (PORT_RESTRICTED, SYMMETRIC_SEQUENTIAL),
    (SYMMETRIC_STRIDE, PORT_RESTRICTED_RANDOM),
    (SYMMETRIC_SEQUENTIAL, SYMMETRIC_SEQUENTIAL),
    (FIREWALL, ADDRESS_DEPENDENT),
    (CARRIER_SYMMETRIC, CARRIER_SYMMETRIC),
    (PORT_RESTRICTED_MAPPER, SYMMETRIC),
    (SYMMETRIC, SYMMETRIC_OPEN),
    (FULL_CONE_RANDOM, SYMMETRIC),
    (SYMMETRIC, SYMMETRIC_STRIDE),
    (UDP_REJECTED, UDP_REJECTED),
    (ONLY_TCP_443, SYMMETRIC),
]


@pytest.mark.netlab
@pytest.mark.parametrize(("left", "right"), CELLS, ids=lambda nat: nat.name)
def test_a_pair_takes_the_best_path_that_there_is(left: Nat, right: Nat) -> None:
    result = run_pair(left, right, SIZE)
    assert any(result.path.startswith(path.value) for path in expected(left, right).paths), result
    assert result.rate is not None
