"""Waiting for something while the selector's callbacks go on."""

from __future__ import annotations

import selectors
import time
from collections.abc import Callable


def wait(selector: selectors.BaseSelector, seconds: float, is_enough: Callable[[], bool]) -> None:
    """For so many seconds, or until it is enough, which is asked whenever a callback has run."""
    until = time.monotonic() + seconds
    while not is_enough() and (left := until - time.monotonic()) > 0:
        for key, mask in selector.select(left):
            key.data(mask)
