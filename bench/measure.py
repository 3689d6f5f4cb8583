"""A program under measurement, and the files that it moves."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import tempfile
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

LOOK = 0.05  # seconds between two looks at a process; its last look is at most so old when it ends
CLOCK_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Usage:
    """CPU seconds (user and system) and peak resident memory."""

    cpu_seconds: float
    peak_bytes: int


@dataclass(frozen=True, slots=True)
class Finished:
    events: list[dict[str, Any]]
    usage: Usage


class Watched:
    """A process that prints JSON events; its use of CPU and memory is read from /proc while it runs."""

    def __init__(
        self, spawn: Callable[..., subprocess.Popen[Any]], command: Sequence[str], environment: dict[str, str]
    ) -> None:
        self._out = tempfile.TemporaryFile()  # noqa: SIM115
        self._process = spawn(
            command,
            stdin=subprocess.DEVNULL,
            stdout=self._out,
            stderr=subprocess.PIPE,
            env={k: v for k, v in os.environ.items() if not k.startswith("P2P_")} | environment,
        )
        self._usage = Usage(0.0, 0)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def finish(self, guard: float) -> Finished:
        """Raises AssertionError with the program's words when it failed."""
        _, words = self._process.communicate(timeout=guard)
        self._ended.set()
        self._thread.join()
        assert self._process.returncode == 0, words.decode()
        self._out.seek(0)
        events = [json.loads(line) for line in self._out]
        self._out.close()
        return Finished(events, self._usage)

    def _watch(self) -> None:
        folder = Path(f"/proc/{self._process.pid}")
        while not self._ended.wait(LOOK):
            try:
                fields = (folder / "stat").read_text().rpartition(")")[2].split()
                status = (folder / "status").read_text()
            except (FileNotFoundError, ProcessLookupError):
                return
            if "VmHWM:" in status:
                peak = int(status.partition("VmHWM:")[2].split()[0]) * 1024
                self._usage = Usage((int(fields[11]) + int(fields[12])) / CLOCK_TICKS, peak)


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
