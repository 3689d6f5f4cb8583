"""The command line: words and options in any order."""

from __future__ import annotations

import argparse
import itertools
import shlex

import pytest

from p2p.core.errors import ExitCode
from p2p.peer import build_parser, parse


@pytest.mark.parametrize("cut", list(itertools.combinations_with_replacement(range(5), 2)), ids=str)
def test_options_stand_where_people_put_them(cut):
    words = ["anna", "ben", "notes.txt", "-"]
    first, second = cut
    options = parse(
        ["send", *words[:first], "--code", "amber-walnut", *words[first:second], "--once", *words[second:]]
    )
    assert options.words == words
    assert options.code == "amber-walnut"
    assert options.once


@pytest.mark.parametrize("line", ["send x --bogus", "send --bogus x y", "doctor x", "recv a b --limit-rate 1"])
def test_what_is_no_option_is_said(line, capsys):
    with pytest.raises(SystemExit) as ended:
        parse(line.split())
    assert ended.value.code == ExitCode.USAGE
    assert "Try: python -m p2p.peer" in capsys.readouterr().err


def parsers(program: str) -> dict[str, argparse.ArgumentParser]:
    whole = build_parser(program)
    commands = next(action for action in whole._actions if isinstance(action, argparse._SubParsersAction))
    return {"": whole, **commands.choices}


@pytest.mark.parametrize("columns", [60, 80])
@pytest.mark.parametrize("program", ["p2p", "python -m p2p.peer"])
def test_help_fits_and_begins_with_what_to_type(columns, program, monkeypatch):
    monkeypatch.setenv("COLUMNS", str(columns))
    for command, parser in parsers(program).items():
        usage, _, rest = parser.format_help().partition("\n\n")
        assert all(line.startswith(f"{'usage:' if not number else '':6} {program} ")
                   for number, line in enumerate(usage.splitlines()) if command in ("", "send", "recv", "doctor"))
        assert [line for line in usage.splitlines() if len(line) > 80] == []
        examples = [line for line in rest.splitlines() if line.startswith(f"  {program} ")]
        assert [line for line in rest.splitlines() if len(line) > columns and line not in examples] == []
        if command in ("", "send", "recv"):
            assert rest.index("examples:") < rest.index("options:")


@pytest.mark.parametrize("command", ["", "send", "recv"])
def test_the_examples_are_command_lines(command):
    lines = [line.strip() for line in parsers("p2p")[command].format_help().splitlines() if line.startswith("  p2p ")]
    assert len(lines) >= 3
    for line in lines:
        assert parse(shlex.split(line)[1:]).command in ("send", "recv")
