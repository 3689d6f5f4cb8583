"""Transcript, key schedule and the sealed parts of session messages (docs/protocol.md sections 2 and 8)."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from p2p.core.errors import CallerError, DecodeError
from p2p.core.role import Role
from p2p.core.session.words import spell

KEY: Final = 32  # bytes of every derived key
TAG: Final = 16  # bytes; AES-GCM
VERIFICATION: Final = 5  # bytes, five words: 40 bits that whoever stands in between must hit at the first attempt
_PROTOCOL: Final = b"p2p session 1"


class SessionKeys:
    """The secret of one established session and the transcript it is bound to."""

    __slots__ = ("_secret", "_transcript")

    def __init__(self, secret: bytes, transcript: bytes) -> None:
        self._secret = secret
        self._transcript = transcript

    def derive(self, label: str) -> bytes:
        """32 bytes for one use: HKDF-SHA256 (RFC 5869) with the transcript as salt and `label` as info."""
        return HKDF(SHA256(), KEY, salt=self._transcript, info=label.encode("ascii")).derive(self._secret)

    def confirmation(self, role: Role) -> bytes:
        """What `role` shows to prove that it holds the same secret and saw the same messages."""
        return hmac.digest(self.derive(f"confirm {role.name.lower()}"), self._transcript, "sha256")

    def confirms(self, role: Role, confirmation: bytes) -> bool:
        return hmac.compare_digest(self.confirmation(role), confirmation)

    def verification(self) -> str:
        """Five words that are equal on both screens unless somebody stands in between."""
        return spell(self.derive("verification")[:VERIFICATION])


class SealedSignals:
    """The sealed parts of the messages of one session, one of each type and number in each direction."""

    def __init__(self, keys: SessionKeys, role: Role) -> None:
        self._out = AESGCM(keys.derive(f"signal {role.name.lower()}"))
        self._in = AESGCM(keys.derive(f"signal {role.other.name.lower()}"))
        self._last: dict[int, int] = {}  # the number that was sealed last, by type

    def seal(self, message_type: int, header: bytes, plaintext: bytes, number: int = 0) -> bytes:
        """Raises CallerError for a number that is not above those before, of that type: its nonce is used up."""
        if number <= self._last.get(message_type, -1):
            raise CallerError(f"a session message of type {message_type}, number {number}, was sealed already")
        self._last[message_type] = number
        return self._out.encrypt(_nonce(message_type, number), plaintext, header)

    def open(self, message_type: int, header: bytes, sealed: bytes, number: int = 0) -> bytes:
        """Raises DecodeError when it is forged."""
        try:
            return self._in.decrypt(_nonce(message_type, number), sealed, header)
        except InvalidTag as error:
            raise DecodeError("sealed part is not genuine") from error


def transcript(context: Iterable[bytes], *messages: bytes) -> bytes:
    """Hash of everything both sides must have seen alike; no two lists of parts give the same input."""
    parts = (_PROTOCOL, b"".join(map(_counted, context)), *messages)
    return hashlib.sha256(b"".join(map(_counted, parts))).digest()


def _counted(data: bytes) -> bytes:
    return len(data).to_bytes(4, "big") + data


def _nonce(message_type: int, number: int) -> bytes:
    return bytes(7) + number.to_bytes(4, "big") + bytes([message_type])
