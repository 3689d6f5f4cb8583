"""What is measured, in which order, and what came of it: plain data, no kernel."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from bench.measure import MeasuringError, Usage

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Sample:
    """One run. `value` is in its group's unit; `size` in bytes is what the CPU seconds are related to.

    `extra` has figures of this kind of row, by name; `note` is a word on this run for the reader.
    """

    value: float
    size: int = 0
    sender: Usage | None = None
    receiver: Usage | None = None
    extra: dict[str, float] = field(default_factory=dict)
    note: str = ""


@dataclass(frozen=True, slots=True)
class Group:
    """Rows that are read together. `note` says under which conditions they hold."""

    name: str
    title: str
    unit: str
    note: str = ""
    extras: tuple[str, ...] = ()  # names in Sample.extra that the table shows
    chart: bool = True  # whether the picture shows it


@dataclass(frozen=True, slots=True)
class Row:
    """One line of a table. `reference` is the name of the row of its group to which the ratio refers.

    `missing`: why it cannot be measured here, a sentence each; then nothing is run.
    """

    group: Group
    name: str
    run: Callable[[], Sample]
    reference: str | None = None
    program: str = "p2p"
    missing: tuple[str, ...] = ()

    @property
    def key(self) -> str:
        """Its name among all rows."""
        return f"{self.group.name}: {self.name}"


@dataclass(slots=True)
class Outcome:
    """All runs of one row, and the words of those that failed."""

    row: Row
    samples: list[Sample | None] = field(default_factory=list)  # by round; None: that one failed
    failures: list[str] = field(default_factory=list)

    @property
    def good(self) -> list[Sample]:
        """The runs that ended well."""
        return [each for each in self.samples if each is not None]

    @property
    def median(self) -> float | None:
        """Of the values; None without any."""
        return statistics.median(each.value for each in self.good) if self.good else None

    def extra(self, name: str) -> float | None:
        """The median of one of the further figures; None where there is none."""
        found = [each.extra[name] for each in self.good if name in each.extra]
        return statistics.median(found) if found else None


Outcomes = dict[str, Outcome]  # by Row.key, in the order of the table


def interleaved(items: Sequence[T], rounds: int) -> Iterator[tuple[int, T]]:
    """A B C A B C, not A A B B C C: a machine's moods last for minutes, and so meet all alike."""
    for number in range(rounds):
        for item in items:
            yield number, item


def measure(rows: Sequence[Row], rounds: int, say: Callable[[str], None]) -> Outcomes:
    """Runs every row `rounds` times. A run that fails is told and kept; the others go on."""
    outcomes = {row.key: Outcome(row) for row in rows}
    able = [row for row in rows if not row.missing]
    for number, row in interleaved(able, rounds):
        outcome = outcomes[row.key]
        try:
            sample = row.run()
        except Exception as error:  # whatever it is, an hour of other figures is not to be lost with it
            words = str(error) if isinstance(error, MeasuringError) else repr(error)
            outcome.samples.append(None)
            outcome.failures.append(words)
            say(f"[{number + 1}/{rounds}] {row.key}: FAILED: {words}")
        else:
            outcome.samples.append(sample)
            say(f"[{number + 1}/{rounds}] {row.key}: {sample.value:.3g} {row.group.unit} {sample.note}".rstrip())
    return outcomes


def ratio(outcome: Outcome, reference: Outcome) -> float | None:
    """The median over the rounds of one's value by the other's of the same round; None without a common round."""
    pairs = zip(outcome.samples, reference.samples, strict=False)
    found = [one.value / other.value for one, other in pairs if one is not None and other is not None and other.value]
    return statistics.median(found) if found else None


def reference_of(outcomes: Outcomes, row: Row) -> Outcome | None:
    """The outcome to which a row's ratio refers."""
    return outcomes.get(f"{row.group.name}: {row.reference}") if row.reference else None


def to_json(outcomes: Outcomes) -> list[dict[str, Any]]:
    """Every single figure."""
    return [_row_to_json(outcomes, outcome) for outcome in outcomes.values()]


def _row_to_json(outcomes: Outcomes, outcome: Outcome) -> dict[str, Any]:
    row = outcome.row
    reference = reference_of(outcomes, row)
    return {
        "group": row.group.name,
        "title": row.group.title,
        "unit": row.group.unit,
        "note": row.group.note,
        "chart": row.group.chart,
        "name": row.name,
        "program": row.program,
        "reference": row.reference,
        "ratio": ratio(outcome, reference) if reference else None,
        "median": outcome.median,
        "missing": list(row.missing),
        "failures": outcome.failures,
        "runs": [_sample_to_json(sample) for sample in outcome.samples],
    }


def _sample_to_json(sample: Sample | None) -> dict[str, Any] | None:
    if sample is None:
        return None
    sides = {
        side: use and {"cpu_seconds": use.cpu_seconds, "peak_bytes": use.peak_bytes}
        for side, use in (("sender", sample.sender), ("receiver", sample.receiver))
    }
    return {"value": sample.value, "size": sample.size, **sides, "extra": sample.extra, "note": sample.note}
