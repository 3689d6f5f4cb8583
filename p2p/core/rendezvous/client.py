"""A peer's side of the rendezvous as a pure machine: docs/protocol.md, section 1."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from enum import Enum, auto
from typing import assert_never

from p2p.core.address import Address
from p2p.core.datagram import MAIN, TUNNEL, Transmit
from p2p.core.errors import CallerError, DecodeError, VersionError
from p2p.core.introduction import MAX_PAYLOAD, Pairing, RefusedReason
from p2p.core.rendezvous import events, messages, timing
from p2p.core.rendezvous.events import Event
from p2p.core.rendezvous.liveness import Liveness
from p2p.core.rendezvous.messages import (
    CLIENT_SIZE,
    COOKIE_SIZE,
    TRANSACTION_SIZE,
    Cookie,
    Forward,
    Forwarded,
    Hello,
    Join,
    Joined,
    Leave,
    Left,
    Relay,
    Relayed,
    SeatState,
    Unsupported,
    decode,
    encode,
    push_transaction,
)
from p2p.core.rendezvous.relay_request import RelayRequest
from p2p.core.rendezvous.states import ASKING, TRANSITIONS, Input, State, may_pass
from p2p.core.role import Role
from p2p.core.timers import Timers


class Timer(Enum):
    REQUEST = auto()  # the next HELLO, JOIN or LEAVE
    REJOIN = auto()  # the friend has had time to come again
    LEAVE_END = auto()
    OUTDATED = auto()  # nothing contradicted it


class RendezvousClient:
    """Finds the friend at the server, keeps the seat there, and carries small messages to the friend.

    `server` is the server's first port, resolved, in the text form that the socket reports; what comes
    from elsewhere is ignored. `random_bytes(n)` gives the secret that owns the seat, so it has to be unguessable; or
    `secret` is one of before, which has the same tag.
    """

    def __init__(
        self,
        server: Address,
        pairing: Pairing,
        role: Role,
        random_bytes: Callable[[int], bytes],
        *,
        secret: bytes | None = None,
    ) -> None:
        self._server, self._pairing = server, pairing
        self._role = role
        self._random_bytes = random_bytes
        self._client = secret if secret is not None else random_bytes(CLIENT_SIZE)
        self._state = State.IDLE
        self._timers: Timers[Timer] = Timers()
        self._transmits: deque[Transmit] = deque()
        self._events: deque[Event] = deque()
        self._liveness = Liveness()
        self._relay = RelayRequest(self._client, random_bytes)
        self._local = MAIN
        self._mapped: Address | None = None  # what Mapped has said
        self._push = push_transaction(self._client)
        self._transaction: bytes | None = None  # of the open request
        self._retry = timing.RETRY_FIRST
        self._asked_at = float("-inf")
        self._cookie = bytes(COOKIE_SIZE)
        self._cookies_in_a_row = 0
        self._other_version = 0  # what Timer.OUTDATED will report
        self._peer_tag: bytes | None = None
        self._obstacle: RefusedReason | None = None  # what Contested has said
        self._refused_until: float | None = None

    @property
    def is_closed(self) -> bool:
        """Nothing more will be sent; Refused, Outdated or Gone said why."""
        return self._state is State.CLOSED

    def start(self, now: float) -> None:
        """Raises CallerError the second time."""
        if not self._advance(Input.START):
            raise CallerError("the rendezvous was started before")
        self._ask(now)

    def forward(self, payload: bytes, now: float) -> None:  # noqa: ARG002 (every command takes the time)
        """Sends `payload` (1 to 1024 bytes) to the friend, once and without acknowledgement.

        Without a friend it is dropped: the friend may have gone this moment. Raises CallerError for the size.
        """
        if not 1 <= len(payload) <= MAX_PAYLOAD:
            raise CallerError(f"a message of {len(payload)} bytes; 1 to {MAX_PAYLOAD} can be forwarded")
        if self._state is State.PAIRED:
            self._send(Forward(self._client, bytes(payload)))

    def leave(self, now: float) -> None:
        """Gives up the seat. Gone follows, after a second at the latest."""
        if not self._advance(Input.LEAVE):
            return
        self._stop()
        if self._state is State.CLOSED:
            self._events.append(events.Gone())
            return
        self._timers.set(Timer.LEAVE_END, now + timing.LEAVE_PATIENCE)
        self._ask(now)

    def hand_over(self) -> None:
        """Another with the same secret has the seat from now on: nothing more is said from here."""
        self._end(events.Gone())

    def use(self, local: int, now: float) -> None:
        """Goes on by MAIN, or by TUNNEL: the TCP connection to the server, also a new one after the last broke.

        Our address at the server is another one then, so the open request, or a JOIN, goes out at once.
        """
        self._local = local
        self._mapped = None
        self._relay.stop()
        if self._state in (State.SEEKING, State.LEAVING, *ASKING):
            self._transaction = None  # an answer that comes the old way is none
            self._retry = timing.RETRY_FIRST
            self._cookies_in_a_row = 0
            self._ask(now)

    def ask_relay(self, now: float) -> None:
        """Have the server forward datagrams between us and the friend, as long as he wants that too."""
        self._relay.want()
        if self._state in (State.WAITING, State.PAIRED):
            self._relay.handle_seated(now)

    def drop_relay(self, now: float) -> None:  # noqa: ARG002 (every command takes the time)
        """Ask no more; the server forgets it within half a minute."""
        self._relay.drop()

    def handle_datagram(self, data: bytes, source: Address, now: float, local: int = MAIN) -> None:
        """`local` is the way by which it came. By the TUNNEL only the server can speak, so `source` is not looked at.

        What it pushes counts by either way; answers are told by their numbers, new ones for each way.
        """
        if self._state in (State.IDLE, State.CLOSED):
            return
        if local != TUNNEL and source != self._server:
            return
        try:
            message = decode(data)
        except VersionError as error:
            if local == self._local:
                self._handle_other_version(error.version, now)
        except DecodeError:
            return
        else:
            self._handle_message(message, now, local)

    def handle_error(self, now: float, local: int = MAIN) -> None:
        """That way we are told that nobody listens at the server: ECONNREFUSED."""
        if local != self._local:
            return
        if self._state is State.LEAVING:
            self._end(events.Gone())
        else:
            self._liveness.handle_error(now)

    def handle_timeout(self, now: float) -> None:
        for timer in self._timers.pop_expired(now):
            self._handle_timer(timer, now)
        self._liveness.handle_timeout(now)
        self._relay.handle_timeout(now)

    def poll_transmit(self) -> Transmit | None:
        while (message := self._relay.poll_message()) is not None:
            self._send(message)
        return self._transmits.popleft() if self._transmits else None

    def poll_event(self) -> Event | None:
        return (
            self._liveness.poll_event()
            or self._relay.poll_event()
            or (self._events.popleft() if self._events else None)
        )

    def poll_timeout(self) -> float | None:
        parts = (self._liveness, self._relay)
        deadlines = (self._timers.earliest(), *(part.poll_timeout() for part in parts))
        return min((deadline for deadline in deadlines if deadline is not None), default=None)

    # What the server says

    def _handle_message(self, message: messages.Message, now: float, local: int) -> None:
        match message:
            case Cookie():
                if self._is_answer(message.transaction):
                    self._handle_cookie(message, now)
            case Joined():
                if self._is_answer(message.transaction):
                    self._handle_joined(message, now)
                elif message.transaction == self._push and self._state in ASKING:
                    self._handle_push(message, now)
            case messages.Refused(transaction, reason):
                if self._is_answer(transaction):
                    self._handle_refused(reason, now)
                elif transaction == self._push and reason is RefusedReason.NOT_JOINED:
                    self._join_now(now)
            case Forwarded(tag, payload):
                if self._state is State.PAIRED and tag == self._peer_tag:
                    self._events.append(events.Message(tag, payload))
                elif now >= self._asked_at + timing.RETRY_FIRST:  # it may be forged: not a JOIN for each
                    self._join_now(now)  # the push that told of this friend was lost; it will repeat what it said
            case Left(transaction):
                if self._state is State.LEAVING and transaction == self._transaction:
                    self._end(events.Gone())
            case Relayed():
                self._relay.handle_relayed(message, self._push, now)
            case Unsupported(_, highest):
                if local == self._local:
                    self._handle_other_version(highest, now)
            case Hello() | Join() | Forward() | Leave() | Relay():
                pass  # not for a peer
            case _:
                assert_never(message)

    def _is_answer(self, transaction: bytes) -> bool:
        """Whether this is the first answer to the open request."""
        if transaction != self._transaction or self._state is State.LEAVING:
            return False
        self._transaction = None
        self._retry = timing.RETRY_FIRST
        self._timers.stop(Timer.REQUEST)
        self._timers.stop(Timer.OUTDATED)
        self._liveness.handle_answer()
        return True

    def _handle_cookie(self, message: Cookie, now: float) -> None:
        self._advance(Input.COOKIE)
        self._cookie = message.cookie
        self._note_mapped(message.mapped)
        self._cookies_in_a_row += 1
        if self._cookies_in_a_row <= timing.COOKIES_IN_A_ROW:
            self._ask(now)
        else:
            self._timers.set(Timer.REQUEST, now + timing.RETRY_MAX)

    def _handle_joined(self, message: Joined, now: float) -> None:
        self._cookies_in_a_row = 0
        self._timers.set(Timer.REQUEST, now + timing.JOIN_INTERVAL)
        self._note_mapped(message.mapped)
        self._relay.handle_seated(now)
        if message.state is SeatState.PAIRED:
            self._seated_with(message.peer_tag)
        elif self._state is not State.PAIRED:
            self._seated_alone(message)
        elif self._timers.get(Timer.REJOIN) is None:
            # Either the push that the friend left was lost, or the server was restarted and the friend has not
            # come again yet, or this answer was overtaken by the push of the pairing. Ask once more, and wait.
            self._timers.set(Timer.REJOIN, now + timing.REJOIN_GRACE)
            self._timers.set(Timer.REQUEST, now + timing.RETRY_FIRST)

    def _handle_push(self, message: Joined, now: float) -> None:
        if message.state is SeatState.PAIRED:
            self._seated_with(message.peer_tag)
        else:
            self._lose_peer()
            self._seated_alone(message)
            self._join_now(now)  # a push may be late or repeated: the answer to this is neither

    def _seated_with(self, tag: bytes) -> None:
        if not self._advance(Input.SEATED_WITH_PEER):
            return
        self._timers.stop(Timer.REJOIN)
        self._obstacle = self._refused_until = None
        if tag != self._peer_tag:
            self._peer_tag = tag
            self._events.append(events.Paired(tag))

    def _seated_alone(self, message: Joined) -> None:
        was_waiting = self._state is State.WAITING
        if not self._advance(Input.SEATED_ALONE):
            return
        self._refused_until = None
        if not was_waiting:
            self._obstacle = None
            self._events.append(events.Waiting(message.mapped))
        if message.state is SeatState.CONTESTED:
            self._note_obstacle(RefusedReason.SAME_ROLE)
        else:
            self._obstacle = None

    def _handle_refused(self, reason: RefusedReason, now: float) -> None:
        self._cookies_in_a_row = 0
        self._lose_peer()
        self._relay.stop()
        if self._refused_until is None:
            self._refused_until = now + timing.REFUSED_PATIENCE
            self._obstacle = None
        if now >= self._refused_until or not may_pass(reason, self._pairing):
            self._end(events.Refused(reason))
        elif self._advance(Input.REFUSED):
            self._note_obstacle(reason)
            self._timers.set(Timer.REQUEST, now + timing.REFUSED_INTERVAL)

    def _handle_other_version(self, version: int, now: float) -> None:
        if not self._liveness.may_be_outdated:
            return  # a late datagram, or a forgery
        self._other_version = version
        if self._timers.get(Timer.OUTDATED) is None:
            self._timers.set(Timer.OUTDATED, now + timing.OUTDATED_WAIT)

    def _lose_peer(self) -> None:
        self._timers.stop(Timer.REJOIN)
        if self._peer_tag is not None:
            self._peer_tag = None
            self._events.append(events.PeerLeft())

    def _note_mapped(self, mapped: Address) -> None:
        if mapped != self._mapped:
            self._mapped = mapped
            self._events.append(events.Mapped(mapped, self._local))

    def _note_obstacle(self, reason: RefusedReason) -> None:
        if reason is not self._obstacle:
            self._obstacle = reason
            self._events.append(events.Contested(reason))

    # What we say

    def _handle_timer(self, timer: Timer, now: float) -> None:
        match timer:
            case Timer.REQUEST:
                self._ask(now)
            case Timer.REJOIN:
                self._lose_peer()
                if self._advance(Input.SEATED_ALONE) and self._mapped is not None:
                    self._events.append(events.Waiting(self._mapped))
            case Timer.LEAVE_END:
                self._end(events.Gone())
            case Timer.OUTDATED:
                self._end(events.Outdated(self._other_version))
            case _:
                assert_never(timer)

    def _ask(self, now: float) -> None:
        """Sends the request that the state calls for, a new one or the open one again, and sets when to repeat it."""
        self._asked_at = now
        if self._transaction is None:
            self._transaction = self._random_bytes(TRANSACTION_SIZE)
        if self._state is State.LEAVING:
            self._send(Leave(self._transaction, self._client))
            self._timers.set(Timer.REQUEST, now + timing.LEAVE_RETRY)
            return
        if self._state is State.SEEKING:
            self._send(Hello(self._transaction))
        else:
            self._send(Join(self._transaction, self._cookie, self._client, self._role, self._pairing))
        self._liveness.handle_request(now)
        self._timers.set(Timer.REQUEST, now + self._retry)
        self._retry = min(2 * self._retry, timing.RETRY_MAX)

    def _join_now(self, now: float) -> None:
        """Asks at once, unless an answer is due anyway."""
        if self._state in ASKING and self._transaction is None:
            self._ask(now)

    def _send(self, message: messages.Message) -> None:
        self._transmits.append(Transmit(self._server, (encode(message),), local=self._local))

    # State

    def _advance(self, event: Input) -> bool:
        """Takes the row of the table. Returns whether there is one."""
        state = TRANSITIONS.get((self._state, event))
        if state is None:
            return False
        self._state = state
        return True

    def _end(self, event: events.Refused | events.Outdated | events.Gone) -> None:
        if self._advance(Input.END):
            self._stop()
            self._events.append(event)

    def _stop(self) -> None:
        self._transaction = None
        self._liveness.stop()
        self._relay.stop()
        for timer in Timer:
            self._timers.stop(timer)
