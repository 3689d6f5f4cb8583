"""Messages between peers on one network: docs/protocol.md, section 10."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Final, TypeAlias, assert_never

from p2p.core.errors import DecodeError, VersionError
from p2p.core.introduction import MAX_PAYLOAD
from p2p.core.pake import SHARE_SIZE
from p2p.core.role import Role
from p2p.core.wire import Reader, uint

GROUP_V4: Final = "239.255.112.50"  # RFC 2365 section 6.1: the local scope
GROUP_V6: Final = "ff12::7032:7032"  # RFC 4291 section 2.7: transient, link-local
GROUP_PORT: Final = 28112  # below the ports that systems give to whoever asks for any

MAGIC: Final = b"lan"
VERSION: Final = 1
HEADER_SIZE: Final = len(MAGIC) + 2  # bytes: magic(3) version(1) type(1)

INSTANCE_SIZE: Final = 8
NONCE_SIZE: Final = 8
COOKIE_SIZE: Final = 16
CHANNEL_SIZE: Final = 8
NUMBER_SIZE: Final = 8
TAG_SIZE: Final = 16  # AES-GCM
CONFIRMATION_SIZE: Final = 32  # HMAC-SHA256
ANNOUNCE_PADDING: Final = 29  # bytes: nothing that an ANNOUNCE brings about is longer than itself
OPEN_PADDING: Final = COOKIE_SIZE  # bytes: nor is COOKIE longer than OPEN


@dataclass(frozen=True, slots=True)
class Announce:
    """sender(8) role(1) port(2) padding(29 zero bytes): to the group. `port` is where its UDP socket is."""

    TYPE: ClassVar[int] = 1
    sender: bytes
    role: Role
    port: int


@dataclass(frozen=True, slots=True)
class Here:
    """sender(8) to(8) role(1): "I am here too", to one who announced itself"""

    TYPE: ClassVar[int] = 2
    sender: bytes
    to: bytes
    role: Role


@dataclass(frozen=True, slots=True)
class Open:
    """sender(8) to(8) nonce(8) padding(16 zero bytes)"""

    TYPE: ClassVar[int] = 3
    sender: bytes
    to: bytes
    nonce: bytes


@dataclass(frozen=True, slots=True)
class Cookie:
    """sender(8) to(8) nonce(8) cookie(16)"""

    TYPE: ClassVar[int] = 4
    sender: bytes
    to: bytes
    nonce: bytes
    cookie: bytes


@dataclass(frozen=True, slots=True)
class Share:
    """sender(8) to(8) nonce(8) cookie(16) role(1) share(33)"""

    TYPE: ClassVar[int] = 5
    sender: bytes
    to: bytes
    nonce: bytes
    cookie: bytes
    role: Role
    share: bytes


@dataclass(frozen=True, slots=True)
class Shared:
    """sender(8) to(8) nonce(8) role(1) share(33) confirmation(32)"""

    TYPE: ClassVar[int] = 6
    sender: bytes
    to: bytes
    nonce: bytes
    role: Role
    share: bytes
    confirmation: bytes


@dataclass(frozen=True, slots=True)
class Confirm:
    """sender(8) to(8) nonce(8) confirmation(32)"""

    TYPE: ClassVar[int] = 7
    sender: bytes
    to: bytes
    nonce: bytes
    confirmation: bytes


@dataclass(frozen=True, slots=True)
class Sealed:
    """channel(8) number(8) ciphertext: one of the contents below, under the keys of the channel"""

    TYPE: ClassVar[int] = 8
    channel: bytes
    number: int
    ciphertext: bytes

    @property
    def header(self) -> bytes:
        """What the tag covers besides the contents."""
        return MAGIC + bytes([VERSION, self.TYPE]) + self.channel + uint(self.number, NUMBER_SIZE)


Message: TypeAlias = Announce | Here | Open | Cookie | Share | Shared | Confirm | Sealed


@dataclass(frozen=True, slots=True)
class Alive:
    """kind(1) = 1 waited(4, ms): how long the run of who says it has been going"""

    KIND: ClassVar[int] = 1
    waited: int


@dataclass(frozen=True, slots=True)
class Forward:
    """kind(1) = 2 payload(1..1024)"""

    KIND: ClassVar[int] = 2
    payload: bytes


@dataclass(frozen=True, slots=True)
class Leave:
    """kind(1) = 3"""

    KIND: ClassVar[int] = 3


@dataclass(frozen=True, slots=True)
class Left:
    """kind(1) = 4: the answer to Leave"""

    KIND: ClassVar[int] = 4


Content: TypeAlias = Alive | Forward | Leave | Left


def encode(message: Message) -> bytes:
    """magic(3) version(1) type(1) body"""
    return MAGIC + bytes([VERSION, message.TYPE]) + _encode_body(message)


def decode(data: bytes) -> Message:
    """Raises VersionError for a header of another version, else DecodeError."""
    reader = Reader(data)
    if reader.take(len(MAGIC)) != MAGIC:
        raise DecodeError("not a message of the discovery")
    version, kind = reader.uint(1), reader.uint(1)
    if version != VERSION:
        raise VersionError(version)
    message = _decode_body(kind, reader)
    reader.end()
    return message


def encode_content(content: Content) -> bytes:
    """kind(1) body"""
    match content:
        case Alive(waited):
            body = uint(waited, 4)
        case Forward(payload):
            body = payload
        case Leave() | Left():
            body = b""
        case _:
            assert_never(content)
    return bytes([content.KIND]) + body


def decode_content(data: bytes) -> Content:
    """Raises DecodeError."""
    reader = Reader(data)
    content: Content
    match reader.uint(1):
        case Alive.KIND:
            content = Alive(reader.uint(4))
        case Forward.KIND:
            if not 1 <= reader.remaining <= MAX_PAYLOAD:
                raise DecodeError(f"payload of {reader.remaining} bytes")
            content = Forward(reader.rest())
        case Leave.KIND:
            content = Leave()
        case Left.KIND:
            content = Left()
        case kind:
            raise DecodeError(f"unknown kind of content {kind}")
    reader.end()
    return content


def _encode_body(message: Message) -> bytes:
    match message:
        case Announce(sender, role, port):
            return sender + bytes([role]) + uint(port, 2) + bytes(ANNOUNCE_PADDING)
        case Here(sender, to, role):
            return sender + to + bytes([role])
        case Open(sender, to, nonce):
            return sender + to + nonce + bytes(OPEN_PADDING)
        case Cookie(sender, to, nonce, cookie):
            return sender + to + nonce + cookie
        case Share(sender, to, nonce, cookie, role, share):
            return sender + to + nonce + cookie + bytes([role]) + share
        case Shared(sender, to, nonce, role, share, confirmation):
            return sender + to + nonce + bytes([role]) + share + confirmation
        case Confirm(sender, to, nonce, confirmation):
            return sender + to + nonce + confirmation
        case Sealed(channel, number, ciphertext):
            return channel + uint(number, NUMBER_SIZE) + ciphertext
        case _:
            assert_never(message)


def _decode_body(kind: int, reader: Reader) -> Message:
    if kind == Announce.TYPE:
        announce = Announce(reader.take(INSTANCE_SIZE), reader.member(Role), reader.uint(2))
        reader.zeros(ANNOUNCE_PADDING)
        if not announce.port:
            raise DecodeError("no port")
        return announce
    if kind == Sealed.TYPE:
        channel, number = reader.take(CHANNEL_SIZE), reader.uint(NUMBER_SIZE)
        if reader.remaining <= TAG_SIZE:
            raise DecodeError("nothing is sealed")
        return Sealed(channel, number, reader.rest())
    sender, to = reader.take(INSTANCE_SIZE), reader.take(INSTANCE_SIZE)
    if kind == Here.TYPE:
        return Here(sender, to, reader.member(Role))
    nonce = reader.take(NONCE_SIZE)
    match kind:
        case Open.TYPE:
            reader.zeros(OPEN_PADDING)
            return Open(sender, to, nonce)
        case Cookie.TYPE:
            return Cookie(sender, to, nonce, reader.take(COOKIE_SIZE))
        case Share.TYPE:
            return Share(sender, to, nonce, reader.take(COOKIE_SIZE), reader.member(Role), reader.take(SHARE_SIZE))
        case Shared.TYPE:
            role, share = reader.member(Role), reader.take(SHARE_SIZE)
            return Shared(sender, to, nonce, role, share, reader.take(CONFIRMATION_SIZE))
        case Confirm.TYPE:
            return Confirm(sender, to, nonce, reader.take(CONFIRMATION_SIZE))
        case _:
            raise DecodeError(f"unknown message type {kind}")
