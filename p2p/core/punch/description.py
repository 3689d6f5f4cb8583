"""What a peer tells the other about where it may be reached (docs/protocol.md section 3)."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from p2p.core.address import Address, encode_address, in_zones, needs_zone, split_zone
from p2p.core.errors import CallerError, DecodeError
from p2p.core.nat_report import NatReport
from p2p.core.wire import Reader

VERSION: Final = 2
OPENED: Final = 0x01
NO_RELAY: Final = 0x02
MAX_CANDIDATES: Final = 16  # a machine has few addresses; each costs the other side up to a dozen checks



class Kind(IntEnum):
    """Kind of a candidate (RFC 8445 section 5.1.1)."""

    HOST = 1
    SERVER_REFLEXIVE = 2
    HOST_TCP = 3
    PEER_REFLEXIVE = 4  # learned from a check; never in a description
    MAPPED = 5  # opened by the router at our request (NAT-PMP, PCP, UPnP): lets anybody in
    REFLEXIVE_TCP = 6  # the address that the server's TCP port saw; for simultaneous open
    RELAYED = 7  # the server, which forwards to the peer; each side knows it by itself; never in a description


UNTOLD: Final = (Kind.PEER_REFLEXIVE, Kind.RELAYED)


@dataclass(frozen=True, slots=True)
class Candidate:
    """kind(1) address"""

    kind: Kind
    address: Address


@dataclass(frozen=True, slots=True)
class Description:
    """version(1) flags(1) nat(10) count(1) candidate*

    `has_opened`: packets that open our NAT are out, so the other side may send in earnest. `takes_relay`: whether we
    would let the server forward what finds no other path.
    """

    nat: NatReport
    candidates: tuple[Candidate, ...]
    has_opened: bool = False
    takes_relay: bool = True

    def encode(self) -> bytes:
        """Raises CallerError for more than 16 candidates or one that cannot be told."""
        if len(self.candidates) > MAX_CANDIDATES:
            raise CallerError(f"{len(self.candidates)} candidates; {MAX_CANDIDATES} are allowed")
        if any(candidate.kind in UNTOLD for candidate in self.candidates):
            raise CallerError("a peer-reflexive or relayed candidate is not told to the peer")
        flags = (OPENED if self.has_opened else 0) | (0 if self.takes_relay else NO_RELAY)
        parts = [bytes([candidate.kind]) + encode_address(candidate.address) for candidate in self.candidates]
        return bytes([VERSION, flags]) + self.nat.encode() + bytes([len(parts)]) + b"".join(parts)

    @classmethod
    def decode(cls, data: bytes) -> Description:
        """Raises DecodeError."""
        reader = Reader(data)
        if (version := reader.uint(1)) != VERSION:
            raise DecodeError(f"description of version {version}")
        if (flags := reader.uint(1)) & ~(OPENED | NO_RELAY):
            raise DecodeError(f"unknown flags {flags:#x}")
        nat, count = NatReport.read(reader), reader.uint(1)
        if count > MAX_CANDIDATES:
            raise DecodeError(f"{count} candidates; {MAX_CANDIDATES} are allowed")
        candidates = tuple(_candidate(reader) for _ in range(count))
        reader.end()
        return cls(nat, candidates, has_opened=bool(flags & OPENED), takes_relay=not flags & NO_RELAY)


def reachable(address: Address) -> bool:
    """Whether a datagram may be sent there because a peer says so: one host, on an interface that is known."""
    ip = ipaddress.ip_address(address.host)
    broadcast = ip.version == 4 and int(ip) == 0xFFFFFFFF
    # an IPv4 address in disguise would pass the rest of the questions whatever it is
    disguised = isinstance(ip, ipaddress.IPv6Address) and ip.ipv4_mapped is not None
    somewhere = not (ip.is_multicast or ip.is_unspecified or broadcast or disguised)
    return address.port != 0 and somewhere and not needs_zone(address.host)


def versions(candidates: Iterable[Candidate]) -> set[int]:
    """Of the Internet Protocol, 4 and 6: those in which the machine of these candidates can send beyond one link.

    Its interfaces tell, not what the server saw: NAT64 gives an IPv6 host an IPv4 address in the eyes of others.
    """
    hosts = (each.address for each in candidates if each.kind in (Kind.HOST, Kind.HOST_TCP))
    return {address.version for address in hosts if not _is_zoned(address)}


def usable(remote: Sequence[Candidate], local: Sequence[Candidate]) -> list[Candidate]:
    """The remote candidates that a machine with these local ones can send to, in their order.

    Link-local ones on each interface on which we have such an address too; others if we have any address of that
    version, or know of none at all: a check of what we have no route to would take the turn of one that can succeed.
    """
    ours = versions(local) if local else {4, 6}
    zones = list(dict.fromkeys(zone for each in local if (zone := split_zone(each.address.host)[1])))
    found = []
    for each in remote:
        if _is_zoned(each.address):
            found += [Candidate(each.kind, address) for address in in_zones(each.address, zones)]
        elif each.address.version in ours:
            found.append(each)
    return found


def _is_zoned(address: Address) -> bool:
    return address.version == 6 and ipaddress.ip_address(address.host).is_link_local


def _candidate(reader: Reader) -> Candidate:
    kind = reader.member(Kind)
    if kind in UNTOLD:
        raise DecodeError(f"{kind.name.lower()} candidate in a description")
    return Candidate(kind, reader.address())
