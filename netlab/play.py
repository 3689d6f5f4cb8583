"""Lets a schedule happen to a lab beside whatever the test does."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from netlab.events import Event, name_of
from netlab.schedule import Due, Schedule
from netlab.timeline import Timeline


@dataclass(slots=True)
class Playing:
    """A schedule at work. ``unfinished``: what has not happened yet, or did not because an event failed."""

    unfinished: list[Due]
    finished: list[Due] = field(default_factory=list)
    error: Exception | None = None
    _over: threading.Event = field(default_factory=threading.Event)

    def wait(self, timeout: float | None = None) -> None:
        """Until all has happened or an event has failed, whose error this raises; ``timeout`` in seconds.

        Raises ``TimeoutError`` naming the events that are still to come.
        """
        if not self._over.wait(timeout):
            still = ", ".join(f"{name_of(due.event)} at {due.seconds:.3f} s" for due in self.unfinished)
            raise TimeoutError(f"after {timeout} s these events have not happened: {still}")
        if self.error is not None:
            raise self.error


@contextmanager
def played(schedule: Schedule, apply: Callable[[Event], None], timeline: Timeline) -> Iterator[Playing]:
    """Let ``schedule`` happen during the block; see :meth:`netlab.lab.Lab.play`."""
    playing = Playing(list(schedule.times()))
    stop = threading.Event()
    timeline.record("lab", "schedule begins", seed=schedule.seed, events=len(schedule.events))
    start, offset = time.monotonic(), timeline.seconds

    def run() -> None:
        try:
            while playing.unfinished:
                due = playing.unfinished[0]
                if stop.wait(max(0.0, start + due.seconds - time.monotonic())):
                    return
                with timeline.planned(offset + due.seconds):
                    apply(due.event)
                playing.finished.append(playing.unfinished.pop(0))
        except Exception as error:  # raised again by who waits, or at the end of the block
            error.add_note(f"This was {due.event} of a schedule, planned for {due.seconds:.3f} s.")
            playing.error = error
        finally:
            playing._over.set()

    thread = threading.Thread(target=run, name="netlab-play", daemon=True)
    thread.start()
    try:
        yield playing
    finally:
        stop.set()
        thread.join()
        left = [name_of(due.event) for due in playing.unfinished]
        timeline.record("lab", "schedule ends", **({"unfinished": left} if left else {}))
    if playing.error is not None:
        raise playing.error
