"""What is remembered of transfers that have not ended: which inode each path lies in, and under which name."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from p2p.core.errors import P2PError


class JournalInUse(P2PError):
    """Another program on this machine is receiving the same into the same folder. str() is for the person here."""

    public = "the receiver's machine is receiving this already"


class Node(NamedTuple):
    """A file or folder, whatever it is called."""

    device: int
    inode: int


@dataclass(frozen=True, slots=True)
class Row:
    """The inode that a path lies in. It bears `name`, or still `part` where that is not None (a file with both may have
    been killed just before it was named). `replaces`: the whole file of an earlier run that bears `name` while the
    inode is a new part which is to take its place.
    """

    path: str
    name: str | None
    part: str | None
    device: int
    inode: int
    replaces: Node | None = None


class Journals:
    """All journals of this machine, in the state folder."""

    def __init__(self, folder: Path) -> None:
        self.notes: list[str] = []
        """Sentences for the screen: what could not be used, and why. The caller empties it."""

    def find(self, token: bytes, directory: Path) -> Journal | None:
        """That of an earlier run that did not end, if it remembers anything. Raises JournalInUse, nothing else."""

    def begin(self, token: bytes, directory: Path) -> Journal:
        """A journal to write in: that of the earlier run, else a new one. Raises JournalInUse, nothing else.

        Where none can be made, one that forgets everything (`failure` says why).
        """
        raise NotImplementedError

    def parts_in(self, directory: Path) -> frozenset[str]:
        """The temporary names there that some journal still needs."""
        raise NotImplementedError

    def discard(self, directory: Path) -> int:
        """Forgets all journals of that folder and removes the parts they name. Returns how many it forgot.

        Raises JournalInUse if one of them is being written; the others are gone then.
        """
        raise NotImplementedError


class Journal:
    """Of one transfer into one folder. Thread-safe; no method raises.

    After a disk error it forgets everything that comes, and `failure` is a sentence for the screen.
    """

    failure: str | None = None

    def find(self, path: str) -> Row | None:
        """What an earlier run, or this one, has noted of a path."""

    def note_folder(self, path: str, name: str, status: os.stat_result) -> None:
        """Survives the end of this program at once, and a power cut with the next `note_named`."""

    def note_part(self, path: str, part: str, status: os.stat_result) -> bool:
        """A file begins in this part. Survives like a folder. Returns whether it is remembered: the part may stay."""
        raise NotImplementedError

    def note_named(self, rows: Sequence[Row]) -> bool:
        """These are whole, and get their names next; those of the call before have theirs. Durable when it returns.

        Blocks on the disk. Returns whether it is remembered. Of each row `path`, `name`, `device`, `inode` count.
        """
        raise NotImplementedError

    def drop_part(self, path: str) -> None:
        """The part of this path was removed."""

    def finish(self) -> None:
        """The transfer is done: removes the journal."""

    def close(self) -> None:
        """Leaves it for the next run."""
