"""The relay machine: who may send to whom, how much, and how the total is shared."""

from __future__ import annotations

import random
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_rendezvous_server import ALICE, BOB, RECEIVER, SENDER, A, B, C, Desk, pushed, secret

from p2p.core.address import Address
from p2p.core.rendezvous.messages import (
    LEASE,
    Joined,
    Leave,
    NamePair,
    Refused,
    RefusedReason,
    Relay,
    Relayed,
    RelayState,
    encode,
)
from p2p.core.rendezvous.relay import BURST, CONSENT, HEADERS, IDLE, Passage, RelayLimits
from p2p.core.rendezvous.seats import FIRST_CONNECTION
from p2p.core.rendezvous.server import RendezvousServer
from p2p.core.rendezvous.server_events import RelayClosed, RelayOpened

MBIT = 125_000  # bytes a second
TUNNEL_1, TUNNEL_2 = FIRST_CONNECTION, FIRST_CONNECTION + 1
NO_LIMITS = RelayLimits(0, 0, 0)


class RelayDesk(Desk):
    """Two peers with their seats: a at A, b at B."""

    def __init__(self, relay: RelayLimits | None = NO_LIMITS, *, seated: bool = True) -> None:
        super().__init__()
        self.server = RendezvousServer(random.Random(7).randbytes, relay=relay)
        if seated:
            self.join("a", A, ALICE, SENDER)
            self.join("b", B, BOB, RECEIVER, port_index=1)

    def ask(self, client: str, source: Address = A) -> RelayState:
        ((_, to, answer), *_) = self.say(Relay(b"transact", secret(client)), source)
        assert to == source
        assert isinstance(answer, Relayed)
        assert answer.transaction == b"transact"
        return answer.state

    def open(self) -> None:
        self.ask("a", A)
        assert self.ask("b", B) is RelayState.OPEN

    def burst(self, source: Address, length: int = 1000, segment_size: int = 0, port_index: int = 0) -> Passage | None:
        return self.server.handle_burst(source, port_index, length, segment_size, self.now)

    def events(self) -> list[object]:
        found = []
        while (event := self.server.poll_event()) is not None:
            found.append(event)
        return found


def test_both_have_to_ask_and_the_first_is_told() -> None:
    desk = RelayDesk()
    assert desk.burst(A) is desk.burst(B) is None
    assert desk.ask("a", A) is RelayState.ALONE
    assert desk.burst(A) is desk.burst(B) is None
    answer, push = desk.say(Relay(b"transact", secret("b")), B)
    assert answer == (0, B, Relayed(b"transact", RelayState.OPEN, 0, 0))
    assert push == (0, A, Relayed(pushed("a"), RelayState.OPEN, 0, 0))
    assert desk.say(Relay(b"transact", secret("b")), B) == [answer], "told once"
    assert desk.burst(A) == Passage(B, 1, 1000), "from where his last JOIN came to"
    assert desk.burst(B, 5000, 1200) == Passage(A, 0, 5000)


def test_only_the_present_addresses_of_the_two_may_send() -> None:
    desk = RelayDesk()
    desk.open()
    assert desk.burst(C) is desk.burst(Address(A.host, A.port + 1)) is None
    assert desk.burst(A, port_index=TUNNEL_1) is None, "a TCP connection from the same address is another source"
    assert desk.server.relay_counters.relay_unwanted == 3
    assert desk.heard() == [], "nothing is answered"


def test_the_answer_names_what_may_be_carried() -> None:
    desk = RelayDesk(RelayLimits(pair_rate=25_000_001, pair_bytes=10_000, total_rate=0))
    desk.open()
    desk.burst(A, 4000, 1000)
    ((_, _, answer),) = desk.say(Relay(b"transact", secret("a")), A)
    assert answer == Relayed(b"transact", RelayState.OPEN, 25_001, 10_000 - 4000 - 4 * HEADERS)


