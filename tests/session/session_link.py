"""Two sessions and a rendezvous server in memory that loses, copies and reorders; a virtual clock."""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable

from p2p.core.role import Role
from p2p.core.session.events import Established, SessionEvent
from p2p.core.session.session import Session

CONTEXT = (b"7",)
CODE = b"amber-walnut-tiger"
LABELS = ["check sender", "tcp receiver", "udp records sender"]

Meddler = Callable[[Role, bytes], list[bytes]]
"""Who sent it, and what: returns what the other side gets instead."""


def make(
    role: Role, secret: bytes | None = CODE, *, seed: int = 1, context: tuple[bytes, ...] = CONTEXT
) -> Session:
    return Session(role, secret, context, random.Random(seed * 2 + role).randbytes)


class Link:
    def __init__(
        self,
        sender: Session,
        receiver: Session,
        *,
        seed: int = 1,
        loss: float = 0.0,
        duplicate: float = 0.0,
        jitter: float = 0.0,
        meddler: Meddler | None = None,
    ) -> None:
        self.sessions = {Role.SENDER: sender, Role.RECEIVER: receiver}
        self.events: dict[Role, list[SessionEvent]] = {Role.SENDER: [], Role.RECEIVER: []}
        self.seen: list[tuple[Role, bytes]] = []
        self.random = random.Random(seed)
        self.loss, self.duplicate, self.jitter = loss, duplicate, jitter
        self.meddler = meddler
        self.flying: list[tuple[float, int, Role, bytes]] = []
        self.count = 0
        self.now = 0.0

    def begin(self) -> None:
        self.sessions[Role.RECEIVER].begin(b"of the receiver", self.now)
        self.sessions[Role.SENDER].begin(b"of the sender", self.now)

    def run(self, seconds: float = 60.0) -> None:
        until = self.now + seconds
        while True:
            self._collect()
            timeouts = {role: session.poll_timeout() for role, session in self.sessions.items()}
            times = [at for at in timeouts.values() if at is not None] + [flight[0] for flight in self.flying[:1]]
            if not times or min(times) > until:
                self.now = until
                return
            self.now = max(self.now, min(times))
            if self.flying and self.flying[0][0] <= self.now:
                _, _, to, data = heapq.heappop(self.flying)
                self.sessions[to].handle_message(data, self.now)
            for role, at in timeouts.items():
                if at is not None and at <= self.now:
                    self.sessions[role].handle_timeout(self.now)

    def established(self, role: Role) -> Established:
        (event,) = self.events[role]
        assert isinstance(event, Established)
        return event

    def _collect(self) -> None:
        for role, session in self.sessions.items():
            while (data := session.poll_message()) is not None:
                assert len(data) <= 1024
                self.seen.append((role, data))
                for arriving in [data] if self.meddler is None else self.meddler(role, data):
                    self._fly(role.other, arriving)
            while (event := session.poll_event()) is not None:
                self.events[role].append(event)

    def _fly(self, to: Role, data: bytes) -> None:
        for _ in range(1 + (self.random.random() < self.duplicate)):
            if self.random.random() >= self.loss:
                self.count += 1
                at = self.now + 0.05 + self.random.random() * self.jitter
                heapq.heappush(self.flying, (at, self.count, to, data))


def assert_agreed(link: Link) -> None:
    ours, theirs = link.established(Role.SENDER), link.established(Role.RECEIVER)
    assert (ours.description, theirs.description) == (b"of the receiver", b"of the sender")
    assert [ours.keys.derive(label) for label in LABELS] == [theirs.keys.derive(label) for label in LABELS]
    assert len({ours.keys.derive(label) for label in LABELS}) == len(LABELS)
    assert ours.verification == theirs.verification
