"""What samples say: right about every behaviour, silent where they do not say enough."""

from __future__ import annotations

import random
from itertools import accumulate

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2p.core.address import Address
from p2p.core.nat.inference import CHANCE, MISS, Sample, mapping_of, new_ports, pool_of, preserves_ports, stride_of
from p2p.core.nat_report import Mapping

A1, A2, B1, B2 = (Address(host, port) for host in ("203.0.113.1", "203.0.113.2") for port in (8080, 8081))
DESTINATIONS = (A1, A2, B1, B2)
RUNS = 1000

ports = st.integers(1024, 65535)


def samples(*seen: tuple[Address, int], local: int = 0) -> list[Sample]:
    """External ports by destination."""
    return [
        Sample(number, local, 50_000, destination, Address("198.51.100.1", port))
        for number, (destination, port) in enumerate(seen)
    ]


@pytest.mark.parametrize(
    ("seen", "mapping"),
    [
        ((), Mapping.UNKNOWN),
        (((A1, 1),), Mapping.UNKNOWN),
        (((A1, 1), (A2, 1)), Mapping.NOT_PORT_DEPENDENT),
        (((A1, 1), (A2, 2)), Mapping.ADDRESS_AND_PORT_DEPENDENT),
        (((A1, 1), (B1, 1)), Mapping.ENDPOINT_INDEPENDENT),
        (((A1, 1), (B1, 2)), Mapping.DESTINATION_DEPENDENT),
        (((A1, 1), (A2, 1), (B1, 2)), Mapping.ADDRESS_DEPENDENT),
        (((A1, 1), (A2, 1), (B1, 2), (B2, 2)), Mapping.ADDRESS_DEPENDENT),
        (((A1, 1), (A2, 1), (B1, 1), (B2, 1)), Mapping.ENDPOINT_INDEPENDENT),
        (((A1, 1), (A2, 2), (B1, 3), (B2, 4)), Mapping.ADDRESS_AND_PORT_DEPENDENT),
        (((A1, 1), (A2, 1), (B1, 3), (B2, 4)), Mapping.ADDRESS_AND_PORT_DEPENDENT),  # two alike by chance
        (((A1, 1), (A2, 2), (B1, 1), (B2, 4)), Mapping.ADDRESS_AND_PORT_DEPENDENT),
    ],
)
def test_mapping(seen: tuple[tuple[Address, int], ...], mapping: Mapping) -> None:
    assert mapping_of(samples(*seen)) is mapping
    assert mapping_of(samples(*seen)[::-1]) is mapping


def test_another_external_address_is_another_mapping() -> None:
    one, two = samples((A1, 7), (A2, 7))
    moved = Sample(two.number, two.local, two.port, two.destination, Address("198.51.100.2", 7))
    assert mapping_of([one, moved]) is Mapping.ADDRESS_AND_PORT_DEPENDENT


@given(st.dictionaries(st.sampled_from(DESTINATIONS), ports))
def test_samples_of_different_sockets_are_not_compared(seen: dict[Address, int]) -> None:
    apart = [
        Sample(number, number, 50_000, destination, Address("198.51.100.1", port))
        for number, (destination, port) in enumerate(seen.items())
    ]
    assert mapping_of(apart) is Mapping.UNKNOWN


def test_port_preservation_is_that_of_every_mapping() -> None:
    assert not preserves_ports([])
    assert preserves_ports(samples((A1, 50_000), (A2, 50_000)))
    assert not preserves_ports(samples((A1, 50_000), (A2, 50_001)))


def test_new_ports_are_those_of_new_mappings_in_the_order_of_asking() -> None:
    seen = samples((A1, 9), (A2, 9), (B1, 7), (B2, 8))
    assert new_ports(reversed(seen)) == [9, 7, 8]
    late = Sample(9, 0, 50_000, A1, Address("198.51.100.1", 3), is_in_order=False)
    assert new_ports([*seen, late]) == [9, 7, 8]
    elsewhere = Sample(10, 0, 50_000, A1, Address("198.51.100.2", 4))
    assert new_ports([*seen, elsewhere]) == [4]
    assert new_ports([]) == []


