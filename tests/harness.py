"""Runs the real programs, on loopback or inside a lab host, and reads both screens."""

from __future__ import annotations

import atexit
import contextlib
import hashlib
import json
import os
import queue
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any, TypeVar

from blake3 import blake3

GUARD = 60.0  # seconds after which a program that should have ended is killed and the test fails
LAST_PROGRESS = 2  # events of progress that are worth reading before another one
CODE = "amber-walnut-tiger"
ROOT = Path(__file__).parents[1]
STATE = tempfile.mkdtemp(prefix="p2p-tests-")  # where the programs remember things, instead of the tester's own folder
atexit.register(shutil.rmtree, STATE, ignore_errors=True)
ENVIRONMENT = {"PYTHONPATH": str(ROOT), "XDG_STATE_HOME": STATE, "XDG_DATA_HOME": STATE}

Spawn = Callable[..., "subprocess.Popen[Any]"]
Found = TypeVar("Found")


def thinned(out: str) -> str:
    """Of progress events of --json that follow each other the first one and the last, and how many were between."""
    lines: list[str] = []
    for is_progress, group in groupby(out.splitlines(keepends=True), lambda line: '"event": "progress"' in line):
        same = list(group)
        if is_progress and len(same) > 1 + LAST_PROGRESS:
            same[1:-LAST_PROGRESS] = [f"... and {len(same) - 1 - LAST_PROGRESS} events more of progress ...\n"]
        lines += same
    return "".join(lines)


class Program:
    """A process whose stdout and stderr are read as they come."""

    def __init__(self, spawn: Spawn, arguments: Sequence[str], *, cwd: Path | None = None, **kwargs: Any) -> None:
        own = {name: value for name, value in os.environ.items() if not name.startswith("P2P_")}
        environment = own | ENVIRONMENT | kwargs.pop("env", {})
        self.process = spawn(
            [sys.executable, *arguments],
            stdin=kwargs.pop("stdin", subprocess.DEVNULL),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment,
            cwd=cwd,
            **kwargs,
        )
        self.out, self.err = "", ""
        self._news: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._threads = [
            threading.Thread(target=self._read, args=(name,), daemon=True) for name in ("stdout", "stderr")
        ]
        for thread in self._threads:
            thread.start()

    def _read(self, name: str) -> None:
        with contextlib.suppress(ValueError, OSError), getattr(self.process, name) as stream:  # the lab may close it
            while data := os.read(stream.fileno(), 65536):
                text = data.decode(errors="replace")
                if name == "stdout":
                    self.out += text
                else:
                    self.err += text
                self._news.put(None)
        self._news.put(None)

    def wait_for(self, pattern: str, guard: float = GUARD) -> re.Match[str]:
        """Waits until stderr or stdout shows the pattern."""
        return self.wait_until(
            lambda: re.search(pattern, self.err) or re.search(pattern, self.out), repr(pattern), guard
        )

    def wait_for_events(self, name: str, count: int = 1, guard: float = GUARD) -> None:
        """Waits until --json printed so many of them."""
        words = f'"event": "{name}"'
        what = f"{count} events {name}"
        self.wait_until(lambda: self.out.rpartition("\n")[0].count(words) >= count or None, what, guard)

    def wait_until(self, look: Callable[[], Found | None], what: str, guard: float = GUARD) -> Found:
        """What `look` finds on the screens, at which it looks whenever they show more. `what`: in words."""
        deadline = time.monotonic() + guard
        while True:
            if (found := look()) is not None:
                return found
            try:
                self._news.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                raise AssertionError(f"no {what} within {guard} s in:\n{self.said}") from None
            if self.process.poll() is not None and not any(t.is_alive() for t in self._threads):
                found = look()
                assert found is not None, f"ended without {what}:\n{self.said}"
                return found

    def finish(self, guard: float = GUARD) -> int:
        """The exit code. Kills the program and fails when it does not end."""
        try:
            code = self.process.wait(guard)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(f"did not end within {guard} s:\n{self.said}") from None
        for thread in self._threads:
            thread.join(guard)
        return code

    def interrupt(self) -> None:
        self.process.send_signal(signal.SIGINT)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        for thread in self._threads:
            thread.join(GUARD)

    @property
    def said(self) -> str:
        """Both screens, for the words of a failure: stderr, then stdout with its progress thinned."""
        return self.err + thinned(self.out)

    @property
    def events(self) -> list[dict[str, Any]]:
        """What --json printed, in whole lines."""
        return [json.loads(line) for line in self.out.splitlines(keepends=True) if line.endswith("\n")]

    def event(self, name: str) -> dict[str, Any]:
        """The first of them; waits for it."""
        return self.wait_until(lambda: next(iter(self.events_named(name)), None), f"event {name}", GUARD)

    def events_named(self, name: str) -> list[dict[str, Any]]:
        return [event for event in self.events if event["event"] == name]


