"""Asks the person whether to take the offer, without keeping the loop waiting."""

from __future__ import annotations

import contextlib
import os
import selectors
import sys
import time
from collections.abc import Callable

from p2p.io.terminal.screen import Screen

Answer = Callable[[bool, float], None]


class Question:
    """One at a time."""

    def __init__(self, selector: selectors.BaseSelector, screen: Screen) -> None:
        self._selector = selector
        self._screen = screen
        self._answer: Answer | None = None

    def ask(self, answer: Answer) -> None:
        """`answer` is called with whether the person said yes."""
        _forget_typed_ahead()
        self._screen.ask("Take it? [y/N] ")
        self._answer = answer
        self._selector.register(sys.stdin.fileno(), selectors.EVENT_READ, self._read)

    def drop(self) -> None:
        """It is void, if it stands."""
        if self._answer is not None:
            self._end(is_answered=False)

    def _read(self, _: int) -> None:
        typed = os.read(sys.stdin.fileno(), 1024).decode(errors="replace").strip().casefold()
        answer = self._answer
        assert answer is not None, "nobody reads while nothing is asked"
        if typed not in ("", "n", "no", "y", "yes"):
            self._screen.ask("Please type y or n: ")
            return
        self._end(is_answered=True)
        answer(typed in ("y", "yes"), time.monotonic())

    def _end(self, *, is_answered: bool) -> None:
        self._answer = None
        self._selector.unregister(sys.stdin.fileno())
        self._screen.end_question(is_answered=is_answered)


def _forget_typed_ahead() -> None:
    """An Enter of a while ago is no answer to what is asked now."""
    try:
        import termios  # noqa: PLC0415  (absent on Windows)
    except ImportError:
        return
    with contextlib.suppress(termios.error):
        termios.tcflush(sys.stdin.fileno(), termios.TCIFLUSH)
