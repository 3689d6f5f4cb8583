"""PCP on the wire, as far as a client needs it: ANNOUNCE as a question, and MAP. RFC 6887."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from typing import ClassVar, TypeAlias, assert_never

from p2p.core.errors import DecodeError
from p2p.core.wire import Reader, uint

VERSION = 2
ANSWER = 0x80  # R, section 7.2
UDP = 17  # IANA protocol number
NONCE_SIZE = 12
MAX_SIZE = 1100  # bytes, section 7
IPV4_PREFIX = bytes(10) + b"\xff\xff"  # IPv4-mapped IPv6 address, section 5
ANY_IPV4 = "0.0.0.0"
UNSUPP_VERSION = 1
UNSUPP_OPCODE = 4

# Section 7.4
WORDS = {
    1: "it speaks another version",
    2: "it refuses: not allowed to this machine, or switched off in its settings",
    3: "it calls our request malformed",
    4: "it cannot map ports",
    5: "it does not know an option",
    6: "it calls an option malformed",
    7: "it has no connection itself (network failure)",
    8: "it has no room for another mapping, or no usable internet address, as behind a carrier's NAT",
    9: "it cannot map UDP",
    10: "this machine has as many mappings as it may have",
    11: "it cannot give that external port",
    12: "there is another NAT between this machine and the router that answers",
    13: "too many remote peers",
}
SHORT_LIVED = frozenset({7, 8, 10})


@dataclass(frozen=True, slots=True)
class AnnounceRequest:
    """The common header alone, with opcode 0; section 14.1. `client` is the address that we send from.

    version(1) = 2, R and opcode(1), reserved(2), lifetime(4, s), client address(16); section 7.1
    """

    OPCODE: ClassVar[int] = 0
    client: str


@dataclass(frozen=True, slots=True)
class MapRequest:
    """Common header with opcode 1, then (section 11.1):

    nonce(12), protocol(1), reserved(3), internal port(2), suggested external port(2), suggested external address(16)
    """

    OPCODE: ClassVar[int] = 1
    client: str
    lifetime: int
    nonce: bytes
    internal: int
    external: int = 0
    external_host: str = ANY_IPV4


@dataclass(frozen=True, slots=True)
class Announced:
    """version(1) = 2, R and opcode(1), reserved(1), result(1) = 0, lifetime(4, s), epoch(4, s), reserved(12)

    Section 7.2.
    """

    epoch: int


@dataclass(frozen=True, slots=True)
class MapAnswer:
    """The header of an answer, then as in a request, with what was assigned; section 11.1."""

    epoch: int
    lifetime: int
    nonce: bytes
    protocol: int
    internal: int
    external: int
    external_host: str


@dataclass(frozen=True, slots=True)
class ErrorAnswer:
    """A header with a result that is not 0; `lifetime` is how long it will stay so. `nonce` is None where cut off."""

    version: int
    opcode: int
    result: int
    lifetime: int
    nonce: bytes | None


Request: TypeAlias = AnnounceRequest | MapRequest
Answer: TypeAlias = Announced | MapAnswer | ErrorAnswer


def encode(request: Request) -> bytes:
    match request:
        case AnnounceRequest(client):
            return _header(request.OPCODE, 0, client)
        case MapRequest(client, lifetime, nonce, internal, external, external_host):
            body = nonce + bytes([UDP, 0, 0, 0]) + uint(internal, 2) + uint(external, 2)
            return _header(request.OPCODE, lifetime, client) + body + _address(external_host)
        case _:
            assert_never(request)


def decode(data: bytes) -> Answer:
    """Raises DecodeError. Options behind an answer are ignored, for we asked for none."""
    if len(data) > MAX_SIZE:
        raise DecodeError(f"{len(data)} bytes where {MAX_SIZE} are allowed")
    reader = Reader(data)
    version, opcode = reader.uint(1), reader.uint(1)
    if not opcode & ANSWER:
        raise DecodeError("a request, not an answer")
    opcode -= ANSWER
    reader.take(1)
    result, lifetime, epoch = reader.uint(1), reader.uint(4), reader.uint(4)
    if result == UNSUPP_VERSION and version != 0:
        return ErrorAnswer(version, opcode, result, lifetime, None)
    if version != VERSION:
        raise DecodeError(f"version {version} is not PCP")
    reader.take(12)
    if result:
        nonce = reader.take(NONCE_SIZE) if reader.remaining >= NONCE_SIZE else None
        return ErrorAnswer(version, opcode, result, lifetime, nonce)
    if opcode == AnnounceRequest.OPCODE:
        return Announced(epoch)
    if opcode != MapRequest.OPCODE:
        raise DecodeError(f"not an answer to us: opcode {opcode}")
    nonce, protocol = reader.take(NONCE_SIZE), reader.uint(1)
    reader.take(3)
    internal, external, host = reader.uint(2), reader.uint(2), reader.take(16)
    if host[:12] != IPV4_PREFIX:
        raise DecodeError("an external address that is not IPv4")
    return MapAnswer(epoch, lifetime, nonce, protocol, internal, external, str(ipaddress.IPv4Address(host[12:])))


def _header(opcode: int, lifetime: int, client: str) -> bytes:
    return bytes([VERSION, opcode, 0, 0]) + uint(lifetime, 4) + _address(client)


def _address(host: str) -> bytes:
    return IPV4_PREFIX + ipaddress.IPv4Address(host).packed
