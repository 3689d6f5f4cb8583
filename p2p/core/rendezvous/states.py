"""The states of a peer's seat at the server: the table of docs/protocol.md, section 1."""

from __future__ import annotations

from enum import Enum, auto
from typing import assert_never

from p2p.core.introduction import NamePair, Pairing, RefusedReason


class State(Enum):
    IDLE = auto()
    SEEKING = auto()  # no cookie yet
    JOINING = auto()  # no seat yet
    WAITING = auto()
    PAIRED = auto()
    LEAVING = auto()
    CLOSED = auto()


class Input(Enum):
    START = auto()
    COOKIE = auto()
    SEATED_ALONE = auto()
    SEATED_WITH_PEER = auto()
    REFUSED = auto()
    LEAVE = auto()
    END = auto()


# An input without a row came too late and is ignored.
TRANSITIONS: dict[tuple[State, Input], State] = {
    (State.IDLE, Input.START): State.SEEKING,
    (State.IDLE, Input.LEAVE): State.CLOSED,
    (State.SEEKING, Input.COOKIE): State.JOINING,
    (State.SEEKING, Input.LEAVE): State.CLOSED,  # nothing to give up
    (State.SEEKING, Input.END): State.CLOSED,
    (State.JOINING, Input.COOKIE): State.JOINING,
    (State.JOINING, Input.SEATED_ALONE): State.WAITING,
    (State.JOINING, Input.SEATED_WITH_PEER): State.PAIRED,
    (State.JOINING, Input.REFUSED): State.JOINING,
    (State.JOINING, Input.LEAVE): State.LEAVING,
    (State.JOINING, Input.END): State.CLOSED,
    (State.WAITING, Input.COOKIE): State.WAITING,  # the cookie was stale, the seat may still be ours
    (State.WAITING, Input.SEATED_ALONE): State.WAITING,
    (State.WAITING, Input.SEATED_WITH_PEER): State.PAIRED,
    (State.WAITING, Input.REFUSED): State.JOINING,
    (State.WAITING, Input.LEAVE): State.LEAVING,
    (State.WAITING, Input.END): State.CLOSED,
    (State.PAIRED, Input.COOKIE): State.PAIRED,
    (State.PAIRED, Input.SEATED_ALONE): State.WAITING,
    (State.PAIRED, Input.SEATED_WITH_PEER): State.PAIRED,
    (State.PAIRED, Input.REFUSED): State.JOINING,
    (State.PAIRED, Input.LEAVE): State.LEAVING,
    (State.PAIRED, Input.END): State.CLOSED,
    (State.LEAVING, Input.END): State.CLOSED,
}

ASKING = (State.JOINING, State.WAITING, State.PAIRED)


def may_pass(reason: RefusedReason, pairing: Pairing) -> bool:
    """Whether a refusal may be due to our own run of a moment ago, or otherwise pass by itself."""
    match reason:
        case RefusedReason.SAME_ROLE:
            return not isinstance(pairing, NamePair)  # a nameplate has one seat a role: maybe ours
        case RefusedReason.BAD_NAMES | RefusedReason.NOT_JOINED:
            return False
        case RefusedReason.TAKEN | RefusedReason.SERVER_FULL | RefusedReason.NETWORK_FULL:
            return True
        case _:
            assert_never(reason)
