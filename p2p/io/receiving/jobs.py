"""What the thread that waits for the disk is asked to do, and what became of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from p2p.core.transfer.entries import File
from p2p.core.transfer.events import Announced, LeaveFolder, MakeFolder, MakeHardlink, MakeSymlink, Whole
from p2p.io.receiving.folders import Folder
from p2p.io.receiving.parts import Found, Part


def _ignore(_: int) -> None:
    pass


@dataclass(frozen=True, slots=True)
class Finish:
    """All of a part is written: it is to be made whole, durable, and to get its name (see events.Complete).

    `on_reread` is told, in the thread, of each so many bytes that were verified.
    """

    number: int
    part: Part
    size: int
    digest: bytes
    must_verify: bool
    on_reread: Callable[[int], None] = _ignore


@dataclass(frozen=True, slots=True)
class Discard:
    """This file will not be whole. `may_stay`: its part is left to the next run, if a journal names it."""

    number: int
    part: Part | None
    may_stay: bool = False


Job = MakeFolder | LeaveFolder | Announced | MakeSymlink | MakeHardlink | Whole | Finish | Discard


@dataclass(frozen=True, slots=True)
class Stored:
    """It is durable and bears `name` in its folder."""

    number: int
    name: str


@dataclass(frozen=True, slots=True)
class Problem:
    """It cannot be made; `words` name it, and no folder of this machine."""

    number: int
    words: str


@dataclass(frozen=True, slots=True)
class Damaged:
    """What lies on the disk is not what was sent."""

    path: str


@dataclass(frozen=True, slots=True)
class LookedUp:
    """What an announced file may have in common with one that is here."""

    number: int
    found: Found | None


Outcome = Stored | Problem | Damaged | LookedUp


@dataclass(slots=True)
class Waiting:
    """A file that was announced and is not stored."""

    number: int
    folder: Folder
    path: str
    entry: File
    found: Found | None = None


@dataclass(slots=True, eq=False)
class Ready:
    """A file all of whose content is written. `temporary` is empty where it has no name at all."""

    file: Waiting
    fd: int
    temporary: str = ""
    part: Part | None = None
    is_unchanged: bool = False
    """It is one that was there: it bears its name."""
    noted: str | None = None
    """The name under which the journal has it."""
    has_failed: bool = False
