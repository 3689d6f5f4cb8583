"""Far links: the bound, what the laboratory is told, and that the grid is the issue's."""

from __future__ import annotations

import pytest

from bench.goals import GOALS, OWN, Goal, verdicts
from bench.links import DEEP, LOSSY, MIN_QUEUE, ORDERED, REORDERED, SELECTED, FarLink, grid
from bench.rows import Group, Outcome, Row, Sample


def test_the_bound_allows_for_loss_and_round_trips() -> None:
    link = FarLink(200e6, 0.1, 0.05)
    assert link.bound(100_000_000) == pytest.approx(800e6 / (0.85 * 0.95 * 200e6) + 1.2)


def test_a_link_is_half_the_delay_each_way_and_limits_the_data() -> None:
    up, down = LOSSY.up, LOSSY.down
    assert (up.delay, up.rate, up.loss, up.queue_bytes) == (0.025, 200e6, 0.01, 1_250_000)
    assert (down.delay, down.rate, down.loss) == (0.025, None, 0.01)
    assert DEEP.up.queue_bytes == 5_000_000
    assert FarLink(10e6, 0.05, queue_packets=25).up.queue_packets == 25
    assert FarLink(1e6, 0.001).up.queue_bytes == MIN_QUEUE


def test_bursts_lose_as_much_as_independent_loss() -> None:
    up = FarLink(200e6, 0.05, 0.03, bursts=True).up
    assert up.loss == 0
    assert up.burst is not None
    assert up.burst.mean_loss == pytest.approx(0.03)


def test_every_link_has_a_name_of_its_own() -> None:
    links = list(grid())
    assert len({link.name for link in links}) == len(links) == 5 * 9 * 3 + 4 + 3 + 1
    assert len({link.name for link in SELECTED}) == len(SELECTED)
    assert {ORDERED.name, DEEP.name, LOSSY.name, REORDERED.name} <= {link.name for link in links}


def outcome(group: str, name: str, value: float, reference: str | None = None) -> Outcome:
    return Outcome(Row(Group(group, group, "Mbit/s"), name, lambda: Sample(0.0), reference), [Sample(value)])


def test_a_goal_can_refer_to_the_row_of_the_same_group() -> None:
    made = [outcome("a", "ref", 1.0), outcome("b", "ref", 5.0), outcome("b", "p2p", 10.0, "ref")]
    goal = Goal("p2p", reference=OWN, least=3.0)
    (verdict,) = verdicts({each.row.key: each for each in made}, (goal,), short=False)
    assert verdict.found == 2.0
    assert verdict.passed is False
    assert "at least 3" in str(verdict)


def test_the_short_form_judges_nothing_that_a_slow_machine_decides() -> None:
    for goal in GOALS:
        judged = goal.floor is not None or goal.ceiling is not None
        relative = goal.reference is not None or goal.figure != "value" or "wan-" in goal.rows
        assert not judged or relative or goal.rows.startswith("^memory"), goal
