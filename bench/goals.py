"""What the figures should be. In the short form only what no machine's speed decides: ratios, with slack."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from bench.rows import Outcome, Outcomes, ratio, reference_of

VALUE = "value"
OWN = "the row's own reference"


@dataclass(frozen=True, slots=True)
class Goal:
    """About every row whose key (`group: name`) matches `rows`.

    `figure` is the value or a name in `Sample.extra`; with `reference`, OWN or a regular expression for the key of
    another row, it is the ratio to that one. `floor` and `ceiling` stand in for `least` and `most` in the short form,
    with slack for a noisy machine and for a version that is not there yet. Without one, the short form only tells it.
    """

    rows: str
    figure: str = VALUE
    reference: str | None = None
    least: float | None = None
    most: float | None = None
    floor: float | None = None
    ceiling: float | None = None
    words: str = ""


@dataclass(frozen=True, slots=True)
class Verdict:
    """`passed` None: told, not judged."""

    words: str
    found: float
    wanted: str
    passed: bool | None

    def __str__(self) -> str:
        mark = {True: "ok  ", False: "FAIL", None: "    "}[self.passed]
        return f"  {mark} {self.words}: {self.found:.3g} (wanted {self.wanted})"

    def to_json(self) -> dict[str, Any]:
        return {"words": self.words, "found": self.found, "wanted": self.wanted, "passed": self.passed}


GOALS = (
    Goal(r"^lan: p2p TCP$", reference=r"^lan: iperf3", least=0.8, floor=0.04),
    Goal(r"^punched: p2p UDP$", reference=r"^punched: iperf3", least=0.7, floor=0.05),
    Goal(r"^punched: p2p UDP$", reference=r"^punched: iroh$", least=3.0, floor=1.0),
    Goal(r"^punched: p2p UDP$", reference=r"^punched: magic-wormhole$", least=5.0, floor=0.7),
    Goal(r"path without offload$", reference=r"^punched: iroh, path without offload$", least=2.0, floor=0.4),
    Goal(r"^punched: p2p UDP, no offload at all$", least=0.5),
    Goal(r"^wan-\d.*: p2p$", reference=OWN, least=5.0, floor=3.0),
    Goal(r"^wan(-\d.*: p2p$|: )", "of_bound", most=1.0, ceiling=3.0, words="time of its bound"),
    Goal(r"^wan(-\d.*: p2p$|: )", "excess", most=0.02, ceiling=0.05, words="sent again beyond the loss"),
    Goal(r"^wan: .*queue 4 BDP$", "loaded", most=1.25, ceiling=2.0, words="RTT under load / idle"),
    Goal(r"^wan: .*reordered$", reference=r"^wan: 200 Mbit/s, 50 ms, 0 %$", least=0.9, floor=0.6),
    Goal(r"^files-.*: p2p$", reference=OWN, least=0.5, floor=0.08),
    Goal(r"^relay: 100 pairs.*without loss$", least=1.0),
    Goal(r"^relay: 100 pairs offer", "jain", least=0.99, floor=0.9, words="Jain's index"),
    Goal(r"^relay: 99 offer", "lost", most=0.01, ceiling=0.3, words="lost by those below their share"),
    Goal(r"^start: .*--help$", most=0.15),
    Goal(r"^start: second peer", most=0.5),
    Goal(r"^idle: ", most=0.1),
    Goal(r"^memory: ", most=80.0, ceiling=110.0),  # no time, and no machine's speed decides it
    Goal(r"^server-memory: ", most=1000.0),
    Goal(r"^server-pairs: nobody", least=3000.0),
    Goal(r"^server-pairs: .*others wait", least=1500.0),
    Goal(r"^server-pairs: under a flood: random", least=500.0),
    Goal(r"^server-pairs: under a flood: .* a second$", least=5.0),
    Goal(r"^server-answers: ", most=100.0),
    Goal(r"^server-answers: (no|random|FORWARD)", "fresh_p99", most=250.0, words="newcomers"),
    # Four repeats: 3.75 s. Faster floods of their kind leave no more to newcomers than luck (docs/server.md).
    Goal(r"^server-answers: .* a second$", "fresh_p99", most=4000.0, words="newcomers"),
    Goal(r"^server-answers: ", "lost_seats", most=0.0, words="seats lost"),
    Goal(r"^wan-change: ", least=0.8, most=1.2, floor=0.5, ceiling=1.5, words="of the new rate"),
    Goal(r"^wan-share: ", least=0.25, most=0.80, floor=0.1, ceiling=0.92, words="share"),
)


def verdicts(outcomes: Outcomes, goals: tuple[Goal, ...] = GOALS, *, short: bool) -> Iterator[Verdict]:
    """One for each goal and each row that it is about, where there are figures for it."""
    for goal in goals:
        for key, outcome in outcomes.items():
            if re.search(goal.rows, key):
                yield from _judge(goal, outcomes, outcome, short=short)


def _judge(goal: Goal, outcomes: Outcomes, outcome: Outcome, *, short: bool) -> Iterator[Verdict]:
    words, found = f"{outcome.row.key}{f', {goal.words}' if goal.words else ''}", _figure(goal, outcome)
    if goal.reference is not None:
        other = _other(goal.reference, outcomes, outcome)
        if other is None or other is outcome:
            return
        words, found = f"{words} / {other.row.key}", ratio(outcome, other)
    if found is None:
        return
    least, most = (goal.floor, goal.ceiling) if short else (goal.least, goal.most)
    wanted = _wanted(goal.least, goal.most)
    if least is None and most is None:
        yield Verdict(words, found, wanted, None)
        return
    passed = (least is None or found >= least) and (most is None or found <= most)
    yield Verdict(words, found, f"{_wanted(least, most)}, goal {wanted}" if short else wanted, passed)


def _other(reference: str, outcomes: Outcomes, outcome: Outcome) -> Outcome | None:
    if reference == OWN:
        return reference_of(outcomes, outcome.row)
    return next((each for key, each in outcomes.items() if re.search(reference, key)), None)


def _figure(goal: Goal, outcome: Outcome) -> float | None:
    return outcome.median if goal.figure == VALUE else outcome.extra(goal.figure)


def _wanted(least: float | None, most: float | None) -> str:
    bounds = [f"at least {least:g}" if least is not None else "", f"at most {most:g}" if most is not None else ""]
    return " and ".join(filter(None, bounds))
