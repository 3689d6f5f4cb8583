"""What two peers of one pairing say to each other after they have recognised each other."""

from __future__ import annotations

from enum import Enum, auto
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from p2p.core.address import Address
from p2p.core.datagram import Transmit
from p2p.core.discovery.keys import RunKeys, Side
from p2p.core.discovery.messages import NUMBER_SIZE, Confirm, Content, Sealed, decode_content, encode, encode_content
from p2p.core.errors import DecodeError
from p2p.core.role import Role
from p2p.core.wire import uint

ALIVE_INTERVAL: Final = 5.0  # seconds; three in a lifetime, so two may be lost
LIFETIME: Final = 15.0  # seconds without an authenticated word, after which the other side has crashed


class Relation(Enum):
    FRIEND = auto()
    SAME_ROLE = auto()  # the friend, but sending as we do, or receiving
    RIVAL = auto()  # somebody in our own place


def relation_of(ours: tuple[Role, int], theirs: tuple[Role, int]) -> Relation:
    """Role and seat of two that have the same pairing."""
    if ours[1] == theirs[1]:
        return Relation.RIVAL
    return Relation.SAME_ROLE if ours[0] is theirs[0] else Relation.FRIEND


class Channel:
    """Sealed messages to one other instance, at one address. Unreliable and in order: what was overtaken is dropped.

    `opened_by` is the CONFIRM that we took: a copy of it means that our first word was lost.
    """

    def __init__(self, keys: RunKeys, side: Side, address: Address, relation: Relation, now: float) -> None:
        self.opened_by: Confirm | None = None
        self.id: Final = keys.channel
        self.address: Final = address
        self.relation: Final = relation
        self._seal = AESGCM(keys.sealing_key(side))
        self._open = AESGCM(keys.sealing_key(side.other))
        self._next = 1
        self._newest = 0
        self.speak_at = now  # when the next Alive is due
        self.expires_at = now + LIFETIME

    @property
    def deadline(self) -> float:
        return min(self.speak_at, self.expires_at)

    def seal(self, content: Content) -> Transmit:
        blank = Sealed(self.id, self._next, b"")
        self._next += 1
        ciphertext = self._seal.encrypt(_nonce(blank.number), encode_content(content), blank.header)
        return Transmit(self.address, (encode(Sealed(blank.channel, blank.number, ciphertext)),))

    def open(self, message: Sealed, now: float) -> Content:
        """Raises DecodeError for what is forged, or older than something that came before (a replay)."""
        if message.number <= self._newest:
            raise DecodeError("replayed or overtaken")
        try:
            plaintext = self._open.decrypt(_nonce(message.number), message.ciphertext, message.header)
        except InvalidTag as error:
            raise DecodeError("not genuine") from error
        self._newest = message.number
        self.expires_at = now + LIFETIME
        return decode_content(plaintext)


def _nonce(number: int) -> bytes:
    return bytes(4) + uint(number, NUMBER_SIZE)
