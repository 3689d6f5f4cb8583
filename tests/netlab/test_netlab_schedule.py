"""Events and schedules: plain data, decided by a seed. And the timeline that they are written to."""

from __future__ import annotations

import json
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from netlab.events import (
    MTUS,
    BlackholeOff,
    BlackholeOn,
    ChangeMtu,
    Event,
    Impair,
    KillService,
    LinkDown,
    LinkUp,
    StartService,
    Way,
    from_json,
    name_of,
    to_json,
)
from netlab.impair import Impairment
from netlab.schedule import ETHERNET_MTU, At, Schedule, Targets, random_schedule
from netlab.timeline import Timeline

names = st.text(min_size=1, max_size=11)
impairments = st.none() | st.builds(Impairment, delay=st.floats(0, 1), loss=st.floats(0, 1))
OTHERS = {ChangeMtu, Impair, BlackholeOn}
events = st.one_of(
    *(st.builds(kind, names) for kind in get_args(Event) if kind not in OTHERS),
    st.builds(BlackholeOn, names, st.sampled_from(Way)),
    st.builds(ChangeMtu, names, st.sampled_from(MTUS), st.booleans()),
    st.builds(Impair, names, impairments, impairments),
)
moments = st.floats(0, 1e6)
schedules = st.builds(
    Schedule, st.lists(st.builds(At, moments, events, moments), max_size=12).map(tuple), st.integers()
)


@given(events)
def test_an_event_survives_json(event: Event) -> None:
    assert from_json(json.loads(json.dumps(to_json(event)))) == event


