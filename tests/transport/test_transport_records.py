"""Records on their way in and out, and the packet numbers that are reported."""

from __future__ import annotations

import random

from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given
from hypothesis import strategies as st

from p2p.core.transport.closing import ANSWER_INTERVAL, Closing, State
from p2p.core.transport.frames import MAX_ACK_RANGES, Close
from p2p.core.transport.incoming import IncomingRecords
from p2p.core.transport.outgoing import MAX_KEPT, OutgoingRecords
from p2p.core.transport.packets import INITIAL_LIMIT, nonce
from p2p.core.transport.received import ACK_SEGMENTS, EAGER_PACKETS, MAX_JUMP, ReceivedPackets
from p2p.core.transport.sent import Run

KEY = bytes(range(32))


def sealed(number: int, plaintext: bytes) -> bytes:
    return AESGCM(KEY).encrypt(nonce(number), plaintext, None)


def test_records_come_out_in_order_whatever_the_order_in() -> None:
    incoming = IncomingRecords(KEY, 8)
    for number in (2, 0, 1):
        ciphertext = sealed(number, bytes([number]) * 50)
        assert incoming.on_clear(number, 30, len(ciphertext), ciphertext[30:])
        assert incoming.on_clear(number, 0, len(ciphertext), ciphertext[:30])
    assert incoming.delivered == 3
    assert [incoming.poll_record() for _ in range(4)] == [b"\0" * 50, b"\1" * 50, b"\2" * 50, None]
    assert incoming.limit == INITIAL_LIMIT
    assert IncomingRecords(KEY, 20).limit == 20


def test_a_record_outside_the_window_is_not_received() -> None:
    incoming = IncomingRecords(KEY, 20)
    ciphertext = sealed(20, b"later")
    assert not incoming.on_clear(20, 0, len(ciphertext), ciphertext)
    assert not incoming.on_sealed(20, 0, len(ciphertext), ciphertext)


def test_after_a_failure_only_sealed_segments_are_believed() -> None:
    incoming = IncomingRecords(KEY, 8)
    ciphertext = sealed(0, b"genuine")
    forged = bytes(len(ciphertext))
    assert incoming.on_clear(0, 0, len(forged), forged)
    assert incoming.failed == ((0, 1),)
    incoming.on_clear(0, 0, len(forged), forged)
    incoming.on_clear(0, 0, len(ciphertext), ciphertext)
    assert incoming.failed == ((0, 1),)
    assert incoming.poll_record() is None
    incoming.on_sealed(0, 0, len(ciphertext), ciphertext)
    assert incoming.poll_record() == b"genuine"
    assert incoming.failed == ()


def test_sealed_segments_win_over_clear_bytes_in_any_order() -> None:
    ciphertext = sealed(0, b"x" * 84)
    for forged_first in (True, False):
        incoming = IncomingRecords(KEY, 8)
        steps = [
            lambda machine: machine.on_clear(0, 10, 100, b"f" * 40),
            lambda machine: machine.on_sealed(0, 10, 100, ciphertext[10:60]),
        ]
        for step in steps if forged_first else reversed(steps):
            step(incoming)
        incoming.on_clear(0, 0, 100, ciphertext[:10])
        incoming.on_clear(0, 60, 100, ciphertext[60:])
        assert incoming.poll_record() == b"x" * 84


def test_a_false_record_length_is_a_failure() -> None:
    incoming = IncomingRecords(KEY, 8)
    ciphertext = sealed(0, b"x" * 84)
    incoming.on_clear(0, 0, 90, b"f" * 20)
    incoming.on_clear(0, 0, 100, ciphertext[:50])
    assert incoming.failed == ((0, 1),)
    incoming.on_sealed(0, 0, 100, ciphertext)
    assert incoming.poll_record() == b"x" * 84


@given(st.integers(0, 2**32), st.integers(1, 3000))
def test_any_pieces_in_any_order_make_the_record(seed: int, length: int) -> None:
    chance = random.Random(seed)
    plaintext = chance.randbytes(length)
    ciphertext = sealed(0, plaintext)
    incoming = IncomingRecords(KEY, 1)
    while not incoming.delivered:
        start = chance.randrange(len(ciphertext))
        end = chance.randrange(start, len(ciphertext)) + 1
        piece = memoryview(bytearray(ciphertext[start:end]))
        (incoming.on_sealed if chance.random() < 0.3 else incoming.on_clear)(0, start, len(ciphertext), piece)
    assert incoming.poll_record() == plaintext


def test_ciphertext_is_kept_until_delivered_and_resent_sealed_after_a_failure() -> None:
    outgoing = OutgoingRecords(KEY)
    outgoing.seal(b"a" * 84)
    chunk = outgoing.next_chunk()
    assert chunk is not None
    outgoing.on_sent(chunk, 100)
    assert outgoing.next_chunk() is None
    outgoing.on_acked(Run(0, 1, 0.0, 124, 124, record=0, payload=100, last_payload=100))
    assert outgoing.is_oldest_stuck()
    assert not outgoing.is_delivered
    outgoing.on_failed(0, 1, 0.0)
    again = outgoing.next_chunk()
    assert again is not None
    assert (again.generation, again.offset, again.length, again.ciphertext) == (1, 0, 100, chunk.ciphertext)
    outgoing.on_sent(again, 100)
    outgoing.on_failed(0, 1, 0.0)  # the same news again
    assert outgoing.next_chunk() is None
    outgoing.on_acked(Run(0, 1, 0.0, 124, 124, record=0, payload=100, last_payload=100))  # of the old generation
    assert not outgoing.is_oldest_stuck()
    assert outgoing.on_delivered(1)
    assert outgoing.is_delivered


