"""What a neighbour on the same network can try: to listen, to replay, to forge, to guess, to flood."""

from __future__ import annotations

import random

import pytest
from discovery_lan import ALICE, BOB, PORT, Lan, Peer
from hypothesis import given, settings
from hypothesis import strategies as st

from p2p.core.address import Address
from p2p.core.discovery.budget import ANSWERS, TESTS, TESTS_PER_SOURCE
from p2p.core.discovery.initiator import MAX_RUNS
from p2p.core.discovery.keys import IDENTITIES, Run, RunKeys, Side, password
from p2p.core.discovery.messages import (
    Announce,
    Confirm,
    Cookie,
    Here,
    Open,
    Sealed,
    Share,
    Shared,
    decode,
    encode,
)
from p2p.core.discovery.neighbours import MAX_NEIGHBOURS, MAX_PER_HOST
from p2p.core.introduction import Message, NamePair, Paired, PeerLeft, Waiting
from p2p.core.pake import PasswordExchange
from p2p.core.role import Role

EVE = Address("192.168.1.66", PORT)
SOON = 0.1  # seconds


class Eve:
    """A machine that says what it likes and hears what is sent to it."""

    def __init__(self, lan: Lan, guess: NamePair | None = None) -> None:
        self.lan, self.random, self.guess = lan, random.Random(3), guess
        self.read = 0

    def heard(self, *addresses: Address) -> list[object]:
        """What came since the last call, to EVE or these."""
        new, self.read = self.lan.trace[self.read :], len(self.lan.trace)
        return [decode(data) for _, _, to, data in new if to in (EVE, *addresses)]

    def cookie(self, victim: Peer, instance: bytes, nonce: bytes, source: Address = EVE) -> Cookie | None:
        self.heard(source)
        name = self.lan.instance(victim)
        self.lan.inject(Open(instance, name, nonce), source, victim.addresses[0])
        self.lan.run(SOON)
        answers = [message for message in self.heard(source) if isinstance(message, Cookie)]
        return answers[0] if answers else None

    def try_guess(self, victim: Peer, guess: NamePair, source: Address = EVE) -> bool | None:
        """Whether the victim has these names; None when it does not answer."""
        instance, nonce = self.random.randbytes(8), self.random.randbytes(8)
        cookie = self.cookie(victim, instance, nonce, source)
        if cookie is None:
            return None
        name = self.lan.instance(victim)
        exchange = PasswordExchange(password(guess), IDENTITIES, self.random.randbytes, is_first=True)
        share = Share(instance, name, nonce, cookie.cookie, Role.SENDER, exchange.share)
        self.lan.inject(share, source, victim.addresses[0])
        self.lan.run(SOON)
        for message in self.heard(source):
            if isinstance(message, Shared):
                run = Run(nonce, instance, name, Role.SENDER, message.role, exchange.share, message.share)
                keys = RunKeys(exchange.finish(message.share), run)
                return keys.confirmed_seat(Side.RESPONDER, message.confirmation) is not None
        return None


def paired(lan: Lan) -> tuple[Peer, Peer]:
    sender, receiver = lan.join(ALICE, Role.SENDER), lan.join(BOB, Role.RECEIVER)
    assert lan.run(SOON, lambda: bool(sender.of(Paired) and receiver.of(Paired)))
    return sender, receiver


def test_a_guess_is_answered_by_yes_or_no_and_a_source_has_few() -> None:
    lan = Lan()
    victim = lan.join(BOB, Role.RECEIVER)
    eve = Eve(lan)
    answers = [eve.try_guess(victim, NamePair("carol", f"dave{n}")) for n in range(20)]
    assert answers.count(False) in (TESTS_PER_SOURCE.burst, TESTS_PER_SOURCE.burst + 1)  # one came back meanwhile
    assert None in answers
    lan.run(10)
    assert eve.try_guess(victim, ALICE) is True
    assert not victim.of(Paired)  # she did not say CONFIRM; nor would it be more than the place of the friend