def test_a_server_without_a_relay_says_so() -> None:
    desk = RelayDesk(None)
    assert desk.ask("a", A) is desk.ask("b", B) is RelayState.NONE
    assert desk.burst(A) is None


def test_who_has_no_seat_is_told_to_join() -> None:
    desk = RelayDesk()
    refused = Refused(pushed("z"), RefusedReason.NOT_JOINED)
    assert desk.say(Relay(b"transact", secret("z")), C) == [(0, C, refused)]


def test_the_relay_follows_a_peer_that_moves() -> None:
    desk = RelayDesk()
    desk.open()
    desk.join("a", C, ALICE, SENDER, port_index=1)
    assert desk.burst(A) is None
    assert desk.burst(C) == Passage(B, 1, 1000)
    assert desk.burst(B) == Passage(C, 1, 1000)
    desk.join_tunnel("a", A, TUNNEL_1)
    assert desk.burst(C) is desk.burst(A) is None
    assert desk.burst(A, port_index=TUNNEL_1) == Passage(B, 1, 1000)
    assert desk.burst(B) == Passage(A, TUNNEL_1, 1000)
    desk.join_tunnel("a", A, TUNNEL_2)
    assert desk.burst(A, port_index=TUNNEL_1) is None
    assert desk.burst(B) == Passage(A, TUNNEL_2, 1000)


def test_it_ends_with_either_seat() -> None:
    for end in ("leave", "lease", "another pairing"):
        desk = RelayDesk()
        desk.open()
        desk.burst(A)
        if end == "leave":
            desk.say(Leave(b"transact", secret("b")), B)
        elif end == "lease":
            desk.wait(LEASE - 1)
            desk.join("a", A, ALICE, SENDER)
            desk.wait(1)
        else:
            desk.join("b", B, NamePair("bob", "carol"), RECEIVER)
        assert desk.burst(A) is desk.burst(B) is None
        opened, closed = [each for each in desk.events() if isinstance(each, RelayOpened | RelayClosed)]
        assert opened == RelayOpened(BOB, RECEIVER, B)
        assert isinstance(closed, RelayClosed)
        assert (closed.carried, closed.is_used_up) == (1000 + HEADERS, False)
        desk.join("b", B, BOB, RECEIVER)
        assert desk.burst(A) is None
        desk.open()
        assert desk.burst(A) is not None


def test_it_ends_when_one_asks_no_more() -> None:
    desk = RelayDesk()
    desk.open()
    for _ in range(7):
        desk.wait(CONSENT / 6)
        desk.join("a", A, ALICE, SENDER)
        desk.join("b", B, BOB, RECEIVER)
        desk.ask("a", A)
    assert desk.burst(A) is desk.burst(B) is None
    assert [type(event) for event in desk.events()].count(RelayClosed) == 1
    assert desk.ask("a", A) is RelayState.ALONE
    assert desk.ask("b", B) is RelayState.OPEN


def test_a_pair_has_its_volume_and_both_are_told_when_it_is_used_up() -> None:
    desk = RelayDesk(RelayLimits(pair_rate=0, pair_bytes=10_000, total_rate=0))
    desk.open()
    assert all(desk.burst(A, 1000) for _ in range(9))
    assert desk.heard() == []
    assert desk.burst(B, 1000) is not None
    used_up = {(to, type(what), getattr(what, "state", None)) for _, to, what in desk.heard()}
    assert used_up == {(A, Relayed, RelayState.USED_UP), (B, Relayed, RelayState.USED_UP)}
    assert desk.burst(A) is desk.burst(B) is None
    assert desk.ask("a", A) is desk.ask("b", B) is RelayState.USED_UP
    assert isinstance(desk.events()[-1], RelayClosed)


def test_consent_ends_on_time_whenever_the_machine_looks_at_its_clock() -> None:
    desk = RelayDesk()
    desk.open()
    desk.now += CONSENT - 0.1
    assert desk.burst(A) is not None
    desk.now += 0.1
    assert desk.burst(A) is None


