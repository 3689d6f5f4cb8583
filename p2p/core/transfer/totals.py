"""How much it is, while it is counted: what the sender says of it, and what the receiver lets come of it."""

from __future__ import annotations

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
        files, size = now.files - told.files, (now.size or 0) - (told.size or 0)
        return now.is_final or 16 * files > told.files or 16 * size > (told.size or 0)

    def tell(self) -> Totals:
        """They are told now."""
        self._told = self.now
        return self.now
