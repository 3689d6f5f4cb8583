"""Finding each other on one network, in virtual time."""

from __future__ import annotations

import pytest
from discovery_lan import ALICE, BOB, PORT, Lan, Peer
from hypothesis import given, settings
from hypothesis import strategies as st

from p2p.core.address import Address
from p2p.core.discovery.budget import TESTS, TESTS_PER_SOURCE
from p2p.core.discovery.channel import LIFETIME
from p2p.core.discovery.discovery import ANNOUNCE_INTERVAL, LEAVE_PATIENCE, RIVAL_PATIENCE
from p2p.core.discovery.messages import Announce, Confirm, Here, Open, Sealed, Share, Shared, decode
from p2p.core.errors import CallerError
from p2p.core.introduction import (
    MAX_PAYLOAD,
    Contested,
    Gone,
    Message,
    NamePair,
    Nameplate,
    Paired,
    PeerLeft,
    Refused,
    RefusedReason,
    Waiting,
)
from p2p.core.role import Role

SOON = 0.1  # seconds in which two have to find each other where nothing gets lost


def is_paired(*peers: Peer) -> bool:
    return all(peer.of(Paired) for peer in peers)


def pair(lan: Lan) -> tuple[Peer, Peer]:
    sender, receiver = lan.join(ALICE, Role.SENDER), lan.join(BOB, Role.RECEIVER)
    assert lan.run(SOON, lambda: is_paired(sender, receiver))
    return sender, receiver


@pytest.mark.parametrize("seconds", [0.0, 0.3, 3.0, 60.0])
@pytest.mark.parametrize("sender_first", [True, False])
def test_two_find_each_other_at_once_however_long_one_has_waited(seconds: float, sender_first: bool) -> None:
    lan = Lan()
    first, second = ((ALICE, Role.SENDER), (BOB, Role.RECEIVER))[:: 1 if sender_first else -1]
    one = lan.join(*first)
    lan.run(seconds)
    two = lan.join(*second)
    assert lan.run(SOON, lambda: is_paired(one, two))
    assert one.of(Paired)[0].peer_tag == two.of(Paired)[0].peer_tag
    assert one.of(Paired)[0].address == two.addresses[0]
    assert two.of(Paired)[0].address == one.addresses[0]
    assert one.events[0] == two.events[0] == Waiting(None)


def test_a_nameplate_finds_its_other_half() -> None:
    lan = Lan()
    one, two = lan.join(Nameplate("4711"), Role.SENDER), lan.join(Nameplate("4711"), Role.RECEIVER)
    stranger = lan.join(Nameplate("4712"), Role.RECEIVER)
    assert lan.run(SOON, lambda: is_paired(one, two))
    lan.run(10)
    assert not stranger.of(Paired)


def test_payloads_go_both_ways_and_only_to_the_friend() -> None:
    lan = Lan()
    stranger = lan.join(NamePair("carol", "dave"), Role.RECEIVER)
    sender, receiver = pair(lan)
    for size in (1, MAX_PAYLOAD):
        lan.forward(sender, bytes(size))
        lan.forward(receiver, b"x" * size)
    lan.run(SOON)
    tag = sender.of(Paired)[0].peer_tag
    assert receiver.of(Message) == [Message(tag, bytes(1)), Message(tag, bytes(MAX_PAYLOAD))]
    assert sender.of(Message) == [Message(tag, b"x"), Message(tag, b"x" * MAX_PAYLOAD)]
    assert stranger.events == [Waiting(None)]
    assert not [data for _, _, _, data in lan.trace if b"xxxx" in data]  # sealed
    for size in (0, MAX_PAYLOAD + 1):
        with pytest.raises(CallerError):
            sender.machine.forward(bytes(size), lan.now)


@given(seed=st.integers(0, 10_000), loss=st.sampled_from([0.1, 0.3]), duplicate=st.sampled_from([0.0, 0.3]))
@settings(max_examples=25)
def test_loss_delays_it_and_no_more(seed: int, loss: float, duplicate: float) -> None:
    lan = Lan(seed, loss=loss, duplicate=duplicate)
    peers = [lan.join(ALICE, Role.SENDER), lan.join(BOB, Role.RECEIVER)]

    def agree() -> bool:
        tags = [peer.of(Paired)[-1].peer_tag for peer in peers if isinstance(peer.events[-1], Paired)]
        return len(tags) == 2 and tags[0] == tags[1]

    assert lan.run(40, agree)


def test_a_first_word_that_is_lost_is_said_again() -> None:
    lan = Lan()
    sender = lan.join(ALICE, Role.SENDER)
    lost: list[bytes] = []

    def lose_first_word(_: Address, destination: Address) -> bool:
        is_word = destination == sender.addresses[0] and isinstance(decode(lan.trace[-1][3]), Sealed)
        if is_word and not lost:
            lost.append(lan.trace[-1][3])
            return True
        return False

    lan.is_cut = lose_first_word
    receiver = lan.join(BOB, Role.RECEIVER)
    assert lan.run(0.5, lambda: is_paired(sender, receiver))
    assert lost


