"""How a router's count of seconds gives away that it has forgotten its mappings."""

from __future__ import annotations


class Epoch:
    """The seconds that a router says it has kept its table (RFC 6887 section 8.5; NAT-PMP's are the same).

    NAT-PMP's own rule (RFC 6886 section 3.6) is looser on clocks that run slow, and does not notice that a count
    jumped ahead; a mapping asked for once too often does no harm.
    """

    __slots__ = ("_heard",)

    def __init__(self) -> None:
        self._heard: tuple[int, float] | None = None

    def has_restarted(self, seconds: int, now: float) -> bool:
        """Takes note of `seconds`, and says whether they do not go on from what was heard before."""
        before, self._heard = self._heard, (seconds, now)
        if before is None:
            return False
        theirs, ours = seconds - before[0], now - before[1]
        if theirs < -1:  # one second: answers may overtake each other
            return True
        return ours + 2 < theirs - theirs / 16 or theirs + 2 < ours - ours / 16
