"""The records of one direction, over all paths of a transfer (docs/transfer.md, "The path was lost")."""

from __future__ import annotations

from collections import deque
from typing import Generic, TypeVar

from p2p.core.errors import RemoteError
from p2p.core.transfer import messages
from p2p.core.transfer.limits import TAKEN_EVERY
from p2p.core.transfer.messages import Continue, Keepalive, Message, Taken

Item = TypeVar("Item")


class Records(Generic[Item]):
    """What this side says, and what of it the other side has.

    Numbered records are kept until the other side has TAKEN them; after `go_on`, those that it has not are said again.
    What is kept is the record, or an `Item` from which the owner makes it once more: `repeated` is such a one.
    """

    def __init__(self) -> None:
        self._queue: deque[bytes] = deque()
        self._kept: deque[bytes | Item] = deque()
        self._again: deque[bytes | Item] = deque()
        self._confirmed = 0
        self._taken = 0  # of the other side's
        self._told = 0
        self._is_held = False  # until the other side's CONTINUE

    def __bool__(self) -> bool:
        """Whether anything is to be said before something new."""
        return self._is_held or bool(self._queue) or bool(self._again)

    @property
    def is_held(self) -> bool:
        """Whether the other side has to say first what it has."""
        return self._is_held

    @property
    def kept(self) -> deque[bytes | Item]:
        return self._kept

    @property
    def repeated(self) -> deque[bytes | Item]:
        """What is said again, next first. An Item at the front is taken off by the owner, who makes its record."""
        return self._again

    def say(self, message: Message) -> None:
        self._queue.append(messages.encode(message))

    def keep(self, item: bytes | Item) -> None:
        """A numbered record went out that did not come from `poll`."""
        self._kept.append(item)

    def go_on(self) -> None:
        """There is a new path."""
        self._again.clear()
        self._is_held = True
        self._told = self._taken
        numbered = [record for record in self._queue if messages.is_numbered(record)]
        self._queue = deque([messages.encode(Continue(self._taken)), *numbered])

    def clear(self) -> None:
        self._queue.clear()
        self._again.clear()
        self._is_held = False

    def poll(self) -> bytes | None:
        if self._queue and not messages.is_numbered(self._queue[0]):  # CONTINUE goes before all that it announces
            return self._queue.popleft()
        if self._is_held:
            return None
        if self._again:
            record = self._again[0]
            if not isinstance(record, bytes):
                return None
            self._again.popleft()
            return record
        if not self._queue:
            return None
        record = self._queue.popleft()
        self._kept.append(record)
        return record

    def handle(self, message: Message) -> bool:
        """Looks at what the other side says. Returns whether that was about records only. Raises RemoteError."""
        match message:
            case Keepalive():
                return True
            case Continue(records):
                if not self._is_held:
                    raise RemoteError("CONTINUE in the middle of a path")
                self._confirm(records)
                self._is_held = False
                self._again = deque(self._kept)
                return True
            case _ if self._is_held:
                raise RemoteError(f"{type(message).__name__} where CONTINUE was due")
            case Taken(records):
                self._confirm(records)
                return True
        self._taken += 1
        if self._taken >= self._told + TAKEN_EVERY:
            self._told = self._taken
            self.say(Taken(self._taken))
        return False

    def _confirm(self, records: int) -> None:
        arrived = records - self._confirmed
        if not 0 <= arrived <= len(self._kept):
            raise RemoteError(f"{records} records are confirmed; {self._confirmed + len(self._kept)} were sent")
        for _ in range(arrived):
            self._kept.popleft()
        self._confirmed = records
