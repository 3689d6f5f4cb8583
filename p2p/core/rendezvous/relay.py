"""The relay of the server: datagrams of two seats that both asked for it, within a rate, a volume and a fair share."""

from __future__ import annotations

from collections import OrderedDict, deque
from dataclasses import dataclass
from math import inf
from typing import NamedTuple

from p2p.core.address import Address
from p2p.core.rendezvous.messages import RelayState
from p2p.core.rendezvous.seats import Seat, Source, source_of

HEADERS = 28  # bytes of IPv4 and UDP that each datagram costs besides its own: a flood of tiny ones is not free
SHARE_INTERVAL = 0.005  # seconds from one division of the total among the pairs to the next; some 50 µs for 100 pairs
# What a pair may carry at once, so that nothing has to be queued: four super-packets, or what comes in a few
# divisions at its rate. It is also all that a pair can save up, and so all by which the total is ever exceeded.
BURST = 256 * 1024  # bytes
BURST_SECONDS = 0.020
CONSENT = 30.0  # seconds for which one RELAY counts (RFC 7675 section 5.1): peers repeat it every five
SWEEP_INTERVAL = 1.0  # seconds between two looks for pairs that no longer ask
IDLE = 30.0  # seconds without a datagram after which a pair gives way to one that has none, when all are taken

RELAYED_FIRST_BYTES = bytes(range(0xC0, 0xE0))  # connectivity checks and transport; docs/protocol.md


@dataclass(frozen=True, slots=True)
class RelayLimits:
    """What the relay may carry; bytes count with HEADERS. 0 is no limit."""

    pair_rate: int = 25_000_000  # bytes a second, 200 Mbit/s, both directions of a pair together
    pair_bytes: int = 20_000_000_000  # as long as both keep their seats
    total_rate: int = 125_000_000  # bytes a second, 1 Gbit/s, of all pairs
    pairs: int = 1024  # open at a time; below 1 Mbit/s a relay is of no use

    @property
    def burst(self) -> float:
        """Bytes that a pair may save up."""
        if not self.pair_rate and not self.total_rate:
            return inf
        rate = min(rate for rate in (self.pair_rate, self.total_rate) if rate)
        return max(BURST, rate * BURST_SECONDS)


@dataclass(slots=True)
class RelayCounters:
    """What happened since the start."""

    relays_opened: int = 0
    relayed_bytes: int = 0
    relay_dropped_bytes: int = 0  # above a rate
    relay_unwanted: int = 0  # reads that came from no open pair


class Passage(NamedTuple):
    """Where a burst goes: its first `length` bytes, from the local address of `port_index`."""

    destination: Address
    port_index: int
    length: int


class Side:
    """One of the two who share a relay, and until when it wants that."""

    __slots__ = ("asked_until", "other", "pair", "seat", "source")

    def __init__(self, seat: Seat) -> None:
        self.seat = seat
        self.asked_until = 0.0
        self.source: Source = source_of(seat.address, seat.port_index)
        self.other: Side = self
        self.pair: Pair | None = None


class Pair:
    """Two sides that have asked at the same time; what they carried is kept until one of them goes."""

    __slots__ = ("carried", "is_open", "opened_at", "sides", "tokens", "until", "used_at")

    def __init__(self, sides: tuple[Side, Side], tokens: float) -> None:
        self.sides = sides
        self.tokens = tokens  # bytes that may be carried now
        self.carried = 0
        self.is_open = False
        self.until = self.opened_at = self.used_at = 0.0


@dataclass(frozen=True, slots=True)
class Opened:
    """Both want it, and it carries from now on."""

    pair: Pair


@dataclass(frozen=True, slots=True)
class Closed:
    """It carries no more: one has gone or asks no more, another pair needs the place, or it has had all it may."""

    pair: Pair
    seconds: float  # for which it was open
    is_used_up: bool


