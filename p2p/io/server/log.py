"""What the rendezvous server writes down about its peers: no secret, no control character, not without limit."""

from __future__ import annotations

import logging
from typing import assert_never

from p2p.core.address import Address
from p2p.core.introduction import NamePair, Nameplate, Pairing, RefusedReason
from p2p.core.prefix import prefix
from p2p.core.rendezvous.server_events import (
    Departed,
    Event,
    Expired,
    Moved,
    Paired,
    Refused,
    RelayClosed,
    RelayOpened,
    Waiting,
)
from p2p.core.role import Role
from p2p.core.text import escape

LINES_PER_SECOND = 20.0  # on average: strangers choose how often something happens, not how fast the disk fills
LINES_AT_ONCE = 200

REASONS = {
    RefusedReason.TAKEN: "the seat is taken",
    RefusedReason.SAME_ROLE: "the friend is there in the same role",
    RefusedReason.SERVER_FULL: "the server is full",
    RefusedReason.NETWORK_FULL: "too many from this network",
    RefusedReason.BAD_NAMES: "bad names",
    RefusedReason.NOT_JOINED: "not joined",
}

log = logging.getLogger("p2p.server")


class EventLog:
    """Writes events to the log. Addresses are cut to their network unless `full_addresses`."""

    def __init__(self, full_addresses: bool) -> None:
        self._full_addresses = full_addresses
        self._budget = float(LINES_AT_ONCE)
        self._last = 0.0
        self._left_out = 0

    def write(self, event: Event, now: float) -> None:
        self._budget = min(LINES_AT_ONCE, self._budget + max(0.0, now - self._last) * LINES_PER_SECOND)
        self._last = now
        if self._budget < 1.0:
            self._left_out += 1
            return
        self._budget -= 1.0
        if self._left_out:
            log.warning("%d lines left out: more than %g a second", self._left_out, LINES_PER_SECOND)
            self._left_out = 0
        is_full = isinstance(event, Refused) and event.reason in (
            RefusedReason.SERVER_FULL,
            RefusedReason.NETWORK_FULL,
        )
        log.log(logging.WARNING if is_full else logging.INFO, "%s", self._describe(event))

    def _describe(self, event: Event) -> str:
        where = self._where(event.address)
        match event:
            case Waiting(pairing, role):
                return f"waiting: {_who(pairing, role)}, at {where}"
            case Paired(pairing, role):
                return f"paired: {_who(pairing, role)}, at {where}"
            case Moved(pairing, role):
                return f"moved: {_who(pairing, role)}, now at {where}"
            case Refused(reason, pairing):
                who = "somebody" if pairing is None else _who(pairing, None)
                return f"refused ({REASONS[reason]}): {who}, at {where}"
            case Departed(pairing, role):
                return f"left: {_who(pairing, role)}, at {where}"
            case Expired(pairing, role):
                return f"expired: {_who(pairing, role)}, at {where}"
            case RelayOpened(pairing):
                return f"relay opened: {_who(pairing, None)}, at {where}"
            case RelayClosed(pairing, _, _, carried, seconds, is_used_up):
                why = " (used up)" if is_used_up else ""
                return f"relay closed{why}: {_who(pairing, None)}, at {where}: {carried / 1e6:.1f} MB, {seconds:.0f} s"
            case _:
                assert_never(event)

    def _where(self, address: Address) -> str:
        return str(address) if self._full_addresses else prefix(address)


def _who(pairing: Pairing, role: Role | None) -> str:
    as_role = "" if role is None else f" as {role.name.lower()}"
    match pairing:
        case NamePair(me, friend):
            return f"{_quoted(me)} with {_quoted(friend)}{as_role}"
        case Nameplate(text):
            return f"code {_quoted(text)}{as_role}"
        case _:
            assert_never(pairing)


def _quoted(name: str) -> str:
    return '"' + escape(name).replace('"', r"\"") + '"'
