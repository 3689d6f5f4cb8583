"""Somebody beside the path, who sees every packet and adds his own but stops none: a transfer goes on, and fast."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from transport_link import BOB, START, World, keys

from p2p.core.transport.connection import MAX_RECORD, Connection
from p2p.core.transport.frames import Ack, Ping, decode_frames, encode_frame
from p2p.core.transport.packets import DATA, SEALED

RECORDS = [bytes(MAX_RECORD)] * 200  # 12.7 MB: about 1.2 s at the link's 12.5 MB/s
LIMIT = 6.0  # virtual seconds; each attack here once took from 8 to for ever
BEGIN = 0.3  # virtual seconds after which the forger knows the connection id and begins
STEP = 0.010  # virtual seconds between two of his strokes


def forged(number: int, record: int, length: int, data: bytes) -> bytes:
    """A DATA packet from Alice to Bob."""
    header = bytes([DATA]) + keys("alice", "bob").id_out[:7] + number.to_bytes(8, "big")
    return header + record.to_bytes(4, "big") + bytes(2) + length.to_bytes(2, "big") + data


def next_number(world: World) -> int:
    """What packet number Alice will use next, as an eavesdropper knows it."""
    return len(world.alice.link.sent)


def leap(world: World, stroke: int) -> None:
    """Two packets with neighbouring numbers, further ahead than the fields of an ACK reach."""
    if not stroke:
        for number in (1 << 40, (1 << 40) + 1):
            world.deliver(False, forged(number, 0, 100, b"x"))


def leap_at_once(world: World, stroke: int) -> None:
    """The same, before there is a first measure of the path; see BEGIN."""
    leap(world, stroke)


def crowd(world: World, stroke: int) -> None:
    """More separate numbers than an ACK has ranges, all above those that Alice uses."""
    if not stroke:
        first = next_number(world) + 4000
        for start in range(first, first + 5 * 4000, 4000):
            for number in (start, start + 1, *range(start + 3, start + 300, 2)):
                world.deliver(False, forged(number, 0, 100, b"x"))


def poison(world: World, _: int) -> None:
    """One short packet for each record that Bob would take: each of them then fails once."""
    delivered = world.bob.connection.stats.records_received
    for record in range(delivered, delivered + 256):
        world.deliver(False, forged(next_number(world), record, 16, bytes(16)))


def lie_about_lengths(world: World, _: int) -> None:
    delivered = world.bob.connection.stats.records_received
    for record in range(delivered, delivered + 256):
        world.deliver(False, forged(next_number(world), record, 60_000, bytes(20)))


@pytest.mark.parametrize("attack", [leap, leap_at_once, crowd, poison, lie_about_lengths])
def test_forged_data_packets_do_not_stop_a_transfer_nor_slow_it_to_a_crawl(
    attack: Callable[[World, int], None],
) -> None:
    world = World(to_bob=list(RECORDS))
    world.run_for(0.0 if attack is leap_at_once else BEGIN)
    stroke = 0
    while not world.is_done():
        attack(world, stroke)
        world.run_for(STEP)
        stroke += 1
        assert world.now < START + LIMIT
    assert world.bob.received == RECORDS
    assert world.alice.connection.stats.is_sealing_segments
    assert world.alice.connection.stats.bytes_retransmitted < 6_000_000


def test_who_was_told_that_all_is_sealed_believes_no_data_packet_any_more() -> None:
    world = World(to_bob=list(RECORDS))
    world.run_for(BEGIN)
    leap(world, 0)
    world.run(LIMIT)
    stats = world.bob.connection.stats
    for record in range(stats.records_received, stats.records_received + 16):
        world.deliver(False, forged(next_number(world), record, 16, bytes(16)))
    after = world.bob.connection.stats
    assert after.records_failed == stats.records_failed
    assert after.packets_dropped == stats.packets_dropped + 16
    begun = next(i for i, datagram in enumerate(world.alice.link.sent) if is_lone(world, datagram))
    assert not [datagram for datagram in world.alice.link.sent[begun:] if datagram[0] == DATA]


def test_an_ack_shows_no_forged_number_once_all_is_sealed() -> None:
    world = World(to_bob=list(RECORDS))
    world.run_for(BEGIN)
    leap(world, 0)
    world.run(LIMIT)
    assert acks(world, world.bob.link.sent[-1])[0].ranges[0][1] <= next_number(world)


def test_an_ack_whose_gaps_do_not_fit_tells_what_fits() -> None:
    ack = Ack(((1 << 40, (1 << 40) + 2), (5, 9), (0, 2)), 0.0, 16, 0)
    (decoded,) = decode_frames(encode_frame(ack))
    assert decoded == Ack(ack.ranges[:1], 0.0, 16, 0)


def test_a_number_never_sent_is_reason_enough_to_seal() -> None:
    connection = Connection(keys("alice", "bob"), BOB, START)
    connection.send(bytes(5000), START)
    while connection.poll_transmit(START) is not None:
        pass
    bob = World().bob.connection
    assert bob.poll_transmit(START) is None
    for frame, sealing in ((Ping(), False), (Ack(((0, 2),), 0.0, 16, 0), False), (Ack(((0, 9999),), 0.0, 16, 0), True)):
        connection.handle_datagram(bob._sender.send_frames([frame], START).buffers[0], 0, BOB, START)
        assert connection.stats.is_sealing_segments is sealing


def is_lone(world: World, datagram: bytes) -> bool:
    opened = decode_frames(opened_by(world.bob.connection, datagram)) if datagram[0] == SEALED else []
    return any(getattr(frame, "is_lone", False) for frame in opened)


def acks(world: World, datagram: bytes) -> list[Ack]:
    frames = decode_frames(opened_by(world.alice.connection, datagram))
    return [frame for frame in frames if isinstance(frame, Ack)]


def opened_by(connection: Connection, datagram: bytes) -> bytes:
    return connection._open.decrypt(bytes(4) + datagram[8:16], datagram[16:], datagram[:16])
