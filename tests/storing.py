"""Jobs for a Destination, as a receiving machine would give them."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from itertools import count
from pathlib import Path

from p2p.core.transfer.entries import File
from p2p.core.transfer.events import Announced, Whole
from p2p.io.receiving.destination import Destination
from p2p.io.receiving.jobs import Finish, Outcome, Problem, Stored
from p2p.io.receiving.parts import Part

NUMBERS = count(1000)

Store = Callable[[Destination, File, bytes], str]


def entry(
    name: str = "a.txt", size: int = 3, mode: int = 0o644, mtime_ns: int = 10**18, *, is_linked: bool = False
) -> File:
    return File(name, mode, mtime_ns, size, is_linked)


def announce(destination: Destination, offered: File, parent: int | None = None, path: str = "") -> int:
    number = next(NUMBERS)
    assert not problems(destination.carry_out([Announced(number, parent, path or offered.name, offered)]))
    return number


def begin(destination: Destination, offered: File, content: bytes = b"", parent: int | None = None) -> Part:
    part = destination.open(announce(destination, offered, parent), offered.name)
    if content:
        part.write(0, [content])
    return part


def finish(destination: Destination, *parts: Part, size: int = 3) -> list[str]:
    outcomes = destination.carry_out([Finish(part.number, part, size, b"", must_verify=False) for part in parts])
    return names(outcomes)


def in_pieces(destination: Destination, offered: File, content: bytes = b"abc") -> str:
    return finish(destination, begin(destination, offered, content), size=len(content))[0]


def whole(destination: Destination, offered: File, content: bytes = b"abc") -> str:
    return names(destination.carry_out([Whole(announce(destination, offered), content, b"")]))[0]


def names(outcomes: list[Outcome]) -> list[str]:
    """Of what was stored; nothing else may have happened."""
    assert all(isinstance(outcome, Stored) for outcome in outcomes), outcomes
    return [outcome.name for outcome in outcomes if isinstance(outcome, Stored)]


def problems(outcomes: list[Outcome]) -> list[str]:
    return [outcome.words for outcome in outcomes if isinstance(outcome, Problem)]


def below(folder: Path) -> list[Path]:
    """All that lies below a folder, sorted. No link is followed: rglob looks where each leads, and fails where a target
    is too long for a name."""
    return sorted(Path(place, name) for place, folders, files in os.walk(folder) for name in (*folders, *files))


def snapshot(folder: Path) -> dict[str, tuple[object, ...]]:
    """All that can be seen of it, but when it was read."""
    seen: dict[str, tuple[object, ...]] = {}
    for path in (folder, *below(folder)):
        status = path.lstat()
        content = path.read_bytes() if stat.S_ISREG(status.st_mode) else b""
        seen[str(path)] = (status.st_mode, status.st_mtime_ns, status.st_ino, status.st_nlink, status.st_size, content)
    return seen


def tick(folder: Path) -> None:
    """Until the clock of the file system has moved on, so that what is there is older than what comes."""
    probe = folder / "probe"
    probe.touch()
    before = probe.stat().st_ctime_ns
    while probe.stat().st_ctime_ns <= before:
        probe.touch()
    probe.unlink()
