"""Part `pipe`: a program's output into another program's input, and what becomes of a program that fails."""

from __future__ import annotations

import os
import shlex
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import IO

from bench.copying import GUARD, killed_after
from bench.measure import Usage, Watched
from bench.trees.sides import Sides, Verdict, await_end, memory

STREAM = [sys.executable, "-m", "bench.trees.stream"]
SLOWEST = 10e6  # bytes a second; with less the run is given up
FAILING = 30_000_000  # bytes that a producer writes before it fails
ALL = 1 << 62  # bytes that a consumer takes which wants everything


@dataclass(frozen=True, slots=True)
class Case:
    """`code`: how the producer ends. `taken`: bytes after which the consumer goes away. Both then say `ends`."""

    name: str
    is_command: bool
    code: int
    taken: int
    ends: tuple[int, int]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What each of the four said: exit codes of sender and receiver, bytes and hash of producer and consumer."""

    codes: tuple[int, int]
    produced: str
    consumed: str
    seconds: float
    usage: tuple[Usage, Usage]


CASES = (
    Case("--from-command, ends well", True, 0, ALL, (0, 0)),
    Case("--from-command, ends with 3", True, 3, ALL, (8, 8)),
    Case("--from-command, killed", True, -signal.SIGKILL, ALL, (8, 8)),
    Case("producer | send -, ends with 3", False, 3, ALL, (0, 0)),  # a shell tells nobody
    Case("the consumer goes away", False, 0, FAILING // 3, (9, 9)),
)


def run(sides: Sides, size: int) -> Iterator[str | Verdict]:
    """`size` bytes through the pipe, then a few for each way to fail."""
    whole = _pipe(sides, size, Case("whole", False, 0, ALL, (0, 0)))
    yield (
        f"{size:,} B in {whole.seconds:.1f} s from the first program's start: {size * 8 / whole.seconds / 1e9:.2f} "
        f"Gbit/s, CPU {whole.usage[0].cpu_seconds:.0f} s and {whole.usage[1].cpu_seconds:.0f} s"
    )
    yield Verdict("exit codes 0, 0", str(whole.codes), whole.codes == (0, 0))
    yield Verdict("what was written was read", whole.consumed, whole.produced == whole.consumed != "")
    yield memory(*(each.peak_bytes for each in whole.usage))
    for case in CASES:
        outcome = _pipe(sides, FAILING, case)
        wanted = f"{case.name}: {case.ends[0]}, {case.ends[1]}"
        yield Verdict(wanted, f"{outcome.codes[0]}, {outcome.codes[1]}", outcome.codes == case.ends)


def _pipe(sides: Sides, size: int, case: Case) -> Outcome:
    produce = [*STREAM, "produce", str(size), str(case.code)]
    start = time.monotonic()
    with ExitStack() as stack:
        into, out = _ends(stack)
        consumer = Watched(sides.lab.host("bob"), [*STREAM, "consume", str(case.taken)], stdin=into)
        receiver = sides.receive_into(out)
        stack.enter_context(killed_after(consumer, receiver))
        producer = None
        if case.is_command:
            sender = sides.send("--from-command", shlex.join(produce))
        else:
            source, sink = _ends(stack)
            producer = Watched(sides.lab.host("alice"), produce, stdout=sink)
            sender = sides.send("-", stdin=source)
            stack.enter_context(killed_after(producer))
            source.close()
            sink.close()
        stack.enter_context(killed_after(sender))
        into.close()
        out.close()
        codes = await_end(sender, GUARD + size / SLOWEST), await_end(receiver)
        await_end(consumer)
        seconds = time.monotonic() - start
        if producer is not None:
            await_end(producer)
        produced = "" if producer is None else producer.words()
        return Outcome(codes, produced, consumer.words(), seconds, (sender.usage(), receiver.usage()))


def _ends(stack: ExitStack) -> tuple[IO[bytes], IO[bytes]]:
    """Those of a new pipe: where it is read, and where it is written."""
    reading, writing = os.pipe()
    return stack.enter_context(open(reading, "rb", 0)), stack.enter_context(open(writing, "wb", 0))
