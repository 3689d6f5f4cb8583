"""What the punching agent tells its caller, and asks of it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto

from p2p.core.address import Address
from p2p.core.datagram import CloseSockets, OpenSockets
from p2p.core.punch.description import Kind


class How(Enum):
    """By what the path was found."""

    PLAIN = auto()  # the address was told
    LEARNED = auto()  # one side saw it in the other's check
    PREDICTED = auto()  # the NAT counts
    BIRTHDAY = auto()  # many ports of one side met many guesses of the other
    MAPPED = auto()  # a router opened the port at our request
    RELAY = auto()  # no direct one


@dataclass(frozen=True, slots=True)
class Selected:
    """Both sides reach each other by this pair: our socket `local`, and the remote `address`. `rtt` is in seconds.

    It comes a second time, with another pair, when a direct path is found after a relayed one.
    """

    local: int
    address: Address
    kind: Kind
    rtt: float
    how: How


@dataclass(frozen=True, slots=True)
class Opened:
    """The packets that open our NAT are out: the other side should be told (`Description.has_opened`)."""


@dataclass(frozen=True, slots=True)
class PunchFailed:
    """Neither a direct path nor a relayed one within 10 s."""


PunchEvent = Selected | Opened | PunchFailed
PunchAction = OpenSockets | CloseSockets