def test_from_many_addresses_guesses_are_bounded_all_the_same() -> None:
    lan = Lan()
    victim = lan.join(BOB, Role.RECEIVER)
    eve = Eve(lan)
    begun = lan.now
    for n in range(200):
        eve.try_guess(victim, NamePair("carol", "dave"), Address(f"192.168.2.{n}", PORT))
    assert victim.machine.computed <= TESTS.burst + (lan.now - begun) * TESTS.per_second


def test_who_only_listens_has_nothing_to_try_guesses_on() -> None:
    """All that is sent in the clear, with the right names and every other secret of neither side: no key fits."""
    lan = Lan()
    sender, _ = paired(lan)
    lan.forward(sender, b"payload")
    lan.run(SOON)
    messages = [decode(data) for _, _, _, data in lan.trace]
    share = next(message for message in messages if isinstance(message, Share))
    shared = next(message for message in messages if isinstance(message, Shared))
    for first, theirs in ((True, shared.share), (False, share.share)):
        mine = PasswordExchange(password(ALICE), IDENTITIES, random.Random(1).randbytes, is_first=first)
        run = Run(share.nonce, share.sender, shared.sender, share.role, shared.role, share.share, shared.share)
        assert RunKeys(mine.finish(theirs), run).confirmed_seat(Side.RESPONDER, shared.confirmation) is None


def test_spoofed_sources_make_nobody_compute() -> None:
    lan = Lan()
    sender, receiver = lan.join(ALICE, Role.SENDER), lan.join(NamePair("carol", "dave"), Role.RECEIVER)
    lan.run(3)
    before = sender.machine.computed, receiver.machine.computed
    chance = random.Random(5)
    for n in range(500):
        ghost = Address(f"10.0.{n // 250}.{n % 250}", PORT)
        name = chance.randbytes(8)
        for victim, role in ((sender, Role.RECEIVER), (receiver, Role.SENDER)):
            us = lan.instance(victim)
            lan.multicast(Announce(name, role, PORT), ghost)
            lan.inject(Here(name, us, role), ghost, victim.addresses[0])
            lan.inject(Open(name, us, chance.randbytes(8)), ghost, victim.addresses[0])
            forged = Share(name, us, chance.randbytes(8), chance.randbytes(16), Role.SENDER, b"A" + bytes(32))
            lan.inject(forged, ghost, victim.addresses[0])
    lan.run(10)
    assert (sender.machine.computed, receiver.machine.computed) == before


def test_a_cookie_serves_its_own_address_and_run_only() -> None:
    lan = Lan()
    victim = lan.join(BOB, Role.RECEIVER)
    eve = Eve(lan)
    cookie = eve.cookie(victim, b"instance", b"thenonce")
    assert cookie is not None
    for sender, nonce, source in (
        (b"instance", b"thenonce", Address("192.168.1.67", PORT)),
        (b"instance", b"thenonce", Address(EVE.host, PORT + 1)),
        (b"instance", b"another1", EVE),
        (b"someone1", b"thenonce", EVE),
    ):
        share = Share(sender, cookie.sender, nonce, cookie.cookie, Role.SENDER, b"A" + bytes(32))
        lan.inject(share, source, victim.addresses[0])
    lan.run(SOON)
    assert victim.machine.computed == 0


def test_a_flood_of_false_neighbours_hides_nobody_and_takes_little_room() -> None:
    lan = Lan()
    sender = lan.join(ALICE, Role.SENDER)
    chance = random.Random(9)
    for n in range(400):  # within a second, from as many places as she likes
        lan.call_at(
            lan.now + n / 400,
            lambda n=n: lan.multicast(
                Announce(chance.randbytes(8), Role.RECEIVER, PORT), Address(f"10.1.{n % 7}.{n % 200}", PORT)
            ),
        )
    lan.run(0.5)
    friend = lan.join(BOB, Role.RECEIVER)
    assert lan.run(3, lambda: bool(sender.of(Paired) and friend.of(Paired)))
    assert len(sender.machine._initiator._runs) <= MAX_RUNS


