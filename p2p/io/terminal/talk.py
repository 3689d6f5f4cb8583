"""What is said on stderr, and the line below it that is written over. No lost terminal ends a transfer."""

from __future__ import annotations

import sys
from collections.abc import Callable

from p2p.core.calling import spoken
from p2p.core.transfer.events import Progress
from p2p.io.terminal.event_lines import redirect_to_nowhere
from p2p.io.terminal.status_line import StatusLine, width_of
from p2p.io.terminal.words import wrapped


class Talk:
    """`program`: how it was called here. `shows_line`: whether the person wants a last line where there can be one."""

    def __init__(self, program: str, *, shows_line: bool) -> None:
        self._program = program
        self._status = StatusLine(sys.stderr) if shows_line and StatusLine.fits(sys.stderr) else None

    @property
    def has_line(self) -> bool:
        """Whether there is a last line that can be written over."""
        return self._status is not None

    def print(self, text: str, end: str = "\n") -> None:
        self.take_line_away()

        def write() -> None:
            shown = spoken(text, self._program)
            if sys.stderr.isatty():
                shown = wrapped(shown, width_of(sys.stderr) - 1)
            print(shown, end=end, file=sys.stderr, flush=True)

        _try(write)

    def show_words(self, text: str) -> None:
        if (line := self._status) is not None:
            _try(lambda: line.show_words(text))

    def show_progress(self, progress: Progress, bytes_per_second: float, path: str) -> None:
        if (line := self._status) is not None:
            _try(lambda: line.show_progress(progress, bytes_per_second, path))

    def take_line_away(self) -> None:
        if self._status is not None:
            self._status.take_away()


def _try(write: Callable[[], None]) -> None:
    try:
        write()
    except OSError:  # the terminal or the reader of a pipe is gone
        redirect_to_nowhere(sys.stderr)
