"""How much it is, while it is counted: what the sender says of it, and what the receiver lets come of it."""

from __future__ import annotations

import math

from p2p.core.errors import RemoteError
from p2p.core.transfer.limits import MAX_GROWTH, MAX_MORE
from p2p.core.transfer.messages import Totals


class GrowingTotals:
    """Of the sender."""

    def __init__(self, totals: Totals) -> None:
        self.now = self._told = totals

    def update(self, totals: Totals) -> None:
        if not self.now.is_final:
            self.now = totals

    @property
    def are_worth_telling(self) -> bool:
        """Whether they are final now, or have grown by a sixteenth: a count of millions would else be told thousands
        of times a second.
        """
        now, told = self.now, self._told
        if now is told:
            return False
        grown = (
            (now.files, told.files),
            (now.size or 0, told.size or 0),
            (now.others, told.others),
        )
        return now.is_final or any(16 * (number - before) > before for number, before in grown)

    def tell(self) -> Totals:
        """They are told now."""
        self._told = self.now
        return self.now


class Bounds:
    """Of the receiver: how much may come. Without end until the totals are final, for the person said yes to that."""

    def __init__(self) -> None:
        self.totals = Totals(0, 0, is_final=False)
        self._most_bytes = self._most_files = self._most_others = math.inf

    def set(self, totals: Totals) -> None:
        """Raises RemoteError."""
        if self.totals.is_final:
            raise RemoteError("TOTALS after the final ones")
        self.totals = totals
        if totals.is_final:
            self._most_files, self._most_others = 2 * totals.files + MAX_MORE, 2 * totals.others + MAX_MORE
            if totals.size is not None:
                self._most_bytes = 2 * totals.size + MAX_GROWTH

    def check(self, size: int, files: int, others: int) -> None:
        """Raises RemoteError."""
        if size > self._most_bytes:
            raise RemoteError(f"{size} bytes, where {self.totals.size} were announced")
        if files > self._most_files:
            raise RemoteError(f"{files} files, where {self.totals.files} were announced")
        if others > self._most_others:
            raise RemoteError(f"{others} folders and links, where {self.totals.others} were announced")
