"""The end of a connection: who said CLOSE, who still has to answer."""

from __future__ import annotations

from enum import Enum, auto

from p2p.core.transport.frames import Close

LINGER = 3  # PTOs a closing side waits for the answer, and an answering side for a repetition; RFC 9000 section 10.2
REPEATS_PER_PTO = 3  # unasked repetitions of CLOSE: nine in all, so that one gets through heavy loss
ANSWER_INTERVAL = 0.020  # seconds between answers to what still arrives, whatever its rate


class State(Enum):
    OPEN = auto()
    CLOSING = auto()  # we said CLOSE
    ANSWERING = auto()  # the peer said CLOSE, we said "final"
    DRAINED = auto()


class _Input(Enum):
    CLOSE_CALLED = auto()
    GOT_CLOSE = auto()
    GOT_FINAL = auto()
    TIME_UP = auto()


_TRANSITIONS = {
    (State.OPEN, _Input.CLOSE_CALLED): State.CLOSING,
    (State.OPEN, _Input.GOT_CLOSE): State.ANSWERING,
    (State.OPEN, _Input.GOT_FINAL): State.ANSWERING,  # the peer answers a CLOSE of ours that we do not remember
    (State.OPEN, _Input.TIME_UP): State.DRAINED,  # idle time-out
    (State.CLOSING, _Input.GOT_CLOSE): State.DRAINED,  # both at once: one answer, and neither has to wait
    (State.CLOSING, _Input.GOT_FINAL): State.DRAINED,
    (State.CLOSING, _Input.TIME_UP): State.DRAINED,
    (State.ANSWERING, _Input.GOT_CLOSE): State.ANSWERING,
    (State.ANSWERING, _Input.GOT_FINAL): State.ANSWERING,
    (State.ANSWERING, _Input.TIME_UP): State.DRAINED,
}


class Closing:
    """State, the CLOSE frame that is due, and the two deadlines. Calls that do not fit the state change nothing."""

    __slots__ = ("_frame", "_interval", "_is_due", "_last_sent", "_linger_until", "_repeat_at", "state")

    def __init__(self) -> None:
        self.state = State.OPEN
        self._frame = Close(0, True, "")
        self._is_due = False
        self._interval = 0.0
        self._last_sent = float("-inf")
        self._linger_until: float | None = None
        self._repeat_at: float | None = None

    def close(self, exit_code: int, reason: str, now: float, pto: float) -> None:
        if self._enter(_Input.CLOSE_CALLED):
            self._frame = Close(exit_code, False, reason)
            self._interval = pto / REPEATS_PER_PTO
            self._linger_until = now + LINGER * pto
            self._is_due = True

    def on_close(self, frame: Close, now: float, pto: float) -> bool:
        """Returns whether this is what ended the connection."""
        was_open = self.state is State.OPEN
        if not self._enter(_Input.GOT_FINAL if frame.final else _Input.GOT_CLOSE):
            return False
        self._repeat_at = None
        if was_open:
            self._linger_until = now + LINGER * pto
        if not frame.final:
            self._frame = Close(0, True, "")
            self._is_due = was_open or self.state is State.DRAINED or now >= self._last_sent + ANSWER_INTERVAL
        return was_open

    def on_datagram(self, now: float) -> None:
        """Something arrived from a peer that may not know yet."""
        if self.state is State.CLOSING and now >= self._last_sent + ANSWER_INTERVAL:
            self._is_due = True

    def on_idle(self) -> None:
        self._enter(_Input.TIME_UP)

    def handle_timeout(self, now: float) -> None:
        if self._linger_until is not None and now >= self._linger_until:
            self._enter(_Input.TIME_UP)
            self._linger_until = self._repeat_at = None
        elif self._repeat_at is not None and now >= self._repeat_at:
            self._repeat_at = None
            self._is_due = True

    def poll_frame(self, now: float) -> Close | None:
        """The frame to send now, once."""
        if not self._is_due:
            return None
        self._is_due = False
        self._last_sent = now
        self._repeat_at = now + self._interval if self.state is State.CLOSING else None
        return self._frame

    def poll_timeout(self) -> float | None:
        if self.state is State.DRAINED:
            return None
        return min((at for at in (self._linger_until, self._repeat_at) if at is not None), default=None)

    @property
    def is_drained(self) -> bool:
        return self.state is State.DRAINED and not self._is_due

    def _enter(self, what: _Input) -> bool:
        following = _TRANSITIONS.get((self.state, what))
        if following is None:
            return False
        self.state = following
        return True
