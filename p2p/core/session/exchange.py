"""The two key exchanges: SPAKE2 over the code, and X25519 where there is no code."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable
from typing import Final

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey

from p2p.core.errors import DecodeError
from p2p.core.role import Role

SENDER_IDENTITY: Final = b"p2p sender"
RECEIVER_IDENTITY: Final = b"p2p receiver"
CODE_SHARE: Final = 33  # bytes: side(1) element(32)
PUBLIC_KEY: Final = 32  # bytes; RFC 7748 section 5
BLIND: Final = 16  # bytes
OPENING: Final = PUBLIC_KEY + BLIND
COMMITMENT: Final = 32  # bytes

_FIELD: Final = 2**255 - 19  # RFC 7748 section 4.1
_SIGN: Final = 1 << 255


class InvalidShare(DecodeError):
    """A share that is not an element of the group, or one that would make the secret predictable."""


class CodeExchange:
    """One run of SPAKE2. Its scalar serves for one share of the other side only, so a run is one guess."""

    def __init__(self, role: Role, secret: bytes, random_bytes: Callable[[int], bytes]) -> None:
        # Importing it takes 60 ms (it derives its group elements), which `--help` or a LAN lookup need not wait for.
        from spake2 import SPAKE2_A, SPAKE2_B  # noqa: PLC0415

        side = SPAKE2_A if role is Role.SENDER else SPAKE2_B
        self._exchange = side(secret, idA=SENDER_IDENTITY, idB=RECEIVER_IDENTITY, entropy_f=random_bytes)
        self.share: Final[bytes] = self._exchange.start()

    def finish(self, share: bytes) -> bytes:
        """The secret (32 bytes), equal on both sides when their codes are. To be called once. Raises InvalidShare."""
        from spake2 import SPAKEError  # noqa: PLC0415
        from spake2.ed25519_basic import NotOnCurve  # noqa: PLC0415

        # The package accepts y >= p and so several spellings of the neutral element, whose product is no secret.
        y = int.from_bytes(share[1:], "little") & ~_SIGN
        if len(share) != CODE_SHARE or not 1 < y < _FIELD - 1:
            raise InvalidShare("SPAKE2 share is not a canonical group element")
        try:
            secret: bytes = self._exchange.finish(share)
        except (SPAKEError, NotOnCurve, ValueError) as error:  # wrong side or reflected; no point; wrong subgroup
            raise InvalidShare("SPAKE2 share is not an element of the group") from error
        return secret


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
