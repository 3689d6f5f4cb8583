"""What the punching agent tells its caller, and asks of it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto

from p2p.core.address import Address
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


@dataclass(frozen=True, slots=True)
class OpenSockets:
    """UDP sockets of the main one's family, on any port, are wanted under the numbers `first` to `first + count - 1`.

    What is sent by one that could not be opened is to be dropped.
    """

    first: int
    count: int


@dataclass(frozen=True, slots=True)
class CloseSockets:
    """These will not be used any more."""

    numbers: tuple[int, ...]


PunchEvent = Selected | Opened | PunchFailed
PunchAction = OpenSockets | CloseSockets
