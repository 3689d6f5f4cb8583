"""SPAKE2: two who know the same secret get the same key, and one who does not can try one guess a run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from p2p.core.errors import DecodeError

SHARE_SIZE: Final = 33  # bytes: side(1) element(32)

_FIELD: Final = 2**255 - 19  # RFC 7748 section 4.1
_SIGN: Final = 1 << 255


class InvalidShare(DecodeError):
    """A share that is not an element of the group, or one that would make the secret predictable."""


class PasswordExchange:
    """One side of one run, in the Ed25519 group. Its scalar serves for one share of the other side only.

    `identities` are those of the first side and of the second; `is_first` says which one we are. A run costs each
    side some 15 ms of Python: 6 to make it, 9 to finish it.
    """

    def __init__(
        self, secret: bytes, identities: tuple[bytes, bytes], random_bytes: Callable[[int], bytes], *, is_first: bool
    ) -> None:
        # Importing it takes 60 ms (it derives its group elements), which `--help` need not wait for.
        from spake2 import SPAKE2_A, SPAKE2_B  # noqa: PLC0415

        side = SPAKE2_A if is_first else SPAKE2_B
        self._exchange = side(secret, idA=identities[0], idB=identities[1], entropy_f=random_bytes)
        self.share: Final[bytes] = self._exchange.start()

    def finish(self, share: bytes) -> bytes:
        """The key (32 bytes), equal on both sides when their secrets are. To be called once. Raises InvalidShare."""
        from spake2 import SPAKEError  # noqa: PLC0415
        from spake2.ed25519_basic import NotOnCurve  # noqa: PLC0415

        # The package accepts y >= p and so several spellings of the neutral element, whose product is no secret.
        y = int.from_bytes(share[1:], "little") & ~_SIGN
        if len(share) != SHARE_SIZE or not 1 < y < _FIELD - 1:
            raise InvalidShare("SPAKE2 share is not a canonical group element")
        try:
            key: bytes = self._exchange.finish(share)
        except (SPAKEError, NotOnCurve, ValueError) as error:  # wrong side or reflected; no point; wrong subgroup
            raise InvalidShare("SPAKE2 share is not an element of the group") from error
        return key
