"""The rendezvous server as a pure machine: docs/protocol.md, section 1."""

from __future__ import annotations

import hmac
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import blake2b
from typing import TypeAlias, assert_never

from p2p.core.address import Address
from p2p.core.errors import DecodeError, VersionError
from p2p.core.introduction import NamePair, Pairing, RefusedReason
from p2p.core.rendezvous.messages import (
    COOKIE_SIZE,
    HEADER_SIZE,
    LEASE,
    NO_PEER,
    PEER_TAG_SIZE,
    VERSION,
    BadNames,
    Cookie,
    Forward,
    Forwarded,
    Hello,
    Join,
    Joined,
    Leave,
    Left,
    Message,
    SeatState,
    Unsupported,
    decode,
    encode,
    push_transaction,
)
from p2p.core.rendezvous.messages import Refused as RefusedMessage
from p2p.core.rendezvous.seats import Place, Seat, Seats, opposite, place_of, prefix
from p2p.core.role import Role

COOKIE_SLOT = 60.0  # seconds of one cookie secret; the one before is accepted too, so a cookie lives 60 to 120 s
UNSUPPORTED = encode(Unsupported(VERSION, VERSION))  # the same bytes greet whoever connects by TCP


@dataclass(frozen=True, slots=True)
class Limits:
    """What strangers can make the server hold and carry."""

    entries: int = 100_000  # 0.6 kB each: 60 MB when full
    entries_per_network: int = 256  # per IPv4 /24 or IPv6 /56: an office behind one NAT, not a flood
    forward_rate: int = 8 * 1024  # bytes per second and seat: a session needs about 2 kB in all
    forward_burst: int = 16 * 1024  # bytes a seat may forward at once


@dataclass(slots=True)
class Counters:
    """What happened since the start."""

    datagrams: int = 0
    malformed: int = 0
    unsupported: int = 0  # headers of another version
    cookies: int = 0
    joins: int = 0  # first ones and renewals
    paired: int = 0
    refused: int = 0
    left: int = 0
    expired: int = 0
    forwarded: int = 0
    forwarded_bytes: int = 0
    throttled: int = 0  # FORWARD above the rate of its seat
    undeliverable: int = 0  # FORWARD without a peer to take it


@dataclass(frozen=True, slots=True)
class ServerTransmit:
    """One datagram. `port_index` is the `port_index` of the datagram that it answers, or of the last JOIN."""

    port_index: int
    destination: Address
    data: bytes


@dataclass(frozen=True, slots=True)
class Waiting:
    """A peer took a seat; the other seat of the room is free."""

    pairing: Pairing
    role: Role
    address: Address


@dataclass(frozen=True, slots=True)
class Paired:
    """A peer took the second seat of a room."""

    pairing: Pairing
    role: Role
    address: Address


@dataclass(frozen=True, slots=True)
class Moved:
    """A peer came again from another address."""

    pairing: Pairing
    role: Role
    address: Address


@dataclass(frozen=True, slots=True)
class Refused:
    """A peer got no seat. `pairing` is None when its names could not be read."""

    reason: RefusedReason
    pairing: Pairing | None
    address: Address


@dataclass(frozen=True, slots=True)
class Departed:
    """A peer gave up its seat."""

    pairing: Pairing
    role: Role
    address: Address


@dataclass(frozen=True, slots=True)
class Expired:
    """A peer did not come again within its lease."""

    pairing: Pairing
    role: Role
    address: Address


Event: TypeAlias = Waiting | Paired | Moved | Refused | Departed | Expired


