"""The manual pages: they say what the parsers know, and what formats them has nothing to complain of."""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2p.core.errors import ExitCode
from p2p.io.man import EXIT_STATUS, P2P, P2P_SERVER, About, of_program, page
from p2p.peer import build_parser
from p2p.server import build_parser as build_server_parser

ROOT = Path(__file__).parents[2]
PAGES = (P2P.name, P2P_SERVER.name)


def rendered(text: str) -> tuple[str, str]:
    """As a terminal of 100 columns shows it, and what groff says of it."""
    if shutil.which("groff") is None:
        pytest.skip("there is no groff here")
    command = ["groff", "-man", "-Tutf8", "-ww", "-rLL=100n", "-P-cbou"]
    result = subprocess.run(command, input=text, capture_output=True, text=True, check=True)
    return result.stdout, result.stderr


@pytest.fixture(params=PAGES)
def source(request) -> str:
    return of_program(request.param, build_parser())


def test_groff_has_nothing_to_complain_of(source):
    shown, complaints = rendered(source)
    assert complaints == ""
    for title in ("NAME", "SYNOPSIS", "DESCRIPTION", "EXIT STATUS", "EXAMPLES", "SEE ALSO"):
        assert f"\n{title}\n" in shown


def test_mandoc_has_nothing_to_complain_of(source):
    if shutil.which("mandoc") is None:
        pytest.skip("there is no mandoc here")
    command = ["mandoc", "-T", "lint", "-W", "warning"]
    result = subprocess.run(command, input=source, capture_output=True, text=True, check=False)
    assert result.stdout == ""


def options_of(parser: argparse.ArgumentParser) -> set[str]:
    found: set[str] = set()
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            found = found.union(*map(options_of, action.choices.values()))
        elif action.help != argparse.SUPPRESS:
            found.update(action.option_strings)
    return found - {"-h", "--help"}


PARSERS = {P2P.name: build_parser, P2P_SERVER.name: build_server_parser}


def helps_of(parser: argparse.ArgumentParser) -> set[str]:
    """What --help says of each option and word, on one line."""
    found: set[str] = set()
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            found = found.union(*map(helps_of, action.choices.values()))
        elif action.help and action.help != argparse.SUPPRESS and not isinstance(action, argparse._HelpAction):
            found.add(" ".join(parser._get_formatter()._expand_help(action).split()))
    return found


@pytest.mark.parametrize("name", PAGES)
def test_the_page_says_what_help_says(name):
    """In both directions: every option, word for word, and no option that is none."""
    shown = rendered(of_program(name, build_parser()))[0]
    options = options_of(PARSERS[name]())
    assert len(options) > 10
    assert [option for option in options if option not in shown] == []
    named = set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", shown))
    assert named <= options | options_of(build_parser())
    words = re.sub(r"[\s\u2010-]+", "", shown)
    assert [text for text in helps_of(PARSERS[name]()) if re.sub(r"[\s-]+", "", text) not in words] == []


def test_an_option_of_several_commands_is_there_once():
    source = of_program("p2p", build_parser())
    assert source.count("\\fB\\-\\-limit\\-rate\\fR") == 1
    assert source.count("\\fB\\-\\-overwrite\\fR") == 1


def test_every_exit_code_is_there():
    assert set(EXIT_STATUS) == set(ExitCode)


def test_a_build_is_the_same_on_every_day(monkeypatch):
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "86400")
    assert '"1970-01-02"' in of_program("p2p", build_parser()).splitlines()[0]


@given(st.text(st.characters(exclude_categories=["Cc", "Cs"]), max_size=40))
def test_no_text_is_a_request(text):
    """Whatever a help says, roff is told nothing but what this module tells it."""
    parser = argparse.ArgumentParser(prog="x", add_help=False)
    parser.add_argument("--option", help=text.replace("%", "%%"))
    lines = page(parser, About("x", text, {}, examples=[(text, text)])).splitlines()
    requests = [line.split(" ")[0] for line in lines if line.startswith((".", "'"))]
    assert requests == [".TH", ".SH", ".SH", ".SH", ".SH", ".TP", ".SH", ".TP", ".SH"]


def test_what_stands_in_a_help_is_shown_as_it_is():
    parser = argparse.ArgumentParser(prog="x", add_help=False)
    parser.add_argument("--option", help=r"'quoted' \n `bold` ~/x ^C é – .hidden")
    assert r"'quoted' \n bold ~/x ^C é – .hidden" in rendered(page(parser, About("x", "y", {})))[0]


@pytest.mark.parametrize("name", PAGES)
def test_the_program_prints_it(name):
    printed = subprocess.run(
        [sys.executable, "-m", "p2p.peer", "man", name], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert printed.stdout.startswith(".TH")
