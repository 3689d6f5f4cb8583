"""Numbers as people read them."""

from __future__ import annotations

import unicodedata

ELLIPSIS = "…"
PLAIN_ELLIPSIS = "~"  # of one column too, for encodings without the other
LONG = 99 * 3600  # seconds
UNNAMED = "the other side"  # what a friend is called in sentences where there are no names
VERBATIM = "    "  # a line that begins so is a command, which is to be copied as it is


def size(count: int) -> str:
    """Decimal units, as rates have them: 1.5 MB."""
    if count < 1000:
        return f"{count} B"
    units = ("kB", "MB", "GB", "TB", "PB")
    power = next((p for p in range(1, len(units)) if count / 1000**p < 999.5), len(units))
    return f"{count / 1000**power:.3g} {units[power - 1]}"


def rate(bytes_per_second: float) -> str:
    return f"{size(round(bytes_per_second))}/s"


def files(count: int) -> str:
    return "1 file" if count == 1 else f"{count:,} files"


def things(count: int) -> str:
    return "1 thing" if count == 1 else f"{count:,} things"


def clock(seconds: float) -> str:
    """0:07, 12:30, 3:05:00, and what is too long to be of use."""
    if seconds >= LONG:
        return f">{LONG // 3600} h"
    whole = round(seconds)
    minutes, rest = divmod(whole, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def duration(seconds: float) -> str:
    """15 minutes, 20 seconds."""
    if seconds >= 120 and seconds % 60 == 0:
        return f"{seconds / 60:.0f} minutes"
    return "1 second" if seconds == 1 else f"{seconds:g} seconds"


def columns(text: str) -> int:
    """How many columns of a terminal it takes."""
    return len(text) if text.isascii() else sum(map(_width, text))


def cut(text: str, room: int) -> str:
    """At most `room` columns of it: what is in the middle goes, for both ends of a path say more."""
    if columns(text) <= room:
        return text
    if room < 3:
        return ""
    head, tail = (room - 1) // 2, room - 1 - (room - 1) // 2
    end = _first(text[::-1], tail)[::-1]
    while end and not _width(end[0]):  # an accent without its letter
        end = end[1:]
    return _first(text, head) + ELLIPSIS + end


def wrapped(text: str, width: int) -> str:
    """With line breaks between words where a line has more than `width` columns; commands stay in one line."""
    return "\n".join(line if line.startswith(VERBATIM) else _wrapped_line(line, width) for line in text.split("\n"))


def _wrapped_line(line: str, width: int) -> str:
    indent = " " * (len(line) - len(line.lstrip(" ")))
    lines = [indent]
    for number, word in enumerate(line.removeprefix(indent).split(" ")):
        longer = lines[-1] + (" " if number else "") + word
        # What fits no line, a hash or a long name, is not helped by one of its own.
        if number and columns(longer) > width >= columns(indent + word):
            lines.append(indent + word)
        else:
            lines[-1] = longer
    return "\n".join(lines)


def _first(text: str, room: int) -> str:
    taken = 0
    for number, character in enumerate(text):
        taken += _width(character)
        if taken > room:
            return text[:number]
    return text


def _width(character: str) -> int:
    if unicodedata.combining(character) or unicodedata.category(character) in ("Mn", "Me"):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1
