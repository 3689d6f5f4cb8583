"""Connectivity checks on the wire (docs/protocol.md section 4)."""

from __future__ import annotations

import hmac
from dataclasses import dataclass
from itertools import cycle
from typing import Final

from p2p.core.address import Address, encode_address
from p2p.core.errors import DecodeError
from p2p.core.wire import Reader

CHECK: Final = 0xC0
ANSWER: Final = 0xC1
TRANSACTION: Final = 12  # bytes; RFC 8489 section 5
TAG: Final = 16  # bytes
NOMINATE: Final = 0x01


@dataclass(frozen=True, slots=True)
class Check:
    """type(1) flags(1) transaction(12) tag(16)"""

    transaction: bytes
    nominate: bool

    def encode(self, key: bytes) -> bytes:
        return _sealed(bytes([CHECK, NOMINATE if self.nominate else 0]) + self.transaction, key)


@dataclass(frozen=True, slots=True)
class Answer:
    """type(1) transaction(12) mapped:address tag(16)

    The port and IP of `mapped` are XORed with the transaction, over and over: NATs that replace the addresses they
    find in payloads do not recognise it (RFC 8489 section 14.2).
    """

    transaction: bytes
    mapped: Address

    def encode(self, key: bytes) -> bytes:
        plain = encode_address(self.mapped)
        masked = plain[:1] + _mask(plain[1:], self.transaction)
        return _sealed(bytes([ANSWER]) + self.transaction + masked, key)


def decode(data: bytes, key: bytes) -> Check | Answer:
    """Raises DecodeError when it is no check, or was not made with `key`."""
    body, tag = data[:-TAG], data[-TAG:]
    if len(data) < TAG or not hmac.compare_digest(_tag(body, key), tag):
        raise DecodeError("check is not genuine")
    reader = Reader(body)
    kind = reader.uint(1)
    if kind == CHECK:
        flags, transaction = reader.uint(1), reader.take(TRANSACTION)
        reader.end()
        if flags & ~NOMINATE:
            raise DecodeError(f"unknown flags {flags:#x}")
        return Check(transaction, bool(flags & NOMINATE))
    if kind == ANSWER:
        transaction, masked = reader.take(TRANSACTION), reader.rest()
        address = Reader(masked[:1] + _mask(masked[1:], transaction))
        mapped = address.address()
        address.end()
        return Answer(transaction, mapped)
    raise DecodeError(f"unknown check type {kind:#x}")


def _mask(data: bytes, transaction: bytes) -> bytes:
    return bytes(byte ^ mask for byte, mask in zip(data, cycle(transaction), strict=False))


def _sealed(body: bytes, key: bytes) -> bytes:
    return body + _tag(body, key)


def _tag(body: bytes, key: bytes) -> bytes:
    return hmac.digest(key, body, "sha256")[:TAG]