def test_no_more_neighbours_are_remembered_than_the_cap() -> None:
    lan = Lan()
    sender = lan.join(ALICE, Role.SENDER)
    for n in range(2 * MAX_NEIGHBOURS):
        invented = Announce(lan.random.randbytes(8), Role.RECEIVER, PORT)
        lan.multicast(invented, Address(f"10.1.{n % 250}.{n // 250}", PORT))
    lan.run(SOON)
    assert len(sender.machine._neighbours) == MAX_NEIGHBOURS


def test_an_answer_from_elsewhere_than_the_question_went_is_none() -> None:
    """Somebody answers for the receiver, from her own address: no share is made for her."""
    lan = Lan()
    sender = lan.join(ALICE, Role.SENDER)
    there = Address("192.168.1.2", PORT)
    lan.multicast(Announce(b"receiver", Role.RECEIVER, PORT), there)
    lan.run(SOON)
    asked = lan.sent_by(sender, Open)[0]
    lan.inject(Cookie(b"receiver", asked.sender, asked.nonce, bytes(16)), EVE, sender.addresses[0])
    lan.inject(Cookie(b"somebody", asked.sender, asked.nonce, bytes(16)), there, sender.addresses[0])
    lan.run(SOON)
    assert sender.machine.computed == 0
    lan.inject(Cookie(b"receiver", asked.sender, asked.nonce, bytes(16)), there, sender.addresses[0])
    lan.run(SOON)
    assert sender.machine.computed == 1


def test_announcements_come_by_the_group_only_and_nothing_else_does() -> None:
    lan = Lan()
    sender, receiver = lan.join(ALICE, Role.SENDER), lan.join(BOB, Role.SENDER)
    lan.inject(Announce(b"byitself", Role.RECEIVER, PORT), EVE, sender.addresses[0])
    lan.multicast(Open(b"instance", lan.instance(receiver), b"thenonce"), EVE)
    before = len(lan.trace)
    lan.run(SOON)
    assert EVE not in [to for _, _, to, _ in lan.trace[before:]]


def test_one_machine_takes_few_places() -> None:
    lan = Lan()
    sender = lan.join(ALICE, Role.SENDER)
    for _ in range(100):
        lan.multicast(Announce(lan.random.randbytes(8), Role.RECEIVER, PORT), EVE)
    lan.run(SOON)
    assert len(sender.machine._neighbours) == MAX_PER_HOST


def test_announcements_in_a_victims_name_bring_it_no_more_than_the_rate() -> None:
    lan = Lan()
    lan.join(ALICE, Role.SENDER)
    lan.run(3)
    before = len(lan.trace)
    for n in range(5000):
        lan.call_at(
            lan.now + n / 1000,
            lambda: lan.multicast(
                Announce(lan.random.randbytes(8), Role.RECEIVER, PORT), Address("192.168.1.99", PORT)
            ),
        )
    lan.run(10)
    sent = [data for _, _, to, data in lan.trace[before:] if to == Address("192.168.1.99", PORT) and b"lan" in data]
    assert len([data for data in sent if isinstance(decode(data), Open)]) <= ANSWERS.burst + 10 * ANSWERS.per_second


