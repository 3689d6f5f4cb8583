"""Waiting for something while the selector's callbacks go on."""

from __future__ import annotations

import selectors
import time
from collections.abc import Callable

from p2p.core.errors import ExitCode

STRANGER_PAUSE = 5.0  # seconds; ten thousand strangers a day, then, at a tenth of a second of computing each
_FINAL = (ExitCode.CANCELLED, ExitCode.USAGE, ExitCode.NO_PEER, ExitCode.WRONG_CODE, ExitCode.INTERNAL)


def wait(selector: selectors.BaseSelector, seconds: float, is_enough: Callable[[], bool]) -> None:
    """For so many seconds, or until it is enough, which is asked whenever a callback has run."""
    until = time.monotonic() + seconds
    while not is_enough() and (left := until - time.monotonic()) > 0:
        for key, mask in selector.select(left):
            key.data(mask)


def ends_the_wait(code: ExitCode, *, is_contact: bool) -> bool:
    """Of who takes one transfer after the other: whether nothing better can be waited for after this failure.

    A contact's key cannot be guessed, and a stranger in the friend's seat is to end nobody's wait.
    """
    return code in _FINAL and not is_of_a_stranger(code, is_contact=is_contact)


def is_of_a_stranger(code: ExitCode, *, is_contact: bool) -> bool:
    """Whether somebody came in the friend's place who may come again at once: STRANGER_PAUSE is to pass before."""
    return is_contact and code in (ExitCode.USAGE, ExitCode.WRONG_CODE)
