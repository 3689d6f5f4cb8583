"""What is remembered of transfers that have not ended (docs/transfer.md, "The same command again")."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from blake3 import blake3

from p2p.core.errors import P2PError
from p2p.core.text import escape
from p2p.io.locks import try_lock
from p2p.io.receiving.journal_file import Journal, NoJournal
from p2p.io.receiving.journal_rows import (
    Node,
    Place,
    Row,
    VersionMismatch,
    is_damage,
    lock_file,
    read_parts,
    remove_files,
    remove_parts,
)
from p2p.io.state import StateError, open_folder, private_folder, why

__all__ = ["Journal", "JournalInUse", "Journals", "Node", "Row"]

MAX_JOURNALS: Final = 64  # strangers' transfers that were accepted and did not end; the oldest go
MAX_AGE: Final = 30 * 86_400  # seconds since anything was noted in it
FOLDER: Final = "journals"


class JournalInUse(P2PError):
    """Another program on this machine receives the same into the same folder. str() is for the person here.

    It is to end the run, like a folder that cannot be written. Going on without a journal would take everything again
    under other names; but who runs a command again wants to go on, and does not know that the first one still runs.
    """

    public: Final = "another program on the receiver's machine is receiving this already"


class Journals:
    """All journals of this machine, in the state folder. Only of trees: a pipe does not begin again where it ended."""

    def __init__(self, folder: Path, clock: Callable[[], float] = time.time) -> None:
        self.notes: list[str] = []
        """Sentences for the screen: what could not be used, and why. The caller empties it."""
        self._folder = folder / FOLDER
        self._clock = clock
        self._held: dict[Path, Journal] = {}

    def find(self, token: bytes, directory: Path) -> Journal | None:
        """That of an earlier run that did not end, if it remembers anything. Raises JournalInUse, nothing else."""
        with contextlib.suppress(OSError, StateError):
            place = Place.of(directory)
            file = self._file(token, place)
            if os.path.lexists(file):
                journal = self._open(file, place)
                if not journal.is_empty:
                    return journal
                journal.close()
        return None

    def begin(self, token: bytes, directory: Path) -> Journal:
        """A journal to write in: that of the earlier run, else a new one. Raises JournalInUse, nothing else.

        Where none can be made, it is one that forgets everything, and its `failure` says why.
        """
        try:
            private_folder(self._folder)
            place = Place.of(directory)
            file = self._file(token, place)
            self._sweep(file)
            return self._open(file, place)
        except (OSError, StateError) as error:
            return NoJournal(why(error))

    def parts_in(self, directory: Path | int) -> frozenset[str] | None:
        """The temporary names there that some journal still needs. None: one cannot be asked now. Thread-safe."""
        names: set[str] = set()
        for file in self._files_of(directory):
            try:
                names.update(read_parts(file)[1])
            except FileNotFoundError:  # done meanwhile
                pass
            except (OSError, sqlite3.Error) as error:
                if not is_damage(error):  # else it will be found out when it is used
                    return None
        return frozenset(names)

    def discard(self, directory: Path) -> int:
        """Forgets all journals of that folder and removes the parts they name. Returns how many it forgot.

        Raises JournalInUse if one of them is being written; the others are gone then.
        """
        forgotten = 0
        in_use: JournalInUse | None = None
        for file in self._files_of(directory):
            try:
                forgotten += self._forget(file)
            except JournalInUse as error:
                in_use = error
        if in_use is not None:
            raise in_use
        return forgotten

    def _file(self, token: bytes, place: Place) -> Path:
        return self._folder / f"{_name_of(place)}-{blake3(token).hexdigest(16)}.db"

    def _files_of(self, directory: Path | int) -> list[Path]:
        with contextlib.suppress(OSError):
            return sorted(self._folder.glob(f"{_name_of(Place.of(directory))}-*.db"))
        return []

    def _open(self, file: Path, place: Place) -> Journal:
        """Raises JournalInUse, OSError."""
        held = self._held.get(file)
        if held is not None and held.is_held:
            return held
        lock = _lock(lock_file(file))
        try:
            self._held[file] = journal = self._open_locked(file, place, lock)
        except BaseException:
            os.close(lock)
            raise
        return journal

    def _open_locked(self, file: Path, place: Place, lock: int) -> Journal:
        """What cannot be used is put aside, once. Raises OSError."""
        where = escape(place.path)
        for is_last in (False, True):
            with contextlib.suppress(FileExistsError):
                os.close(os.open(file, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600))
                _sync(self._folder)
            try:
                return Journal(file, place, lock, _put_aside)
            except VersionMismatch:
                self.notes.append(f"What another version of this program remembers of {where} is not used")
                remove_files(file, with_lock=False)
            except sqlite3.Error as error:
                if is_last or not is_damage(error):
                    raise OSError(f"the journal of {where} cannot be used: {error}") from error
                kept = escape(str(_damaged(file)))
                self.notes.append(f"What is remembered of {where} is damaged, and not used; it is kept as {kept}")
                _put_aside(file)
        raise OSError(f"the journal of {where} cannot be used")

    def _sweep(self, kept: Path) -> None:
        """Removes what is too old or too many, with its parts, except `kept`. Raises OSError."""
        changes: dict[Path, float] = {kept: 0.0}
        for path in self._folder.iterdir():
            file = self._folder / f"{path.name.partition('.')[0]}.db"  # each has others beside it, or only those left
            with contextlib.suppress(OSError):
                changes[file] = max(changes.get(file, 0.0), path.lstat().st_mtime)
        del changes[kept]
        earliest = self._clock() - MAX_AGE
        newest_first = sorted(changes, key=lambda file: changes[file], reverse=True)
        for number, file in enumerate(newest_first):
            if number >= MAX_JOURNALS - 1 or changes[file] < earliest:
                with contextlib.suppress(JournalInUse):
                    self._forget(file)

    def _forget(self, file: Path) -> bool:
        """Returns whether it was there. Raises JournalInUse."""
        try:
            lock = _lock(lock_file(file))
        except OSError:
            return False
        try:
            with contextlib.suppress(OSError, sqlite3.Error):  # damaged: its parts are swept up, for nothing names them
                path, parts = read_parts(file)
                with open_folder(Path(path)) as directory:
                    if file.name.startswith(_name_of(Place.of(directory))):
                        remove_parts(directory, parts)
            was_there = os.path.lexists(file)
            with contextlib.suppress(OSError):
                os.unlink(_damaged(file))
            remove_files(file)
        finally:
            os.close(lock)
        return was_there


def _name_of(place: Place) -> str:
    name: str = blake3(b"".join(number.to_bytes(8, "big") for number in place.identity)).hexdigest(8)
    return name


def _lock(path: Path) -> int:
    """The descriptor that holds it. Raises JournalInUse, OSError."""
    while True:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            if try_lock(fd) is False:
                who = os.pread(fd, 20, 0).decode("ascii", "replace")
                process = f" (process {who})" if who.isdigit() else ""
                raise JournalInUse(
                    f"Another p2p{process} is receiving this into the same folder: wait until it ends, or stop it"
                )
            if os.fstat(fd).st_nlink:  # else the one before us has removed it with its journal
                os.ftruncate(fd, 0)
                os.pwrite(fd, str(os.getpid()).encode(), 0)
                return fd
        except BaseException:
            os.close(fd)
            raise
        os.close(fd)


def _put_aside(file: Path) -> None:
    """For whoever wants to know what happened to it. Only the last one of a name is kept."""
    with contextlib.suppress(OSError):
        os.replace(file, _damaged(file))
    remove_files(file, with_lock=False)


def _damaged(file: Path) -> Path:
    return file.with_suffix(".damaged")


def _sync(folder: Path) -> None:
    with contextlib.suppress(OSError), open_folder(folder) as descriptor:
        os.fsync(descriptor)
