"""How long an idle mapping lives: RFC 5780 section 4.6, with one mapping for each age instead of a search."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from p2p.core.address import Address
from p2p.core.datagram import Transmit
from p2p.core.errors import CallerError
from p2p.core.stun.client import Answered, Question, Questions, Refused

SENDS: Final = 4  # of each request: what does not come four times in a row does not come
CONTROL_AGE: Final = 0.5  # seconds: a mapping that young is alive, or we are not told the truth


@dataclass(frozen=True, slots=True)
class LifetimeFound:
    """A mapping that was idle for `at_least` seconds was alive, one of `at_most` seconds was gone.

    `at_most` is None when all were alive; both are None when it cannot be measured: the server does not answer where
    it is told to (RESPONSE-PORT), or a second socket gets another external address.
    """

    at_least: float | None
    at_most: float | None


@dataclass(slots=True)
class _Idle:
    age: float
    opening: Question | None
    asked: Question | None = None
    mapped: Address | None = None
    since: float = 0.0
    alive: bool | None = None
    is_lost: bool = False  # its mapping was never seen, so nothing can be said of it


class LifetimeTest:
    """Each of several sockets makes a mapping and lets it lie for its own number of seconds; then another socket asks
    the server to answer there. A packet would prolong a mapping, so each is asked about once.

    It ends with the first mapping that is gone, at the latest 8 s after the greatest age.
    """

    def __init__(
        self, server: Address, asker: int, ages: Mapping[int, float], random_bytes: Callable[[int], bytes]
    ) -> None:
        """`ages`: seconds, by the number of a fresh socket; CONTROL_AGE is the least, and one of them.

        Raises CallerError when it is not, or the asker is among them.
        """
        if not ages or min(ages.values()) != CONTROL_AGE or asker in ages:
            raise CallerError(f"ages of mappings begin with {CONTROL_AGE} s, and who asks has none")
        self._server = server
        self._asker = asker
        self._questions = Questions(random_bytes)
        self._idle = {local: _Idle(age, None) for local, age in sorted(ages.items(), key=lambda item: item[1])}
        self._events: deque[LifetimeFound] = deque()
        self._is_over = False

    def start(self, now: float) -> None:
        for local, idle in self._idle.items():
            idle.opening = self._questions.ask(self._server, local, now, sends=SENDS)

    def handle_datagram(
        self, data: bytes | bytearray | memoryview, source: Address, local: int, now: float
    ) -> None:
        self._questions.handle_datagram(data, source, local, now)
        self._advance(now)

    def handle_timeout(self, now: float) -> None:
        self._questions.handle_timeout(now)
        self._advance(now)

    def poll_transmit(self) -> Transmit | None:
        return self._questions.poll_transmit()

    def poll_event(self) -> LifetimeFound | None:
        return self._events.popleft() if self._events else None

    def poll_timeout(self) -> float | None:
        if self._is_over:
            return None
        due = [self._due(idle) for idle in self._idle.values() if idle.mapped is not None and idle.asked is None]
        return min([*due, *([] if (at := self._questions.poll_timeout()) is None else [at])], default=None)

    def _advance(self, now: float) -> None:
        while not self._is_over and (result := self._questions.poll_result()) is not None:
            for local, idle in self._idle.items():
                if result.question is idle.opening:
                    if isinstance(result, Answered):
                        idle.mapped, idle.since = result.mapped, now
                    else:
                        idle.is_lost = True
                elif result.question is idle.asked:
                    if isinstance(result, Refused):
                        self._end(None, None)
                    else:
                        idle.alive = isinstance(result, Answered) and result.local == local
        for idle in self._idle.values():
            if idle.mapped is not None and idle.asked is None and self._due(idle) <= now:
                port = idle.mapped.port
                idle.asked = self._questions.ask(self._server, self._asker, now, sends=SENDS, response_port=port)
        self._judge()

    def _judge(self) -> None:
        """Ends when every age up to the first that is dead is known."""
        at_least = None
        for idle in self._idle.values():
            if idle.is_lost and idle.age != CONTROL_AGE:
                continue
            if idle.is_lost or (idle.alive is False and at_least is None):
                self._end(None, None)
                return
            if idle.alive is None:
                return
            if not idle.alive:
                self._end(at_least, idle.age)
                return
            at_least = idle.age
        self._end(at_least, None)

    def _due(self, idle: _Idle) -> float:
        return idle.since + idle.age

    def _end(self, at_least: float | None, at_most: float | None) -> None:
        if not self._is_over:
            self._is_over = True
            self._events.append(LifetimeFound(at_least, at_most))
