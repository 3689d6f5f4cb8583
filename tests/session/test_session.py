"""The session between honest peers, on a link that does what networks do, and against those who are not honest."""

from __future__ import annotations

import hashlib
import hmac
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from session_link import CODE, CONTEXT, Link, make

from p2p.core.errors import CallerError
from p2p.core.role import Role
from p2p.core.session.events import Established, Outdated, PeerBye, Rejected, WrongCode
from p2p.core.session.exchange import CodeExchange, InvalidShare, OpenExchange
from p2p.core.session.half import CODE_TRIES, MAX_REPEAT, OPEN_TRIES
from p2p.core.session.keys import SealedSignals, SessionKeys, transcript
from p2p.core.session.messages import Confirm, Hello, Mode, Reason, Reply, Type, decode_message
from p2p.core.session.session import Session

SENDER, RECEIVER = Role.SENDER, Role.RECEIVER
LABELS = ["check sender", "tcp receiver", "udp records sender"]


def assert_agreed(link: Link) -> None:
    ours, theirs = link.established(SENDER), link.established(RECEIVER)
    assert (ours.description, theirs.description) == (b"of the receiver", b"of the sender")
    assert [ours.keys.derive(label) for label in LABELS] == [theirs.keys.derive(label) for label in LABELS]
    assert len({ours.keys.derive(label) for label in LABELS}) == len(LABELS)
    assert ours.verification == theirs.verification


impairments = {"loss": st.floats(0, 0.6), "duplicate": st.floats(0, 0.5), "jitter": st.floats(0, 3)}


@settings(max_examples=20, deadline=None)
@given(st.sampled_from([CODE, None]), st.integers(0, 2**32), st.fixed_dictionaries(impairments))
def test_both_sides_agree_whatever_the_network_does(secret: bytes | None, seed: int, link: dict[str, float]) -> None:
    network = Link(make(SENDER, secret, seed=seed), make(RECEIVER, secret, seed=seed), seed=seed, **link)
    network.begin()
    network.run(300)
    assert_agreed(network)
    assert (network.established(SENDER).verification is None) == (secret is not None)
    assert network.sessions[SENDER].poll_timeout() is None
    assert network.sessions[RECEIVER].tries == 0


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32), st.fixed_dictionaries(impairments))
def test_a_wrong_code_is_told_to_both_whatever_the_network_does(seed: int, link: dict[str, float]) -> None:
    network = Link(make(SENDER, seed=seed), make(RECEIVER, b"amber-walnut-comet", seed=seed), seed=seed, **link)
    network.begin()
    network.run(300)
    assert network.events == {
        SENDER: [WrongCode(1, CODE_TRIES, False)],
        RECEIVER: [Rejected(Reason.WRONG_CODE, 1, CODE_TRIES)],
    }


def test_the_sender_waits_on_until_the_code_is_burnt() -> None:
    sender = make(SENDER)
    for attempt in (1, 2, 3):
        network = Link(sender, make(RECEIVER, b"not-the-code", seed=attempt))
        network.begin()
        network.run()
        burnt = attempt == 3
        assert network.events[SENDER] == [WrongCode(attempt, 3, burnt)]
        assert network.events[RECEIVER] == [Rejected(Reason.BURNT if burnt else Reason.WRONG_CODE, attempt, 3)]
    network = Link(sender, make(RECEIVER, seed=9))
    network.begin()
    network.run()
    assert network.events == {SENDER: [], RECEIVER: []}
    assert network.seen == []


def test_the_right_peer_is_served_after_two_wrong_ones() -> None:
    sender = make(SENDER)
    for secret in (b"wrong-one", b"wrong-two", CODE):
        network = Link(sender, make(RECEIVER, secret))
        network.begin()
        network.run()
    assert_agreed(network)


def test_the_receiver_may_begin_later() -> None:
    network = Link(make(SENDER), make(RECEIVER))
    network.sessions[SENDER].begin(b"of the sender", 0.0)
    network.run(20)
    assert network.events == {SENDER: [], RECEIVER: []}
    network.sessions[RECEIVER].begin(b"of the receiver", network.now)
    network.run(MAX_REPEAT + 1)
    assert_agreed(network)


def test_a_restarted_sender_is_served_and_old_messages_do_not_disturb() -> None:
    receiver = make(RECEIVER)
    old = Link(make(SENDER, seed=5), receiver, meddler=lambda _role, data: [] if data[1] == Type.CONFIRM else [data])
    old.begin()
    old.run(5)
    network = Link(make(SENDER, seed=6), receiver)
    network.begin()
    for role, data in old.seen:
        network._fly(role.other, data)
    network.run()
    assert_agreed(network)


def test_a_late_hello_of_another_run_does_not_close_the_present_one() -> None:
    stray = make(SENDER, seed=77)
    stray.begin(b"", 0.0)
    late = stray.poll_message()
    assert late is not None

    def disturb(_role: Role, data: bytes) -> list[bytes]:
        return [late, data] if data[1] == Type.CONFIRM else [data]

    network = Link(make(SENDER), make(RECEIVER), meddler=disturb)
    network.begin()
    network.run()
    assert_agreed(network)


@pytest.mark.parametrize(("ours", "theirs"), [(CODE, None), (None, CODE)])
def test_no_downgrade_and_both_are_told(ours: bytes | None, theirs: bytes | None) -> None:
    network = Link(make(SENDER, ours), make(RECEIVER, theirs))
    network.begin()
    network.run()
    for events in network.events.values():
        (event,) = events
        assert isinstance(event, Rejected)
        assert event.reason is Reason.MODE_MISMATCH


