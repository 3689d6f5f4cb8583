"""The two people of a part: where their programs run, what they remember, and what crosses between them."""

from __future__ import annotations

import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from bench.copying import GUARD
from bench.measure import NAP, MeasuringError, Watched
from bench.rivals.ours import CODE, PEER
from netlab.lab import Lab

MAX_MEMORY = 150e6  # bytes, of either side, whatever is sent


@dataclass(frozen=True, slots=True)
class Verdict:
    """What was wanted, and what was found."""

    wanted: str
    found: str
    holds: bool

    def __str__(self) -> str:
        return f"{'ok  ' if self.holds else 'BAD '} {self.wanted:48} {self.found}"


def memory(*peaks: int) -> Verdict:
    """Of sender and receiver, in bytes."""
    words = ", ".join(f"{peak / 1e6:.0f} MB" for peak in peaks)
    wanted = f"peak memory at most {MAX_MEMORY / 1e6:.0f} MB"
    return Verdict(wanted, words, all(0 < peak <= MAX_MEMORY for peak in peaks))


@dataclass(frozen=True, slots=True)
class Sides:
    """alice sends, bob receives; `folder` is theirs, and gone afterwards."""

    lab: Lab
    server: str
    folder: Path

    def send(self, *words: str | Path, stdin: int | IO[bytes] | None = None) -> Watched:
        command = [*PEER, "send", "alice", "bob", *map(str, words), *self._common(), "--json"]
        return Watched(self.lab.host("alice"), command, self._remembers("alice"), stdin=stdin)

    def receive(self, *words: str | Path) -> Watched:
        command = [*PEER, "recv", "bob", "alice", "--yes", *map(str, words), *self._common(), "--json"]
        return Watched(self.lab.host("bob"), command, self._remembers("bob"))

    def receive_into(self, stdout: IO[bytes]) -> Watched:
        """``recv --out -``."""
        command = [*PEER, "recv", "bob", "alice", "--yes", "--out", "-", *self._common()]
        return Watched(self.lab.host("bob"), command, self._remembers("bob"), stdout=stdout)

    def sent(self) -> int:
        """Bytes that have left alice's network interface since the lab is up.

        Everything is in it: headers, acknowledgements, introductions; a super-packet has its headers once.
        """
        return self._counted("alice", 8)

    def arrived(self) -> int:
        """Bytes that bob's network interface has taken."""
        return self._counted("bob", 0)

    def _counted(self, host: str, column: int) -> int:
        interface = self.lab.plan.attachments[host].host.interface
        text = self.lab.host(host).call(lambda: Path("/proc/thread-self/net/dev").read_text())
        fields = next(line for line in text.splitlines() if line.strip().startswith(f"{interface}:"))
        return int(fields.partition(":")[2].split()[column])

    def _common(self) -> Sequence[str]:
        return ["--server", self.server, "--code", CODE, "--quiet"]

    def _remembers(self, who: str) -> dict[str, str]:
        state = str(self.folder / f"state of {who}")
        return {"XDG_STATE_HOME": state, "XDG_DATA_HOME": state}


def await_end(program: Watched, guard: float = GUARD) -> int:
    """Its exit code, whatever that is. Raises MeasuringError when it does not end within `guard` seconds."""
    limit = time.monotonic() + guard
    while not program.has_ended:
        if time.monotonic() > limit:
            program.kill()
            raise MeasuringError(f"{program.name} did not end within {guard:.0f} s: {program.words()}")
        time.sleep(NAP)
    program.kill()  # reaps it
    return int(program.process.returncode)


def interrupt(program: Watched) -> int:
    """Ctrl-C; its exit code."""
    if not program.has_ended:
        program.process.send_signal(signal.SIGINT)
    return await_end(program)
