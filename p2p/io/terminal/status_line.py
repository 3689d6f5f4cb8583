"""The last line of a terminal: how far it is, written over and over, with what is said above it."""

from __future__ import annotations

import contextlib
import os
from collections import deque
from dataclasses import dataclass
from typing import TextIO

from p2p.core.text import escape
from p2p.core.transfer.events import Progress
from p2p.io.terminal.words import ELLIPSIS, PLAIN_ELLIPSIS, clock, columns, cut, files, rate, size

RATE_WINDOW = 3.0  # seconds over which the rate is averaged
MIN_BAR, MAX_BAR = 6, 16  # columns of a bar that still says something, and of one that says no more
MIN_NAME = 16  # columns of a file's name that still say something
SIZE_WIDTH, RATE_WIDTH = len("1.23 MB"), len("1.23 MB/s")  # so that the line stands still while its figures change
USUAL_WIDTH = 80
RESERVED = 3  # columns behind the line: for the cursor, and for the ^C that a terminal shows where one was typed
_CLEAR = "\r\x1b[K"


class StatusLine:
    """Shows one line at the bottom of `stream`; whoever prints something else takes it away first."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._shown = ""
        self._draws_blocks = _can_say(stream, "█░")
        # A question mark, as for other letters, would read as part of the name that was cut.
        self._ellipsis = ELLIPSIS if _can_say(stream, ELLIPSIS) else PLAIN_ELLIPSIS

    @staticmethod
    def fits(stream: TextIO) -> bool:
        """Whether a line of it can be written over."""
        return stream.isatty() and os.environ.get("TERM") not in ("dumb", "unknown")

    @property
    def width(self) -> int:
        """Columns that may be written without a line break."""
        return max(1, width_of(self._stream) - RESERVED)

    def show(self, text: str) -> None:
        """Raises OSError when the terminal is gone."""
        text = text.replace(ELLIPSIS, self._ellipsis)
        if text != self._shown:
            self._shown = text
            self._stream.write(_CLEAR + text)
            self._stream.flush()

    def show_words(self, text: str) -> None:
        """As much of it as fits. Raises OSError when the terminal is gone."""
        self.show(cut(text, self.width))

    def show_progress(self, progress: Progress, bytes_per_second: float, path: str) -> None:
        self.show(compose(progress, bytes_per_second, path, self.width, "█░" if self._draws_blocks else "#."))

    def take_away(self) -> None:
        if self._shown:
            self._shown = ""
            with contextlib.suppress(OSError):
                self._stream.write(_CLEAR)
                self._stream.flush()


def width_of(stream: TextIO) -> int:
    """Columns of the terminal that it is."""
    try:
        return os.get_terminal_size(stream.fileno()).columns or USUAL_WIDTH  # some say 0, for: unknown
    except (OSError, ValueError):
        return USUAL_WIDTH


class Rate:
    """Bytes per second over the last few seconds."""

    def __init__(self) -> None:
        self._samples: deque[tuple[float, int]] = deque()

    def add(self, now: float, done: int) -> None:
        self._samples.append((now, done))
        while self._samples[0][0] < now - RATE_WINDOW and len(self._samples) > 2:
            self._samples.popleft()

    @property
    def bytes_per_second(self) -> float:
        if len(self._samples) < 2:
            return 0.0
        (first, from_done), (last, to_done) = self._samples[0], self._samples[-1]
        return (to_done - from_done) / (last - first) if last > first else 0.0


@dataclass(frozen=True, slots=True)
class _Field:
    text: str
    rank: int  # what is least is left out last


def compose(progress: Progress, bytes_per_second: float, path: str, width: int, blocks: str = "█░") -> str:
    """One line of at most `width` columns. `path`: the kind of path; `blocks`: what the bar is made of, full and
    empty. What does not fit is left out: the bar and the file's name first, the share of the whole last."""
    share, left = _share(progress), _left(progress, bytes_per_second)
    fields = [
        _Field(f"{share:3} %" if share is not None else "", 0),
        _Field(amount(progress, SIZE_WIDTH), 1),
        _Field(f"{rate(bytes_per_second):>{RATE_WIDTH}}", 3),
        _Field(clock(left) if left is not None else "-:--", 2) if progress.total is not None else _Field("", 2),
        _Field(path, 4),
    ]
    fields = [field for field in fields if field.text]
    while len(fields) > 1 and _columns(fields) > width:
        fields.remove(max(fields, key=lambda field: field.rank))
    room = width - _columns(fields) - 2
    name = escape(progress.path)
    bar = ""
    if share is not None and room >= MIN_BAR:
        wanted = min(columns(name), MIN_NAME) + 2 if name else 0
        bar_room = min(MAX_BAR, room if room < MIN_BAR + wanted else room - wanted)
        full = bar_room * share // 100
        bar = blocks[0] * full + blocks[1] * (bar_room - full)
        room -= bar_room + 2
    texts = [field.text for field in fields]
    if bar:
        texts.insert(1, bar)
    if name and room >= min(MIN_NAME, columns(name)):
        texts.append(cut(name, room))
    return cut("  ".join(texts), width)


def amount(progress: Progress, width: int = 0) -> str:
    """What has arrived, in at least `width` columns, of how much; a + where more is still being counted."""
    done = f"{size(progress.done):>{width}}"
    if progress.total is None:
        return done
    if not progress.total:
        return f"{progress.files:,} of {files(progress.files_total)}"
    return f"{done} of {size(progress.total)}{'' if progress.is_final else '+'}"


def plain_line(progress: Progress, bytes_per_second: float) -> str:
    """The same where no line can be written over."""
    share, left = _share(progress), _left(progress, bytes_per_second)
    if progress.total == 0:
        return f"{share} %, {amount(progress)}"
    when = f"{left:.0f} s left" if left is not None else "nothing moves"
    first = [f"{share} %"] if share is not None else []
    last = [when] if left is not None or bytes_per_second < 1 else []
    return ", ".join([*first, amount(progress), rate(bytes_per_second), *last])


def _share(progress: Progress) -> int | None:
    if progress.total is None:
        return None
    done, total = (progress.done, progress.total) if progress.total else (progress.files, progress.files_total)
    share = min(100, 100 * done // total) if total else 100
    return share if progress.is_final else min(share, 99)


def _left(progress: Progress, bytes_per_second: float) -> float | None:
    left = progress.left
    return None if left is None or bytes_per_second < 1 else left / bytes_per_second


def _columns(fields: list[_Field]) -> int:
    return sum(columns(field.text) for field in fields) + 2 * (len(fields) - 1)


def _can_say(stream: TextIO, text: str) -> bool:
    try:
        text.encode(stream.encoding or "ascii")
    except (UnicodeError, LookupError):
        return False
    return True
