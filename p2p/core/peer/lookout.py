"""Whether the other side is at the server, while the path to it is silent or lost: docs/connecting.md, "Lookouts".

Nothing is said from a lookout but that we are there. What it finds gives up no path that is not silent.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from p2p.core.address import Address
from p2p.core.datagram import Transmit
from p2p.core.introduction import NamePair, Paired, Pairing, PeerLeft
from p2p.core.rendezvous.client import RendezvousClient
from p2p.core.rendezvous.messages import CLIENT_SIZE
from p2p.core.role import Role
from p2p.core.transport.idle import SUSPICION

# Seconds in which a path on which both look out for each other may still show that it was only dark: both ask by it
# twice a second (MAX_PTO_INTERVAL).
GRACE = 1.0
AGAIN = 5.0  # seconds until a lookout is posted again whose seat the server refused, or whose visit came to nothing
MAX_STRANGERS = 64  # runs at the other side's seat that are remembered as none of its


@dataclass(frozen=True, slots=True)
class BothSuspect:
    """The other side, in the same run as ever, looks out for us too, and the path stays silent: it is dead."""


@dataclass(frozen=True, slots=True)
class AnotherRun:
    """Somebody sits where the other side sat at first, in another run, known by `tag`: it was started again, unless it
    is a stranger. Which of the two, the code will tell."""

    tag: bytes


@dataclass(frozen=True, slots=True)
class Post:
    """Where a lookout sits. `secret` owns the seat (RendezvousClient)."""

    pairing: Pairing
    secret: bytes


class Lookout:
    """One seat at the server, taken and given up again."""

    def __init__(self, server: Address, role: Role, post: Post, random_bytes: Callable[[int], bytes]) -> None:
        self._server = server
        self._role = role
        self._post = post
        self._random_bytes = random_bytes
        self._client: RendezvousClient | None = None
        self._is_leaving = False
        self._not_before = 0.0
        self.found: bytes | None = None
        """The tag of who sits opposite."""

    def post(self, now: float) -> None:
        """Takes the seat, unless it has it or was refused it a moment ago."""
        if self._client is not None and self._is_leaving:
            self._client.hand_over()  # to ourselves
            self._client = None
        if self._client is None and now >= self._not_before:
            client = RendezvousClient(
                self._server, self._post.pairing, self._role, self._random_bytes, secret=self._post.secret
            )
            client.start(now)
            self._client, self._is_leaving = client, False

    def withdraw(self, now: float) -> None:
        """Gives the seat up; the server is told as well as can be."""
        if self._client is not None and not self._is_leaving:
            self._is_leaving, self.found = True, None
            self._client.leave(now)

    def hand_over(self) -> None:
        """Somebody with the same secret takes the seat over."""
        if self._client is not None:
            self._client.hand_over()
            self._client, self.found = None, None

    def handle_datagram(self, data: bytes, source: Address, now: float) -> None:
        if self._client is not None:
            self._client.handle_datagram(data, source, now)
            self._advance(now)

    def handle_timeout(self, now: float) -> None:
        if self._client is not None and (at := self._client.poll_timeout()) is not None and at <= now:
            self._client.handle_timeout(now)
            self._advance(now)

    def poll_transmit(self) -> Transmit | None:
        return self._client.poll_transmit() if self._client is not None else None

    def poll_timeout(self) -> float | None:
        return self._client.poll_timeout() if self._client is not None else None

    def _advance(self, now: float) -> None:
        assert self._client is not None
        while (event := self._client.poll_event()) is not None:
            if isinstance(event, Paired) and not self._is_leaving:
                self.found = event.peer_tag
            elif isinstance(event, PeerLeft):
                self.found = None
        if self._client.is_closed:
            if not self._is_leaving:
                self._not_before = now + AGAIN
            self._client, self.found = None, None


class Lookouts:
    """Two of them: under names that only the two can know, and where both sat at first.

    Under the first sits only who suspects or has lost the path. Where both sat at first, sits also who was started
    again with the same command, and whoever else knows the names; the run of before is known by its tag.
    """

    def __init__(
        self,
        server: Address,
        role: Role,
        random_bytes: Callable[[int], bytes],
        *,
        own: NamePair,
        at_first: Post | None,
        friend: bytes,
    ) -> None:
        """`own`: the names that only the two can know; `at_first`: None where a new run could not be told from a
        stranger. `friend`: the tag of the other side's run of before."""
        self.friend = friend
        self._private = Lookout(server, role, Post(own, random_bytes(CLIENT_SIZE)), random_bytes)
        self._first = Lookout(server, role, at_first, random_bytes) if at_first is not None else None
        self._heard_at: float | None = None
        self.is_posted = False
        """Whether the path is silent, or lost."""
        self._is_visiting = False
        self._strangers: deque[bytes] = deque(maxlen=MAX_STRANGERS)
        self._not_before = 0.0
        self._both_since: float | None = None
        self._events: deque[BothSuspect | AnotherRun] = deque()

    @property
    def is_at_first(self) -> bool:
        """Whether one of them sits where the two met at first."""
        return self._first is not None

    # commands

    def look(self, heard_at: float | None, now: float, *, holds_seat: bool = False, seen: bytes | None = None) -> None:
        """To be called at every turn. `heard_at`: when something came last by the path; None: it is lost.

        `holds_seat`: the path goes by a relay that hangs on the seat of the first meeting, so no lookout may take
        it; `seen` is then who came to sit opposite to it.
        """
        self._heard_at = heard_at
        self.is_posted = heard_at is None or now >= heard_at + SUSPICION
        if not self.is_posted:
            self._both_since = None
            for each in self._lookouts:
                each.withdraw(now)
            return
        self._private.post(now)
        first = self._first
        if first is not None and not self._is_visiting and not holds_seat:
            first.post(now)
        found = seen if holds_seat or first is None else first.found
        if heard_at is None or (self._private.found is None and found != self.friend):
            self._both_since = None
        elif self._both_since is None:
            self._both_since = now
        elif now >= self._both_since + GRACE:
            self._both_since = None
            self._events.append(BothSuspect())
        if self._may_visit(found, now):
            assert first is not None
            assert found is not None
            self._is_visiting = True
            first.hand_over()
            self._events.append(AnotherRun(found))

    def end_visit(self, tag: bytes, now: float, *, is_stranger: bool) -> None:
        """Nothing came of it. `is_stranger`: it has shown that it is not the other side."""
        self._is_visiting = False
        self._not_before = now + AGAIN
        if is_stranger:
            self._strangers.append(tag)

    def close(self, now: float) -> None:
        """Nobody is looked for any more: the seats are given up."""
        for each in self._lookouts:
            each.withdraw(now)

    # input

    def handle_datagram(self, data: bytes, source: Address, now: float) -> None:
        for each in self._lookouts:
            each.handle_datagram(data, source, now)

    def handle_timeout(self, now: float) -> None:
        for each in self._lookouts:
            each.handle_timeout(now)

    # output

    def poll_transmit(self) -> Transmit | None:
        return next((t for each in self._lookouts if (t := each.poll_transmit()) is not None), None)

    def poll_event(self) -> BothSuspect | AnotherRun | None:
        return self._events.popleft() if self._events else None

    def poll_timeout(self) -> float | None:
        """When to call `handle_timeout`, and `look`, at the latest."""
        timeouts = [each.poll_timeout() for each in self._lookouts]
        if not self.is_posted and self._heard_at is not None:
            timeouts.append(self._heard_at + SUSPICION)
        if self._both_since is not None:
            timeouts.append(self._both_since + GRACE)
        return min((at for at in timeouts if at is not None), default=None)

    @property
    def _lookouts(self) -> list[Lookout]:
        return [each for each in (self._private, self._first) if each is not None]

    def _may_visit(self, found: bytes | None, now: float) -> bool:
        is_new = found is not None and found != self.friend and found not in self._strangers
        return is_new and self._first is not None and not self._is_visiting and now >= self._not_before
