"""What both halves of a session share: queues, repetition, the sealed farewell."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable
from enum import Enum, auto
from typing import Final

from p2p.core.errors import CallerError, DecodeError
from p2p.core.role import Role
from p2p.core.session.events import PeerBye, SessionEvent
from p2p.core.session.keys import SealedSignals
from p2p.core.session.messages import Bye, Message, Mode, Type, decode_bye, encode_bye
from p2p.core.timers import Timers

FIRST_REPEAT: Final = 0.3  # seconds; a round trip through a distant server
REPEAT_GROWTH: Final = 1.5
MAX_REPEAT: Final = 2.0  # seconds
BYE_COPIES: Final = 3  # nobody acknowledges a farewell; three cross a path that loses every second datagram in 7 of 8
BYE_INTERVAL: Final = 0.2  # seconds
CODE_TRIES: Final = 3
# Without a code every run that is broken off could be a search for keys with an equal verification string (40 bits).
OPEN_TRIES: Final = 64
MAX_DESCRIPTION: Final = 512  # bytes
MAX_QUEUE: Final = 16  # messages waiting to be polled; an answer that is dropped here is asked for again


class Timer(Enum):
    REPEAT = auto()
    BYE = auto()


class Half(ABC):
    """The sender's or the receiver's half of a session."""

    role: Role

    def __init__(self, secret: bytes | None, context: tuple[bytes, ...], random_bytes: Callable[[int], bytes]) -> None:
        self.mode = Mode.OPEN if secret is None else Mode.CODE
        self.limit = OPEN_TRIES if secret is None else CODE_TRIES
        self.tries = 0
        self.messages: deque[bytes] = deque(maxlen=MAX_QUEUE)
        self.events: deque[SessionEvent] = deque()
        self.timers: Timers[Timer] = Timers()
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

    def handle_timeout(self, now: float) -> None:
        for timer in self.timers.pop_expired(now):
            if timer is Timer.REPEAT:
                self.messages.append(self._repeated)
                self._interval = min(self._interval * REPEAT_GROWTH, MAX_REPEAT)
                self.timers.set(Timer.REPEAT, now + self._interval)
            else:
                self._send_farewell(now)

    def _start_over(self, description: bytes) -> None:
        if len(description) > MAX_DESCRIPTION:
            raise CallerError(f"description of {len(description)} bytes; {MAX_DESCRIPTION} are allowed")
        self.messages.clear()
        self._stop_repeating()
        self.timers.stop(Timer.BYE)

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
        sealed = signals.seal(Type.BYE, blank.header(), encode_bye(exit_code, reason))
        self._farewell = Bye(blank.sender_nonce, blank.receiver_nonce, sealed).encode()
        self._farewells = BYE_COPIES
        self._send_farewell(now)

    def _hear_bye(self, signals: SealedSignals, bye: Bye) -> None:
        exit_code, reason = decode_bye(signals.open(Type.BYE, bye.header(), bye.sealed))
        self._stop_repeating()
        self.events.append(PeerBye(exit_code, reason))

    def _send_farewell(self, now: float) -> None:
        self.messages.append(self._farewell)
        self._farewells -= 1
        if self._farewells:
            self.timers.set(Timer.BYE, now + BYE_INTERVAL)


def forged(what: str) -> DecodeError:
    return DecodeError(f"{what} is not genuine")
