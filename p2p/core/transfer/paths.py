"""Where the stream of entries stands."""

from __future__ import annotations

from dataclasses import dataclass

from p2p.core.errors import RemoteError
from p2p.core.transfer.limits import MAX_DEPTH


@dataclass(frozen=True, slots=True)
class Place:
    number: int
    path: str


class Trail:
    """The folders that were entered and not left."""

    def __init__(self) -> None:
        self._places: list[Place] = []

    @property
    def depth(self) -> int:
        return len(self._places)

    @property
    def folder(self) -> int | None:
        """The number of the innermost one."""
        return self._places[-1].number if self._places else None

    def path(self, name: str) -> str:
        """Of a name in the innermost one; for people, never to be opened."""
        return f"{self._places[-1].path}/{name}" if self._places else name

    def enter(self, number: int, name: str) -> None:
        """Raises RemoteError below MAX_DEPTH."""
        if len(self._places) >= MAX_DEPTH:
            raise RemoteError(f"more than {MAX_DEPTH} folders deep")
        self._places.append(Place(number, self.path(name)))

    def leave(self) -> int:
        """Returns the number of the folder that was left. Raises RemoteError where none was entered."""
        if not self._places:
            raise RemoteError("a folder is left that was never entered")
        return self._places.pop().number
