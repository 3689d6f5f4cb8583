"""Whose files a machine takes when nobody is there to be asked: the rules of `recv --accept-from`."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Self

from p2p.core.errors import CallerError, ExitCode, Failure
from p2p.core.introduction import MAX_NAME
from p2p.core.text import escape
from p2p.core.transfer.events import Progress
from p2p.core.transfer.limits import most_things
from p2p.core.transfer.messages import Offer

UNITS: Final = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}  # decimal, as everywhere on the screen
MAX_LIMIT: Final = 2**63 - 1  # bytes in a transfer
_LIMIT = re.compile(r"([0-9]{1,19})([kmgt]?)b?", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Rule:
    """`limit`: bytes in one transfer; None without one. `shown`: as it was typed."""

    friend: str
    limit: int | None
    shown: str


@dataclass(frozen=True, slots=True)
class No:
    """Why not: the failure of this side, and what the other side is told."""

    failure: Failure
    told: str


class Acceptance:
    """Decides about an offer, and goes on watching it: its totals may grow, and a pipe has none."""

    def __init__(self, rules: Sequence[Rule]) -> None:
        self._rules = {rule.friend: rule for rule in rules}

    @classmethod
    def parse(cls, texts: Sequence[str]) -> Self:
        """Each `NAME` or `NAME:LIMIT`; LIMIT are bytes, or with k, M, G or T thousands, millions, ... of them.

        Raises CallerError for what is none of that, and for a name that stands there twice.
        """
        rules = [_parse_rule(text) for text in texts]
        names = [rule.friend for rule in rules]
        for name in names:
            if names.count(name) > 1:
                raise CallerError(f"--accept-from names {escape(name)} twice: one limit can hold")
        return cls(rules)

    def __bool__(self) -> bool:
        return bool(self._rules)

    def decide(self, friend: str, offer: Offer, *, is_contact: bool) -> No | None:
        """None: it is to be taken. `is_contact`: the friend has shown the key by which it is remembered; without that
        a name says nothing about who is there."""
        rule, name = self._rules.get(friend), escape(friend)
        if rule is None:
            return _no(f"Refused, because --accept-from does not name {name}", "it takes files from others only")
        if not is_contact:
            return _no(
                f"Refused, because {name} is no contact of this machine, and --accept-from takes files from contacts "
                "only: use a code and --remember on both sides once",
                "it takes files from contacts only: use a code and --remember on both sides once",
            )
        return _check(rule, offer.totals.size, offer.totals.files + offer.totals.others)

    def watch(self, friend: str, progress: Progress) -> No | None:
        """Whether the transfer has become more than was allowed."""
        rule = self._rules.get(friend)
        if rule is None:
            return None
        return _check(rule, max(progress.done, progress.total or 0), progress.things)


def _check(rule: Rule, size: int | None, things: int) -> No | None:
    if rule.limit is None:
        return None
    name, most = escape(rule.friend), most_things(rule.limit)
    if things > most:
        return _no(
            f"Refused, because {name} sends more files and folders than the {escape(rule.shown)} that --accept-from "
            f"allows have room for ({things:,}; {most:,} are taken)",
            f"it takes at most {most:,} files and folders at a time without being asked",
        )
    if (size or 0) <= rule.limit:
        return None
    return _no(
        f"Refused, because {name} sends more than the {escape(rule.shown)} that --accept-from allows ({size:,} bytes)",
        f"it takes at most {rule.limit:,} bytes at a time without being asked",
    )


def _no(message: str, told: str) -> No:
    return No(Failure(ExitCode.REFUSED, message), told)


def _parse_rule(text: str) -> Rule:
    """What stands behind the last colon is a limit if it begins with a digit: names may hold colons."""
    name, colon, shown = text.rpartition(":")
    limit: int | None = None
    if not colon or not shown[:1].isascii() or not shown[:1].isdigit():
        name, shown = text, ""
    else:
        match = _LIMIT.fullmatch(shown)
        limit = int(match[1]) * UNITS[match[2].lower()] if match else 0
        if match is None or not 0 < limit <= MAX_LIMIT:
            raise CallerError(f"--accept-from {escape(text)}: {escape(shown)} is no limit; write 500M, or 2G")
    friend = unicodedata.normalize("NFC", name)
    if not 1 <= len(friend.encode("utf-8", "replace")) <= MAX_NAME:
        raise CallerError(f"--accept-from {escape(text)}: a name of 1 to {MAX_NAME} bytes is wanted")
    return Rule(friend, limit, shown)
