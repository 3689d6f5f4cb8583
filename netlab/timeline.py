"""What happened in a lab and when, to be laid beside its captures."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Entry:
    """Something that was done to ``where`` (a node, a service, or "lab").

    ``seconds`` since the lab was up, ``wall`` seconds of the clock that captures are stamped with
    (since 1970), both when it began; ``took`` seconds until it was done.
    """

    seconds: float
    wall: float
    where: str
    what: str
    took: float = 0.0
    details: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Plain data; the details come after the fields that each entry has."""
        rounded = {name: round(getattr(self, name), 6) for name in ("seconds", "wall", "took")}
        return rounded | {"where": self.where, "what": self.what} | self.details

    def __str__(self) -> str:
        clock = datetime.fromtimestamp(self.wall, UTC).strftime("%H:%M:%S.%f")
        details = ", ".join(f"{name} {value}" for name, value in self.details.items())
        return f"{self.seconds:10.6f}  {clock}  {self.where:11}  {self.what:20}  {details}".rstrip()


class Timeline:
    """Entries from any thread. ``str()`` gives a table; its clock is UTC, as ``TZ=UTC tcpdump`` shows it."""

    def __init__(self) -> None:
        self._start = time.monotonic()
        self._entries: list[Entry] = []
        self._thread = threading.local()

    def restart(self) -> None:
        """Count from now."""
        self._start = time.monotonic()

    @property
    def seconds(self) -> float:
        """Since the lab was up."""
        return time.monotonic() - self._start

    @property
    def entries(self) -> list[Entry]:
        """In the order in which they began."""
        return sorted(self._entries, key=lambda entry: entry.seconds)

    def record(self, where: str, what: str, **details: Any) -> None:
        """Something happened just now."""
        self._append(Entry(self.seconds, time.time(), where, what, details=details))

    @contextmanager
    def doing(self, where: str, what: str, **details: Any) -> Iterator[dict[str, Any]]:
        """Something happens during the block; what it gives takes further details. A failure is recorded as such."""
        seconds, wall = self.seconds, time.time()
        try:
            yield details
        except BaseException as error:
            details["failed"] = str(error) or type(error).__name__
            raise
        finally:
            self._append(Entry(seconds, wall, where, what, self.seconds - seconds, details))

    @contextmanager
    def during(self, where: str, what: str, context: AbstractContextManager[T], **details: Any) -> Iterator[T]:
        """``context``, with an entry when it begins and one when it ends."""
        with ExitStack() as stack:
            with self.doing(where, f"{what} begins", **details):
                made = stack.enter_context(context)
            stack.callback(self.record, where, f"{what} ends")
            yield made

    @contextmanager
    def planned(self, seconds: float) -> Iterator[None]:
        """What this thread records during the block was planned for then, in ``seconds`` on our clock."""
        self._thread.planned = seconds
        try:
            yield
        finally:
            del self._thread.planned

    def write(self, path: Path) -> None:
        """Write one line of JSON per entry. Raises ``OSError``."""
        path.write_text("".join(json.dumps(entry.to_json()) + "\n" for entry in self.entries), encoding="utf-8")

    def __str__(self) -> str:
        return "".join(f"{entry}\n" for entry in self.entries)

    def _append(self, entry: Entry) -> None:
        if (planned := getattr(self._thread, "planned", None)) is not None:
            entry.details["planned"] = round(planned, 6)
        self._entries.append(entry)
