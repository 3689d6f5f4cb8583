"""A QR code on a terminal, for a phone, or a machine with a camera, to take a command or a code from."""

from __future__ import annotations

import os
from typing import Final, TextIO

MAX_WIDTH: Final = 80  # columns: the narrowest terminal that people use
QUIET_ZONE: Final = 4  # light modules around the code; ISO/IEC 18004 section 5.3.8
_HALVES: Final = {(0, 0): " ", (1, 0): "▀", (0, 1): "▄", (1, 1): "█"}  # dark ones, upper and lower
# Black on white out of the fixed part of the 256 colours: the first 16 are what a theme makes of them.
_BLACK_ON_WHITE: Final = "\x1b[38;5;16;48;5;231m"
_RESET: Final = "\x1b[0m"


def lines(text: str, width: int = MAX_WIDTH) -> list[str] | None:
    """The code, two modules above each other a character; None where it does not fit `width` columns.

    Each line sets and resets its own colours, so that it reads the same on a dark and on a light screen.
    """
    import segno  # noqa: PLC0415  (it takes 60 ms, and few runs show a code)

    try:
        code = segno.make(text, error="l", micro=False)
    except segno.DataOverflowError:
        return None
    rows = [list(map(bool, row)) for row in code.matrix_iter(border=QUIET_ZONE)]
    if len(rows) > width:
        return None
    rows += [[False] * len(rows)] * (len(rows) % 2)
    halves = zip(rows[::2], rows[1::2], strict=True)
    return [
        f"{_BLACK_ON_WHITE}{''.join(_HALVES[pair] for pair in zip(upper, lower, strict=True))}{_RESET}"
        for upper, lower in halves
    ]


def lines_for(text: str, stream: TextIO) -> list[str] | None:
    """The same for whoever reads `stream`; None too where that is no terminal, or cannot say the characters."""
    if not stream.isatty() or os.environ.get("TERM") in ("dumb", "unknown"):
        return None
    try:
        "".join(_HALVES.values()).encode(stream.encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return None
    try:
        width = os.get_terminal_size(stream.fileno()).columns or MAX_WIDTH  # some say 0, for: unknown
    except OSError:
        width = MAX_WIDTH
    return lines(text, width)