def test_every_event_has_a_name_of_its_own() -> None:
    assert name_of(LinkDown("alice")) == "link-down"
    kinds = get_args(Event)
    assert {from_json({"event": to_json(event)["event"], "host": "a"}) for event in (LinkDown("a"), LinkUp("a"))} == {
        LinkDown("a"), LinkUp("a"),
    }  # fmt: skip
    assert len({name_of(object.__new__(kind)) for kind in kinds}) == len(kinds)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ({"event": "flood"}, r"no event is called 'flood'; there are: flush-mappings, "),
        ({}, "no event is called None"),
        ({"event": "link-down"}, "link-down: .*missing 1 required.*'host'"),
        ({"event": "link-down", "host": "a", "seconds": 1}, "link-down: .*'seconds'"),
        ({"event": "blackhole-on", "host": "a", "way": "sideways"}, "'sideways' is not a valid Way"),
        ({"event": "change-mtu", "where": "a", "mtu": 70000}, "an MTU is 576 to 65535 bytes, not 70000"),
    ],
)
def test_what_is_no_event_is_told_in_words(value: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        from_json(value)


@given(schedules)
def test_the_same_schedule_gives_the_same_times_also_out_of_json(schedule: Schedule) -> None:
    again = Schedule.from_json(schedule.to_json())
    assert again == schedule
    assert again.times() == schedule.times()


@given(schedules)
def test_each_event_happens_once_within_its_spread_and_in_order(schedule: Schedule) -> None:
    times = schedule.times()
    assert [due.seconds for due in times] == sorted(due.seconds for due in times)
    assert sorted(map(repr, (due.event for due in times))) == sorted(map(repr, (at.event for at in schedule.events)))
    first = min((at.seconds for at in schedule.events), default=0)
    last = max((at.seconds + at.spread for at in schedule.events), default=0)
    assert all(first <= due.seconds <= last for due in times)


@given(schedules, st.builds(At, moments, events, moments))
def test_a_further_event_at_the_end_moves_none_before_it(schedule: Schedule, further: At) -> None:
    longer = Schedule((*schedule.events, further), schedule.seed).times()
    moved = list(longer)
    for due in schedule.times():
        moved.remove(due)  # raises for one that is not there at its time
    assert [due.event for due in moved] == [further.event]


def test_another_seed_gives_other_times_and_no_spread_no_choice() -> None:
    events = (At(1, LinkDown("alice"), spread=1), At(3, LinkUp("alice")))
    drawn = {Schedule(events, seed).times()[0].seconds for seed in range(100)}
    assert len(drawn) == 100
    assert all(1 <= seconds < 2 for seconds in drawn)
    assert min(drawn) < 1.1
    assert max(drawn) > 1.9
    assert {Schedule(events, seed).times()[1].seconds for seed in range(100)} == {3}


@pytest.mark.parametrize("wrong", [-1.0, float("inf"), float("nan")])
def test_impossible_times_are_refused(wrong: float) -> None:
    with pytest.raises(ValueError, match="a finite number of seconds from 0 on"):
        At(wrong, LinkDown("alice"))
    with pytest.raises(ValueError, match="spread is a finite"):
        At(0, LinkDown("alice"), spread=wrong)


@pytest.mark.parametrize("text", ["[]", "{}", '{"seed": 1, "events": [{"event": "link-up", "host": "a"}]}', "no"])
def test_what_is_no_schedule_is_told_in_words(text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - json's words, or ours
        Schedule.from_json(text)


targets = st.builds(
    Targets,
    *(st.lists(st.sampled_from([f"{kind}{i}" for i in range(4)]), min_size=1, max_size=3, unique=True).map(tuple)
      for kind in ("host", "router", "service")),
)  # fmt: skip


@given(st.integers(), targets, st.integers(0, 40), st.booleans())
def test_a_random_schedule_gives_back_all_that_it_takes_before_the_end(seed, targets, count, moves) -> None:
    made = random_schedule(seed, targets, seconds=60, count=count, longest=5, moves=moves)
    assert made == random_schedule(seed, targets, seconds=60, count=count, longest=5, moves=moves)
    away: dict[str, float] = {}
    for due in made.times():
        assert 0 <= due.seconds < 60
        match due.event:
            case LinkDown(what) | BlackholeOn(what) | KillService(what):
                assert what not in away
                away[what] = due.seconds
            case ChangeMtu(what, mtu) if mtu < ETHERNET_MTU:
                assert what not in away
                away[what] = due.seconds
            case LinkUp(what) | BlackholeOff(what) | StartService(what) | ChangeMtu(what):
                assert due.seconds - away.pop(what) <= 5
            case _:
                assert moves
    assert away == {}


def test_a_random_schedule_needs_something_to_hit_and_time() -> None:
    with pytest.raises(ValueError, match="nothing to hit"):
        random_schedule(1, Targets(), seconds=60, count=1)
    with pytest.raises(ValueError, match="does not fit into 1 s"):
        random_schedule(1, Targets(hosts=("alice",)), seconds=1, count=1)


def test_random_schedules_come_to_hit_everything() -> None:
    hit = {
        name_of(due.event)
        for seed in range(20)
        for due in random_schedule(seed, Targets(("h",), ("r",), ("s",)), seconds=60, count=9, moves=True).times()
    }
    assert hit == {name_of(object.__new__(kind)) for kind in get_args(Event)} - {"impair"}


def test_a_timeline_is_in_order_and_readable_by_people_and_programs(tmp_path) -> None:
    timeline = Timeline()
    with timeline.doing("alice", "outer", reason="test"), timeline.planned(1.5):
        timeline.record("bob", "inner")
    with pytest.raises(ZeroDivisionError), timeline.doing("carol", "failing"):
        raise ZeroDivisionError("by nothing")
    timeline.write(tmp_path / "timeline.jsonl")
    lines = [json.loads(line) for line in (tmp_path / "timeline.jsonl").read_text("utf-8").splitlines()]
    assert [(line["where"], line["what"]) for line in lines] == [
        ("alice", "outer"), ("bob", "inner"), ("carol", "failing"),
    ]  # fmt: skip
    assert [line["seconds"] for line in lines] == sorted(line["seconds"] for line in lines)
    assert (lines[0]["reason"], lines[1]["planned"], lines[2]["failed"]) == ("test", 1.5, "by nothing")
    assert lines[0]["took"] >= lines[1]["seconds"] - lines[0]["seconds"]
    table = str(timeline).splitlines()
    assert len(table) == 3
    assert "bob" in table[1]
    assert table[1].endswith("planned 1.5")
