"""The exchange of keys: to its end, cut off anywhere, and against records that are replayed, reflected or forged."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from contact_pair import Pair, assert_both_remember, assert_consistent
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from p2p.core.contacts.exchange import ContactExchange, Heard, NotRemembered, Remembered, State
from p2p.core.contacts.keys import KEY, ContactKeys
from p2p.core.contacts.messages import Held, Key, No, Why, encode
from p2p.core.errors import CallerError, DecodeError, RemoteError

NAMES = ("alice", "bob")
STEPS = 6  # two keys heard, two stored, two words of it heard
MOVES = ["deliver 0", "deliver 1", "store 0", "store 1", "path", "crash 0", "crash 1"]


def keys(seed: int) -> ContactKeys:
    return ContactKeys(random.Random(seed).randbytes(KEY), NAMES)


def exchange(seed: int = 1) -> ContactExchange:
    fresh = ContactExchange(keys(seed))
    fresh.start_path()
    drain(fresh)
    return fresh


def drain(side: ContactExchange) -> list[bytes]:
    records = []
    while (record := side.poll_record()) is not None:
        records.append(record)
    return records


def events(side: ContactExchange) -> list[object]:
    found: list[object] = []
    while (event := side.poll_event()) is not None:
        found.append(event)
    return found


@pytest.mark.parametrize("first", [0, 1])
def test_both_remember_each_other(tmp_path: Path, first: int) -> None:
    pair = Pair(tmp_path, first=first)
    pair.begin()
    pair.settle()
    assert_both_remember(pair)
    assert len(pair.said) == 4


@pytest.mark.parametrize("who", [0, 1])
def test_one_who_was_not_asked_to_says_so_and_nothing_is_stored(tmp_path: Path, who: int) -> None:
    pair = Pair(tmp_path)
    pair.begin(remember=(who == 0, who == 1))
    pair.settle()
    assert pair.sides[who].ends == [NotRemembered(Why.NOT_ASKED, by_peer=True)]
    assert pair.sides[1 - who].ends == [NotRemembered(Why.NOT_ASKED, by_peer=False)]
    assert [side.stored for side in pair.sides] == [None, None]


def test_where_nobody_remembers_nothing_is_said(tmp_path: Path) -> None:
    pair = Pair(tmp_path)
    pair.begin(remember=(False, False))
    pair.settle()
    assert not pair.said
    assert not any(side.ends for side in pair.sides)


@pytest.mark.parametrize("first", [0, 1])
@pytest.mark.parametrize("steps", range(STEPS + 1))
@pytest.mark.parametrize("way", ["path", "crash 0", "crash 1", "crash both"])
def test_an_exchange_that_is_cut_off(tmp_path: Path, first: int, steps: int, way: str) -> None:
    pair = Pair(tmp_path, first=first)
    pair.begin()
    for _ in range(steps):
        assert pair.step()
    assert_consistent(pair)
    for number in (0, 1):
        if way in (f"crash {number}", "crash both"):
            pair.crash(number)
    if way in ("crash 0", "crash 1"):  # the other program ends too: it has nobody to speak with
        pair.crash(1 if way == "crash 0" else 0)
    before = [side.stored for side in pair.sides]
    if all(before):  # the next time no code is needed
        assert before[0] is not None
        assert before[1] is not None
        assert before[0].secret == before[1].secret
    pair.start_path()
    pair.settle()
    assert_both_remember(pair)


def test_all_steps_of_an_exchange_were_cut_off(tmp_path: Path) -> None:
    pair = Pair(tmp_path)
    pair.begin()
    assert sum(1 for _ in iter(pair.step, False)) == STEPS


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.sampled_from(MOVES), max_size=30), st.integers(0, 1))
def test_whatever_happens_nobody_is_certain_in_vain(
    tmp_path_factory: pytest.TempPathFactory, moves: list[str], first: int
) -> None:
    pair = Pair(tmp_path_factory.mktemp("pair"), first=first)
    pair.begin()
    for move in moves:
        name, _, number = move.partition(" ")
        match name:
            case "deliver":
                pair.deliver(int(number))
            case "store":
                pair.store(int(number))
            case "path":
                pair.start_path()
            case "crash":  # and a path for the transfer that comes after it, for which both run anew
                pair.crash(int(number))
                pair.crash(1 - int(number))
                pair.start_path()
        assert_consistent(pair)
    pair.start_path()
    pair.settle()
    assert_both_remember(pair)


def test_a_friend_with_another_key_is_refused_until_forgotten(tmp_path: Path) -> None:
    pair = Pair(tmp_path)
    pair.begin()
    pair.settle()
    alice, bob = pair.sides
    known = alice.stored
    bob.contacts.forget("alice")
    pair.begin()
    pair.settle()
    assert alice.stored == known
    assert alice.ends == [NotRemembered(Why.CHANGED, by_peer=False)]
    assert bob.ends == [NotRemembered(Why.CHANGED, by_peer=True)]
    assert bob.stored is None
    assert alice.contacts.forget("bob") == [known]
    pair.begin()
    pair.settle()
    assert_both_remember(pair)
    assert alice.stored != known


def test_one_who_forgets_and_remembers_again_needs_the_other_to_forget(tmp_path: Path) -> None:
    pair = Pair(tmp_path)
    pair.begin()
    pair.settle()
    pair.sides[0].contacts.forget("bob")
    pair.begin()
    pair.settle()
    assert pair.sides[0].stored is None
    assert pair.sides[1].ends == [NotRemembered(Why.CHANGED, by_peer=False)]


def test_keys_that_are_known_already_are_said_again(tmp_path: Path) -> None:
    pair = Pair(tmp_path)
    pair.begin()
    pair.settle()
    before = [side.stored for side in pair.sides]
    pair.begin()
    pair.settle()
    assert [side.stored for side in pair.sides] == before


def test_a_disk_that_takes_nothing(tmp_path: Path) -> None:
    (tmp_path / "alice").write_text("in the place of the folder")
    pair = Pair(tmp_path)
    pair.sides[1].begin()
    alice = ContactExchange(keys(1))
    alice.start_path()
    for record in drain(alice):
        pair.sides[1].exchange.handle_record(record)
    pair.sides[1].take_events()
    pair.sides[1].store()
    assert pair.sides[1].stored is not None
    alice.handle_record(encode(Key(keys(2).public)))
    alice.refuse(Why.NOT_STORED)
    for record in drain(alice):
        pair.sides[1].exchange.handle_record(record)
    pair.sides[1].take_events()
    assert pair.sides[1].ends == [NotRemembered(Why.NOT_STORED, by_peer=True)]
    assert pair.sides[1].stored is None


# attacks: by the other side itself, for nobody else can say a word


def test_repeated_records_are_not_answered() -> None:
    side, other = exchange(1), keys(2)
    key, held = encode(Key(other.public)), encode(Held(other.proof(keys(1).public)))
    for _ in range(3):
        side.handle_record(key)
    assert events(side) == [Heard(other.public)]
    assert not drain(side)
    side.handle_held()
    assert len(drain(side)) == 1
    for record in (key, held, key, held, held, key):
        side.handle_record(record)
    assert events(side) == [Remembered(other.public)]
    assert not drain(side)


def test_a_reflected_key() -> None:
    side = ContactExchange(keys(1))
    side.start_path()
    (key,) = drain(side)
    with pytest.raises(DecodeError):
        side.handle_record(key)
    assert side.state is State.ASKING


def test_a_reflected_proof() -> None:
    side = exchange(1)
    side.handle_record(encode(Key(keys(2).public)))
    side.handle_held()
    (held,) = drain(side)
    with pytest.raises(DecodeError):
        side.handle_record(held)
    assert side.state is State.HOLDING


def test_a_recorded_exchange_played_again_convinces_nobody() -> None:
    """Whoever has no private key can show an old public one, and its old proof."""
    first = exchange(1)
    mallory_has = [encode(Key(keys(2).public)), encode(Held(keys(2).proof(keys(1).public)))]
    for record in mallory_has:
        first.handle_record(record)
    assert Heard(keys(2).public) in events(first)
    later = exchange(3)
    later.handle_record(mallory_has[0])
    later.handle_held()
    with pytest.raises(DecodeError):
        later.handle_record(mallory_has[1])
    assert later.state is State.HOLDING
    assert Remembered(keys(2).public) not in events(later)


@pytest.mark.parametrize("state", [state for state in State if state is not State.ASKING])
def test_a_second_key_is_an_error_in_every_state(state: State) -> None:
    side, other = ContactExchange() if state is State.DEAF else exchange(1), keys(2)
    side.handle_record(encode(Key(other.public)))
    if state is State.OVER:
        side.refuse(Why.CHANGED)
    if state in (State.HOLDING, State.REMEMBERED):
        side.handle_held()
    if state is State.REMEMBERED:
        side.handle_record(encode(Held(other.proof(keys(1).public))))
    with pytest.raises(RemoteError):
        side.handle_record(encode(Key(keys(3).public)))


@given(st.binary(min_size=32, max_size=32), st.booleans())
def test_forged_proofs(proof: bytes, is_stored: bool) -> None:
    side = exchange(1)
    side.handle_record(encode(Key(keys(2).public)))
    if is_stored:
        side.handle_held()
    with pytest.raises(DecodeError):
        side.handle_record(encode(Held(proof)))
    if not is_stored:
        side.handle_held()
    assert side.state is State.HOLDING


def test_a_proof_before_a_key_is_an_error() -> None:
    for side in (exchange(1), ContactExchange()):
        with pytest.raises(RemoteError):
            side.handle_record(encode(Held(bytes(32))))


def test_a_no_after_both_hold_is_an_error() -> None:
    side, other = exchange(1), keys(2)
    side.handle_record(encode(Key(other.public)))
    side.handle_held()
    side.handle_record(encode(Held(other.proof(keys(1).public))))
    with pytest.raises(RemoteError):
        side.handle_record(encode(No(Why.CHANGED)))


def test_other_versions_are_declined_once() -> None:
    for side in (exchange(1), ContactExchange()):
        for _ in range(3):
            side.handle_record(bytes([20, 9, 1, 1, 2, 3]))
        assert drain(side) == [encode(No(Why.VERSION))]
        assert events(side) == [NotRemembered(Why.VERSION, by_peer=False)]


RECORDS = [
    encode(Key(keys(2).public)),
    encode(Key(keys(3).public)),
    encode(Key(bytes(32))),
    encode(Held(keys(2).proof(keys(1).public))),
    encode(Held(bytes(32))),
    *(encode(No(why)) for why in Why),
    bytes([20, 7, 1]),
    b"\x14",
]


@given(st.booleans(), st.lists(st.sampled_from([*RECORDS, None]) | st.binary(max_size=40), max_size=30))
def test_any_records_make_it_say_little_and_raise_nothing_else(remembers: bool, records: list[bytes | None]) -> None:
    side = ContactExchange(keys(1) if remembers else None)
    side.start_path()
    said = len(drain(side))
    found: list[object] = []
    for record in records:
        try:
            if record is not None:
                side.handle_record(record)
            elif side.state is State.HEARD:
                side.handle_held()
        except RemoteError:
            pass
        said += len(drain(side))
        found += events(side)
    assert said <= 3
    assert len(found) <= 2
    if any(isinstance(event, Remembered) for event in found):
        assert found == [Heard(keys(2).public), Remembered(keys(2).public)]


def test_our_own_caller_is_held_to_the_order() -> None:
    side = exchange(1)
    with pytest.raises(CallerError):
        side.handle_held()
    with pytest.raises(CallerError):
        side.refuse(Why.CHANGED)
    side.handle_record(encode(Key(keys(2).public)))
    side.handle_record(encode(No(Why.NOT_STORED)))
    side.handle_held()  # it was being written when the other side said no
    side.refuse(Why.CHANGED)
    assert side.state is State.OVER
    assert not drain(side)
