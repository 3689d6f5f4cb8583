"""The records of one direction, over all paths of a transfer (docs/transfer.md, "The path was lost")."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from itertools import chain
from typing import Generic, TypeVar

from p2p.core.errors import RemoteError
from p2p.core.transfer import codec
from p2p.core.transfer.limits import MAX_KEPT, MAX_UNTAKEN, MAX_UNTAKEN_SIZE, TAKEN_EVERY
from p2p.core.transfer.messages import Continue, Keepalive, Message, Taken

Item = TypeVar("Item")


class Records(Generic[Item]):
    """What this side says, and what of it the other side has.

    Numbered records are kept until the other side has TAKEN them; after `go_on`, those that it has not are said again.
    What is kept is the record, or an `Item` from which the owner makes it once more: `repeated` is such a one.
    """

    def __init__(self, *, waits: bool) -> None:
        """`waits`: says nothing more while MAX_KEPT records are not TAKEN. Who answers cannot wait: he would hear no
        TAKEN behind what he does not take. He ends it at MAX_UNTAKEN and MAX_UNTAKEN_SIZE.
        """
        self._waits = waits
        self._queue: deque[bytes] = deque()
        self._kept: deque[bytes | Item] = deque()
        self._kept_size = 0  # bytes, of who does not wait
        self._again: deque[bytes | Item] = deque()
        self._confirmed = 0
        self._taken = 0  # of the other side's
        self._told = 0
        self._is_due = False  # TAKEN, before its time
        self._opens = False  # with CONTINUE
        self._is_held = False  # until the other side's CONTINUE

    def __bool__(self) -> bool:
        """Whether anything is to be said before something new."""
        return self.is_held or bool(self._queue) or bool(self._again)

    @property
    def is_held(self) -> bool:
        """Whether both sides have to say first what they have."""
        return self._opens or self._is_held

    @property
    def awaits_continue(self) -> bool:
        """Whether CONTINUE is due from the other side; nothing that is queued goes out before."""
        return self._is_held

    @property
    def is_full(self) -> bool:
        """Whether the other side has to say that it took something before more is made."""
        return self._waits and len(self._kept) >= MAX_KEPT

    @property
    def queued(self) -> int:
        return len(self._queue)

    @property
    def is_confirmed(self) -> bool:
        """Whether the other side has taken all that was said."""
        return not self and not self._kept

    @property
    def kept(self) -> deque[bytes | Item]:
        return self._kept

    @property
    def repeated(self) -> deque[bytes | Item]:
        """What is said again, next first. An Item at the front is taken off by the owner, who makes its record."""
        return self._again

    @property
    def unsaid(self) -> Iterator[bytes | Item]:
        """What is still to be said on this path."""
        return chain(self._again, self._queue)

    def say(self, message: Message | bytes) -> None:
        """`message` may be encoded already."""
        self._queue.append(message if isinstance(message, bytes) else codec.encode(message))

    def keep(self, item: bytes | Item) -> bool:
        """A numbered record was made that does not come from `poll`. Returns whether it is to go out now.

        Else there is another path by now, on which it is said again after what comes before it.
        """
        self._kept.append(item)
        if self._is_held:
            return False
        if self._again or self._opens:
            self._again.append(item)
            return False
        return True

    def tell(self) -> None:
        """Says TAKEN with the next record: there may be no later one."""
        self._is_due = True

    def withdraw(self, is_void: Callable[[bytes | Item], bool], instead: bytes | None = None) -> None:
        """What is void of that which was not said on this path will not be; `instead`, if any, is said first."""
        first = len(self._kept) - len(self._again)
        again = [item for item in self._again if not is_void(item)]
        if instead is not None:
            again.insert(0, instead)
        self._kept = deque([*list(self._kept)[:first], *again])
        self._again = deque(again)
        self._queue = deque(record for record in self._queue if not is_void(record))

    def go_on(self) -> None:
        """There is a new path."""
        self._again.clear()
        self._opens = self._is_held = True
        self._is_due = False
        self._told = self._taken  # CONTINUE says as much

    def clear(self) -> None:
        self._queue.clear()
        self._again.clear()
        self._opens = self._is_held = self._is_due = False
        self._told = self._taken

    def poll(self) -> bytes | None:
        """The next record but an Item at the front of `repeated`. What is not numbered overtakes all that is."""
        if self._opens:
            self._opens = False
            return codec.encode(Continue(self._taken))
        if self._is_due or self._taken >= self._told + TAKEN_EVERY:
            self._is_due, self._told = False, self._taken
            return codec.encode(Taken(self._taken))
        if self._is_held:
            return None
        if self._again:
            record = self._again[0]
            if not isinstance(record, bytes):
                return None
            self._again.popleft()
            return record
        if not self._queue or (self.is_full and codec.is_numbered(self._queue[0])):
            return None
        record = self._queue.popleft()
        self._kept.append(record)
        self._kept_size += 0 if self._waits else len(record)
        return record

    def handle(self, message: Message) -> bool:
        """Looks at what the other side says. Returns whether that was about records only. Raises RemoteError."""
        if self._is_held or isinstance(message, (Continue, Taken, Keepalive)):
            return self._handle_confirmation(message)
        if len(self._kept) > MAX_UNTAKEN or self._kept_size > MAX_UNTAKEN_SIZE:
            raise RemoteError(f"{len(self._kept)} records were said, and none was taken")
        self._taken += 1
        return False

    def _handle_confirmation(self, message: Message) -> bool:
        match message:
            case Keepalive():
                pass
            case Continue(records):
                if not self._is_held:
                    raise RemoteError("CONTINUE in the middle of a path")
                self._confirm(records, len(self._kept))
                self._is_held = False
                self._again = deque(self._kept)
            case _ if self._is_held:
                raise RemoteError(f"{type(message).__name__} where CONTINUE was due")
            case Taken(records):
                self._confirm(records, len(self._kept) - len(self._again))
        return True

    def _confirm(self, records: int, most: int) -> None:
        arrived = records - self._confirmed
        if not 0 <= arrived <= most:
            raise RemoteError(f"{records} records are confirmed; {self._confirmed + most} were sent")
        for _ in range(arrived):
            item = self._kept.popleft()
            self._kept_size -= 0 if self._waits or not isinstance(item, bytes) else len(item)
        self._confirmed = records
