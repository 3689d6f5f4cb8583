"""A program that puts links where folders and files are: swapping.py INBOX ASIDE OUTSIDE, commands on its input.

    swap NAME    the folder NAME lies in ASIDE from here on, and a link to OUTSIDE bears its name
    race NAME    again and again, for a moment each, NAME, what a transfer makes in it, and parts, until the next line

It answers each command by a line: how many things it has swapped (of a race: until that next line).
"""

from __future__ import annotations

import os
import select
import sys
from collections.abc import Callable

HELD = 20  # looks at the input while a link lies there: about as long as a few system calls of the other program

Lure = Callable[[str], None]


class Swapper:
    def __init__(self, inbox: str, aside: str, outside: str) -> None:
        self._inbox, self._aside = inbox, aside
        self._precious = os.path.join(outside, "a.txt")
        self._for_folder: Lure = lambda path: os.symlink(outside, path)
        self._for_files: tuple[Lure, ...] = (
            lambda path: os.symlink(self._precious, path),
            lambda path: os.link(self._precious, path),
        )
        self._number = 0

    def swap(self, name: str) -> int:
        os.rename(os.path.join(self._inbox, name), os.path.join(self._aside, name))
        self._for_folder(os.path.join(self._inbox, name))
        return 1

    def race(self, name: str) -> int:
        count = 0
        while not _has_input():
            for folder in (name, f"{name}/b", f"{name}/b/c"):
                count += self._swap_for_a_moment(os.path.join(self._inbox, folder), self._for_folder)
            files = [f"{name}/{file}" for file in ("x", "y", "b/c/x", "b/c/y")]
            files += [part for part in os.listdir(self._inbox) if part.startswith(".p2p-")]
            for file in files:
                for lure in self._for_files:
                    count += self._swap_for_a_moment(os.path.join(self._inbox, file), lure)
        os.read(0, 100)
        return count

    def _swap_for_a_moment(self, path: str, lure: Lure) -> bool:
        """Returns whether something was there, and a link took its place."""
        self._number += 1
        aside = os.path.join(self._aside, str(self._number))
        if self._leads_out(path):
            return False
        was_there = _has_worked(lambda: os.rename(path, aside))
        is_placed = _has_worked(lambda: lure(path))
        if is_placed:
            for _ in range(HELD):
                _has_input()
            _has_worked(lambda: os.unlink(path))  # or what was stored in its place meanwhile
        if was_there:
            _has_worked(lambda: os.rename(aside, path))
        return was_there and is_placed

    def _leads_out(self, path: str) -> bool:
        """Whether a link is on the way: what this program did there would be blamed on the one that is tested."""
        while (path := os.path.dirname(path)) != self._inbox:
            if os.path.islink(path):
                return True
        return False


def _has_input() -> bool:
    return bool(select.select([0], [], [], 0)[0])


def _has_worked(call: Callable[[], None]) -> bool:
    try:
        call()
    except OSError:
        return False
    return True


def main() -> None:
    swapper = Swapper(*sys.argv[1:])
    while line := os.read(0, 100).decode():  # unbuffered, so that `select` sees what comes; one line at a time comes
        command, _, name = line.strip().partition(" ")
        if command == "swap":
            print(swapper.swap(name), flush=True)
        elif command == "race":
            print("racing", flush=True)
            print(swapper.race(name), flush=True)


if __name__ == "__main__":
    main()
