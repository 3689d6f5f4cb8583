"""Codes as people say and type them."""

from __future__ import annotations

import random
from difflib import SequenceMatcher
from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2p.core.errors import CallerError
from p2p.core.session.codes import CODE_BITS, generate_code, generate_nameplate, normalise_secret, split_code
from p2p.core.session.words import BITS_PER_WORD, WORDS, spell


def test_the_words_are_told_apart() -> None:
    assert len(WORDS) == 2**BITS_PER_WORD
    assert len({word[:3] for word in WORDS}) == len(WORDS)
    assert all(word.isascii() and word.islower() and word.isalpha() and 3 < len(word) <= 8 for word in WORDS)
    assert not [pair for pair in combinations(WORDS, 2) if SequenceMatcher(None, *pair).ratio() > 0.8]


def test_a_code_has_24_bits() -> None:
    assert CODE_BITS == 24
    assert generate_code(lambda count: bytes(range(count))) == "-".join(WORDS[:3])
    assert spell(b"\xff\x00") == f"{WORDS[255]}-{WORDS[0]}"


def test_nameplates_widen_with_each_collision() -> None:
    random_bytes = random.Random(1).randbytes
    for attempt, largest in [(0, 9), (1, 99), (2, 999), (50, 999_999)]:
        drawn = {int(generate_nameplate(random_bytes, attempt)) for _ in range(2000)}
        assert min(drawn) >= 1
        assert max(drawn) <= largest
        assert max(drawn) > largest // 2
    assert {generate_nameplate(random_bytes, 0) for _ in range(500)} == set("123456789")


@given(st.binary(min_size=3, max_size=3), st.integers(1, 999_999), st.sampled_from(["-", " ", "  ", "_", " – ", "\t"]))
def test_codes_survive_being_typed(words: bytes, number: int, separator: str) -> None:
    secret = spell(words)
    typed = f" {number}-{secret}\n".replace("-", separator).title()
    nameplate, split = split_code(typed)
    assert (nameplate, split) == (str(number), secret)
    assert normalise_secret(split) == normalise_secret(secret.upper())


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "begins with a number"),
        ("amber-walnut-tiger", "begins with a number"),
        ("0-amber-walnut-tiger", "begins with a number"),
        ("7", "found 0"),
        ("7-amber-walnut", "found 2"),
        ("7-amber-walnut-tigger", "did you mean tiger?"),
        ("7-ambre-walnut-tiger", "did you mean amber?"),
        ("7-amber-walnut-xqzzy", "'xqzzy' is not a word of any code"),
        ("7-amber-\x1b[31m-tiger", "x1b"),
    ],
)
def test_what_is_no_code_is_said_in_words(text: str, says: str) -> None:
    with pytest.raises(CallerError, match=says) as caught:
        split_code(text)
    assert "\x1b" not in str(caught.value)


@given(st.text())
def test_splitting_fails_only_in_words(text: str) -> None:
    try:
        nameplate, secret = split_code(text)
    except CallerError:
        return
    assert split_code(f"{nameplate}-{secret}") == (nameplate, secret)


@given(st.text(st.characters(), min_size=6))
def test_normalising_is_idempotent(text: str) -> None:
    try:
        once = normalise_secret(text)
    except CallerError:
        return
    assert normalise_secret(once.decode()) == once
    assert normalise_secret(f"  {text}--") == once


def test_secrets_that_look_alike_are_alike() -> None:
    assert normalise_secret("Café  Straße_7") == normalise_secret("cafe\u0301-STRASSE–7") == "café-strasse-7".encode()
    with pytest.raises(CallerError, match="7"):
        normalise_secret("-- seven77 --")
    with pytest.raises(CallerError, match="not text"):
        normalise_secret("seven777\udc80")