class Stage:
    """A server and as many peers as a test starts; all of them are dead when it ends."""

    def __init__(self, server_spawn: Spawn, server_host: str, server_port: int) -> None:
        self._programs: list[Program] = []
        self._server_spawn, self._server_host = server_spawn, server_host
        self.address = ""
        self.start_server(server_port)

    def start_server(self, port: int = 0, *options: str) -> Program:
        arguments = ["-m", "p2p.server", "--host", self._server_host, "--port", str(port), *options]
        self.server = self._start(self._server_spawn, arguments)
        found = self.server.wait_for(r"listening on (\S+) ports (\d+) and (\d+)")
        host = f"[{self._server_host}]" if ":" in self._server_host else self._server_host
        self.address = f"{host}:{found[2]}"
        return self.server

    @property
    def port(self) -> int:
        return int(self.address.rpartition(":")[2])

    def send(
        self, *words: str | Path, spawn: Spawn = subprocess.Popen, code: str | None = CODE, **kwargs: Any
    ) -> Program:
        return self._peer("send", words, spawn, code, **kwargs)

    def recv(
        self, *words: str | Path, spawn: Spawn = subprocess.Popen, code: str | None = CODE, **kwargs: Any
    ) -> Program:
        return self._peer("recv", words, spawn, code, **kwargs)

    def close(self) -> None:
        for program in self._programs:
            program.kill()

    def _peer(
        self, verb: str, words: Sequence[str | Path], spawn: Spawn, code: str | None, **kwargs: Any
    ) -> Program:
        arguments = ["-m", "p2p.peer", verb, *map(str, words), "--server", kwargs.pop("server", self.address)]
        if code is not None:
            arguments += ["--code", code]
        return self._start(spawn, arguments, **kwargs)

    def _start(self, spawn: Spawn, arguments: Sequence[str], **kwargs: Any) -> Program:
        program = Program(spawn, arguments, **kwargs)
        self._programs.append(program)
        return program


@contextlib.contextmanager
def stage(
    server_spawn: Spawn = subprocess.Popen, server_host: str = "127.0.0.1", server_port: int = 0
) -> Iterator[Stage]:
    made = Stage(server_spawn, server_host, server_port)
    try:
        yield made
    finally:
        made.close()


def make_file(path: Path, size: int, seed: int = 1) -> str:
    """A file of this many bytes that no compression would shrink; returns its BLAKE3 hash."""
    block = hashlib.sha256(seed.to_bytes(4, "big")).digest() * 2048
    digest = blake3()
    with path.open("wb") as file:
        for number in range(-(-size // len(block))):
            piece = (number.to_bytes(8, "big") + block[8:])[: size - number * len(block)]
            file.write(piece)
            digest.update(piece)
    return digest.hexdigest()


def hash_of(path: Path) -> str:
    return blake3().update_mmap(path).hexdigest()


def left_over(directory: Path) -> list[str]:
    """Temporary files that should not be there any more."""
    return [path.name for path in directory.iterdir() if path.name.startswith(".p2p-")]


Node = tuple[str, int, object]  # kind, permission bits, and what else has to be equal


def tree_of(root: Path) -> dict[str, Node]:
    """All below `root`, itself too: what has to be the same on both sides. Names are bytes, shown as text."""
    found: dict[str, Node] = {}
    linked: dict[tuple[int, int], str] = {}
    for folder, folders, files in os.walk(root):
        for name in [".", *folders, *files]:
            path = Path(folder) / name
            status = path.lstat()
            key = os.path.relpath(path, root)
            if path.is_symlink():
                found[key] = ("link", 0, os.readlink(path))
            elif path.is_dir():
                found[key] = ("folder", status.st_mode & 0o777, status.st_mtime_ns)
            else:
                same = linked.setdefault((status.st_dev, status.st_ino), key)
                found[key] = ("file", status.st_mode & 0o777, (hash_of(path), status.st_mtime_ns, same))
    return found