@given(seed=st.integers(0, 1000), data=st.data())
@settings(max_examples=15)
def test_forged_replayed_and_changed_packets_neither_end_a_match_nor_get_in(seed: int, data: st.DataObject) -> None:
    lan = Lan(seed)
    sender, receiver = paired(lan)
    lan.forward(sender, b"genuine")
    lan.run(SOON)
    recorded = [(source, to, packet) for _, source, to, packet in lan.trace]
    for source, to, packet in recorded:
        damaged = bytearray(packet)
        damaged[data.draw(st.integers(0, len(packet) - 1))] ^= 1 << data.draw(st.integers(0, 7))
        for copy in (packet, bytes(damaged)):
            for target in (sender, receiver):
                lan.inject(copy, source, target.addresses[0])
                lan.inject(copy, EVE, target.addresses[0])
                lan.inject(copy, to, target.addresses[0])
    sealed = [decode(packet) for _, _, packet in recorded if isinstance(decode(packet), Sealed)]
    for each in sealed:
        assert isinstance(each, Sealed)
        for number in (0, 1, 2**64 - 1):
            for other, target in ((sender, receiver), (receiver, sender)):
                forged = Sealed(each.channel, number, bytes(len(each.ciphertext)))
                lan.inject(forged, other.addresses[0], target.addresses[0])
    lan.run(20)
    for peer in (sender, receiver):
        assert len(peer.of(Paired)) == 1
        assert not peer.of(PeerLeft)
    assert receiver.of(Message) == [Message(receiver.of(Paired)[0].peer_tag, b"genuine")]
    assert not sender.of(Message)
    lan.forward(receiver, b"still there")
    lan.run(SOON)
    assert sender.of(Message)[-1].payload == b"still there"


def test_a_run_replayed_to_a_peer_that_waits_matches_nobody() -> None:
    lan = Lan()
    sender, receiver = paired(lan)
    recorded = [(source, packet) for _, source, _, packet in lan.trace]
    lan.leave(sender)
    lan.run(1)
    before = receiver.events[:]
    assert isinstance(before[-1], PeerLeft)
    for source, packet in recorded:
        lan.inject(packet, source, receiver.addresses[0])
    lan.run(20)
    assert receiver.events == before


def test_a_spoilt_answer_keeps_two_apart_for_a_while_and_not_for_good() -> None:
    lan = Lan()
    sender = lan.join(ALICE, Role.SENDER)

    def spoil(source: Address, destination: Address) -> bool:
        """Eve is faster: before each SHARED comes one of hers, in the receiver's name."""
        if destination == sender.addresses[0] and source == Address("192.168.1.2", PORT):
            last = decode(lan.trace[-1][3])
            if isinstance(last, Shared):
                lan.peers[0].machine.handle_datagram(
                    encode(Shared(last.sender, last.to, last.nonce, last.role, last.share, bytes(32))), source, lan.now
                )
        return False

    lan.is_cut = spoil
    receiver = lan.join(BOB, Role.RECEIVER)
    lan.run(10)
    assert not sender.of(Paired)
    lan.is_cut = lambda _from, _to: False
    assert lan.run(61, lambda: bool(sender.of(Paired) and receiver.of(Paired)))


@pytest.mark.parametrize("kind", ["reflected", "neutral"])
def test_shares_that_would_give_a_key_without_the_names(kind: str) -> None:
    lan = Lan()
    victim = lan.join(BOB, Role.RECEIVER)
    eve = Eve(lan)
    cookie = eve.cookie(victim, b"instance", b"thenonce")
    assert cookie is not None
    share = b"B" + bytes(32) if kind == "reflected" else b"A" + (1).to_bytes(32, "little")
    for _ in range(3):
        forged = Share(b"instance", cookie.sender, b"thenonce", cookie.cookie, Role.SENDER, share)
        lan.inject(forged, EVE, victim.addresses[0])
    lan.inject(Confirm(b"instance", cookie.sender, b"thenonce", bytes(32)), EVE, victim.addresses[0])
    lan.run(5)
    assert victim.events == [Waiting(None)]


@given(packets=st.lists(st.binary(max_size=120), max_size=20), kinds=st.lists(st.integers(1, 8), max_size=20))
@settings(max_examples=30)
def test_any_bytes_at_all_change_nothing(packets: list[bytes], kinds: list[int]) -> None:
    lan = Lan()
    peer = lan.join(ALICE, Role.SENDER)
    us = lan.instance(peer)
    for packet in packets:
        lan.inject(packet, EVE, peer.addresses[0])
        for kind in kinds:
            lan.inject(b"lan\x01" + bytes([kind]) + packet[:8].ljust(8) + us + packet, EVE, peer.addresses[0])
    lan.run(5)
    assert peer.events == [Waiting(None)]
