"""What the clients of all three protocols share, and the questions that are asked by datagrams."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable
from enum import Enum, auto

from p2p.core.address import Address
from p2p.core.datagram import Transmit
from p2p.core.portmap.epoch import Epoch
from p2p.core.portmap.events import Action, ClientEvent, Denied, Granted, Ready, Released
from p2p.core.timers import Timers

# Seconds until a question is asked again, doubled each time: RFC 6886 section 3.1. RFC 6887 section 8.1.1 wants 3 s
# for PCP, which is longer than two peers take to connect; a router in one's own house answers in milliseconds.
FIRST_RETRY = 0.25
RELEASE_RETRY = 0.1  # seconds, doubled likewise: a person waits for the program to end
ATTEMPTS = 4  # the last wait ends 3.75 s after the first question; an answer that comes later still counts
MAX_LIFETIME = 24 * 3600  # seconds; RFC 6887 section 15: more is not believed
RENEWAL = (1 / 2, 1 / 8)  # of the lifetime: RFC 6887 section 11.2.1, at random within an eighth from its half on
MIN_RENEWAL = 4.0  # seconds between two renewals that went unanswered; the same section
# Seconds between two looks at a router that may have restarted: for so long a lost mapping is a wrong candidate.
WATCH_INTERVAL = 120.0
# ICMP errors until we believe that nobody listens: PCP and NAT-PMP share the port, and both are asked twice.
REFUSALS = 4
# Seconds; a shorter lease than this, and than was asked for, is not taken: we would be telling of nothing but its ends.
MIN_LIFETIME = 30
SILENT = "no answer"


class State(Enum):
    IDLE = auto()
    PROBING = auto()
    READY = auto()
    MAPPING = auto()
    MAPPED = auto()
    RELEASING = auto()
    OVER = auto()


class Timer(Enum):
    ASK = auto()  # again, or give up
    RENEW = auto()
    WATCH = auto()
    EXPIRE = auto()


class Question(Enum):
    PROBE = auto()
    MAP = auto()
    RELEASE = auto()


class MappingClient(ABC):
    """One protocol's mapping of one port. It probes without changing anything; the race says who maps."""

    def __init__(self, internal_port: int, lifetime: int, random_bytes: Callable[[int], bytes]) -> None:
        self._internal_port = internal_port
        self._lifetime = lifetime
        self._random_bytes = random_bytes
        self._state = State.IDLE
        self._timers: Timers[Timer] = Timers()
        self._events: deque[ClientEvent] = deque()
        self._transmits: deque[Transmit] = deque()
        self._actions: deque[Action] = deque()
        self._complaint: str | None = None  # what came instead of an answer
        self._granted: Granted | None = None

    @property
    def is_over(self) -> bool:
        return self._state is State.OVER

    @property
    def is_mapping(self) -> bool:
        return self._state is State.MAPPING

    @abstractmethod
    def start(self, now: float) -> None:
        """Finds out whether anybody speaks the protocol; Ready or Denied follows."""

    @abstractmethod
    def map(self, now: float) -> None:
        """Asks for the mapping, also once more when there is one; Granted or Denied follows."""

    @abstractmethod
    def release(self, now: float) -> None:
        """Deletes what was or may have been granted; Released follows, at once where there is nothing."""

    @abstractmethod
    def handle_timeout(self, now: float) -> None: ...

    def drop(self) -> None:
        """Forgets the mapping without deleting it: the router takes it for another protocol's one."""
        self._end()

    def poll_event(self) -> ClientEvent | None:
        return self._events.popleft() if self._events else None

    def poll_transmit(self) -> Transmit | None:
        return self._transmits.popleft() if self._transmits else None

    def poll_action(self) -> Action | None:
        return self._actions.popleft() if self._actions else None

    def poll_timeout(self) -> float | None:
        return self._timers.earliest()

    def _end(self) -> None:
        self._state = State.OVER
        for timer in Timer:
            self._timers.stop(timer)

    def _deny(self, reason: str, again: float | None = None) -> None:
        self._end()
        self._events.append(Denied(reason, again))

    def _released(self) -> None:
        self._end()
        self._events.append(Released())

    def _grant(self, external: Address, lifetime: int, now: float) -> None:
        """`lifetime` 0: until it is deleted."""
        self._state = State.MAPPED
        granted = Granted(external, min(lifetime, MAX_LIFETIME))
        self._timers.set(Timer.WATCH, now + WATCH_INTERVAL)
        if granted.lifetime:
            start, spread = RENEWAL
            share = start + spread * int.from_bytes(self._random_bytes(2), "big") / 65536
            self._timers.set(Timer.RENEW, now + granted.lifetime * share)
            self._timers.set(Timer.EXPIRE, now + granted.lifetime)
        else:
            self._timers.stop(Timer.RENEW)
            self._timers.stop(Timer.EXPIRE)
        if self._granted is None or self._granted.external != external:
            self._events.append(granted)
        self._granted = granted

    def _renew_later(self, now: float) -> None:
        """A renewal went unanswered: once more when half of what is left has passed (RFC 6887 section 11.2.1)."""
        if (end := self._timers.get(Timer.EXPIRE)) is not None:
            self._timers.set(Timer.RENEW, now + max(MIN_RENEWAL, (end - now) / 2))


