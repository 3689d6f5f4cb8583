"""How large packets may be on the way to a STUN server: padded requests (RFC 5780 section 7.6), uncut."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from p2p.core.address import Address
from p2p.core.datagram import Transmit
from p2p.core.errors import DecodeError
from p2p.core.stun.messages import HEADER_SIZE, TRANSACTION_SIZE, Error, Request, Success, decode, encode

# Bytes of IP packets. What lies between two of them is rare: PPPoE 1492, IPv6 in IPv4 1480, mobile networks and tunnels
# 1460 to 1400, WireGuard 1420, what IPv6 asks of every network 1280 (RFC 8200 section 5).
SIZES: Final = (1500, 1492, 1480, 1460, 1440, 1420, 1400, 1280)
OVERHEAD: Final = {4: 20 + 8, 6: 40 + 8}  # bytes of IP and UDP headers
ATTRIBUTE_HEADER: Final = 4  # bytes
SENDS_AT: Final = (0.0, 0.3, 0.8)  # seconds from the start
GIVEN_UP_AT: Final = 1.5  # seconds


@dataclass(frozen=True, slots=True)
class PathMtuFound:
    """The largest of SIZES that arrived; None: not even the least."""

    mtu: int | None


class PathMtuTest:
    """Sends all sizes from the socket `local`, which must forbid fragmentation, and looks which are answered.

    An error is an answer too: servers that do not know PADDING have received it.
    """

    def __init__(self, server: Address, local: int, random_bytes: Callable[[int], bytes]) -> None:
        self._server = server
        self._local = local
        self._open = {random_bytes(TRANSACTION_SIZE): size for size in SIZES}
        self._best: int | None = None
        self._due: list[float] = []
        self._give_up_at: float | None = None
        self._transmits: deque[Transmit] = deque()
        self._events: deque[PathMtuFound] = deque()

    def start(self, now: float) -> None:
        self._due = [now + after for after in SENDS_AT]
        self._give_up_at = now + GIVEN_UP_AT
        self.handle_timeout(now)

    def handle_datagram(
        self, data: bytes | bytearray | memoryview, source: Address, local: int, _now: float
    ) -> None:
        if self._give_up_at is None or (source, local) != (self._server, self._local):
            return
        try:
            message = decode(data)
        except DecodeError:
            return
        if not isinstance(message, Success | Error) or (size := self._open.pop(message.transaction, None)) is None:
            return
        self._best = max(size, self._best or 0)
        self._open = {transaction: each for transaction, each in self._open.items() if each > self._best}
        if not self._open:
            self._end()

    def handle_timeout(self, now: float) -> None:
        if self._due and self._due[0] <= now:
            self._due = [at for at in self._due if at > now]
            overhead = OVERHEAD[self._server.version] + HEADER_SIZE + ATTRIBUTE_HEADER
            for transaction, size in self._open.items():
                data = encode(Request(transaction, padding=size - overhead))
                self._transmits.append(Transmit(self._server, (data,), local=self._local))
        if self._give_up_at is not None and self._give_up_at <= now:
            self._end()

    def poll_transmit(self) -> Transmit | None:
        return self._transmits.popleft() if self._transmits else None

    def poll_event(self) -> PathMtuFound | None:
        return self._events.popleft() if self._events else None

    def poll_timeout(self) -> float | None:
        return min([*self._due, *([] if self._give_up_at is None else [self._give_up_at])], default=None)

    def _end(self) -> None:
        self._due = []
        self._give_up_at = None
        self._transmits.clear()
        self._events.append(PathMtuFound(self._best))
