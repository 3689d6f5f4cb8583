"""Tables, goals and the picture."""

from __future__ import annotations

from xml.etree import ElementTree

import pytest

from bench.chart import draw
from bench.goals import Goal, verdicts
from bench.measure import Usage
from bench.report import table
from bench.rows import Group, Outcome, Outcomes, Row, Sample, to_json

GROUP = Group("wan", "Far away <&>", "Mbit/s", "200 Mbit/s", extras=("of_bound",))


def nothing() -> Sample:
    raise AssertionError("nothing is run here")


def outcome(name: str, *values: float, reference: str | None = None, **more: str | tuple[str, ...]) -> Outcome:
    row = Row(GROUP, name, nothing, reference, program="p2p" if name == "p2p" else name, **more)  # type: ignore[arg-type]
    use = Usage(3.0, 50_000_000)
    return Outcome(row, [Sample(value, 2**29, use, use, {"of_bound": 0.9}) for value in values])


def outcomes() -> Outcomes:
    each = [
        outcome("iperf3", 100.0, 200.0, 150.0),
        outcome("p2p", 50.0, 150.0, 90.0, reference="iperf3"),
        outcome("absent", reference="iperf3", missing=("it is missing: apt-get install it",)),
    ]
    return {one.row.key: one for one in each}


def test_a_table_says_least_median_most_ratio_cpu_and_memory() -> None:
    lines = list(table(outcomes()))
    assert lines[1] == "Far away <&> (200 Mbit/s)"
    line = next(line for line in lines if line.startswith("  p2p"))
    assert line.split() == ["p2p", "50.00", "90.00", "150.0", "0.60", "0.90", "6.00", "6.00", "50", "50"]
    assert any("absent" in line and "apt-get install it" in line for line in lines)


def test_a_row_without_a_good_run_says_why() -> None:
    bad = outcome("p2p")
    bad.samples, bad.failures = [None], ["no path"]
    assert any("FAILED: no path" in line for line in table({bad.row.key: bad}))


@pytest.mark.parametrize(
    ("goal", "short", "passed"),
    [
        (Goal("p2p", reference="iperf3", least=0.5), False, True),
        (Goal("p2p", reference="iperf3", least=0.7), False, False),
        (Goal("p2p", reference="iperf3", least=0.7, floor=0.4), True, True),
        (Goal("p2p", least=100.0), True, None),  # an absolute figure is only told
        (Goal("p2p", "of_bound", most=1.0), False, True),
        (Goal("p2p", "of_bound", most=0.8, ceiling=0.85), True, False),
    ],
)
def test_goals_are_judged(goal: Goal, short: bool, passed: bool | None) -> None:
    (verdict,) = verdicts(outcomes(), (goal,), short=short)
    assert verdict.passed is passed


def test_what_was_not_measured_is_not_judged() -> None:
    goals = Goal("absent", least=1.0), Goal("p2p", reference="iroh", least=1.0)
    assert list(verdicts(outcomes(), goals, short=False)) == []


def test_the_picture_is_one_well_formed_svg() -> None:
    found = {"machine": {"CPU": "A & B", "kernel": "6"}, "runs": 3, "rows": to_json(outcomes())}
    root = ElementTree.fromstring(draw(found))
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    words = [element.text for element in root.iter("{http://www.w3.org/2000/svg}text")]
    assert "Far away <&>, Mbit/s" in words
    assert "90  (0.60 x)" in words
    assert "absent" not in words
    hrefs = [name for element in root.iter() for name in element.attrib if "href" in name]
    assert not hrefs
