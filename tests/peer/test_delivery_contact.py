"""Keys of contacts beside a transfer, on one path and on the next."""

from __future__ import annotations

import random
from collections import deque

import pytest
from blake3 import blake3

from p2p.core.address import Address
from p2p.core.contacts.exchange import ContactExchange, State
from p2p.core.contacts.keys import KEY, ContactKeys
from p2p.core.contacts.messages import Why
from p2p.core.datagram import Buffer
from p2p.core.errors import ExitCode
from p2p.core.peer import events
from p2p.core.peer.channel import ChannelEnd, Ended, Vanished
from p2p.core.peer.delivery import Delivery, Machine
from p2p.core.transfer.entries import File, Kind
from p2p.core.transfer.events import ReadWhole, WantEntries, Whole
from p2p.core.transfer.messages import CONTACT, MessageType, Offer, OfferKind, Root, Totals
from p2p.core.transfer.receiver import TransferReceiver
from p2p.core.transfer.sender import TransferSender

NAMES = ("alice", "bob")
CONTENT = b"hello"


def keys(seed: int) -> ContactKeys:
    return ContactKeys(random.Random(seed).randbytes(KEY), NAMES)


class Pipe:
    """One end of a path in memory."""

    rtt = None
    heard_at = 0.0
    tells_delivery = True
    is_delivered = True

    def __init__(self) -> None:
        self.other: Pipe = self
        self.inbox: deque[bytes] = deque()
        self.said: list[bytes] = []
        self.end: ChannelEnd | None = None
        self.is_over = False

    def room(self) -> int:
        return 16

    def send(self, plaintext: Buffer, now: float) -> None:  # noqa: ARG002
        self.said.append(bytes(plaintext))
        self.other.inbox.append(bytes(plaintext))

    def poll_record(self) -> bytes | None:
        return self.inbox.popleft() if self.inbox else None

    def poll_end(self) -> ChannelEnd | None:
        if self.inbox:
            return None
        end, self.end = self.end, None
        return end

    def poll_moved(self) -> Address | None:
        return None

    def handle_timeout(self, now: float) -> None: ...

    def poll_timeout(self) -> float | None:
        return None

    def drop(self, now: float) -> None: ...

    def close(self, code: ExitCode, reason: str, now: float) -> None:  # noqa: ARG002
        if not self.is_over:
            self.is_over = True
            self.other.end = Ended(code, reason) if code else Vanished()


class Path:
    """Two deliveries of one transfer; `exchanges` and `machines` outlive it."""

    def __init__(self, exchanges: list[ContactExchange], machines: list[Machine], *, goes_on: bool = False) -> None:
        self.exchanges, self.machines = exchanges, machines
        self.pipes = [Pipe(), Pipe()]
        self.pipes[0].other, self.pipes[1].other = self.pipes[1], self.pipes[0]
        self.events: list[list[events.PeerEvent]] = [[], []]
        self.deliveries = [
            Delivery(pipe, machine, 0.0, goes_on=goes_on, contact=exchange)
            for pipe, machine, exchange in zip(self.pipes, machines, exchanges, strict=True)
        ]

    def turn(self, *, stores: bool = True) -> None:
        for number, delivery in enumerate(self.deliveries):
            delivery.advance(0.0)
            while (event := delivery.poll_event()) is not None:
                self.events[number].append(event)
                if isinstance(event, events.ContactHeard) and stores:
                    self.exchanges[number].handle_held()
                    delivery.advance(0.0)

    def transfer(self, *, is_offered: bool = False) -> None:
        """To the end of it."""
        sender, receiver = self.machines
        assert isinstance(sender, TransferSender)
        assert isinstance(receiver, TransferReceiver)
        is_accepted = False
        for _ in range(20):
            self.turn()
            if not is_accepted and (is_offered or any(isinstance(event, events.Offered) for event in self.events[1])):
                is_accepted = True
                receiver.accept()
            match self.deliveries[0].poll_wanted(0.0):
                case WantEntries():
                    sender.handle_entries([File("a", 0o644, 0, len(CONTENT), False)], True)
                case ReadWhole() as read:
                    self.deliveries[0].send(sender.handle_whole(read, [CONTENT]), 0.0)
            while (action := receiver.poll_action()) is not None:
                if isinstance(action, Whole):
                    receiver.handle_stored(0, "a")

    def found(self, number: int, kind: type[events.PeerEvent]) -> list[events.PeerEvent]:
        return [event for event in self.events[number] if isinstance(event, kind)]


