"""`python -m p2p.peer contacts list|forget`: who is remembered here, and how it is forgotten."""

from __future__ import annotations

import argparse
import json
import sys
from datetime import UTC, datetime

from p2p.core.calling import spoken
from p2p.core.errors import CallerError, ExitCode
from p2p.core.text import escape
from p2p.io.contacts import Contact, Contacts, ContactsError


def run(options: argparse.Namespace) -> ExitCode:
    """Raises CallerError for what is wrong with the options."""
    if (options.action == "forget") is (options.name is None):
        raise CallerError("contacts takes `list`, or `forget NAME`")
    try:
        contacts = Contacts.of_user()
        if options.action == "forget":
            return _forget(contacts, options)
        return _list(contacts.all(), as_json=options.json)
    except ContactsError as error:
        print(f"{spoken(str(error), options.program)}.", file=sys.stderr)
        return error.failure.code


def _list(contacts: list[Contact], *, as_json: bool) -> ExitCode:
    if as_json:
        for each in contacts:
            shown = {"me": each.me, "friend": each.friend, "since": each.since, "confirmed": each.is_confirmed}
            print(json.dumps(shown))
        return ExitCode.DONE
    if not contacts:
        print("Nobody is remembered here. Use --remember on both sides, with a code, once.")
    for each in contacts:
        day = datetime.fromtimestamp(each.since, UTC).date().isoformat()
        doubt = "" if each.is_confirmed else "  (not certain that it remembers you)"
        print(f"{escape(each.friend)}  as {escape(each.me)}, since {day}{doubt}")
    return ExitCode.DONE


def _forget(contacts: Contacts, options: argparse.Namespace) -> ExitCode:
    name: str = options.name
    gone = contacts.forget(name)
    if not gone:
        print(f"{escape(name)} is not remembered here. See: {options.program} contacts list", file=sys.stderr)
        return ExitCode.USAGE
    for each in gone:
        print(f"{escape(each.friend)} is forgotten, who knew you as {escape(each.me)}: a code is needed again.")
    print("What the other side remembers of you is of no use to it without you.")
    return ExitCode.DONE
