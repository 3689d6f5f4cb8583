"""Two who remember each other, their files, and a path between them that can break."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from pathlib import Path

from p2p.core.contacts.exchange import ContactExchange, Heard, NotRemembered, Remembered, State
from p2p.core.contacts.keys import ContactKeys
from p2p.core.contacts.messages import Why
from p2p.core.errors import P2PError
from p2p.io.contacts import ChangedKey, Contact, Contacts


@dataclass
class Side:
    """One of the two: what a run does with contacts, without the run."""

    me: str
    friend: str
    contacts: Contacts
    keys: ContactKeys | None = None
    exchange: ContactExchange = field(default_factory=ContactExchange)
    to_store: bytes | None = None
    held: bytes | None = None
    ends: list[NotRemembered] = field(default_factory=list)

    def begin(self, *, remember: bool = True) -> None:
        self.keys = self.contacts.keys_for(self.me, self.friend) if remember else None
        self.exchange, self.to_store, self.held = ContactExchange(self.keys), None, None

    def take_events(self) -> None:
        while (event := self.exchange.poll_event()) is not None:
            match event:
                case Heard(public):
                    self.to_store = public
                case Remembered(public):
                    self.contacts.confirm(self.me, self.friend, public)
                case NotRemembered(_, by_peer):
                    self.ends.append(event)
                    if by_peer and self.held is not None:
                        self.contacts.drop(self.me, self.friend, self.held)

    def store(self) -> bool:
        """Whether something was to be stored."""
        public, self.to_store = self.to_store, None
        if public is None or self.exchange.state is not State.HEARD:
            return False
        assert self.keys is not None
        try:
            self.contacts.hold(self.me, self.friend, self.keys, public)
        except ChangedKey:
            self.exchange.refuse(Why.CHANGED)
        except P2PError:
            self.exchange.refuse(Why.NOT_STORED)
        else:
            self.held = public
            self.exchange.handle_held()
        self.take_events()
        return True

    @property
    def stored(self) -> Contact | None:
        return self.contacts.find(self.me, self.friend)


class Pair:
    def __init__(self, folder: Path, *, first: int = 0) -> None:
        """`first`: whose turn comes first in `settle` and `step`."""
        names = (("alice", "bob"), ("bob", "alice"))
        self.sides = [Side(me, friend, Contacts(folder / me)) for me, friend in names]
        self.flying: list[deque[bytes]] = [deque(), deque()]  # to each
        self.first = first
        self.said: list[tuple[int, bytes]] = []

    def begin(self, *, remember: tuple[bool, bool] = (True, True)) -> None:
        for side, remembers in zip(self.sides, remember, strict=True):
            side.begin(remember=remembers)
        self.start_path()

    def start_path(self) -> None:
        """A path; what was under way on the last one is lost."""
        for number, side in enumerate(self.sides):
            self.flying[number].clear()
            side.exchange.start_path()
        self._collect()

    def deliver(self, to: int) -> bool:
        if not self.flying[to]:
            return False
        self.sides[to].exchange.handle_record(self.flying[to].popleft())
        self.sides[to].take_events()
        self._collect()
        return True

    def store(self, number: int) -> bool:
        stored = self.sides[number].store()
        self._collect()
        return stored

    def crash(self, number: int, *, remember: bool = True) -> None:
        """The program ends; only the file is left. It begins again."""
        self.sides[number].begin(remember=remember)

    def step(self) -> bool:
        """The next thing that happens by itself."""
        order = (self.first, 1 - self.first)
        return any(self.store(number) for number in order) or any(self.deliver(number) for number in order)

    def settle(self) -> None:
        while self.step():
            pass

    def _collect(self) -> None:
        for number, side in enumerate(self.sides):
            while (record := side.exchange.poll_record()) is not None:
                self.said.append((number, record))
                self.flying[1 - number].append(record)


def assert_consistent(pair: Pair) -> None:
    """Who is certain of the other is right."""
    for side, other in (pair.sides, pair.sides[::-1]):
        mine, theirs = side.stored, other.stored
        if mine is not None and mine.is_confirmed:
            assert theirs is not None
            assert theirs.secret == mine.secret


def assert_both_remember(pair: Pair) -> None:
    contacts = [side.stored for side in pair.sides]
    assert all(contact is not None and contact.is_confirmed for contact in contacts)
    assert_consistent(pair)
