"""Binding requests that are open: sent, repeated, matched with their answers (RFC 8489 section 6.2.1)."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, TypeAlias

from p2p.core.address import Address
from p2p.core.datagram import Transmit
from p2p.core.errors import DecodeError
from p2p.core.stun.messages import (
    ENDPOINTS_ROOM,
    TRANSACTION_SIZE,
    Error,
    Request,
    ServerEndpoints,
    Success,
    decode,
    encode,
)

# Seconds until the first repetition; doubles. Half of RFC 8489 section 6.2.1 as long as no round trip is known, then
# two round trips within these bounds: a person waits for the answer.
INITIAL_RTO: Final = 0.25
MIN_RTO: Final = 0.1
MAX_RTO: Final = 0.5
MAX_KEPT: Final = 128  # questions remembered; late answers to older ones are no news


@dataclass(frozen=True, slots=True)
class Question:
    """A binding request: its number in the order of sending, the socket that it leaves by, and where it goes."""

    number: int
    local: int
    destination: Address
    sent_at: float


@dataclass(frozen=True, slots=True)
class Answered:
    """`is_first`: the request was sent only once, so its place in the order of sending is that at the NAT.

    `local` is where the answer came to: with a RESPONSE-PORT, another socket than the one that asked.
    """

    question: Question
    source: Address
    local: int
    mapped: Address
    endpoints: ServerEndpoints | None
    other: Address | None
    is_first: bool
    at: float


@dataclass(frozen=True, slots=True)
class Refused:
    """The server does not do what was asked (RFC 8489 section 6.3.4)."""

    question: Question
    code: int


@dataclass(frozen=True, slots=True)
class Unanswered:
    """Every repetition has had its time. An answer that still comes is told."""

    question: Question


Result: TypeAlias = Answered | Refused | Unanswered


@dataclass(slots=True)
class _Open:
    question: Question
    data: bytes
    is_redirected: bool  # the answer comes from another address, or to another port
    sends_left: int
    interval: float
    due: float | None
    sends: int = 1


class Questions:
    """Asks STUN servers. `random_bytes` gives transactions, which nobody is to guess."""

    def __init__(self, random_bytes: Callable[[int], bytes]) -> None:
        self._random_bytes = random_bytes
        self._open: dict[bytes, _Open] = {}
        self._transmits: deque[Transmit] = deque()
        self._results: deque[Result] = deque()
        self._rtt: float | None = None
        self._asked = 0

    @property
    def asked(self) -> int:
        """The number of the next question."""
        return self._asked

    @property
    def rto(self) -> float:
        """Seconds after which a request is repeated for the first time."""
        return INITIAL_RTO if self._rtt is None else min(max(2 * self._rtt, MIN_RTO), MAX_RTO)

    def ask(
        self,
        destination: Address,
        local: int,
        now: float,
        *,
        sends: int,
        has_room: bool = True,
        change_ip: bool = False,
        change_port: bool = False,
        response_port: int | None = None,
    ) -> Question:
        """Sends a request, up to `sends` times. `has_room`: for an answer that is not longer and names our server's
        endpoints; to servers of others it would be ballast."""
        question = Question(self._asked, local, destination, now)
        self._asked += 1
        transaction = self._random_bytes(TRANSACTION_SIZE)
        request = Request(
            transaction,
            change_ip=change_ip,
            change_port=change_port,
            response_port=response_port,
            room=ENDPOINTS_ROOM if has_room else 0,
        )
        redirected = change_ip or change_port or response_port is not None
        data = encode(request)
        rto = self.rto
        if len(self._open) >= MAX_KEPT:
            del self._open[next(iter(self._open))]
        self._open[transaction] = _Open(question, data, redirected, sends - 1, rto, now + rto)
        self._transmits.append(Transmit(destination, (data,), local=local))
        return question

    def handle_datagram(
        self, data: bytes | bytearray | memoryview, source: Address, local: int, now: float
    ) -> None:
        try:
            message = decode(data)
        except DecodeError:
            return
        if not isinstance(message, Success | Error):
            return
        entry = self._open.get(message.transaction)
        if entry is None:
            return
        question = entry.question
        if not entry.is_redirected and (source, local) != (question.destination, question.local):
            return  # who guessed the transaction did not see it go by
        del self._open[message.transaction]
        if isinstance(message, Error):
            self._results.append(Refused(question, message.code))
            return
        if not entry.is_redirected:  # since the first sending: where it was repeated, a round trip is shorter
            self._rtt = now - question.sent_at if self._rtt is None else min(self._rtt, now - question.sent_at)
        self._results.append(
            Answered(
                question, source, local, message.mapped, message.endpoints, message.other, entry.sends == 1, now
            )
        )

    def handle_timeout(self, now: float) -> None:
        for entry in self._open.values():
            if entry.due is None or entry.due > now:
                continue
            if entry.sends_left == 0:
                entry.due = None
                self._results.append(Unanswered(entry.question))
                continue
            entry.sends_left -= 1
            entry.sends += 1
            entry.interval *= 2
            entry.due = now + entry.interval
            self._transmits.append(Transmit(entry.question.destination, (entry.data,), local=entry.question.local))

    def poll_transmit(self) -> Transmit | None:
        return self._transmits.popleft() if self._transmits else None

    def poll_result(self) -> Result | None:
        return self._results.popleft() if self._results else None

    def poll_timeout(self) -> float | None:
        return min((entry.due for entry in self._open.values() if entry.due is not None), default=None)
