"""What each side tells of itself after the keys are agreed on."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from session_link import CODE, Link, make

from p2p.core.errors import CallerError
from p2p.core.role import Role
from p2p.core.session.events import Established, Updated
from p2p.core.session.half import MAX_REPEAT
from p2p.core.session.messages import Type

SENDER, RECEIVER = Role.SENDER, Role.RECEIVER
impairments = {"loss": st.floats(0, 0.6), "duplicate": st.floats(0, 0.5), "jitter": st.floats(0, 3)}
updates = st.lists(st.tuples(st.sampled_from(Role), st.floats(0, 4), st.binary(min_size=1, max_size=512)), max_size=8)


def established(secret: bytes | None = CODE) -> Link:
    network = Link(make(SENDER, secret), make(RECEIVER, secret))
    network.begin()
    network.run()
    return network


def last_told(network: Link, role: Role) -> bytes:
    """What `role` knows of the other side."""
    told = [event for event in network.events[role] if isinstance(event, Established | Updated)]
    return told[-1].description


@settings(max_examples=40, deadline=None)
@given(st.sampled_from([CODE, None]), st.integers(0, 2**32), st.fixed_dictionaries(impairments), updates)
def test_the_other_side_ends_with_the_newest_description_whatever_the_network_does(
    secret: bytes | None, seed: int, link: dict[str, float], told: list[tuple[Role, float, bytes]]
) -> None:
    network = Link(make(SENDER, secret, seed=seed), make(RECEIVER, secret, seed=seed), seed=seed, **link)
    network.begin()
    newest = {SENDER: b"of the sender", RECEIVER: b"of the receiver"}
    for role, pause, description in told:
        network.run(pause)
        network.sessions[role].update(description, network.now)
        newest[role] = description
    network.run(600)
    for role, other in ((SENDER, RECEIVER), (RECEIVER, SENDER)):
        assert last_told(network, role) == newest[other]
        assert network.sessions[role].poll_timeout() is None  # and nobody repeats for ever


def test_an_update_in_peace_costs_two_messages() -> None:
    network = established()
    before = len(network.seen)
    network.sessions[SENDER].update(b"moved", network.now)
    network.run()
    assert network.events[RECEIVER][-1] == Updated(b"moved")
    assert [(role, data[1]) for role, data in network.seen[before:]] == [
        (SENDER, Type.SIGNAL),
        (RECEIVER, Type.SIGNAL),
    ]


def test_what_changed_before_the_keys_were_agreed_on_needs_no_signal() -> None:
    network = Link(make(SENDER), make(RECEIVER))
    network.begin()
    network.sessions[SENDER].update(b"newer", 0.0)
    network.sessions[RECEIVER].update(b"newer too", 0.0)
    network.run()
    assert network.established(RECEIVER).description == b"newer"
    assert network.established(SENDER).description == b"newer too"


def test_a_replayed_signal_is_no_news() -> None:
    network = established()
    for description in (b"first", b"second"):
        network.sessions[SENDER].update(description, network.now)
        network.run()
    for role, data in list(network.seen):
        if role is SENDER and data[1] == Type.SIGNAL:
            network.sessions[RECEIVER].handle_message(data, network.now)
    network.run()
    assert [e for e in network.events[RECEIVER] if isinstance(e, Updated)] == [Updated(b"first"), Updated(b"second")]


def test_a_forged_signal_is_dropped() -> None:
    network = established()
    network.sessions[SENDER].update(b"true", network.now)
    network.run()
    _, genuine = next(item for item in network.seen if item[1][1] == Type.SIGNAL)
    receiver = network.sessions[RECEIVER]
    for position in range(len(genuine)):
        forged = bytearray(genuine)
        forged[position] ^= 1
        receiver.handle_message(bytes(forged), network.now)
        assert receiver.poll_event() is None
        assert receiver.poll_message() is None


def test_nobody_answers_any_more() -> None:
    network = established()
    network.meddler = lambda _, __: []
    before = len(network.seen)
    network.sessions[SENDER].update(b"moved", network.now)
    network.run(60)
    assert 60 / MAX_REPEAT <= len(network.seen) - before <= 60 / MAX_REPEAT + 8
    network.sessions[SENDER].bye(7, "gone", network.now)
    before = len(network.seen)
    network.run(60)
    assert [data[1] for _, data in network.seen[before:]] == [Type.BYE] * 3 or len(network.seen) - before <= 3


def test_a_description_too_long() -> None:
    with pytest.raises(CallerError, match="513"):
        established().sessions[SENDER].update(bytes(513), 0.0)
