"""NAT-PMP on the wire: RFC 6886."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from typing import ClassVar, TypeAlias, assert_never

from p2p.core.errors import DecodeError
from p2p.core.wire import Reader, uint

PORT = 5351  # section 3.1
VERSION = 0
ANSWER = 128  # added to the opcode of a request, section 3.2
UNSUPPORTED_VERSION = 1

# Section 3.5
WORDS = {
    1: "it speaks another version",
    2: "it refuses: port mapping is switched off in its settings, or not allowed to this machine",
    3: "it has no usable internet address itself (network failure), as behind a carrier's NAT",
    4: "it has no room for another mapping",
    5: "it does not know this request",
}
SHORT_LIVED = frozenset({3, 4})


@dataclass(frozen=True, slots=True)
class AddressRequest:
    """version(1) = 0, opcode(1) = 0; section 3.2"""

    OPCODE: ClassVar[int] = 0


@dataclass(frozen=True, slots=True)
class MapRequest:
    """version(1) = 0, opcode(1) = 1 (UDP), reserved(2), internal port(2), suggested external port(2), lifetime(4, s)

    Section 3.3. With lifetime 0 and external port 0 it deletes (section 3.4).
    """

    OPCODE: ClassVar[int] = 1
    internal: int
    external: int
    lifetime: int


@dataclass(frozen=True, slots=True)
class AddressAnswer:
    """version(1) = 0, opcode(1) = 128, result(2) = 0, epoch(4, s), external IPv4 address(4); section 3.2"""

    epoch: int
    host: str


@dataclass(frozen=True, slots=True)
class MapAnswer:
    """version(1) = 0, opcode(1) = 129, result(2) = 0, epoch(4, s), internal port(2), external port(2), lifetime(4, s)

    Section 3.3.
    """

    epoch: int
    internal: int
    external: int
    lifetime: int


@dataclass(frozen=True, slots=True)
class ErrorAnswer:
    """version(1) = 0, 128 + opcode(1), result(2), and more or not; section 3.5"""

    opcode: int
    result: int


Request: TypeAlias = AddressRequest | MapRequest
Answer: TypeAlias = AddressAnswer | MapAnswer | ErrorAnswer


def encode(request: Request) -> bytes:
    match request:
        case AddressRequest():
            return bytes([VERSION, request.OPCODE])
        case MapRequest(internal, external, lifetime):
            return bytes([VERSION, request.OPCODE, 0, 0]) + uint(internal, 2) + uint(external, 2) + uint(lifetime, 4)
        case _:
            assert_never(request)


def decode(data: bytes) -> Answer:
    """Raises DecodeError. What stands behind a whole answer is ignored: some routers fill up to a fixed size."""
    reader = Reader(data)
    if (version := reader.uint(1)) != VERSION:
        raise DecodeError(f"version {version} is not NAT-PMP")
    opcode = reader.uint(1) - ANSWER
    if opcode not in (AddressRequest.OPCODE, MapRequest.OPCODE):
        raise DecodeError(f"not an answer to us: opcode {opcode + ANSWER}")
    if result := reader.uint(2):
        return ErrorAnswer(opcode, result)
    epoch = reader.uint(4)
    if opcode == AddressRequest.OPCODE:
        return AddressAnswer(epoch, str(ipaddress.IPv4Address(reader.take(4))))
    return MapAnswer(epoch, reader.uint(2), reader.uint(2), reader.uint(4))
