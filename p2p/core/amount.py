"""Amounts as a person types them."""

from __future__ import annotations

import re
from typing import Final

from p2p.core.errors import CallerError

MIN_RATE: Final = 10_000  # bytes a second: one record takes six seconds then, and a path is silent for ten at most

_UNITS: Final = {"": 1, "k": 1000, "m": 1000**2, "g": 1000**3, "ki": 1024, "mi": 1024**2, "gi": 1024**3}
_RATE: Final = re.compile(r"(\d{1,15}(?:\.\d{1,15})?) ?([kKmMgG]i?|)B?(?:/s)?", re.ASCII)  # b would be bits


def parse_rate(text: str) -> float:
    """Bytes a second: 500k, 20M, 1.5G (decimal), 2Mi (binary), 20 MB/s. Raises CallerError."""
    match = _RATE.fullmatch(text.strip())
    if match is None:
        raise CallerError(f"bytes a second are wanted, as in 500k, 20M or 1.5G, not {text!r}")
    rate = float(match[1]) * _UNITS[match[2].lower()]
    if rate < MIN_RATE:
        least = f"{MIN_RATE // 1000}k bytes a second"
        raise CallerError(f"{least} or more are wanted, not {text!r}: less would look like a lost connection")
    return rate
