"""What makes a shell complete the command line, out of the parser itself."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator
from typing import Final

import shtab

SHELLS: Final = ("bash", "zsh", "fish")
NAMES: Final = "names"  # in the place of a shell: what the scripts ask for
PROGRAM: Final = "p2p"  # the console script; a shell cannot complete `python -m p2p.peer`

_ASK: Final = f"{PROGRAM} completion {NAMES} 2>/dev/null"
_PLAIN: Final = re.compile(r"[\w.@+-]+")  # names that no shell takes for something else

# shtab looks for "_file" in the name of a function of bash, to mark folders by a slash.
_NAMES: Final = {
    "bash": "_p2p_names",
    "zsh": "_p2p_names",
    "fish": f"({_ASK})",
    "preamble": {
        "bash": f'_p2p_names() {{\n  compgen -W "$({_ASK})" -- "$1"\n}}',
        "zsh": f'_p2p_names() {{\n  local -a names=(${{(f)"$({_ASK})"}})\n  compadd -a names\n}}',
    },
}
_NAMES_OR_FILES: Final = {
    "bash": "_p2p_names_or_files",
    "zsh": "_p2p_names_or_files",
    "fish": f"({_ASK}; __fish_complete_path (commandline -ct))",
    "preamble": {
        "bash": f'_p2p_names_or_files() {{\n  compgen -W "$({_ASK})" -- "$1"\n  compgen -f -- "$1"\n}}',
        "zsh": (
            f'_p2p_names_or_files() {{\n  local -a names=(${{(f)"$({_ASK})"}})\n'
            '  (( $#names )) && compadd -a names\n  _files\n}'
        ),
    },
}
_BY_OPTION: Final = {
    "--out": shtab.DIRECTORY,
    "--code-file": shtab.FILE,
    "--exclude-from": shtab.FILE,
}
_BY_COMMAND: Final = {"send": _NAMES_OR_FILES, "recv": _NAMES, "contacts": _NAMES}


def answer(shell: str, program: str, peer: argparse.ArgumentParser) -> str:
    """What `completion SHELL PROGRAM` prints; `peer` is the parser of p2p."""
    if shell == NAMES:
        return "".join(f"{name}\n" for name in known_names())
    if program == PROGRAM:
        return script(peer, shell) + "\n"
    from p2p.server import build_parser  # noqa: PLC0415  (p2p needs nothing of it)

    return script(build_parser(), shell, program) + "\n"


def known_names() -> list[str]:
    """The user's own names and those of friends, as far as a shell takes them for words."""
    from p2p.io.contacts import Contacts, ContactsError  # noqa: PLC0415  (a script needs no keys)

    try:
        contacts = Contacts.of_user().all()
    except ContactsError:  # a completion is no place to speak of it
        return []
    names = {name for contact in contacts for name in (contact.me, contact.friend)}
    return sorted(filter(_PLAIN.fullmatch, names))


def script(parser: argparse.ArgumentParser, shell: str, program: str = PROGRAM) -> str:
    """To be evaluated by `shell`, one of SHELLS. Changes `parser`, which is good for nothing else then."""
    parser.prog = program
    parser.usage = None
    parser.description = (parser.description or "").partition("\n\n")[0].replace("\n", " ")
    for command, subparser in _subparsers(parser):
        for action in subparser._actions:
            attributes = vars(action)
            if action.option_strings:
                known = [_BY_OPTION[option] for option in action.option_strings if option in _BY_OPTION]
                attributes.update({"complete": known[0]} if known else {})
                if isinstance(action.metavar, str):
                    action.metavar = re.sub(r"\W.*", "", action.metavar)  # zsh would take a colon for its own
            elif not action.choices and command in _BY_COMMAND:
                attributes["complete"] = _BY_COMMAND[command]
    text = shtab.complete(parser, shell)
    # shtab 1.13 tells zsh that many words are one: the second file would not complete any more.
    return text.replace('"(*)::', '"*:') if shell == "zsh" else text


def _subparsers(parser: argparse.ArgumentParser) -> Iterator[tuple[str, argparse.ArgumentParser]]:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            yield from action.choices.items()