@given(
    stride=st.sampled_from([-4, -2, -1, 1, 2, 3, 4, 16]),
    gaps=st.lists(st.integers(1, 4), min_size=2, max_size=11),
    first=st.integers(20_000, 40_000),
)
def test_a_stride_is_found_with_three_foreign_mappings_in_between(stride: int, gaps: list[int], first: int) -> None:
    given_ports = list(accumulate([first, *(stride * gap for gap in gaps)]))
    found = stride_of(given_ports)
    if max(abs(stride * gap) for gap in gaps) < 16 or len(gaps) >= 4:
        assert found
    # It never says less than the truth, and no more than what is common to all steps.
    assert found % stride == 0
    assert found * stride >= 0
    if 1 in gaps and found:
        assert found == stride


def test_a_port_whose_place_is_not_known_tells_what_is_no_multiple() -> None:
    assert stride_of([40_001, 40_005, 40_009]) == 4
    assert stride_of([40_001, 40_005, 40_009], [40_010]) == 1
    assert stride_of([40_001, 40_005, 40_009], [40_007, 40_005]) == 2
    assert stride_of([40_001, 40_005, 40_009], [1024]) == 4  # given before the NAT began anew


@given(st.integers(1, 4), st.integers(4, 10), st.data())
def test_a_nat_that_begins_anew_once_still_counts(stride: int, steps: int, data: st.DataObject) -> None:
    at = data.draw(st.integers(0, steps))
    given_ports = [60_000 + stride * n if n <= at else 1024 + stride * n for n in range(steps + 1)]
    assert stride_of(given_ports) == stride


@pytest.mark.parametrize("pool", [range(1024, 65536), range(1024, 10_000), range(10_240, 11_264)])
@pytest.mark.parametrize("count", [3, 4, 6, 12])
def test_ports_at_random_have_no_stride_but_once_in_a_thousand(pool: range, count: int) -> None:
    rng = random.Random(count)
    wrong = sum(stride_of(rng.sample(pool, count)) != 0 for _ in range(RUNS))
    assert wrong <= RUNS / 1000 + 4


@given(st.lists(ports, max_size=2))
def test_two_samples_say_nothing(few: list[int]) -> None:
    assert stride_of(few) == 0
    assert pool_of(few) is None


@pytest.mark.parametrize("count", [3, 4, 5, 8, 12])
def test_ports_out_of_all_are_no_block_but_once_in_a_thousand(count: int) -> None:
    rng = random.Random(count)
    wrong = sum(pool_of(rng.sample(range(1024, 65536), count)) is not None for _ in range(RUNS))
    assert wrong <= RUNS / 1000 + 4


@pytest.mark.parametrize("block", [range(10_240, 11_264), range(2048, 4096), range(64_512, 65_536)])
@pytest.mark.parametrize("count", [4, 5, 8, 12])
def test_a_port_block_is_found_and_hardly_ever_cut(block: range, count: int) -> None:
    rng = random.Random(count)
    found = [pool for _ in range(RUNS) if (pool := pool_of(rng.sample(block, count))) is not None]
    assert len(found) == RUNS or (count == 4 and len(block) > 1024)  # four of 2048 may be too few to say so
    cut = sum(pool.ports.start > block.start or pool.ports.stop < block.stop for pool in found)
    assert cut <= RUNS * MISS + 15
    if count >= 8:
        assert sum(pool.ports == block for pool in found) >= RUNS * (1 - MISS) - 15
    assert all(pool.chance <= CHANCE for pool in found)


@given(st.lists(ports, min_size=3, max_size=20))
def test_a_pool_holds_every_port_seen(seen: list[int]) -> None:
    pool = pool_of(seen)
    assert pool is None or set(seen) <= set(pool.ports)
