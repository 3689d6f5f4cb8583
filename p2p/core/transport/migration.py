"""Following the peer to another address (RFC 9000 sections 8.2 and 9; docs/transport.md, Migration).

A pure state machine: it is told what arrived from where, and says which PATH_CHALLENGE or PATH_RESPONSE goes to whom.
Until an address has answered, and the old one has not, the connection stays where it is.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum, auto

from p2p.core.address import Address
from p2p.core.transport.frames import CHALLENGE_LENGTH, Frame, PathChallenge, PathResponse
from p2p.core.transport.packets import SEALED_HEADER, TAG

MAX_CHALLENGES = 5  # to one address: where three packets in ten are lost, one try in two succeeds
MIN_INTERVAL = 0.1  # seconds between two of them, or a PTO
# Seconds that the old address has to answer as well, or a PTO: whoever brings our peer's packets faster than the path
# does makes the round trip, and with it the PTO, look as short as she likes.
OLD_TIME = 0.25
AMPLIFICATION = 3  # times the bytes that came from an address that has not answered; RFC 9000 section 8.1
PACKET_SIZE = SEALED_HEADER + 1 + CHALLENGE_LENGTH + TAG  # bytes of UDP payload: one frame, alone in its packet
MAX_WAITING = 4  # frames that wait to be sent; the oldest gives way, and will be asked for again
# Addresses that are challenged in a row, and seconds until one more may be: whoever delivers our peer's packets from
# ever new addresses, before the true ones come, makes us send each of them a few dozen bytes, once a second.
MAX_CANDIDATES = 4
CANDIDATE_INTERVAL = 1.0


class State(Enum):
    SETTLED = auto()
    PROBING = auto()  # packets of the peer came from another address: it was asked, and so was the old one
    ANSWERED = auto()  # the other address has answered; the old one has what is left of its time


class _Input(Enum):
    NEW_ADDRESS = auto()
    ANSWER = auto()
    OLD_LIVES = auto()  # the peer still speaks, or answers, from where we believe it to be
    TIME_UP = auto()


_TRANSITIONS = {
    (State.SETTLED, _Input.NEW_ADDRESS): State.PROBING,
    (State.PROBING, _Input.NEW_ADDRESS): State.PROBING,  # moved on already: the newest packet decides
    (State.PROBING, _Input.ANSWER): State.ANSWERED,
    (State.PROBING, _Input.OLD_LIVES): State.SETTLED,
    (State.PROBING, _Input.TIME_UP): State.SETTLED,  # nobody answers there
    (State.ANSWERED, _Input.NEW_ADDRESS): State.PROBING,
    (State.ANSWERED, _Input.OLD_LIVES): State.SETTLED,
    (State.ANSWERED, _Input.TIME_UP): State.SETTLED,  # there
}


@dataclass(frozen=True, slots=True)
class Moved:
    """The peer is at `address` from now on; `rtt` in seconds, as the challenge measured it."""

    address: Address
    rtt: float


@dataclass(slots=True)
class _Candidate:
    address: Address
    interval: float  # seconds between challenges
    old_until: float  # the old address may answer until then
    next_at: float
    received: int = 0  # bytes of genuine packets with numbers never seen before
    sent: int = 0
    rounds: int = 0  # of challenges
    rtt: float = 0.0
    challenges: dict[bytes, float] = field(default_factory=dict)  # what was sent there, and when
    to_old: set[bytes] = field(default_factory=set)


class Migration:
    """Where the peer is, and whether it has moved. Without `random_bytes` it is taken to stay where it is."""

    def __init__(self, remote: Address, now: float, random_bytes: Callable[[int], bytes] | None) -> None:
        self.remote = remote
        self.state = State.SETTLED
        self._random_bytes = random_bytes
        self._candidate: _Candidate | None = None
        self._waiting: deque[tuple[Address, Frame]] = deque(maxlen=MAX_WAITING)
        self._credit = float(MAX_CANDIDATES)
        self._credit_at = now

    def on_packet(self, source: Address, size: int, now: float, pto: float, is_probing: bool) -> None:
        """A SEALED packet whose number is greater than any before, so neither forged nor replayed.

        `is_probing`: it held nothing but what this module sends (RFC 9000 section 9.1).
        """
        candidate = self._candidate
        if source == self.remote:
            self._old_lives()
        elif candidate is not None and candidate.address == source:
            candidate.received += size
        elif not is_probing and self._random_bytes is not None and self._takes_candidate(now):
            self._enter(_Input.NEW_ADDRESS)
            interval, old_until = max(pto, MIN_INTERVAL), now + max(pto, OLD_TIME)
            self._candidate = _Candidate(source, interval, old_until, next_at=now, received=size)
            self._challenge(self._candidate, now)

    def on_challenge(self, source: Address, data: bytes) -> None:
        """One of a packet that is new, or comes from the peer's address. The answer goes to where it came from."""
        if self._candidate is not None and self._candidate.address == source:
            self._candidate.sent += PACKET_SIZE
        self._waiting.append((source, PathResponse(data)))

    def on_response(self, source: Address, data: bytes, now: float) -> Moved | None:
        """The frame of any genuine packet: nobody can know `data` who did not get the challenge and has our keys."""
        candidate = self._candidate
        if candidate is None:
            return None
        if source == self.remote and data in candidate.to_old:
            self._old_lives()
        elif source == candidate.address and (sent_at := candidate.challenges.get(data)) is not None:
            if self.state is State.PROBING:
                self._enter(_Input.ANSWER)
                candidate.rtt = now - sent_at
                candidate.next_at = min(candidate.next_at, max(candidate.old_until, now))
            return self.handle_timeout(now)
        return None

    def handle_timeout(self, now: float) -> Moved | None:
        candidate = self._candidate
        if candidate is None or now < candidate.next_at:
            return None
        if self.state is State.ANSWERED and now >= candidate.old_until:
            self._settle(_Input.TIME_UP)
            self.remote = candidate.address
            return Moved(candidate.address, candidate.rtt)
        if self.state is State.PROBING and candidate.rounds >= MAX_CHALLENGES:
            self._settle(_Input.TIME_UP)
        else:
            self._challenge(candidate, now)
        return None

    def settle_at(self, remote: Address) -> None:
        """The peer is there, as is known by other means."""
        self._old_lives()
        self._waiting.clear()
        self.remote = remote

    def poll_frame(self) -> tuple[Address, Frame] | None:
        """The next frame to send, alone in its packet, and to whom."""
        return self._waiting.popleft() if self._waiting else None

    def poll_timeout(self) -> float | None:
        return None if self._candidate is None else self._candidate.next_at

    def _challenge(self, candidate: _Candidate, now: float) -> None:
        """Asks the old address, and the new one until it answers: with no more than three times what came from it."""
        assert self._random_bytes is not None
        candidate.rounds += 1
        candidate.next_at = now + candidate.interval
        if self.state is State.ANSWERED:
            candidate.next_at = min(candidate.next_at, candidate.old_until)
        elif candidate.sent + PACKET_SIZE <= AMPLIFICATION * candidate.received:
            candidate.sent += PACKET_SIZE
            data = self._random_bytes(CHALLENGE_LENGTH)
            candidate.challenges[data] = now
            self._waiting.append((candidate.address, PathChallenge(data)))
        data = self._random_bytes(CHALLENGE_LENGTH)
        candidate.to_old.add(data)
        self._waiting.append((self.remote, PathChallenge(data)))

    def _takes_candidate(self, now: float) -> bool:
        self._credit = min(self._credit + (now - self._credit_at) / CANDIDATE_INTERVAL, float(MAX_CANDIDATES))
        self._credit_at = now
        if self._credit < 1:
            return False
        self._credit -= 1
        return True

    def _old_lives(self) -> None:
        if self._candidate is not None:
            self._settle(_Input.OLD_LIVES)

    def _settle(self, what: _Input) -> None:
        self._enter(what)
        self._candidate = None

    def _enter(self, what: _Input) -> None:
        self.state = _TRANSITIONS[self.state, what]
