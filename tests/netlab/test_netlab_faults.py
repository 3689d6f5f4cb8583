"""Fault decisions: pure, seeded, and the same every time."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.inet import IP, UDP
from scapy.layers.l2 import Ether
from scapy.packet import Raw

from netlab.faults import (
    SWAP,
    Corrupt,
    Direction,
    Drop,
    Duplicate,
    FaultPlan,
    Hold,
    Line,
    Match,
    Pass,
    Rates,
    Truncate,
    from_json,
    to_json,
)
from netlab.inject import Injector, alter, datagram, flipped

rate = st.floats(0, 1 / 6, allow_nan=False)
rates = st.builds(Rates, rate, rate, rate, rate, rate, rate)
actions = st.one_of(
    st.just(Pass()),
    st.just(Drop()),
    st.builds(Duplicate, st.integers(1, 3)),
    st.builds(Hold, st.integers(1, 5)),
    st.builds(Corrupt, st.lists(st.integers(0, 9999), min_size=1, max_size=4).map(tuple), st.booleans()),
    st.builds(Truncate, st.integers(0, 1500)),
)
matches = st.builds(
    Match,
    st.sampled_from([None, *Direction]),
    st.one_of(st.none(), st.integers(1, 65535)),
    st.integers(0, 2000),
    st.integers(0, 65535),
    st.binary(max_size=4),
    st.binary(max_size=4),
)
plans = st.builds(
    FaultPlan,
    st.integers(0, 2**64),
    rates,
    st.dictionaries(st.integers(0, 50), actions, max_size=5),
    matches,
    st.one_of(st.none(), st.integers(0, 60)),
)
packets = st.tuples(st.sampled_from(Direction), st.integers(0, 200), st.integers(0, 1500))


@given(plans, st.lists(packets, max_size=50), st.randoms(use_true_random=False))
def test_a_decision_depends_on_nothing_but_its_arguments(plan, asked, random) -> None:
    first = {each: plan.decide(*each) for each in asked}
    random.shuffle(asked)
    assert {each: plan.decide(*each) for each in asked} == first


@given(plans)
def test_a_plan_survives_json(plan) -> None:
    assert from_json(json.loads(json.dumps(to_json(plan)))) == plan


@given(plans, st.lists(st.integers(0, 1500), max_size=60))
def test_a_line_loses_only_what_it_says_it_drops(plan, sizes) -> None:
    line = Line(plan, Direction.OUT)
    expected = 0
    out = []
    for number, size in enumerate(sizes):
        action, now = line.handle(number.to_bytes(2, "big"), size)
        out += [packet for packet, _ in now]
        expected += {Drop: 0, Duplicate: 1 + getattr(action, "copies", 0)}.get(type(action), 1)
    out += line.release()
    assert len(out) == expected
    assert line.release() == []


def test_a_seed_is_pinned() -> None:
    """A golden vector: a failure seen with a seed must be seen again with it next year."""
    plan = FaultPlan(seed=7, rates=Rates(0.2, 0.2, 0.2, 0.1, 0.1, 0.2))
    assert [plan.decide(Direction.OUT, i, 100) for i in range(6)] == GOLDEN_OUT
    assert plan.decide(Direction.IN, 0, 100) != plan.decide(Direction.OUT, 0, 100)


def test_rates_are_met() -> None:
    plan = FaultPlan(seed=1, rates=Rates(drop=0.3, duplicate=0.1))
    got = [type(plan.decide(Direction.OUT, i, 100)) for i in range(5000)]
    assert 0.27 < got.count(Drop) / 5000 < 0.33
    assert 0.08 < got.count(Duplicate) / 5000 < 0.12
    assert got.count(Pass) + got.count(Drop) + got.count(Duplicate) == 5000


@pytest.mark.parametrize("wrong", [{"drop": -0.1}, {"drop": 0.6, "swap": 0.6}])
def test_impossible_rates_are_refused(wrong) -> None:
    with pytest.raises(ValueError, match="rates are at least 0"):
        Rates(**wrong)


def test_after_the_limit_nothing_happens_except_by_script() -> None:
    plan = FaultPlan(rates=Rates(drop=1), script={5: SWAP}, limit=2)
    assert [plan.decide(Direction.IN, i, 9) for i in range(7)] == [Drop()] * 2 + [Pass()] * 3 + [SWAP, Pass()]


def test_an_empty_payload_is_never_damaged() -> None:
    for only in ("corrupt", "damage", "truncate"):
        assert FaultPlan(rates=Rates(**{only: 1})).decide(Direction.OUT, 0, 0) == Pass()


@pytest.mark.parametrize(
    ("match", "chosen"),
    [
        (Match(), True),
        (Match(direction=Direction.OUT), True),
        (Match(direction=Direction.IN), False),
        (Match(port=53), True),
        (Match(port=54), False),
        (Match(min_size=6), False),
        (Match(max_size=4), False),
        (Match(prefix=b"he"), True),
        (Match(prefix=b"el"), False),
        (Match(contains=b"ll"), True),
        (Match(contains=b"lol"), False),
    ],
)
def test_a_match_chooses(match: Match, chosen: bool) -> None:
    assert match.chooses(Direction.OUT, (1000, 53), b"hello") is chosen


def frame(payload: bytes, **ip) -> bytes:
    addresses = {"src": "02:00:00:00:00:01", "dst": "02:00:00:00:00:02"}
    return bytes(Ether(**addresses) / IP(src="1.2.3.4", dst="5.6.7.8", **ip) / UDP(sport=53, dport=9) / Raw(payload))


@given(st.binary(min_size=1, max_size=200), st.integers(0, 5000))
def test_damage_keeps_a_right_checksum_and_corruption_does_not(payload, bit) -> None:
    original = frame(payload)
    damaged = alter(original, Corrupt((bit,), recompute=True))
    assert datagram(damaged).payload == flipped(payload, (bit,)) != payload
    assert Ether(damaged)[UDP].chksum == checksum(damaged)
    corrupted = alter(original, Corrupt((bit,), recompute=False))
    assert datagram(corrupted).payload == flipped(payload, (bit,))
    assert Ether(corrupted)[UDP].chksum == Ether(original)[UDP].chksum != checksum(corrupted)


def checksum(given_frame: bytes) -> int:
    """What scapy would fill in."""
    packet = Ether(given_frame)
    del packet[UDP].chksum
    return Ether(bytes(packet))[UDP].chksum


@given(st.binary(max_size=200), st.integers(0, 300))
def test_truncation_keeps_the_beginning(payload, length) -> None:
    cut = alter(frame(payload), Truncate(length))
    assert datagram(cut).payload == payload[:length]
    assert Ether(cut)[IP].len == 28 + len(payload[:length])


@given(st.binary(max_size=80))
def test_any_bytes_are_a_datagram_or_not(noise) -> None:
    datagram(noise)


def test_what_is_no_whole_udp_datagram_is_carried_untouched() -> None:
    tcp = bytearray(frame(b"x" * 40))
    tcp[23] = 6
    others = [b"", b"arp" * 20, bytes(tcp), frame(b"x" * 40, flags="MF"), frame(b"x" * 40, frag=3)]
    sent = []
    injector = Injector(FaultPlan(rates=Rates(drop=1)), lambda way, packet: sent.append((way, packet)))
    for each in others:
        injector.handle(Direction.IN, each)
    assert sent == [(Direction.IN, each) for each in others]
    assert injector.counts == {"untouched": len(others)}


GOLDEN_OUT: list[object] = [
    Corrupt(bits=(118, 752, 792), recompute=False),
    Truncate(length=11),
    Truncate(length=36),
    Corrupt(bits=(238, 490), recompute=True),
    Drop(),
    Duplicate(copies=1),
]