class RelayTable:
    """Who may send through the server, to whom, and how much now.

    The total is divided max-min fair: every SHARE_INTERVAL, what it has come to since is given out in equal parts to
    the pairs that can still take some, none more than its own rate and its burst allow; what one cannot take goes to
    the others. So nothing is queued, a pair that sends little never loses to those that send much, and nothing of the
    total stays unused while somebody wants it.
    """

    def __init__(self, limits: RelayLimits) -> None:
        self.counters = RelayCounters()
        self._limits = limits
        self._burst = limits.burst
        self._sides: dict[bytes, Side] = {}  # by client: who has asked, and has a seat
        self._by_source: dict[Source, Side] = {}  # the sides of open pairs
        self._open: OrderedDict[Pair, None] = OrderedDict()  # the one that was used last is the last
        self._hungry: set[Pair] = set()  # could take more tokens
        self._shared_at = -inf
        self._sweep_at: float | None = None
        self.changes: deque[Opened | Closed] = deque()  # for the owner to take

    def __len__(self) -> int:
        """Open pairs."""
        return len(self._open)

    def ask(self, seat: Seat, peer: Seat | None, now: float) -> bool:
        """The owner of `seat` wants its datagrams forwarded, for CONSENT. Returns whether that opened the relay."""
        side = self._sides.get(seat.client)
        if side is None:
            side = self._sides[seat.client] = Side(seat)
        side.asked_until = now + CONSENT
        other = self._sides.get(peer.client) if peer is not None else None
        if other is None or other.asked_until <= now:
            return False
        pair = side.pair
        if pair is None:
            pair = side.pair = other.pair = Pair((side, other), self._burst)
            side.other, other.other = other, side
        pair.until = min(side.asked_until, other.asked_until)
        return not pair.is_open and not self._is_used_up(pair) and self._open_pair(pair, now)

    def standing(self, seat: Seat, now: float) -> tuple[RelayState, int, int]:
        """How it stands for `seat`: state, bytes a second, bytes left (0: no limit)."""
        side = self._sides.get(seat.client)
        pair = side.pair if side is not None else None
        limits = self._limits
        if pair is None:
            return RelayState.ALONE, limits.pair_rate, limits.pair_bytes
        if self._is_used_up(pair):
            return RelayState.USED_UP, limits.pair_rate, 0
        if pair.is_open:
            state = RelayState.OPEN
        else:
            state = RelayState.NONE if now < pair.until else RelayState.ALONE
        return state, limits.pair_rate, limits.pair_bytes and limits.pair_bytes - pair.carried

    def follow(self, seat: Seat) -> None:
        """The owner of `seat` has proved that it is elsewhere now: only from there may it send."""
        side = self._sides.get(seat.client)
        if side is None:
            return
        self._unlist(side)
        side.source = source_of(seat.address, seat.port_index)
        if side.pair is not None and side.pair.is_open:
            self._by_source[side.source] = side

    def forget(self, seat: Seat, now: float) -> None:
        """The seat is given up, and with it what the pair carried."""
        side = self._sides.pop(seat.client, None)
        if side is None or side.pair is None:
            return
        self._close_pair(side.pair, now)
        side.other.pair = None
        side.other.other = side.other

    def handle_burst(self, source: Source, length: int, segment_size: int, now: float) -> Passage | None:
        """Datagrams of `segment_size` bytes (0: one), `length` in all, came from `source`: where they go, if they may.

        The bytes stay in the socket's buffer, so the answer is returned and not queued. What is above the rate is cut
        off at the end. This is the hot path: 1.2 µs.
        """
        side = self._by_source.get(source)
        pair = side.pair if side is not None else None
        if side is None or pair is None or now >= pair.until:
            self.counters.relay_unwanted += 1
            return None
        if now >= self._shared_at + SHARE_INTERVAL:
            self._share(now)
        cost = length + HEADERS * (-(-length // segment_size) if segment_size else 1)
        if cost > pair.tokens:
            fitting = int(pair.tokens // (segment_size + HEADERS)) if segment_size else 0
            self.counters.relay_dropped_bytes += length - fitting * segment_size
            if not fitting:
                return None
            length, cost = fitting * segment_size, fitting * (segment_size + HEADERS)
        pair.tokens -= cost
        pair.carried += cost
        pair.used_at = now
        self.counters.relayed_bytes += length
        if pair.tokens < self._burst:
            self._hungry.add(pair)
        self._open.move_to_end(pair)
        if self._is_used_up(pair):
            self._close_pair(pair, now)
        to = side.other.seat
        return Passage(to.address, to.port_index, length)

    def handle_timeout(self, now: float) -> None:
        if self._sweep_at is None or now < self._sweep_at:
            return
        for pair in [pair for pair in self._open if pair.until <= now]:
            self._close_pair(pair, now)
        self._sweep_at = now + SWEEP_INTERVAL if self._open else None

    def poll_timeout(self) -> float | None:
        return self._sweep_at

    def _is_used_up(self, pair: Pair) -> bool:
        return 0 < self._limits.pair_bytes <= pair.carried

    def _open_pair(self, pair: Pair, now: float) -> bool:
        if len(self._open) >= self._limits.pairs:
            longest_unused = next(iter(self._open))
            if longest_unused.used_at > now - IDLE:
                return False
            self._close_pair(longest_unused, now)
        pair.is_open = True
        pair.opened_at = pair.used_at = now
        self._open[pair] = None
        self.counters.relays_opened += 1
        for side in pair.sides:
            self._by_source[side.source] = side
        if self._sweep_at is None:
            self._sweep_at = now + SWEEP_INTERVAL
        self.changes.append(Opened(pair))
        return True

    def _close_pair(self, pair: Pair, now: float) -> None:
        if not pair.is_open:
            return
        pair.is_open = False
        del self._open[pair]
        self._hungry.discard(pair)
        for side in pair.sides:
            self._unlist(side)
        self.changes.append(Closed(pair, now - pair.opened_at, self._is_used_up(pair)))

    def _unlist(self, side: Side) -> None:
        if self._by_source.get(side.source) is side:  # who has two seats at one address relays for the later one
            del self._by_source[side.source]

    def _share(self, now: float) -> None:
        """Water-filling: who wants least is served first, so that what it leaves goes to all who want more."""
        limits, elapsed = self._limits, now - self._shared_at
        self._shared_at = now
        most = limits.pair_rate * elapsed if limits.pair_rate else inf
        budget = limits.total_rate * elapsed if limits.total_rate else inf
        wants = sorted((min(self._burst - pair.tokens, most), index, pair) for index, pair in enumerate(self._hungry))
        left = len(wants)
        for want, _, pair in wants:
            grant = min(want, budget / left)
            pair.tokens += grant
            budget -= grant
            left -= 1
            if pair.tokens >= self._burst:
                self._hungry.discard(pair)
