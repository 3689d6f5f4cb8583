"""What the server machine counts, sends, tells its owner, and lets strangers have."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, NamedTuple, TypeAlias

from p2p.core.address import Address
from p2p.core.introduction import Pairing, RefusedReason
from p2p.core.rate import Rate
from p2p.core.role import Role

FORWARDED: Final = Rate(burst=16 * 1024, per_second=8 * 1024)  # bytes of a seat: a session needs about 2 kB in all


@dataclass(frozen=True, slots=True)
class Limits:
    """What strangers can make the server hold and carry."""

    entries: int = 120_000  # 0.8 kB each: 100 MB when full; a busy core answers the renewals of as many
    entries_per_network: int = 256  # per IPv4 /24 or IPv6 /56: an office behind one NAT, not a flood
    forwarded: Rate = FORWARDED


@dataclass(slots=True)
class Counters:
    """What happened since the start."""

    datagrams: int = 0
    malformed: int = 0
    unsupported: int = 0  # headers of another version
    cookies: int = 0
    joins: int = 0  # first ones and renewals
    paired: int = 0
    refused: int = 0
    left: int = 0
    expired: int = 0
    forwarded: int = 0
    forwarded_bytes: int = 0
    throttled: int = 0  # FORWARD above the rate of its seat
    undeliverable: int = 0  # FORWARD without a peer to take it


class ServerTransmit(NamedTuple):
    """One datagram. `port_index` is that of the datagram which it answers, or of the last JOIN."""

    port_index: int
    destination: Address
    data: bytes


@dataclass(frozen=True, slots=True)
class Waiting:
    """A peer took a seat; the other seat of the room is free."""

    pairing: Pairing
    role: Role
    address: Address


@dataclass(frozen=True, slots=True)
class Paired:
    """A peer took the second seat of a room."""

    pairing: Pairing
    role: Role
    address: Address


@dataclass(frozen=True, slots=True)
class Moved:
    """A peer came again from another address."""

    pairing: Pairing
    role: Role
    address: Address


@dataclass(frozen=True, slots=True)
class Refused:
    """A peer got no seat. `pairing` is None when its names could not be read."""

    reason: RefusedReason
    pairing: Pairing | None
    address: Address


@dataclass(frozen=True, slots=True)
class Departed:
    """A peer gave up its seat."""

    pairing: Pairing
    role: Role
    address: Address


@dataclass(frozen=True, slots=True)
class Expired:
    """A peer did not come again within its lease."""

    pairing: Pairing
    role: Role
    address: Address


@dataclass(frozen=True, slots=True)
class RelayOpened:
    """Two peers have their datagrams forwarded; `pairing`, `role` and `address` are those of one of them."""

    pairing: Pairing
    role: Role
    address: Address


@dataclass(frozen=True, slots=True)
class RelayClosed:
    """No more of that. `carried` is bytes, all headers included, since the two met; `seconds` it was open."""

    pairing: Pairing
    role: Role
    address: Address
    carried: int
    seconds: float
    is_used_up: bool


Event: TypeAlias = Waiting | Paired | Moved | Refused | Departed | Expired | RelayOpened | RelayClosed
