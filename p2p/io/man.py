"""The manual pages, out of the parsers themselves, so that they say what this program does.

argparse-manpage was tried: it knows neither several ways to call a command nor options that several commands share.
"""

from __future__ import annotations

import argparse
import os
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from p2p import __version__
from p2p.core.errors import ExitCode

ALTERNATIVES: Final = "\n"  # between the ways to call a command, in its usage

EXIT_STATUS: Final[Mapping[int, str]] = {
    ExitCode.DONE: "done, and verified by both sides",
    ExitCode.INTERNAL: "an internal error, or a version that does not fit: please update",
    ExitCode.USAGE: "usage: options, names, both sides in the same role",
    ExitCode.NO_PEER: "no other side, no server, or timed out",
    ExitCode.WRONG_CODE: "a wrong code, or one that is used up",
    ExitCode.REFUSED: "refused, by the other side or by you",
    ExitCode.NO_PATH: "no path: the sentence says which network is in the way",
    ExitCode.INTERRUPTED: "interrupted: the other side, its network or its program went away",
    ExitCode.INTEGRITY: "content that does not match, a source that changed, a command that failed",
    ExitCode.STORAGE: "disk or permission, or whoever read standard output has gone; here or there",
    ExitCode.CANCELLED: "ended by Ctrl-C, SIGTERM or a closed terminal",
}
SERVER_EXIT_STATUS: Final[Mapping[int, str]] = {
    0: "stopped by a signal",
    1: "the ports cannot be had",
    2: "usage, or an unknown host",
}


@dataclass(frozen=True, slots=True)
class About:
    """What no parser knows of its program. Each pair is a term and what it means; an example, and what it does."""

    name: str
    brief: str
    exit_status: Mapping[int, str]
    environment: Sequence[tuple[str, str]] = ()
    files: Sequence[tuple[str, str]] = ()
    examples: Sequence[tuple[str, str]] = ()
    see_also: Sequence[str] = ()


P2P: Final = About(
    "p2p",
    "send files and folders straight from one machine to another",
    EXIT_STATUS,
    environment=(
        ("P2P_SERVER", "the rendezvous server, where --server names none"),
        ("P2P_CODE", "the code, where neither --code nor --code-file gives one"),
        ("XDG_STATE_HOME, XDG_DATA_HOME", "where the folders below lie"),
    ),
    files=(
        ("~/.local/state/p2p", "what interrupted transfers need to go on; nobody else may read it"),
        ("~/.local/share/p2p/contacts.json", "the keys of friends; nobody else may read it"),
    ),
    examples=(
        ("p2p send photos", "Makes a one-time code and waits for whoever runs p2p recv with it."),
        ("p2p send anna ben photos notes.txt", "Sends to a friend by name, who runs: p2p recv ben anna"),
        ("p2p send --from-command 'tar c src'", "Sends what a command writes, and fails where that fails."),
        ("p2p recv --out - 1234-some-words | tar x", "Hands what arrives on to another program."),
    ),
    see_also=("p2p-server",),
)
P2P_SERVER: Final = About(
    "p2p-server",
    "introduce the two sides of p2p to each other",
    SERVER_EXIT_STATUS,
    examples=(("p2p-server --port 3478 --tcp-port 443", "Is a STUN server as well, and reached where UDP is not."),),
    see_also=("p2p",),
)


def of_program(name: str, peer: argparse.ArgumentParser) -> str:
    """The page `name`: p2p, of which `peer` is the parser, or p2p-server."""
    if name == P2P.name:
        return page(peer, P2P)
    from p2p.server import build_parser  # noqa: PLC0415  (one of the two programs suffices for its own page)

    return page(build_parser(), P2P_SERVER)


def page(parser: argparse.ArgumentParser, about: About) -> str:
    """Section 1, in the macros of man(7)."""
    commands = dict(_commands(parser))
    day = time.gmtime(int(os.environ.get("SOURCE_DATE_EPOCH") or time.time()))  # builds are to be the same every day
    title = [about.name.upper(), "1", time.strftime("%Y-%m-%d", day), f"p2p {__version__}", "User Commands"]
    lines = [".TH " + " ".join(f'"{part}"' for part in title)]
    lines += [".SH NAME", f"{_text(about.name)} \\- {_text(about.brief)}", ".SH SYNOPSIS"]
    for words in _ways(about.name, commands):
        lines += [words, ".br"]
    lines.pop()
    lines += [".SH DESCRIPTION", _text((parser.description or "").partition("\n\n")[0])]
    lines += _options_of_commands(parser, about.name, commands) if commands else _options_alone(parser)
    lines += _terms("EXIT STATUS", [(str(int(code)), words) for code, words in about.exit_status.items()])
    lines += _terms("ENVIRONMENT", about.environment)
    lines += _terms("FILES", about.files)
    if about.examples:
        lines.append(".SH EXAMPLES")
    for command, words in about.examples:
        lines += [".TP", f"\\fB{_text(command)}\\fR", _text(words)]
    lines += [".SH SEE ALSO", *(f".BR {_text(name)} (1)" for name in about.see_also)]
    return "\n".join(lines) + "\n"


