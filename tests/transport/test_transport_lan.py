"""The LAN race and the link over TCP, where real sockets would hide what matters: time and amounts."""

from __future__ import annotations

import random

import pytest

from p2p.core.address import Address
from p2p.core.errors import RemoteError
from p2p.core.peer.channel import MAX_UNREAD, Lost, TcpLink
from p2p.core.transport.idle import IDLE_TIMEOUT
from p2p.core.transport.lan import HANDSHAKE_TIMEOUT, RETRY_FIRST, Close, Connect, LanRace
from p2p.core.transport.tcp import TcpChannel, TcpKeys

OURS = TcpKeys(b"a" * 32, b"b" * 32, b"c" * 32, b"d" * 32)
THEIRS = TcpKeys(b"b" * 32, b"a" * 32, b"d" * 32, b"c" * 32)
THERE = Address("192.168.1.2", 4000)


def test_a_refused_connection_is_tried_again_ever_more_rarely_until_its_time_is_up() -> None:
    race = LanRace(OURS, random.Random(1).randbytes)
    race.start([THERE], 0.0)
    attempts = []
    now = 0.0
    while race.is_trying:
        while (action := race.poll_action()) is not None:
            assert action == Connect(0, THERE)
            attempts.append(now)
            race.handle_closed(0, now)
        if (at := race.poll_timeout()) is not None:
            now = at
            race.handle_timeout(now)
    assert attempts[:3] == [0.0, RETRY_FIRST, 3 * RETRY_FIRST]
    assert len(attempts) == 6
    assert now <= HANDSHAKE_TIMEOUT


def test_nothing_is_tried_again_after_the_choice() -> None:
    race = LanRace(OURS, random.Random(1).randbytes)
    race.start([THERE], 0.0)
    assert race.poll_action() == Connect(0, THERE)
    race.handle_closed(0, 0.0)
    race.drop_all()
    assert race.poll_timeout() is None
    race.handle_timeout(1.0)
    assert race.poll_action() == Close(0)
    assert race.poll_action() is None


@pytest.mark.parametrize("cut", [1, 4, 5, 53, 1000])
def test_two_that_open_at_the_same_time_agree_who_listens(cut: int) -> None:
    """One connection of two connectors (RFC 9293 section 3.5), whatever pieces it comes in."""
    rng = random.Random(1)
    sides = [
        TcpChannel(keys, connector=True, random_bytes=rng.randbytes, yields=keys is THEIRS) for keys in (OURS, THEIRS)
    ]
    for _ in range(4):
        for here, there in (sides, sides[::-1]):
            data = b"".join(here.poll_output())
            for start in range(0, len(data), cut):
                there.handle_data(data[start : start + cut])
    assert all(side.is_open for side in sides)
    for here, there in (sides, sides[::-1]):
        here.send(b"record")
        there.handle_data(b"".join(here.poll_output()))
        assert there.poll_record() == b"record"


def test_a_connector_that_never_yields_takes_one_hello_and_no_second() -> None:
    rng = random.Random(1)
    ours, theirs = (TcpChannel(keys, connector=True, random_bytes=rng.randbytes) for keys in (OURS, THEIRS))
    hello = b"".join(theirs.poll_output())
    ours.handle_data(hello)
    with pytest.raises(RemoteError):
        ours.handle_data(hello)


def test_a_link_that_nobody_reads_is_full_and_does_not_take_its_own_silence_for_the_other_sides() -> None:
    rng = random.Random(1)
    here, there = (
        TcpChannel(keys, connector=keys is OURS, random_bytes=rng.randbytes) for keys in (OURS, THEIRS)
    )
    for _ in range(2):
        there.handle_data(b"".join(here.poll_output()))
        here.handle_data(b"".join(there.poll_output()))
    link = TcpLink(here, 0.0)
    for _ in range(MAX_UNREAD):
        assert not link.is_full
        there.send(b"record")
        link.handle_data(b"".join(there.poll_output()), 0.0)
    assert link.is_full
    link.handle_timeout(IDLE_TIMEOUT + 1.0)
    assert link.poll_end() is None
    while link.poll_record() is not None:
        pass
    assert not link.is_full
    link.handle_timeout(2 * IDLE_TIMEOUT + 1.0)
    assert link.poll_end() == Lost(IDLE_TIMEOUT)


@pytest.mark.parametrize("is_proved", [True, False])
def test_who_ends_says_so_to_a_side_that_has_chosen_already(is_proved: bool) -> None:
    """The connector has chosen with the listener's answer; the listener ends before or after the proof has come."""
    rng = random.Random(1)
    ours, theirs = LanRace(OURS, rng.randbytes), LanRace(THEIRS, rng.randbytes)
    ours.start([THERE], 0.0)
    ours.handle_connected(0)
    theirs.handle_accepted(1, THERE, 0.0)
    theirs.handle_data(1, said(ours))
    ours.handle_data(0, said(theirs))
    chosen = ours.poll_authenticated()
    assert chosen == 0
    proof = said(ours)
    if is_proved:
        theirs.handle_data(1, proof)
    theirs.part(b"farewell")
    if not is_proved:
        assert theirs.poll_output() is None
        assert theirs.poll_action() is None
        theirs.handle_data(1, proof)
    channel, _ = ours.take(chosen)
    channel.handle_data(said(theirs))
    assert channel.poll_record() == b"farewell"
    assert theirs.poll_action() == Close(1, flush=True)
    assert theirs.poll_authenticated() is None


def said(race: LanRace) -> bytes:
    output = race.poll_output()
    assert output is not None
    return b"".join(output[1])
