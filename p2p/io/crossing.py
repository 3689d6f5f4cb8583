"""One transfer, over as many paths as it takes."""

from __future__ import annotations

import contextlib
import selectors
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Protocol

from p2p.core.errors import ExitCode, Failure
from p2p.core.introduction import Pairing
from p2p.core.peer import events, explain
from p2p.core.peer.peer import Peer
from p2p.core.peer.rejoin import Rejoin
from p2p.core.transfer.events import Progress
from p2p.core.transfer.messages import Offer, OfferKind
from p2p.core.transport.events import Stats
from p2p.io.attempts import Attempt, Settings, Wish
from p2p.io.ends import NoEnd
from p2p.io.interrupts import Stop
from p2p.io.receiving.taking import TakingEnd
from p2p.io.remembering import Remembering
from p2p.io.reunion import OnEvent, Reunion
from p2p.io.sending.end import SendingEnd
from p2p.io.sending.pipes import PipeError
from p2p.io.sending.sources import SourceError

CONFIRM_PATIENCE = 20.0  # seconds a receiver that has everything looks for a sender that may not know it
REPLACED = Failure(ExitCode.INTERRUPTED, "the other side was found in another way")
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

    @property
    def shows_waiting(self) -> bool:
        """Whether somebody looks at how long it takes before there is a path."""

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
        end: SendingEnd | TakingEnd,
        *,
        selector: selectors.BaseSelector,
        interrupts: Stop,
        screen: Watching,
        reconnect: float,
        remembering: Remembering,
        on_offer: Callable[[Crossing, Peer, Offer, float], None],
        on_failed: Callable[[Crossing, Failure], None],
        on_tick: Callable[[Peer, float], None],
        renew: Callable[[], SendingEnd | TakingEnd] | None,
    ) -> None:
        """`reconnect`: seconds to look for the other side after a path was lost. `on_failed` is called once.

        `renew` makes the end anew, for the same command, and may raise SourceError or PipeError; None where that cannot
        be, because of a pipe. `close` closes the end, whichever it is by then.
        """
        self._settings = settings
        self.end = end
        self._is_closed = False
        self._renew = renew
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
        self._peer: Peer | None = None
        self._running: Attempt | None = None
        self._next: Attempt | None = None  # takes the place of the one that is being wound up
        self._rejoin: Rejoin | None = None
        self._friend: bytes | None = None
        self._original: Pairing | None = None  # of the first meeting
        self._visiting = remembering  # that of the visit
        self._reunion: Reunion | None = None
        self._offered: Offer | None = None
        self._accepted: Offer | None = None
        self._is_told_of_stranger = False
        self.code: ExitCode | None = None
        self.failure: Failure | None = None
        self.has_begun = False
        """Whether the receiver has said yes."""
        self.pairing: Pairing | None = None
        """Under which the two met, or waited for each other, at first."""
        self.tries = 0

    def run(self, wish: Wish) -> None:
        """Raises OSError, and KeyboardInterrupt at the second Ctrl-C."""
        self._reunion = reunion = Reunion(
            self._settings.role,
            wish,
            self._selector,
            open_visit=self._open_visit,
            on_restarted=self._start_over,
            on_stranger=self._tell_of_stranger,
        )
        with contextlib.closing(reunion):
            peer = self._attempt(reunion.wish)
            self.tries = peer.tries
            if self._rejoin is None or self.failure is not None:
                return
            self._screen.is_reconnecting = True
            try:
                while self._goes_on(peer):
                    left = self._until - time.monotonic()
                    peer = self._attempt(Wish.again(self._rejoin, max(left, PAUSE)))
            finally:
                self._screen.is_reconnecting = False

    def close(self) -> None:
        if not self._is_closed:
            self._is_closed = True
            self.end.close()

    def start(self, now: float, *, goes_on: bool) -> None:
        """The receiver says yes."""
        self._accepted = self._offered
        self._begin()
        self._screen.handle_event(events.TransferStarted(goes_on), now)

    def was_accepted(self, offer: Offer) -> bool:
        """Whether it is that to which the receiver has said yes already in this run: the same command, over there."""
        before = self._accepted
        return before is not None and offer.kind is before.kind is OfferKind.TREE and offer.token == before.token

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
        """Lives through it, and through what takes its place."""
        assert self._reunion is not None
        attempt: Attempt | None = self._open(wish, self._handle_event)
        while attempt is not None:
            self._running, self._next = attempt, None
            self._attend(attempt.peer)
            self._reunion.release(attempt)
            peer = attempt.run(self._reunion)
            self._rejoin = peer.rejoin or self._rejoin
            attempt = self._next
        return peer

    def _open(self, wish: Wish, on_event: OnEvent) -> Attempt:
        return Attempt(
            self._settings,
            wish,
            self.end.machine,
            self.end,
            selector=self._selector,
            interrupts=self._interrupts,
            contact=self._remembering.exchange,
            on_event=on_event,
            on_tick=self._tick,
            note=self._screen.note,
            ticks_at_once=self._screen.shows_waiting,
        )

    def _attend(self, peer: Peer) -> None:
        assert self._reunion is not None
        if peer is not self._peer:
            self._peer, self._is_connected = peer, False
            self._reunion.attend(peer)

    def _begin(self) -> None:
        """There is something to be gone on with."""
        self.has_begun = True
        if self._reunion is not None and self._reconnect:
            self._reunion.watch(self._friend, self._original)

    # the other side's program is another one

    def _open_visit(self, wish: Wish, on_event: OnEvent) -> Attempt:
        original = self._original
        assert original is not None, "somebody was found under it"
        self._visiting = self._remembering.again()
        wish = replace(wish, next_pairing=lambda _: original)

        def handle(peer: Peer, event: events.PeerEvent, now: float) -> None:
            (self._handle_event if peer is self._peer else on_event)(peer, event, now)

        return Attempt(
            self._settings,
            wish,
            self.end.machine,  # which is not touched before there is a path
            NoEnd(),
            selector=self._selector,
            interrupts=self._interrupts,
            contact=self._visiting.exchange,
            on_event=handle,
            on_tick=self._tick,
            note=self._screen.note,
        )

    def _start_over(self, attempt: Attempt, now: float) -> None:
        before, running, peer = self._peer, self._running, attempt.peer
        assert before is not None
        assert running is not None
        if self.code is not None or self.failure is not None:
            peer.fail(REPLACED, "it has ended", now)
            return
        self._rejoin = before.way_back or self._rejoin
        self._next, self._friend, self._remembering = attempt, peer.friend, self._visiting
        self._attend(peer)
        self._screen.is_reconnecting = True
        self._until = now + self._reconnect
        running.loop.end = NoEnd()
        if before.heard_at is not None:
            before.lose_path("", now)
        else:
            before.fail(REPLACED, "", now)
        if self._renew is None:
            why = explain.cannot_start_over(self._settings.role)
            peer.fail(Failure(ExitCode.INTERRUPTED, why), "it reads or writes a pipe, which cannot begin again", now)
            return
        self.close()
        try:
            self.end, self._is_closed = self._renew(), False
        except (SourceError, PipeError) as error:
            peer.fail(error.failure, error.public, now)
            return
        peer.use(self.end.machine)
        attempt.loop.end = self.end
        self._screen.handle_event(events.PeerRestarted(), now)

    def _tell_of_stranger(self) -> None:
        if not self._is_told_of_stranger:
            self._is_told_of_stranger = True
            self._say(explain.OTHER_CODE)

    def _handle_event(self, peer: Peer, event: events.PeerEvent, now: float) -> None:
        if self.code is not None or peer is not self._peer:
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
                if self._reunion is not None:
                    self._reunion.stop()
                if peer.udp is not None:
                    self._screen.note_transport(peer.udp.connection.stats)
                self._screen.handle_event(event, now, self.end.machine.progress)
                if peer.udp is not None:
                    self._screen.show_transport(peer.udp.connection.stats)
                self._say(self._remembering.finish(is_done=True))
            case events.Offered(offer):
                self._offered = offer
                self._screen.handle_event(event, now)
                self._on_offer(self, peer, offer, now)
            case events.ContactHeard():
                pass  # what comes of it is told
            case _:
                if isinstance(event, events.WaitingForPeer) and self.pairing is None:
                    self.pairing = event.pairing
                self._is_connected |= isinstance(event, events.PathChosen)
                if isinstance(event, events.Connecting) and not peer.goes_on:
                    self._friend, self._original = peer.friend, peer.pairing
                if isinstance(event, events.TransferStarted):
                    self._begin()
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
            is_open = self._reunion is not None and self._reunion.meets_another_run
            self._screen.handle_event(events.PathLost(why, is_open), now)

    def _fail(self, failure: Failure) -> None:
        if self.failure is None:
            self.failure = failure
            self._on_failed(self, failure)
            self._say(self._remembering.finish(is_done=False))

    def _say(self, sentence: str | None) -> None:
        if sentence is not None:
            self._screen.say(sentence)

    def _tick(self, peer: Peer, now: float) -> None:
        if self.code is not None or peer is not self._peer:
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
