"""Messages of the session (docs/protocol.md section 2)."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from p2p.core.errors import DecodeError, VersionError
from p2p.core.session.exchange import CODE_SHARE, COMMITMENT, OPENING, PUBLIC_KEY
from p2p.core.session.keys import TAG
from p2p.core.wire import Reader, text16, uint

VERSION: Final = 1
NONCE: Final = 16  # bytes
CONFIRMATION: Final = 32  # bytes
NO_NONCE: Final = bytes(NONCE)
MAX_SEALED: Final = 4 + 512 + TAG  # bytes; with the longest header it stays below the 1024 that the server forwards
MAX_REASON: Final = 400  # bytes of UTF-8 in a BYE: two lines on a screen



class Mode(IntEnum):
    CODE = 1
    OPEN = 2
    CONTACT = 3  # as CODE, with what two who remember each other have in common in its place


class Reason(IntEnum):
    """Why a run was rejected."""

    WRONG_CODE = 1
    BURNT = 2
    MODE_MISMATCH = 3  # one side without a code, the other with one
    VERSION = 4
    CONTACT_MISMATCH = 5  # one side with the key of a contact, the other without


class Type(IntEnum):
    HELLO = 1
    REPLY = 2
    CONFIRM = 3
    READY = 4
    REJECT = 5
    BYE = 6
    SIGNAL = 7


@dataclass(frozen=True, slots=True)
class Hello:
    """version(1) type(1) mode(1) sender_nonce(16) share(33: SPAKE2 element | 32: commitment)"""

    mode: Mode
    sender_nonce: bytes
    share: bytes

    def encode(self) -> bytes:
        return bytes([VERSION, Type.HELLO, self.mode]) + self.sender_nonce + self.share


@dataclass(frozen=True, slots=True)
class Reply:
    """version(1) type(1) mode(1) sender_nonce(16) receiver_nonce(16) share [confirmation(32) in modes 1 and 3]"""

    mode: Mode
    sender_nonce: bytes
    receiver_nonce: bytes
    share: bytes
    confirmation: bytes

    def bound(self) -> bytes:
        """The part that enters the transcript: all but the confirmation, which is computed from it."""
        return bytes([VERSION, Type.REPLY, self.mode]) + self.sender_nonce + self.receiver_nonce + self.share

    def encode(self) -> bytes:
        return self.bound() + self.confirmation


@dataclass(frozen=True, slots=True)
class Confirm:
    """version(1) type(1) sender_nonce(16) receiver_nonce(16) [opening(48) in mode 2] confirmation(32) sealed"""

    sender_nonce: bytes
    receiver_nonce: bytes
    opening: bytes
    confirmation: bytes
    sealed: bytes

    def header(self) -> bytes:
        """The associated data of `sealed`."""
        return _begin(Type.CONFIRM, self.sender_nonce, self.receiver_nonce) + self.opening + self.confirmation

    def encode(self) -> bytes:
        return self.header() + self.sealed


@dataclass(frozen=True, slots=True)
class Ready:
    """version(1) type(1) sender_nonce(16) receiver_nonce(16) [confirmation(32) in mode 2] sealed"""

    sender_nonce: bytes
    receiver_nonce: bytes
    confirmation: bytes
    sealed: bytes

    def header(self) -> bytes:
        """The associated data of `sealed`."""
        return _begin(Type.READY, self.sender_nonce, self.receiver_nonce) + self.confirmation

    def encode(self) -> bytes:
        return self.header() + self.sealed


@dataclass(frozen=True, slots=True)
class Reject:
    """version(1) type(1) sender_nonce(16) receiver_nonce(16, zero in answer to a HELLO) reason(1) tries(1) limit(1)"""

    sender_nonce: bytes
    receiver_nonce: bytes
    reason: Reason
    tries: int
    limit: int

    def encode(self) -> bytes:
        return _begin(Type.REJECT, self.sender_nonce, self.receiver_nonce) + bytes(
            [self.reason, self.tries, self.limit]
        )


@dataclass(frozen=True, slots=True)
class Bye:
    """version(1) type(1) sender_nonce(16) receiver_nonce(16) sealed"""

    sender_nonce: bytes
    receiver_nonce: bytes
    sealed: bytes

    def header(self) -> bytes:
        """The associated data of `sealed`."""
        return _begin(Type.BYE, self.sender_nonce, self.receiver_nonce)

    def encode(self) -> bytes:
        return self.header() + self.sealed


@dataclass(frozen=True, slots=True)
class Signal:
    """version(1) type(1) sender_nonce(16) receiver_nonce(16) number(4) sealed"""

    sender_nonce: bytes
    receiver_nonce: bytes
    number: int
    sealed: bytes

    def header(self) -> bytes:
        """The associated data of `sealed`."""
        return _begin(Type.SIGNAL, self.sender_nonce, self.receiver_nonce) + uint(self.number, 4)

    def encode(self) -> bytes:
        return self.header() + self.sealed


Message = Hello | Reply | Confirm | Ready | Reject | Bye | Signal


def decode_message(data: bytes, mode: Mode) -> Message:
    """`mode` is that of the run, which CONFIRM and READY do not repeat. Raises VersionError and DecodeError."""
    reader = Reader(data)
    version = reader.uint(1)
    if version != VERSION:
        raise VersionError(version)
    kind = reader.member(Type)
    message: Message
    if kind in (Type.HELLO, Type.REPLY):
        message = _decode_offer(kind, reader)
    else:
        message = _decode_rest(kind, reader, mode)
    reader.end()
    return message


def encode_bye(exit_code: int, reason: str) -> bytes:
    """exit_code(1) reason:text16; a reason that is too long loses its end."""
    whole = reason.encode("utf-8", "replace")[:MAX_REASON].decode("utf-8", "ignore")
    return bytes([exit_code]) + text16(whole)


def decode_bye(plaintext: bytes) -> tuple[int, str]:
    """Raises DecodeError."""
    reader = Reader(plaintext)
    exit_code, reason = reader.uint(1), reader.text16(MAX_REASON)
    reader.end()
    return exit_code, reason


def encode_signal(acknowledged: int, description: bytes) -> bytes:
    """acknowledged(4) [description]"""
    return uint(acknowledged, 4) + description


def decode_signal(plaintext: bytes) -> tuple[int, bytes]:
    """Raises DecodeError."""
    reader = Reader(plaintext)
    return reader.uint(4), reader.rest()


def foreign_nonce(data: bytes, kind: Type) -> bytes | None:
    """The sender's nonce of a HELLO or REJECT of another version: this much is the same in every version.

    HELLO: version(1) type(1) mode(1) sender_nonce(16) ...; REJECT: version(1) type(1) sender_nonce(16) ...
    """
    offset = 3 if kind is Type.HELLO else 2
    if len(data) < offset + NONCE or data[1] != kind:
        return None
    return data[offset : offset + NONCE]


def _decode_offer(kind: Type, reader: Reader) -> Hello | Reply:
    mode = reader.member(Mode)
    sender_nonce = reader.take(NONCE)
    if kind is Type.HELLO:
        return Hello(mode, sender_nonce, reader.take(COMMITMENT if mode is Mode.OPEN else CODE_SHARE))
    receiver_nonce = reader.take(NONCE)
    share = reader.take(PUBLIC_KEY if mode is Mode.OPEN else CODE_SHARE)
    return Reply(mode, sender_nonce, receiver_nonce, share, reader.take(0 if mode is Mode.OPEN else CONFIRMATION))


def _decode_rest(kind: Type, reader: Reader, mode: Mode) -> Confirm | Ready | Reject | Bye | Signal:
    sender_nonce, receiver_nonce = reader.take(NONCE), reader.take(NONCE)
    if kind is Type.CONFIRM:
        opening = reader.take(OPENING if mode is Mode.OPEN else 0)
        return Confirm(sender_nonce, receiver_nonce, opening, reader.take(CONFIRMATION), _sealed(reader))
    if kind is Type.READY:
        confirmation = reader.take(CONFIRMATION if mode is Mode.OPEN else 0)
        return Ready(sender_nonce, receiver_nonce, confirmation, _sealed(reader))
    if kind is Type.REJECT:
        reason = reader.member(Reason)
        return Reject(sender_nonce, receiver_nonce, reason, reader.uint(1), reader.uint(1))
    if kind is Type.SIGNAL:
        return Signal(sender_nonce, receiver_nonce, reader.uint(4), _sealed(reader))
    return Bye(sender_nonce, receiver_nonce, _sealed(reader))


def _begin(kind: Type, sender_nonce: bytes, receiver_nonce: bytes) -> bytes:
    return bytes([VERSION, kind]) + sender_nonce + receiver_nonce


def _sealed(reader: Reader) -> bytes:
    if not TAG <= reader.remaining <= MAX_SEALED:
        raise DecodeError(f"sealed part of {reader.remaining} bytes")
    return reader.rest()
