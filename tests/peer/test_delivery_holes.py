"""Holes cost a few bytes on the path and much computing: the loop is not kept from its sockets by a flood of them."""

from __future__ import annotations

from delivery_pair import START, carry, offer_of, pair

from p2p.core.peer.delivery import HOLES_A_TURN
from p2p.core.transfer.codec import encode
from p2p.core.transfer.limits import MAX_HOLE
from p2p.core.transfer.messages import Entries, Hole, OfferKind
from p2p.core.transfer.receiver import TransferReceiver
from p2p.core.transfer.sender import TransferSender

HOLES = 9


def test_a_flood_of_holes_is_taken_a_few_at_a_time() -> None:
    offer, entry = offer_of(HOLES * MAX_HOLE, OfferKind.TREE, "a")
    receiver = TransferReceiver()
    sending, receiving = pair(TransferSender(offer), receiver)
    carry(sending, receiving, START)
    receiver.accept()
    for record in (Entries((entry,)), *(Hole(0, number * MAX_HOLE, MAX_HOLE) for number in range(HOLES))):
        sending.link.send(encode(record), START)
    data = b"".join(map(bytes, sending.link.poll_output()))
    receiving.link.handle_data(data, START)
    receiving.advance(START)
    taken = []
    while (at := receiving.delivery.poll_timeout()) is not None and at <= START:
        taken.append(receiver.progress.done // MAX_HOLE)
        receiving.delivery.handle_timeout(START)
    assert taken == [HOLES_A_TURN, 2 * HOLES_A_TURN]
    assert receiver.progress.done == HOLES * MAX_HOLE
