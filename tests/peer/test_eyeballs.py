"""Which address of the server is used: the first that answers; time is an argument."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2p.core.address import Address
from p2p.core.peer.eyeballs import (
    ATTEMPT_DELAY,
    GIVE_UP,
    MAX_SERVERS,
    REFLEXIVE_TRIES,
    Eyeballs,
    interleave,
)
from p2p.core.rendezvous.messages import Cookie, Hello, decode, encode

V6, V4 = Address("2001:db8::1", 8080), Address("192.0.2.1", 8080)
SEEN = {V6: Address("2001:db8::7", 7), V4: Address("198.51.100.7", 7)}


class World:
    """Runs to `end` with servers that answer after `delays` seconds, or never; notes what was asked when."""

    def __init__(self, servers: list[Address]) -> None:
        self.eyeballs = Eyeballs(servers, random.Random(1).randbytes)
        self.asked: list[tuple[float, Address]] = []
        self.now = 0.0
        self.eyeballs.start(0.0)

    def run(self, end: float, delays: dict[Address, float]) -> None:
        coming: list[tuple[float, Address, bytes]] = []
        while True:
            while (transmit := self.eyeballs.poll_transmit()) is not None:
                self.asked.append((self.now, transmit.destination))
                hello = decode(bytes(transmit.buffers[0]))
                assert isinstance(hello, Hello)
                if transmit.destination in delays:
                    at = self.now + delays[transmit.destination]
                    coming.append((at, transmit.destination, hello.transaction))
            timeout = self.eyeballs.poll_timeout()
            steps = [at for at, _, _ in coming] + ([timeout] if timeout is not None else [])
            if not steps or min(steps) > end:
                return
            self.now = min(steps)
            for answer in [each for each in coming if each[0] <= self.now]:
                coming.remove(answer)
                _, source, transaction = answer
                cookie = Cookie(transaction, bytes(16), SEEN[source])
                self.eyeballs.handle_datagram(encode(cookie), source, self.now)
            if timeout is not None and timeout <= self.now:
                self.eyeballs.handle_timeout(self.now)


def test_one_address_is_used_without_a_question() -> None:
    eyeballs = Eyeballs([V4], random.Random(1).randbytes)
    eyeballs.start(0.0)
    assert eyeballs.chosen == V4
    assert eyeballs.poll_transmit() is None
    assert eyeballs.poll_timeout() is None


def test_ipv6_wins_where_it_answers_and_ipv4_tells_its_reflexive_address() -> None:
    world = World([V6, V4])
    world.run(10.0, {V6: 0.1, V4: 0.01})
    assert world.eyeballs.chosen == V6
    assert world.asked == [(0.0, V6), (0.1, V4)]
    assert world.eyeballs.reflexive == SEEN


def test_a_black_hole_costs_the_head_start_and_no_more() -> None:
    world = World([V6, V4])
    world.run(ATTEMPT_DELAY + 0.02, {V4: 0.02})
    assert world.eyeballs.chosen == V4
    world.run(60.0, {})
    assert sum(server == V6 for _, server in world.asked) == REFLEXIVE_TRIES
    assert world.eyeballs.poll_timeout() is None


def test_a_slow_first_may_still_be_overtaken_and_says_its_part_later() -> None:
    world = World([V6, V4])
    world.run(10.0, {V6: 0.4, V4: 0.05})
    assert world.eyeballs.chosen == V4
    assert world.eyeballs.reflexive == SEEN


def test_where_nobody_answers_the_first_is_as_good_as_any() -> None:
    world = World([V6, V4])
    world.run(GIVE_UP - 0.01, {})
    assert world.eyeballs.chosen is None
    world.run(GIVE_UP, {})
    assert world.eyeballs.chosen == V6


def test_a_lost_question_is_asked_again() -> None:
    world = World([V6, V4])
    world.run(0.6, {})
    assert [server for _, server in world.asked] == [V6, V4, V6]


@pytest.mark.parametrize("forge", ["source", "transaction", "kind"])
def test_what_answers_no_question_chooses_nothing(forge: str) -> None:
    eyeballs = Eyeballs([V6, V4], random.Random(1).randbytes)
    eyeballs.start(0.0)
    transmit = eyeballs.poll_transmit()
    assert transmit is not None
    hello = decode(bytes(transmit.buffers[0]))
    assert isinstance(hello, Hello)
    transaction = bytes(8) if forge == "transaction" else hello.transaction
    data = encode(hello if forge == "kind" else Cookie(transaction, bytes(16), SEEN[V6]))
    assert not eyeballs.handle_datagram(data, V4 if forge == "source" else V6, 0.1)
    assert eyeballs.chosen is None


@given(st.binary(max_size=100))
def test_arbitrary_bytes_choose_nothing(data: bytes) -> None:
    eyeballs = Eyeballs([V6, V4], random.Random(1).randbytes)
    eyeballs.start(0.0)
    assert not eyeballs.handle_datagram(data, V6, 0.1)


addresses = st.builds(Address, st.ip_addresses().map(str), st.just(8080))


@given(st.lists(addresses, max_size=12))
def test_versions_take_turns(found: list[Address]) -> None:
    order = interleave(found)
    assert set(order) <= set(found)
    assert len(order) == min(len(found), MAX_SERVERS)
    versions = [each.version for each in found]
    both = min(versions.count(4), versions.count(6))
    assert [each.version for each in order[: 2 * both]] == [6, 4, 6, 4][: 2 * both]
