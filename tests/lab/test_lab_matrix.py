"""Cells of the matrix of all NATs, each by the path and in the time that it should take, and some other networks.

`python -m bench.matrix` runs them all.
"""

from __future__ import annotations

import pytest

from bench.matrix import run_cell, run_network
from bench.networks import NETWORKS, Network
from netlab.nat import (
    ADDRESS_DEPENDENT,
    CARRIER_SYMMETRIC,
    FIREWALL,
    FIREWALL_REJECTING,
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
    UDP_BLOCKED,
    UDP_REJECTED,
    Nat,
)

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
    (UDP_BLOCKED, FIREWALL),
    (FIREWALL_REJECTING, UDP_BLOCKED),
    (UDP_BLOCKED, SYMMETRIC),
    (ONLY_TCP_443, SYMMETRIC),
]


APART = (
    "two homes of one carrier: carrier-grade",
    "two homes of one carrier: carrier-grade, full cone",
    "one LAN, isolated: port-restricted, hairpinning",
    "dual stack, symmetric",
    "IPv6 only, firewalls, UDP blocked at one",
    "PCP on a symmetric router x symmetric",
    "port mapper behind a symmetric carrier x symmetric",
)


@pytest.mark.netlab
@pytest.mark.parametrize(("left", "right"), CELLS, ids=lambda nat: nat.name)
def test_a_pair_takes_the_best_path_that_there_is_in_time(left: Nat, right: Nat) -> None:
    result = run_cell(left, right)
    assert not result.wrong, result
    assert result.rate is not None


@pytest.mark.netlab
@pytest.mark.parametrize("network", [each for each in NETWORKS if each.name in APART], ids=lambda each: each.name)
def test_a_network_that_is_no_pair_of_kinds_does_so_too(network: Network) -> None:
    result = run_network(network)
    assert not result.wrong, result
    assert result.rate is not None
