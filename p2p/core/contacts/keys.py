"""The keys of a contact: one pair of our own for each friend, and what the two pairs give (docs/contacts.md)."""

from __future__ import annotations

import hmac
from typing import Final

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from p2p.core.errors import CallerError, DecodeError

KEY: Final = 32  # bytes; RFC 7748 section 5, and of every derived key
PROOF: Final = 32  # bytes

_PROTOCOL: Final = b"p2p contact 1"


class ContactKeys:
    """Our own key pair for one friend. `names` in either order: both sides derive alike."""

    __slots__ = ("_names", "_private", "private", "public")

    def __init__(self, private: bytes, names: tuple[str, str]) -> None:
        """`private` is 32 unguessable bytes, used for this friend only. Raises CallerError for another length."""
        if len(private) != KEY:
            raise CallerError(f"a private key of {len(private)} bytes; {KEY} are due")
        self._private = X25519PrivateKey.from_private_bytes(private)
        self._names = sorted(name.encode() for name in names)
        self.private: Final = private
        self.public: Final = self._private.public_key().public_bytes_raw()

    def secret(self, theirs: bytes) -> bytes:
        """32 bytes that take the place of a code. Raises DecodeError for a public key that is none."""
        return self._derive("session", theirs)

    def proof(self, theirs: bytes) -> bytes:
        """What we show to prove that we hold the private key of our public one, and the other side's public one."""
        return self._show(self.public, theirs)

    def proves(self, theirs: bytes, proof: bytes) -> bool:
        return hmac.compare_digest(self._show(theirs, theirs), proof)

    def _show(self, public: bytes, theirs: bytes) -> bytes:
        return hmac.digest(self._derive("held", theirs), public, "sha256")

    def _derive(self, label: str, theirs: bytes) -> bytes:
        """HKDF-SHA256 (RFC 5869) of the X25519 of both pairs; the names and the public keys, each in ascending order,
        and what it is for, are its info."""
        if len(theirs) != KEY:
            raise DecodeError(f"a public key of {len(theirs)} bytes; {KEY} are due")
        if theirs == self.public:
            raise DecodeError("the other side shows our own key")
        try:
            shared = self._private.exchange(X25519PublicKey.from_public_bytes(theirs))
        except ValueError as error:  # RFC 7748 section 6.1
            raise DecodeError("a public key of low order") from error
        parts = (_PROTOCOL, label.encode("ascii"), *self._names, *sorted((self.public, theirs)))
        return HKDF(SHA256(), KEY, salt=None, info=b"".join(map(_counted, parts))).derive(shared)


def _counted(data: bytes) -> bytes:
    return len(data).to_bytes(4, "big") + data
