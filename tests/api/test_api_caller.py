"""The two threads of a transfer: the loop's, and that of whoever called."""

from __future__ import annotations

import os
import selectors
import signal
import threading

import pytest
from beside import GUARD

from p2p.api.caller import MAX_WAITING, Caller, Latest
from p2p.api.control import Abandoned, Control


def press() -> None:
    os.kill(os.getpid(), signal.SIGINT)


def test_a_second_control_c_waits_for_no_farewell() -> None:
    control = Control()
    ended: list[BaseException] = []

    def work() -> None:
        """A loop that is told to end, and has a farewell to say that takes for ever."""
        has_pressed = False
        with selectors.DefaultSelector() as selector, control.at(selector):
            press()
            try:
                while True:
                    for key, mask in selector.select(GUARD):
                        key.data(mask)
                    if control.is_asked and not has_pressed:
                        has_pressed = True
                        press()
            except Abandoned as error:
                ended.append(error)
                raise

    with pytest.raises(KeyboardInterrupt):
        Caller(control).run(work)
    assert len(ended) == 1
    assert "Ctrl-C" in control.told


def test_callbacks_run_in_the_callers_thread_and_in_order() -> None:
    heard: list[tuple[int, threading.Thread]] = []
    caller = Caller(Control())

    def work() -> threading.Thread:
        for number in range(1000):
            caller.call(lambda number: heard.append((number, threading.current_thread())), number)
        return threading.current_thread()

    thread = caller.run(work)
    assert thread is not threading.current_thread()
    assert not thread.is_alive()
    assert heard == [(number, threading.current_thread()) for number in range(1000)]


def test_what_waits_for_a_slow_callback_is_bounded() -> None:
    caller = Caller(Control())
    sent = 0
    waiting: list[int] = []
    is_full = threading.Event()

    def slow(number: int) -> None:
        is_full.wait(GUARD)
        waiting.append(sent - number)

    def work() -> None:
        nonlocal sent
        for number in range(2 * MAX_WAITING):
            if number == MAX_WAITING:
                is_full.set()
            caller.call(slow, number)
            sent = number + 1

    caller.run(work)
    assert len(waiting) == 2 * MAX_WAITING
    assert max(waiting) <= MAX_WAITING + 2


def test_an_error_of_a_callback_counts_more_than_what_the_loop_makes_of_it() -> None:
    control = Control()
    caller = Caller(control)

    def work() -> None:
        with selectors.DefaultSelector() as selector, control.at(selector):
            caller.call(int, "not a number")
            while not control.is_asked:
                for key, mask in selector.select(GUARD):
                    key.data(mask)
        caller.call(pytest.fail, "nothing is called back after an error")
        raise OSError("cancelled")

    with pytest.raises(ValueError, match="not a number"):
        caller.run(work)
    assert "failed" in control.told


def test_a_slow_callback_hears_the_newest() -> None:
    caller = Caller(Control())
    heard: list[int] = []
    is_sent = threading.Event()

    def hear(number: int) -> None:
        is_sent.wait(GUARD)
        heard.append(number)

    latest = Latest(caller, hear)

    def work() -> None:
        for number in range(1, 100):
            latest.put(number)
        is_sent.set()

    caller.run(work)
    assert heard[-1] == 99
    assert len(heard) <= 3


def test_what_came_before_the_loop_is_heard_by_it() -> None:
    control = Control()
    told: list[int] = []
    control.tell(lambda: told.append(1))
    with selectors.DefaultSelector() as selector, control.at(selector):
        for key, mask in selector.select(GUARD):
            key.data(mask)
    assert told == [1]
    control.stop()  # nobody listens any more