def test_another_run_of_the_friend_has_a_volume_of_its_own() -> None:
    desk = RelayDesk(RelayLimits(pair_rate=0, pair_bytes=1000, total_rate=0))
    desk.open()
    desk.burst(A)
    desk.heard()
    assert desk.ask("a", A) is RelayState.USED_UP
    desk.say(Leave(b"transact", secret("b")), B)
    assert desk.ask("a", A) is RelayState.ALONE
    desk.join("b2", B, BOB, RECEIVER)
    desk.heard()
    assert desk.ask("b2", B) is RelayState.OPEN
    assert desk.burst(A) is not None


def test_a_pair_has_its_rate_and_what_is_above_is_cut_off() -> None:
    desk = RelayDesk(RelayLimits(pair_rate=80 * MBIT, pair_bytes=0, total_rate=0))
    desk.open()
    carried, start = 0, desk.now
    for _ in range(1000):
        desk.now += 0.002
        passage = desk.burst(A, 60_000, 1200)
        if passage is not None:
            assert passage.length % 1200 == 0
            carried += passage.length
    wire = carried * (1200 + HEADERS) / 1200
    assert wire == pytest.approx(80 * MBIT * (desk.now - start) + BURST, rel=0.01)
    assert desk.server.relay_counters.relay_dropped_bytes == 60_000_000 - carried


def test_tiny_datagrams_are_not_free() -> None:
    desk = RelayDesk(RelayLimits(pair_rate=80 * MBIT, pair_bytes=0, total_rate=0))
    desk.open()
    datagrams = 0
    for _ in range(500):
        desk.now += 0.001
        passage = desk.burst(A, 64 * 60, 60)
        datagrams += passage.length // 60 if passage else 0
    assert datagrams <= (80 * MBIT * 0.5 + BURST) / (60 + HEADERS)