def machines() -> list[Machine]:
    totals = Totals(1, len(CONTENT), is_final=True)
    return [
        TransferSender(Offer(OfferKind.TREE, bytes(16), totals, 1, (Root(Kind.FILE, "a", len(CONTENT)),))),
        TransferReceiver(),
    ]


def test_two_become_contacts_while_the_offer_is_looked_at() -> None:
    path = Path([ContactExchange(keys(1)), ContactExchange(keys(2))], machines())
    for _ in range(4):
        path.turn()
    for number in (0, 1):
        assert path.found(number, events.ContactRemembered)
    assert not path.found(1, events.TransferStarted)


@pytest.mark.parametrize("remembers", [(1, 1), (1, 0), (0, 1), (0, 0)])
def test_the_transfer_is_the_same_with_it_and_without(remembers: tuple[int, int]) -> None:
    exchanges = [ContactExchange(keys(number) if wants else None) for number, wants in enumerate(remembers)]
    path = Path(exchanges, machines())
    path.transfer()
    for number in (0, 1):
        assert path.found(number, events.Done) == [events.Done(blake3(CONTENT).digest(), ExitCode.DONE)]
        if any(remembers):
            (event,) = path.found(number, events.ContactRemembered) + path.found(number, events.ContactNotRemembered)
            assert isinstance(event, events.ContactRemembered) == all(remembers)
    assert any(record[0] == CONTACT for pipe in path.pipes for record in pipe.said) == any(remembers)


@pytest.mark.parametrize("turns", range(4))
def test_on_the_next_path_it_goes_on_behind_continue(turns: int) -> None:
    exchanges = [ContactExchange(keys(1)), ContactExchange(keys(2))]
    first = Path(exchanges, machines())
    for _ in range(turns):
        first.turn()
    second = Path(exchanges, first.machines, goes_on=True)
    second.transfer(is_offered=True)
    for number in (0, 1):
        assert second.pipes[number].said[0][0] == MessageType.CONTINUE
        assert exchanges[number].state is State.REMEMBERED
        assert second.found(number, events.Done)
    assert any(record[0] == CONTACT for pipe in second.pipes for record in pipe.said)


def test_a_refusal_is_said_to_both() -> None:
    path = Path([ContactExchange(keys(1)), ContactExchange(keys(2))], machines())
    path.turn(stores=False)
    path.exchanges[1].refuse(Why.CHANGED)
    for _ in range(3):
        path.turn(stores=False)
    assert path.found(0, events.ContactNotRemembered) == [events.ContactNotRemembered(Why.CHANGED, by_peer=True)]
    assert path.found(1, events.ContactNotRemembered) == [events.ContactNotRemembered(Why.CHANGED, by_peer=False)]


@pytest.mark.parametrize("record", [b"", b"\x14", b"\x14\x01\x02" + bytes(32), b"\x14\x01\x01" + bytes(32)])
def test_nonsense_ends_the_transfer_like_any_other(record: bytes) -> None:
    path = Path([ContactExchange(keys(1)), ContactExchange(keys(2))], machines())
    path.pipes[1].inbox.appendleft(record)
    path.turn()
    (failed,) = path.found(1, events.Failed)
    assert isinstance(failed, events.Failed)
    assert failed.failure.code is ExitCode.INTEGRITY
