"""The walk over what the person named: entries to send, one batch after another, in a thread (docs/transfer.md)."""

from __future__ import annotations

import os
import stat
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from threading import Event
from typing import Final, NamedTuple, assert_never

from p2p.core.transfer.entries import Entry, File, Folder, Hardlink, Leave, Skipped, Symlink
from p2p.core.transfer.limits import MAX_LINKED, MAX_LISTED
from p2p.core.transfer.names import numbered, portable_component, stays_inside
from p2p.io.sending.sources import Named, Readable, Source, Trouble, kind_of
from p2p.io.sending.visits import Entered, Exclude, Left, Missed, OpenFolder, Seen, trouble_in_between, visits

__all__ = ["Exclude", "Found", "Renamed", "Walk"]

MAX_REPAIRED: Final = 65_536  # names of one folder that are repaired and remembered, some 10 MB; others get a number
LEADS_OUT: Final = Trouble("is a link that leads out of what is sent", "name what it leads to on the command line")
CANNOT_SEND: Final = "only files, folders and links are sent"


class Found(NamedTuple):
    """`source`: the content of a File."""

    entry: Entry
    source: Readable | None


@dataclass(frozen=True, slots=True)
class Renamed:
    """A thing whose name other systems cannot bear, or another thing bears already. `path` begins as it was named."""

    path: str
    sent_as: str


class Walk:
    """Depth first, in the order of names, and never more of it in memory than a batch and the folders above it.

    `take` is for a thread; it reads folders, no content. The rest may be called at any time.
    """

    def __init__(self, named: Sequence[Named], exclude: Exclude) -> None:
        self.renamed: list[Renamed] = []
        """The first MAX_LISTED of them."""
        self.renamed_count = 0
        self._named = named
        self._exclude = exclude
        self._stopped = Event()
        self._number = 0
        self._linked: dict[tuple[int, int], int] = {}
        """Of files with several names: device and inode, and the number of the first."""
        self._found = self._walk()

    def take(self, count: int) -> tuple[list[Found], bool]:
        """The next ones, `count` at most, and whether they were the last."""
        batch = list(islice(self._found, count))
        return batch, len(batch) < count

    def stop(self) -> None:
        """A `take` that is running ends soon; what it returns is of no use."""
        self._stopped.set()

    def close(self) -> None:
        """After `stop`, and when no `take` is running."""
        self._found.close()

    def _walk(self) -> Generator[Found, None, None]:
        for named in self._named:
            if named.name != os.path.basename(os.path.abspath(named.path)):
                self._note(named.path, named.name)
            if named.is_folder:
                yield from self._walk_folder(named)
            else:
                yield self._file(named.name, named.path, named.status, follows=True)

    def _walk_folder(self, named: Named) -> Iterator[Found]:
        with closing(visits(named, self._exclude, self._stopped)) as below:
            for visit in below:
                match visit:
                    case Seen(folder, name, status):
                        yield self._thing(folder, name, status)
                    case Entered(folder, parent):
                        if parent is None:
                            folder.sent_as = named.name
                        else:
                            folder.sent_as = self._name(parent, folder.name)
                        yield self._folder(folder)
                    case Left(folder, trouble):
                        yield Found(Leave(), None)
                        if trouble is not None:
                            yield _skipped(folder.sent_as, trouble)
                    case Missed(folder, name, trouble):
                        yield _skipped(named.name if folder is None else portable_component(name), trouble)
                    case _:
                        assert_never(visit)

    def _folder(self, folder: OpenFolder) -> Found:
        self._number += 1
        status = folder.status
        return Found(Folder(folder.sent_as, _bits(status), _mtime(status)), None)

    def _thing(self, folder: OpenFolder, name: str, status: os.stat_result) -> Found:
        kind = stat.S_IFMT(status.st_mode)
        if kind == stat.S_IFREG:
            return self._file(self._name(folder, name), folder.path + name, status)
        if kind == stat.S_IFLNK:
            return self._symlink(folder, name, status)
        return _skipped(portable_component(name), Trouble(f"is {kind_of(kind)}", CANNOT_SEND))

    def _file(self, sent_as: str, path: str, status: os.stat_result, *, follows: bool = False) -> Found:
        number, is_linked = self._number, status.st_nlink > 1
        self._number += 1
        if is_linked:
            identity = (status.st_dev, status.st_ino)
            if (first := self._linked.get(identity)) is not None:
                return Found(Hardlink(sent_as, first), None)
            is_linked = len(self._linked) < MAX_LINKED
            if is_linked:
                self._linked[identity] = number
        entry = File(sent_as, _bits(status), _mtime(status), status.st_size, is_linked)
        return Found(entry, Source(number, path, status, follows=follows))

    def _symlink(self, folder: OpenFolder, name: str, status: os.stat_result) -> Found:
        try:
            target = portable_target(os.readlink(name, dir_fd=folder.fd))
        except OSError as error:
            return _skipped(portable_component(name), trouble_in_between(error))
        if not stays_inside(target, folder.depth):
            return _skipped(portable_component(name), LEADS_OUT)
        self._number += 1
        return Found(Symlink(self._name(folder, name), _mtime(status), target), None)

    def _name(self, folder: OpenFolder, name: str) -> str:
        """What a thing in `folder` is sent as. Only names that are repaired can meet others, so only they are kept."""
        portable = portable_component(name)
        if portable == name:
            return name
        sent_as, repaired = portable, folder.repaired
        number = repaired.get(portable, 0)
        if len(repaired) >= MAX_REPAIRED:
            number += self._number
            sent_as = numbered(portable, number)
        while sent_as in repaired or sent_as in folder:
            number += 1
            sent_as = numbered(portable, number)
        if len(repaired) < MAX_REPAIRED:
            repaired[portable] = number
            repaired[sent_as] = 0
        self._note(folder.path + name, sent_as)
        return sent_as

    def _note(self, path: str, sent_as: str) -> None:
        self.renamed_count += 1
        if len(self.renamed) < MAX_LISTED:
            self.renamed.append(Renamed(path, sent_as))


def portable_target(target: str) -> str:
    """Where a link leads among names that were repaired."""
    return "/".join(part if part in ("", ".", "..") else portable_component(part) for part in target.split("/"))


def _skipped(name: str, trouble: Trouble) -> Found:
    return Found(Skipped(name, str(trouble), trouble.exit_code), None)


def _bits(status: os.stat_result) -> int:
    return status.st_mode & 0o777


def _mtime(status: os.stat_result) -> int:
    """What fits the wire: some file systems hold dates beyond."""
    return max(-(2**63), min(status.st_mtime_ns, 2**63 - 1))
