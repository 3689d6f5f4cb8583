"""Looks for what a lab may have left on the machine."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path


@contextmanager
def users_of(spaces: set[int]) -> Iterator[set[int]]:
    """The processes that use one of these network namespaces (their inodes); during the block no other gets its inode.

    The kernel gives the number of a namespace that is gone to the next one, of whatever lab. So we
    hold them open ourselves.
    """
    with ExitStack() as stack:
        held: set[int] = set()
        for link, inode in _links():
            if inode in spaces - held:
                fd = os.open(link, os.O_RDONLY | os.O_CLOEXEC)
                stack.callback(os.close, fd)
                held.add(os.fstat(fd).st_ino)
        assert held == spaces
        yield users_now(spaces)


def users_now(spaces: set[int]) -> set[int]:
    """The processes, except this one, that are in one of the namespaces or hold one open."""
    return {int(link.parts[2]) for link, inode in _links() if inode in spaces} - {os.getpid()}


def _links() -> Iterator[tuple[Path, int]]:
    """What leads to a network namespace in /proc, with the namespace's inode."""
    for process in Path("/proc").glob("[0-9]*"):
        for link in (process / "ns/net", *_fds(process)):
            try:
                target = os.readlink(link)
            except OSError:  # it ended while we looked, or is none of our business
                continue
            if target.startswith("net:["):
                yield link, int(target[5:-1])


def _fds(process: Path) -> list[Path]:
    try:
        return list((process / "fd").iterdir())
    except OSError:
        return []
