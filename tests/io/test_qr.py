"""QR codes on a terminal: what is drawn is the code, and only where it can be read."""

from __future__ import annotations

import io
import os
import pty

import pytest
import segno

from p2p.io.terminal.qr import MAX_WIDTH, QUIET_ZONE, lines, lines_for

COMMAND = "python -m p2p.peer recv 1234-correct-horse --server rendezvous.example.org:8080"
DARK = {" ": (0, 0), "▀": (1, 0), "▄": (0, 1), "█": (1, 1)}


def modules(drawn: list[str]) -> list[list[int]]:
    """What a camera sees."""
    rows = []
    for line in drawn:
        assert line.startswith("\x1b[38;5;16;48;5;231m")
        assert line.endswith("\x1b[0m")
        halves = [DARK[character] for character in line.removesuffix("\x1b[0m").split("m", 1)[1]]
        rows += [[upper for upper, _ in halves], [lower for _, lower in halves]]
    return rows


@pytest.mark.parametrize("text", ["1", "1234-correct-horse", COMMAND, "grüße"])
def test_what_is_drawn_is_the_code_with_its_quiet_zone(text):
    drawn = modules(lines(text))
    code = [list(row) for row in segno.make(text, error="l", micro=False).matrix]
    side = len(code) + 2 * QUIET_ZONE
    assert {len(row) for row in drawn} == {side}
    assert len(drawn) - side in (0, 1)
    inside = [row[QUIET_ZONE:-QUIET_ZONE] for row in drawn[QUIET_ZONE : side - QUIET_ZONE]]
    assert inside == code
    assert sum(map(sum, drawn)) == sum(map(sum, code))  # all around it is light


def test_a_command_fits_any_terminal():
    drawn = lines(COMMAND)
    assert drawn is not None
    assert len(modules(drawn)[0]) <= MAX_WIDTH
    assert len(drawn) <= 24


def test_what_does_not_fit_is_not_drawn():
    assert lines(COMMAND, 30) is None
    assert lines("x" * 5000, 1000) is None


def test_a_file_gets_none():
    assert lines_for("1", io.StringIO()) is None


@pytest.fixture
def terminal():
    """Opens the screen of a pseudo terminal, in an encoding."""
    opened = []

    def open_in(encoding: str):
        master, slave = pty.openpty()
        stream = os.fdopen(slave, "w", encoding=encoding)
        opened.extend([stream, os.fdopen(master, "rb")])
        return stream

    yield open_in
    for stream in opened:
        stream.close()


@pytest.mark.parametrize(
    ("encoding", "term", "shows"), [("utf-8", "xterm", True), ("ascii", "xterm", False), ("utf-8", "dumb", False)]
)
def test_a_terminal_gets_one_if_it_can_say_it(terminal, monkeypatch, encoding, term, shows):
    monkeypatch.setenv("TERM", term)
    assert (lines_for("1", terminal(encoding)) is not None) == shows
