"""magic-wormhole, with a mailbox server and a transit relay of its own on the lab's server.

The addresses are public, so it connects directly (TCP); the relay is there because it insists on knowing one.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.copying import GUARD, Job, Pair, copy, killed_after
from bench.measure import Watched
from bench.rivals import need_module
from bench.rows import Sample

MAILBOX, TRANSIT = 4000, 4001  # ports
CODE = "7-amber-walnut"


@dataclass(frozen=True, slots=True)
class Wormhole:
    name: str = "magic-wormhole"

    def missing(self) -> list[str]:
        modules = ("wormhole", "wormhole_mailbox_server", "wormhole_transit_relay")
        return [words for module in modules for words in need_module(module)]

    def run(self, job: Job) -> Sample:
        return copy(job, self.start)

    @contextmanager
    def start(self, job: Job, out: Path) -> Iterator[Pair]:
        server = job.lab.host("server")
        twist = [sys.executable, "-m", "twisted"]
        with tempfile.TemporaryDirectory() as state:  # the mailbox keeps a data base where it is started
            where = Path(state)
            mailbox = Watched(server, [*twist, "wormhole-mailbox", "--port", f"tcp:{MAILBOX}"], cwd=where)
            relay = Watched(server, [*twist, "transitrelay", "--port", f"tcp:{TRANSIT}"], cwd=where)
            with killed_after(mailbox, relay):
                mailbox.wait_for(f"starting on {MAILBOX}", GUARD)
                relay.wait_for(f"starting on {TRANSIT}", GUARD)
                at = server.address
                known = ["--relay-url", f"ws://{at}:{MAILBOX}/v1", "--transit-helper", f"tcp:{at}:{TRANSIT}"]
                client = [sys.executable, "-m", "wormhole", *known]
                quiet = "--hide-progress"
                saved = str(out / job.source.name)
                sender = Watched(job.lab.host("alice"), [*client, "send", quiet, "--code", CODE, str(job.source)])
                taking = [*client, "receive", quiet, "--accept-file", "--output-file", saved, CODE]
                receiver = Watched(job.lab.host("bob"), taking)
                with killed_after(sender, receiver):
                    yield Pair(sender, receiver)
