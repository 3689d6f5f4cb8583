"""What the port mapping tells its caller, what it wants from the socket edge, and what its clients tell it."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from enum import Enum
from typing import TypeAlias

from p2p.core.address import Address


class Protocol(Enum):
    """In the order in which they are asked: the fewest round trips first."""

    PCP = "PCP"  # RFC 6887
    NAT_PMP = "NAT-PMP"  # RFC 6886
    UPNP = "UPnP"  # Internet Gateway Device 1 and 2


@dataclass(frozen=True, slots=True)
class Mapped:
    """Strangers reach our port at `external`; replaces an earlier one. `lifetime`: seconds, 0: until it is deleted."""

    external: Address
    protocol: Protocol
    lifetime: int


@dataclass(frozen=True, slots=True)
class Lost:
    """What Mapped said is no longer so. Another Mapped may follow."""

    reason: str


@dataclass(frozen=True, slots=True)
class NoMapper:
    """No protocol opened the port; why, for each. Said anew when the reasons change; a slow router may still map."""

    reasons: tuple[tuple[Protocol, str], ...]


@dataclass(frozen=True, slots=True)
class BehindAnotherNat:
    """The router would map, or has mapped, but it is not the last one: `external` is not where the internet sees us.

    Withdraws an earlier Mapped. `seen` is the reflexive address, None where `external` alone gives it away.
    """

    protocol: Protocol
    external: str
    seen: str | None


Event: TypeAlias = Mapped | Lost | NoMapper | BehindAnotherNat


@dataclass(frozen=True, slots=True)
class Open:
    """Connect to `address` by TCP, write `data`, and report what comes back under `number`."""

    number: int
    address: Address
    data: bytes


@dataclass(frozen=True, slots=True)
class Close:
    """Nothing more is wanted from this connection."""

    number: int


Action: TypeAlias = Open | Close


@dataclass(frozen=True, slots=True)
class Ready:
    """This protocol is spoken; `host` is the router's external address where it was told already."""

    host: str | None


@dataclass(frozen=True, slots=True)
class Granted:
    """Also said when a renewal brings another address or port."""

    external: Address
    lifetime: int


@dataclass(frozen=True, slots=True)
class Denied:
    """Ends what was granted, too. `again`: seconds after which the router may think otherwise, where it said so."""

    reason: str
    again: float | None = None


@dataclass(frozen=True, slots=True)
class Released:
    """Nothing of ours is left on the router, as far as it told us."""


ClientEvent: TypeAlias = Ready | Granted | Denied | Released


def is_public(host: str) -> bool:
    """Whether an IPv4 address can be one that the whole internet routes to."""
    address = ipaddress.IPv4Address(host)
    return address.is_global and not address.is_multicast
