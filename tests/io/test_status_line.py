"""The line that is written over: it fits, whatever the terminal and the names."""

from __future__ import annotations

import io
import unicodedata
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2p.core.transfer.events import Progress
from p2p.io.terminal.status_line import StatusLine, compose
from p2p.io.terminal.words import VERBATIM, clock, columns, cut, wrapped

PROGRESS = Progress(1_200_000_000, 0, 12, 3_400_000_000, 1204, True, "photos/2024/a rather long folder/img_0042.jpg")


@pytest.mark.parametrize(
    ("width", "line"),
    [
        (99, " 35 %  █████░░░░░░░░░░░   1.2 GB of 3.4 GB    45 MB/s  0:49  direct UDP  photos/2024/…/img_0042.jpg"),
        (50, " 35 %  ██░░░░░   1.2 GB of 3.4 GB    45 MB/s  0:49"),
        (20, " 35 %  ████░░░░░░░░░"),
        (6, " 35 %"),
    ],
)
def test_what_matters_least_goes_first(width: int, line: str) -> None:
    assert compose(PROGRESS, 45e6, "direct UDP", width) == line


PROGRESSES = st.builds(
    Progress,
    st.integers(0, 2**63),
    st.just(0),
    st.integers(0, 9),
    st.none() | st.integers(0, 2**63),
    st.just(9),
    st.booleans(),
    st.text(max_size=300),
)


@given(PROGRESSES, st.integers(1, 300), st.floats(0, 1e12))
def test_it_never_takes_more_than_the_width(progress: Progress, width: int, rate: float) -> None:
    line = compose(progress, rate, "direct TCP", width)
    assert columns(line) <= width
    assert all(each.isprintable() or unicodedata.category(each) == "Zs" for each in line)  # a wide space, say


def test_the_line_stands_still_while_its_figures_change() -> None:
    figures = ((330_000_000, 9e6), (351_000_000, 10.1e6), (999_000, 10e6), (3_390_000_000, 123.4e6))
    progresses = [Progress(done, 0, 0, 3_400_000_000, 1, True, "film.mov") for done, _ in figures]
    lines = [
        compose(progress, rate, "direct UDP", 79)
        for progress, (_, rate) in zip(progresses, figures, strict=True)
    ]
    for piece in (" of 3.4 GB", "B/s", "direct UDP", "film.mov"):
        assert len({line.index(piece) for line in lines}) == 1, lines


def test_a_share_is_not_whole_before_everything_is_counted() -> None:
    assert compose(Progress(5, 0, 0, 5, 1, False, ""), 1.0, "", 79).startswith(" 99 %")
    assert compose(Progress(5, 0, 0, 5, 1, True, ""), 1.0, "", 79).startswith("100 %")


E_ACUTE = "e\u0301"


@pytest.mark.parametrize(("text", "room", "short"), [
    ("short", 5, "short"), ("longer name", 7, "lon…ame"), ("日本語の名前", 7, "日…前"), ("abc", 2, ""),
    (E_ACUTE * 9, 5, f"{E_ACUTE * 2}…{E_ACUTE * 2}"),
])  # fmt: skip
def test_a_name_is_cut_in_the_middle(text: str, room: int, short: str) -> None:
    assert cut(text, room) == short


@given(st.text(), st.integers(0, 50))
def test_what_is_cut_fits(text: str, room: int) -> None:
    assert columns(cut(text, room)) <= room


@given(st.lists(st.text(st.characters(exclude_categories=["Zl", "Zp", "Cc"]), max_size=30)), st.integers(1, 50))
def test_lines_are_broken_between_words(words: list[str], width: int) -> None:
    text = " ".join(words)
    lines = wrapped(text, width).split("\n")
    if text.startswith(VERBATIM):
        assert lines == [text]
        return
    indent = len(text) - len(text.lstrip(" "))
    assert text == " ".join([lines[0], *(line[indent:] for line in lines[1:])])
    for line in lines:
        assert columns(line) <= width or any(indent + columns(word) > width for word in line.split(" "))


def test_a_sentence_fits_and_a_command_stays_in_one_line() -> None:
    text = "On bob's machine, run this:\n\n    python -m p2p.peer recv bob alice\n\nblake3 0123456789abcdef0123"
    assert wrapped(text, 16).split("\n") == [
        "On bob's",
        "machine, run",
        "this:",
        "",
        "    python -m p2p.peer recv bob alice",
        "",
        "blake3 0123456789abcdef0123",
    ]


@pytest.mark.parametrize(("seconds", "words"), [(7.4, "0:07"), (750, "12:30"), (11_100, "3:05:00"), (1e300, ">99 h")])
def test_time_left(seconds: float, words: str) -> None:
    assert clock(seconds) == words


@pytest.mark.parametrize("encoding", ["ascii", "cp437", "cp850", "cp1252", "utf-8"])
def test_an_encoding_that_cannot_say_a_character_gets_another(encoding: str) -> None:
    """Of the line itself; of a name, one mark for each such letter."""
    raw = io.BytesIO()
    line = StatusLine(io.TextIOWrapper(raw, encoding=encoding, errors="replace"))
    for name in (PROGRESS.path, "Gr\u00f6\u00dfe/\u65e5\u672c"):
        line.show_progress(replace(PROGRESS, path=name), 45e6, "relay")
    line.show_words(f"Looking for {'a very long name ' * 9} again")
    line.take_away()
    cut_name, name, words, nothing = raw.getvalue().decode(encoding).split("\r\x1b[K")[1:]
    full, empty = "#." if encoding in ("ascii", "cp1252") else "█░"
    assert cut_name.startswith(f" 35 %  {full * 3}")
    assert empty in cut_name
    assert "?" not in cut_name + words
    assert words.startswith("Looking for a very long name")
    assert max(map(columns, (cut_name, name, words))) <= line.width
    assert name.split("  ")[-1] == "Gr\u00f6\u00dfe/\u65e5\u672c".encode(encoding, "replace").decode(encoding)
    assert nothing == ""
