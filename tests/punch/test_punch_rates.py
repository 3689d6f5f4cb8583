"""How often and how fast a direct path is found, over hundreds of seeds in virtual time; see punch_world."""

from __future__ import annotations

import statistics
from collections.abc import Iterator

import pytest
from punch_world import PunchWorld
from sim.network import APDF, EIM, NAT_KINDS, NatKind

from p2p.core.punch.agent import OPEN_WAIT
from p2p.core.punch.events import How

LIMIT = 10.5  # virtual seconds; without a path the agent has failed by then
HARD = "port-restricted"  # lets in only what was sent to
KINDS = {
    **NAT_KINDS,
    # Counters that begin anew after 256 ports, which no report tells.
    "small counter": NatKind(APDF, APDF, stride=1, ports=range(40_000, 40_256)),
    "small counter, stride 4": NatKind(APDF, APDF, stride=4, ports=range(40_000, 41_024)),
}


class Rate:
    """Seconds from the start of the later side until both had a direct path, over so many seeds."""

    def __init__(self, left: str, right: str, runs: int, skew: float = 0.0, **world: object) -> None:
        self.runs = runs
        self.seconds: list[float] = []
        self.hows: set[How] = set()
        for seed in range(runs):
            made = PunchWorld(left, right, seed, kinds=KINDS, **world)  # type: ignore[arg-type]
            made.start(skew)
            if made.run(LIMIT):
                self.seconds.append(max(peer.direct_at or 0.0 for peer in made.peers))
                self.hows |= {selected.how for peer in made.peers for selected in peer.selected}

    @property
    def share(self) -> float:
        return len(self.seconds) / self.runs

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    def within(self, seconds: float) -> float:
        return sum(each <= seconds for each in self.seconds) / self.runs


def both_ways(left: str, right: str) -> Iterator[tuple[str, str]]:
    yield left, right
    if left != right:
        yield right, left


SEQUENTIAL = ("sequential", "stride 4", "backwards", "sequential, address-dependent")


@pytest.mark.parametrize("kind", SEQUENTIAL)
@pytest.mark.parametrize("foreign", [0.0, 10.0, 40.0])
def test_the_next_port_of_a_nat_that_counts_is_foreseen(kind: str, foreign: float) -> None:
    for left, right in both_ways(HARD, kind):
        rate = Rate(left, right, 100, foreign=foreign)
        assert rate.share == 1.0
        assert rate.median <= 0.2
        assert rate.within(1.0) >= 0.99
        assert rate.hows == {How.PREDICTED}


@pytest.mark.parametrize("kind", ["small counter", "small counter, stride 4"])
def test_a_counter_that_begins_anew_is_found_by_a_row_of_sockets(kind: str) -> None:
    for left, right in both_ways(HARD, kind):
        rate = Rate(left, right, 150)
        assert rate.share == 1.0
        assert max(rate.seconds) <= 3.0


@pytest.mark.parametrize(("foreign", "median"), [(0.0, 0.4), (10.0, 0.4), (40.0, 1.0)])
@pytest.mark.parametrize("kind", ["sequential", "stride 4", "sequential, address-dependent"])
def test_two_nats_that_count(kind: str, foreign: float, median: float) -> None:
    for left, right in both_ways("sequential", kind):
        rate = Rate(left, right, 60, foreign=foreign)
        assert rate.share >= 0.98
        assert rate.median <= median
        assert rate.hows <= {How.PREDICTED, How.BIRTHDAY}


def test_two_small_counters() -> None:
    rate = Rate("small counter", "small counter, stride 4", 100)
    assert rate.share >= 0.98
    assert rate.median <= 0.4


@pytest.mark.parametrize("kind", ["symmetric", "address-dependent", "symmetric, preserving"])
def test_random_ports_against_a_strict_filter(kind: str) -> None:
    for left, right in both_ways(HARD, kind):
        rate = Rate(left, right, 100)
        assert rate.within(6.0) >= 0.98
        assert rate.median <= 1.5


def test_random_ports_where_a_tenth_of_all_packets_is_lost() -> None:
    rate = Rate(HARD, "symmetric", 100, loss=0.1)
    assert rate.within(6.0) >= 0.98
    assert rate.median <= 1.5


def test_a_small_pool_is_found_sooner() -> None:
    for left, right in both_ways(HARD, "carrier symmetric"):
        rate = Rate(left, right, 100)
        assert rate.share == 1.0
        assert max(rate.seconds) <= 1.2


def test_two_small_pools_meet() -> None:
    rate = Rate("carrier symmetric", "carrier symmetric", 40)
    assert rate.within(6.0) >= 0.98
    assert rate.median <= 2.0
    assert rate.hows == {How.BIRTHDAY}


@pytest.mark.parametrize("kind", ["unguarded", HARD, "none", "full cone"])
@pytest.mark.parametrize("skew", [0.0, 0.01, 0.05, 0.15, 0.3, -0.01, -0.05, -0.15, -0.3])
def test_a_router_that_gives_a_port_to_whoever_knocks_first(kind: str, skew: float) -> None:
    rate = Rate("unguarded", kind, 20, skew)
    assert rate.share == 1.0
    assert max(rate.seconds) <= 0.5


@pytest.mark.parametrize("skew", [0.0, 0.15, 0.3, -0.15, -0.3])
def test_the_same_when_nothing_is_heard_over_the_server(skew: float) -> None:
    """Each then goes on when it has waited long enough."""
    rate = Rate("unguarded", "unguarded", 20, skew, signals=False)
    assert rate.share == 1.0
    assert max(rate.seconds) <= OPEN_WAIT + 0.5


def test_unguarded_against_random_ports() -> None:
    """The mappings to be found are made by packets that do not reach, and so do not spoil, the other side's router."""
    for left, right in both_ways("unguarded", "symmetric"):
        rate = Rate(left, right, 100)
        assert rate.within(6.0) >= 0.98


def test_an_easy_pair_waits_no_longer_than_for_one_word_over_the_server() -> None:
    plain = Rate(HARD, HARD, 20)
    assert plain.share == 1.0
    # 40 ms until the other side's word is there, 20 for a check and its answer, 50 for a better one, 20 to agree
    assert plain.seconds == pytest.approx([0.13] * 20, abs=0.005)
    assert max(Rate("none", HARD, 20).seconds) <= 0.12
    assert max(Rate("none", "none", 20).seconds) <= 0.05


@pytest.mark.parametrize("inner", [HARD, "unguarded", "sequential", "symmetric"])
@pytest.mark.parametrize("carrier", [NatKind(EIM, APDF), NAT_KINDS["carrier symmetric"]], ids=["easy", "hard"])
def test_behind_two_nats_each(inner: str, carrier: NatKind) -> None:
    rate = Rate(inner, HARD, 30, carrier=carrier)
    assert rate.share >= 0.97
    assert rate.median <= 2.0