class DatagramClient(MappingClient):
    """Asks `gateway` (its port 5351) until it answers."""

    def __init__(
        self, gateway: Address, internal_port: int, lifetime: int, random_bytes: Callable[[int], bytes]
    ) -> None:
        super().__init__(internal_port, lifetime, random_bytes)
        self._gateway = gateway
        self._epoch = Epoch()
        self._question = Question.PROBE
        self._is_open = False  # not answered yet, however late it is
        self._interval = FIRST_RETRY
        self._left = 0
        self._refusals = 0

    def handle_answer(self, data: bytes, now: float) -> None:
        """A datagram from the gateway's port. Raises DecodeError for what is none of this protocol.

        Each question is answered once: a router cannot make us do or say more by answering more.
        """
        if self._is_open:
            self._read_answer(data, now)

    @abstractmethod
    def _read_answer(self, data: bytes, now: float) -> None: ...

    @abstractmethod
    def _request(self, question: Question) -> bytes: ...

    def start(self, now: float) -> None:
        self._state = State.PROBING
        self._ask(Question.PROBE, now)

    def map(self, now: float) -> None:
        if self._state is not State.MAPPED:
            self._state = State.MAPPING
        self._ask(Question.MAP, now)

    def release(self, now: float) -> None:
        match self._state:
            case State.MAPPING | State.MAPPED:
                self._state = State.RELEASING
                for timer in Timer:
                    self._timers.stop(timer)
                self._ask(Question.RELEASE, now)
            case State.RELEASING | State.OVER:
                pass
            case _:
                self._released()

    def handle_unreachable(self, now: float) -> None:  # noqa: ARG002 (every input takes the time)
        """An ICMP error: nobody listens there. It only shortens a first question, for anybody can forge it."""
        self._refusals += 1
        if self._refusals == REFUSALS and self._state is State.PROBING:
            self._give_up("nobody listens there")

    def handle_timeout(self, now: float) -> None:
        for timer in self._timers.pop_expired(now):
            match timer:
                case Timer.ASK if self._left:
                    self._send(now)
                case Timer.ASK:
                    self._unanswered(now)
                case Timer.RENEW:
                    self._ask(Question.MAP, now)
                case Timer.WATCH:
                    self._timers.set(Timer.WATCH, now + WATCH_INTERVAL)
                    if self._timers.get(Timer.ASK) is None:
                        self._ask(Question.PROBE, now)
                case Timer.EXPIRE:
                    self._deny("it no longer answers, and the lease has run out")
                    return

    def _ask(self, question: Question, now: float) -> None:
        self._question = question
        self._is_open = True
        self._interval = RELEASE_RETRY if question is Question.RELEASE else FIRST_RETRY
        self._left = ATTEMPTS
        self._complaint = None
        self._send(now)

    def _send(self, now: float) -> None:
        self._left -= 1
        self._transmits.append(Transmit(self._gateway, (self._request(self._question),)))
        self._timers.set(Timer.ASK, now + self._interval)
        self._interval *= 2

    def _unanswered(self, now: float) -> None:
        match self._state:
            case State.PROBING | State.MAPPING:
                self._give_up(self._complaint or SILENT)
            case State.RELEASING:
                self._released()
            case State.MAPPED if self._question is Question.MAP:
                self._renew_later(now)
            case _:
                pass

    def _give_up(self, reason: str) -> None:
        """The state stays, so that a slow router's answer still finds its question."""
        self._timers.stop(Timer.ASK)
        self._left = 0
        self._events.append(Denied(reason))

    def _handle_spoken(self, host: str | None, now: float) -> None:
        """The gateway answered a probe."""
        if self._question is not Question.PROBE:
            return
        self._answered()
        if self._state is State.PROBING:
            self._state = State.READY
            self._events.append(Ready(host))
        elif self._state is State.MAPPED and host not in (None, self._granted and self._granted.external.host):
            self._ask(Question.MAP, now)  # the address is a part of what we hold

    def _answered(self) -> None:
        self._is_open = False
        self._timers.stop(Timer.ASK)

    def _handle_epoch(self, seconds: int, now: float) -> None:
        if self._epoch.has_restarted(seconds, now) and self._state is State.MAPPED:
            self._ask(Question.MAP, now)

    def _handle_granted(self, internal: int, external: Address, lifetime: int, now: float) -> None:
        """A successful answer to MAP that bears all marks of being for us, but for what a lying router changes."""
        if self._state is State.RELEASING:
            if lifetime == 0:
                self._released()
            return
        if self._question is not Question.MAP or self._state not in (State.MAPPING, State.MAPPED):
            return
        if internal != self._internal_port:
            self._complaint = f"it answered for port {internal}, which is not ours"
        elif lifetime < min(self._lifetime, MIN_LIFETIME):
            self._complaint = "it granted a mapping for too short a time"
        elif external.port == 0:
            self._complaint = "it granted no port"
        else:
            self._answered()
            self._grant(external, lifetime, now)

    def _handle_refused(self, words: str, again: float | None, now: float) -> None:
        self._answered()
        match self._state:
            case State.PROBING | State.MAPPING:
                self._deny(words, again)
            case State.MAPPED if self._question is Question.MAP:  # the lease goes on; perhaps the next renewal succeeds
                self._renew_later(now)
            case State.RELEASING:
                self._released()
            case _:
                pass
