"""What the command line asks for, in its words and options."""

from __future__ import annotations

import argparse
import os
import secrets
import sys
import unicodedata
from pathlib import Path

from p2p.core.errors import CallerError
from p2p.core.introduction import NamePair
from p2p.core.role import Role
from p2p.core.session.codes import generate_code, normalise_secret, split_code
from p2p.core.text import escape
from p2p.core.transfer.limits import MAX_TEXT
from p2p.io.plan import OFFER_NAMES, PIPE, Plan
from p2p.io.remembering import Remembering
from p2p.io.terminal.words import UNNAMED


def make_plan(options: argparse.Namespace) -> Plan:
    """Asks for a code that is missing. Raises CallerError for what is wrong with the options, and ContactsError."""
    code = _given_code(options)
    if options.command == "send":
        return _plan_send(options, code)
    return _plan_recv(options, code)


def _plan_send(options: argparse.Namespace, code: str | None) -> Plan:
    words: list[str] = options.words
    text: str | None = options.text
    command: str | None = options.from_command
    instead = "--text TEXT" if text is not None else "--from-command COMMAND" if command is not None else None
    names, paths = _split_words(words, instead)
    if PIPE in paths and len(paths) > 1:
        raise CallerError(f"{PIPE} stands for standard input, which goes alone: send it by a command of its own")
    if text is not None and not 0 < len(text.encode("utf-8", "surrogatepass")) <= MAX_TEXT:
        raise CallerError(f"a text has 1 to {MAX_TEXT:,} bytes: put a longer one into a file")
    if command is not None and not command.strip():
        raise CallerError("the command whose output is to be sent is empty")
    remembering = Remembering.of(names, code=code, no_code=options.no_code, remember=options.remember)
    nameplate: str | None
    secret: str | None
    if names is None:
        if options.no_code:
            raise CallerError("--no-code needs names: send --no-code ME FRIEND PATH...")
        nameplate, secret = split_code(code) if code else (None, generate_code(secrets.token_bytes))
    else:
        without = options.no_code or remembering.is_contact
        nameplate = None
        secret = None if without else code or generate_code(secrets.token_bytes)
        if secret is not None:
            normalise_secret(secret)
    return Plan(
        Role.SENDER,
        names,
        nameplate,
        secret,
        paths,
        options.server,
        shows_code=not code,
        text=text,
        command=command,
        remembering=remembering,
    )


def _split_words(words: list[str], instead: str | None) -> tuple[tuple[str, str] | None, tuple[str, ...]]:
    """The two names, or None, and the paths; `instead`: what is sent in their place. Raises CallerError."""
    if instead is not None:
        if len(words) not in (0, OFFER_NAMES):
            what = instead.split()[0]
            raise CallerError(f"send {what} takes no PATH: either names, as in send ME FRIEND {instead}, or nothing")
        return (_names(*words) if words else None), ()
    if not words:
        raise CallerError("send takes ME FRIEND PATH..., or one PATH alone; what to send is missing")
    if len(words) == 1:
        return None, tuple(words)
    if len(words) == OFFER_NAMES:
        raise CallerError(
            "send takes ME FRIEND PATH..., or one PATH alone; a file or folder to send seems to be missing"
        )
    me, friend, *paths = words
    if os.path.exists(me) and os.path.exists(friend) and os.path.basename(me) != me:
        raise CallerError(f"{me} and {friend} are paths: several need names, as in send ME FRIEND {me} {friend}")
    if os.path.isfile(me) and os.path.isfile(friend):
        raise CallerError(f"{me} and {friend} are files: several files need names, as in send ME FRIEND {me} {friend}")
    return _names(me, friend), tuple(paths)


def _plan_recv(options: argparse.Namespace, code: str | None) -> Plan:
    words: list[str] = options.words
    if len(words) < OFFER_NAMES:
        if options.no_code:
            raise CallerError("--no-code needs names: recv --no-code ME FRIEND")
        if options.remember:
            raise CallerError("--remember needs names on both sides: recv --remember ME FRIEND")
        if options.wait:
            raise CallerError("--wait needs names: recv --wait ME FRIEND, for a one-time code is good for one transfer")
        whole = words[0] if words else code or _ask_code(UNNAMED)
        return Plan(Role.RECEIVER, None, *split_code(whole), (), options.server, shows_code=False)
    if len(words) != OFFER_NAMES:
        raise CallerError("recv takes ME FRIEND, or a CODE")
    names = _names(*words)
    remembering = Remembering.of(names, code=code, no_code=options.no_code, remember=options.remember)
    secret = None if options.no_code or remembering.is_contact else code or _ask_code(names[1])
    if secret is not None:
        normalise_secret(secret)
    return Plan(Role.RECEIVER, names, None, secret, (), options.server, shows_code=False, remembering=remembering)


def _names(me: str, friend: str) -> tuple[str, str]:
    """One spelling for what looks the same, whatever keyboard it was typed on. Raises CallerError for bad names."""
    pair = NamePair(unicodedata.normalize("NFC", me), unicodedata.normalize("NFC", friend))
    return pair.me, pair.friend


def _given_code(options: argparse.Namespace) -> str | None:
    if options.no_code:
        return None
    if options.code_file is not None:
        try:
            lines = Path(options.code_file).read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise CallerError(f"cannot read the code from {options.code_file}: {error}") from error
        if not lines or not lines[0].strip():
            raise CallerError(f"there is no code in {options.code_file}")
        return lines[0].strip()
    code: str | None = options.code or None
    return code


def _ask_code(friend: str) -> str:
    if not sys.stdin.isatty():
        raise CallerError("no code given: pass --code, --code-file or P2P_CODE, or --no-code on both sides")
    print(f"The code that {escape(friend)}'s screen shows: ", end="", file=sys.stderr, flush=True)
    try:
        return sys.stdin.readline().strip()
    except UnicodeDecodeError:
        raise CallerError("that is not text") from None
