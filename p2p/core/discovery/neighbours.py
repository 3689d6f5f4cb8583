"""Who else is on this network, and when each is to be asked whether it is the friend."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import inf
from typing import Final

from p2p.core.address import Address
from p2p.core.role import Role

MAX_NEIGHBOURS: Final = 256  # places, some 300 bytes each; a hall full of people who all wait at once
MAX_PER_HOST: Final = 16  # of those: so that one machine that invents instances leaves room for the others
LIFETIME: Final = 16.0  # seconds from the last announcement: three intervals, and one for a late one
RETEST_FIRST: Final = 60.0  # seconds until a stranger is asked again, in case somebody had spoilt the answer
RETEST_MAX: Final = 960.0  # seconds; doubles up to this
SAME_ROLE_DELAY: Final = 2.0  # seconds: those who may be the friend go first


@dataclass(slots=True)
class Neighbour:
    """One instance at one address, by what it, or anybody, says."""

    instance: bytes
    address: Address
    role: Role
    first_heard: float
    heard_at: float
    due: float  # when to ask it; inf: when it is heard of again
    strange: int = 0  # how often it turned out to be a stranger


class Neighbours:
    """Keyed by instance *and* address, so that nobody elsewhere can spoil what is known of an instance."""

    def __init__(self, role: Role, is_ours_to_ask: Callable[[bytes, Role], bool]) -> None:
        self._role = role
        self._is_ours_to_ask = is_ours_to_ask
        self._known: dict[tuple[bytes, Address], Neighbour] = {}  # the one heard of longest ago first

    def __len__(self) -> int:
        return len(self._known)

    def count(self, now: float) -> int:
        """How many instances are there now."""
        return len({n.instance for n in self._known.values() if n.heard_at + LIFETIME > now})

    def hear(self, instance: bytes, address: Address, role: Role, now: float) -> Neighbour:
        neighbour = self._known.pop((instance, address), None)
        if neighbour is None:
            delay = SAME_ROLE_DELAY if role is self._role else 0.0
            neighbour = Neighbour(instance, address, role, now, now, now + delay)
            self._make_room(address.host)
        neighbour.heard_at = now
        neighbour.due = now if neighbour.due == inf else neighbour.due
        self._known[instance, address] = neighbour
        return neighbour

    def pop_due(self, now: float) -> list[Neighbour]:
        """Whom to ask now; each of them is not due again before `RETEST_FIRST` unless it says so."""
        due = [n for n in self._asked() if n.due <= now]
        for neighbour in due:
            neighbour.due = now + RETEST_FIRST if neighbour.heard_at + LIFETIME > now else inf
        return [n for n in due if n.due < inf]

    def note_stranger(self, neighbour: Neighbour, now: float) -> None:
        neighbour.strange += 1
        for known in self._known.values():
            if known.instance == neighbour.instance:
                known.due = now + min(RETEST_FIRST * 2 ** (neighbour.strange - 1), RETEST_MAX)

    def forget(self, neighbour: Neighbour, now: float) -> None:
        """It did not answer there: another of its addresses is asked; and this one, when it is heard of again."""
        self._known.pop((neighbour.instance, neighbour.address), None)
        for known in self._known.values():
            if known.instance == neighbour.instance and not known.strange:
                known.due = now

    def ask_again(self) -> None:
        """All of them, at once: we were not free to be asked, and they may not have been either."""
        for neighbour in self._known.values():
            if not neighbour.strange:
                neighbour.due = 0.0

    def poll_timeout(self) -> float | None:
        return min((n.due for n in self._asked() if n.due < inf), default=None)

    def _asked(self) -> list[Neighbour]:
        return [n for n in self._known.values() if self._is_ours_to_ask(n.instance, n.role)]

    def _make_room(self, host: str) -> None:
        of_host = [key for key in self._known if key[1].host == host]
        if len(of_host) >= MAX_PER_HOST:
            self._evict(of_host)
        elif len(self._known) >= MAX_NEIGHBOURS:
            self._evict(list(self._known))

    def _evict(self, keys: list[tuple[bytes, Address]]) -> None:
        """The one heard of longest ago; first those of whom nothing is known yet: they may be invented."""
        unknown = (key for key in keys if not self._known[key].strange)
        del self._known[next(unknown, keys[0])]
