"""What a transfer did besides the rule: left out, renamed, kept. For the end of the run."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from p2p.core.peer.events import FileDone, NotTransferred
from p2p.core.text import escape
from p2p.core.transfer.limits import MAX_LISTED
from p2p.io.words import things

SHOWN = 20  # lines of each list on the screen; --json has all


@dataclass(slots=True)
class Listed:
    """Lines of one kind. Only MAX_LISTED of them are kept; all are counted."""

    lines: list[str] = field(default_factory=list)
    count: int = 0

    def add(self, line: str) -> None:
        self.count += 1
        if len(self.lines) < MAX_LISTED:
            self.lines.append(line)

    def under(self, heading: str) -> Iterator[str]:
        if not self.count:
            return
        yield heading
        for line in self.lines[:SHOWN]:
            yield f"  {line}"
        if self.count > SHOWN:
            yield f"  and {self.count - SHOWN:,} more"


class Summary:
    """Of one transfer."""

    def __init__(self) -> None:
        self._problems = Listed()
        self._renamed = Listed()
        self._repaired = Listed()

    @property
    def problems(self) -> int:
        return self._problems.count

    def add_problem(self, problem: NotTransferred) -> None:
        path, reason = escape(problem.path), escape(problem.reason)
        self._problems.add(f"{path}: {reason}" if path and path not in reason else reason)

    def add_renamed(self, done: FileDone) -> None:
        assert done.saved_as is not None
        self._renamed.add(f"{escape(done.path)} is {escape(done.saved_as)}")

    def add_repaired(self, note: str) -> None:
        """A name that could not be sent as it is."""
        self._repaired.add(escape(note))

    def lines(self, *, is_sender: bool) -> Iterator[str]:
        """What to say below the last sentence; nothing when all went by the rule."""
        yield from self._repaired.under(f"Names that could not stay as they are: {things(self._repaired.count)}.")
        yield from self._renamed.under(f"Names that were taken here: {things(self._renamed.count)} got another one.")
        where = "there" if is_sender else "here"
        yield from self._problems.under(f"Not everything arrived {where}. {_missing(self._problems.count)}:")


def _missing(count: int) -> str:
    return "1 thing is missing" if count == 1 else f"{count:,} things are missing"


def is_renamed(done: FileDone) -> bool:
    return done.saved_as is not None and done.saved_as != done.path.rpartition("/")[2]
