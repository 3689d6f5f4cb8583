"""The two key exchanges: SPAKE2 over the code, and X25519 where there is no code."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable
from typing import Final

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey

from p2p.core.pake import SHARE_SIZE, InvalidShare, PasswordExchange
from p2p.core.role import Role

SENDER_IDENTITY: Final = b"p2p sender"
RECEIVER_IDENTITY: Final = b"p2p receiver"
CODE_SHARE: Final = SHARE_SIZE
PUBLIC_KEY: Final = 32  # bytes; RFC 7748 section 5
BLIND: Final = 16  # bytes
OPENING: Final = PUBLIC_KEY + BLIND
COMMITMENT: Final = 32  # bytes


class CodeExchange(PasswordExchange):
    """One run of SPAKE2 over the code. A run is one guess."""

    def __init__(self, role: Role, secret: bytes, random_bytes: Callable[[int], bytes]) -> None:
        identities = (SENDER_IDENTITY, RECEIVER_IDENTITY)
        super().__init__(secret, identities, random_bytes, is_first=role is Role.SENDER)


class OpenExchange:
    """One run of X25519 (RFC 7748). Secret from who listens, not from who stands in between."""

    def __init__(self, random_bytes: Callable[[int], bytes]) -> None:
        self._private = X25519PrivateKey.from_private_bytes(random_bytes(32))
        self.public: Final = self._private.public_key().public_bytes_raw()
        self.opening: Final = self.public + random_bytes(BLIND)
        self.commitment: Final = commit(self.opening)

    def finish(self, public: bytes) -> bytes:
        """The shared secret (32 bytes). Raises InvalidShare for the points of low order (RFC 7748 section 6.1)."""
        try:
            return self._private.exchange(X25519PublicKey.from_public_bytes(public))
        except ValueError as error:
            raise InvalidShare("X25519 public key is of low order") from error


def commit(opening: bytes) -> bytes:
    return hashlib.sha256(opening).digest()


def opens(opening: bytes, commitment: bytes) -> bool:
    return hmac.compare_digest(commit(opening), commitment)
