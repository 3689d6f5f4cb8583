"""Cookies: who shows one has received at the address that it sends from (docs/protocol.md, section 1)."""

from __future__ import annotations

import hmac
from collections.abc import Callable
from hashlib import blake2b

from p2p.core.address import Address
from p2p.core.rendezvous.messages import COOKIE_SIZE
from p2p.core.rendezvous.seats import FIRST_CONNECTION

COOKIE_SLOT = 60.0  # seconds of one cookie secret; the one before is accepted too, so a cookie lives 60 to 120 s


class CookieJar:
    """Cookies: a keyed hash over the source, under a secret that changes with every slot.

    A TCP connection is a source of its own: somebody else behind the same NAT may have its address in UDP.
    """

    def __init__(self, random_bytes: Callable[[int], bytes]) -> None:
        self._random_bytes = random_bytes
        self._slot_end = -1e18  # before any clock reading: the first use draws both secrets
        self._secret = self._previous = b""

    def bake(self, address: Address, port_index: int, now: float) -> bytes:
        self._rotate(now)
        return _cookie(self._secret, _text(address, port_index))

    def is_valid(self, cookie: bytes, address: Address, port_index: int, now: float) -> bool:
        self._rotate(now)
        text = _text(address, port_index)
        return any(hmac.compare_digest(cookie, _cookie(key, text)) for key in (self._secret, self._previous))

    def _rotate(self, now: float) -> None:
        if now < self._slot_end:
            return
        is_next_slot = now < self._slot_end + COOKIE_SLOT
        self._previous = self._secret if is_next_slot else self._random_bytes(32)
        self._secret = self._random_bytes(32)
        self._slot_end = self._slot_end + COOKIE_SLOT if is_next_slot else now + COOKIE_SLOT


def _text(address: Address, port_index: int) -> bytes:
    """Ten times as fast to make as the address on the wire."""
    connection = f" {port_index}" if port_index >= FIRST_CONNECTION else ""
    return f"{address.host} {address.port}{connection}".encode()


def _cookie(key: bytes, text: bytes) -> bytes:
    return blake2b(text, digest_size=COOKIE_SIZE, key=key, person=b"p2p cookie").digest()
