"""Blocking calls beside a loop: in order, with their outcome, and never in the way of the end."""

from __future__ import annotations

import selectors
import threading
from collections.abc import Iterator
from concurrent.futures import CancelledError, Future

import pytest

from p2p.core.errors import CallerError
from p2p.io.worker import Worker

PATIENCE = 30.0  # seconds until a hang is called one; nothing waits that long otherwise


@pytest.fixture
def worker() -> Iterator[Worker]:
    worker = Worker()
    yield worker
    worker.close(PATIENCE)


def loop(worker: Worker) -> None:
    """A selectors loop until every callback has run."""
    with selectors.DefaultSelector() as selector:
        selector.register(worker, selectors.EVENT_READ)
        while worker.pending:
            assert selector.select(PATIENCE), "the worker did not wake the loop"
            worker.handle_readable()


def test_outcomes_come_back_in_order_in_the_loops_thread(worker: Worker) -> None:
    seen: list[tuple[int, bool]] = []
    threads: set[str] = set()

    def square(value: int) -> int:
        threads.add(threading.current_thread().name)
        return value * value

    def done(future: Future[int]) -> None:
        seen.append((future.result(), threading.current_thread() is threading.main_thread()))

    for value in range(20_000):  # more wake-ups than a socket buffer holds
        worker.submit(square, value, done=done)
    loop(worker)
    assert seen == [(value * value, True) for value in range(20_000)]
    assert threads == {"p2p-worker"}


@pytest.mark.parametrize("error", [ValueError("x"), SystemExit(3), KeyboardInterrupt()])
def test_what_a_call_raises_is_raised_in_the_loop(worker: Worker, error: BaseException) -> None:
    outcomes: list[BaseException | None] = []

    def fail() -> None:
        raise error

    worker.submit(fail, done=lambda future: outcomes.append(future.exception()))
    worker.submit(int, "7", done=lambda future: outcomes.append(future.exception()))
    loop(worker)
    assert outcomes == [error, None]


def test_a_callback_may_submit(worker: Worker) -> None:
    results: list[int] = []

    def done(future: Future[int]) -> None:
        results.append(future.result())
        if len(results) < 5:
            worker.submit(len, "x" * len(results), done=done)

    worker.submit(len, "", done=done)
    loop(worker)
    assert results == [0, 1, 2, 3, 4]


def test_a_call_cancelled_before_its_turn_is_skipped(worker: Worker) -> None:
    gate = threading.Event()
    ran: list[str] = []
    outcomes: list[str] = []

    def done(future: Future[None]) -> None:
        try:
            future.result()
        except CancelledError:
            outcomes.append("cancelled")

    worker.submit(gate.wait, PATIENCE, done=lambda _: outcomes.append("first"))
    worker.submit(ran.append, "second", done=done).cancel()
    gate.set()
    loop(worker)
    assert (ran, outcomes) == ([], ["first", "cancelled"])


def test_a_loop_that_does_not_listen_stops_no_call(worker: Worker) -> None:
    """There are more outcomes than wake-ups that fit the socket."""
    last = threading.Event()
    for _ in range(5000):
        worker.submit(int, done=lambda _: None)
    worker.submit(last.set, done=lambda _: None)
    assert last.wait(PATIENCE)


def test_a_callback_may_close(worker: Worker) -> None:
    called: list[str] = []
    both = threading.Event()

    def first(_: Future[int]) -> None:
        called.append("first")
        worker.close(PATIENCE)

    worker.submit(int, done=first)
    worker.submit(int, done=lambda _: called.append("second"))
    worker.submit(both.set, done=lambda _: called.append("third"))
    assert both.wait(PATIENCE)
    worker.handle_readable()
    assert called == ["first"]


def test_close_does_not_wait_for_a_call_that_hangs() -> None:
    worker = Worker()
    running, release = threading.Event(), threading.Event()
    ran: list[str] = []

    def hang() -> None:
        running.set()
        release.wait(PATIENCE)

    worker.submit(hang, done=lambda _: ran.append("callback"))
    worker.submit(ran.append, "next", done=lambda _: ran.append("callback"))
    assert running.wait(PATIENCE)
    assert worker.close() is False
    release.set()
    assert worker.close(PATIENCE) is True
    assert ran == []
    with pytest.raises(CallerError):
        worker.submit(int, done=lambda _: None)
