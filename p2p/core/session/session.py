"""The session: two peers who share a code agree on keys through a server that they do not trust.

Layout and rules: docs/protocol.md section 2.
"""

from __future__ import annotations

from collections.abc import Callable

from p2p.core.errors import CallerError, DecodeError, VersionError
from p2p.core.role import Role
from p2p.core.session.events import SessionEvent
from p2p.core.session.half import Half
from p2p.core.session.messages import Mode, decode_message
from p2p.core.session.receiver import ReceiverHalf
from p2p.core.session.sender import SenderHalf


class Session:
    """One side of the session, for as long as its code lives; each peer that turns up is a run of its own.

    `secret` is the normalised code, None for no code, or, if `is_contact`, what both derive from the keys by which
    they remember each other. `context` is the pairing context: the two names in
    ascending order, or the nameplate. `random_bytes` must be cryptographic outside tests.
    """

    def __init__(
        self,
        role: Role,
        secret: bytes | None,
        context: tuple[bytes, ...],
        random_bytes: Callable[[int], bytes],
        *,
        tries: int = 0,
        is_contact: bool = False,
    ) -> None:
        """`tries`: wrong guesses that were made before, against the same secret; those against a contact's count for
        one run only. Raises CallerError for a contact without a secret."""
        if is_contact and secret is None:
            raise CallerError("a contact has a secret")
        mode = Mode.OPEN if secret is None else Mode.CONTACT if is_contact else Mode.CODE
        half = SenderHalf if role is Role.SENDER else ReceiverHalf
        self._half: Half = half(mode, secret, context, random_bytes)
        self._half.tries = 0 if is_contact else tries
        self.dropped = 0
        """Messages that did not parse or were not genuine."""

    @property
    def tries(self) -> int:
        """Wrong guesses that were made against this side so far."""
        return self._half.tries

    def begin(self, description: bytes, now: float) -> None:
        """A (new) peer is present: gives up the present run and starts the next. `description` is sealed to the peer.

        The sender greets; the receiver waits for the greeting. Without effect once the code is burnt. Not to be
        called for a peer that merely got a new tag while the established session is in use. Raises CallerError when
        the description is longer than 512 bytes.
        """
        self._half.begin(description, now)

    def update(self, description: bytes, now: float) -> None:
        """Our description changed: the other side is told, at once or as soon as keys are agreed on, until it says
        that it knows. Raises CallerError when it is longer than 512 bytes."""
        self._half.update(description, now)

    def handle_message(self, data: bytes, now: float) -> None:
        """Payload of a FORWARDED message. Whatever is not genuine is dropped and counted."""
        try:
            message = decode_message(data, self._half.mode)
            self._half.handle(message, now)
        except VersionError:
            self._half.handle_foreign(data)
        except DecodeError:
            self.dropped += 1

    def handle_timeout(self, now: float) -> None:
        self._half.handle_timeout(now)

    def bye(self, exit_code: int, reason: str, now: float) -> None:
        """Ends the run and tells the other side why, where there are keys to seal it with; otherwise silently.

        Nobody acknowledges it: three copies go out within 0.4 s, if the caller polls that long.
        """
        self._half.bye(exit_code, reason, now)

    def poll_message(self) -> bytes | None:
        """The next payload for FORWARD."""
        return self._half.messages.popleft() if self._half.messages else None

    def poll_event(self) -> SessionEvent | None:
        return self._half.events.popleft() if self._half.events else None

    def poll_timeout(self) -> float | None:
        return self._half.timers.earliest()
