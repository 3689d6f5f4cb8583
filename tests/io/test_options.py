"""The command line: words and options in any order."""

from __future__ import annotations

import itertools

import pytest

from p2p.core.errors import ExitCode
from p2p.peer import parse


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
