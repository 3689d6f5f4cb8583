"""What one test of a pairing gives to two who have the same: confirmations, and the keys of their channel."""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass
from enum import Enum
from typing import Final

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from p2p.core.discovery.messages import CHANNEL_SIZE
from p2p.core.introduction import NamePair, Nameplate, Pairing, pairing_context
from p2p.core.role import Role

KEY: Final = 32  # bytes of every derived key
IDENTITIES: Final = (b"p2p discovery initiator", b"p2p discovery responder")
SEATS: Final = (0, 1)

_PROTOCOL: Final = b"p2p discovery 1"


@dataclass(frozen=True, slots=True)
class Us:
    """This run of the program: a random number that names it, and what it compares with others."""

    instance: bytes
    role: Role
    seat: int
    password: bytes


class Side(Enum):
    INITIATOR = "initiator"
    RESPONDER = "responder"

    @property
    def other(self) -> Side:
        return Side.RESPONDER if self is Side.INITIATOR else Side.INITIATOR


@dataclass(frozen=True, slots=True)
class Run:
    """What both sides of a run must have seen alike."""

    nonce: bytes
    initiator: bytes
    responder: bytes
    initiator_role: Role
    responder_role: Role
    initiator_share: bytes
    responder_share: bytes

    def transcript(self) -> bytes:
        roles = bytes([self.initiator_role, self.responder_role])
        parts = (
            _PROTOCOL, self.nonce, self.initiator, self.responder, roles, self.initiator_share, self.responder_share
        )  # fmt: skip
        return hashlib.sha256(b"".join(map(_counted, parts))).digest()


class RunKeys:
    """The secret of one run, bound to its transcript."""

    __slots__ = ("_secret", "_transcript")

    def __init__(self, secret: bytes, run: Run) -> None:
        self._secret = secret
        self._transcript = run.transcript()

    def confirmation(self, side: Side, seat: int) -> bytes:
        """What `side`, in that seat, shows to prove that it holds the same secret and saw the same messages."""
        return hmac.digest(self._derive(f"confirm {side.value}"), bytes([seat]), "sha256")

    def confirmed_seat(self, side: Side, confirmation: bytes) -> int | None:
        """The seat in which `side` confirms; None when it does not.

        An HMAC and no sealed message, because AES-GCM does not commit to its key: one ciphertext could be made to
        open under the keys of several guesses.
        """
        found = [seat for seat in SEATS if hmac.compare_digest(self.confirmation(side, seat), confirmation)]
        return found[0] if found else None

    def sealing_key(self, side: Side) -> bytes:
        """For what `side` sends."""
        return self._derive(f"seal {side.value}")

    @property
    def channel(self) -> bytes:
        """The name of the channel, in clear in its messages."""
        return self._derive("channel")[:CHANNEL_SIZE]

    def _derive(self, label: str) -> bytes:
        """HKDF-SHA256 (RFC 5869) with the transcript as salt and `label` as info."""
        return HKDF(SHA256(), KEY, salt=self._transcript, info=label.encode("ascii")).derive(self._secret)


def password(pairing: Pairing) -> bytes:
    """The same for both sides of a pairing, and for nobody else."""
    kind = b"names" if isinstance(pairing, NamePair) else b"nameplate"
    return b"".join(map(_counted, (_PROTOCOL, kind, *pairing_context(pairing))))


def seat_of(pairing: Pairing, role: Role) -> int:
    """Which of the two places of a pairing is ours: whose name comes first; for a nameplate, the sender's is 0."""
    match pairing:
        case NamePair(me, friend):
            return int(me.encode() > friend.encode())
        case Nameplate():
            return int(role is Role.RECEIVER)


def _counted(data: bytes) -> bytes:
    return len(data).to_bytes(4, "big") + data
