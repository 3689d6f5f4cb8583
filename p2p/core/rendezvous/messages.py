"""Messages between a peer and the rendezvous server: docs/protocol.md, section 1."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from hashlib import blake2b
from typing import ClassVar, TypeAlias, assert_never

from p2p.core.address import Address, encode_address
from p2p.core.errors import CallerError, DecodeError, VersionError
from p2p.core.introduction import MAX_NAMEPLATE, MAX_PAYLOAD, NamePair, Nameplate, Pairing, RefusedReason
from p2p.core.role import Role
from p2p.core.wire import Reader, text8, uint

MAGIC = b"p2p"
VERSION = 1
HEADER_SIZE = len(MAGIC) + 2  # bytes: magic(3) version(1) type(1)

TRANSACTION_SIZE = 8
COOKIE_SIZE = 16
CLIENT_SIZE = 16
PEER_TAG_SIZE = 8
HELLO_PADDING = 51  # bytes: HELLO is 64 in all, longer than any COOKIE

LEASE = 15  # seconds from the last JOIN until a seat is free again

NO_PEER = bytes(PEER_TAG_SIZE)


class SeatState(IntEnum):
    """What the server says of a seat that it keeps for us."""

    WAITING = 0
    PAIRED = 1
    CONTESTED = 2  # waiting, and the friend asked in our role


class RelayState(IntEnum):
    """What the server says of the relay between our seat and the friend's."""

    NONE = 0  # it forwards for nobody, or for no more pairs now
    ALONE = 1  # the friend has not asked, or is not there
    OPEN = 2
    USED_UP = 3  # this pair has had all that it may


class BadNames(DecodeError):
    """A JOIN whose names the server does not accept; `transaction` is what the refusal answers."""

    def __init__(self, complaint: str, transaction: bytes) -> None:
        super().__init__(complaint)
        self.transaction = transaction


@dataclass(frozen=True, slots=True)
class Hello:
    """transaction(8) padding(51 zero bytes)"""

    TYPE: ClassVar[int] = 1
    transaction: bytes


@dataclass(frozen=True, slots=True)
class Cookie:
    """transaction(8) cookie(16) mapped:address"""

    TYPE: ClassVar[int] = 2
    transaction: bytes
    cookie: bytes
    mapped: Address


@dataclass(frozen=True, slots=True)
class Join:
    """transaction(8) cookie(16) client(16) role(1) reserved(1, zero) pairing"""

    TYPE: ClassVar[int] = 3
    transaction: bytes
    cookie: bytes
    client: bytes
    role: Role
    pairing: Pairing


@dataclass(frozen=True, slots=True)
class Joined:
    """transaction(8) state(1) lease(1, seconds) peer_tag(8) mapped:address"""

    TYPE: ClassVar[int] = 4
    transaction: bytes
    state: SeatState
    lease: int
    peer_tag: bytes
    mapped: Address


@dataclass(frozen=True, slots=True)
class Refused:
    """transaction(8) reason(1)"""

    TYPE: ClassVar[int] = 5
    transaction: bytes
    reason: RefusedReason


@dataclass(frozen=True, slots=True)
class Forward:
    """client(16) payload(1..1024)"""

    TYPE: ClassVar[int] = 6
    client: bytes
    payload: bytes


@dataclass(frozen=True, slots=True)
class Forwarded:
    """peer_tag(8) payload(1..1024)"""

    TYPE: ClassVar[int] = 7
    peer_tag: bytes
    payload: bytes


@dataclass(frozen=True, slots=True)
class Leave:
    """transaction(8) client(16)"""

    TYPE: ClassVar[int] = 8
    transaction: bytes
    client: bytes


@dataclass(frozen=True, slots=True)
class Left:
    """transaction(8)"""

    TYPE: ClassVar[int] = 9
    transaction: bytes


@dataclass(frozen=True, slots=True)
class Relay:
    """transaction(8) client(16)"""

    TYPE: ClassVar[int] = 10
    transaction: bytes
    client: bytes


