"""Beside a path that is silent or lost: looks out for the other side, and visits who may be it, started again."""

from __future__ import annotations

import contextlib
import math
import secrets
import selectors
from collections.abc import Callable
from dataclasses import replace
from typing import assert_never

from p2p.core.errors import ExitCode, Failure
from p2p.core.introduction import Nameplate, Pairing
from p2p.core.peer import events, explain
from p2p.core.peer.lookout import AnotherRun, BothSuspect, Lookouts, Post
from p2p.core.peer.peer import Peer
from p2p.core.rendezvous.messages import CLIENT_SIZE
from p2p.core.role import Role
from p2p.core.session.half import CODE_TRIES
from p2p.io.attempts import Attempt, Wish
from p2p.io.lookouts import LookoutSocket

OnEvent = Callable[[Peer, events.PeerEvent, float], None]
ENDED = Failure(ExitCode.INTERRUPTED, "nobody is looked for any more")
# How a visit ends that went to somebody else.
_OF_A_STRANGER = (ExitCode.WRONG_CODE, ExitCode.USAGE, ExitCode.INTERNAL)


class Reunion:
    """Of one crossing. A visit is a run of its own, as far as the keys: until then all stays as it was."""

    def __init__(
        self,
        role: Role,
        wish: Wish,
        selector: selectors.BaseSelector,
        *,
        open_visit: Callable[[Wish, OnEvent], Attempt],
        on_restarted: Callable[[Attempt, float], None],
        on_stranger: Callable[[], None],
    ) -> None:
        """`on_restarted` gets the attempt with which the other side's new run agreed on keys, and which is to take the
        place of the old one. `on_stranger`: somebody is there who has another code."""
        self._role = role
        self._selector = selector
        self._open_visit = open_visit
        self._on_restarted = on_restarted
        self._on_stranger = on_stranger
        self.wish = replace(wish, seat=secrets.token_bytes(CLIENT_SIZE))
        """The same with a seat that is ours in all meetings of this crossing."""
        self._tries = 0
        self._peer: Peer | None = None
        self._lookouts: Lookouts | None = None
        self._socket: LookoutSocket | None = None
        self._visit: Attempt | None = None
        self._visited = b""
        self._is_stranger = False
        self._is_ending = False  # the visit
        self._has_met = False  # the visit is the new run, and runs here until the old one is wound up

    @property
    def meets_another_run(self) -> bool:
        """Whether the other side is found too when its program is started again."""
        return self._lookouts is not None and self._lookouts.is_at_first

    def attend(self, peer: Peer) -> None:
        """This one's path is the one to be watched."""
        self._peer = peer
        self._tries = max(self._tries, peer.tries)

    def watch(self, friend: bytes | None, pairing: Pairing | None) -> None:
        """From now on there is something to be gone on with. `friend`: the tag of the other side's run."""
        self.stop()
        peer = self._peer
        if peer is None or peer.server is None or peer.way_back is None or friend is None:
            return
        self._tries = max(self._tries, peer.tries)
        self._lookouts = Lookouts(
            peer.server,
            self._role,
            secrets.token_bytes,
            own=peer.way_back.lookout,
            at_first=self._post(pairing),
            friend=friend,
        )
        with contextlib.suppress(OSError):
            self._socket = LookoutSocket(self._lookouts, self._selector)

    def stop(self) -> None:
        """Nobody is looked for."""
        if self._socket is not None:
            self._socket.close()
        self._socket = self._lookouts = None

    def close(self) -> None:
        self.stop()
        if self._visit is not None:
            self._visit.close()
            self._visit = None

    def release(self, attempt: Attempt) -> None:
        """It runs by itself from now on."""
        if attempt is self._visit:
            self._visit, self._has_met = None, False

    # Beside

    def advance(self, now: float) -> float:
        until = math.inf
        if self._socket is not None and self._lookouts is not None and self._peer is not None:
            self._look(self._peer, self._lookouts, now)
        if self._visit is not None:
            until = self._visit.loop.advance(now)
            if self._is_ending and self._visit.loop.is_over:
                self._end_visit(now)
        if self._socket is not None and self._lookouts is not None:
            self._socket.advance()
            until = min(until, self._lookouts.poll_timeout() or math.inf)
        return until

    def handle_timeouts(self, now: float) -> None:
        if self._lookouts is not None:
            self._lookouts.handle_timeout(now)
        if self._visit is not None:
            self._visit.loop.handle_timeouts(now)

    # inside

    def _post(self, pairing: Pairing | None) -> Post | None:
        """Without a code nothing would tell the new run from a stranger. The number of a one-time code is another's as
        soon as it is free, and the sender makes a new one: only the sender keeps it."""
        assert self.wish.seat is not None
        is_lent = isinstance(pairing, Nameplate) and self._role is Role.RECEIVER
        return None if pairing is None or self.wish.secret is None or is_lent else Post(pairing, self.wish.seat)

    def _look(self, peer: Peer, lookouts: Lookouts, now: float) -> None:
        heard_at = peer.heard_at if peer.failure is None else None
        is_connecting = peer.failure is None and peer.heard_at is None and peer.has_met
        holds_seat = peer.way_back is not None and not peer.goes_on and peer.holds_seat
        lookouts.look(now if is_connecting else heard_at, now, holds_seat=holds_seat, seen=peer.other_run)
        if self._visit is not None and not self._has_met and not lookouts.is_posted:
            self._leave(now)  # the other side lives
        while (event := lookouts.poll_event()) is not None:
            match event:
                case BothSuspect():
                    peer.lose_path(explain.both_suspect(), now)
                case AnotherRun(tag):
                    if holds_seat:
                        peer.hand_over_seat()
                    self._go(tag, now)
                case _:
                    assert_never(event)

    def _go(self, tag: bytes, now: float) -> None:
        lookouts = self._lookouts
        assert lookouts is not None
        if not self.wish.is_contact and self._tries >= CODE_TRIES:
            lookouts.end_visit(tag, now, is_stranger=True)
            return
        wish = replace(self.wish, tries=self._tries, patience=None, impatience=None, former=lookouts.friend)
        try:
            self._visit = self._open_visit(wish, self._handle_event)
        except OSError:
            lookouts.end_visit(tag, now, is_stranger=False)
            return
        self._visited, self._is_stranger, self._is_ending = tag, False, False
        self._visit.loop.start(now)

    def _handle_event(self, peer: Peer, event: events.PeerEvent, now: float) -> None:
        """Of a visit that has not met yet."""
        match event:
            case events.Connecting() if self._visit is not None and not self._is_ending:
                self._has_met = True
                self._on_restarted(self._visit, now)
            case events.CodeRejected():
                self._is_stranger = True
                self._leave(now)
            case events.PeerGone():
                self._leave(now)
            case events.Failed(failure):
                self._is_stranger |= failure.code in _OF_A_STRANGER
                self._is_ending = True
        self._tries = max(self._tries, peer.tries)

    def _leave(self, now: float) -> None:
        if self._visit is not None and not self._is_ending:
            self._is_ending = True
            self._visit.peer.fail(ENDED, "it looks for somebody else", now)

    def _end_visit(self, now: float) -> None:
        assert self._visit is not None
        self._visit.close()
        self._visit = None
        if self._lookouts is not None:
            self._lookouts.end_visit(self._visited, now, is_stranger=self._is_stranger)
        if self._is_stranger:
            self._on_stranger()
