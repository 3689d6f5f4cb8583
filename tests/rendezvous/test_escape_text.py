"""Untrusted text never drives the terminal."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2p.core.text import escape

ANY_TEXT = st.text(st.characters(codec=None, exclude_categories=()))  # surrogates and unassigned included


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("holiday photos.tar", "holiday photos.tar"),
        ("naïve – 日本語　写真 😀.jpg", "naïve – 日本語　写真 😀.jpg"),
        ("evil\x1b[2Jname", r"evil\x1b[2Jname"),
        ("two\nlines\tand\rmore", r"two\x0alines\x09and\x0dmore"),
        ("\x7f\x85\x9b31m", r"\x7f\x85\x9b31m"),
        ("invoice\u202efdp.exe", r"invoice\u202efdp.exe"),
        ("\u2066\u2069\u200f\u061c", r"\u2066\u2069\u200f\u061c"),
        ("a\u200bb\ufeffc\u2028d", r"a\u200bb\ufeffc\u2028d"),
        ("caf\udce9", r"caf\udce9"),
        ("\U000e0041\U0010ffff\ue000\u0378", r"\U000e0041\U0010ffff\ue000\u0378"),
        (r"back\slash", r"back\slash"),
        ("", ""),
    ],
)
def test_escape(text: str, expected: str) -> None:
    assert escape(text) == expected


@given(ANY_TEXT)
def test_nothing_deceptive_is_left_and_escaping_twice_is_escaping_once(text: str) -> None:
    safe = escape(text)
    assert all(unicodedata.category(character) not in ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp") for character in safe)
    assert safe.encode("utf-8").decode("utf-8") == safe
    assert len(safe.splitlines()) <= 1
    assert escape(safe) == safe


@given(ANY_TEXT)
def test_ordinary_characters_survive_in_order(text: str) -> None:
    rest = iter(escape(text))
    assert all(any(character == other for other in rest) for character in text if escape(character) == character)
