"""A rate that a person chose: kept on TCP and UDP, in virtual time, by the sender for both."""

from __future__ import annotations

import math
from itertools import count

import pytest
from delivery_pair import START, Side, carry, offer_of, pair
from hypothesis import given
from hypothesis import strategies as st
from transport.transport_link import World

from p2p.core.peer import events
from p2p.core.transfer import events as transfer
from p2p.core.transfer.messages import DATA_HEADER, PIECE, OfferKind
from p2p.core.transfer.receiver import TransferReceiver
from p2p.core.transfer.sender import TransferSender
from p2p.core.transport.packets import MAX_RECORD
from p2p.core.transport.throttle import WINDOW, Throttle

SECONDS = 10.0
TOLERANCE = 0.02


class TcpRun:
    """A sender of zeros whose clock jumps from deadline to deadline."""

    def __init__(self, *, ours: float = math.inf, theirs: float = math.inf) -> None:
        offer, self.entry = offer_of(2**40, OfferKind.TREE)
        receiver = TransferReceiver()
        receiver.rate_limit = theirs
        self.ours = ours
        self.sending, self.receiving = pair(TransferSender(offer), receiver)
        self.sending.link.limit_rate(ours)
        self.turns = 0
        self.carried = 0
        self.now = START

    def run_until(self, end: float) -> None:
        while self.now < end:
            self.turn()
            deadline = self.sending.delivery.poll_timeout()
            assert deadline is not None
            assert deadline > self.now, "the loop spins"
            self.now = min(deadline, end)
            self.sending.delivery.handle_timeout(self.now)

    def turn(self) -> None:
        self.turns += 1
        moved = True
        while moved:
            self.answer()
            for event in self.receiving.of(events.Offered):
                self.receiving.events.remove(event)
                self.receiving.machine.accept()
            self.receiving.advance(self.now)
            while self.receiving.machine.poll_action() is not None:
                pass
            moved = self.move(self.sending, self.receiving) + self.move(self.receiving, self.sending)
            if self.sending.of(events.TransferStarted):  # as the peer does
                self.sending.link.limit_rate(min(self.ours, self.sending.machine.rate_limit))

    def move(self, source: Side, destination: Side) -> int:
        size = carry(source, destination, self.now)
        self.carried += size if source is self.sending else 0
        return size

    def answer(self) -> None:
        machine = self.sending.machine
        while (wanted := self.sending.poll_wanted(self.now)) is not None:
            match wanted:
                case transfer.WantEntries():
                    machine.handle_entries([self.entry], True)
                    self.sending.advance(self.now)
                case transfer.Read():
                    records = [bytearray(DATA_HEADER + PIECE) for _ in range(wanted.pieces)]
                    if machine.handle_read(wanted, records):
                        self.sending.send(records, self.now)


@pytest.mark.parametrize("rate", [500_000.0, 20_000_000.0])
@pytest.mark.parametrize("who", ["ours", "theirs"])
def test_tcp_keeps_to_it_whoever_wants_it(rate, who):
    run = TcpRun(**{who: rate})
    run.run_until(START + 1.0)  # the beginning may be a record ahead
    before, turns = run.carried, run.turns
    run.run_until(START + 1.0 + SECONDS)
    assert run.carried - before == pytest.approx(rate * SECONDS, rel=TOLERANCE)
    assert run.turns - turns < SECONDS * 4 / WINDOW  # it sleeps in between


def test_the_least_of_both_counts():
    run = TcpRun(ours=2_000_000.0, theirs=600_000.0)
    run.run_until(START + SECONDS)
    assert run.sending.machine.rate_limit == 600_000.0
    assert run.carried < 600_000.0 * SECONDS * 1.05


@pytest.mark.parametrize("rate", [500_000.0, 4_000_000.0])  # of the second, every packet is made in Python
def test_udp_keeps_to_it(rate):
    world = World(to_bob=[bytes(MAX_RECORD)] * int(rate * (SECONDS + 3) / MAX_RECORD), rate=125e6, expects_bulk=True)
    world.alice.connection.limit_rate(rate)
    world.run_for(1.0)
    before = sum(map(len, world.alice.link.sent))
    world.run_for(SECONDS)
    assert sum(map(len, world.alice.link.sent)) - before == pytest.approx(rate * SECONDS, rel=TOLERANCE)


@given(
    st.floats(10_000, 2e9),
    st.lists(st.tuples(st.floats(0, 0.2), st.integers(1, 16), st.integers(1, MAX_RECORD)), min_size=1, max_size=200),
)
def test_a_throttle_neither_exceeds_its_rate_nor_stalls(rate, steps):
    """Whenever it is asked, and however many records of whatever size are ready then."""
    throttle = Throttle()
    throttle.set_limit(rate)
    now, sent, began = START, 0.0, None
    for pause, wanted, size in steps:
        now += pause
        if (deadline := throttle.poll_timeout()) is not None:
            assert throttle.records(size) == 0
            now = max(now, deadline)
        throttle.handle_timeout(now)
        assert throttle.poll_timeout() is None
        assert throttle.records(size) >= 1, "nothing would wake it again"
        for _ in count():
            if wanted == 0 or not throttle.records(size):
                break
            began = now if began is None else began
            throttle.on_sent(size, now)
            sent += size
            wanted -= 1
        assert sent <= rate * (now - began + WINDOW) + MAX_RECORD + 1


def test_without_a_limit_nothing_is_counted():
    throttle = Throttle()
    for _ in range(1000):
        throttle.on_sent(MAX_RECORD, START)
    assert throttle.poll_timeout() is None
