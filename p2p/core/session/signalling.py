"""What is told after the keys are agreed on: each side's description as it is now (docs/protocol.md section 2)."""

from __future__ import annotations

from typing import Final

from p2p.core.session.keys import SealedSignals
from p2p.core.session.messages import Signal, Type, decode_signal, encode_signal

MAX_NUMBER: Final = 2**32 - 1


class Signalling:
    """Numbers, seals and acknowledges. The caller repeats `pending` until it is empty."""

    def __init__(self, signals: SealedSignals, sender_nonce: bytes, receiver_nonce: bytes) -> None:
        self._signals = signals
        self._nonces = sender_nonce, receiver_nonce
        self._number = 0  # of the last SIGNAL sealed
        self._telling = 0  # of the one that tells the newest description
        self._seen = 0  # the highest of the other side that told a description
        self.pending = b""  # a SIGNAL that the other side has not acknowledged

    def tell(self, description: bytes) -> bytes:
        """The SIGNAL to send, which is then `pending`."""
        self.pending = self._seal(description)
        self._telling = self._number
        return self.pending

    def handle(self, message: Signal) -> tuple[bytes, bytes | None]:
        """Returns the acknowledgement to send, if any, and the other side's description when it is news.

        Raises DecodeError, and has changed nothing then, when the message is not genuine.
        """
        if (message.sender_nonce, message.receiver_nonce) != self._nonces:
            return b"", None
        plaintext = self._signals.open(Type.SIGNAL, message.header(), message.sealed, message.number)
        acknowledged, description = decode_signal(plaintext)
        if acknowledged >= self._telling:
            self.pending = b""
        if not description or self._number >= MAX_NUMBER:
            return b"", None
        is_news = message.number > self._seen
        self._seen = max(self._seen, message.number)
        return self._seal(b""), description if is_news else None

    def _seal(self, description: bytes) -> bytes:
        self._number += 1
        blank = Signal(*self._nonces, self._number, b"")
        sealed = self._signals.seal(
            Type.SIGNAL, blank.header(), encode_signal(self._seen, description), self._number
        )
        return blank.header() + sealed