def test_many_pairs_at_once_find_each_other_and_nobody_else() -> None:
    lan = Lan()
    pairs = []
    for number in range(8):
        one, two = f"sender {number}", f"receiver {number}"
        pairs.append((lan.join(NamePair(one, two), Role.SENDER), lan.join(NamePair(two, one), Role.RECEIVER)))
    assert lan.run(2, lambda: all(is_paired(*pair) for pair in pairs))
    for sender, receiver in pairs:
        assert sender.of(Paired)[0].address == receiver.addresses[0]
        assert len(sender.of(Paired)) == len(receiver.of(Paired)) == 1


def test_those_in_the_same_role_come_after_those_who_may_be_the_friend() -> None:
    lan = Lan()
    for n in range(6):
        lan.join(NamePair(f"a{n}", f"b{n}"), Role.SENDER)
    lan.run(3)
    sender, receiver = lan.join(ALICE, Role.SENDER), lan.join(BOB, Role.RECEIVER)
    assert lan.run(SOON, lambda: is_paired(sender, receiver))
    assert sender.machine.computed == 1


def test_strangers_are_asked_once_and_then_left_alone() -> None:
    lan = Lan()
    strangers = [lan.join(NamePair(f"a{n}", f"b{n}"), Role.RECEIVER) for n in range(4)]
    sender = lan.join(ALICE, Role.SENDER)
    lan.run(50)
    assert sender.machine.computed == 4
    assert sender.machine.neighbours(lan.now) == 4
    lan.run(600)
    assert sender.machine.computed <= 4 * 5  # after 1, 2, 4 and 8 minutes: somebody may have spoilt an answer
    assert not sender.of(Paired)
    assert not any(stranger.of(Paired) for stranger in strangers)


def test_one_who_waits_makes_little_traffic() -> None:
    lan = Lan()
    lan.join(ALICE, Role.SENDER)
    lan.run(60)
    data = [data for _, _, _, data in lan.trace]
    assert all(isinstance(decode(each), Announce) for each in data)
    assert len(data) == 3 + 1 + (60 - 1.4) // ANNOUNCE_INTERVAL
    assert max(map(len, data)) < 50


def test_a_pair_says_nothing_to_the_group() -> None:
    lan = Lan()
    pair(lan)
    before = len(lan.trace)
    lan.run(60)
    later = [decode(data) for _, _, _, data in lan.trace[before:]]
    assert all(isinstance(message, Sealed) for message in later)
    assert len(later) <= 2 * 13  # one word of each in 5 s


def test_names_nameplate_and_what_follows_from_them_are_in_no_packet() -> None:
    lan = Lan()
    sender, _ = pair(lan)
    lan.forward(sender, b"alice says hello")
    lan.run(SOON)
    for _, _, _, data in lan.trace:
        assert b"alice" not in data
        assert b"bob" not in data
    # of two runs with the same names nothing is the same but what the roles say
    again = Lan(seed=8)
    pair(again)
    assert {data[5:] for *_, data in lan.trace}.isdisjoint(data[5:] for *_, data in again.trace)


def test_who_leaves_says_so_and_the_other_waits_again() -> None:
    lan = Lan()
    sender, receiver = pair(lan)
    lan.leave(receiver)
    assert lan.run(SOON, lambda: receiver.machine.is_closed)
    assert receiver.events[-1] == Gone()
    assert sender.events[-2:] == [Paired(*_fields(sender)), PeerLeft()]
    again = lan.join(BOB, Role.RECEIVER)
    assert lan.run(SOON, lambda: len(sender.of(Paired)) == 2 and is_paired(again))
    assert sender.of(Paired)[0].peer_tag != sender.of(Paired)[1].peer_tag


def _fields(peer: Peer) -> tuple[bytes, Address | None]:
    return peer.of(Paired)[0].peer_tag, peer.of(Paired)[0].address


def test_who_crashes_expires_and_comes_back() -> None:
    lan = Lan()
    sender, receiver = pair(lan)
    lan.crash(receiver)
    again = lan.join(BOB, Role.RECEIVER)
    assert not lan.run(LIFETIME - 6, lambda: bool(sender.of(PeerLeft)))
    assert lan.run(7, lambda: bool(sender.of(PeerLeft)))
    assert lan.run(SOON, lambda: len(sender.of(Paired)) == 2 and is_paired(again))


def test_a_network_that_was_gone_for_a_minute_brings_them_together_again() -> None:
    lan = Lan()
    sender, receiver = pair(lan)
    lan.is_cut = lambda _from, _to: True
    lan.run(60)
    assert sender.of(PeerLeft)
    assert receiver.of(PeerLeft)
    lan.is_cut = lambda _from, _to: False
    assert lan.run(ANNOUNCE_INTERVAL + 1, lambda: len(sender.of(Paired)) == len(receiver.of(Paired)) == 2)


def test_leaving_alone_or_into_silence_ends_in_time() -> None:
    lan = Lan()
    alone = lan.join(NamePair("carol", "dave"), Role.SENDER)
    lan.leave(alone)
    assert alone.machine.is_closed
    assert alone.events[-1] == Gone()
    sender, receiver = pair(lan)
    lan.crash(receiver)
    lan.leave(sender)
    assert not sender.machine.is_closed
    assert lan.run(LEAVE_PATIENCE + 0.1, lambda: sender.machine.is_closed)
    assert lan.run(60) is False
    assert sender.machine.poll_transmit() is None


