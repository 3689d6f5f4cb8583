"""Which of the server's addresses to use: the first that answers, IPv6 with a head start (RFC 8305, Happy Eyeballs)."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from p2p.core.address import Address
from p2p.core.datagram import Transmit
from p2p.core.errors import DecodeError
from p2p.core.rendezvous.messages import TRANSACTION_SIZE, Cookie, Hello, decode, encode

ATTEMPT_DELAY = 0.25  # seconds; RFC 8305 section 5 (Connection Attempt Delay)
RETRY_FIRST = 0.5  # seconds, doubling
AGAIN_FIRST = 0.1  # the same where TCP got through this moment: before keys are agreed on by it
GIVE_UP = 3.0  # seconds without any answer, after which the first is as good as the others
REFLEXIVE_TRIES = 4  # to an address that was not chosen, for what it says of ours
MAX_SERVERS = 4  # two of each version: a name with more has them for its own sake


@dataclass(slots=True)
class _Attempt:
    server: Address
    transaction: bytes
    due: float
    pause: float
    tries: int = 0


class Eyeballs:
    """Asks the addresses one after the other for a cookie, and by the same question how each version sees us.

    The winner stands in `chosen`: at once where there is one address only, else with the first answer, or when nobody
    answers. After that one other address of the other version is asked, so that a peer whose seat is on IPv6 can name
    its reflexive IPv4 address too: it stands in `reflexive`. Raises ValueError without an address.
    """

    def __init__(self, servers: Sequence[Address], random_bytes: Callable[[int], bytes]) -> None:
        if not servers:
            raise ValueError("a server has an address")
        self._servers = list(dict.fromkeys(servers))[:MAX_SERVERS]
        self._random_bytes = random_bytes
        self._attempts: list[_Attempt] = []
        self._transmits: deque[Transmit] = deque()
        self._give_up: float | None = None
        self.chosen: Address | None = self._servers[0] if len(self._servers) == 1 else None
        self.reflexive: dict[Address, Address] = {}  # how the server saw us, by its address

    def start(self, now: float) -> None:
        if self.chosen is None:
            self._attempts = [self._attempt(each, now + ATTEMPT_DELAY * n) for n, each in enumerate(self._servers)]
            self._give_up = now + GIVE_UP
            self.handle_timeout(now)

    def stop(self) -> None:
        self._attempts.clear()
        self._give_up = None

    def ask_again(self, server: Address, now: float) -> None:
        """That one address, whatever was asked before."""
        self.chosen = server
        self._give_up = None
        self._attempts = [self._attempt(server, now, AGAIN_FIRST)]
        self.handle_timeout(now)

    def handle_datagram(self, data: bytes, source: Address, now: float) -> bool:
        """Whether it was an answer to a question of ours."""
        attempt = next((each for each in self._attempts if each.server == source), None)
        if attempt is None:
            return False
        try:
            message = decode(data)
        except DecodeError:
            return False
        if not isinstance(message, Cookie) or message.transaction != attempt.transaction:
            return False
        self._attempts.remove(attempt)
        self.reflexive[source] = message.mapped
        if self.chosen is None:
            self._choose(source, now)
        return True

    def handle_timeout(self, now: float) -> None:
        for attempt in [each for each in self._attempts if each.due <= now]:
            if self.chosen is not None and attempt.tries == REFLEXIVE_TRIES:
                self._attempts.remove(attempt)
                continue
            self._transmits.append(Transmit(attempt.server, (encode(Hello(attempt.transaction)),)))
            attempt.tries += 1
            attempt.due = now + attempt.pause
            attempt.pause *= 2
        if self._give_up is not None and self._give_up <= now:
            self._choose(self._servers[0], now)

    def poll_transmit(self) -> Transmit | None:
        return self._transmits.popleft() if self._transmits else None

    def poll_timeout(self) -> float | None:
        deadlines = [each.due for each in self._attempts]
        return min([*deadlines, *([] if self._give_up is None else [self._give_up])], default=None)

    def _choose(self, server: Address, now: float) -> None:
        self.chosen = server
        self._give_up = None
        others = [each for each in self._servers if each.version != server.version]
        asked = [each for each in self._attempts if each.server in others[:1]]
        self._attempts = asked or [self._attempt(each, now) for each in others[:1] if each not in self.reflexive]
        for attempt in self._attempts:
            if not attempt.tries:
                attempt.due = now
        self.handle_timeout(now)

    def _attempt(self, server: Address, due: float, pause: float = RETRY_FIRST) -> _Attempt:
        return _Attempt(server, self._random_bytes(TRANSACTION_SIZE), due, pause)


def interleave(addresses: Sequence[Address]) -> list[Address]:
    """IPv6 and IPv4 in turn, IPv6 first, each in its order: MAX_SERVERS at most (RFC 8305 section 4)."""
    versions = [[each for each in addresses if each.version == version] for version in (6, 4)]
    longest = max(map(len, versions))
    return [version[turn] for turn in range(longest) for version in versions if turn < len(version)][:MAX_SERVERS]
