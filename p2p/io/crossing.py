"""One transfer, over as many paths as it takes."""

from __future__ import annotations

import contextlib
import selectors
import time
from collections.abc import Callable
from typing import Protocol

from p2p.core.errors import ExitCode, Failure
from p2p.core.introduction import Pairing
from p2p.core.peer import events, explain
from p2p.core.peer.delivery import Machine
from p2p.core.peer.peer import Peer
from p2p.core.transfer.events import Progress
from p2p.core.transfer.messages import Offer
from p2p.core.transport.events import Stats
from p2p.io.attempts import Settings, Wish, attempt
from p2p.io.ends import End
from p2p.io.interrupts import Stop
from p2p.io.remembering import Remembering

CONFIRM_PATIENCE = 20.0  # seconds a receiver that has everything looks for a sender that may not know it
PAUSE = 1.0  # seconds between two attempts of which the first found no way
END_OF_OUTPUT = Failure(ExitCode.STORAGE, "Stopped, because the events can no longer be written to standard output")
# Ends of an attempt to find the other side again after which the next may find it.
_AGAIN = (ExitCode.NO_PEER, ExitCode.NO_PATH, ExitCode.WRONG_CODE, ExitCode.USAGE)


class Watching(Protocol):
    """Whom it is told to: the screen, or a program."""

    is_reconnecting: bool

    @property
    def output_is_gone(self) -> bool:
        """Whether nobody reads the events any more, which ends the run."""

    def handle_event(self, event: events.PeerEvent, now: float, progress: Progress = ...) -> None:
        """`progress` is given with Done alone."""

    def say(self, text: str) -> None: ...

    def note(self, text: str) -> None:
        """What only who wants to know all reads."""

    def note_transport(self, stats: Stats) -> None: ...

    def show_transport(self, stats: Stats) -> None: ...

    def show_looking(self, left: float, now: float) -> None:
        """While the two look for each other again, for `left` seconds more."""


