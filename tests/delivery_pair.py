"""Two ends of a transfer in one process: real deliveries and TCP links, their bytes handed over in memory."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

from p2p.core.contacts.exchange import ContactExchange
from p2p.core.errors import Failure
from p2p.core.peer import events
from p2p.core.peer.channel import TcpLink
from p2p.core.peer.delivery import Delivery, Machine
from p2p.core.peer.rejoin import Rejoin
from p2p.core.transfer.entries import File, Kind
from p2p.core.transfer.events import Wanted
from p2p.core.transfer.messages import Offer, OfferKind, Root, Totals
from p2p.core.transport.tcp import TcpChannel, TcpKeys

START = 1000.0  # seconds; a clock never starts at zero


@dataclass
class Side:
    """What an end sees of a peer."""

    link: TcpLink
    machine: Machine
    delivery: Delivery | None = None
    failure: Failure | None = None
    rejoin: Rejoin | None = None
    is_done: bool = False
    events: list[events.PeerEvent] = field(default_factory=list)

    def start(self, now: float, *, goes_on: bool = False) -> None:
        self.delivery = Delivery(self.link, self.machine, now, goes_on=goes_on, contact=ContactExchange())
        self.advance(now)

    def advance(self, now: float) -> None:
        self.delivery.advance(now)
        while (event := self.delivery.poll_event()) is not None:
            self.events.append(event)
            match event:
                case events.Failed(failure):
                    self.failure = failure
                case events.Done():
                    self.is_done = True

    def fail(self, failure: Failure, told: str, now: float) -> None:
        self.delivery.fail(failure, told, now)
        self.advance(now)

    def refuse(self, failure: Failure, told: str, now: float) -> None:
        self.failure = failure
        self.delivery.refuse(failure.code, told, now)
        self.advance(now)

    def send(self, records: list[bytes], now: float) -> None:
        self.delivery.send(records, now)

    def poll_wanted(self, now: float) -> Wanted | None:
        return self.delivery.poll_wanted(now)

    def of(self, kind: type) -> list:
        return [event for event in self.events if isinstance(event, kind)]


def pair(sender: Machine, receiver: Machine, *, now: float = START, goes_on: bool = False) -> tuple[Side, Side]:
    """Both started, on one connection that is open already. `goes_on`: what they carry began on another one."""
    chance = random.Random(4)
    left, right = (name.ljust(32, b".") for name in (b"left", b"right"))
    channels = [
        TcpChannel(TcpKeys(left, right, left, right), connector=True, random_bytes=chance.randbytes),
        TcpChannel(TcpKeys(right, left, right, left), connector=False, random_bytes=chance.randbytes),
    ]
    while not all(channel.is_open for channel in channels):
        for channel, other in (channels, channels[::-1]):
            for buffer in channel.poll_output():
                other.handle_data(bytes(buffer))
    left_side, right_side = Side(TcpLink(channels[0], now), sender), Side(TcpLink(channels[1], now), receiver)
    left_side.start(now, goes_on=goes_on)
    right_side.start(now, goes_on=goes_on)
    return left_side, right_side


def carry(source: Side, destination: Side, now: float) -> int:
    """Hands over what is queued, unless the destination leaves it in the socket. Returns the number of bytes."""
    if destination.link.is_full:
        return 0
    data = b"".join(map(bytes, source.link.poll_output()))
    if data:
        destination.link.handle_data(data, now)
        destination.advance(now)
    return len(data)


def offer_of(size: int | None, kind: OfferKind = OfferKind.PIPE, name: str = "stdin") -> tuple[Offer, File]:
    """One file."""
    root = Root(Kind.FILE, name, size)
    return Offer(kind, bytes(16), Totals(1, size, is_final=True), 1, (root,)), File(name, 0o644, 0, size)
