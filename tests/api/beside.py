"""A call in a thread of its own, so that one test can be both sides."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Generic, TypeVar

Result = TypeVar("Result")

GUARD = 60.0  # seconds after which what should have ended fails the test


class Beside(Generic[Result]):
    """`result` and `error` wait for it."""

    def __init__(self, call: Callable[[], Result]) -> None:
        self._outcome: Future[Result] = Future()
        self._call = call
        threading.Thread(target=self._run, daemon=True).start()

    @property
    def result(self) -> Result:
        return self._outcome.result(GUARD)

    @property
    def error(self) -> BaseException | None:
        return self._outcome.exception(GUARD)

    def _run(self) -> None:
        try:
            self._outcome.set_result(self._call())
        except BaseException as error:
            self._outcome.set_exception(error)


class Told:
    """A callback that keeps what it hears, and can be waited for."""

    def __init__(self) -> None:
        self._future: Future[str] = Future()

    def __call__(self, text: str) -> None:
        if not self._future.done():
            self._future.set_result(text)

    @property
    def text(self) -> str:
        return self._future.result(GUARD)
