"""What both halves of a session share: queues, repetition, the sealed farewell."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable
from enum import Enum, auto
from typing import Final, assert_never

from p2p.core.errors import CallerError, DecodeError
from p2p.core.role import Role
from p2p.core.session.events import PeerBye, SessionEvent, Updated
from p2p.core.session.keys import SealedSignals
from p2p.core.session.messages import Bye, Message, Mode, Signal, Type, decode_bye, encode_bye
from p2p.core.session.signalling import Signalling
from p2p.core.timers import Timers

FIRST_REPEAT: Final = 0.3  # seconds; a round trip through a distant server
REPEAT_GROWTH: Final = 1.5
MAX_REPEAT: Final = 2.0  # seconds
BYE_COPIES: Final = 3  # nobody acknowledges a farewell; three cross a path that loses every second datagram in 7 of 8
BYE_INTERVAL: Final = 0.2  # seconds
CODE_TRIES: Final = 3
# Without a code every run that is broken off could be a search for keys with an equal verification string (40 bits).
OPEN_TRIES: Final = 64
# Nobody guesses 256 bits; each try costs some work, and as many as one byte counts are allowed, so that no stranger
# ends the wait of a machine by three of them.
CONTACT_TRIES: Final = 255
_TRIES: Final = {Mode.CODE: CODE_TRIES, Mode.OPEN: OPEN_TRIES, Mode.CONTACT: CONTACT_TRIES}
MAX_DESCRIPTION: Final = 512  # bytes
MAX_QUEUE: Final = 16  # messages waiting to be polled; an answer that is dropped here is asked for again


class Timer(Enum):
    REPEAT = auto()
    BYE = auto()
    SIGNAL = auto()


class Half(ABC):
    """The sender's or the receiver's half of a session."""

    role: Role

    def __init__(
        self, mode: Mode, secret: bytes | None, context: tuple[bytes, ...], random_bytes: Callable[[int], bytes]
    ) -> None:
        self.mode = mode
        self.limit = _TRIES[mode]
        self.tries = 0
        self.messages: deque[bytes] = deque(maxlen=MAX_QUEUE)
        self.events: deque[SessionEvent] = deque()
        self.timers: Timers[Timer] = Timers()
        self._description = b""
        self._told = b""  # the description that CONFIRM or READY carried
        self._signalling: Signalling | None = None
        self._signal_interval = FIRST_REPEAT
        self._secret = secret
        self._context = context
        self._random_bytes = random_bytes
        self._repeated = b""
        self._interval = FIRST_REPEAT
        self._farewell = b""
        self._farewells = 0

    @abstractmethod
    def begin(self, description: bytes, now: float) -> None: ...

    @abstractmethod
    def handle(self, message: Message, now: float) -> None:
        """Raises DecodeError, and has changed nothing then, when the message is not genuine."""

    @abstractmethod
    def handle_foreign(self, data: bytes) -> None:
        """A message of another version."""

    @abstractmethod
    def bye(self, exit_code: int, reason: str, now: float) -> None: ...

    def update(self, description: bytes, now: float) -> None:
        """Our description is another one now."""
        _check_length(description)
        self._description = description
        if self._signalling is not None:
            self._tell(now)

    def handle_timeout(self, now: float) -> None:
        for timer in self.timers.pop_expired(now):
            match timer:
                case Timer.REPEAT:
                    self.messages.append(self._repeated)
                    self._interval = min(self._interval * REPEAT_GROWTH, MAX_REPEAT)
                    self.timers.set(Timer.REPEAT, now + self._interval)
                case Timer.BYE:
                    self._send_farewell(now)
                case Timer.SIGNAL:
                    self._repeat_signal(now)
                case _:
                    assert_never(timer)

    def _start_over(self, description: bytes) -> None:
        _check_length(description)
        self._description = description
        self.messages.clear()
        self._stop_repeating()
        self._stop_signalling()
        self.timers.stop(Timer.BYE)

    def _start_signalling(self, signals: SealedSignals, sender_nonce: bytes, receiver_nonce: bytes, now: float) -> None:
        """Keys are agreed on. What changed since the other side was told is told at once."""
        self._signalling = Signalling(signals, sender_nonce, receiver_nonce)
        if self._description != self._told:
            self._tell(now)

    def _stop_signalling(self) -> None:
        self._signalling = None
        self.timers.stop(Timer.SIGNAL)

    def _tell(self, now: float) -> None:
        assert self._signalling is not None
        self.messages.append(self._signalling.tell(self._description))
        self._signal_interval = FIRST_REPEAT
        self.timers.set(Timer.SIGNAL, now + self._signal_interval)

    def _repeat_signal(self, now: float) -> None:
        if self._signalling is not None and self._signalling.pending:
            self.messages.append(self._signalling.pending)
            self._signal_interval = min(self._signal_interval * REPEAT_GROWTH, MAX_REPEAT)
            self.timers.set(Timer.SIGNAL, now + self._signal_interval)

    def _hear_signal(self, message: Message) -> None:
        assert isinstance(message, Signal)
        if self._signalling is None:
            return
        acknowledgement, description = self._signalling.handle(message)
        if not self._signalling.pending:
            self.timers.stop(Timer.SIGNAL)
        if acknowledgement:
            self.messages.append(acknowledgement)
        if description is not None:
            self.events.append(Updated(description))

    def _repeat(self, message: bytes, now: float) -> None:
        """Sends `message` until `_stop_repeating`."""
        self._repeated = message
        self._interval = FIRST_REPEAT
        self.messages.append(message)
        self.timers.set(Timer.REPEAT, now + self._interval)

    def _stop_repeating(self) -> None:
        self.timers.stop(Timer.REPEAT)

    def _say_bye(self, signals: SealedSignals, blank: Bye, exit_code: int, reason: str, now: float) -> None:
        self._stop_repeating()
        self._stop_signalling()
        sealed = signals.seal(Type.BYE, blank.header(), encode_bye(exit_code, reason))
        self._farewell = Bye(blank.sender_nonce, blank.receiver_nonce, sealed).encode()
        self._farewells = BYE_COPIES
        self._send_farewell(now)

    def _hear_bye(self, signals: SealedSignals, bye: Bye) -> None:
        exit_code, reason = decode_bye(signals.open(Type.BYE, bye.header(), bye.sealed))
        self._stop_repeating()
        self._stop_signalling()
        self.events.append(PeerBye(exit_code, reason))

    def _send_farewell(self, now: float) -> None:
        self.messages.append(self._farewell)
        self._farewells -= 1
        if self._farewells:
            self.timers.set(Timer.BYE, now + BYE_INTERVAL)


def _check_length(description: bytes) -> None:
    if len(description) > MAX_DESCRIPTION:
        raise CallerError(f"description of {len(description)} bytes; {MAX_DESCRIPTION} are allowed")


def forged(what: str) -> DecodeError:
    return DecodeError(f"{what} is not genuine")
