"""The server machine alone: what it answers, what it keeps, what it refuses."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_rendezvous_messages import ADDRESSES, MESSAGES, REQUESTS

from p2p.core.address import Address
from p2p.core.prefix import prefix
from p2p.core.rate import Rate
from p2p.core.rendezvous.cookies import COOKIE_SLOT
from p2p.core.rendezvous.messages import (
    LEASE,
    NO_PEER,
    Cookie,
    Forward,
    Forwarded,
    Hello,
    Join,
    Joined,
    Leave,
    Left,
    Message,
    NamePair,
    Nameplate,
    Pairing,
    Refused,
    RefusedReason,
    SeatState,
    decode,
    encode,
    push_transaction,
)
from p2p.core.rendezvous.server import UNSUPPORTED, RendezvousServer, peer_tag
from p2p.core.rendezvous.server_events import Limits
from p2p.core.role import Role

A = Address("198.51.100.1", 1001)
B = Address("198.51.101.1", 1002)
C = Address("198.51.102.1", 1003)
ALICE = NamePair("alice", "bob")
BOB = NamePair("bob", "alice")
SENDER, RECEIVER = Role

Reply = tuple[int, Address, Message]


class Desk:
    """The machine with its clock and its outbox."""

    def __init__(self, limits: Limits | None = None) -> None:
        self.server = RendezvousServer(random.Random(7).randbytes, limits or Limits())
        self.now = 50.0
        self._count = 0

    def say(self, message: Message | bytes, source: Address, port_index: int = 0) -> list[Reply]:
        """The answer first, then what was pushed."""
        data = message if isinstance(message, bytes) else encode(message)
        self.server.handle_datagram(data, source, port_index, self.now)
        return sorted(self.heard(), key=lambda reply: reply[1] != source)

    def heard(self) -> list[Reply]:
        replies = []
        while (out := self.server.poll_transmit()) is not None:
            replies.append((out.port_index, out.destination, decode(out.data)))
        return replies

    def wait(self, seconds: float) -> list[Reply]:
        self.now += seconds
        self.server.handle_timeout(self.now)
        return self.heard()

    def cookie(self, source: Address, port_index: int = 0) -> bytes:
        ((_, _, reply),) = self.say(Hello(b"hellohel"), source, port_index)
        assert isinstance(reply, Cookie)
        return reply.cookie

    def join(self, client: str, source: Address, pairing: Pairing, role: Role, port_index: int = 0) -> list[Reply]:
        join = self.joining(client, self.cookie(source, port_index), pairing, role)
        replies = self.say(join, source, port_index)
        assert replies[0][1] == source
        assert getattr(replies[0][2], "transaction", None) == join.transaction
        return replies

    def join_tunnel(self, client: str, source: Address, connection: int) -> list[Reply]:
        return self.join(client, source, ALICE, SENDER, connection)

    def joining(self, client: str, cookie: bytes, pairing: Pairing, role: Role) -> Join:
        self._count += 1
        return Join(self._count.to_bytes(8, "big"), cookie, secret(client), role, pairing)


def secret(client: str) -> bytes:
    return client.encode().ljust(16, b".")


def tag(client: str) -> bytes:
    return peer_tag(secret(client))


def pushed(client: str) -> bytes:
    return push_transaction(secret(client))


def outcome(replies: list[Reply]) -> SeatState | RefusedReason:
    message = replies[0][2]
    if isinstance(message, Joined):
        return message.state
    assert isinstance(message, Refused)
    return message.reason


def test_a_cookie_tells_the_address_whichever_port_was_asked() -> None:
    for asked in (0, 1):
        ((port_index, destination, reply),) = Desk().say(Hello(b"12345678"), A, asked)
        assert isinstance(reply, Cookie)
        assert (port_index, destination) == (asked, A)
        assert (reply.transaction, reply.mapped) == (b"12345678", A)


def test_two_peers_meet() -> None:
    desk = Desk()
    assert desk.join("a", A, ALICE, SENDER)[0][2] == Joined(b"\0" * 7 + b"\1", SeatState.WAITING, LEASE, NO_PEER, A)
    answer, push = desk.join("b", B, BOB, RECEIVER)
    assert answer[2] == Joined(b"\0" * 7 + b"\2", SeatState.PAIRED, LEASE, tag("a"), B)
    assert push == (0, A, Joined(pushed("a"), SeatState.PAIRED, LEASE, tag("b"), A))


def test_a_nameplate_seats_one_of_each_role() -> None:
    desk = Desk()
    assert outcome(desk.join("a", A, Nameplate("42"), SENDER)) is SeatState.WAITING
    assert outcome(desk.join("b", B, Nameplate("42"), RECEIVER)) is SeatState.PAIRED
    assert outcome(desk.join("c", C, Nameplate("42"), RECEIVER)) is RefusedReason.TAKEN
    assert outcome(desk.join("c", C, Nameplate("43"), RECEIVER)) is SeatState.WAITING


def test_names_and_nameplates_do_not_mix() -> None:
    desk = Desk()
    desk.join("a", A, NamePair("1", "42"), SENDER)
    assert outcome(desk.join("b", B, Nameplate("42"), RECEIVER)) is SeatState.WAITING


def test_requests_are_idempotent() -> None:
    desk = Desk()
    desk.join("a", A, ALICE, SENDER)
    join = Join(b"again...", desk.cookie(B), secret("b"), RECEIVER, BOB)
    first = desk.say(join, B)
    assert len(first) == 2
    assert desk.say(join, B) == desk.say(join, B) == first[:1]
    assert len(desk.server) == 2
    leave = Leave(b"bye.....", secret("b"))
    assert desk.say(leave, B)[0] == (0, B, Left(b"bye....."))
    assert desk.say(leave, B) == [(0, B, Left(b"bye....."))]


def test_no_state_without_a_valid_cookie() -> None:
    desk = Desk()
    for cookie in (bytes(16), desk.cookie(B), desk.cookie(Address(A.host, A.port + 1))):
        ((_, _, reply),) = desk.say(Join(b"12345678", cookie, secret("a"), SENDER, ALICE), A)
        assert isinstance(reply, Cookie)
        assert reply.cookie == desk.cookie(A)
        assert reply.transaction == b"12345678"
    assert len(desk.server) == 0


@pytest.mark.parametrize(
    ("age", "is_good"), [(COOKIE_SLOT - 1, True), (COOKIE_SLOT + 1, True), (2 * COOKIE_SLOT + 1, False), (1e6, False)]
)
def test_a_cookie_lives_for_one_to_two_slots(age: float, is_good: bool) -> None:
    desk = Desk()
    cookie = desk.cookie(A)
    desk.wait(age)
    ((_, _, reply),) = desk.say(Join(b"12345678", cookie, secret("a"), SENDER, ALICE), A)
    assert isinstance(reply, Joined if is_good else Cookie)


def test_cookies_go_stale_one_after_the_other_and_not_all_at_once() -> None:
    desk = Desk()
    peers = [Address(f"198.51.{number}.7", 1000) for number in range(100)]
    joins = [desk.joining(f"p{number}", desk.cookie(peer), ALICE, SENDER) for number, peer in enumerate(peers)]
    stale_at = []
    for peer, join in zip(peers, joins, strict=True):
        after = [
            age for age in range(5, 130, 5)
            if desk.server._cookies.valid_until(join.cookie, peer, 0, desk.now + age) <= desk.now + age
        ]  # fmt: skip
        stale_at.append(after[0])
    assert min(stale_at) >= COOKIE_SLOT
    assert max(stale_at) <= 2 * COOKIE_SLOT + 5
    assert max(stale_at.count(age) for age in stale_at) < 30


RENEWALS = st.fixed_dictionaries({
    "client": st.sampled_from("ab"),
    "source": st.sampled_from([A, Address(A.host, A.port + 1), B]),
    "port_index": st.sampled_from([0, 1]),
    "cookie_of": st.sampled_from([A, B, None]),
    "pairing": st.sampled_from([ALICE, BOB, Nameplate("7-amber")]),
    "role": st.sampled_from(Role),
    "cut": st.sampled_from([0, 0, 0, 1]),
    "wait": st.sampled_from([0.0, 1.0, LEASE - 1.0, COOKIE_SLOT, 2 * COOKIE_SLOT]),
})  # fmt: skip


@given(st.lists(RENEWALS, max_size=30))
def test_a_renewal_that_is_not_decoded_is_answered_as_one_that_is(asked: list[dict[str, Any]]) -> None:
    quick, thorough = Desk(), Desk()
    thorough.server._renew = lambda *_: False  # type: ignore[method-assign]
    cookies = {None: bytes(16)} | {source: quick.cookie(source) for source in (A, B)}
    for source in (A, B):
        assert thorough.cookie(source) == cookies[source]
    for each in [each for each in asked for _ in range(2)]:
        join = quick.joining(each["client"], cookies[each["cookie_of"]], each["pairing"], each["role"])
        data = encode(join)[: -each["cut"] or None]
        heard = [
            (desk.wait(each["wait"]), desk.say(data, each["source"], each["port_index"])) for desk in (quick, thorough)
        ]
        assert heard[0] == heard[1]
        assert quick.server.counters == thorough.server.counters


def test_nearly_every_renewal_is_quick() -> None:
    desk = Desk()
    cookie = desk.cookie(A)
    desk.say(desk.joining("a", cookie, ALICE, SENDER), A)
    renewal = encode(desk.joining("a", cookie, ALICE, SENDER))
    assert desk.server._renew(renewal, A, 0, desk.now)
    assert not desk.server._renew(renewal, B, 0, desk.now)
    assert not desk.server._renew(renewal, A, 1, desk.now)
    assert not desk.server._renew(renewal[:-1], A, 0, desk.now)
    assert not desk.server._renew(renewal, A, 0, desk.now + 2 * COOKIE_SLOT)


def test_cookies_of_another_server_run_are_stale() -> None:
    old = Desk()
    new = Desk()
    new.server = RendezvousServer(random.Random(8).randbytes)
    ((_, _, reply),) = new.say(Join(b"12345678", old.cookie(A), secret("a"), SENDER, ALICE), A)
    assert isinstance(reply, Cookie)


def test_a_third_client_is_refused_and_evicts_nobody() -> None:
    desk = Desk()
    desk.join("a", A, ALICE, SENDER)
    refusal = desk.join("c", C, ALICE, SENDER)
    assert (outcome(refusal), len(refusal)) == (RefusedReason.TAKEN, 1)
    assert outcome(desk.join("b", B, BOB, RECEIVER)) is SeatState.PAIRED
    for role in Role:
        assert outcome(desk.join("c", C, BOB, role)) is RefusedReason.TAKEN
    assert desk.join("a", A, ALICE, SENDER)[0][2] == Joined(b"\0" * 7 + b"\6", SeatState.PAIRED, LEASE, tag("b"), A)


def test_the_holder_of_a_taken_address_is_still_another_client() -> None:
    desk = Desk()
    desk.join("a", A, ALICE, SENDER)
    assert outcome(desk.join("z", A, ALICE, SENDER)) is RefusedReason.TAKEN


@pytest.mark.parametrize("pairings", [(ALICE, BOB), (Nameplate("42"), Nameplate("42"))])
def test_both_are_told_of_the_same_role(pairings: tuple[Pairing, Pairing]) -> None:
    desk = Desk()
    desk.join("a", A, pairings[0], SENDER)
    refusal, push = desk.join("b", B, pairings[1], SENDER)
    assert refusal[2] == Refused(b"\0" * 7 + b"\2", RefusedReason.SAME_ROLE)
    assert push == (0, A, Joined(pushed("a"), SeatState.CONTESTED, LEASE, NO_PEER, A))
    assert len(desk.join("b", B, pairings[1], SENDER)) == 1  # pushed once, the next JOIN answers the same
    assert outcome(desk.join("a", A, pairings[0], SENDER)) is SeatState.CONTESTED
    assert outcome(desk.join("b", B, pairings[1], RECEIVER)) is SeatState.PAIRED
    desk.say(Leave(b"12345678", secret("b")), B)
    assert outcome(desk.join("a", A, pairings[0], SENDER)) is SeatState.WAITING


def test_a_new_address_moves_the_entry() -> None:
    desk = Desk()
    desk.join("a", A, ALICE, SENDER)
    assert desk.join("a", C, ALICE, SENDER, port_index=1)[0][2] == Joined(
        b"\0" * 7 + b"\2", SeatState.WAITING, LEASE, NO_PEER, C
    )
    _, push = desk.join("b", B, BOB, RECEIVER)
    assert push[:2] == (1, C)
    assert len(desk.server) == 2


def test_a_client_has_one_seat() -> None:
    desk = Desk()
    desk.join("a", A, ALICE, SENDER)
    desk.join("b", B, BOB, RECEIVER)
    answer, push = desk.join("b", B, NamePair("bob", "carol"), RECEIVER)
    assert outcome([answer]) is SeatState.WAITING
    assert push == (0, A, Joined(pushed("a"), SeatState.WAITING, LEASE, NO_PEER, A))
    assert len(desk.server) == 2
    assert outcome(desk.join("d", C, BOB, RECEIVER)) is SeatState.PAIRED


def test_entries_expire_and_the_friend_is_told() -> None:
    desk = Desk()
    desk.join("a", A, ALICE, SENDER)
    desk.wait(5)
    desk.join("b", B, BOB, RECEIVER)
    assert desk.server.poll_timeout() == 50.0 + LEASE
    assert desk.wait(LEASE - 5.001) == []
    assert desk.wait(0.001) == [(0, B, Joined(pushed("b"), SeatState.WAITING, LEASE, NO_PEER, B))]
    assert desk.wait(LEASE) == []
    assert len(desk.server) == 0
    assert desk.server.poll_timeout() is None
    assert outcome(desk.join("c", C, ALICE, RECEIVER)) is SeatState.WAITING


def test_joins_keep_a_seat() -> None:
    desk = Desk()
    for _ in range(20):
        assert outcome(desk.join("a", A, ALICE, SENDER)) is SeatState.WAITING
        desk.wait(LEASE - 1)
    assert len(desk.server) == 1


def test_leaving_frees_at_once_and_the_friend_is_pushed() -> None:
    desk = Desk()
    desk.join("a", A, ALICE, SENDER, port_index=1)
    desk.join("b", B, BOB, RECEIVER)
    assert desk.say(Leave(b"12345678", secret("b")), B) == [
        (0, B, Left(b"12345678")),
        (1, A, Joined(pushed("a"), SeatState.WAITING, LEASE, NO_PEER, A)),
    ]
    assert outcome(desk.join("b2", B, BOB, RECEIVER)) is SeatState.PAIRED


def test_forwarding() -> None:
    desk = Desk()
    assert desk.say(Forward(secret("a"), b"x"), A) == [(0, A, Refused(pushed("a"), RefusedReason.NOT_JOINED))]
    desk.join("a", A, ALICE, SENDER)
    assert desk.say(Forward(secret("a"), b"x"), A) == []
    desk.join("b", B, BOB, RECEIVER, port_index=1)
    assert desk.say(Forward(secret("a"), b"x"), A) == [(1, B, Forwarded(tag("a"), b"x"))]
    assert desk.say(Forward(secret("b"), b"y"), B, 1) == [(0, A, Forwarded(tag("b"), b"y"))]


def test_forwarding_is_capped_per_seat() -> None:
    limits = Limits(forwarded=Rate(burst=4000, per_second=1000))
    desk = Desk(limits)
    desk.join("a", A, ALICE, SENDER)
    desk.join("b", B, BOB, RECEIVER)
    assert sum(len(desk.say(Forward(secret("a"), bytes(1000)), A)) for _ in range(20)) == 4
    assert len(desk.say(Forward(secret("b"), bytes(1000)), B)) == 1, "each seat has its own"
    sent = 0
    for _ in range(1000):
        desk.now += 0.01
        sent += len(desk.say(Forward(secret("a"), bytes(100)), A))
    assert sent == pytest.approx(100, abs=2)  # 10 s at 1000 bytes a second
    assert desk.server.counters.throttled > 0


def test_the_caps_hold_and_free_again() -> None:
    desk = Desk(Limits(entries=5, entries_per_network=3))

    def join(number: int, network: int) -> SeatState | RefusedReason:
        pairing = NamePair(f"me{number}", "friend")
        return outcome(desk.join(str(number), Address(f"198.51.{network}.{number}", 5), pairing, SENDER))

    assert [join(number, 1) for number in range(4)] == [SeatState.WAITING] * 3 + [RefusedReason.NETWORK_FULL]
    assert [join(number, 2) for number in range(4, 7)] == [SeatState.WAITING] * 2 + [RefusedReason.SERVER_FULL]
    assert join(0, 1) is SeatState.WAITING, "who has a seat keeps it"
    desk.say(Leave(b"12345678", secret("1")), A)
    assert join(3, 1) is SeatState.WAITING
    desk.say(Leave(b"12345678", secret("4")), A)
    assert join(5, 1) is RefusedReason.NETWORK_FULL, "moving into a full network is no way around"
    desk.wait(LEASE)
    assert [join(number, 1) for number in range(3)] == [SeatState.WAITING] * 3


@pytest.mark.parametrize(
    ("host", "network"),
    [
        ("198.51.100.77", "198.51.100.0/24"),
        ("2001:db8:1:22ff::5", "2001:db8:1:2200::/56"),
        ("2001:db8:1:2201:ffff::5", "2001:db8:1:2200::/56"),
    ],
)
def test_prefixes(host: str, network: str) -> None:
    assert prefix(Address(host, 1)) == network


def test_another_version_is_told_ours_once() -> None:
    desk = Desk()
    assert desk.say(b"p2p\2\1..", A)[0][2] == decode(UNSUPPORTED)
    assert desk.say(b"p2p\2\1.", A) == [], "the answer would be longer"
    assert desk.say(b"p2p\2\x7f\2\2", A) == [], "two servers would answer each other for ever"


def test_what_servers_say_is_not_answered() -> None:
    desk = Desk()
    for message in (Cookie(bytes(8), bytes(16), A), Left(bytes(8)), Refused(bytes(8), RefusedReason.TAKEN)):
        assert desk.say(message, A) == []
    assert desk.server.counters.malformed == 3


def test_bad_names_are_refused_in_words() -> None:
    join = encode(Join(b"12345678", bytes(16), secret("a"), SENDER, NamePair("bob", "rob")))
    ((_, _, reply),) = Desk().say(join.replace(b"rob", b"bob"), A)
    assert reply == Refused(b"12345678", RefusedReason.BAD_NAMES)


STEPS = st.tuples(
    st.one_of(MESSAGES.map(encode), st.binary(max_size=120), st.binary(max_size=120).map(lambda tail: b"p2p" + tail)),
    ADDRESSES,
    st.integers(0, 1),
    st.sampled_from([0.0, 0.1, 4.0, 61.0]),
)


@given(st.lists(STEPS, max_size=12))
@settings(max_examples=100)
def test_no_bytes_are_answered_with_more_bytes(steps: list[tuple[bytes, Address, int, float]]) -> None:
    desk = Desk()
    for data, source, port_index, pause in steps:
        desk.now += pause
        desk.server.handle_datagram(data, source, port_index, desk.now)
        while (out := desk.server.poll_transmit()) is not None:
            assert out.destination == source
            assert len(out.data) <= len(data)
        assert len(desk.server) == 0, "without a cookie nothing is kept"


CLIENTS = [bytes([number]) * 16 for number in range(4)]
WORDS = st.sampled_from([NamePair("a", "b"), NamePair("b", "a"), NamePair("a", "c"), Nameplate("1"), Nameplate("2")])
ASKS = st.one_of(
    st.builds(Join, st.just(b"transact"), st.just(bytes(16)), st.sampled_from(CLIENTS), st.sampled_from(Role), WORDS),
    st.builds(Leave, st.just(b"transact"), st.sampled_from(CLIENTS)),
    st.builds(Forward, st.sampled_from(CLIENTS), st.binary(min_size=1, max_size=64)),
    REQUESTS,
)
HOSTS = ["10.0.0.1", "10.0.0.2", "10.0.1.1", "2001:db8::1", "2001:db8::2"]


@given(
    st.lists(st.tuples(ASKS, st.sampled_from(HOSTS), st.sampled_from([0.0, 1.0, 7.0, 16.0])), max_size=40),
    st.integers(1, 5),
)
@settings(max_examples=100)
def test_invariants_over_any_history(steps: list[tuple[Message, str, float]], entries: int) -> None:
    """Replies to who asked are no longer than the request, the rest is pushed; caps hold; all is freed in the end."""
    desk = Desk(Limits(entries=entries, entries_per_network=2))
    for message, host, pause in steps:
        source = Address(host, 1000)
        desk.wait(pause)
        if isinstance(message, Join):
            message = Join(message.transaction, desk.cookie(source), message.client, message.role, message.pairing)
        data = encode(message)
        desk.server.handle_datagram(data, source, 0, desk.now)
        while (out := desk.server.poll_transmit()) is not None:
            reply = decode(out.data)
            asked = getattr(message, "transaction", None)
            is_push = isinstance(reply, Forwarded) or (isinstance(reply, Joined) and reply.transaction != asked)
            assert is_push or (out.destination == source and len(out.data) <= len(data))
        assert len(desk.server) <= entries
    desk.wait(LEASE)
    assert len(desk.server) == 0
    seats = vars(desk.server)["_seats"]
    assert not any(vars(seats).values()), "nothing is left behind in any index"
