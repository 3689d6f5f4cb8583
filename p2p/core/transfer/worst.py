"""What did not cross."""

from __future__ import annotations

from p2p.core.errors import ExitCode
from p2p.core.transfer.limits import MAX_LISTED


class Missing:
    """Counts it, and knows which of several reasons decides the exit code."""

    def __init__(self) -> None:
        self.count = 0
        self.worst = ExitCode.DONE

    def note(self, exit_code: ExitCode) -> bool:
        """Returns whether it is to be told: the first MAX_LISTED are."""
        self.count += 1
        self.worst = worse(self.worst, exit_code)
        return self.count <= MAX_LISTED


def worse(one: ExitCode, other: ExitCode) -> ExitCode:
    """Of two reasons why something did not cross: content that changed, then anything, then none."""
    order = (ExitCode.INTEGRITY, ExitCode.STORAGE)
    return next((code for code in order if code in (one, other)), one if one is not ExitCode.DONE else other)
