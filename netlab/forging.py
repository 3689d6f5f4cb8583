"""The test's end of an attacker off the path: the edge of :mod:`netlab.forgery` to the kernel."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import NoReturn

from netlab.forgery import Forgery, to_json
from netlab.kernel import LabError
from netlab.node import Node

STOP_LIMIT = 30  # seconds for the forger to see that it shall end


@contextmanager
def forging(
    node: Node, forgeries: Sequence[Forgery], *, seed: int, rate: float | None, count: int | None
) -> Iterator[Forging]:
    """Let ``node`` send ``forgeries``; see :meth:`netlab.lab.Lab.forge`."""
    if not forgeries:
        raise ValueError("nothing to forge")
    process = node.popen(
        [sys.executable, "-m", "netlab.forge"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        text=True,
    )
    made = Forging(process)
    try:
        made._start({"forgeries": to_json(forgeries), "seed": seed, "rate": rate, "count": count})
        yield made
        made._stop(STOP_LIMIT)
    finally:
        made._kill()


class Forging:
    """An attacker at work. ``sent``: packets of each forgery, known after the block or :meth:`wait`."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self.sent: list[int] = []

    def wait(self, timeout: float) -> None:
        """Until all is sent that ``count`` allows. Raises ``subprocess.TimeoutExpired``, ``LabError``."""
        self._process.wait(timeout)
        self._stop(STOP_LIMIT)

    def _start(self, job: dict[str, object]) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps(job) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass  # its last words are told below
        if self._process.stdout.readline() != "ready\n":
            self._fail()

    def _stop(self, timeout: float) -> None:
        if self.sent:
            return
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        assert self._process.stderr is not None
        with suppress(BrokenPipeError):
            self._process.stdin.close()
        code = self._process.wait(timeout)
        if code != 0:
            raise LabError(f"the forger ended (exit {code}): {self._process.stderr.read().strip()}")
        # Not communicate(): it would miss what readline() has read ahead.
        self.sent = json.loads(self._process.stdout.readline())

    def _fail(self) -> NoReturn:
        self._process.kill()
        _, words = self._process.communicate()
        raise LabError(f"the forger did not start (exit {self._process.returncode}): {words.strip()}")

    def _kill(self) -> None:
        self._process.kill()
        self._process.wait()
