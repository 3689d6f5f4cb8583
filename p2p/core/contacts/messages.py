"""Messages about contacts, each one the plaintext of one record (docs/contacts.md)."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Final, assert_never

from p2p.core.contacts.keys import KEY, PROOF
from p2p.core.datagram import Buffer
from p2p.core.errors import DecodeError, VersionError
from p2p.core.wire import Reader

TYPE: Final = 20  # of the record; the others are those of the transfer
VERSION: Final = 1


class Step(IntEnum):
    KEY = 1
    HELD = 2
    NO = 3


class Why(IntEnum):
    """Why a side does not remember the other."""

    NOT_ASKED = 1  # its command has no --remember
    CHANGED = 2  # it remembers another key under that name
    NOT_STORED = 3  # it cannot write it down
    VERSION = 4  # it knows other records about contacts


@dataclass(frozen=True, slots=True)
class Key:
    """type(1) version(1) step(1) public(32)"""

    public: bytes


@dataclass(frozen=True, slots=True)
class Held:
    """type(1) version(1) step(1) proof(32)"""

    proof: bytes


@dataclass(frozen=True, slots=True)
class No:
    """type(1) version(1) step(1) why(1), alike in every version"""

    why: Why


Message = Key | Held | No


def encode(message: Message) -> bytes:
    match message:
        case Key(public):
            return bytes([TYPE, VERSION, Step.KEY]) + public
        case Held(proof):
            return bytes([TYPE, VERSION, Step.HELD]) + proof
        case No(why):
            return bytes([TYPE, VERSION, Step.NO, why])
        case _:
            assert_never(message)


def decode(plaintext: Buffer) -> Message:
    """Raises DecodeError, or VersionError for anything but NO of another version."""
    reader = Reader(plaintext)
    if (kind := reader.uint(1)) != TYPE:
        raise DecodeError(f"a record of type {kind} is none about contacts")
    version, step = reader.uint(1), reader.uint(1)
    if version != VERSION and step != Step.NO:
        raise VersionError(version)
    message: Message
    match step:
        case Step.KEY:
            message = Key(reader.take(KEY))
        case Step.HELD:
            message = Held(reader.take(PROOF))
        case Step.NO:
            message = No(reader.member(Why))
        case _:
            raise DecodeError(f"unknown step {step} about contacts")
    reader.end()
    return message
