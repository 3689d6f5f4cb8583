"""Puts scapy into the link between a host and its router: the edge of :mod:`netlab.faults` to the kernel."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import NoReturn

from netlab import kernel, namespace
from netlab.cable import FAR, NEAR, Cable
from netlab.faults import FaultPlan, to_json
from netlab.namespace import Family

STOP_LIMIT = 30  # seconds for the fault injector to forward what it has read and end


@contextmanager
def injected(cable: Cable, family: Family, plans: Sequence[FaultPlan]) -> Iterator[Injection]:
    """Let a fault injector do what ``plans`` say in ``cable``; see :meth:`netlab.lab.Lab.inject`."""
    with ExitStack() as stack:
        (middle,) = namespace.create(1)
        stack.callback(middle.close)
        stack.enter_context(cable.without_offloads())
        stack.enter_context(cable.spliced(middle))
        cable.router_offloads_off()
        process = family.popen(
            middle,
            [sys.executable, "-m", "netlab.inject", NEAR, FAR],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
            text=True,
        )
        injection = Injection(process)
        stack.callback(injection._kill)
        injection._start(plans)
        yield injection
        injection._stop()


class Injection:
    """A process in the path. Its counts are known after the block, and as of each command.

    ``counts``: packets ``chosen`` and ``untouched``; by action ``pass``, ``drop``, ``duplicate``, ``hold``,
    ``corrupt``, ``truncate``, ``replay``; ``released`` ones that were held, ``replayed`` copies.
    ``by_plan``: the same for each plan.
    """

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self.counts: Counter[str] = Counter()
        self.by_plan: list[Counter[str]] = []

    def release(self) -> None:
        """Forward all that is held. When this returns, it is on the wire. Raises ``LabError``."""
        self._command("release")

    def replay(self) -> None:
        """Send copies of all that met a ``Replay`` so far; may be said again. Raises ``LabError``."""
        self._command("replay")

    def _start(self, plans: Sequence[FaultPlan]) -> None:
        if self._ask(json.dumps([to_json(plan) for plan in plans])) != "ready\n":
            self._fail()

    def _command(self, word: str) -> None:
        if not (answer := self._ask(word)):
            self._fail()
        self._count(answer)

    def _ask(self, line: str) -> str:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(line + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            return ""  # its last words are told by who called
        return self._process.stdout.readline()

    def _stop(self) -> None:
        if self._process.poll() is not None:
            self._fail()
        out, _ = self._process.communicate(timeout=STOP_LIMIT)
        if self._process.returncode != 0:
            self._fail()
        self._count(out)

    def _count(self, line: str) -> None:
        total, *of_plans = json.loads(line)
        self.counts, self.by_plan = Counter(total), [Counter(each) for each in of_plans]

    def _fail(self) -> NoReturn:
        self._process.kill()
        _, words = self._process.communicate()
        raise kernel.LabError(f"the fault injector ended (exit {self._process.returncode}): {words.strip()}")

    def _kill(self) -> None:
        self._process.kill()
        self._process.wait()
