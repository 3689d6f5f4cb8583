"""The one guarded place through which every write of a received thing goes."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Collection, Sequence
from enum import Enum, auto

from p2p.io.journal import Journal
from p2p.io.sources import PathLike


class Policy(Enum):
    """What to do where a name is taken."""

    RENAME = auto()
    """Number it: `name (1).ext`."""
    OVERWRITE = auto()
    """Replace files, enter folders. What this transfer itself has stored is never replaced."""
    SKIP = auto()
    """Enter folders; leave a file alone whose content is the same, number others."""


class Destination:
    """The directory that receives, opened once. `close` (or leaving `with`) removes what is unfinished."""

    def __init__(
        self,
        directory: PathLike,
        *,
        policy: Policy = Policy.RENAME,
        journal: Journal | None = None,
        kept_parts: Collection[str] = (),
        random_bytes: Callable[[int], bytes] = secrets.token_bytes,
    ) -> None:
        """Raises StorageError. `kept_parts`: temporary files of earlier runs that journals need."""
        raise NotImplementedError

    # open(number, found) -> Part              in the loop: part.write(offset, pieces), leave_hole, keep
    # carry_out(jobs) -> list[Outcome]         in the worker: MakeFolder | LeaveFolder | Announced | MakeSymlink |
    #                                          MakeHardlink | Whole | Finish(number, part, ...) in order
