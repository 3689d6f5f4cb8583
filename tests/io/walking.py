"""Walks of real trees, in words."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from p2p.core.transfer.entries import Entry, File, Folder, Hardlink, Leave, Skipped, Symlink
from p2p.io.sending.sources import look_up
from p2p.io.sending.walk import Exclude, Found, Walk

ALL = Exclude([])


def take_all(walk_: Walk, count: int = 3) -> Iterator[Found]:
    is_last = False
    while not is_last:
        batch, is_last = walk_.take(count)
        assert len(batch) <= count
        yield from batch


def found(*paths: Path, exclude: Exclude = ALL) -> list[Found]:
    return list(take_all(Walk(look_up(paths), exclude)))


def entries(*paths: Path, exclude: Exclude = ALL) -> list[Entry]:
    return [entry for entry, _ in found(*paths, exclude=exclude)]


def told(entries_: list[Entry]) -> list[str]:
    """What is said, on one line each, with the path that the other side makes of it."""
    lines: list[str] = []
    folders: list[str] = []
    for entry in entries_:
        if isinstance(entry, Leave):
            folders.pop()
            continue
        path = "/".join([*folders, entry.name])
        match entry:
            case Folder():
                lines.append(path + "/")
                folders.append(entry.name)
            case Symlink(target=target):
                lines.append(f"{path} -> {target}")
            case Hardlink(to=to):
                lines.append(f"{path} = {to}")
            case Skipped(reason=reason, exit_code=code):
                lines.append(f"{path} {int(code)} {reason}")
            case File():
                lines.append(path)
    assert not folders
    return lines


def make_tree(folder: Path, *paths: str) -> Path:
    """Those that end with a slash are folders."""
    for path in paths:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).mkdir() if path.endswith("/") else (folder / path).write_text(path)
    return folder
