"""The order of runs, ratios and what becomes of a run that fails."""

from __future__ import annotations

import json

from bench.measure import MeasuringError, Usage
from bench.rows import Group, Outcomes, Row, Sample, interleaved, measure, ratio, reference_of, to_json

GROUP = Group("lan", "Same network", "Gbit/s")


def rows(told: list[str]) -> list[Row]:
    values = {"slow": iter((1.0, 4.0, 3.0)), "fast": iter((2.0, 4.0, 12.0))}

    def run(name: str) -> Sample:
        told.append(name)
        return Sample(next(values[name]), 2**30, Usage(1.5, 40_000_000), Usage(2.0, 30_000_000))

    return [
        Row(GROUP, "fast", lambda: run("fast"), None, "iperf3"),
        Row(GROUP, "slow", lambda: run("slow"), "fast"),
    ]


def outcomes() -> Outcomes:
    return measure(rows([]), 3, lambda _: None)


def test_rounds_go_through_all_rows() -> None:
    assert list(interleaved("AB", 2)) == [(0, "A"), (0, "B"), (1, "A"), (1, "B")]
    told: list[str] = []
    measure(rows(told), 3, lambda _: None)
    assert told == ["fast", "slow"] * 3


def test_a_ratio_compares_runs_of_the_same_round() -> None:
    found = outcomes()
    slow = found["lan: slow"]
    reference = reference_of(found, slow.row)
    assert reference is found["lan: fast"]
    assert ratio(slow, reference) == 0.5  # of 0.5, 1 and 0.25; the medians' would be 0.75
    assert slow.median == 3.0
    assert reference_of(found, reference.row) is None


def test_a_failed_run_is_told_and_the_others_go_on() -> None:
    def fail() -> Sample:
        raise MeasuringError("no path")

    said: list[str] = []
    made = [Row(GROUP, "bad", fail, "fast"), *rows([])]
    found = measure(made, 2, said.append)
    assert found["lan: bad"].failures == ["no path"] * 2
    assert found["lan: bad"].median is None
    assert ratio(found["lan: bad"], found["lan: fast"]) is None
    assert len(found["lan: slow"].good) == 2
    assert said[0] == "[1/2] lan: bad: FAILED: no path"


def test_what_is_missing_is_not_run() -> None:
    def fail() -> Sample:
        raise AssertionError("it was run")

    found = measure([Row(GROUP, "absent", fail, missing=("install it",))], 2, lambda _: None)
    assert found["lan: absent"].samples == []


def test_json_has_every_run() -> None:
    rows_found = json.loads(json.dumps(to_json(outcomes())))
    assert [row["name"] for row in rows_found] == ["fast", "slow"]
    assert [run["value"] for run in rows_found[1]["runs"]] == [1.0, 4.0, 3.0]
    assert rows_found[1]["runs"][0]["sender"] == {"cpu_seconds": 1.5, "peak_bytes": 40_000_000}
    assert rows_found[1]["ratio"] == 0.5
