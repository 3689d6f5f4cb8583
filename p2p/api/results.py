"""What a program is told of a transfer: the offer, how far it is, and what became of it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from p2p.core.errors import ExitCode
from p2p.core.peer.events import PathChosen

MAX_FILES = 100_000  # files of a result that are listed one by one, some 30 MB: the other side says how many there are


@dataclass(frozen=True, slots=True)
class Offer:
    """What the sender wants to send. `names` are the first 16 of `things` files and folders that it named.

    `kind` is "tree", "pipe" (of no known size) or "text"; `size` in bytes. `files` and `size` may still grow unless
    `is_counted`. The names are the other side's: show them with care.
    """

    kind: str
    names: tuple[str, ...]
    things: int
    files: int
    size: int | None
    is_counted: bool


@dataclass(frozen=True, slots=True)
class Offered:
    """Receiver: this is what the other side wants to send."""

    offer: Offer


@dataclass(frozen=True, slots=True)
class Progress:
    """How far it is. `done` bytes of `total`, of which `kept` were there already and did not cross.

    `total` and `files_total` grow until `is_counted`; `total` is None for a stream. `rate`: bytes a second over the
    last few seconds. `path`: the file under way. `checked` bytes of `to_check`, that an earlier run left, are compared.
    """

    done: int
    total: int | None
    kept: int
    files: int
    files_total: int
    is_counted: bool
    rate: float
    path: str
    checked: int = 0
    to_check: int = 0

    @property
    def share(self) -> float | None:
        """From 0.0 to 1.0; None where nobody knows how much it is."""
        if self.total is None or not self.is_counted:
            return None
        return self.done / self.total if self.total else 1.0


@dataclass(frozen=True, slots=True)
class File:
    """One file that crossed. `path` is below what was named, with slashes; `blake3` in hexadecimal digits.

    `saved_as`: where it is, at the receiver; None at the sender, and where it went into a stream. `kept`: bytes of it
    that were there already.
    """

    path: str
    size: int
    blake3: str
    saved_as: Path | None
    kept: int


@dataclass(frozen=True, slots=True)
class Missed:
    """One thing that did not cross. `by_peer`: the other side said so, and both texts are its own."""

    path: str
    reason: str
    exit_code: ExitCode
    by_peer: bool

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}" if self.path and self.path not in self.reason else self.reason


@dataclass(frozen=True, slots=True)
class Result:
    """What became of a transfer.

    `files` in the order in which they were done, the first MAX_FILES of `files_count`; `missed`, of `missed_count`,
    is empty unless it comes with an IncompleteError. `size` in bytes, of which `kept` were there already; `seconds`
    since the receiver said yes. `blake3`: of the one file, or over the digests of all in order. `route`: the path that
    the data took. `text`: the one that was received, if it was one.
    """

    files: tuple[File, ...]
    files_count: int
    missed: tuple[Missed, ...]
    missed_count: int
    size: int
    kept: int
    seconds: float
    blake3: str
    route: PathChosen | None
    text: str | None = None
