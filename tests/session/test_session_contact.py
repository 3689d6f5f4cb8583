"""Sessions by the key of a contact: as by a code, but not mixed up with it."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from session_link import CODE, Link, assert_agreed

from p2p.core.contacts.keys import KEY, ContactKeys
from p2p.core.errors import CallerError
from p2p.core.role import Role
from p2p.core.session.events import Established, Rejected, WrongCode
from p2p.core.session.half import CODE_TRIES, CONTACT_TRIES, OPEN_TRIES
from p2p.core.session.messages import Mode, Reason, Type
from p2p.core.session.session import Session

SENDER, RECEIVER = Role.SENDER, Role.RECEIVER
NAMES = ("alice", "bob")
CONTEXT = (b"alice", b"bob")
SECRETS = {Mode.CODE: CODE, Mode.OPEN: None}


def keys(seed: int) -> ContactKeys:
    return ContactKeys(random.Random(seed).randbytes(KEY), NAMES)


SECRET = keys(1).secret(keys(2).public)


def make(role: Role, secret: bytes | None = SECRET, *, seed: int = 1, mode: Mode = Mode.CONTACT) -> Session:
    return Session(
        role, secret, CONTEXT, random.Random(seed * 2 + role).randbytes, is_contact=mode is Mode.CONTACT
    )


def test_two_contacts_agree_on_fresh_keys_each_time() -> None:
    found = set()
    for seed in (1, 2):
        link = Link(make(SENDER, keys(1).secret(keys(2).public), seed=seed),
                    make(RECEIVER, keys(2).secret(keys(1).public), seed=seed))  # fmt: skip
        link.begin()
        link.run()
        assert_agreed(link)
        found.add(link.established(SENDER).keys.derive("udp records sender"))
        assert link.established(SENDER).verification is None
    assert len(found) == 2


@settings(max_examples=40, deadline=None)
@given(st.sampled_from([Type.HELLO, Type.REPLY, Type.CONFIRM, Type.READY]), st.integers(0, 10_000))
def test_a_changed_bit_establishes_nothing_by_itself(kind: Type, position: int) -> None:
    def flip(_role: Role, data: bytes) -> list[bytes]:
        if data[1] != kind:
            return [data]
        changed = bytearray(data)
        changed[position % len(data)] ^= 1 << position // len(data) % 8
        return [bytes(changed)]

    link = Link(make(SENDER), make(RECEIVER), meddler=flip)
    link.begin()
    link.run(30)
    sides = {role: any(isinstance(event, Established) for event in events) for role, events in link.events.items()}
    assert not sides[SENDER]
    assert sides[RECEIVER] == (kind is Type.READY)


@pytest.mark.parametrize("mode", [Mode.CODE, Mode.OPEN])
@pytest.mark.parametrize("who", [SENDER, RECEIVER])
def test_a_contact_and_another_mode_part_with_words(mode: Mode, who: Role) -> None:
    """`who` uses the contact."""
    sides = {who: make(who), who.other: make(who.other, SECRETS[mode], mode=mode)}
    link = Link(sides[SENDER], sides[RECEIVER])
    link.begin()
    link.run()
    limits = {Mode.CODE: CODE_TRIES, Mode.OPEN: OPEN_TRIES, Mode.CONTACT: CONTACT_TRIES}
    limit = limits[Mode.CONTACT if who is RECEIVER else mode]
    assert link.events[SENDER] == link.events[RECEIVER] == [Rejected(Reason.CONTACT_MISMATCH, 0, limit)]


def test_a_code_and_no_code_part_as_before() -> None:
    link = Link(make(SENDER, CODE, mode=Mode.CODE), make(RECEIVER, None, mode=Mode.OPEN))
    link.begin()
    link.run()
    assert link.events[SENDER] == [Rejected(Reason.MODE_MISMATCH, 0, OPEN_TRIES)]


def test_the_mode_is_bound() -> None:
    """The same secret in both modes, and somebody in between who makes each side see its own mode: no common keys."""

    def translate(role: Role, data: bytes) -> list[bytes]:
        if data[1] not in (Type.HELLO, Type.REPLY):
            return [data]
        return [data[:2] + bytes([Mode.CODE if role is SENDER else Mode.CONTACT]) + data[3:]]

    link = Link(make(SENDER), make(RECEIVER, mode=Mode.CODE), meddler=translate)
    link.begin()
    link.run(30)
    assert not any(isinstance(event, Established) for events in link.events.values() for event in events)
    assert link.events[SENDER] == [WrongCode(1, CONTACT_TRIES, False)]


def test_another_key_is_a_wrong_try() -> None:
    link = Link(make(SENDER), make(RECEIVER, keys(3).secret(keys(2).public)))
    link.begin()
    link.run()
    assert link.events[SENDER] == [WrongCode(1, CONTACT_TRIES, False)]
    assert link.events[RECEIVER] == [Rejected(Reason.WRONG_CODE, 1, CONTACT_TRIES)]


def test_a_stranger_does_not_burn_a_contact_by_a_few_tries() -> None:
    sender = make(SENDER)
    for seed in range(CODE_TRIES + 1):
        link = Link(sender, make(RECEIVER, bytes(32), seed=seed))
        link.begin()
        link.run()
        assert isinstance(link.events[RECEIVER][0], Rejected)
    link = Link(sender, make(RECEIVER))
    link.begin()
    link.run()
    assert isinstance(link.events[SENDER][-1], Established)


def test_replayed_runs_are_ignored() -> None:
    first = Link(make(SENDER, seed=1), make(RECEIVER, seed=1))
    first.begin()
    first.run()
    sender, receiver = make(SENDER, seed=2), make(RECEIVER, seed=2)
    sender.begin(b"", 0.0)
    receiver.begin(b"", 0.0)
    for role, data in first.seen:
        (receiver if role is SENDER else sender).handle_message(data, 0.0)
    assert sender.poll_event() is None
    assert receiver.poll_event() is None


def test_reflected_messages_are_ignored() -> None:
    link = Link(make(SENDER), make(RECEIVER))

    def mirror(role: Role, data: bytes) -> list[bytes]:
        link.sessions[role].handle_message(data, link.now)
        return [data]

    link.meddler = mirror
    link.begin()
    link.run()
    assert_agreed(link)


def test_a_contact_has_a_secret() -> None:
    with pytest.raises(CallerError):
        make(SENDER, None)
