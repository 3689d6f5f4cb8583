"""The session against those who guess, replay, reflect, meddle and stand in between."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from session_link import CODE, CONTEXT, Link, assert_agreed, make

from p2p.core.pake import InvalidShare
from p2p.core.role import Role
from p2p.core.session.events import Established, Rejected, WrongCode
from p2p.core.session.exchange import CodeExchange, OpenExchange
from p2p.core.session.half import CODE_TRIES, OPEN_TRIES
from p2p.core.session.keys import SealedSignals, SessionKeys, transcript
from p2p.core.session.messages import Confirm, Hello, Mode, Reason, Reply, Type, decode_message
from p2p.core.session.session import Session

SENDER, RECEIVER = Role.SENDER, Role.RECEIVER


@settings(max_examples=25, deadline=None)
@given(
    st.sampled_from([CODE, None]),
    st.sampled_from([Type.HELLO, Type.REPLY, Type.CONFIRM, Type.READY]),
    st.integers(0, 10_000),
)
def test_a_changed_bit_establishes_nothing_by_itself(secret: bytes | None, kind: Type, position: int) -> None:
    def flip(_role: Role, data: bytes) -> list[bytes]:
        if data[1] != kind:
            return [data]
        changed = bytearray(data)
        changed[position % len(data)] ^= 1 << position // len(data) % 8
        return [bytes(changed)]

    network = Link(make(SENDER, secret), make(RECEIVER, secret), meddler=flip)
    network.begin()
    network.run(30)
    sides = {role: any(isinstance(event, Established) for event in events) for role, events in network.events.items()}
    assert not sides[SENDER]
    assert sides[RECEIVER] == (kind is Type.READY)  # its own last word is lost; nothing else was changed


@pytest.mark.parametrize("secret", [CODE, None])
def test_reflected_messages_are_ignored(secret: bytes | None) -> None:
    mirrored = Link(make(SENDER, secret), make(RECEIVER, secret))

    def mirror(role: Role, data: bytes) -> list[bytes]:
        mirrored.sessions[role].handle_message(data, mirrored.now)
        return [data]

    mirrored.meddler = mirror
    mirrored.begin()
    mirrored.run()
    assert_agreed(mirrored)


@settings(max_examples=10, deadline=None)
@given(st.lists(st.binary(max_size=120) | st.binary(max_size=120).map(lambda tail: b"\x01" + tail), max_size=20))
def test_arbitrary_messages_do_nothing(noise: list[bytes]) -> None:
    network = Link(make(SENDER), make(RECEIVER), meddler=lambda _role, data: [*noise, data])
    network.begin()
    network.run()
    assert_agreed(network)


def test_replayed_runs_are_ignored() -> None:
    """All messages of an earlier run between the same two, with the same code, again."""
    first = Link(make(SENDER, seed=1), make(RECEIVER, seed=1))
    first.begin()
    first.run()
    sender, receiver = make(SENDER, seed=2), make(RECEIVER, seed=2)
    sender.begin(b"", 0.0)
    receiver.begin(b"", 0.0)
    for role, data in first.seen:
        (receiver if role is SENDER else sender).handle_message(data, 0.0)
    assert sender.poll_event() is None
    # The old CONFIRM names another receiver nonce, so only the old HELLO had an effect: one run is open.
    assert receiver.poll_event() is None
    assert receiver.tries == 1


def greet(receiver: Session, secret: bytes | None, seed: int) -> int:
    """An attacker greets, and reads from the REPLY whether its guess was right. Returns how many replies it got."""
    attacker = make(SENDER, secret, seed=seed)
    attacker.begin(b"", 0.0)
    hello = attacker.poll_message()
    assert hello is not None
    receiver.handle_message(hello, 0.0)
    replies = 0
    while (message := receiver.poll_message()) is not None:
        replies += message[1] == Type.REPLY
    return replies


@pytest.mark.parametrize("rejoin", [False, True])
def test_a_false_sender_has_three_guesses(rejoin: bool) -> None:
    receiver = make(RECEIVER)
    receiver.begin(b"", 0.0)
    replies = 0
    for number in range(10):
        replies += greet(receiver, b"guess-%d" % number, 100 + number)
        if rejoin:
            receiver.begin(b"", 0.0)
    assert replies == CODE_TRIES
    assert receiver.poll_event() == WrongCode(CODE_TRIES, CODE_TRIES, True)
    assert receiver.poll_event() is None


def test_a_wrong_confirm_is_counted_and_told() -> None:
    def spoil(_role: Role, data: bytes) -> list[bytes]:
        return [data[:34] + bytes(32) + data[66:]] if data[1] == Type.CONFIRM else [data]

    network = Link(make(SENDER), make(RECEIVER), meddler=spoil)
    network.begin()
    network.run()
    assert network.events == {
        SENDER: [Rejected(Reason.WRONG_CODE, 1, CODE_TRIES)],
        RECEIVER: [WrongCode(1, CODE_TRIES, False)],
    }


def test_a_false_receiver_has_one_guess_a_run() -> None:
    sender = make(SENDER)
    sender.begin(b"", 0.0)
    hello = sender.poll_message()
    assert hello is not None
    for number in range(10):
        guesser = make(RECEIVER, CODE if number else b"wrong-guess", seed=number)
        guesser.begin(b"", 0.0)
        guesser.handle_message(hello, 0.0)
        reply = guesser.poll_message()
        assert reply is not None
        sender.handle_message(reply, 0.0)
    assert sender.poll_event() == WrongCode(1, CODE_TRIES, False)
    assert sender.poll_event() is None
    assert sender.tries == 1


NOT_ELEMENTS = {
    "zero": (1).to_bytes(32, "little"),
    "zero with a sign": (1 | 1 << 255).to_bytes(32, "little"),
    "zero, not reduced": (2**255 - 18).to_bytes(32, "little"),
    "order 2": (2**255 - 20).to_bytes(32, "little"),
    "order 4": bytes(32),
    "not on the curve": (2).to_bytes(32, "little"),
    "wrong subgroup": (3).to_bytes(32, "little"),
    "not reduced": (2**255 - 1).to_bytes(32, "little"),
}


@pytest.mark.parametrize("element", NOT_ELEMENTS.values(), ids=list(NOT_ELEMENTS))
@pytest.mark.parametrize("who", [SENDER, RECEIVER])
def test_shares_outside_the_group_are_refused(element: bytes, who: Role) -> None:
    exchange = CodeExchange(who, CODE, random.Random(1).randbytes)
    with pytest.raises(InvalidShare):
        exchange.finish((b"B" if who is SENDER else b"A") + element)

    def replace(role: Role, data: bytes) -> list[bytes]:
        at = {Type.HELLO: 19, Type.REPLY: 35}.get(Type(data[1]))
        return [data] if role is who or at is None else [data[: at + 1] + element + data[at + 33 :]]

    network = Link(make(SENDER), make(RECEIVER), meddler=replace)
    network.begin()
    network.run()
    assert network.events[who] == [WrongCode(1, CODE_TRIES, False)]
    assert network.events[who.other] == [Rejected(Reason.WRONG_CODE, 1, CODE_TRIES)]


def test_a_share_of_the_own_side_is_refused() -> None:
    exchange = CodeExchange(SENDER, CODE, random.Random(1).randbytes)
    with pytest.raises(InvalidShare):
        exchange.finish(exchange.share)
    exchange = CodeExchange(SENDER, CODE, random.Random(1).randbytes)
    with pytest.raises(InvalidShare):
        exchange.finish(b"B" + exchange.share[1:])


@pytest.mark.parametrize("public", [bytes(32), b"\x01" + bytes(31)])
def test_x25519_points_of_low_order_are_refused(public: bytes) -> None:
    with pytest.raises(InvalidShare):
        OpenExchange(random.Random(1).randbytes).finish(public)
    network = Link(
        make(SENDER, None),
        make(RECEIVER, None),
        meddler=lambda _role, data: [data[:35] + public] if data[1] == Type.REPLY else [data],
    )
    network.begin()
    network.run(10)
    assert network.events == {SENDER: [], RECEIVER: []}
    assert network.sessions[SENDER].dropped > 1


def test_who_stands_in_between_shows_in_the_verification_string() -> None:
    sender, receiver = make(SENDER, None, seed=1), make(RECEIVER, None, seed=2)
    left = Link(sender, make(RECEIVER, None, seed=3))
    right = Link(make(SENDER, None, seed=4), receiver)
    for link in (left, right):
        link.begin()
        link.run()
    assert left.established(SENDER).verification != right.established(RECEIVER).verification


def test_who_stands_in_between_cannot_search_for_an_equal_verification_string() -> None:
    """Each run that is broken off once its string is known counts, on both sides."""
    receiver = make(RECEIVER, None)
    receiver.begin(b"", 0.0)
    assert sum(greet(receiver, None, 100 + number) for number in range(OPEN_TRIES + 10)) == OPEN_TRIES
    assert receiver.poll_event() == WrongCode(OPEN_TRIES, OPEN_TRIES, True)

    sender, confirms = make(SENDER, None), 0
    for number in range(OPEN_TRIES + 10):
        network = Link(
            sender,
            make(RECEIVER, None, seed=number),
            meddler=lambda _role, data: [] if data[1] == Type.READY else [data],
        )
        network.begin()
        network.run(0.2)
        confirms += any(data[1] == Type.CONFIRM for _, data in network.seen)
    assert confirms == OPEN_TRIES


def test_an_opening_other_than_the_one_committed_to_is_refused() -> None:
    """A false sender who chose its key after it saw the receiver's, and confirms all else correctly."""
    random_bytes = random.Random(1).randbytes
    committed, chosen = OpenExchange(random_bytes), OpenExchange(random_bytes)
    for exchange, accepted in ((chosen, False), (committed, True)):
        receiver = make(RECEIVER, None)
        receiver.begin(b"", 0.0)
        hello = Hello(Mode.OPEN, bytes(16), committed.commitment)
        receiver.handle_message(hello.encode(), 0.0)
        encoded = receiver.poll_message()
        assert encoded is not None
        reply = decode_message(encoded, Mode.OPEN)
        assert isinstance(reply, Reply)
        seen = transcript(CONTEXT, hello.encode(), reply.bound(), exchange.opening)
        keys = SessionKeys(exchange.finish(reply.share), seen)
        blank = Confirm(bytes(16), reply.receiver_nonce, exchange.opening, keys.confirmation(SENDER), b"")
        sealed = SealedSignals(keys, SENDER).seal(Type.CONFIRM, blank.header(), b"")
        receiver.handle_message(blank.header() + sealed, 0.0)
        assert isinstance(receiver.poll_event(), Established) == accepted
