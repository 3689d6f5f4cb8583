"""A program under measurement, and the files that it moves."""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from netlab.node import Node

LOOK = 0.05  # seconds between two looks at a process's memory; the kernel keeps the peak while it lives
NAP = 0.002  # seconds between two looks at whether something has happened
CLOCK_TICKS = os.sysconf("SC_CLK_TCK")
ROOT = Path(__file__).parents[1]


class MeasuringError(Exception):
    """A program failed, or did not do what it was measured for; the message has its own words."""


@dataclass(frozen=True, slots=True)
class Usage:
    """CPU seconds (user and system, of its children too) and peak resident memory, 0 where nobody looked."""

    cpu_seconds: float
    peak_bytes: int


class Watched:
    """A process in the lab whose use of CPU and memory is known afterwards, and when it wrote each line to stdout.

    With a `stdout` of its own no line is read.
    """

    def __init__(
        self,
        node: Node,
        command: Sequence[str],
        environment: Mapping[str, str] | None = None,
        *,
        cwd: Path = ROOT,
        stdin: int | IO[bytes] | None = None,
        stdout: int | IO[bytes] | None = None,
    ) -> None:
        self.name = Path(command[0]).name
        self.lines: list[tuple[float, str]] = []  # monotonic seconds, text
        self._words = tempfile.TemporaryFile()  # noqa: SIM115  (what it says on stderr)
        self.started = time.monotonic()
        self.process: subprocess.Popen[Any] = node.popen(
            command,
            stdin=subprocess.DEVNULL if stdin is None else stdin,
            stdout=subprocess.PIPE if stdout is None else stdout,
            stderr=self._words,
            env=_environment() | dict(environment or {}),
            cwd=cwd,
        )
        self._said = ""
        self._peak = 0
        self._final: Usage | None = None  # known from its end on
        self._over = threading.Event()
        self._threads = [threading.Thread(target=work, daemon=True) for work in (self._read, self._look)]
        for thread in self._threads:
            thread.start()

    @property
    def has_ended(self) -> bool:
        """Whether the process is over; asking leaves it unreaped, so that its CPU time can still be read."""
        if self.process.returncode is not None:
            return True
        flags = os.WEXITED | os.WNOWAIT | os.WNOHANG
        return os.waitid(os.P_PID, self.process.pid, flags) is not None

    def wait_for(self, pattern: str, guard: float) -> re.Match[str]:
        """Waits until a line of stdout matches; `guard` in seconds. Raises MeasuringError."""
        limit, seen = time.monotonic() + guard, 0
        while True:
            over = self.has_ended and not self._threads[0].is_alive()
            while seen < len(self.lines):
                if found := re.search(pattern, self.lines[seen][1]):
                    return found
                seen += 1
            if over or time.monotonic() > limit:
                raise MeasuringError(f"{self.name} did not say {pattern!r}: {self.words()}")
            time.sleep(NAP)

    def check(self) -> None:
        """Raises MeasuringError when it has ended with something other than 0."""
        if self.has_ended and (code := self._reap()) != 0:
            raise MeasuringError(f"{self.name} ended with {code}: {self.words()}")

    def finish(self, guard: float) -> Usage:
        """Waits for its end; `guard` in seconds. Raises MeasuringError when it fails or does not end."""
        limit = time.monotonic() + guard
        while not self.has_ended:
            if time.monotonic() > limit:
                self.kill()
                raise MeasuringError(f"{self.name} did not end within {guard:.0f} s: {self.words()}")
            time.sleep(NAP)
        self.check()
        return self.usage()

    def usage(self) -> Usage:
        """What it has used until now."""
        if self._final is not None:
            return self._final
        # The clock of a process that has ended stays readable until it is reaped; its memory is gone by then.
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return Usage(sum(map(int, fields[11:15])) / CLOCK_TICKS, self._peak)

    def kill(self) -> None:
        """Ends it, if it still runs."""
        if self.process.returncode is None:
            self._final = self.usage()  # kill() reaps what has ended already
            self.process.kill()
            self._reap()

    def words(self) -> str:
        """The last of what it said."""
        if not self._words.closed:
            self._words.seek(0)
            self._said = self._words.read().decode(errors="replace").strip()
        said = self._said or "\n".join(text for _, text in self.lines[-5:])
        return said[-600:] or "(it said nothing)"

    def _reap(self) -> int:
        if self._final is None:
            self._final = self.usage()
        code: int = self.process.wait()
        self._over.set()
        for thread in self._threads:
            thread.join(1.0)
        self.words()
        self._words.close()
        return code

    def _read(self) -> None:
        stream = self.process.stdout
        if stream is None:
            return
        with suppress(ValueError, OSError), stream:  # the lab may close it
            for line in stream:
                self.lines.append((time.monotonic(), line.decode(errors="replace").rstrip()))

    def _look(self) -> None:
        status = Path(f"/proc/{self.process.pid}/status")
        while not self._over.is_set():
            try:
                text = status.read_text()
            except (FileNotFoundError, ProcessLookupError):
                return
            if "VmHWM:" in text:
                self._peak = int(text.partition("VmHWM:")[2].split()[0]) * 1024
            self._over.wait(LOOK)


def _environment() -> dict[str, str]:
    """Ours, without what would change how p2p works, or have Python compile all of it at each start."""
    left_out = ("P2P_", "PYTHONDONTWRITEBYTECODE", "PYTHONPROFILEIMPORTTIME", "PYTHONDEVMODE")
    return {name: value for name, value in os.environ.items() if not name.startswith(left_out)}


def make_file(path: Path, size: int) -> str:
    """A file of random bytes; returns its SHA-256."""
    block = os.urandom(min(size, 1 << 22)) or b""
    digest = hashlib.sha256()
    with path.open("wb") as file:
        for start in range(0, size, len(block) or 1):
            piece = block[: size - start]
            file.write(piece)
            digest.update(piece)
    return digest.hexdigest()


def touch_memory(folder: Path, size: int) -> None:
    """Writes and removes `size` bytes: a virtual machine gets memory from its host at the first touch, and slowly.

    What lies unused for a second or two may go back to the host, so this is done right before each run.
    """
    path = folder / "touched"
    with path.open("wb") as file:
        for _ in range(-(-size // (1 << 24))):
            file.write(bytes(1 << 24))
    path.unlink()


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