class Crossing:
    """Runs it to its end: `failure`, or `code` when it is done."""

    def __init__(
        self,
        settings: Settings,
        machine: Machine,
        end: End,
        *,
        selector: selectors.BaseSelector,
        interrupts: Stop,
        screen: Watching,
        reconnect: float,
        remembering: Remembering,
        on_offer: Callable[[Crossing, Peer, Offer, float], None],
        on_failed: Callable[[Crossing, Failure], None],
        on_tick: Callable[[Peer, float], None],
    ) -> None:
        """`reconnect`: seconds to look for the other side after a path was lost. `on_failed` is called once."""
        self._settings = settings
        self._machine = machine
        self.end = end
        self._selector = selector
        self._interrupts = interrupts
        self._screen = screen
        self._reconnect = reconnect
        self._remembering = remembering
        self._on_offer = on_offer
        self._on_failed = on_failed
        self._on_tick = on_tick
        self._why = ""  # the last path was lost
        self._until = 0.0
        self._is_connected = False
        self.code: ExitCode | None = None
        self.failure: Failure | None = None
        self.has_begun = False
        """Whether the receiver has said yes."""
        self.pairing: Pairing | None = None
        """Under which the two met, or waited for each other, at first."""
        self.tries = 0

    def run(self, wish: Wish) -> None:
        """Raises OSError, and KeyboardInterrupt at the second Ctrl-C."""
        peer = self._attempt(wish)
        self.tries = peer.tries
        rejoin = peer.rejoin  # of the first path: both have had that one, a later one perhaps only this side
        if rejoin is None or self.failure is not None:
            return
        self._screen.is_reconnecting = True
        try:
            while self._goes_on(peer):
                left = self._until - time.monotonic()
                again = Wish(lambda _: rejoin.pairing, rejoin.secret, patience=max(left, PAUSE), goes_on=True)
                peer = self._attempt(again)
        finally:
            self._screen.is_reconnecting = False

    def start(self, now: float, *, goes_on: bool) -> None:
        """The receiver says yes."""
        self.has_begun = True
        self._screen.handle_event(events.TransferStarted(goes_on), now)

    def _goes_on(self, peer: Peer) -> bool:
        """Whether to look for the other side once more."""
        now = time.monotonic()
        if self.failure is not None:
            return False
        if peer.rejoin is not None and not (self.code is not None and self._until):
            self._until = now + (self._reconnect if self.code is None else CONFIRM_PATIENCE)
        elif peer.is_done or self._interrupts.is_asked:
            return False
        if now >= self._until:
            if self.code is None:
                self._fail(Failure(ExitCode.INTERRUPTED, explain.lost_for_good(self._why)))
            return False
        if peer.rejoin is None:
            self._pause(now)
        return True

    def _attempt(self, wish: Wish) -> Peer:
        self._is_connected = False
        return attempt(
            self._settings,
            wish,
            self._machine,
            self.end,
            selector=self._selector,
            interrupts=self._interrupts,
            contact=self._remembering.exchange,
            on_event=self._handle_event,
            on_tick=self._tick,
            note=self._screen.note,
        )

    def _handle_event(self, peer: Peer, event: events.PeerEvent, now: float) -> None:
        if self.code is not None:
            return  # all that is left is that the sender hears it
        match event:
            case events.Failed(failure):
                is_looking = self._screen.is_reconnecting and not self._is_connected
                if is_looking and self._interrupts.is_asked:
                    self._fail(self._interrupts.looking)
                elif not (is_looking and failure.code in _AGAIN):
                    self._fail(failure)
            case events.PathLost(why):
                self._lose(why, now)
            case events.Done(_, code):
                self.code = code
                if peer.udp is not None:
                    self._screen.note_transport(peer.udp.connection.stats)
                self._screen.handle_event(event, now, self._machine.progress)
                if peer.udp is not None:
                    self._screen.show_transport(peer.udp.connection.stats)
                self._say(self._remembering.finish(is_done=True))
            case events.Offered(offer):
                self._screen.handle_event(event, now)
                self._on_offer(self, peer, offer, now)
            case events.ContactHeard():
                pass  # what comes of it is told
            case _:
                if isinstance(event, events.WaitingForPeer) and self.pairing is None:
                    self.pairing = event.pairing
                self._is_connected |= isinstance(event, events.PathChosen)
                self.has_begun |= isinstance(event, events.TransferStarted)
                self._screen.handle_event(event, now)
        self._say(self._remembering.handle_event(event, peer, now))
        self._stop_without_output(peer, now)

    def _lose(self, why: str, now: float) -> None:
        self._why = why
        if not self.has_begun:
            self._fail(Failure(ExitCode.INTERRUPTED, explain.lost_before_the_yes(why, self._settings.role)))
        elif not self._reconnect:
            self._fail(Failure(ExitCode.INTERRUPTED, explain.lost_for_good(why)))
        else:
            self._screen.handle_event(events.PathLost(why), now)

    def _fail(self, failure: Failure) -> None:
        if self.failure is None:
            self.failure = failure
            self._on_failed(self, failure)
            self._say(self._remembering.finish(is_done=False))

    def _say(self, sentence: str | None) -> None:
        if sentence is not None:
            self._screen.say(sentence)

    def _tick(self, peer: Peer, now: float) -> None:
        if self.code is not None:
            return
        if self._screen.is_reconnecting and not self._is_connected:
            self._screen.show_looking(self._until - now, now)
        else:
            self._on_tick(peer, now)
        self._stop_without_output(peer, now)

    def _stop_without_output(self, peer: Peer, now: float) -> None:
        if self._screen.output_is_gone:
            peer.fail(END_OF_OUTPUT, "its program was stopped", now)

    def _pause(self, now: float) -> None:
        """The last attempt ended at once, because there is no network, say."""
        until = min(now + PAUSE, self._until)
        while (left := until - time.monotonic()) > 0 and not self._interrupts.is_asked:
            for key, mask in self._selector.select(left):
                with contextlib.suppress(KeyError):
                    key.data(mask)
