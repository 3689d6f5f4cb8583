"""How two whose path broke find each other again: names and a secret that only they can know."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from p2p.core.introduction import NamePair
from p2p.core.role import Role
from p2p.core.session.keys import SessionKeys

NAME_BYTES = 16  # of the 32 that a key has: nobody meets two alike


@dataclass(frozen=True, slots=True)
class Rejoin:
    """For the meeting after the one that had `keys`. The names tell a server nothing of those before.

    `lookout`: the names under which nobody meets; who sits there suspects the path, or has lost it.
    """

    pairing: NamePair
    secret: bytes
    lookout: NamePair

    @classmethod
    def of(cls, role: Role, keys: SessionKeys) -> Self:
        def names(of: str) -> NamePair:
            both = (keys.derive(f"{of} {each.name.lower()}")[:NAME_BYTES].hex() for each in (role, role.other))
            return NamePair(*both)

        return cls(names("rejoin"), keys.derive("rejoin secret"), names("lookout"))
