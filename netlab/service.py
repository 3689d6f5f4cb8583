"""A program that a lab can kill and start again, under a name."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from netlab.kernel import LabError
from netlab.timeline import Timeline


class Service:
    """Made by :meth:`netlab.node.Node.service`, which starts it. Not for two threads at once."""

    def __init__(self, name: str, spawn: Callable[[], subprocess.Popen[Any]], timeline: Timeline) -> None:
        self.name = name
        self._spawn = spawn
        self._timeline = timeline
        self.process = spawn()
        """The process of the latest start; each start has pipes of its own."""

    def start(self) -> None:
        """Run it again. Raises ``LabError`` when it still runs, and what ``subprocess.Popen`` raises."""
        if self.process.poll() is None:
            raise LabError(f"service {self.name} runs already (pid {self.process.pid}): kill it first")
        with self._timeline.doing(self.name, "start-service"):
            self.process = self._spawn()

    def kill(self) -> None:
        """End it and its process group at once, by SIGKILL. Raises ``LabError`` when it ended by itself before."""
        if (code := self.process.poll()) is not None:
            raise LabError(f"service {self.name} cannot be killed: it ended before (exit {code})")
        with self._timeline.doing(self.name, "kill-service"):
            with suppress(ProcessLookupError):  # it ends by itself just now
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()

    def restart(self) -> None:
        """:meth:`kill`, then :meth:`start`."""
        self.kill()
        self.start()
