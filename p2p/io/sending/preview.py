"""`send --dry-run`: what would go, without a network."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Sequence

from p2p.core.errors import ExitCode
from p2p.core.peer.events import NotTransferred
from p2p.core.transfer.entries import Entry, File, Folder, Hardlink, Leave, Skipped, Symlink
from p2p.core.transfer.messages import Totals
from p2p.core.transfer.worst import worse
from p2p.io.sending.sources import PathLike, look_up
from p2p.io.sending.visits import Exclude
from p2p.io.sending.walk import Walk
from p2p.io.terminal.event_lines import print_event
from p2p.io.terminal.status_line import StatusLine
from p2p.io.terminal.summary import Summary
from p2p.io.terminal.words import files, size

BATCH = 500  # entries between two looks at the clock
INTERVAL = 0.1  # seconds between two updates of the line


class Preview:
    """Counts a walk, and keeps what would not go, or not as it is."""

    def __init__(self) -> None:
        self.files = self.folders = self.links = self.size = 0
        self.worst = ExitCode.DONE
        self.problems: list[NotTransferred] = []
        self._folders: list[str] = []

    def add(self, entry: Entry) -> None:
        match entry:
            case Folder(name):
                self.folders += 1
                self._folders.append(name)
            case Leave():
                self._folders.pop()
            case File(_, _, _, length):
                self.files += 1
                self.size += length or 0
            case Symlink() | Hardlink():
                self.links += 1
            case Skipped(name, reason, code):
                self.worst = worse(self.worst, code)
                path = "/".join([*self._folders, name])
                self.problems.append(NotTransferred(path, reason, code, by_peer=False))

    @property
    def totals(self) -> Totals:
        return Totals(self.files, self.size, is_final=True)

    def sentence(self) -> str:
        others = [
            f"{count:,} {word if count == 1 else word + 's'}"
            for count, word in ((self.folders, "folder"), (self.links, "link"))
            if count
        ]
        beside = f", with {' and '.join(others)}" if others else ""
        return f"Dry run: {files(self.files)}, {size(self.size)}{beside} would be sent."


def preview(paths: Sequence[PathLike], patterns: Sequence[str], *, as_json: bool, quiet: bool) -> ExitCode:
    """Says it. Raises SourceError, and KeyboardInterrupt."""
    walk = Walk(look_up(paths), Exclude(patterns))
    found = Preview()
    with contextlib.closing(walk):
        _count(walk, found, _progress(quiet=quiet))
    if as_json:
        for problem in found.problems:
            told = {"path": problem.path, "reason": problem.reason, "code": int(problem.exit_code), "by_peer": False}
            print_event({"event": "problem", **told})
        for note in walk.renamed:
            print_event({"event": "renamed", "path": note.path, "saved_as": note.sent_as})
        counts = {"files": found.files, "folders": found.folders, "links": found.links, "total": found.size}
        print_event({"event": "dry_run", **counts, "problems": len(found.problems), "renamed": walk.renamed_count})
    if not quiet:
        summary = Summary()
        for problem in found.problems:
            summary.add_problem(problem)
        summary.repaired = walk.renamed, walk.renamed_count
        for line in (found.sentence(), *summary.lines(is_sender=True, is_over=False)):
            print(line, file=sys.stderr)
    return found.worst


def _count(walk: Walk, found: Preview, show: Callable[[str], None]) -> None:
    shown_at = time.monotonic()
    is_last = False
    while not is_last:
        batch, is_last = walk.take(BATCH)
        for each in batch:
            found.add(each.entry)
        if (now := time.monotonic()) >= shown_at + INTERVAL:
            shown_at = now
            show(f"Counting: {files(found.files)}, {size(found.size)} so far")
    show("")


def _progress(*, quiet: bool) -> Callable[[str], None]:
    if quiet or not StatusLine.fits(sys.stderr):
        return lambda _: None
    line = StatusLine(sys.stderr)
    return lambda text: line.show_words(text) if text else line.take_away()
