"""The rendezvous server as a pure machine: docs/protocol.md, section 1."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from hashlib import blake2b
from typing import assert_never

from p2p.core.address import Address, encode_address
from p2p.core.errors import DecodeError, VersionError
from p2p.core.introduction import NamePair, Pairing, RefusedReason
from p2p.core.prefix import prefix
from p2p.core.rendezvous.cookies import CookieJar, TagKey
from p2p.core.rendezvous.messages import (
    AFTER_TRANSACTION,
    CLIENT_OF_JOIN,
    HEADER_SIZE,
    HELLO_HEADER,
    HELLO_PADDING,
    HELLO_SIZE,
    JOIN_HEADER,
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
    Relay,
    Relayed,
    RelayState,
    SeatState,
    Unsupported,
    decode,
    encode,
    encode_cookie,
    encode_joined,
    push_transaction,
)
from p2p.core.rendezvous.messages import Refused as RefusedMessage
from p2p.core.rendezvous.relay import Closed, Opened, Passage, RelayCounters, RelayLimits, RelayTable
from p2p.core.rendezvous.seats import Place, Seat, Seats, SeatStore, opposite, place_of, source_of
from p2p.core.rendezvous.server_events import (
    Counters,
    Departed,
    Event,
    Expired,
    Limits,
    Moved,
    Paired,
    Refused,
    RelayClosed,
    RelayOpened,
    ServerTransmit,
    Waiting,
)

PADDING = bytes(HELLO_PADDING)
UNSUPPORTED = encode(Unsupported(VERSION, VERSION))
DEFAULT_RELAY = RelayLimits()


class RendezvousServer:
    """Introduces two peers to each other.

    `port_index` stands for whichever local address a datagram came in by, or, from FIRST_CONNECTION on, for a TCP
    connection; the machine hands it back. `relay` None: it forwards nothing. `seats` None: it keeps them in memory, and
    alone. Output is to be polled after every input.
    """

    def __init__(
        self,
        random_bytes: Callable[[int], bytes],
        limits: Limits | None = None,
        relay: RelayLimits | None = DEFAULT_RELAY,
        seats: SeatStore | None = None,
    ) -> None:
        self.counters = Counters()
        self._limits = limits or Limits()
        self._cookies = CookieJar(random_bytes)
        self._seats: SeatStore = Seats() if seats is None else seats
        self._relay = RelayTable(relay) if relay is not None else None
        self._transmits: deque[ServerTransmit] = deque()
        self._events: deque[Event] = deque()

    @property
    def relay_counters(self) -> RelayCounters:
        return self._relay.counters if self._relay is not None else RelayCounters()

    @property
    def tag_key(self) -> TagKey:
        """With it the kernel may sort datagrams; see `CookieJar`."""
        return self._cookies.tag_key

    def __len__(self) -> int:
        """Seats taken."""
        return len(self._seats)

    def handle_datagram(self, data: bytes, source: Address, port_index: int, now: float) -> None:
        self.handle_timeout(now)
        self.counters.datagrams += 1
        # What comes by the thousand is not decoded; the bytes are what `decode` would accept.
        if data.startswith(JOIN_HEADER) and self._renew(data, source, port_index, now):
            return
        if data.startswith(HELLO_HEADER) and len(data) == HELLO_SIZE and data.endswith(PADDING):
            self._send_cookie(data[HEADER_SIZE:AFTER_TRANSACTION], source, port_index, now)
            return
        try:
            message = decode(data)
        except VersionError:
            self._answer_other_version(data, source, port_index)
        except BadNames as error:
            self._refuse(error.transaction, RefusedReason.BAD_NAMES, None, source, port_index)
        except DecodeError:
            self.counters.malformed += 1
        else:
            self._handle_message(message, data, source, port_index, now)

    def handle_burst(
        self, source: Address, port_index: int, length: int, segment_size: int, now: float
    ) -> Passage | None:
        """Datagrams for the relay (RELAYED_FIRST_BYTES) came, `length` bytes in all: where they go, if anywhere.

        None is answered: whoever sends here without a relay hears nothing.
        """
        if self._relay is None:
            return None
        passage = self._relay.handle_burst(source_of(source, port_index), length, segment_size, now)
        if self._relay.changes:
            self._report_relay(now)
        return passage

    def has_seat(self, port_index: int) -> bool:
        """Whether some peer has proved that this TCP connection is its own, and waits there."""
        return self._seats.has_connection(port_index)

    def handle_timeout(self, now: float) -> None:
        while (seat := self._seats.first_to_expire()) is not None and seat.expires <= now:
            self.counters.expired += 1
            self._events.append(Expired(seat.pairing, seat.role, seat.address))
            self._vacate(seat, now)
        if self._relay is not None:
            self._relay.handle_timeout(now)
            self._report_relay(now)

    def poll_transmit(self) -> ServerTransmit | None:
        return self._transmits.popleft() if self._transmits else None

    def poll_event(self) -> Event | None:
        return self._events.popleft() if self._events else None

    def poll_timeout(self) -> float | None:
        seat = self._seats.first_to_expire()
        sweep = self._relay.poll_timeout() if self._relay is not None else None
        return min((at for at in (seat.expires if seat else None, sweep) if at is not None), default=None)

    def _renew(self, data: bytes, source: Address, port_index: int, now: float) -> bool:
        """Takes a JOIN that is the seat's last one but for its transaction, if it is one.

        That is nearly all that a server with many peers waiting gets, and it is not decoded: 6 µs instead of 20.
        """
        seat = self._seats.of(data[CLIENT_OF_JOIN])
        if (
            seat is None
            or now >= seat.proved_until
            or seat.address != source
            or seat.port_index != port_index
            or seat.request != hash(data[AFTER_TRANSACTION:])
        ):
            return False
        self.counters.joins += 1
        self._seats.renew(seat, now)
        self._report(seat, data[HEADER_SIZE:AFTER_TRANSACTION], now)
        return True

    def _handle_message(self, message: Message, data: bytes, source: Address, port_index: int, now: float) -> None:
        match message:
            case Hello(transaction):
                self._send_cookie(transaction, source, port_index, now)
            case Join():
                proved_until = self._cookies.valid_until(message.cookie, source, port_index, now)
                if now >= proved_until:
                    self._send_cookie(message.transaction, source, port_index, now)
                elif (seat := self._join(message, source, port_index, now)) is not None:
                    seat.request, seat.proved_until = hash(data[AFTER_TRANSACTION:]), proved_until
            case Forward(client, payload):
                self._forward(client, payload, source, port_index, now)
            case Leave(transaction, client):
                self._leave(client, now)
                self._send(Left(transaction), source, port_index)
            case Relay(transaction, client):
                self._ask_relay(transaction, client, source, port_index, now)
            case Cookie() | Joined() | RefusedMessage() | Forwarded() | Left() | Relayed() | Unsupported():
                self.counters.malformed += 1  # only servers say that; answering could make two of them talk forever
            case _:
                assert_never(message)

    def _answer_other_version(self, data: bytes, source: Address, port_index: int) -> None:
        self.counters.unsupported += 1
        if data[HEADER_SIZE - 1] != Unsupported.TYPE and len(data) >= len(UNSUPPORTED):
            self._transmits.append(ServerTransmit(port_index, source, UNSUPPORTED))

    def _send_cookie(self, transaction: bytes, source: Address, port_index: int, now: float) -> None:
        self.counters.cookies += 1
        mapped = encode_address(source)
        cookie = self._cookies.bake(source, mapped, port_index, now)
        self._transmits.append(ServerTransmit(port_index, source, encode_cookie(transaction, cookie, mapped)))

    def _join(self, join: Join, source: Address, port_index: int, now: float) -> Seat | None:
        """The seat that it got or keeps, if it did."""
        self.counters.joins += 1
        place = place_of(join.pairing, join.role)
        seat = self._seats.of(join.client)
        if seat is not None and (seat.place, seat.role) != (place, join.role):
            self._leave(join.client, now)
            seat = None
        reason = self._objection(join, place, source, now) if seat is None else self._objection_to_move(seat, source)
        if reason is not None:
            self._refuse(join.transaction, reason, join.pairing, source, port_index)
            return None
        if seat is None:
            seat = Seat(join.client, place, join.role, source, port_index, now + LEASE)
            self._seat(seat, join, now)
        else:
            before = source_of(seat.address, seat.port_index)
            if (seat.address, seat.port_index) != (source, port_index):
                self._seats.move(seat, source, port_index)
            if before != source_of(source, port_index):
                self._events.append(Moved(join.pairing, join.role, source))
                if self._relay is not None:
                    self._relay.follow(seat)
            self._seats.renew(seat, now)
            self._report(seat, join.transaction, now)
        return seat

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
        data = encode_joined(transaction, state, LEASE, tag, encode_address(seat.address))
        self._transmits.append(ServerTransmit(seat.port_index, seat.address, data))

    def _refuse(
        self, transaction: bytes, reason: RefusedReason, pairing: Pairing | None, source: Address, port_index: int
    ) -> None:
        self.counters.refused += 1
        self._events.append(Refused(reason, pairing, source))
        self._send(RefusedMessage(transaction, reason), source, port_index)

    def _forward(self, client: bytes, payload: bytes, source: Address, port_index: int, now: float) -> None:
        seat = self._seats.of(client)
        if seat is None:
            self._send_not_joined(client, source, port_index)
            return
        peer = self._seats.opposite(seat)
        if peer is None:
            self.counters.undeliverable += 1
            return
        debt = self._limits.forwarded.spend(seat.forward_debt, now, len(payload))
        if debt is None:
            self.counters.throttled += 1
            return
        seat.forward_debt = debt
        self.counters.forwarded += 1
        self.counters.forwarded_bytes += len(payload)
        self._send(Forwarded(peer_tag(client), payload), peer.address, peer.port_index)

    def _ask_relay(self, transaction: bytes, client: bytes, source: Address, port_index: int, now: float) -> None:
        seat = self._seats.of(client)
        if seat is None:
            self._send_not_joined(client, source, port_index)
            return
        peer = self._seats.opposite(seat)
        is_new = self._relay is not None and self._relay.ask(seat, peer, now)
        self._report_relay(now)
        self._send(self._standing(transaction, seat, now), source, port_index)
        if is_new and peer is not None:
            self._push_relayed(peer, now)

    def _standing(self, transaction: bytes, seat: Seat, now: float) -> Relayed:
        if self._relay is None:
            return Relayed(transaction, RelayState.NONE, 0, 0)
        state, rate, left = self._relay.standing(seat, now)
        return Relayed(transaction, state, -(-rate // 1000), left)

    def _push_relayed(self, seat: Seat, now: float) -> None:
        self._send(self._standing(push_transaction(seat.client), seat, now), seat.address, seat.port_index)

    def _report_relay(self, now: float) -> None:
        """Tells our owner what became of relays, and the peers when theirs is used up."""
        while self._relay is not None and self._relay.changes:
            change = self._relay.changes.popleft()
            seats = [side.seat for side in change.pair.sides]
            about = seats[0].pairing, seats[0].role, seats[0].address
            match change:
                case Opened():
                    self._events.append(RelayOpened(*about))
                case Closed(pair, seconds, is_used_up):
                    self._events.append(RelayClosed(*about, pair.carried, seconds, is_used_up))
                    if is_used_up:
                        for seat in seats:
                            self._push_relayed(seat, now)
                case _:
                    assert_never(change)

    def _leave(self, client: bytes, now: float) -> None:
        seat = self._seats.of(client)
        if seat is not None:
            self.counters.left += 1
            self._events.append(Departed(seat.pairing, seat.role, seat.address))
            self._vacate(seat, now)

    def _vacate(self, seat: Seat, now: float) -> None:
        peer = self._seats.opposite(seat)
        self._seats.remove(seat)
        if self._relay is not None:
            self._relay.forget(seat, now)
            self._report_relay(now)
        if peer is not None:
            self._report(peer, push_transaction(peer.client), now)

    def _send_not_joined(self, client: bytes, source: Address, port_index: int) -> None:
        self._send(RefusedMessage(push_transaction(client), RefusedReason.NOT_JOINED), source, port_index)

    def _send(self, message: Message, destination: Address, port_index: int) -> None:
        self._transmits.append(ServerTransmit(port_index, destination, encode(message)))


def peer_tag(client: bytes) -> bytes:
    """The public name of one run: what the friend may know of `client`. It outlives a restart of the server."""
    return blake2b(client, digest_size=PEER_TAG_SIZE, person=b"p2p peer tag").digest()
