"""What the client machine tells its owner: what whoever introduces two peers says, and what only a server says."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from p2p.core import introduction
from p2p.core.address import Address
from p2p.core.datagram import MAIN
from p2p.core.introduction import Contested, Gone, Message, Paired, PeerLeft, Refused, Waiting
from p2p.core.rendezvous.messages import RelayState

__all__ = [
    "Answering",
    "Contested",
    "Event",
    "Gone",
    "Mapped",
    "Message",
    "Outdated",
    "Paired",
    "PeerLeft",
    "Refused",
    "Relayed",
    "ServerUnreachable",
    "Silent",
    "Waiting",
]


@dataclass(frozen=True, slots=True)
class Mapped:
    """Our server-reflexive address; said again when it changes.

    With `local` TUNNEL it is that of our TCP connection, and tells nothing of UDP.
    """

    mapped: Address
    local: int = MAIN


@dataclass(frozen=True, slots=True)
class Relayed:
    """How the relay stands that we asked for; said at every answer, so every few seconds.

    `rate` (bytes a second) and `left` (bytes) are what both directions together may carry, headers included; 0: no
    limit.
    """

    state: RelayState
    rate: int
    left: int


@dataclass(frozen=True, slots=True)
class Silent:
    """The server has not answered for so long. It is still being asked."""

    since_seconds: float


@dataclass(frozen=True, slots=True)
class Answering:
    """The server answers (again), after Silent or ServerUnreachable."""


@dataclass(frozen=True, slots=True)
class ServerUnreachable:
    """The server's machine says that nobody listens at the port. It is still being asked."""


@dataclass(frozen=True, slots=True)
class Outdated:
    """The end: the server speaks this version and not ours."""

    version: int


Event: TypeAlias = (
    introduction.Event | Mapped | Relayed | Silent | Answering | ServerUnreachable | Outdated
)