def test_lost_bytes_are_sent_again_unless_they_arrived_otherwise() -> None:
    outgoing = OutgoingRecords(KEY)
    outgoing.seal(bytes(984))
    chunk = outgoing.next_chunk()
    assert chunk is not None
    outgoing.on_sent(chunk, 1000)
    whole = Run(0, 10, 0.0, 124, 124, record=0, payload=100, last_payload=100)
    left, right = whole.split(4)
    outgoing.on_acked(right.split(7)[0])  # 400 to 700
    outgoing.on_lost(whole)
    found = []
    while (chunk := outgoing.next_chunk()) is not None:
        found.append((chunk.offset, chunk.length))
        outgoing.on_sent(chunk, chunk.length)
    assert found == [(0, 400), (700, 300)]
    outgoing.on_lost(left)
    outgoing.on_acked(left)
    assert outgoing.next_chunk() is None


def test_delivered_beyond_what_was_sent_is_ignored() -> None:
    outgoing = OutgoingRecords(KEY)
    outgoing.seal(b"x")
    assert not outgoing.on_delivered(2)
    assert outgoing.delivered == 0


def test_what_is_kept_for_a_generous_peer_is_capped() -> None:
    outgoing = OutgoingRecords(KEY)
    outgoing.on_limit(2**32 - 1)
    while outgoing.room(10**9):
        outgoing.seal(b"")
    assert outgoing.next == MAX_KEPT


def eager_over() -> ReceivedPackets:
    received = ReceivedPackets()
    received.on_packets(0, EAGER_PACKETS + 1, 0.0, 0.1, genuine=False)
    received.on_ack_sent()
    return received


def test_acks_are_due_after_32_segments_or_a_quarter_rtt_or_at_once_on_a_gap() -> None:
    received = eager_over()
    at = EAGER_PACKETS + 1
    received.on_packets(at, ACK_SEGMENTS - 1, 1.0, 0.008, genuine=False)
    assert not received.is_due(1.0)
    assert received.poll_timeout() == 1.002
    assert received.is_due(1.002)
    received.on_packets(at + ACK_SEGMENTS - 1, 1, 1.0, 0.008, genuine=False)
    assert received.is_due(1.0)
    received.on_ack_sent()
    assert received.poll_timeout() is None
    received.on_packets(at + ACK_SEGMENTS, 1, 2.0, 0.1, genuine=False)
    assert received.poll_timeout() == 2.005
    assert not received.is_due(2.0)
    received.on_packets(at + ACK_SEGMENTS + 2, 1, 2.0, 0.1, genuine=False)
    assert received.is_due(2.0)
    received.on_ack_sent()
    received.on_packets(at + ACK_SEGMENTS + 1, 1, 2.0, 0.1, genuine=False)  # fills the gap
    assert received.is_due(2.0)


def test_a_number_that_jumps_counts_only_when_the_next_one_follows() -> None:
    received = eager_over()
    jump = EAGER_PACKETS + MAX_JUMP + 1
    received.on_packets(jump, 1, 0.0, 0.1, genuine=False)
    assert received.largest == EAGER_PACKETS
    received.on_packets(jump + 1, 1, 0.0, 0.1, genuine=False)
    assert received.largest == jump + 1
    received.on_packets(2**40, 1, 0.0, 0.1, genuine=True)
    assert received.largest == 2**40


def test_unasked_numbers_do_not_become_the_largest_nor_a_gap() -> None:
    received = eager_over()
    received.on_unasked(EAGER_PACKETS + 1)
    assert received.largest == EAGER_PACKETS
    received.on_packets(EAGER_PACKETS + 2, 1, 3.0, 0.1, genuine=False)
    assert list(received.ranges) == [(0, EAGER_PACKETS + 3)]
    assert not received.is_due(3.0)
    assert received.delay(3.5) == 0.5


def test_ranges_are_capped_and_forgotten_but_never_all() -> None:
    received = eager_over()
    for number in range(1000, 2000, 2):
        received.on_packets(number, 1, 0.0, 0.1, genuine=False)
    assert len(received.ranges) == MAX_ACK_RANGES
    received.on_ack_acked(10**9)
    assert list(received.ranges) == [(1998, 1999)]
    received.on_packets(1001, 1, 0.0, 0.1, genuine=False)
    assert list(received.ranges) == [(1998, 1999)]


def test_closing_answers_repetitions_and_lingers_three_ptos() -> None:
    closing = Closing()
    assert closing.on_close(Close(3, False, "why"), 10.0, 0.1)
    assert closing.state is State.ANSWERING
    assert closing.poll_frame(10.0) == Close(0, True, "")
    assert closing.poll_frame(10.0) is None
    assert not closing.on_close(Close(3, False, "why"), 10.0 + ANSWER_INTERVAL, 0.1)
    assert closing.poll_frame(10.1) == Close(0, True, "")
    closing.close(1, "too late", 10.2, 0.1)
    assert closing.state is State.ANSWERING
    closing.handle_timeout(10.31)
    assert closing.is_drained


def test_closing_repeats_until_answered() -> None:
    closing = Closing()
    closing.close(3, "why", 10.0, 0.3)
    assert closing.poll_frame(10.0) == Close(3, False, "why")
    assert closing.poll_timeout() == 10.1
    closing.handle_timeout(10.1)
    assert closing.poll_frame(10.1) == Close(3, False, "why")
    assert not closing.on_close(Close(0, True, ""), 10.2, 0.3)
    assert closing.is_drained
    assert closing.poll_timeout() is None
