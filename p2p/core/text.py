"""Untrusted text (names, file names, reasons of the other side) made safe to print."""

from __future__ import annotations

import unicodedata


def escape(text: str) -> str:
    r"""`text` on one line, with every character that hides, moves or forges output made visible.

    Escaped, in Python's notation (`\x1b`, `\u202e`, `\U000e0001`): control characters with newline and tab,
    format characters (Unicode Cf: the bidirectional controls, zero-width ones, tags), line and paragraph
    separators, surrogates (bytes of a file name that are not UTF-8), private and unassigned characters.
    Everything else stays as it is, the backslash included, so escaping twice is escaping once.
    """
    if text.isprintable():
        return text
    return "".join(_visible(character) if _is_deceptive(character) else character for character in text)


def _is_deceptive(character: str) -> bool:
    category = unicodedata.category(character)
    return category[0] == "C" or category in ("Zl", "Zp")


def _visible(character: str) -> str:
    code = ord(character)
    if code < 0x100:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
