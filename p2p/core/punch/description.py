"""What a peer tells the other about where it may be reached (docs/protocol.md section 3)."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from enum import IntEnum
from typing import Final, TypeVar

from p2p.core.address import Address, encode_address
from p2p.core.errors import CallerError, DecodeError
from p2p.core.wire import Reader

VERSION: Final = 1
MAX_CANDIDATES: Final = 16  # a machine has few addresses; each costs the other side up to a dozen checks

Member = TypeVar("Member", bound=IntEnum)


class Mapping(IntEnum):
    """NAT mapping behaviour (RFC 4787 section 4.1) as far as two ports of one server can tell."""

    UNKNOWN = 0
    ENDPOINT_INDEPENDENT = 1
    DESTINATION_DEPENDENT = 2
    NO_UDP = 3


class Kind(IntEnum):
    """Kind of a candidate (RFC 8445 section 5.1.1)."""

    HOST = 1
    SERVER_REFLEXIVE = 2
    HOST_TCP = 3
    PEER_REFLEXIVE = 4  # learned from a check; never in a description


@dataclass(frozen=True, slots=True)
class Candidate:
    """kind(1) address"""

    kind: Kind
    address: Address


@dataclass(frozen=True, slots=True)
class Description:
    """version(1) mapping(1) count(1) candidate*"""

    mapping: Mapping
    candidates: tuple[Candidate, ...]

    def encode(self) -> bytes:
        """Raises CallerError for more than 16 candidates or one that cannot be told."""
        if len(self.candidates) > MAX_CANDIDATES:
            raise CallerError(f"{len(self.candidates)} candidates; {MAX_CANDIDATES} are allowed")
        if any(candidate.kind is Kind.PEER_REFLEXIVE for candidate in self.candidates):
            raise CallerError("a peer-reflexive candidate is not told to the peer it was learned from")
        parts = [bytes([candidate.kind]) + encode_address(candidate.address) for candidate in self.candidates]
        return bytes([VERSION, self.mapping, len(parts)]) + b"".join(parts)

    @classmethod
    def decode(cls, data: bytes) -> Description:
        """Raises DecodeError."""
        reader = Reader(data)
        if (version := reader.uint(1)) != VERSION:
            raise DecodeError(f"description of version {version}")
        mapping, count = _member(Mapping, reader.uint(1)), reader.uint(1)
        if count > MAX_CANDIDATES:
            raise DecodeError(f"{count} candidates; {MAX_CANDIDATES} are allowed")
        candidates = tuple(_candidate(reader) for _ in range(count))
        reader.end()
        return cls(mapping, candidates)


def reachable(address: Address) -> bool:
    """Whether a datagram may be sent there because a peer says so: one host, and without a scope id."""
    ip = ipaddress.ip_address(address.host)
    broadcast = ip.version == 4 and int(ip) == 0xFFFFFFFF
    unscoped = ip.version == 6 and ip.is_link_local
    return address.port != 0 and not (ip.is_multicast or ip.is_unspecified or broadcast or unscoped)


def _candidate(reader: Reader) -> Candidate:
    kind = _member(Kind, reader.uint(1))
    if kind is Kind.PEER_REFLEXIVE:
        raise DecodeError("peer-reflexive candidate in a description")
    return Candidate(kind, reader.address())


def _member(enum: type[Member], value: int) -> Member:
    try:
        return enum(value)
    except ValueError as error:
        raise DecodeError(f"{value} is not a {enum.__name__.lower()}") from error
