"""The half of the session that speaks first: the sender of the file."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, auto
from typing import ClassVar

from p2p.core.errors import CallerError
from p2p.core.pake import InvalidShare
from p2p.core.role import Role
from p2p.core.session.events import Established, Outdated, Rejected, WrongCode
from p2p.core.session.exchange import CodeExchange, OpenExchange
from p2p.core.session.half import Half, forged
from p2p.core.session.keys import SealedSignals, SessionKeys, transcript
from p2p.core.session.messages import (
    NO_NONCE,
    NONCE,
    Bye,
    Confirm,
    Hello,
    Message,
    Mode,
    Ready,
    Reason,
    Reject,
    Reply,
    Signal,
    Type,
    foreign_nonce,
)


class State(Enum):
    IDLE = auto()  # no peer
    GREETING = auto()  # HELLO is repeated
    CONFIRMING = auto()  # the receiver proved itself; CONFIRM is repeated
    ESTABLISHED = auto()
    REJECTED = auto()  # the receiver's code was wrong: this run is over, copies of its REPLY get the same REJECT
    OVER = auto()  # the run ended in another way; `begin` starts the next
    BURNT = auto()  # for good


@dataclass(frozen=True, slots=True)
class _Greeting:
    hello: Hello
    exchange: CodeExchange | OpenExchange


@dataclass(frozen=True, slots=True)
class _Answered:
    """A run whose REPLY was judged; `signals` only where it was genuine."""

    sender_nonce: bytes
    receiver_nonce: bytes

    def owns(self, message: Message) -> bool:
        return not isinstance(message, Hello) and (
            (message.sender_nonce, message.receiver_nonce) == (self.sender_nonce, self.receiver_nonce)
        )


@dataclass(frozen=True, slots=True)
class _Confirming(_Answered):
    keys: SessionKeys
    signals: SealedSignals


@dataclass(frozen=True, slots=True)
class _Rejecting(_Answered):
    reject: bytes


class SenderHalf(Half):
    """Judges one REPLY a run, so that whoever poses as the receiver has one guess a run."""

    role = Role.SENDER

    def __init__(
        self, mode: Mode, secret: bytes | None, context: tuple[bytes, ...], random_bytes: Callable[[int], bytes]
    ) -> None:
        super().__init__(mode, secret, context, random_bytes)
        self._state = State.IDLE
        self._run: _Greeting | _Confirming | _Rejecting | None = None

    def begin(self, description: bytes, now: float) -> None:
        self._start_over(description)
        if self._state is State.CONFIRMING and self.mode is Mode.OPEN:
            # The opening is out and the verification string of that run known: whoever broke off may be searching.
            self.tries += 1
            if self.tries >= self.limit:
                self._burn()
        if self._state is State.BURNT:
            return
        exchange: CodeExchange | OpenExchange
        if self._secret is None:
            exchange = OpenExchange(self._random_bytes)
            hello = Hello(self.mode, self._random_bytes(NONCE), exchange.commitment)
        else:
            exchange = CodeExchange(self.role, self._secret, self._random_bytes)
            hello = Hello(self.mode, self._random_bytes(NONCE), exchange.share)
        self._run = _Greeting(hello, exchange)
        self._state = State.GREETING
        self._repeat(hello.encode(), now)

    def handle(self, message: Message, now: float) -> None:
        handler = self._TABLE.get((self._state, type(message)))
        if handler is not None:
            handler(self, message, now)

    def handle_foreign(self, data: bytes) -> None:
        if isinstance(self._run, _Greeting) and foreign_nonce(data, Type.REJECT) == self._run.hello.sender_nonce:
            self._end(State.OVER)
            self.events.append(Outdated(data[0]))

    def bye(self, exit_code: int, reason: str, now: float) -> None:
        if isinstance(self._run, _Confirming):
            run = self._run
            self._end(State.OVER)
            self._say_bye(run.signals, Bye(run.sender_nonce, run.receiver_nonce, b""), exit_code, reason, now)
        elif self._state is not State.BURNT:
            self._end(State.OVER)

    def _on_reply(self, message: Message, now: float) -> None:
        assert isinstance(message, Reply)
        assert isinstance(self._run, _Greeting)
        hello, exchange = self._run.hello, self._run.exchange
        if message.sender_nonce != hello.sender_nonce or message.mode is not self.mode:
            return
        if isinstance(exchange, OpenExchange):
            secret = exchange.finish(message.share)
            self._confirm(message, self._keys(hello, message, exchange.opening, secret), exchange.opening, now)
            return
        try:
            keys = self._keys(hello, message, None, exchange.finish(message.share))
        except InvalidShare:
            self._reject(message)
            return
        if keys.confirms(Role.RECEIVER, message.confirmation):
            self._confirm(message, keys, b"", now)
        else:
            self._reject(message)

    def _keys(self, hello: Hello, reply: Reply, opening: bytes | None, secret: bytes) -> SessionKeys:
        seen = (hello.encode(), reply.bound()) if opening is None else (hello.encode(), reply.bound(), opening)
        return SessionKeys(secret, transcript(self._context, *seen))

    def _confirm(self, reply: Reply, keys: SessionKeys, opening: bytes, now: float) -> None:
        signals = SealedSignals(keys, self.role)
        confirmation = keys.confirmation(self.role)
        blank = Confirm(reply.sender_nonce, reply.receiver_nonce, opening, confirmation, b"")
        self._told = self._description
        sealed = signals.seal(Type.CONFIRM, blank.header(), self._told)
        self._run = _Confirming(reply.sender_nonce, reply.receiver_nonce, keys, signals)
        self._state = State.CONFIRMING
        self._repeat(blank.header() + sealed, now)

    def _reject(self, reply: Reply) -> None:
        self.tries += 1
        burnt = self.tries >= self.limit
        reason = Reason.BURNT if burnt else Reason.WRONG_CODE
        reject = Reject(reply.sender_nonce, reply.receiver_nonce, reason, self.tries, self.limit).encode()
        self._end(State.BURNT if burnt else State.REJECTED)
        self._run = _Rejecting(reply.sender_nonce, reply.receiver_nonce, reject)
        self.messages.append(reject)
        self.events.append(WrongCode(self.tries, self.limit, burnt))

    def _on_reply_again(self, message: Message, now: float) -> None:  # noqa: ARG002 - one signature for the table
        if isinstance(self._run, _Rejecting) and self._run.owns(message):
            self.messages.append(self._run.reject)

    def _on_ready(self, message: Message, now: float) -> None:
        assert isinstance(message, Ready)
        assert isinstance(self._run, _Confirming)
        run = self._run
        if not run.owns(message):
            return
        if self.mode is Mode.OPEN and not run.keys.confirms(Role.RECEIVER, message.confirmation):
            raise forged("confirmation")
        description = run.signals.open(Type.READY, message.header(), message.sealed)
        self._stop_repeating()
        self._state = State.ESTABLISHED
        self.events.append(
            Established(run.keys, description, run.keys.verification() if self.mode is Mode.OPEN else None)
        )
        self._start_signalling(run.signals, run.sender_nonce, run.receiver_nonce, now)

    def _on_signal(self, message: Message, now: float) -> None:  # noqa: ARG002
        self._hear_signal(message)

    def _on_reject(self, message: Message, now: float) -> None:  # noqa: ARG002
        assert isinstance(message, Reject)
        match self._run:
            case _Greeting(hello=hello):
                ours = (message.sender_nonce, message.receiver_nonce) == (hello.sender_nonce, NO_NONCE)
            case _Confirming() as run:
                ours = run.owns(message)
            case _:
                raise CallerError("REJECT is not expected in this state")
        if ours:
            self._end(State.OVER)
            self.events.append(Rejected(message.reason, message.tries, message.limit))

    def _on_bye(self, message: Message, now: float) -> None:  # noqa: ARG002
        assert isinstance(message, Bye)
        assert isinstance(self._run, _Confirming)
        if self._run.owns(message):
            self._hear_bye(self._run.signals, message)
            self._end(State.OVER)

    def _burn(self) -> None:
        self._end(State.BURNT)
        self.events.append(WrongCode(self.tries, self.limit, True))

    def _end(self, state: State) -> None:
        self._stop_repeating()
        self._run = None
        self._state = state

    # A row that is missing is a message that has no meaning in that state: a late copy, or a forgery.
    _TABLE: ClassVar[dict[tuple[State, type[Message]], Callable[[SenderHalf, Message, float], None]]] = {
        (State.GREETING, Reply): _on_reply,
        (State.GREETING, Reject): _on_reject,
        (State.CONFIRMING, Ready): _on_ready,
        (State.CONFIRMING, Reject): _on_reject,
        (State.CONFIRMING, Bye): _on_bye,
        (State.ESTABLISHED, Bye): _on_bye,
        (State.ESTABLISHED, Signal): _on_signal,
        (State.REJECTED, Reply): _on_reply_again,
        (State.BURNT, Reply): _on_reply_again,
    }
