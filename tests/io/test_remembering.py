"""What a run makes of its options, its file of contacts and the events of the exchange."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from p2p.core.contacts.exchange import State
from p2p.core.contacts.keys import ContactKeys
from p2p.core.contacts.messages import Held, Key, No, Why, encode
from p2p.core.errors import CallerError
from p2p.core.peer import events
from p2p.io.contacts import Contacts, ContactsError
from p2p.io.remembering import Remembering

NAMES = ("alice", "bob")
FRIEND = ContactKeys(bytes(range(32)), NAMES)
OTHER = ContactKeys(bytes(range(1, 33)), NAMES)


@pytest.fixture
def contacts(tmp_path: Path) -> Contacts:
    return Contacts(tmp_path / "p2p")


def of(contacts: Contacts, *, code: str | None = None, no_code: bool = False, remember: bool = False) -> Remembering:
    return Remembering.of(NAMES, code=code, no_code=no_code, remember=remember, contacts=contacts)


def know(contacts: Contacts, keys: ContactKeys = FRIEND, *, confirm: bool = True) -> None:
    contacts.hold(*NAMES, contacts.keys_for(*NAMES), keys.public)
    if confirm:
        contacts.confirm(*NAMES, keys.public)


class Run:
    """A peer of which only the path of records about contacts is there."""

    def __init__(self, remembering: Remembering) -> None:
        self.remembering = remembering
        self.peer: Any = SimpleNamespace(advance=lambda _now: None)
        self.said: list[str] = []
        remembering.exchange.start_path()

    def hear(self, record: bytes) -> None:
        exchange = self.remembering.exchange
        exchange.handle_record(record)
        while (event := exchange.poll_event()) is not None:
            name = type(event).__name__
            fields = {key: getattr(event, key) for key in event.__slots__}
            self.tell(getattr(events, name if name == "ContactHeard" else f"Contact{name}")(**fields))

    def tell(self, event: events.PeerEvent) -> None:
        sentence = self.remembering.handle_event(event, self.peer, 0.0)
        if sentence is not None:
            self.said.append(sentence)

    def proof(self, keys: ContactKeys = FRIEND) -> bytes:
        ours = self.remembering.exchange.poll_record()
        assert ours is not None
        return keys.proof(ours[3:])


def test_without_a_contact_a_code_is_needed(contacts: Contacts) -> None:
    remembering = of(contacts)
    assert not remembering.is_contact
    assert remembering.secret is None
    assert remembering.exchange.state is State.DEAF
    assert remembering.note is None


def test_a_contact_needs_none(contacts: Contacts) -> None:
    know(contacts)
    remembering = of(contacts)
    stored = contacts.find(*NAMES)
    assert stored is not None
    assert remembering.secret == stored.secret
    assert remembering.exchange.state is State.DEAF
    assert not of(contacts, code="amber-walnut-tiger").is_contact
    assert not of(contacts, no_code=True).is_contact


def test_where_it_makes_no_sense(contacts: Contacts) -> None:
    with pytest.raises(CallerError, match="names"):
        Remembering.of(None, code=None, no_code=False, remember=True, contacts=contacts)
    with pytest.raises(CallerError, match="code"):
        of(contacts, no_code=True, remember=True)


def test_a_damaged_file_matters_where_it_is_needed(contacts: Contacts, tmp_path: Path) -> None:
    know(contacts)
    (tmp_path / "p2p" / "contacts.json").write_text("")
    of(contacts, code="amber-walnut-tiger")
    without = of(contacts)
    assert not without.is_contact
    assert without.note is not None
    assert "A code is used" in without.note
    with pytest.raises(ContactsError):
        of(contacts, code="amber-walnut-tiger", remember=True)


def test_an_exchange_is_stored_and_said(contacts: Contacts) -> None:
    run = Run(of(contacts, code="amber-walnut-tiger", remember=True))
    proof = run.proof()
    run.hear(encode(Key(FRIEND.public)))
    stored = contacts.find(*NAMES)
    assert stored is not None
    assert not stored.is_confirmed
    assert "not certain" in (run.remembering.finish(is_done=True) or "")
    run.hear(encode(Held(proof)))
    stored = contacts.find(*NAMES)
    assert stored is not None
    assert stored.is_confirmed
    assert run.said == ["bob is remembered: from now on the two of you need no code."]
    assert run.remembering.finish(is_done=True) is None
    assert run.remembering.again().is_contact


def test_a_changed_key(contacts: Contacts) -> None:
    know(contacts)
    run = Run(of(contacts, code="amber-walnut-tiger", remember=True))
    run.hear(encode(Key(OTHER.public)))
    run.remembering.exchange.poll_record()
    assert run.remembering.exchange.poll_record() == encode(No(Why.CHANGED))
    run.tell(events.ContactNotRemembered(Why.CHANGED, by_peer=False))
    assert "contacts forget bob" in run.said[0]
    stored = contacts.find(*NAMES)
    assert stored is not None
    assert stored.public == FRIEND.public.hex()


@pytest.mark.parametrize("why", list(Why))
def test_a_no_of_the_friend_takes_back_what_was_stored(contacts: Contacts, why: Why) -> None:
    run = Run(of(contacts, code="amber-walnut-tiger", remember=True))
    run.hear(encode(Key(FRIEND.public)))
    run.hear(encode(No(why)))
    assert contacts.find(*NAMES) is None
    assert run.said[0].startswith("Nothing was remembered. ")
    run.tell(events.ContactNotRemembered(why, by_peer=False))
    assert run.said[1].startswith("Nothing was remembered. ")
    assert run.said[0] != run.said[1]


def test_a_disk_that_takes_nothing(contacts: Contacts, tmp_path: Path) -> None:
    run = Run(of(contacts, code="amber-walnut-tiger", remember=True))
    (tmp_path / "p2p").write_text("in the place of the folder")
    run.hear(encode(Key(FRIEND.public)))
    assert "cannot be kept" in run.said[0]
    assert run.remembering.exchange.state is State.OVER


def test_a_session_by_contact_proves_what_was_not_certain(contacts: Contacts) -> None:
    know(contacts, confirm=False)
    run = Run(of(contacts))
    assert run.remembering.note is not None
    assert "contacts forget bob" in run.remembering.note
    run.tell(events.Connecting(None, is_contact=True))
    stored = contacts.find(*NAMES)
    assert stored is not None
    assert stored.is_confirmed


def test_the_next_transfer_of_a_run(contacts: Contacts) -> None:
    run = Run(of(contacts, code="amber-walnut-tiger", remember=True))
    again = run.remembering.again()
    assert again.wants
    assert not again.is_contact
    assert again.exchange.state is State.ASKING
    assert not Remembering().again().is_contact
    know(contacts)
    assert of(contacts).again().is_contact


def test_a_run_that_ends_before_an_answer(contacts: Contacts) -> None:
    run = Run(of(contacts, code="amber-walnut-tiger", remember=True))
    assert run.remembering.finish(is_done=False) is None
    assert "Nothing was remembered" in (run.remembering.finish(is_done=True) or "")


def test_a_friend_who_stored_first_and_ended_the_run(contacts: Contacts) -> None:
    """Its HELD comes with its KEY, and nothing after them is told any more."""
    run = Run(of(contacts, code="amber-walnut-tiger", remember=True))
    proof = run.proof()
    run.remembering.exchange.handle_record(encode(Key(FRIEND.public)))
    run.remembering.exchange.handle_record(encode(Held(proof)))
    run.tell(events.ContactHeard(FRIEND.public))
    stored = contacts.find(*NAMES)
    assert stored is not None
    assert stored.is_confirmed
    run.tell(events.ContactRemembered(FRIEND.public))
    assert len(run.said) == 1
