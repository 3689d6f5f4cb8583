"""How much there is to send: a second walk, in a thread of its own, for nothing but numbers (docs/transfer.md)."""

from __future__ import annotations

import os
import selectors
import stat
from collections.abc import Generator, Sequence
from concurrent.futures import Future
from itertools import islice
from threading import Event
from typing import Final

from p2p.core.transfer.limits import MAX_LINKED
from p2p.core.transfer.messages import Totals
from p2p.io.sending.sources import Named
from p2p.io.sending.visits import Entered, Exclude, OpenFolder, Seen, visits
from p2p.io.sparse import holes_in
from p2p.io.worker import Worker

CLOSE_PATIENCE: Final = 0.1  # seconds for a folder that is being read; one on a dead network disk is not waited for
_SENT: Final = frozenset([stat.S_IFREG, stat.S_IFLNK])
BATCH: Final = 2000  # things that are looked at before the numbers are told: some 10 ms


class Count:
    """Files, their bytes and holes, folders and links, as the walk will send them. A call of `step` is for a thread."""

    def __init__(self, named: Sequence[Named], exclude: Exclude) -> None:
        self._named = named
        self._exclude = exclude
        self._stopped = Event()
        self._linked: set[tuple[int, int]] = set()
        self._files = self._size = self._others = self._holes = 0
        self._things = self._look()

    def step(self, count: int) -> Totals:
        """Looks at `count` more things, and returns what there is up to them."""
        seen = 0
        for seen, thing in enumerate(islice(self._things, count), start=1):  # noqa: B007
            status = thing.status
            if not stat.S_ISREG(status.st_mode) or (status.st_nlink > 1 and not self._is_first(status)):
                self._others += 1
                continue
            self._files += 1
            self._size += status.st_size
            if isinstance(thing, Seen):
                self._holes += holes_in(thing.name, thing.folder.fd, status)
            elif isinstance(thing, Named):
                self._holes += holes_in(thing.path, None, status, follows=True)
        return Totals(self._files, self._size, seen < count, self._others, self._holes)

    def stop(self) -> None:
        """A `step` that is running ends soon."""
        self._stopped.set()

    def close(self) -> None:
        """After `stop`, and when no `step` is running."""
        self._things.close()

    def _look(self) -> Generator[Named | Seen | OpenFolder, None, None]:
        for named in self._named:
            if not named.is_folder:
                yield named
                continue
            below = visits(named, self._exclude, self._stopped)
            try:
                for visit in below:
                    if isinstance(visit, Entered):
                        yield visit.folder
                    elif isinstance(visit, Seen) and stat.S_IFMT(visit.status.st_mode) in _SENT:
                        yield visit
            finally:
                below.close()

    def _is_first(self, status: os.stat_result) -> bool:
        """Whether no other name of it was seen, as far as the walk remembers them."""
        identity = (status.st_dev, status.st_ino)
        if identity in self._linked:
            return False
        if len(self._linked) < MAX_LINKED:
            self._linked.add(identity)
        return True


class Counter:
    """Counts beside a loop, a batch at a time, from the start on."""

    def __init__(self, named: Sequence[Named], exclude: Exclude, selector: selectors.BaseSelector) -> None:
        self.totals = Totals(0, 0, is_final=False)
        self._count = Count(named, exclude)
        self._worker = Worker("p2p-counter")
        self._selector = selector
        selector.register(self._worker.fileno(), selectors.EVENT_READ, self._handle_readable)
        self._go_on()

    def close(self) -> None:
        self._selector.unregister(self._worker.fileno())
        self._count.stop()
        if self._worker.close(CLOSE_PATIENCE):
            self._count.close()

    def _handle_readable(self, _: int) -> None:
        self._worker.handle_readable()

    def _go_on(self) -> None:
        self._worker.submit(self._count.step, BATCH, done=self._take)

    def _take(self, outcome: Future[Totals]) -> None:
        self.totals = outcome.result()
        if not self.totals.is_final:
            self._go_on()
