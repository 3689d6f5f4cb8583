"""Finding the friend on one network, as a pure machine: docs/protocol.md, section 10."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from enum import Enum, auto
from typing import Final, assert_never

from p2p.core.address import Address
from p2p.core.datagram import MAIN, MULTICAST, Transmit
from p2p.core.discovery import channel as channels
from p2p.core.discovery.budget import ANSWERS, MAX_SOURCES, TESTS, TESTS_PER_SOURCE, Budget
from p2p.core.discovery.channel import Channel, Relation
from p2p.core.discovery.initiator import Initiator
from p2p.core.discovery.keys import Us, password, seat_of
from p2p.core.discovery.messages import (
    GROUP_PORT,
    GROUP_V4,
    INSTANCE_SIZE,
    Alive,
    Announce,
    Confirm,
    Content,
    Cookie,
    Forward,
    Here,
    Leave,
    Left,
    Message,
    Open,
    Sealed,
    Share,
    Shared,
    decode,
    encode,
)
from p2p.core.discovery.neighbours import Neighbours
from p2p.core.discovery.responder import Responder
from p2p.core.errors import CallerError, DecodeError, VersionError
from p2p.core.introduction import (
    MAX_PAYLOAD,
    Contested,
    Event,
    Gone,
    Paired,
    Pairing,
    PeerLeft,
    Refused,
    RefusedReason,
    Waiting,
)
from p2p.core.introduction import Message as Received
from p2p.core.rate import Bucket
from p2p.core.role import Role
from p2p.core.timers import Timers

QUICK: Final = (0.2, 0.4, 0.8)  # seconds between the first announcements: two may be lost and nobody feels it
ANNOUNCE_INTERVAL: Final = 5.0  # seconds; 100 peers that wait make 20 small multicasts a second
ASK_LATER: Final = 1.0  # seconds until a neighbour is due again for whom nothing was left of ANSWERS
GREETING_TIME: Final = 2.0  # seconds from the first announcement of a neighbour in which each is answered by HERE
MAX_CHANNELS: Final = 8  # the friend, and those who are in our place or in the friend's role
RIVAL_PATIENCE: Final = channels.LIFETIME + 2.0  # seconds: by then a predecessor that crashed is no rival any more
LEAVE_RETRY: Final = 0.2  # seconds
LEAVE_PATIENCE: Final = 1.0  # seconds


class State(Enum):
    IDLE = auto()
    WAITING = auto()
    PAIRED = auto()
    YIELDING = auto()  # somebody was in our place before us: neither heard nor seen until he goes
    LEAVING = auto()
    CLOSED = auto()


class Timer(Enum):
    ANNOUNCE = auto()
    RIVAL = auto()  # he has stayed
    LEAVE = auto()
    LEAVE_END = auto()


class Discovery:
    """The face of p2p.core.introduction.Introduction, without a server.

    `port` is that of the UDP socket by which everything but announcements leaves and arrives. `random_bytes(n)` has to
    be unguessable. `heard_version` is another version that somebody here speaks, or None: anybody can say so.
    """

    def __init__(self, pairing: Pairing, role: Role, port: int, random_bytes: Callable[[int], bytes]) -> None:
        self._us = Us(random_bytes(INSTANCE_SIZE), role, seat_of(pairing, role), password(pairing))
        self._port = port
        budget = Budget(TESTS, TESTS_PER_SOURCE, MAX_SOURCES)
        self._answers = Bucket(ANSWERS)
        self._initiator = Initiator(self._us, budget, self._answers, random_bytes)
        self._responder = Responder(self._us, budget, random_bytes)
        self._neighbours = Neighbours(role, self._is_ours_to_ask)
        self._channels: dict[bytes, Channel] = {}
        self._friend: Channel | None = None
        self._state = State.IDLE
        self._started_at = 0.0
        self._announced = 0
        self._timers: Timers[Timer] = Timers()
        self._transmits: deque[Transmit] = deque()
        self._events: deque[Event] = deque()
        self.heard_version: int | None = None

    @property
    def is_closed(self) -> bool:
        """Nothing more will be sent; Refused or Gone said why."""
        return self._state is State.CLOSED

    @property
    def computed(self) -> int:
        """Exchanges computed."""
        return self._initiator.computed + self._responder.computed

    def neighbours(self, now: float) -> int:
        """How many others wait on this network."""
        return self._neighbours.count(now)

    # command

    def start(self, now: float) -> None:
        """Raises CallerError the second time."""
        if self._state is not State.IDLE:
            raise CallerError("the discovery was started before")
        self._started_at = now
        self._wait(now)

    def forward(self, payload: bytes, now: float) -> None:  # noqa: ARG002 (every command takes the time)
        """Once, without acknowledgement; dropped without a friend. Raises CallerError for the size."""
        if not 1 <= len(payload) <= MAX_PAYLOAD:
            raise CallerError(f"a message of {len(payload)} bytes; 1 to {MAX_PAYLOAD} can be forwarded")
        if self._state is State.PAIRED and self._friend is not None:
            self._transmits.append(self._friend.seal(Forward(bytes(payload))))

    def leave(self, now: float) -> None:
        """Tells those who know us. Gone follows, after a second at the latest."""
        if self._state in (State.LEAVING, State.CLOSED):
            return
        self._timers.stop(Timer.ANNOUNCE)
        self._timers.stop(Timer.RIVAL)
        self._initiator.stop()
        self._state = State.LEAVING
        self._timers.set(Timer.LEAVE_END, now + LEAVE_PATIENCE)
        self._say_leave(now)

    # input

    def handle_datagram(self, data: bytes, source: Address, now: float, local: int = MAIN) -> None:
        """From the UDP socket, or (`local`) from the groups, where only announcements are taken.

        The port of an announcement's `source` does not count, for it says that of its peer's UDP socket.
        """
        if self._state in (State.IDLE, State.CLOSED):
            return
        try:
            message = decode(data)
        except VersionError as error:
            self.heard_version = error.version
        except DecodeError:
            return
        else:
            if isinstance(message, Announce) is (local == MULTICAST):
                self._handle_message(message, source, now)

    def handle_timeout(self, now: float) -> None:
        for timer in self._timers.pop_expired(now):
            self._handle_timer(timer, now)
        for channel in list(self._channels.values()):
            if channel.expires_at <= now:
                self._lose(channel, now)
            elif channel.speak_at <= now:
                self._say_alive(channel, now)
        self._initiator.handle_timeout(now)
        while self._initiator.silent:
            self._neighbours.forget(self._initiator.silent.popleft(), now)
        self._ask_neighbours(now)

    # output

    def poll_transmit(self) -> Transmit | None:
        for queue in (self._initiator.transmits, self._responder.transmits, self._transmits):
            if queue:
                return queue.popleft()
        return None

    def poll_event(self) -> Event | None:
        return self._events.popleft() if self._events else None

    def poll_timeout(self) -> float | None:
        if self._state in (State.IDLE, State.CLOSED):
            return None
        deadlines = [self._timers.earliest(), self._initiator.poll_timeout()]
        deadlines += [channel.deadline for channel in self._channels.values()]
        if self._state is State.WAITING:
            deadlines.append(self._neighbours.poll_timeout())
        return min((deadline for deadline in deadlines if deadline is not None), default=None)

    # what others say

    def _handle_message(self, message: Message, source: Address, now: float) -> None:
        if isinstance(message, Sealed):
            self._handle_sealed(message, source, now)
            return
        if isinstance(message, Confirm):
            for channel in self._channels.values():
                if channel.opened_by == message and channel.address == source:
                    self._say_alive(channel, now)
                    return
        if self._state is not State.WAITING or message.sender == self._us.instance:
            return  # we have a friend, or may have none; or it is our own announcement
        if isinstance(message, Announce):
            self._handle_announce(message, Address(source.host, message.port), now)
            return
        if message.to != self._us.instance:
            return
        match message:
            case Here(sender, _, role):
                self._neighbours.hear(sender, source, role, now)
                self._ask_neighbours(now)
            case Open():
                self._responder.handle_open(message, source)
            case Cookie():
                self._initiator.handle_cookie(message, source, now)
            case Share():
                if self._responder.handle_share(message, source, now):
                    self._neighbours.hear(message.sender, source, message.role, now)
            case Shared():
                self._initiator.handle_shared(message, source, now)
                while self._initiator.strangers:
                    self._neighbours.note_stranger(self._initiator.strangers.popleft(), now)
            case Confirm():
                if (opened := self._responder.handle_confirm(message, source, now)) is not None:
                    self._open_channel(opened, now)
            case _:
                assert_never(message)

    def _handle_announce(self, message: Announce, address: Address, now: float) -> None:
        neighbour = self._neighbours.hear(message.sender, address, message.role, now)
        if self._is_ours_to_ask(message.sender, message.role):
            self._ask_neighbours(now)
        elif now < neighbour.first_heard + GREETING_TIME and self._answers.take(now):
            here = Here(self._us.instance, message.sender, self._us.role)
            self._transmits.append(Transmit(address, (encode(here),)))

    def _is_ours_to_ask(self, instance: bytes, role: Role) -> bool:
        """The sender asks; between two in one role the one with the lower number."""
        if role is not self._us.role:
            return self._us.role is Role.SENDER
        return self._us.instance < instance

    def _ask_neighbours(self, now: float) -> None:
        if self._state is State.WAITING:
            for neighbour in self._neighbours.pop_due(now):
                if self._answers.take(now):
                    self._initiator.ask(neighbour, now)
                else:
                    neighbour.due = now + ASK_LATER

    def _handle_sealed(self, message: Sealed, source: Address, now: float) -> None:
        channel = self._channels.get(message.channel)
        is_new = channel is None
        if channel is None and self._state is State.WAITING:
            channel = self._initiator.channel_of(message)
        if channel is None or channel.address != source:
            return
        try:
            content = channel.open(message, now)
        except DecodeError:
            return
        if is_new:
            self._initiator.finish(channel)
            self._open_channel(channel, now)
        if channel.id in self._channels:
            self._handle_content(channel, content, now)

    def _handle_content(self, channel: Channel, content: Content, now: float) -> None:
        match content:
            case Alive(waited):
                self._handle_alive(channel, waited, now)
            case Forward(payload):
                if self._state is State.PAIRED and channel is self._friend:
                    self._events.append(Received(channel.id, payload))
            case Leave():
                self._transmits.append(channel.seal(Left()))
                self._lose(channel, now)
            case Left():
                if self._state is State.LEAVING:
                    self._drop(channel)
                    self._close_when_all_know()
            case _:
                assert_never(content)

    def _handle_alive(self, channel: Channel, waited: int, now: float) -> None:
        is_senior = waited > self._waited(now)
        if channel.relation is Relation.RIVAL and is_senior and self._state is State.WAITING:
            self._state = State.YIELDING
            self._timers.stop(Timer.ANNOUNCE)
            self._timers.set(Timer.RIVAL, now + RIVAL_PATIENCE)
            self._initiator.stop()
            self._events.append(Contested(RefusedReason.TAKEN))

    # channels

    def _open_channel(self, channel: Channel, now: float) -> None:
        if len(self._channels) >= MAX_CHANNELS:
            return
        self._channels[channel.id] = channel
        self._say_alive(channel, now)
        match channel.relation:
            case Relation.FRIEND:
                self._state = State.PAIRED
                self._friend = channel
                self._timers.stop(Timer.ANNOUNCE)
                self._initiator.stop()
                self._events.append(Paired(channel.id, channel.address))
            case Relation.SAME_ROLE:
                self._events.append(Contested(RefusedReason.SAME_ROLE))
            case Relation.RIVAL:
                pass  # who was here first is told by Alive
            case _:
                assert_never(channel.relation)

    def _lose(self, channel: Channel, now: float) -> None:
        """The other side has left, or crashed."""
        self._drop(channel)
        if self._state is State.LEAVING:
            self._close_when_all_know()
        elif channel is self._friend:
            self._friend = None
            self._events.append(PeerLeft())
            self._wait(now, is_new=False)
        elif self._state is State.YIELDING and not self._has_rivals():
            self._timers.stop(Timer.RIVAL)
            self._wait(now)

    def _drop(self, channel: Channel) -> None:
        self._channels.pop(channel.id, None)

    def _has_rivals(self) -> bool:
        return any(channel.relation is Relation.RIVAL for channel in self._channels.values())

    # what we say

    def _wait(self, now: float, *, is_new: bool = True) -> None:
        self._state = State.WAITING
        self._neighbours.ask_again()
        self._announced = 0
        self._announce(now)
        if is_new:
            self._events.append(Waiting(None))

    def _announce(self, now: float) -> None:
        data = encode(Announce(self._us.instance, self._us.role, self._port))
        self._transmits.append(Transmit(Address(GROUP_V4, GROUP_PORT), (data,), local=MULTICAST))
        interval = QUICK[self._announced] if self._announced < len(QUICK) else ANNOUNCE_INTERVAL
        self._announced += 1
        self._timers.set(Timer.ANNOUNCE, now + interval)

    def _say_alive(self, channel: Channel, now: float) -> None:
        channel.speak_at = now + channels.ALIVE_INTERVAL
        self._transmits.append(channel.seal(Alive(self._waited(now))))

    def _say_leave(self, now: float) -> None:
        for channel in self._channels.values():
            self._transmits.append(channel.seal(Leave()))
        self._timers.set(Timer.LEAVE, now + LEAVE_RETRY)
        self._close_when_all_know()

    def _close_when_all_know(self) -> None:
        if not self._channels:
            self._end(Gone())

    def _end(self, event: Gone | Refused) -> None:
        self._state = State.CLOSED
        self._channels.clear()
        self._initiator.stop()
        for timer in Timer:
            self._timers.stop(timer)
        self._events.append(event)

    def _handle_timer(self, timer: Timer, now: float) -> None:
        match timer:
            case Timer.ANNOUNCE:
                self._announce(now)
            case Timer.RIVAL:
                self._end(Refused(RefusedReason.TAKEN))
            case Timer.LEAVE:
                self._say_leave(now)
            case Timer.LEAVE_END:
                self._end(Gone())
            case _:
                assert_never(timer)

    def _waited(self, now: float) -> int:
        """Milliseconds since the start, in four bytes."""
        return min(int((now - self._started_at) * 1000), 0xFFFFFFFF)
