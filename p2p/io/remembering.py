"""What a run does with contacts: the key in place of a code, or the exchange of keys under one."""

from __future__ import annotations

import shlex
from typing import assert_never

from p2p.core.calling import PEER_PROGRAM, command, option
from p2p.core.contacts.exchange import ContactExchange, State
from p2p.core.contacts.keys import ContactKeys
from p2p.core.contacts.messages import Why
from p2p.core.errors import CallerError
from p2p.core.peer import events
from p2p.core.peer.peer import Peer
from p2p.core.text import escape
from p2p.io.contacts import ChangedKey, Contact, Contacts, ContactsError, changed_key


class Remembering:
    """The two of a run as contacts.

    `secret` is set where they remember each other and no code was given: it goes into PeerConfig with `is_contact`, and
    no code is made or asked for. `exchange` goes into every Peer of the run, as `contact`.
    """

    def __init__(
        self,
        contacts: Contacts | None = None,
        names: tuple[str, str] | None = None,
        contact: Contact | None = None,
        keys: ContactKeys | None = None,
    ) -> None:
        self._contacts = contacts
        self._names = names
        self._contact = contact
        self._keys = keys
        self._held: bytes | None = None  # the friend's key, stored in this run
        self._is_said = False
        self.secret = contact.secret if contact is not None else None
        self.exchange = ContactExchange(keys)
        self.note: str | None = None
        """What to say at the beginning."""

    @classmethod
    def of(
        cls,
        names: tuple[str, str] | None,
        *,
        code: str | None,
        no_code: bool,
        remember: bool,
        contacts: Contacts | None = None,
    ) -> Remembering:
        """`names`: (ME, FRIEND), None with a one-time code; `code`: one that was given. `contacts`: the user's.

        Raises CallerError where --remember makes no sense, and ContactsError where it is wanted and the file cannot be
        used; else a code does as well.
        """
        if remember and names is None:
            raise CallerError(f"{option('--remember')} needs names, on both sides")
        if remember and no_code:
            raise CallerError(
                f"{option('--remember')} needs a code once: with {option('--no-code')} nobody knows who is remembered"
            )
        if names is None or no_code or (code and not remember):
            return cls(None, names)
        contacts = contacts or Contacts.of_user()
        try:
            contact = contacts.find(*names)
        except ContactsError as error:
            if remember:
                raise
            without = cls(None, names)
            without.note = f"{error}. A code is used."
            return without
        if contact is None or code:
            return cls(contacts, names, keys=contacts.keys_for(*names) if remember else None)
        remembering = cls(contacts, names, contact)
        friend = escape(names[1])
        remembering.note = f"No code is needed: {friend} is remembered."
        if not contact.is_confirmed:
            remembering.note = (
                f"{friend} is remembered, but has not shown that it remembers you. If it is asked for a code: stop, "
                f"run `{command('contacts forget ' + shlex.quote(friend))}`, and use a code and "
                f"{option('--remember')} again."
            )
        return remembering

    @property
    def is_contact(self) -> bool:
        """Whether the run goes by the key of a contact, and not by a code."""
        return self.secret is not None

    @property
    def wants(self) -> bool:
        """Whether this side is to remember the other."""
        return self._keys is not None

    def handle_event(self, event: events.PeerEvent, peer: Peer, now: float) -> str | None:
        """To be called with every event, before the next is polled. Returns a sentence to say, if any."""
        try:
            match event:
                case events.Connecting() if self._contact is not None and not self._contact.is_confirmed:
                    self._confirm(bytes.fromhex(self._contact.public))
                case events.ContactHeard(public):
                    return self._hold(public, peer, now)
                case events.ContactRemembered(public):
                    return self._remember(public)
                case events.ContactNotRemembered(why, by_peer):
                    return self._take_no(why, by_peer=by_peer)
        except ContactsError as error:
            return f"{error}."
        return None

    def finish(self, *, is_done: bool) -> str | None:
        """The transfer is over. Returns a sentence to say, if the exchange is not."""
        if self.exchange.state is State.HOLDING:
            return (
                f"It is not certain that {self._friend} remembers you: the run ended before it said so. Try without a "
                "code the next time; if the other side does not know you then, use a code and "
                f"{option('--remember')} once more."
            )
        if is_done and self.exchange.state in (State.ASKING, State.HEARD):
            return f"Nothing was remembered: the run ended before {self._friend} answered to {option('--remember')}."
        return None

    def again(self) -> Remembering:
        """For the next transfer of the same run."""
        contacts, names = self._contacts, self._names
        if contacts is None or names is None:
            return Remembering(None, names)
        try:
            if self._contact is not None or self.exchange.state is State.REMEMBERED:
                return Remembering(contacts, names, contacts.find(*names) or self._contact)
            return Remembering(contacts, names, keys=contacts.keys_for(*names) if self.wants else None)
        except ContactsError:
            return Remembering(contacts, names, self._contact)

    # inside

    @property
    def _friend(self) -> str:
        return escape(self._names[1]) if self._names else "The other side"

    def _hold(self, public: bytes, peer: Peer, now: float) -> str | None:
        assert self._contacts is not None
        assert self._names is not None
        assert self._keys is not None
        trouble: str | None = None
        try:
            self._contacts.hold(*self._names, self._keys, public)
        except ChangedKey:
            self.exchange.refuse(Why.CHANGED)  # said with ContactNotRemembered
        except ContactsError as error:
            trouble = f"{error}."
            self.exchange.refuse(Why.NOT_STORED)
        else:
            self._held = public
            self.exchange.handle_held()
        peer.advance(now)
        if self.exchange.state is State.REMEMBERED:  # the other side was first, and may have ended the run already
            return self._remember(public)
        return trouble

    def _remember(self, public: bytes) -> str | None:
        self._confirm(public)
        is_said, self._is_said = self._is_said, True
        return None if is_said else f"{self._friend} is remembered: from now on the two of you need no code."

    def _confirm(self, public: bytes) -> None:
        if self._contacts is not None and self._names is not None:
            self._contacts.confirm(*self._names, public)

    def _take_no(self, why: Why, *, by_peer: bool) -> str:
        if by_peer and self._held is not None and self._contacts is not None and self._names is not None:
            self._contacts.drop(*self._names, self._held)
        return f"Nothing was remembered. {self._explain_peer(why) if by_peer else self._explain(why)}."

    def _explain(self, why: Why) -> str:
        match why:
            case Why.NOT_ASKED:
                return f"{self._friend} used {option('--remember')}, and this side did not: it takes both"
            case Why.CHANGED:
                return changed_key(self._names[1] if self._names else "")
            case Why.NOT_STORED:
                return "The key could not be stored here"
            case Why.VERSION:
                return "The other side speaks of contacts in another version: update p2p on both ends"
            case _:
                assert_never(why)

    def _explain_peer(self, why: Why) -> str:
        match why:
            case Why.NOT_ASKED:
                return f"{self._friend} did not use {option('--remember')}: it takes both sides"
            case Why.CHANGED:
                me = escape(self._names[0]) if self._names else ""
                return (
                    f"{self._friend} remembers another key of {me} (of another machine, or one that was lost here). "
                    f"{self._friend} has to run `{PEER_PROGRAM} contacts forget {shlex.quote(me)}` first"
                )
            case Why.NOT_STORED:
                return f"{self._friend} could not store the key"
            case Why.VERSION:
                return "The other side does not understand this version of contacts: update p2p on both ends"
            case _:
                assert_never(why)
