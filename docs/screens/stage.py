"""Where a scene plays: alice and bob behind a router each, a rendezvous server outside, a terminal for each person.

    alice --- left --- core0 --- core1 --- right --- bob
              (NAT)                |       (NAT)
                            meet.example.org
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from docs.screens.terminal import COLUMNS, GUARD, Terminal
from netlab.lab import Lab
from netlab.nat import PORT_RESTRICTED
from netlab.topology import two_nats

ROOT = Path(__file__).parents[2]
SERVER = "meet.example.org"
PORT = 8080
CODE = "amber-walnut-tiger"
WHEN = 1_700_000_000  # seconds since 1970, of all files: a hash is of times as well
HOMES = "/media"  # where both find their homes: nobody's own files are there, and the page says the same each time
MOUNT_NAMES = "for file in hosts resolv.conf; do [ ! -e /etc/$file ] || mount --bind $file /etc/$file; done"


@dataclass(frozen=True, slots=True)
class Shot:
    """The last line of a screen, and the percentage it was waited for, if it was."""

    line: str
    share: int | None


class Stage:
    """One scene's people, network and files. `shots` are lines that were written over later, in order."""

    def __init__(self, lab: Lab, folder: Path) -> None:
        self.lab = lab
        self.folder = folder
        self.people: list[Terminal] = []
        self.shots: list[tuple[str, list[Shot]]] = []
        self._exit = ExitStack()
        self._programs = folder / "bin"
        self._programs.mkdir()
        program = self._programs / "p2p"
        program.write_text(f'#!/bin/sh\nexec {sys.executable} -m p2p.peer "$@"\n')
        program.chmod(0o755)
        (folder / "resolv.conf").write_text("nameserver 127.0.0.1\n")  # nobody is there
        (folder / "hosts").write_text(f"127.0.0.1 localhost\n{lab.host('server').address} {SERVER}\n")
        self._server: subprocess.Popen[str] | None = None

    def start_server(self) -> None:
        host = self.lab.host("server")
        command = [sys.executable, "-m", "p2p.server", "--host", host.address, "--port", str(PORT)]
        self._server = host.popen(
            command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=self._environment()
        )
        assert self._server.stdout is not None
        assert "listening" in self._server.stdout.readline(), "the server did not start"

    def stop_server(self) -> None:
        assert self._server is not None
        self._server.send_signal(signal.SIGTERM)
        self._server.wait(GUARD)

    def person(
        self, who: str, *, where: str = "", columns: int = COLUMNS, prepare: str = ":", **environment: str
    ) -> Terminal:
        """`where`: what stands above their screen, if not the name; `prepare`: what root runs before the shell;
        `environment`: beside the usual."""
        self.home(who).mkdir(exist_ok=True)
        home = f"{HOMES}/{who}"
        terminal = Terminal(
            who,
            self.lab.host(who).popen,
            home,
            self._environment() | {"HOME": home} | environment,
            title=where or who,
            columns=columns,
            prepare=f"cd '{self.folder}' && {MOUNT_NAMES} && mount --bind . {HOMES} && {prepare}",
        )
        self._exit.callback(terminal.close)
        self.people.append(terminal)
        return terminal

    def home(self, who: str) -> Path:
        """Where it really lies."""
        return self.folder / who

    def file(self, path: str, size: int, *, seed: int = 1) -> Path:
        """A file of alice's of `size` bytes that no compression would shrink."""
        file = self.home("alice") / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(random.Random(seed).randbytes(size))
        for each in (file, *file.parents[: len(Path(path).parts)]):
            os.utime(each, (WHEN, WHEN))
        return file

    def shoot(self, caption: str, person: Terminal, *moments: int | str) -> None:
        """Keeps what the last line of a screen was when so many percent had crossed, or when it began so."""
        shots = [
            Shot(person.frame_at(moment), moment) if isinstance(moment, int) else Shot(person.frame(moment), None)
            for moment in moments
        ]
        self.shots.append((caption, shots))

    def close(self) -> None:
        self._exit.close()

    def _environment(self) -> dict[str, str]:
        """The person's; nothing of ours."""
        return {
            "PATH": f"{self._programs}:{Path(sys.executable).parent}:{os.environ.get('PATH', os.defpath)}",
            "PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]),
            "LANG": "C.UTF-8",
            "TERM": "xterm-256color",
            "P2P_SERVER": SERVER,
        }


@contextmanager
def stage() -> Iterator[Stage]:
    """With a server that runs. Raises MissingRequirements, LabError, ScreenError."""
    with (
        tempfile.TemporaryDirectory(prefix="p2p-screens-", dir=_roomy()) as name,
        Lab(two_nats(PORT_RESTRICTED, PORT_RESTRICTED)) as lab,
    ):
        made = Stage(lab, Path(name))
        try:
            made.start_server()
            yield made
        finally:
            made.close()


def _roomy() -> str | None:
    """In memory, where there is such a place: no disk makes a scene slow."""
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
