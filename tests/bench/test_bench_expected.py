"""What is said of a pair: by which path, how soon, and what was used meanwhile."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import pytest

from bench.expected import (
    AFTER_A_SEARCH,
    BY_LUCK,
    BY_TCP,
    DIRECTLY,
    RELAYED,
    Expected,
    complaint,
    ended_too_soon,
    expected,
)
from bench.networks import NETWORKS
from netlab.nat import (
    CARRIER_SYMMETRIC,
    FIREWALL,
    KINDS,
    ONLY_TCP_443,
    PORT_RESTRICTED,
    SYMMETRIC,
    SYMMETRIC_OPEN,
    SYMMETRIC_STRIDE,
    UDP_BLOCKED,
    UDP_REJECTED,
    Nat,
)
from netlab.page import Result

DIRECT, TCP, RELAY = "direct UDP 3 ms (punched)", "direct TCP (UDP does not get through)", "relay 3 ms (no)"


def went(path: str, seconds: float, later: str = "", later_seconds: float | None = None) -> Result:
    return Result("a", "b", path, seconds, later=later, later_seconds=later_seconds)


@pytest.mark.parametrize(
    ("wanted", "result"),
    [
        (DIRECTLY, went(DIRECT, 2.9)),
        (DIRECTLY, went(RELAY, 2.0, DIRECT, 2.9)),
        (AFTER_A_SEARCH, went(DIRECT, 2.9)),
        (AFTER_A_SEARCH, went(RELAY, 2.9, DIRECT, 7.9)),
        (BY_TCP, went(TCP, 1.0)),
        (RELAYED, went(RELAY, 2.9)),
        (BY_LUCK, went(RELAY, 2.9, DIRECT, 20.0)),
        (replace(DIRECTLY, says="IPv6"), went("direct UDP 3 ms (IPv6, no NAT between)", 1.0)),
    ],
)
def test_as_wanted(wanted: Expected, result: Result) -> None:
    assert complaint(result, wanted) is None


@pytest.mark.parametrize(
    ("wanted", "result", "said"),
    [
        (DIRECTLY, Result("a", "b", words="no answer"), "no path: no answer"),
        (DIRECTLY, went(DIRECT, 3.1), "nothing for 3.1 s"),
        (DIRECTLY, went(RELAY, 2.0, DIRECT, 3.1), "after 3.1 s, wanted within 3"),
        (DIRECTLY, went(RELAY, 2.0), "where this was to be: direct UDP within 3 s"),
        (AFTER_A_SEARCH, went(DIRECT, 3.1), "not even a relay"),
        (AFTER_A_SEARCH, went(RELAY, 3.1, DIRECT, 4.0), "not even a relay"),
        (AFTER_A_SEARCH, went(RELAY, 2.0, DIRECT, 8.1), "after 8.1 s, wanted within 8"),
        (AFTER_A_SEARCH, went(RELAY, 2.0), "'relay 3 ms (no)' where"),
        (BY_TCP, went(RELAY, 1.0), "'relay 3 ms (no)' where"),
        (RELAYED, went(DIRECT, 1.0), "where this was to be: relay"),
        (replace(DIRECTLY, says="IPv6"), went(DIRECT, 1.0), "where this was to be: direct UDP (IPv6)"),
    ],
)
def test_not_as_wanted(wanted: Expected, result: Result, said: str) -> None:
    assert said in (complaint(result, wanted) or "")


def test_a_search_that_a_short_file_did_not_wait_for_is_run_with_a_long_one() -> None:
    assert ended_too_soon(went(RELAY, 2.5), AFTER_A_SEARCH)
    assert not ended_too_soon(went(RELAY, 2.5, DIRECT, 4.0), AFTER_A_SEARCH)
    assert not ended_too_soon(went(RELAY, 2.5), RELAYED)
    assert not ended_too_soon(went(RELAY, 3.5), AFTER_A_SEARCH)  # a second run would hide it


@pytest.mark.parametrize("blocked", [UDP_BLOCKED, UDP_REJECTED])
def test_without_udp_it_is_tcp_where_both_keep_a_port_for_it(blocked: Nat) -> None:
    for other in (PORT_RESTRICTED, FIREWALL, SYMMETRIC_STRIDE, CARRIER_SYMMETRIC, UDP_BLOCKED):
        assert expected(blocked, other) == BY_TCP
    for other in (SYMMETRIC, SYMMETRIC_OPEN, ONLY_TCP_443):
        assert expected(blocked, other) == RELAYED


def test_the_table_is_the_same_from_both_sides_and_every_name_is_there_once() -> None:
    assert all(expected(left, right) == expected(right, left) for left, right in product(KINDS, KINDS))
    names = [each.name for each in NETWORKS]
    assert len(names) == len(set(names))