def test_both_may_leave_at_once() -> None:
    lan = Lan()
    sender, receiver = pair(lan)
    lan.leave(sender)
    lan.leave(receiver)
    assert lan.run(SOON, lambda: sender.machine.is_closed and receiver.machine.is_closed)


def test_two_who_both_send_are_told_so() -> None:
    lan = Lan()
    one, two = lan.join(ALICE, Role.SENDER), lan.join(BOB, Role.SENDER)
    assert lan.run(5, lambda: bool(one.of(Contested) and two.of(Contested)))
    assert one.of(Contested) == two.of(Contested) == [Contested(RefusedReason.SAME_ROLE)]


@pytest.mark.parametrize("pairing", [ALICE, Nameplate("4711")])
def test_of_two_in_one_place_the_later_is_refused_and_the_earlier_is_found(pairing: NamePair | Nameplate) -> None:
    lan = Lan()
    first = lan.join(pairing, Role.SENDER)
    lan.run(3)
    second = lan.join(pairing, Role.SENDER)
    assert lan.run(5, lambda: bool(second.of(Contested)))
    assert second.of(Contested) == [Contested(RefusedReason.TAKEN)]
    friend = lan.join(BOB if isinstance(pairing, NamePair) else pairing, Role.RECEIVER)
    assert lan.run(SOON, lambda: is_paired(first, friend))
    assert not first.of(Contested)
    assert not second.of(Paired)
    assert lan.run(RIVAL_PATIENCE, lambda: second.machine.is_closed)
    assert second.events[-1] == Refused(RefusedReason.TAKEN)


@pytest.mark.parametrize("crashes", [True, False])
def test_who_yielded_takes_the_place_when_it_is_free(crashes: bool) -> None:
    lan = Lan()
    first = lan.join(ALICE, Role.SENDER)
    lan.run(3)
    second = lan.join(ALICE, Role.SENDER)
    assert lan.run(5, lambda: bool(second.of(Contested)))
    (lan.crash if crashes else lan.leave)(first)
    friend = lan.join(BOB, Role.RECEIVER)
    assert lan.run(LIFETIME + 0.5, lambda: is_paired(second, friend))


def test_one_with_several_addresses_is_found_once_at_one_of_them() -> None:
    lan = Lan()
    sender = lan.join(ALICE, Role.SENDER, "192.168.1.1", "fe80::1%eth0", "10.0.0.1")
    receiver = lan.join(BOB, Role.RECEIVER, "192.168.1.2", "fe80::2%eth0")
    stranger = lan.join(NamePair("carol", "dave"), Role.RECEIVER, "192.168.1.3", "fe80::3%eth0")
    assert lan.run(SOON, lambda: is_paired(sender, receiver))
    lan.run(30)
    assert len(sender.of(Paired)) == 1
    assert len(lan.sent_by(stranger, Shared)) <= 1


def test_ipv6_alone_is_enough() -> None:
    lan = Lan()
    sender = lan.join(ALICE, Role.SENDER, "fe80::1%eth0")
    receiver = lan.join(BOB, Role.RECEIVER, "fe80::2%eth0")
    assert lan.run(SOON, lambda: is_paired(sender, receiver))
    assert sender.of(Paired)[0].address == Address("fe80::2%eth0", PORT)


def test_where_one_address_leads_nowhere_the_other_is_tried() -> None:
    lan = Lan()
    lan.is_cut = lambda _from, destination: ":" not in destination.host and destination.host != "192.168.1.1"
    sender = lan.join(ALICE, Role.SENDER, "192.168.1.1", "fe80::1%eth0")
    receiver = lan.join(BOB, Role.RECEIVER, "192.168.1.2", "fe80::2%eth0")
    assert lan.run(15, lambda: is_paired(sender, receiver))


def test_a_sender_asks_who_is_here_already_without_waiting_for_the_next_announcement() -> None:
    lan = Lan()
    receiver = lan.join(BOB, Role.RECEIVER)
    lan.run(3)  # its next announcement is seconds away
    sender = lan.join(ALICE, Role.SENDER)
    assert lan.run(SOON, lambda: is_paired(sender, receiver))
    assert len(lan.sent_by(receiver, Here)) == 1
    assert [len(lan.sent_by(sender, kind)) for kind in (Open, Share, Confirm)] == [1, 1, 1]


def test_it_starts_once() -> None:
    lan = Lan()
    peer = lan.join(ALICE, Role.SENDER)
    with pytest.raises(CallerError):
        peer.machine.start(lan.now)


def test_guesses_are_few() -> None:
    """What the caps come to, for the threat model: of one neighbour 8 and 720 an hour, of all 128 and 3600."""
    assert (TESTS_PER_SOURCE.burst, TESTS_PER_SOURCE.per_second * 3600) == (8, 720)
    assert (TESTS.burst, TESTS.per_second * 3600) == (128, 3600)
