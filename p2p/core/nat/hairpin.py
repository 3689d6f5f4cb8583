"""Whether the NAT turns back what its own hosts send to its external addresses: RFC 5780 section 4.5."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from p2p.core.address import Address
from p2p.core.datagram import Transmit
from p2p.core.errors import DecodeError
from p2p.core.stun.messages import TRANSACTION_SIZE, Request, decode, encode

SENDS_AT: Final = (0.0, 0.1, 0.3, 0.7)  # seconds from the start
GIVEN_UP_AT: Final = 1.5  # seconds


@dataclass(frozen=True, slots=True)
class HairpinFound:
    """`hairpins` is None where our external address is not known."""

    hairpins: bool | None


class HairpinTest:
    """Sends from the socket `local` to the external address `target` of another socket of ours, and looks whether it
    comes there."""

    def __init__(self, target: Address | None, local: int, random_bytes: Callable[[int], bytes]) -> None:
        self._target = target
        self._local = local
        self._transaction = random_bytes(TRANSACTION_SIZE)
        self._due: list[float] = []
        self._give_up_at: float | None = None
        self._transmits: deque[Transmit] = deque()
        self._events: deque[HairpinFound] = deque()

    def start(self, now: float) -> None:
        if self._target is None:
            self._events.append(HairpinFound(None))
            return
        self._due = [now + after for after in SENDS_AT]
        self._give_up_at = now + GIVEN_UP_AT
        self.handle_timeout(now)

    def handle_datagram(
        self, data: bytes | bytearray | memoryview, _source: Address, local: int, _now: float
    ) -> None:
        if self._give_up_at is None or local == self._local:
            return
        try:
            message = decode(data)
        except DecodeError:
            return
        if isinstance(message, Request) and message.transaction == self._transaction:
            self._end(hairpins=True)

    def handle_timeout(self, now: float) -> None:
        if self._target is not None and self._due and self._due[0] <= now:
            self._due = [at for at in self._due if at > now]
            self._transmits.append(Transmit(self._target, (encode(Request(self._transaction)),), local=self._local))
        if self._give_up_at is not None and self._give_up_at <= now:
            self._end(hairpins=False)

    def poll_transmit(self) -> Transmit | None:
        return self._transmits.popleft() if self._transmits else None

    def poll_event(self) -> HairpinFound | None:
        return self._events.popleft() if self._events else None

    def poll_timeout(self) -> float | None:
        return min([*self._due, *([] if self._give_up_at is None else [self._give_up_at])], default=None)

    def _end(self, *, hairpins: bool) -> None:
        self._due = []
        self._give_up_at = None
        self._events.append(HairpinFound(hairpins))