class RendezvousServer:
    """Introduces two peers to each other.

    `port_index` stands for whichever local address a datagram came in by; the machine only hands it back.
    `ports` are the two UDP ports: both answer, and peers are told the second. Output is to be polled after every input.
    """

    def __init__(
        self,
        random_bytes: Callable[[int], bytes],
        ports: tuple[int, int] = (8080, 8081),
        limits: Limits = Limits(),
    ) -> None:
        self.counters = Counters()
        self._ports = ports
        self._limits = limits
        self._cookies = CookieJar(random_bytes)
        self._seats = Seats()
        self._transmits: deque[ServerTransmit] = deque()
        self._events: deque[Event] = deque()

    def __len__(self) -> int:
        """Seats taken."""
        return len(self._seats)

    def handle_datagram(self, data: bytes, source: Address, port_index: int, now: float) -> None:
        self.handle_timeout(now)
        self.counters.datagrams += 1
        try:
            message = decode(data)
        except VersionError:
            self._answer_other_version(data, source, port_index)
        except BadNames as error:
            self._refuse(error.transaction, RefusedReason.BAD_NAMES, None, source, port_index)
        except DecodeError:
            self.counters.malformed += 1
        else:
            self._handle_message(message, source, port_index, now)

    def handle_timeout(self, now: float) -> None:
        while (seat := self._seats.first_to_expire()) is not None and seat.expires <= now:
            self.counters.expired += 1
            self._events.append(Expired(seat.pairing, seat.role, seat.address))
            self._vacate(seat, now)

    def poll_transmit(self) -> ServerTransmit | None:
        return self._transmits.popleft() if self._transmits else None

    def poll_event(self) -> Event | None:
        return self._events.popleft() if self._events else None

    def poll_timeout(self) -> float | None:
        seat = self._seats.first_to_expire()
        return seat.expires if seat is not None else None

    def _handle_message(self, message: Message, source: Address, port_index: int, now: float) -> None:
        match message:
            case Hello(transaction):
                self._send_cookie(transaction, source, port_index, now)
            case Join():
                if self._cookies.is_valid(message.cookie, source, now):
                    self._join(message, source, port_index, now)
                else:
                    self._send_cookie(message.transaction, source, port_index, now)
            case Forward(client, payload):
                self._forward(client, payload, source, port_index, now)
            case Leave(transaction, client):
                self._leave(client, now)
                self._send(Left(transaction), source, port_index)
            case Cookie() | Joined() | RefusedMessage() | Forwarded() | Left() | Unsupported():
                self.counters.malformed += 1  # only servers say that; answering could make two of them talk forever
            case _:
                assert_never(message)

    def _answer_other_version(self, data: bytes, source: Address, port_index: int) -> None:
        self.counters.unsupported += 1
        if data[HEADER_SIZE - 1] != Unsupported.TYPE and len(data) >= len(UNSUPPORTED):
            self._transmits.append(ServerTransmit(port_index, source, UNSUPPORTED))

    def _send_cookie(self, transaction: bytes, source: Address, port_index: int, now: float) -> None:
        self.counters.cookies += 1
        self._send(Cookie(transaction, self._cookies.bake(source, now), self._ports[1], source), source, port_index)

    def _join(self, join: Join, source: Address, port_index: int, now: float) -> None:
        self.counters.joins += 1
        place = place_of(join.pairing, join.role)
        seat = self._seats.of(join.client)
        if seat is not None and (seat.place, seat.role) != (place, join.role):
            self._leave(join.client, now)
            seat = None
        reason = self._objection(join, place, source, now) if seat is None else self._objection_to_move(seat, source)
        if reason is not None:
            self._refuse(join.transaction, reason, join.pairing, source, port_index)
        elif seat is None:
            self._seat(Seat(join.client, place, join.role, source, port_index, now + LEASE), join, now)
        else:
            if seat.address != source:
                self._events.append(Moved(join.pairing, join.role, source))
                self._seats.move(seat, source)
            seat.port_index = port_index
            self._seats.renew(seat, now)
            self._report(seat, join.transaction, now)

    def _objection(self, join: Join, place: Place, source: Address, now: float) -> RefusedReason | None:
        """Why a newcomer gets no seat."""
        holder, peer = self._seats.at(place), self._seats.at(opposite(place))
        if holder is not None:
            if isinstance(join.pairing, NamePair) or peer is not None:
                return RefusedReason.TAKEN
            self._contest(holder, now)  # a room of a nameplate has one seat a role
            return RefusedReason.SAME_ROLE
        if peer is not None and peer.role is join.role:
            self._contest(peer, now)
            return RefusedReason.SAME_ROLE
        if len(self._seats) >= self._limits.entries:
            return RefusedReason.SERVER_FULL
        if self._seats.count_in_network_of(source) >= self._limits.entries_per_network:
            return RefusedReason.NETWORK_FULL
        return None

    def _objection_to_move(self, seat: Seat, source: Address) -> RefusedReason | None:
        count = self._seats.count_in_network_of(source)
        if prefix(seat.address) != prefix(source) and count >= self._limits.entries_per_network:
            return RefusedReason.NETWORK_FULL
        return None

    def _seat(self, seat: Seat, join: Join, now: float) -> None:
        self._seats.add(seat)
        self._report(seat, join.transaction, now)
        peer = self._seats.opposite(seat)
        if peer is None:
            self._events.append(Waiting(join.pairing, seat.role, seat.address))
        else:
            self.counters.paired += 1
            self._events.append(Paired(join.pairing, seat.role, seat.address))
            peer.contested_until = 0.0
            self._report(peer, push_transaction(peer.client), now)

    def _contest(self, holder: Seat, now: float) -> None:
        told = holder.contested_until > now
        holder.contested_until = now + LEASE
        if not told:
            self._report(holder, push_transaction(holder.client), now)

    def _report(self, seat: Seat, transaction: bytes, now: float) -> None:
        """Tells the peer how its seat stands, in answer or unasked."""
        peer = self._seats.opposite(seat)
        if peer is not None:
            state, tag = SeatState.PAIRED, peer_tag(peer.client)
        else:
            state, tag = (SeatState.CONTESTED if seat.contested_until > now else SeatState.WAITING), NO_PEER
        self._send(Joined(transaction, state, LEASE, tag, seat.address), seat.address, seat.port_index)

    def _refuse(
        self, transaction: bytes, reason: RefusedReason, pairing: Pairing | None, source: Address, port_index: int
    ) -> None:
        self.counters.refused += 1
        self._events.append(Refused(reason, pairing, source))
        self._send(RefusedMessage(transaction, reason), source, port_index)

    def _forward(self, client: bytes, payload: bytes, source: Address, port_index: int, now: float) -> None:
        seat = self._seats.of(client)
        if seat is None:
            self._send(RefusedMessage(push_transaction(client), RefusedReason.NOT_JOINED), source, port_index)
            return
        peer = self._seats.opposite(seat)
        if peer is None:
            self.counters.undeliverable += 1
            return
        # A token bucket kept as one number, the theoretical arrival time of GCRA (ITU-T I.371).
        limits = self._limits
        debt = max(seat.forward_debt, now) + len(payload) / limits.forward_rate
        if debt - now > limits.forward_burst / limits.forward_rate:
            self.counters.throttled += 1
            return
        seat.forward_debt = debt
        self.counters.forwarded += 1
        self.counters.forwarded_bytes += len(payload)
        self._send(Forwarded(peer_tag(client), payload), peer.address, peer.port_index)

    def _leave(self, client: bytes, now: float) -> None:
        seat = self._seats.of(client)
        if seat is not None:
            self.counters.left += 1
            self._events.append(Departed(seat.pairing, seat.role, seat.address))
            self._vacate(seat, now)

    def _vacate(self, seat: Seat, now: float) -> None:
        peer = self._seats.opposite(seat)
        self._seats.remove(seat)
        if peer is not None:
            self._report(peer, push_transaction(peer.client), now)

    def _send(self, message: Message, destination: Address, port_index: int) -> None:
        self._transmits.append(ServerTransmit(port_index, destination, encode(message)))


