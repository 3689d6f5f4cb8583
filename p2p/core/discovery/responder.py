"""The half of a test that is asked. It remembers nothing of anybody who has not proved to be where it says."""

from __future__ import annotations

import hmac
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import blake2b
from typing import Final

from p2p.core.address import Address
from p2p.core.datagram import Transmit
from p2p.core.discovery.budget import Budget
from p2p.core.discovery.channel import Channel, relation_of
from p2p.core.discovery.keys import IDENTITIES, Run, RunKeys, Side, Us
from p2p.core.discovery.messages import COOKIE_SIZE, Confirm, Cookie, Open, Share, Shared, encode
from p2p.core.pake import InvalidShare, PasswordExchange
from p2p.core.role import Role

MAX_RUNS: Final = 32  # runs that wait for CONFIRM; the oldest gives way, and its initiator begins another one


@dataclass(frozen=True, slots=True)
class _Answered:
    share: bytes
    reply: bytes
    keys: RunKeys
    role: Role


class Responder:
    """Answers OPEN, SHARE and CONFIRM. One SHARE that it computes an answer to is one guess of whoever sent it."""

    def __init__(self, us: Us, budget: Budget, random_bytes: Callable[[int], bytes]) -> None:
        self._us = us
        self._budget = budget
        self._random_bytes = random_bytes
        self._cookie_key = random_bytes(32)
        self._runs: dict[tuple[bytes, bytes, Address], _Answered] = {}
        self.transmits: deque[Transmit] = deque()
        self.computed = 0  # answers that took an exchange

    def handle_open(self, message: Open, source: Address) -> None:
        cookie = self._cookie(message.sender, message.nonce, source)
        self._send(source, encode(Cookie(self._us.instance, message.sender, message.nonce, cookie)))

    def handle_share(self, message: Share, source: Address, now: float) -> bool:
        """Whether it is the first of a run that came from where it says, and was answered."""
        if not hmac.compare_digest(self._cookie(message.sender, message.nonce, source), message.cookie):
            return False
        key = (message.sender, message.nonce, source)
        answered = self._runs.get(key)
        if answered is not None:  # a copy: our answer was lost, or somebody repeats it
            if answered.share == message.share:
                self._send(source, answered.reply)
            return False
        if not self._budget.take(source.host, now):
            return False
        try:
            answered = self._answer(message)
        except InvalidShare:
            return False
        if len(self._runs) >= MAX_RUNS:
            del self._runs[next(iter(self._runs))]
        self._runs[key] = answered
        self._send(source, answered.reply)
        return True

    def handle_confirm(self, message: Confirm, source: Address, now: float) -> Channel | None:
        """The channel to one who has proved to have the same pairing."""
        run = self._runs.get((message.sender, message.nonce, source))
        if run is None:
            return None
        seat = run.keys.confirmed_seat(Side.INITIATOR, message.confirmation)
        if seat is None:
            return None
        del self._runs[message.sender, message.nonce, source]
        relation = relation_of((self._us.role, self._us.seat), (run.role, seat))
        channel = Channel(run.keys, Side.RESPONDER, source, relation, now)
        channel.opened_by = message
        return channel

    def _answer(self, message: Share) -> _Answered:
        """Raises InvalidShare."""
        self.computed += 1
        exchange = PasswordExchange(self._us.password, IDENTITIES, self._random_bytes, is_first=False)
        secret = exchange.finish(message.share)
        run = Run(
            message.nonce, message.sender, self._us.instance, message.role, self._us.role, message.share, exchange.share
        )
        keys = RunKeys(secret, run)
        confirmation = keys.confirmation(Side.RESPONDER, self._us.seat)
        reply = Shared(self._us.instance, message.sender, message.nonce, self._us.role, exchange.share, confirmation)
        return _Answered(message.share, encode(reply), keys, message.role)

    def _cookie(self, sender: bytes, nonce: bytes, source: Address) -> bytes:
        place = sender + nonce + str(source).encode()
        return blake2b(place, digest_size=COOKIE_SIZE, key=self._cookie_key, person=b"p2p lan cookie").digest()

    def _send(self, destination: Address, data: bytes) -> None:
        self.transmits.append(Transmit(destination, (data,)))
