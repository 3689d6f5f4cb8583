"""What a session tells its program."""

from __future__ import annotations

from dataclasses import dataclass

from p2p.core.session.keys import SessionKeys
from p2p.core.session.messages import Reason


@dataclass(frozen=True, slots=True)
class Established:
    """Both sides hold the same keys. `verification` is for the persons to compare; None where a code proved it."""

    keys: SessionKeys
    description: bytes
    verification: str | None


@dataclass(frozen=True, slots=True)
class Updated:
    """The other side describes itself anew."""

    description: bytes


@dataclass(frozen=True, slots=True)
class WrongCode:
    """The other side showed another code. The sender may `begin` with the next peer unless the code is `burnt`."""

    tries: int
    limit: int
    burnt: bool


@dataclass(frozen=True, slots=True)
class Rejected:
    """The other side ended this run, or could not start it. Not authenticated: there is no common key."""

    reason: Reason
    tries: int
    limit: int


@dataclass(frozen=True, slots=True)
class PeerBye:
    """The other side ends before there is a path; authenticated. `reason` is its text: escape it before printing."""

    exit_code: int
    reason: str


@dataclass(frozen=True, slots=True)
class Outdated:
    """The other side speaks another version of the session protocol. Not authenticated."""

    version: int


SessionEvent = Established | Updated | WrongCode | Rejected | PeerBye | Outdated
