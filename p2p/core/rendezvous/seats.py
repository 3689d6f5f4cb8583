"""The rendezvous server's state: who sits where, and until when. Every operation is O(1)."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import Protocol, TypeAlias, TypeVar, assert_never

from p2p.core.address import Address
from p2p.core.introduction import NamePair, Nameplate, Pairing
from p2p.core.prefix import prefix
from p2p.core.rendezvous.messages import LEASE
from p2p.core.role import Role

KeyT = TypeVar("KeyT")

Place: TypeAlias = tuple[str, str] | tuple[Role, str]
"""(me, friend) in a room of two names, (role, nameplate) in a room of a nameplate."""


FIRST_CONNECTION = 1 << 16  # port indexes from here on name TCP connections; each names one, and never another

Source: TypeAlias = Address | int
"""Whose datagrams they are: a UDP address, or a TCP connection by its port index."""


@dataclass(slots=True, eq=False)
class Seat:
    """One peer's entry. `client` is its secret and must not be shown to anybody."""

    client: bytes
    place: Place
    role: Role
    address: Address
    port_index: int
    expires: float
    contested_until: float = 0.0
    forward_debt: float = 0.0  # when everything forwarded so far will have been paid for at the allowed rate
    # Hash of the last JOIN without its transaction, and until when its cookie is good. 64 bits are enough, for only
    # who knows `client` gets as far as being compared.
    request: int = 0
    proved_until: float = 0.0

    @property
    def pairing(self) -> Pairing:
        first, second = self.place
        return Nameplate(second) if isinstance(first, Role) else NamePair(first, second)


class SeatStore(Protocol):
    """All that the server machine keeps about peers (the relay beside it has its own), and what it needs of it.

    An implementation for several machines has to give this, and nothing more. What has to be agreed on among them:
    that one place has one seat (`add`), where a seat's owner is (`move`), and who is gone (`remove`); a peer may be
    answered by another machine each time, so `of`, `at` and `opposite` see what was done elsewhere. What may lag:
    `len` and `count_in_network_of` (caps are then exceeded by what comes in that time), and `renew` by less than two
    of the three JOINs that a lease holds. The other fields of a seat may stay with the machine that wrote them: a lost
    `contested_until` delays a hint, a lost `forward_debt` forgives some bytes, a lost `request` costs one decoding.
    """

    def __len__(self) -> int:
        """Seats taken; against the cap of all."""

    def of(self, client: bytes) -> Seat | None:
        """The seat that this secret owns."""

    def at(self, place: Place) -> Seat | None:
        """The seat taken there."""

    def opposite(self, seat: Seat) -> Seat | None:
        """The seat of the other peer in the same room."""

    def has_connection(self, port_index: int) -> bool:
        """Whether some peer sits at this TCP connection; it is always one of this machine."""

    def count_in_network_of(self, address: Address) -> int:
        """Seats taken from the IPv4 /24 or IPv6 /56 of an address; against its cap."""

    def add(self, seat: Seat) -> None:
        """Neither its client nor its place has one."""

    def renew(self, seat: Seat, now: float) -> None:
        """Its lease begins anew."""

    def move(self, seat: Seat, address: Address, port_index: int) -> None:
        """Its owner is there from now on."""

    def remove(self, seat: Seat) -> None:
        """It is free again."""

    def first_to_expire(self) -> Seat | None:
        """Of those whose end this machine has to notice; O(1), for it is asked with every datagram."""


class Seats:
    """A SeatStore in memory: by client and by place, counted by source prefix, in the order in which they expire."""

    def __init__(self) -> None:
        self._by_client: OrderedDict[bytes, Seat] = OrderedDict()  # every lease is equal: renewed last expires last
        self._by_place: dict[Place, Seat] = {}
        self._per_prefix: dict[str, int] = {}
        self._per_connection: dict[int, int] = {}

    def __len__(self) -> int:
        return len(self._by_client)

    def of(self, client: bytes) -> Seat | None:
        return self._by_client.get(client)

    def at(self, place: Place) -> Seat | None:
        return self._by_place.get(place)

    def opposite(self, seat: Seat) -> Seat | None:
        """The seat of the other peer in the same room."""
        return self._by_place.get(opposite(seat.place))

    def has_connection(self, port_index: int) -> bool:
        """Whether some peer sits at this TCP connection."""
        return port_index in self._per_connection

    def count_in_network_of(self, address: Address) -> int:
        return self._per_prefix.get(prefix(address), 0)

    def add(self, seat: Seat) -> None:
        self._by_client[seat.client] = seat
        self._by_place[seat.place] = seat
        self._count(seat, 1)

    def renew(self, seat: Seat, now: float) -> None:
        seat.expires = now + LEASE
        self._by_client.move_to_end(seat.client)

    def move(self, seat: Seat, address: Address, port_index: int) -> None:
        self._count(seat, -1)
        seat.address, seat.port_index = address, port_index
        self._count(seat, 1)

    def remove(self, seat: Seat) -> None:
        del self._by_client[seat.client]
        del self._by_place[seat.place]
        self._count(seat, -1)

    def first_to_expire(self) -> Seat | None:
        return next(iter(self._by_client.values()), None)

    def _count(self, seat: Seat, change: int) -> None:
        _add(self._per_prefix, prefix(seat.address), change)
        if seat.port_index >= FIRST_CONNECTION:
            _add(self._per_connection, seat.port_index, change)


def source_of(address: Address, port_index: int) -> Source:
    """Of a datagram that came from `address` by `port_index`; two at one NAT may have one address, in UDP and TCP."""
    return port_index if port_index >= FIRST_CONNECTION else address


def place_of(pairing: Pairing, role: Role) -> Place:
    match pairing:
        case NamePair(me, friend):
            return me, friend
        case Nameplate(text):
            return role, text
        case _:
            assert_never(pairing)


def opposite(place: Place) -> Place:
    first, second = place
    return (first.other, second) if isinstance(first, Role) else (second, first)


def _add(counts: dict[KeyT, int], key: KeyT, change: int) -> None:
    count = counts.get(key, 0) + change
    if count:
        counts[key] = count
    else:
        del counts[key]