class Crowd(RelayDesk):
    """Many pairs at once, each offering so many bytes a second in bursts."""

    def __init__(self, pairs: int, relay: RelayLimits) -> None:
        super().__init__(relay, seated=False)
        self.sources = [Address(f"198.51.{number // 100}.{number % 100}", 1) for number in range(pairs)]
        for number, source in enumerate(self.sources):
            self.open_pair(number, source)

    def open_pair(self, number: int, source: Address) -> RelayState:
        self.heard()
        me, friend, other = f"a{number}", f"b{number}", Address(f"203.0.{number // 100}.{number % 100}", 1)
        self.join(me, source, NamePair(me, friend), SENDER)
        self.join(friend, other, NamePair(friend, me), RECEIVER)
        self.ask(me, source)
        return self.ask(friend, other)

    def carry(self, offered: list[float], seconds: float, seed: int = 1) -> list[float]:
        """What each gets, in bytes a second on the wire."""
        rng, got = random.Random(seed), Counter[int]()
        debts, step = [0.0] * len(offered), 0.001
        end = self.now + seconds
        while self.now < end:
            self.now += step
            order = list(range(len(offered)))
            rng.shuffle(order)
            for number in order:
                debts[number] += offered[number] * step
                count = min(53, int(debts[number] / 1228))
                if count:
                    debts[number] -= count * 1228
                    passage = self.burst(self.sources[number], count * 1200, 1200)
                    got[number] += (passage.length // 1200 if passage else 0) * 1228
        return [got[number] / seconds for number in range(len(offered))]


def test_a_hundred_greedy_pairs_get_equal_parts_of_the_total() -> None:
    crowd = Crowd(100, RelayLimits(pair_rate=0, pair_bytes=0, total_rate=1000 * MBIT))
    crowd.carry([40 * MBIT] * 100, 1.0)  # what had been saved up
    got = crowd.carry([40 * MBIT] * 100, 1.0)
    assert sum(got) == pytest.approx(1000 * MBIT, rel=0.02)
    assert sum(got) ** 2 / (100 * sum(each**2 for each in got)) > 0.999


def test_the_greedy_do_not_starve_the_small_and_what_is_left_is_shared() -> None:
    """Max-min: 1, 5 and 20 Mbit/s are below the fair share and lose nothing; five greedy ones share the other 74."""
    crowd = Crowd(8, RelayLimits(pair_rate=0, pair_bytes=0, total_rate=100 * MBIT))
    offered = [mbit * MBIT for mbit in (1.0, 5.0, 10.0, 200.0, 200.0, 200.0, 200.0, 30.0)]
    crowd.carry(offered, 1.0)
    got = [each / MBIT for each in crowd.carry(offered, 3.0)]
    assert got == pytest.approx([1, 5, 10, 16.8, 16.8, 16.8, 16.8, 16.8], rel=0.05)


def test_one_alone_gets_all_that_its_own_rate_allows() -> None:
    crowd = Crowd(3, RelayLimits(pair_rate=60 * MBIT, pair_bytes=0, total_rate=100 * MBIT))
    crowd.carry([200 * MBIT, 0, 0], 1.0)
    assert crowd.carry([200 * MBIT, 0, 0], 1.0)[0] == pytest.approx(60 * MBIT, rel=0.03)
    got = crowd.carry([200 * MBIT, 200 * MBIT, 10 * MBIT], 2.0)
    assert got == pytest.approx([45 * MBIT + BURST / 4, 45 * MBIT + BURST / 4, 10 * MBIT], rel=0.06)


@given(
    st.lists(st.integers(0, 60), min_size=1, max_size=12),
    st.integers(5, 200),
    st.integers(5, 100),
    st.integers(0, 2**32),
)
@settings(max_examples=20, deadline=None)
def test_shares_are_max_min_fair_whatever_is_offered(offers: list[int], total: int, rate: int, seed: int) -> None:
    crowd = Crowd(len(offers), RelayLimits(pair_rate=rate * MBIT, pair_bytes=0, total_rate=total * MBIT))
    offered = [offer * MBIT for offer in offers]
    crowd.carry(offered, 1.5, seed)
    got = crowd.carry(offered, 1.5, seed)
    assert sum(got) <= 1.05 * total * MBIT + len(offers) * BURST
    fair = fair_share([min(offer, rate) for offer in offers], total)
    for offer, each in zip(offers, got, strict=True):
        assert each >= 0.9 * min(offer, rate, fair) * MBIT - 20_000
        assert each <= 1.1 * min(offer, rate, fair) * MBIT + BURST


def fair_share(wants: list[int], total: float) -> float:
    """By bisection, unlike the machine."""
    low, high = 0.0, float(total)
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if sum(min(want, middle) for want in wants) <= total else (low, middle)
    return low


def test_a_pair_that_rests_gives_way_when_all_places_are_taken() -> None:
    crowd = Crowd(2, RelayLimits(0, 0, 0, pairs=2))
    late = Address("198.51.9.9", 1)
    for seconds in range(0, int(IDLE), 5):
        crowd.wait(5)
        assert [crowd.open_pair(number, crowd.sources[number]) for number in range(2)] == [RelayState.OPEN] * 2
        assert crowd.burst(crowd.sources[0]) is not None
        assert crowd.open_pair(2, late) is (RelayState.OPEN if seconds + 5 >= IDLE else RelayState.NONE)
    assert [crowd.burst(source) is not None for source in (*crowd.sources, late)] == [True, False, True]
    assert crowd.open_pair(1, crowd.sources[1]) is RelayState.NONE


def test_who_has_two_seats_at_one_address_relays_for_the_later_one() -> None:
    desk = RelayDesk()
    desk.open()
    desk.join("a2", A, NamePair("alice", "carol"), SENDER)
    desk.join("c", C, NamePair("carol", "alice"), RECEIVER)
    desk.ask("a2", A)
    desk.ask("c", C)
    assert desk.burst(A) == Passage(C, 0, 1000)
    desk.say(Leave(b"transact", secret("a")), A)
    assert desk.burst(A) == Passage(C, 0, 1000)


def test_a_cookie_of_a_connection_is_of_no_use_elsewhere() -> None:
    """Two machines behind one NAT may have one address, one in TCP and the other in UDP."""
    desk = Desk()
    assert isinstance(desk.join_tunnel("a", A, TUNNEL_1)[0][2], Joined)
    cookie = desk.cookie(A, TUNNEL_1)
    assert desk.server.has_seat(TUNNEL_1)
    for port_index in (0, 1, TUNNEL_2):
        ((_, _, answer),) = desk.say(desk.joining("z", cookie, BOB, RECEIVER), A, port_index)
        assert not isinstance(answer, Joined)
    desk.say(Leave(b"transact", secret("a")), A)
    assert not desk.server.has_seat(TUNNEL_1)


ACTIONS = st.one_of(
    st.tuples(st.just("join"), st.integers(0, 3), st.integers(0, 5)),
    st.tuples(st.just("ask"), st.integers(0, 3), st.just(0)),
    st.tuples(st.just("leave"), st.integers(0, 3), st.just(0)),
    st.tuples(st.just("burst"), st.integers(0, 5), st.integers(1, 60)),
    st.tuples(st.just("wait"), st.sampled_from([0.1, 1.0, 7.0, 16.0]), st.just(0)),
)
PLACES = [(Address(f"198.51.100.{number}", 1), number % 2) for number in range(4)]
PLACES += [(Address("198.51.100.1", 1), TUNNEL_1), (Address("198.51.100.9", 1), TUNNEL_2)]
PAIRINGS = [NamePair("a", "b"), NamePair("b", "a"), NamePair("c", "d"), NamePair("d", "c")]


@given(st.lists(ACTIONS, max_size=60))
@settings(max_examples=200, deadline=None)
def test_nothing_ever_goes_to_who_did_not_ask_and_nothing_is_left_behind(
    actions: list[tuple[str, float, int]],
) -> None:
    desk = RelayDesk(RelayLimits(20 * MBIT, 200_000, 30 * MBIT, pairs=1), seated=False)
    where: dict[int, tuple[Address, int]] = {}
    asked: dict[int, float] = {}
    for what, first, second in actions:
        number = int(first)
        place = PLACES[int(second) if what == "join" else number % len(PLACES)]
        if what == "join":
            cookie = desk.cookie(*place)
            desk.say(desk.joining(str(number), cookie, PAIRINGS[number], SENDER if number % 2 else RECEIVER), *place)
            where[number] = place
        elif what == "ask":
            desk.say(Relay(b"transact", secret(str(number))), *place)
            if number in where:
                asked[number] = desk.now
        elif what == "leave":
            desk.say(Leave(b"transact", secret(str(number))), *place)
            where.pop(number, None)
            asked.pop(number, None)
        elif what == "burst":
            passage = desk.server.handle_burst(*place, second * 1000, 1000, desk.now)
            if passage is not None:
                senders = [each for each, at in where.items() if (at == place if at[1] > 1 else at[0] == place[0])]
                allowed = [
                    each
                    for each in senders
                    if where.get(each ^ 1) == passage[:2]
                    and min(asked.get(each, -1e9), asked.get(each ^ 1, -1e9)) > desk.now - CONSENT
                ]
                assert allowed
                assert 0 < passage.length <= second * 1000
        else:
            desk.wait(first)
    desk.wait(LEASE)
    desk.wait(CONSENT)
    table = vars(desk.server)["_relay"]
    for name in ("_sides", "_by_source", "_open", "_hungry", "changes"):
        assert not vars(table)[name], name
    assert desk.server.poll_timeout() is None


def test_no_answer_is_longer_than_relay() -> None:
    longest = encode(Relayed(b"transact", RelayState.USED_UP, 2**32 - 1, 2**64 - 1))
    assert len(longest) <= len(encode(Relay(b"transact", secret("a"))))
