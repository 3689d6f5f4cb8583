"""The half of a test that asks. It computes nothing before the other side has proved to be where it was heard."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from p2p.core.address import Address
from p2p.core.datagram import Transmit
from p2p.core.discovery.budget import Budget
from p2p.core.discovery.channel import Channel, relation_of
from p2p.core.discovery.keys import IDENTITIES, Run, RunKeys, Side, Us
from p2p.core.discovery.messages import NONCE_SIZE, Confirm, Cookie, Message, Open, Sealed, Share, Shared, encode
from p2p.core.discovery.neighbours import Neighbour
from p2p.core.pake import InvalidShare, PasswordExchange
from p2p.core.rate import Bucket

RETRY_FIRST: Final = 0.2  # seconds; a network of ours answers within a few ms, so this is a loss
RETRY_MAX: Final = 1.0  # seconds; doubles up to this
MAX_OPEN_COPIES: Final = 5  # to where nobody may be
MAX_COPIES: Final = 10  # to one who has answered before; where a third of all is lost one in a thousand gets no answer
MAX_RUNS: Final = 64  # runs at once; one that got no answer gives way first, so that false addresses hold up nobody


@dataclass(slots=True)
class _Step:
    """What was said last in a run, to be said again until it is answered."""

    neighbour: Neighbour
    data: bytes
    repeat_at: float
    copies: int = 1
    exchange: PasswordExchange | None = None  # from the SHARE on
    channel: Channel | None = None  # from the CONFIRM on

    @property
    def is_answered(self) -> bool:
        return self.exchange is not None


class Initiator:
    """Asks neighbours whether they have the same pairing. One SHARED that it judges is one guess of whoever sent it.

    `strangers` and `silent` are those who do not, and those who said nothing.
    """

    def __init__(self, us: Us, budget: Budget, answers: Bucket, random_bytes: Callable[[int], bytes]) -> None:
        """`budget` is for computing, `answers` for every OPEN that goes to where somebody may merely be said to be."""
        self._us = us
        self._answers = answers
        self._budget = budget
        self._random_bytes = random_bytes
        self._runs: dict[bytes, _Step] = {}  # by nonce
        self.transmits: deque[Transmit] = deque()
        self.strangers: deque[Neighbour] = deque()
        self.silent: deque[Neighbour] = deque()
        self.computed = 0  # shares that were made

    def ask(self, neighbour: Neighbour, now: float) -> None:
        """Without effect for one that is being asked, at whichever address."""
        if any(step.neighbour.instance == neighbour.instance for step in self._runs.values()):
            return
        if len(self._runs) >= MAX_RUNS:
            unanswered = [nonce for nonce, step in self._runs.items() if not step.is_answered]
            self.silent.append(self._runs.pop(unanswered[0] if unanswered else next(iter(self._runs))).neighbour)
        nonce = self._random_bytes(NONCE_SIZE)
        self._say(nonce, _Step(neighbour, b"", now), Open(self._us.instance, neighbour.instance, nonce), now)

    def handle_cookie(self, message: Cookie, source: Address, now: float) -> None:
        step = self._step(message, source)
        if step is None or step.exchange is not None or not self._budget.take(source.host, now):
            return
        self.computed += 1
        step.exchange = PasswordExchange(self._us.password, IDENTITIES, self._random_bytes, is_first=True)
        us, share = self._us, step.exchange.share
        answer = Share(us.instance, message.sender, message.nonce, message.cookie, us.role, share)
        self._say(message.nonce, step, answer, now)

    def handle_shared(self, message: Shared, source: Address, now: float) -> None:
        step = self._step(message, source)
        if step is None or step.exchange is None or step.channel is not None:
            return
        try:
            secret = step.exchange.finish(message.share)
        except InvalidShare:
            seat = None
        else:
            run = Run(
                message.nonce, self._us.instance, message.sender, self._us.role, message.role,
                step.exchange.share, message.share,
            )  # fmt: skip
            keys = RunKeys(secret, run)
            seat = keys.confirmed_seat(Side.RESPONDER, message.confirmation)
        if seat is None:
            del self._runs[message.nonce]
            self.strangers.append(step.neighbour)
            return
        relation = relation_of((self._us.role, self._us.seat), (message.role, seat))
        step.channel = Channel(keys, Side.INITIATOR, source, relation, now)
        confirmation = keys.confirmation(Side.INITIATOR, self._us.seat)
        self._say(message.nonce, step, Confirm(self._us.instance, message.sender, message.nonce, confirmation), now)

    def channel_of(self, message: Sealed) -> Channel | None:
        """The channel of a run in which everything but the first sealed word has come."""
        found = (step.channel for step in self._runs.values() if step.channel and step.channel.id == message.channel)
        return next(found, None)

    def finish(self, channel: Channel) -> None:
        """The other side knows that we know."""
        self._runs = {nonce: step for nonce, step in self._runs.items() if step.channel is not channel}

    def stop(self) -> None:
        """Breaks off all runs."""
        self._runs.clear()

    def handle_timeout(self, now: float) -> None:
        for nonce, step in list(self._runs.items()):
            if step.repeat_at > now:
                continue
            if step.copies >= (MAX_COPIES if step.is_answered else MAX_OPEN_COPIES):
                del self._runs[nonce]
                self.silent.append(step.neighbour)
            else:
                if step.is_answered or self._answers.take(now):
                    self.transmits.append(Transmit(step.neighbour.address, (step.data,)))
                step.repeat_at = now + min(RETRY_FIRST * 2**step.copies, RETRY_MAX)
                step.copies += 1

    def poll_timeout(self) -> float | None:
        return min((step.repeat_at for step in self._runs.values()), default=None)

    def _step(self, message: Cookie | Shared, source: Address) -> _Step | None:
        step = self._runs.get(message.nonce)
        if step is None or (step.neighbour.instance, step.neighbour.address) != (message.sender, source):
            return None
        return step

    def _say(self, nonce: bytes, step: _Step, message: Message, now: float) -> None:
        step.data, step.copies, step.repeat_at = encode(message), 1, now + RETRY_FIRST
        self._runs[nonce] = step
        self.transmits.append(Transmit(step.neighbour.address, (step.data,)))