def test_other_names_are_another_session() -> None:
    network = Link(make(SENDER, context=(b"ann", b"bob")), make(RECEIVER, context=(b"annb", b"ob")))
    network.begin()
    network.run()
    assert network.events[SENDER] == [WrongCode(1, 3, False)]


@pytest.mark.parametrize("secret", [CODE, None])
@pytest.mark.parametrize("who", [SENDER, RECEIVER])
def test_bye_reaches_the_other_side(secret: bytes | None, who: Role) -> None:
    network = Link(make(SENDER, secret), make(RECEIVER, secret), seed=3, loss=0.3)
    network.begin()
    network.run()
    network.sessions[who].bye(130, "stopped" + "ä" * 600, network.now)
    network.run()
    event = network.events[who.other][-1]
    assert isinstance(event, PeerBye)
    assert event.exit_code == 130
    assert event.reason.startswith("stoppedä")
    assert len(network.events[who.other]) == 2
    assert network.sessions[who].poll_timeout() is None
    network.sessions[who].bye(1, "again", network.now)  # no second message under one nonce
    sealed = {data for _, data in network.seen if data[1] == Type.BYE}
    assert len(sealed) == 1


def test_bye_before_there_are_keys_is_silent() -> None:
    for role in Role:
        session = make(role)
        session.begin(b"", 0.0)
        while session.poll_message() is not None:
            pass
        session.bye(130, "stopped", 0.0)
        assert session.poll_message() is None
        assert session.poll_timeout() is None


def test_no_two_plaintexts_under_one_key_and_nonce() -> None:
    """Sealed parts: one content for each type and run, on a link that makes everything happen many times."""
    network = Link(make(SENDER), make(RECEIVER), seed=5, loss=0.5, duplicate=0.5, jitter=2)
    network.begin()
    network.run()
    for role in Role:
        network.sessions[role].bye(0, "", network.now)
    network.run()
    by_type: dict[tuple[Role, int], set[bytes]] = {}
    for role, data in network.seen:
        by_type.setdefault((role, data[1]), set()).add(data)
    assert set(map(len, by_type.values())) == {1}


def test_another_version_is_said_on_both_sides() -> None:
    def translate(_role: Role, data: bytes) -> list[bytes]:
        return [b"\x02" + data[1:]]

    network = Link(make(SENDER), make(RECEIVER), meddler=translate)
    network.begin()
    network.run()
    assert network.events == {SENDER: [Outdated(2)], RECEIVER: [Outdated(2)]}


# Those who are not honest


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


def counted(data: bytes) -> bytes:
    return len(data).to_bytes(4, "big") + data


@pytest.mark.parametrize("secret", [CODE, None])
def test_key_schedule_is_that_of_the_document(secret: bytes | None) -> None:
    """docs/protocol.md section 2, computed a second time with nothing but HMAC."""
    names = (b"ann", b"bob")
    network = Link(make(SENDER, secret, context=names), make(RECEIVER, secret, context=names))
    network.begin()
    network.run()
    hello, reply, confirm, ready = (data for _, data in network.seen)
    seen = [hello, reply[:68]] if secret else [hello, reply, confirm[34:82]]
    context = counted(b"ann") + counted(b"bob")
    transcript = hashlib.sha256(b"".join(map(counted, [b"p2p session 1", context, *seen]))).digest()
    keys = network.established(SENDER).keys
    extracted = hmac.digest(transcript, keys._secret, "sha256")
    for label in ["check sender", "udp id receiver", "verification"]:
        assert keys.derive(label) == hmac.digest(extracted, label.encode() + b"\x01", "sha256")
    shown = {"confirm receiver": reply[68:], "confirm sender": confirm[34:66] if secret else confirm[82:114]}
    if secret is None:
        shown["confirm receiver"] = ready[34:66]
    for label, confirmation in shown.items():
        key = hmac.digest(extracted, label.encode() + b"\x01", "sha256")
        assert confirmation == hmac.digest(key, transcript, "sha256")


@pytest.mark.parametrize("secret", [CODE, None])
def test_golden_run(secret: bytes | None) -> None:
    """Equal seeds give equal bytes in every release that speaks version 1."""
    network = Link(make(SENDER, secret), make(RECEIVER, secret))
    network.begin()
    network.run()
    assert [len(data) for _, data in network.seen] == ([52, 100, 95, 65] if secret else [51, 67, 143, 97])
    digest = hashlib.sha256(b"".join(data for _, data in network.seen)).hexdigest()
    assert digest == (GOLDEN_CODE if secret else GOLDEN_OPEN)


def test_descriptions_are_capped() -> None:
    with pytest.raises(CallerError, match="513"):
        make(SENDER).begin(bytes(513), 0.0)
    network = Link(make(SENDER, None), make(RECEIVER, None))
    network.sessions[RECEIVER].begin(bytes(512), 0.0)
    network.sessions[SENDER].begin(bytes(512), 0.0)
    network.run()
    assert len(network.established(SENDER).description) == 512


GOLDEN_CODE = "266f29d9a9be68f471333339f2da29194f55008431424a030142e8bec77b5ca6"
GOLDEN_OPEN = "40cbd988c4424e9b4d9a84394abe32d124a3ab5d638fcc50b82fb6f47ac65517"
