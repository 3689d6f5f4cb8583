"""The half of the session that answers: the receiver of the file."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, auto
from typing import ClassVar, Final, assert_never

from p2p.core.pake import InvalidShare
from p2p.core.role import Role
from p2p.core.session.events import Established, Outdated, Rejected, WrongCode
from p2p.core.session.exchange import CodeExchange, OpenExchange, opens
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

MAX_OPEN_RUNS: Final = 4  # a late copy of an old HELLO must not close the present run, so several stay open


class State(Enum):
    IDLE = auto()  # no peer
    ARMED = auto()  # runs may be open
    ESTABLISHED = auto()
    OVER = auto()  # the run ended; `begin` arms again
    BURNT = auto()  # for good


@dataclass(slots=True)
class _Run:
    """One HELLO and what became of it."""

    sender_nonce: bytes
    receiver_nonce: bytes


@dataclass(slots=True)
class _CodeRun(_Run):
    reply: bytes
    keys: SessionKeys


@dataclass(slots=True)
class _OpenRun(_Run):
    hello: Hello
    reply: Reply
    exchange: OpenExchange


@dataclass(slots=True)
class _Rejected(_Run):
    reject: bytes


@dataclass(slots=True)
class _Closed(_Run):
    """The sender rejected it. Remembered, so that a late copy of its HELLO opens no second run."""


@dataclass(slots=True)
class _Established(_Run):
    signals: SealedSignals
    ready: bytes


class ReceiverHalf(Half):
    """Shows its confirmation in at most `limit` runs that do not establish, for each is a guess to whoever poses
    as the sender."""

    role = Role.RECEIVER

    def __init__(
        self, mode: Mode, secret: bytes | None, context: tuple[bytes, ...], random_bytes: Callable[[int], bytes]
    ) -> None:
        super().__init__(mode, secret, context, random_bytes)
        self._state = State.IDLE
        self._runs: dict[bytes, _CodeRun | _OpenRun | _Rejected | _Closed | _Established] = {}
        self._refused_nonce = b""  # of the HELLO that was refused last, so that its copies are reported once

    def begin(self, description: bytes, now: float) -> None:  # noqa: ARG002 - the sender speaks first
        self._start_over(description)
        self._runs.clear()
        if self._state is not State.BURNT:
            self._state = State.ARMED

    def handle(self, message: Message, now: float) -> None:
        handler = self._TABLE.get((self._state, type(message)))
        if handler is not None:
            handler(self, message, now)

    def handle_foreign(self, data: bytes) -> None:
        nonce = foreign_nonce(data, Type.HELLO)
        if nonce is not None and self._state is State.ARMED:
            self._refuse(nonce, Reason.VERSION, Outdated(data[0]))

    def bye(self, exit_code: int, reason: str, now: float) -> None:
        established = next((run for run in self._runs.values() if isinstance(run, _Established)), None)
        self._stop_repeating()
        if self._state is not State.BURNT:
            self._state = State.OVER
        if established is not None:
            blank = Bye(established.sender_nonce, established.receiver_nonce, b"")
            self._runs.clear()
            self._say_bye(established.signals, blank, exit_code, reason, now)

    def _on_hello(self, message: Message, now: float) -> None:
        assert isinstance(message, Hello)
        run = self._runs.get(message.sender_nonce)
        if run is not None:
            self._answer_again(run)
        elif message.mode is not self.mode:
            has_contact = Mode.CONTACT in (message.mode, self.mode)
            reason = Reason.CONTACT_MISMATCH if has_contact else Reason.MODE_MISMATCH
            self._refuse(message.sender_nonce, reason, Rejected(reason, self.tries, self.limit))
        elif self.tries >= self.limit:
            self._burn()
            self._on_hello_burnt(message, now)
        else:
            self._open(message, now)

    def _open(self, hello: Hello, now: float) -> None:
        # Counted before it can fail, and given back when the sender proves itself.
        self.tries += 1
        receiver_nonce = self._random_bytes(NONCE)
        run: _CodeRun | _OpenRun
        if self._secret is None:
            exchange = OpenExchange(self._random_bytes)
            reply = Reply(self.mode, hello.sender_nonce, receiver_nonce, exchange.public, b"")
            run = _OpenRun(hello.sender_nonce, receiver_nonce, hello, reply, exchange)
            encoded = reply.encode()
        else:
            exchange_code = CodeExchange(self.role, self._secret, self._random_bytes)
            try:
                secret = exchange_code.finish(hello.share)
            except InvalidShare:
                self._wrong(hello.sender_nonce, NO_NONCE)
                return
            reply = Reply(self.mode, hello.sender_nonce, receiver_nonce, exchange_code.share, b"")
            keys = SessionKeys(secret, transcript(self._context, hello.encode(), reply.bound()))
            encoded = reply.bound() + keys.confirmation(self.role)
            run = _CodeRun(hello.sender_nonce, receiver_nonce, encoded, keys)
        self._remember(run)
        self._repeat(encoded, now)

    def _on_confirm(self, message: Message, now: float) -> None:
        assert isinstance(message, Confirm)
        run = self._runs.get(message.sender_nonce)
        if run is None or run.receiver_nonce != message.receiver_nonce:
            return
        match run:
            case _CodeRun():
                if run.keys.confirms(Role.SENDER, message.confirmation):
                    self._establish(message, run.keys, now)
                else:
                    self._wrong(run.sender_nonce, run.receiver_nonce)
            case _OpenRun():
                self._establish(message, self._open_keys(run, message), now)
            case _Rejected():
                self.messages.append(run.reject)
            case _Established():
                self.messages.append(run.ready)
            case _Closed():
                pass
            case _:
                assert_never(run)

    def _open_keys(self, run: _OpenRun, confirm: Confirm) -> SessionKeys:
        if not opens(confirm.opening, run.hello.share):
            raise forged("opening")
        secret = run.exchange.finish(confirm.opening[:32])
        keys = SessionKeys(
            secret, transcript(self._context, run.hello.encode(), run.reply.bound(), confirm.opening)
        )
        if not keys.confirms(Role.SENDER, confirm.confirmation):
            raise forged("confirmation")
        return keys

    def _establish(self, confirm: Confirm, keys: SessionKeys, now: float) -> None:
        signals = SealedSignals(keys, self.role)
        description = signals.open(Type.CONFIRM, confirm.header(), confirm.sealed)
        is_open = self.mode is Mode.OPEN
        confirmation = keys.confirmation(self.role) if is_open else b""
        blank = Ready(confirm.sender_nonce, confirm.receiver_nonce, confirmation, b"")
        self._told = self._description
        ready = blank.header() + signals.seal(Type.READY, blank.header(), self._told)
        self._runs = {
            confirm.sender_nonce: _Established(confirm.sender_nonce, confirm.receiver_nonce, signals, ready),
        }
        self.tries -= 1
        self._state = State.ESTABLISHED
        self._stop_repeating()
        self.messages.append(ready)
        self.events.append(Established(keys, description, keys.verification() if is_open else None))
        self._start_signalling(signals, confirm.sender_nonce, confirm.receiver_nonce, now)

    def _on_signal(self, message: Message, now: float) -> None:  # noqa: ARG002 - one signature for the table
        self._hear_signal(message)

    def _on_reject(self, message: Message, now: float) -> None:  # noqa: ARG002
        assert isinstance(message, Reject)
        run = self._runs.get(message.sender_nonce)
        if isinstance(run, _CodeRun | _OpenRun) and run.receiver_nonce == message.receiver_nonce:
            self._stop_repeating()
            self._runs[run.sender_nonce] = _Closed(run.sender_nonce, run.receiver_nonce)
            self.events.append(Rejected(message.reason, message.tries, message.limit))

    def _on_bye(self, message: Message, now: float) -> None:  # noqa: ARG002
        assert isinstance(message, Bye)
        run = self._runs.get(message.sender_nonce)
        if run is None or run.receiver_nonce != message.receiver_nonce:
            return
        if isinstance(run, _Established):
            self._hear_bye(run.signals, message)
        elif isinstance(run, _CodeRun):  # it overtook CONFIRM; its tag proves as much
            self._hear_bye(SealedSignals(run.keys, self.role), message)
            self.tries -= 1
        else:
            return
        self._runs.clear()
        self._state = State.OVER

    def _on_confirm_burnt(self, message: Message, now: float) -> None:  # noqa: ARG002
        assert isinstance(message, Confirm)
        run = self._runs.get(message.sender_nonce)
        if isinstance(run, _Rejected) and run.receiver_nonce == message.receiver_nonce:
            self.messages.append(run.reject)

    def _answer_again(self, run: _CodeRun | _OpenRun | _Rejected | _Closed | _Established) -> None:
        """To a copy of the HELLO of a known run."""
        match run:
            case _CodeRun():
                self.messages.append(run.reply)
            case _OpenRun():
                self.messages.append(run.reply.encode())
            case _Rejected():
                self.messages.append(run.reject)
            case _Closed() | _Established():
                pass
            case _:
                assert_never(run)

    def _on_hello_burnt(self, message: Message, now: float) -> None:  # noqa: ARG002
        assert isinstance(message, Hello)
        reject = Reject(message.sender_nonce, NO_NONCE, Reason.BURNT, self.tries, self.limit)
        self.messages.append(reject.encode())

    def _refuse(self, sender_nonce: bytes, reason: Reason, event: Rejected | Outdated) -> None:
        """A HELLO with which no run can be opened."""
        self.messages.append(Reject(sender_nonce, NO_NONCE, reason, self.tries, self.limit).encode())
        if sender_nonce != self._refused_nonce:
            self._refused_nonce = sender_nonce
            self.events.append(event)

    def _wrong(self, sender_nonce: bytes, receiver_nonce: bytes) -> None:
        burnt = self.tries >= self.limit
        reason = Reason.BURNT if burnt else Reason.WRONG_CODE
        reject = Reject(sender_nonce, receiver_nonce, reason, self.tries, self.limit).encode()
        self._remember(_Rejected(sender_nonce, receiver_nonce, reject))
        self._stop_repeating()
        self.messages.append(reject)
        if burnt:
            self._burn()
        else:
            self.events.append(WrongCode(self.tries, self.limit, False))

    def _burn(self) -> None:
        self._stop_repeating()
        self._state = State.BURNT
        self.events.append(WrongCode(self.tries, self.limit, True))

    def _remember(self, run: _CodeRun | _OpenRun | _Rejected) -> None:
        self._runs[run.sender_nonce] = run
        if len(self._runs) > MAX_OPEN_RUNS:
            del self._runs[next(iter(self._runs))]

    # A row that is missing is a message that has no meaning in that state: a late copy, or a forgery.
    _TABLE: ClassVar[dict[tuple[State, type[Message]], Callable[[ReceiverHalf, Message, float], None]]] = {
        (State.ARMED, Hello): _on_hello,
        (State.ARMED, Confirm): _on_confirm,
        (State.ARMED, Reject): _on_reject,
        (State.ARMED, Bye): _on_bye,
        (State.ESTABLISHED, Confirm): _on_confirm,
        (State.ESTABLISHED, Bye): _on_bye,
        (State.ESTABLISHED, Signal): _on_signal,
        (State.BURNT, Hello): _on_hello_burnt,
        (State.BURNT, Confirm): _on_confirm_burnt,
    }
