"""What a transfer did besides the rule: left out, renamed, kept. For the end of the run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from p2p.core.peer.events import FileDone, NotTransferred
from p2p.core.text import escape
from p2p.core.transfer.limits import MAX_LISTED
from p2p.io.receiving.outlets import NO_NAME
from p2p.io.sending.walk import Renamed
from p2p.io.terminal.words import things

Repaired = tuple[Sequence[Renamed], int]  # the first of them, and how many there are
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
        self.repaired: Repaired = (), 0
        """Names that could not be sent as they are."""

    @property
    def problems(self) -> int:
        return self._problems.count

    def add_problem(self, problem: NotTransferred) -> None:
        path, reason = escape(problem.path), escape(problem.reason)
        self._problems.add(f"{path}: {reason}" if path and path not in reason else reason)

    def count_problems(self, count: int) -> None:
        """There are so many: only the first of them were told one by one."""
        self._problems.count = max(self._problems.count, count)

    def add_renamed(self, path: str, saved_as: str) -> None:
        self._renamed.add(f"{escape(path)} is {escape(saved_as)} now")

    def lines(self, *, is_sender: bool, is_over: bool = True) -> Iterator[str]:
        """What to say below the last sentence; nothing when all went by the rule. `is_over`: it has happened."""
        notes, count = self.repaired
        repaired = Listed([f"{escape(note.path)} as {escape(note.sent_as)}" for note in notes[:SHOWN]], count)
        yield from repaired.under(f"{'Sent' if is_over else 'To be sent'} under another name: {things(count)}.")
        others = things(self._renamed.count)
        yield from self._renamed.under(f"Names that were taken, or cannot be here: {others} got another one.")
        heading = f"Not everything {'arrived' if is_over else 'can go'}{' here' if not is_sender else ''}"
        yield from self._problems.under(f"{heading}: {things(self._problems.count)} left out.")


def is_renamed(done: FileDone) -> bool:
    is_other = done.saved_as is not None and done.saved_as != done.path.rpartition("/")[2]
    return is_other and not is_passed_on(done)


def is_passed_on(done: FileDone) -> bool:
    """To standard output, or to the screen: no file bears a name here."""
    return done.saved_as == NO_NAME and done.path != NO_NAME
