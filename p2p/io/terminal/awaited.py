"""What nothing moves for at the moment, and for how long already: the last line of a terminal while one waits."""

from __future__ import annotations

from p2p.core.peer import events
from p2p.core.role import Role
from p2p.io.terminal.words import clock, size

SHOWN_AFTER = 0.5  # seconds: what is over sooner would only flicker
SERVER = "Asking the server"


class Awaited:
    """One thing at a time, in so few words that a narrow terminal has room for them and for the time."""

    def __init__(self, role: Role, friend: str) -> None:
        self._role = role
        self._friend = friend
        self._words = ""
        self._since: float | None = None

    def begin(self, words: str) -> None:
        """Counted from the first look on, unless it is what is waited for already. No words: for nothing."""
        if words != self._words:
            self._words, self._since = words, None

    def handle_event(self, event: events.PeerEvent) -> None:
        """A friend who is silent, or a lost path, is still what was waited for before."""
        match event:
            case events.ServerSilent():
                self.begin(SERVER)
            case events.SeatTaken():
                self.begin("Waiting for our place")
            case events.WaitingForPeer() | events.ServerAnswering() | events.PeerGone() | events.CodeRejected():
                self.begin(f"Waiting for {self._friend}")
            case events.PeerFound():
                self.begin("Agreeing on keys")
            case events.Connecting():
                self.begin("Looking for a path")
            case events.PathChosen() | events.OfferSent():
                is_asking = self._role is Role.SENDER
                self.begin("Waiting for a yes or no" if is_asking else "Waiting to hear what it is")
            case events.Offered() | events.TransferStarted():
                self.begin("")

    def line(self, now: float) -> str:
        """Empty while there is nothing to show."""
        if not self._words:
            return ""
        if self._since is None:
            self._since = now
        seconds = now - self._since
        return f"{self._words}, {clock(int(seconds))}" if seconds >= SHOWN_AFTER else ""

    def line_of_work(self, verb: str, work: tuple[int, int], now: float) -> str:
        """Of what is read on this disk: bytes that are done, and all. The time is that of the work."""
        self.begin(verb)
        self.line(now)
        assert self._since is not None
        return f"{verb} {size(work[0])} of {size(work[1])}, {clock(int(now - self._since))}"
