"""Which half of a transfer a peer is."""

from __future__ import annotations

from enum import IntEnum


class Role(IntEnum):
    """The sender is the initiator of the session and the controlling side of the punch."""

    SENDER = 1
    RECEIVER = 2

    @property
    def other(self) -> Role:
        return Role.RECEIVER if self is Role.SENDER else Role.SENDER
