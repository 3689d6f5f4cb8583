"""One person's terminal: a shell on a pseudo-terminal, and an emulator (pyte) that knows what is to be seen on it."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import signal
import struct
import subprocess
import termios
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import psutil
import pyte

GUARD = 60.0  # seconds after which what should have been seen is missed
COLUMNS, ROWS = 80, 24
TALL = 400  # lines that the emulator keeps; programs are told ROWS, and nothing here reaches the last one
NAP = 0.01  # seconds between two looks at a process or at the screen


class Spawn(Protocol):
    """How a process is started where the person is: that of a machine of the lab."""

    def __call__(self, argv: Sequence[str], **kwargs: Any) -> subprocess.Popen[Any]: ...


class ScreenError(Exception):
    """Something that should have been on a screen was not; the message holds the screen."""


@dataclass(frozen=True, slots=True)
class Silence:
    """A command of this person said nothing for so many seconds, after this line."""

    who: str
    seconds: float
    after: str


class Terminal:
    """What `who` types goes through a shell of theirs, and through the echo of a terminal, like anybody's."""

    def __init__(
        self,
        who: str,
        spawn: Spawn,
        home: str,
        environment: Mapping[str, str],
        *,
        title: str = "",
        columns: int = COLUMNS,
        prepare: str = ":",
    ) -> None:
        """`title`: what stands above the screen. `home`: where the shell starts. `prepare`: run beforehand by root in a
        mount namespace of its own."""
        self.who = who
        self.title = title or who
        self.columns = columns
        self.silences: list[Silence] = []
        self._frames: list[str] = []
        self._prompt = f"{who}$"
        self._raw = ""  # of the command that runs, or ran last
        self._heard = time.monotonic()
        self._lock = threading.Lock()
        self._screen = pyte.Screen(columns, TALL)
        self._stream = pyte.ByteStream(self._screen)
        self._ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, columns, 0, 0))
        shell = "exec bash --norc --noprofile --noediting -i"
        self._shell = spawn(
            ["unshare", "--mount", "sh", "-c", f"{prepare} && cd '{home}' && {shell}"],
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
            env={**environment, "PS1": f"{self._prompt} ", "PS2": "> ", "HISTFILE": ""},
        )
        os.close(theirs)
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()
        self.ends()

    # what the person does

    def types(self, line: str) -> None:
        """A command, or the answer to what was asked."""
        is_command = self.is_at_prompt
        if is_command:
            with self._lock:
                self._raw, self._heard = "", time.monotonic()
        os.write(self._ours, line.encode() + b"\r")
        if is_command:
            self.sees(r"\n")  # before that the prompt could be taken for the next one

    def stops(self) -> None:
        """Ctrl-C."""
        os.write(self._ours, b"\x03")

    def sees(self, pattern: str, guard: float = GUARD) -> re.Match[str]:
        """Waits until the command that runs has written it; `guard` in seconds. Raises ScreenError."""
        limit = time.monotonic() + guard
        while True:
            with self._lock:
                found = re.search(pattern, self._raw)
            if found is not None:
                return found
            if time.monotonic() > limit:
                raise ScreenError(f"{self.who} does not see {pattern!r} within {guard:.0f} s:\n{self.text}")
            time.sleep(NAP)

    def ends(self, guard: float = GUARD) -> None:
        """Waits until the command is over: the shell asks for the next one. Raises ScreenError."""
        limit = time.monotonic() + guard
        while not self.is_at_prompt:
            if time.monotonic() > limit:
                raise ScreenError(f"{self.who}'s command does not end within {guard:.0f} s:\n{self.text}")
            time.sleep(NAP)

    def asks_for_exit_code(self) -> None:
        """Shows how the last command ended, as a person does who wants to know."""
        self.ends()
        self.types("echo $?")
        self.ends()

    def place(self, path: str) -> Path:
        """What bears this name for the person, who has mounts of their own."""
        return Path(f"/proc/{self._shell.pid}/root") / path.lstrip("/")

    def kills(self) -> None:
        """kill -9 of what runs in this terminal: a power cut, as far as the program can tell."""
        for process in psutil.Process(self._shell.pid).children(recursive=True):
            process.send_signal(signal.SIGKILL)

    # what is to be seen

    @property
    def is_at_prompt(self) -> bool:
        with self._lock:
            row = self._screen.display[self._screen.cursor.y].rstrip()
            return row == self._prompt and self._screen.cursor.x == len(self._prompt) + 1

    @property
    def text(self) -> str:
        """All that the screen has shown and that was not written over, without the prompt that waits."""
        with self._lock:
            lines = [line.rstrip() for line in self._screen.display]
        while lines and lines[-1] in ("", self._prompt):
            lines.pop()
        return "\n".join(lines)

    def frame(self, beginning: str) -> str:
        """The first state of the last line that begins so. Raises ScreenError."""
        return self._first_frame(lambda line: line.startswith(beginning), repr(beginning))

    def frame_at(self, share: int) -> str:
        """The first state of the last line that says that so many percent, or more, have crossed."""

        def is_there(line: str) -> bool:
            found = re.match(r" *(\d+) %", line)
            return found is not None and share <= int(found[1])

        return self._first_frame(is_there, f"at {share} %")

    def _first_frame(self, is_wanted: Callable[[str], bool], what: str) -> str:
        with self._lock:
            frames = list(self._frames)
        for frame in frames:
            if is_wanted(frame):
                return frame
        raise ScreenError(f"{self.who}'s last line never was {what}, but\n" + "\n".join(frames))

    def close(self) -> None:
        """Ends the shell and what runs in it."""
        if self._shell.poll() is None:
            self.kills()
            self._shell.kill()
            self._shell.wait()
        self._thread.join(GUARD)
        os.close(self._ours)

    def _read(self) -> None:
        with suppress(OSError):  # EIO: nobody holds the other end any more
            while data := os.read(self._ours, 65536):
                was_at_prompt = self.is_at_prompt
                with self._lock:
                    now = time.monotonic()
                    row = self._screen.display[self._screen.cursor.y].rstrip()
                    if not was_at_prompt:
                        self.silences.append(Silence(self.who, now - self._heard, row or self._last_line()))
                    self._heard = now
                    self._stream.feed(data)
                    self._raw += data.decode(errors="replace")
                    frame = self._screen.display[self._screen.cursor.y].rstrip()
                    if not self._frames or self._frames[-1] != frame:
                        self._frames.append(frame)

    def _last_line(self) -> str:
        return next((line.rstrip() for line in reversed(self._screen.display) if line.strip()), "")


def exit_codes(*people: Terminal) -> None:
    """Shows in that order how the last command of each ended."""
    for person in people:
        person.asks_for_exit_code()
