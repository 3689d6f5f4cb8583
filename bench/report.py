"""Tables for people. Every figure of a row is the median of its runs unless the column says otherwise."""

from __future__ import annotations

import statistics
from collections.abc import Iterator

from bench.measure import Usage
from bench.rows import Group, Outcome, Outcomes, ratio, reference_of

GIB = 2**30
NAME = 38  # characters
HEADINGS = {  # of Sample.extra: heading, factor, digits
    "own_seconds": ("s", 1.0, 2),
    "bound": ("bound s", 1.0, 2),
    "of_bound": ("of bound", 1.0, 2),
    "retransmitted": ("resent %", 100.0, 2),
    "loaded": ("RTT x idle", 1.0, 2),
    "files": ("files/s", 1.0, 0),
    "jain": ("Jain", 1.0, 4),
    "lost": ("lost %", 100.0, 2),
    "server_cpu": ("CPU s/GB", 1.0, 3),
    "median": ("median", 1.0, 2),
    "fresh_median": ("new median", 1.0, 2),
    "fresh_p99": ("new 99 %", 1.0, 1),
    "repeats": ("repeats %", 100.0, 2),
    "lost_seats": ("lost seats", 1.0, 0),
    "flood": ("flood k/s", 1.0, 0),
    "core": ("of a core", 1.0, 2),
    "rss": ("MB", 1.0, 0),
}


def table(outcomes: Outcomes) -> Iterator[str]:
    """Line by line, one table for each group."""
    groups: dict[Group, list[Outcome]] = {}
    for outcome in outcomes.values():
        groups.setdefault(outcome.row.group, []).append(outcome)
    for group, members in groups.items():
        yield ""
        yield f"{group.title}{f' ({group.note})' if group.note else ''}"
        yield _heading(group, members)
        for outcome in members:
            yield from _lines(group, outcomes, outcome)


def _heading(group: Group, members: list[Outcome]) -> str:
    line = f"  {group.unit:<{NAME}} {'min':>8} {'median':>8} {'max':>8} {'x ref.':>7}"
    line += "".join(f" {HEADINGS[name][0]:>10}" for name in group.extras)
    if any(sample.sender or sample.receiver for outcome in members for sample in outcome.good):
        line += f"  {'CPU s/GiB':>13}  {'peak MB':>11}"
    return line


def _lines(group: Group, outcomes: Outcomes, outcome: Outcome) -> Iterator[str]:
    name = f"  {outcome.row.name:<{NAME}}"
    if outcome.row.missing:
        yield f"{name} not measured: {'; '.join(outcome.row.missing)}"
        return
    if not outcome.good:
        yield f"{name} FAILED: {outcome.failures[-1] if outcome.failures else 'no run'}"
        return
    values = [sample.value for sample in outcome.good]
    line = f"{name} {_number(min(values))} {_number(statistics.median(values))} {_number(max(values))}"
    reference = reference_of(outcomes, outcome.row)
    times = ratio(outcome, reference) if reference else None
    line += f" {times:7.2f}" if times is not None else " " * 8
    for extra in group.extras:
        _, factor, digits = HEADINGS[extra]
        figure = outcome.extra(extra)
        line += " " * 11 if figure is None else f" {figure * factor:10.{digits}f}"
    line += _usage(outcome)
    notes = {sample.note for sample in outcome.good if sample.note}
    failed = f"{len(outcome.failures)} of {len(outcome.samples)} runs FAILED" if outcome.failures else ""
    words = "; ".join(filter(None, [*sorted(notes), failed]))
    yield f"{line}  {words}".rstrip()


def _number(value: float) -> str:
    return f"{value:8.0f}" if value >= 1000 else f"{value:8.1f}" if value >= 100 else f"{value:8.2f}"


def _usage(outcome: Outcome) -> str:
    sides = [[sample.sender for sample in outcome.good], [sample.receiver for sample in outcome.good]]
    sizes = [sample.size for sample in outcome.good]
    cpu = "".join(f" {_cpu(side, sizes):>6}" for side in sides)
    peak = "".join(f" {_peak(side):>5}" for side in sides)
    return f" {cpu} {peak}"


def _cpu(uses: list[Usage | None], sizes: list[int]) -> str:
    found = [use.cpu_seconds * GIB / size for use, size in zip(uses, sizes, strict=True) if use and size]
    return f"{statistics.median(found):.2f}" if found else ""


def _peak(uses: list[Usage | None]) -> str:
    found = [use.peak_bytes for use in uses if use and use.peak_bytes]
    return f"{max(found) / 1e6:.0f}" if found else ""