class CookieJar:
    """Cookies: a keyed hash over the source address, under a secret that changes with every slot."""

    def __init__(self, random_bytes: Callable[[int], bytes]) -> None:
        self._random_bytes = random_bytes
        self._slot_end = -1e18  # before any clock reading: the first use draws both secrets
        self._secret = self._previous = b""

    def bake(self, address: Address, now: float) -> bytes:
        self._rotate(now)
        return _cookie(self._secret, address)

    def is_valid(self, cookie: bytes, address: Address, now: float) -> bool:
        self._rotate(now)
        return any(hmac.compare_digest(cookie, _cookie(key, address)) for key in (self._secret, self._previous))

    def _rotate(self, now: float) -> None:
        if now < self._slot_end:
            return
        is_next_slot = now < self._slot_end + COOKIE_SLOT
        self._previous = self._secret if is_next_slot else self._random_bytes(32)
        self._secret = self._random_bytes(32)
        self._slot_end = self._slot_end + COOKIE_SLOT if is_next_slot else now + COOKIE_SLOT


def peer_tag(client: bytes) -> bytes:
    """The public name of one run: what the friend may know of `client`. It outlives a restart of the server."""
    return blake2b(client, digest_size=PEER_TAG_SIZE, person=b"p2p peer tag").digest()


def _cookie(key: bytes, address: Address) -> bytes:
    text = f"{address.host} {address.port}".encode()  # ten times as fast to make as the address on the wire
    return blake2b(text, digest_size=COOKIE_SIZE, key=key, person=b"p2p cookie").digest()
