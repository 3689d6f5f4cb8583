"""The session between honest peers, on a link that does what networks do."""

from __future__ import annotations

import hashlib
import hmac

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from session_link import CODE, Link, assert_agreed, make

from p2p.core.errors import CallerError
from p2p.core.role import Role
from p2p.core.session.events import Outdated, PeerBye, Rejected, WrongCode
from p2p.core.session.half import CODE_TRIES, MAX_REPEAT
from p2p.core.session.messages import Reason, Type

SENDER, RECEIVER = Role.SENDER, Role.RECEIVER


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
