"""Cookies: who shows one has received at the address that it sends from (docs/protocol.md, section 1)."""

from __future__ import annotations

import hmac
import struct
from collections.abc import Callable
from hashlib import blake2b
from math import inf
from typing import NamedTuple
from zlib import crc32

from p2p.core.address import Address
from p2p.core.rendezvous.messages import COOKIE_SIZE
from p2p.core.rendezvous.seats import FIRST_CONNECTION

COOKIE_SLOT = 60.0  # seconds; a cookie is good in the slot in which it was made and in the next, so for 60 to 120 s
TAG_SIZE = 4  # bytes
MASK = 0xFFFF_FFFF
FIRST_SHIFT, SECOND_SHIFT = 15, 13  # bits
ADDRESS_OFFSET = 3  # of the IP in an encoded address


class TagKey(NamedTuple):
    """Secret numbers of 32 bits; the factors are odd."""

    seed: int
    first: int
    second: int


class CookieJar:
    """tag(4) mac(12)

    The MAC is a keyed hash over the source and a slot of time. Slots begin at other times for other sources: when
    all began at once, every peer that waits would have to be told a new cookie within the same five seconds.
    A TCP connection is a source of its own: somebody else behind the same NAT may have its address in UDP.

    The tag is what a socket filter can check, in a few instructions and without state (`source_tag`): it lets the
    kernel put the datagrams of those who have been answered before into a queue that nobody else fills. It
    proves nothing; only the MAC does.
    """

    def __init__(self, random_bytes: Callable[[int], bytes]) -> None:
        self._secret = random_bytes(32)
        seed, first, second = struct.unpack(">3I", random_bytes(12))
        self.tag_key = TagKey(seed, first | 1, second | 1)

    def bake(self, address: Address, encoded: bytes, port_index: int, now: float) -> bytes:
        """`encoded` is the address as it stands in messages."""
        text = _text(address, port_index)
        tag = source_tag(self.tag_key, encoded[ADDRESS_OFFSET:]).to_bytes(TAG_SIZE, "big")
        return tag + self._mac(text, int((now + _phase(text)) // COOKIE_SLOT))

    def valid_until(self, cookie: bytes, address: Address, port_index: int, now: float) -> float:
        """When the cookie of that source ends to be good; -inf when it is not."""
        text, mac = _text(address, port_index), cookie[TAG_SIZE:]
        phase = _phase(text)
        slot = int((now + phase) // COOKIE_SLOT)
        for baked in (slot, slot - 1):
            if hmac.compare_digest(mac, self._mac(text, baked)):
                return (baked + 2) * COOKIE_SLOT - phase
        return -inf

    def _mac(self, text: bytes, slot: int) -> bytes:
        size = COOKIE_SIZE - TAG_SIZE
        return blake2b(b"%d %b" % (slot, text), digest_size=size, key=self._secret, person=b"p2p cookie").digest()


def source_tag(key: TagKey, ip: bytes) -> int:
    """32 bits of a packed address that only who knows the key can tell; no cryptographer vouches for them.

    Exclusive-or, multiplication and shift are what classic BPF can do (p2p/io/server/lanes.py).
    """
    value = key.seed
    for (word,) in struct.iter_unpack(">I", ip):
        value = mix(key, value ^ word)
    return value


def mix(key: TagKey, value: int) -> int:
    value = value * key.first & MASK
    value ^= value >> FIRST_SHIFT
    value = value * key.second & MASK
    return value ^ value >> SECOND_SHIFT


def _text(address: Address, port_index: int) -> bytes:
    """Ten times as fast to make as the address on the wire."""
    connection = f" {port_index}" if port_index >= FIRST_CONNECTION else ""
    return f"{address.host} {address.port}{connection}".encode()


def _phase(text: bytes) -> float:
    """Seconds by which the slots of that source are shifted."""
    return crc32(text) % 1000 * COOKIE_SLOT / 1000
