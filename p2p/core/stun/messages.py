"""STUN binding messages: RFC 8489, with what RFC 5780 adds, and their form of before (RFC 3489).

Header: type(2) length(2) magic_cookie(4) transaction(12), then attributes: type(2) length(2) value, padded to 4 bytes.
The classic header has a transaction of 16 bytes instead, and its addresses are not XORed.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from enum import IntEnum
from typing import Final, TypeAlias, assert_never
from zlib import crc32

from p2p.core.address import Address
from p2p.core.errors import DecodeError
from p2p.core.wire import uint

MAGIC_COOKIE: Final = bytes.fromhex("2112a442")  # RFC 8489 section 5
HEADER_SIZE: Final = 20  # bytes
TRANSACTION_SIZE: Final = 12  # bytes; RFC 3489 section 11.1 has 16
CLASSIC_TRANSACTION_SIZE: Final = 16
FIRST_BYTES: Final = range(0x40)  # of a datagram that may be STUN: the two most significant bits are zero
COMPREHENSION_OPTIONAL: Final = 0x8000  # RFC 8489 section 14: from here on, what is not understood is passed over
FINGERPRINT_XOR: Final = 0x5354554E  # RFC 8489 section 14.7
UNKNOWN_ATTRIBUTE: Final = 420  # RFC 8489 section 14.8
MAX_UNKNOWN: Final = 8  # attributes listed in an error: who sent more learns of the rest when these are mended
ENDPOINTS_ROOM: Final = 48  # bytes: a request with that much room is longer than its answer, over IPv6 too


class Type(IntEnum):
    """Method and class (RFC 8489 section 5); Binding is the only method there is."""

    REQUEST = 0x0001
    INDICATION = 0x0011
    SUCCESS = 0x0101
    ERROR = 0x0111


class Attribute(IntEnum):
    """RFC 8489 section 18.3, RFC 5780 section 7, RFC 3489 section 11.2."""

    MAPPED_ADDRESS = 0x0001
    CHANGE_REQUEST = 0x0003
    SOURCE_ADDRESS = 0x0004
    CHANGED_ADDRESS = 0x0005
    ERROR_CODE = 0x0009
    UNKNOWN_ATTRIBUTES = 0x000A
    XOR_MAPPED_ADDRESS = 0x0020
    PADDING = 0x0026
    RESPONSE_PORT = 0x0027
    FINGERPRINT = 0x8028
    RESPONSE_ORIGIN = 0x802B
    OTHER_ADDRESS = 0x802C
    SERVER_ENDPOINTS = 0xFD70  # ours; in the range for all, comprehension-optional


# Understood in the sense that we know that they do not concern a server without credentials, or an old client.
_IGNORED = frozenset((0x0002, 0x0006, 0x0007, 0x0008, 0x0014, 0x0015, 0x001C, 0x0024, 0x0025))
_CHANGE_IP, _CHANGE_PORT = 0x04, 0x02  # RFC 5780 section 7.2
_FAMILIES = {4: 1, 6: 2}
_LENGTHS = {1: 4, 2: 16}


@dataclass(frozen=True, slots=True)
class ServerEndpoints:
    """first_port(2) second_port(2) [ip(4 or 16)]

    The server's UDP ports, and its other address than the one that was asked, where it has one.
    """

    ports: tuple[int, int]
    other_host: str | None = None


@dataclass(frozen=True, slots=True)
class Request:
    """A binding request. `transaction` is of 16 bytes in the classic form and of 12 in the present one.

    `padding`: bytes of PADDING. `room`: bytes left in it for SERVER_ENDPOINTS, 0 when it does not ask for them.
    `unknown`: attributes that would have to be understood and are not.
    """

    transaction: bytes
    change_ip: bool = False
    change_port: bool = False
    response_port: int | None = None
    padding: int = 0
    room: int = 0
    fingerprint: bool = False
    unknown: tuple[int, ...] = ()

    @property
    def is_classic(self) -> bool:
        return len(self.transaction) == CLASSIC_TRANSACTION_SIZE


@dataclass(frozen=True, slots=True)
class Success:
    """What `mapped` says is where the request came from.

    `origin` is where the answer comes from, `other` where it would come from with both flags of CHANGE-REQUEST.
    """

    transaction: bytes
    mapped: Address
    origin: Address | None = None
    other: Address | None = None
    endpoints: ServerEndpoints | None = None
    padding: int = 0
    fingerprint: bool = False


@dataclass(frozen=True, slots=True)
class Error:
    """`code` 300 to 699 (RFC 8489 section 14.8); the reason phrase is for people, and left out."""

    transaction: bytes
    code: int
    unknown: tuple[int, ...] = ()
    fingerprint: bool = False


@dataclass(frozen=True, slots=True)
class Indication:
    """Keeps a mapping alive, and is not answered."""

    transaction: bytes


Message: TypeAlias = Request | Success | Error | Indication


def encode(message: Message) -> bytes:
    match message:
        case Request():
            kind, attributes = Type.REQUEST, _request_attributes(message)
        case Success():
            kind, attributes = Type.SUCCESS, _success_attributes(message)
        case Error():
            kind, attributes = Type.ERROR, _error_attributes(message)
        case Indication():
            kind, attributes = Type.INDICATION, b""
        case _:
            assert_never(message)
    transaction = message.transaction
    key = transaction if len(transaction) == CLASSIC_TRANSACTION_SIZE else MAGIC_COOKIE + transaction
    if isinstance(message, Indication) or not message.fingerprint:
        return uint(kind, 2) + uint(len(attributes), 2) + key + attributes
    before = uint(kind, 2) + uint(len(attributes) + 8, 2) + key + attributes
    return before + _attribute(Attribute.FINGERPRINT, uint(crc32(before) ^ FINGERPRINT_XOR, 4))


def decode(data: bytes | bytearray | memoryview) -> Message:
    """Raises DecodeError, also for a FINGERPRINT that does not fit. Of attributes that come twice the first counts."""
    data = bytes(data)
    if len(data) < HEADER_SIZE:
        raise DecodeError(f"a STUN header has {HEADER_SIZE} bytes, here are {len(data)}")
    try:
        kind = Type(value := int.from_bytes(data[:2], "big"))
    except ValueError as error:
        raise DecodeError(f"{value:#06x} is no binding message") from error
    if int.from_bytes(data[2:4], "big") != len(data) - HEADER_SIZE:
        raise DecodeError(f"a length that is not that of the {len(data)} bytes")
    key = data[4:HEADER_SIZE]
    transaction = key[4:] if key.startswith(MAGIC_COOKIE) else key
    found = _attributes(data)
    match kind:
        case Type.REQUEST:
            return _request(transaction, found)
        case Type.SUCCESS:
            return _success(transaction, key, found)
        case Type.ERROR:
            return _error(transaction, found)
        case Type.INDICATION:
            return Indication(transaction)
        case _:
            assert_never(kind)


# Writing


def _request_attributes(request: Request) -> bytes:
    parts = []
    if request.change_ip or request.change_port:
        flags = (_CHANGE_IP if request.change_ip else 0) | (_CHANGE_PORT if request.change_port else 0)
        parts.append(_attribute(Attribute.CHANGE_REQUEST, uint(flags, 4)))
    if request.response_port is not None:
        parts.append(_attribute(Attribute.RESPONSE_PORT, uint(request.response_port, 2) + bytes(2)))
    if request.room:
        parts.append(_attribute(Attribute.SERVER_ENDPOINTS, bytes(request.room)))
    if request.padding:
        parts.append(_attribute(Attribute.PADDING, bytes(request.padding)))
    parts += [_attribute(kind, b"") for kind in request.unknown]
    return b"".join(parts)


def _success_attributes(success: Success) -> bytes:
    is_classic = len(success.transaction) == CLASSIC_TRANSACTION_SIZE
    if is_classic:
        parts = [_attribute(Attribute.MAPPED_ADDRESS, _encode_address(success.mapped))]
        origin, other = Attribute.SOURCE_ADDRESS, Attribute.CHANGED_ADDRESS
    else:
        mapped = _encode_address(success.mapped, MAGIC_COOKIE + success.transaction)
        parts = [_attribute(Attribute.XOR_MAPPED_ADDRESS, mapped)]
        origin, other = Attribute.RESPONSE_ORIGIN, Attribute.OTHER_ADDRESS
    addresses = ((origin, success.origin), (other, success.other))
    parts += [_attribute(kind, _encode_address(address)) for kind, address in addresses if address is not None]
    if success.endpoints is not None:
        host = success.endpoints.other_host
        value = b"".join(uint(port, 2) for port in success.endpoints.ports)
        value += ipaddress.ip_address(host).packed if host is not None else b""
        parts.append(_attribute(Attribute.SERVER_ENDPOINTS, value))
    if success.padding:
        parts.append(_attribute(Attribute.PADDING, bytes(success.padding)))
    return b"".join(parts)


def _error_attributes(error: Error) -> bytes:
    value = _attribute(Attribute.ERROR_CODE, bytes([0, 0, error.code // 100, error.code % 100]))
    if not error.unknown:
        return value
    return value + _attribute(Attribute.UNKNOWN_ATTRIBUTES, b"".join(uint(kind, 2) for kind in error.unknown))


def _attribute(kind: int, value: bytes) -> bytes:
    return uint(kind, 2) + uint(len(value), 2) + value + bytes(-len(value) % 4)


def _encode_address(address: Address, key: bytes = b"") -> bytes:
    """zero(1) family(1: 1 or 2) port(2) ip(4 or 16), port and IP XORed with `key` (RFC 8489 section 14.2)"""
    ip = ipaddress.ip_address(address.host)
    port_and_ip = _xor(uint(address.port, 2), key) + _xor(ip.packed, key)
    return bytes([0, _FAMILIES[ip.version]]) + port_and_ip


# Reading


def _attributes(data: bytes) -> dict[int, bytes]:
    found: dict[int, bytes] = {}
    offset = HEADER_SIZE
    while offset < len(data):
        kind = int.from_bytes(data[offset : offset + 2], "big")
        length = int.from_bytes(data[offset + 2 : offset + 4], "big")
        value = data[offset + 4 : offset + 4 + length]
        following = offset + 4 + length + -length % 4
        if following > len(data):
            raise DecodeError(f"attribute {kind:#06x} is cut short")
        is_fingerprint = kind == Attribute.FINGERPRINT
        if is_fingerprint and (following, value) != (len(data), uint(crc32(data[:offset]) ^ FINGERPRINT_XOR, 4)):
            raise DecodeError("the fingerprint is not that of the message, or not at its end")
        found.setdefault(kind, value)
        offset = following
    return found


def _request(transaction: bytes, found: dict[int, bytes]) -> Request:
    flags = 0
    if (change := found.get(Attribute.CHANGE_REQUEST)) is not None:
        if len(change) != 4:
            raise DecodeError(f"CHANGE-REQUEST of {len(change)} bytes")
        flags = change[3]
    port = found.get(Attribute.RESPONSE_PORT)
    if port is not None and len(port) not in (2, 4):
        raise DecodeError(f"RESPONSE-PORT of {len(port)} bytes")
    known = _IGNORED.union(Attribute)
    return Request(
        transaction,
        change_ip=bool(flags & _CHANGE_IP),
        change_port=bool(flags & _CHANGE_PORT),
        response_port=None if port is None else int.from_bytes(port[:2], "big"),
        padding=len(found.get(Attribute.PADDING, b"")),
        room=len(found.get(Attribute.SERVER_ENDPOINTS, b"")),
        fingerprint=Attribute.FINGERPRINT in found,
        unknown=tuple(kind for kind in found if kind < COMPREHENSION_OPTIONAL and kind not in known),
    )


def _success(transaction: bytes, key: bytes, found: dict[int, bytes]) -> Success:
    if (xored := found.get(Attribute.XOR_MAPPED_ADDRESS)) is not None:
        mapped = _decode_address(xored, key)
    elif (plain := found.get(Attribute.MAPPED_ADDRESS)) is not None:
        mapped = _decode_address(plain)
    else:
        raise DecodeError("an answer without the address that was asked for")
    return Success(
        transaction,
        mapped,
        origin=_optional_address(found, Attribute.RESPONSE_ORIGIN, Attribute.SOURCE_ADDRESS),
        other=_optional_address(found, Attribute.OTHER_ADDRESS, Attribute.CHANGED_ADDRESS),
        endpoints=_endpoints(found.get(Attribute.SERVER_ENDPOINTS)),
        padding=len(found.get(Attribute.PADDING, b"")),
        fingerprint=Attribute.FINGERPRINT in found,
    )


def _error(transaction: bytes, found: dict[int, bytes]) -> Error:
    value = found.get(Attribute.ERROR_CODE, b"")
    if len(value) < 4 or not 3 <= value[2] & 0x07 <= 6 or value[3] > 99:
        raise DecodeError("an error without a code")
    listed = found.get(Attribute.UNKNOWN_ATTRIBUTES, b"")
    if len(listed) % 2:
        raise DecodeError(f"a list of attributes of {len(listed)} bytes")
    unknown = tuple(int.from_bytes(listed[i : i + 2], "big") for i in range(0, len(listed), 2))
    return Error(transaction, 100 * (value[2] & 0x07) + value[3], unknown, Attribute.FINGERPRINT in found)


def _endpoints(value: bytes | None) -> ServerEndpoints | None:
    if value is None:
        return None
    if len(value) not in (4, 8, 20):
        raise DecodeError(f"endpoints of {len(value)} bytes")
    ports = int.from_bytes(value[:2], "big"), int.from_bytes(value[2:4], "big")
    return ServerEndpoints(ports, str(ipaddress.ip_address(value[4:])) if value[4:] else None)


def _optional_address(found: dict[int, bytes], present: Attribute, classic: Attribute) -> Address | None:
    value = found.get(present, found.get(classic))
    return None if value is None else _decode_address(value)


def _decode_address(value: bytes, key: bytes = b"") -> Address:
    length = _LENGTHS.get(value[1]) if len(value) > 4 else None
    if length is None or len(value) != 4 + length:
        raise DecodeError(f"an address of {len(value)} bytes")
    port = int.from_bytes(_xor(value[2:4], key), "big")
    return Address(str(ipaddress.ip_address(_xor(value[4:], key))), port)


def _xor(data: bytes, key: bytes) -> bytes:
    return bytes(a ^ b for a, b in zip(data, key, strict=False)) if key else data
