"""The exchange of keys between two who want to remember each other, as a pure machine: docs/contacts.md."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from enum import Enum, auto

from p2p.core.contacts import messages
from p2p.core.contacts.keys import ContactKeys
from p2p.core.contacts.messages import Held, Key, Message, No, Why
from p2p.core.datagram import Buffer
from p2p.core.errors import CallerError, DecodeError, RemoteError, VersionError


class State(Enum):
    DEAF = auto()  # we do not remember; the other side has not said that it would
    ASKING = auto()  # the other side's key is not here yet
    HEARD = auto()  # it is here and has to be stored
    HOLDING = auto()  # it is stored; the other side has not said that it holds ours
    REMEMBERED = auto()
    OVER = auto()  # one of the two said no


@dataclass(frozen=True, slots=True)
class Heard:
    """The other side's key, to be stored as not confirmed; `handle_held` or `refuse` answers."""

    public: bytes


@dataclass(frozen=True, slots=True)
class Remembered:
    """Both sides have stored both keys; the one that was stored here is confirmed."""

    public: bytes


@dataclass(frozen=True, slots=True)
class NotRemembered:
    """`by_peer`: the other side says so. What was stored here is not confirmed, and stays so."""

    why: Why
    by_peer: bool


Event = Heard | Remembered | NotRemembered

# What the other side may say in which state, and what follows. A missing row is the other side's fault; what it says
# again must be what it said before.
TRANSITIONS: dict[tuple[State, type[Message]], State] = {
    (State.DEAF, Key): State.OVER,
    (State.DEAF, No): State.DEAF,
    (State.ASKING, Key): State.HEARD,
    (State.ASKING, No): State.OVER,
    (State.HEARD, Key): State.HEARD,
    (State.HEARD, Held): State.HEARD,
    (State.HEARD, No): State.OVER,
    (State.HOLDING, Key): State.HOLDING,
    (State.HOLDING, Held): State.REMEMBERED,
    (State.HOLDING, No): State.OVER,
    (State.REMEMBERED, Key): State.REMEMBERED,
    (State.REMEMBERED, Held): State.REMEMBERED,
    (State.OVER, Key): State.OVER,
    (State.OVER, Held): State.OVER,
    (State.OVER, No): State.OVER,
}


class ContactExchange:
    """One side of it, for as long as the transfer lives; `start_path` begins anew on each path what is not done.

    The other side can make it say nothing but what it would say anyway: at most KEY, HELD and NO, once a path.
    """

    def __init__(self, keys: ContactKeys | None = None) -> None:
        """`keys`: ours for this friend; None where this side does not remember, or not in this session."""
        self._keys = keys
        self._state = State.DEAF if keys is None else State.ASKING
        self._theirs: bytes | None = None
        self._is_held_there = False
        self._is_held_here = False
        self._said_no: Why | None = None
        self._records: deque[bytes] = deque()
        self._events: deque[Event] = deque()

    @property
    def state(self) -> State:
        return self._state

    # commands

    def start_path(self) -> None:
        """There is a path, the first one or another: what was said on the last one may not have arrived."""
        self._records.clear()
        if self._state is State.HEARD and not self._events:  # the word of it went with the last path
            assert self._theirs is not None
            self._events.append(Heard(self._theirs))
        if self._said_no is not None:
            self._records.append(messages.encode(No(self._said_no)))
        elif self._keys is not None and self._state is not State.OVER:
            self._records.append(messages.encode(Key(self._keys.public)))
            if self._is_held_here:
                self._say_held()

    def refuse(self, why: Why) -> None:
        """The key that was heard is not stored."""
        if self._state is State.OVER:
            return
        if self._state is not State.HEARD:
            raise CallerError(f"nothing to refuse while {self._state.name.lower()}")
        self._refuse(why)

    # input

    def handle_held(self) -> None:
        """The key that was heard is on the disk."""
        if self._state is State.OVER:
            return  # the other side said no while it was written
        if self._state is not State.HEARD:
            raise CallerError(f"nothing was to be stored while {self._state.name.lower()}")
        self._is_held_here = True
        self._say_held()
        self._state = State.HOLDING
        if self._is_held_there:
            self._remember()

    def handle_record(self, plaintext: Buffer) -> None:
        """Raises RemoteError if the other side broke the protocol; nothing has changed then."""
        try:
            message = messages.decode(plaintext)
        except VersionError:
            if self._state in (State.DEAF, State.ASKING):
                self._refuse(Why.VERSION)
            return
        state = TRANSITIONS.get((self._state, type(message)))
        if state is None:
            raise RemoteError(f"{type(message).__name__} about contacts while {self._state.name.lower()}")
        match message:
            case Key(public):
                self._handle_key(public, state)
            case Held(proof):
                self._handle_proof(proof)
            case No(why):
                self._handle_no(why, state)

    # output

    def poll_record(self) -> bytes | None:
        return self._records.popleft() if self._records else None

    def poll_event(self) -> Event | None:
        return self._events.popleft() if self._events else None

    # inside

    def _handle_key(self, public: bytes, state: State) -> None:
        if self._theirs is not None and public != self._theirs:
            raise RemoteError("the other side shows two keys for one contact")
        if self._keys is not None:
            self._keys.secret(public)  # raises DecodeError for what is no key
        is_new = self._theirs is None
        self._theirs = public
        if self._state is State.DEAF:
            self._refuse(Why.NOT_ASKED)
            return
        self._state = state
        if is_new and state is State.HEARD:
            self._events.append(Heard(public))

    def _handle_proof(self, proof: bytes) -> None:
        if self._state is State.OVER:
            return
        assert self._keys is not None
        assert self._theirs is not None
        if not self._keys.proves(self._theirs, proof):
            raise DecodeError("the other side's proof of its contact key is not genuine")
        self._is_held_there = True
        if self._state is State.HOLDING:
            self._remember()

    def _handle_no(self, why: Why, state: State) -> None:
        if state is State.OVER and self._state is not State.OVER:
            self._state = state
            self._records.clear()
            self._events.append(NotRemembered(why, by_peer=True))

    def _say_held(self) -> None:
        assert self._keys is not None
        assert self._theirs is not None
        self._records.append(messages.encode(Held(self._keys.proof(self._theirs))))

    def _remember(self) -> None:
        assert self._theirs is not None
        self._state = State.REMEMBERED
        self._events.append(Remembered(self._theirs))

    def _refuse(self, why: Why) -> None:
        self._state = State.OVER
        self._said_no = why
        self._records.append(messages.encode(No(why)))
        self._events.append(NotRemembered(why, by_peer=False))