@dataclass(frozen=True, slots=True)
class Relayed:
    """transaction(8) state(1) rate(4, kB/s) left(8, bytes)

    `rate` and `left` are what both directions of this pair may carry together, headers included; 0 is no limit.
    """

    TYPE: ClassVar[int] = 11
    transaction: bytes
    state: RelayState
    rate: int
    left: int


@dataclass(frozen=True, slots=True)
class Unsupported:
    """lowest(1) highest(1): the versions that the server speaks"""

    TYPE: ClassVar[int] = 127
    lowest: int
    highest: int


_Plain: TypeAlias = Hello | Join | Refused | Forward | Forwarded | Leave | Left | Relay | Relayed | Unsupported
Message: TypeAlias = _Plain | Cookie | Joined

HELLO_HEADER, COOKIE_HEADER, JOIN_HEADER, JOINED_HEADER = (
    MAGIC + bytes([VERSION, each.TYPE]) for each in (Hello, Cookie, Join, Joined)
)
AFTER_TRANSACTION = HEADER_SIZE + TRANSACTION_SIZE  # offset, where there is one
HELLO_SIZE = AFTER_TRANSACTION + HELLO_PADDING
CLIENT_OF_JOIN = slice(AFTER_TRANSACTION + COOKIE_SIZE, AFTER_TRANSACTION + COOKIE_SIZE + CLIENT_SIZE)


def push_transaction(client: bytes) -> bytes:
    """The transaction of what the server says to `client` unasked: who does not see its requests cannot forge it."""
    return blake2b(client, digest_size=TRANSACTION_SIZE, person=b"p2p push").digest()


def encode(message: Message) -> bytes:
    """magic(3) version(1) type(1) body"""
    match message:
        case Cookie(transaction, cookie, mapped):
            return encode_cookie(transaction, cookie, encode_address(mapped))
        case Joined(transaction, state, lease, peer_tag, mapped):
            return encode_joined(transaction, state, lease, peer_tag, encode_address(mapped))
        case _:
            return MAGIC + bytes([VERSION, message.TYPE]) + _encode_body(message)


def encode_cookie(transaction: bytes, cookie: bytes, mapped: bytes) -> bytes:
    """COOKIE of its fields; `mapped` is encoded. A server makes it for every HELLO, without an object."""
    return b"%b%b%b%b" % (COOKIE_HEADER, transaction, cookie, mapped)


def encode_joined(transaction: bytes, state: SeatState, lease: int, peer_tag: bytes, mapped: bytes) -> bytes:
    """JOINED of its fields likewise, for every JOIN."""
    return b"%b%b%c%c%b%b" % (JOINED_HEADER, transaction, state, lease, peer_tag, mapped)


def decode(data: bytes) -> Message:
    """Raises VersionError for a header of another version, BadNames for the names in a JOIN, else DecodeError."""
    if len(data) < HEADER_SIZE or not data.startswith(MAGIC):
        raise DecodeError("not a rendezvous message")
    version, kind = data[len(MAGIC)], data[HEADER_SIZE - 1]
    if version != VERSION:
        raise VersionError(version)
    reader = Reader(data, HEADER_SIZE)
    message = _decode_body(kind, reader)
    reader.end()
    return message


def _encode_body(message: _Plain) -> bytes:
    match message:
        case Hello(transaction):
            return transaction + bytes(HELLO_PADDING)
        case Join(transaction, cookie, client, role, pairing):
            return transaction + cookie + client + bytes([role, 0]) + _encode_pairing(pairing)
        case Refused(transaction, reason):
            return transaction + bytes([reason])
        case Forward(client, payload):
            return client + payload
        case Forwarded(peer_tag, payload):
            return peer_tag + payload
        case Leave(transaction, client):
            return transaction + client
        case Left(transaction):
            return transaction
        case Relay(transaction, client):
            return transaction + client
        case Relayed(transaction, state, rate, left):
            return transaction + bytes([state]) + uint(rate, 4) + uint(left, 8)
        case Unsupported(lowest, highest):
            return bytes([lowest, highest])
        case _:
            assert_never(message)