def _options_alone(parser: argparse.ArgumentParser) -> list[str]:
    lines = [".SH OPTIONS"]
    for group in parser._action_groups:
        actions = [action for action in group._group_actions if _is_shown(action)]
        if actions and group not in (parser._optionals, parser._positionals):
            lines.append(f".SS {_text(group.title or '')}")
        for action in actions:
            lines += _option(parser, action)
    return lines


def _options_of_commands(
    parser: argparse.ArgumentParser, name: str, commands: Mapping[str, tuple[argparse.ArgumentParser, str]]
) -> list[str]:
    """Those of each command, then once those that several share."""
    users: dict[tuple[str, str], list[str]] = {}
    for command, (subparser, _) in commands.items():
        for action in filter(_is_shown, subparser._actions):
            users.setdefault(_identity(subparser, action), []).append(command)
    lines = [".SH COMMANDS"]
    shared: dict[tuple[str, str], list[str]] = {}
    for command, (subparser, brief) in commands.items():
        lines += [f".SS {_text(name)} {_text(command)}", _text(f"{brief[:1].upper()}{brief[1:]}.")]
        for action in filter(_is_shown, subparser._actions):
            who = users[_identity(subparser, action)]
            if len(who) == 1:
                lines += _option(subparser, action)
            else:
                words = _option(subparser, action)
                shared.setdefault(_identity(subparser, action), [*words[:-1], f"{words[-1]} ({', '.join(who)})"])
    lines.append(".SH OPTIONS OF SEVERAL COMMANDS")
    for words in shared.values():
        lines += words
    lines.append(".SH OTHER OPTIONS")
    for action in filter(_is_shown, parser._actions):
        lines += _option(parser, action)
    return lines


def _commands(
    parser: argparse.ArgumentParser, above: str = ""
) -> Iterator[tuple[str, tuple[argparse.ArgumentParser, str]]]:
    """Also those of commands, by both words."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for choice in action._choices_actions:
                yield above + choice.dest, (action.choices[choice.dest], choice.help or "")
                yield from _commands(action.choices[choice.dest], f"{above}{choice.dest} ")


def _ways(name: str, commands: Mapping[str, tuple[argparse.ArgumentParser, str]]) -> Iterator[str]:
    """Every way to call it."""
    if not commands:
        yield f"\\fB{_text(name)}\\fR [options]"
    for command, (subparser, _) in commands.items():
        places = [_metavar(action) for action in subparser._actions if _is_shown(action) and not action.option_strings]
        for way in (subparser.usage or " ".join(["[options]", *places])).split(ALTERNATIVES):
            words = way.split(command, 1)[-1].strip()
            yield f"\\fB{_text(name)} {_text(command)}\\fR {_text(words)}".rstrip()


def _option(parser: argparse.ArgumentParser, action: argparse.Action) -> list[str]:
    """A tagged paragraph, its text in the last line."""
    metavar = _metavar(action)
    names = ", ".join(f"\\fB{_text(option)}\\fR" for option in action.option_strings)
    head = f"{names} \\fI{_text(metavar)}\\fR" if names and action.nargs != 0 else names or f"\\fI{_text(metavar)}\\fR"
    return [".TP", head, _text(_help(parser, action))]


def _metavar(action: argparse.Action) -> str:
    return action.metavar if isinstance(action.metavar, str) else action.dest.upper()


def _help(parser: argparse.ArgumentParser, action: argparse.Action) -> str:
    return " ".join(parser._get_formatter()._expand_help(action).split()) if action.help else ""


def _identity(parser: argparse.ArgumentParser, action: argparse.Action) -> tuple[str, str]:
    return " ".join(action.option_strings) or action.dest, _help(parser, action)


def _is_shown(action: argparse.Action) -> bool:
    return action.help != argparse.SUPPRESS and not isinstance(
        action, argparse._HelpAction | argparse._SubParsersAction
    )


def _terms(title: str, terms: Sequence[tuple[str, str]]) -> list[str]:
    lines = [f".SH {title}"] if terms else []
    for term, words in terms:
        lines += [".TP", f"\\fB{_text(term)}\\fR", _text(words)]
    return lines


_SPECIAL: Final = {"\\": "\\e", "-": "\\-", "'": "\\(aq", "`": "\\(ga", "^": "\\(ha", "~": "\\(ti", '"': "\\(dq"}


def _text(text: str) -> str:
    """Nothing in it is a request or an escape of roff; what stands in backquotes is bold (groff_man_style(7))."""
    return "".join(
        f"\\fB{_escaped(part)}\\fR" if number % 2 else _escaped(part)
        for number, part in enumerate(re.split(r"`([^`]*)`", " ".join(text.split())))
    )


def _escaped(text: str) -> str:
    special = "".join(
        _SPECIAL.get(character) or (character if character.isascii() else f"\\[u{ord(character):04X}]")
        for character in text
    )
    return f"\\&{special}" if special.startswith(".") else special
