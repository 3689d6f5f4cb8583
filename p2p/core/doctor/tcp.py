"""Whether the server can be reached by TCP, and by which of its ports: what is left where UDP is blocked."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Final

from p2p.core.address import Address
from p2p.core.datagram import Buffer
from p2p.core.errors import DecodeError
from p2p.core.rendezvous.frames import FrameReader, frame
from p2p.core.rendezvous.messages import TRANSACTION_SIZE, Cookie, Hello, decode, encode
from p2p.core.transport.lan import Action, Close, Connect

PATIENCE: Final = 3.0  # seconds: one SYN may get lost, which systems repeat after 1 s
MAX_ANSWER: Final = 256  # bytes; a COOKIE has 48 at most


class TcpOutcome(Enum):
    ANSWERED = "answered"  # by a rendezvous server
    STRANGER = "somebody else"  # connected, but what listens there is no rendezvous server, or says nothing
    REFUSED = "refused"  # by its machine, or by a firewall on the way
    SILENT = "silent"


@dataclass(frozen=True, slots=True)
class TcpFound:
    address: Address
    outcome: TcpOutcome


class TcpTest:
    """Connects to each address and says HELLO; connections are numbered 2, 4, … by their place in `addresses`."""

    def __init__(self, addresses: Sequence[Address], random_bytes: Callable[[int], bytes]) -> None:
        self._open = {2 * place: address for place, address in enumerate(addresses, 1)}
        self._connected: set[int] = set()
        self._readers = {number: FrameReader(MAX_ANSWER) for number in self._open}
        self._transaction = random_bytes(TRANSACTION_SIZE)
        self._give_up_at: float | None = None
        self._actions: deque[Action] = deque()
        self._output: deque[tuple[int, list[Buffer]]] = deque()
        self._events: deque[TcpFound] = deque()

    @property
    def is_over(self) -> bool:
        return not self._open

    def start(self, now: float) -> None:
        self._give_up_at = now + PATIENCE
        self._actions.extend(Connect(number, address) for number, address in self._open.items())

    def handle_connected(self, number: int) -> None:
        if number in self._open:
            self._connected.add(number)
            self._output.append((number, [frame(encode(Hello(self._transaction)))]))

    def handle_data(self, number: int, data: Buffer) -> None:
        if number not in self._open:
            return
        try:
            messages = [decode(datagram) for datagram in self._readers[number].feed(data)]
        except DecodeError:
            self._end(number, TcpOutcome.STRANGER)
            return
        if any(isinstance(each, Cookie) and each.transaction == self._transaction for each in messages):
            self._end(number, TcpOutcome.ANSWERED)

    def handle_closed(self, number: int, *, refused: bool) -> None:
        if number in self._open:
            if number in self._connected:
                self._end(number, TcpOutcome.STRANGER)
            else:
                self._end(number, TcpOutcome.REFUSED if refused else TcpOutcome.SILENT)

    def handle_timeout(self, now: float) -> None:
        if self._give_up_at is not None and self._give_up_at <= now:
            for number in list(self._open):
                self._end(number, TcpOutcome.STRANGER if number in self._connected else TcpOutcome.SILENT)

    def poll_action(self) -> Action | None:
        return self._actions.popleft() if self._actions else None

    def poll_output(self) -> tuple[int, list[Buffer]] | None:
        return self._output.popleft() if self._output else None

    def poll_event(self) -> TcpFound | None:
        return self._events.popleft() if self._events else None

    def poll_timeout(self) -> float | None:
        return self._give_up_at

    def _end(self, number: int, outcome: TcpOutcome) -> None:
        self._events.append(TcpFound(self._open.pop(number), outcome))
        self._actions.append(Close(number))
        if not self._open:
            self._give_up_at = None
