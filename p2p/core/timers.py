"""Named deadlines of one state machine."""

from __future__ import annotations

from enum import Enum
from typing import Generic, TypeVar

Name = TypeVar("Name", bound=Enum)


class Timers(Generic[Name]):
    """A few named deadlines, in seconds of the loop's clock; at most one deadline a name."""

    __slots__ = ("_deadlines",)

    def __init__(self) -> None:
        self._deadlines: dict[Name, float] = {}

    def set(self, name: Name, deadline: float) -> None:
        self._deadlines[name] = deadline

    def stop(self, name: Name) -> None:
        self._deadlines.pop(name, None)

    def get(self, name: Name) -> float | None:
        return self._deadlines.get(name)

    def earliest(self) -> float | None:
        """The next deadline, or None when nothing is set."""
        return min(self._deadlines.values(), default=None)

    def pop_expired(self, now: float) -> list[Name]:
        """Stops and returns the deadlines that have passed, the earliest first."""
        due = sorted((at, index, name) for index, (name, at) in enumerate(self._deadlines.items()) if at <= now)
        for _, _, name in due:
            del self._deadlines[name]
        return [name for _, _, name in due]
