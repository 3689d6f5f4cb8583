"""A rival that is a library: a small program of ours copies one file over it.

    receive ADDRESS FILE          says `ready TICKET` on stdout when it can be connected to
    send TICKET FILE              ends when the receiver has the whole file

Both end with 0 when all went well. The receiver writes to FILE as bytes come.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.copying import GUARD, Job, Pair, killed_after
from bench.measure import Watched


@dataclass(frozen=True, slots=True)
class SmallProgram:
    """`command` starts it; the words above follow."""

    command: Sequence[str]

    @contextmanager
    def start(self, job: Job, out: Path) -> Iterator[Pair]:
        """Both halves, the receiver first; killed at the end of the block."""
        bob, saved = job.lab.host("bob"), out / job.source.name
        receiver = Watched(bob, [*self.command, "receive", bob.address, str(saved)])
        with killed_after(receiver):
            ticket = receiver.wait_for(r"^ready (\S+)$", GUARD)[1]
            sender = Watched(job.lab.host("alice"), [*self.command, "send", ticket, str(job.source)])
            with killed_after(sender):
                yield Pair(sender, receiver)