def _decode_body(kind: int, reader: Reader) -> Message:
    match kind:
        case Hello.TYPE:
            transaction = reader.take(TRANSACTION_SIZE)
            reader.zeros(HELLO_PADDING)
            return Hello(transaction)
        case Cookie.TYPE:
            return Cookie(reader.take(TRANSACTION_SIZE), reader.take(COOKIE_SIZE), reader.address())
        case Join.TYPE:
            return _decode_join(reader)
        case Joined.TYPE:
            return _decode_joined(reader)
        case Refused.TYPE:
            return Refused(reader.take(TRANSACTION_SIZE), reader.member(RefusedReason))
        case Forward.TYPE:
            return Forward(reader.take(CLIENT_SIZE), _decode_payload(reader))
        case Forwarded.TYPE:
            return Forwarded(reader.take(PEER_TAG_SIZE), _decode_payload(reader))
        case Leave.TYPE:
            return Leave(reader.take(TRANSACTION_SIZE), reader.take(CLIENT_SIZE))
        case Left.TYPE:
            return Left(reader.take(TRANSACTION_SIZE))
        case Relay.TYPE:
            return Relay(reader.take(TRANSACTION_SIZE), reader.take(CLIENT_SIZE))
        case Relayed.TYPE:
            transaction, state = reader.take(TRANSACTION_SIZE), reader.member(RelayState)
            return Relayed(transaction, state, reader.uint(4), reader.uint(8))
        case Unsupported.TYPE:
            return Unsupported(reader.uint(1), reader.uint(1))
        case _:
            raise DecodeError(f"unknown message type {kind}")


def _decode_join(reader: Reader) -> Join:
    transaction, cookie, client = reader.take(TRANSACTION_SIZE), reader.take(COOKIE_SIZE), reader.take(CLIENT_SIZE)
    role = reader.member(Role)
    reader.zeros(1)
    return Join(transaction, cookie, client, role, _decode_pairing(reader, transaction))


def _decode_joined(reader: Reader) -> Joined:
    transaction = reader.take(TRANSACTION_SIZE)
    state = reader.member(SeatState)
    lease, peer_tag, mapped = reader.uint(1), reader.take(PEER_TAG_SIZE), reader.address()
    if (state is SeatState.PAIRED) is (peer_tag == NO_PEER):
        raise DecodeError("a peer tag without a peer, or a peer without a tag")
    return Joined(transaction, state, lease, peer_tag, mapped)


def _decode_payload(reader: Reader) -> bytes:
    if not 1 <= reader.remaining <= MAX_PAYLOAD:
        raise DecodeError(f"payload of {reader.remaining} bytes")
    return reader.rest()


def _encode_pairing(pairing: Pairing) -> bytes:
    """kind(1) = 1 me:text8 friend:text8, or kind(1) = 2 nameplate:text8"""
    match pairing:
        case NamePair(me, friend):
            return b"\1" + text8(me) + text8(friend)
        case Nameplate(text):
            return b"\2" + text8(text)
        case _:
            assert_never(pairing)


def _decode_pairing(reader: Reader, transaction: bytes) -> Pairing:
    kind = reader.uint(1)
    if kind == 1:
        me, friend = reader.bytes8(), reader.bytes8()
        reader.end()  # so that a refusal answers only what would otherwise have been a message
        try:
            return NamePair(me.decode(), friend.decode())
        except UnicodeDecodeError as error:
            raise BadNames("a name is not UTF-8", transaction) from error
        except CallerError as error:
            raise BadNames(str(error), transaction) from error
    if kind == 2:
        nameplate = reader.text8(MAX_NAMEPLATE)
        if not nameplate:
            raise DecodeError("empty nameplate")
        return Nameplate(nameplate)
    raise DecodeError(f"unknown kind of pairing {kind}")
