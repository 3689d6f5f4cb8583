"""One journal: an SQLite file that says of each path of a transfer in which inode it lies.

What is durable when: everything noted is in the kernel's hands at once, and so survives the end of this program, unless
another thread waits for the disk just then: then it is once that one has it. `note_named`, and with it all that was
noted before, survives a power cut too, for it waits for the disk (WAL mode, synchronous=FULL).

What is read back is a hint and nothing more: names are single components, to be opened by descriptor, and whoever opens
one compares its inode, and then its content.

Measured with two busy processors: `note_named` in batches of 64, 12,000 rows a second on ext4, 40,000 on tmpfs;
`note_part` 16,000; `find` 16,000 to 30,000. A row takes 80 bytes, a million of them no more memory than a thousand.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from p2p.core.transfer.names import is_temporary
from p2p.io.receiving.journal_rows import (
    SCHEMA,
    VERSION,
    Node,
    Place,
    Row,
    VersionMismatch,
    component,
    connect,
    encoded,
    is_damage,
    key_of,
    parts_of,
    remove_files,
    remove_parts,
    signed,
    unsigned,
)
from p2p.io.state import open_folder

CHECKPOINT_EVERY: Final = 1024  # notes, by whoever waits for the disk anyway
MAX_UNCHECKED: Final = 4096  # notes in the WAL file, some 50 MB at worst; then they wait for such a one
MAX_PENDING: Final = 4096  # notes that wait while the disk is busy: as many as files can be announced
CLOSE_PATIENCE: Final = 5.0  # seconds; a disk that hangs does not keep the program from ending

_FIND = """
SELECT n.name, n.device, n.inode, p.part, p.device, p.inode, p.old_device, p.old_inode, n.mtime,
       p.old_mtime
FROM (SELECT ?1 AS key) AS k
LEFT JOIN named AS n ON n.key = k.key AND n.run < ?2 LEFT JOIN parts AS p ON p.key = k.key AND p.run < ?2
"""
_NOTE_NAMED = "INSERT OR REPLACE INTO named VALUES (?, ?, ?, ?, ?, ?)"
_NOTE_PART = "INSERT OR REPLACE INTO parts VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
_DROP_PART = "DELETE FROM parts WHERE key = ?"

Statement = tuple[str, tuple[Any, ...]]


class Journal:
    """Of one transfer into one folder. Thread-safe; no method raises.

    After an error of the disk it forgets what comes, and `failure` is a sentence for the screen. `find` knows what
    earlier runs noted, not what this one did.
    """

    def __init__(self, file: Path, place: Place, lock: int, on_damage: Callable[[Path], None]) -> None:
        """Opens the file, or begins it if it is empty. Raises sqlite3.Error, OSError, VersionMismatch.

        `lock` is the descriptor that keeps other programs away, owned from now on.
        """
        self.failure: str | None = None
        self._file, self._place, self._lock, self._on_damage = file, place, lock, on_damage
        self._is_open = True
        self._run = 0
        self._pending: deque[Statement] = deque()
        self._last_named: list[bytes] = []
        self._since_checkpoint = 0
        self._writing, self._reading = threading.Lock(), threading.Lock()
        self._writer = connect(file)
        try:
            self._begin()
            self._reader = connect(file)
        except BaseException:
            self._writer.close()
            raise

    @property
    def is_held(self) -> bool:
        """Whether it keeps other programs from this journal: until `finish` or `close`."""
        return self._lock >= 0

    @property
    def is_empty(self) -> bool:
        """Whether nothing is noted in it."""
        row = self._read("SELECT EXISTS (SELECT 1 FROM named) OR EXISTS (SELECT 1 FROM parts)", ())
        return row is None or not row[0]

    def find(self, path: str) -> Row | None:
        """What an earlier run has noted of a path."""
        found = self._read(_FIND, (key_of(path), self._run_now))
        if found is None:
            return None
        name, part = component(found[0]), component(found[3])
        named = self._node(*found[1:3]) if name is not None else None
        mtime_ns = found[8] if isinstance(found[8], int) else None
        if part is None or not is_temporary(part):
            return None if named is None else Row(path, name, None, *named, mtime_ns=mtime_ns)
        node, replaces, old_mtime_ns = self._node(*found[4:6]), None, None
        if found[7] is not None:
            replaces, old_mtime_ns = self._node(*found[6:8]), found[9] if isinstance(found[9], int) else None
        elif named is not None and named != node:
            replaces, old_mtime_ns = named, mtime_ns
        return Row(path, name, part, *node, replaces, mtime_ns, old_mtime_ns)

    def note_folder(self, path: str, name: str, status: os.stat_result) -> bool:
        """Returns whether it is remembered, as all of these do."""
        row = (key_of(path), encoded(name), *self._stored(Node(status.st_dev, status.st_ino)), None, self._run_now)
        return self._note((_NOTE_NAMED, row))

    def note_part(
        self,
        path: str,
        part: str,
        status: os.stat_result,
        replaces: Node | None = None,
        old_mtime_ns: int | None = None,
    ) -> bool:
        """A file begins in this part; True: it may stay when the run ends. `replaces`: what it takes the place of, and
        when that was modified.
        """
        old = (None, None) if replaces is None else self._stored(replaces)
        node = self._stored(Node(status.st_dev, status.st_ino))
        return self._note((_NOTE_PART, (key_of(path), encoded(part), *node, *old, old_mtime_ns, self._run_now)))

    def drop_part(self, path: str) -> bool:
        """The part of this path is no more."""
        return self._note((_DROP_PART, (key_of(path),)))

    def note_named(self, rows: Sequence[Row]) -> bool:
        """These are whole, and get their names next; those of the call before have theirs. Blocks on the disk.

        Durable when it returns, and so is everything noted before. `part` and `replaces` of a row do not count.
        """
        if not self._is_open:
            return False
        keys = [key_of(row.path) for row in rows]
        notes = [
            (key, encoded(row.name or ""), *self._stored(Node(row.device, row.inode)), row.mtime_ns, self._run)
            for key, row in zip(keys, rows, strict=True)
        ]
        with self._writing, self._guarded():
            self._writer.execute("PRAGMA synchronous = FULL")
            with self._transaction():
                self._write_pending()
                self._writer.executemany(_DROP_PART, [(key,) for key in self._last_named])
                self._writer.executemany(_NOTE_NAMED, notes)
            self._writer.execute("PRAGMA synchronous = NORMAL")
            self._last_named = keys
            self._since_checkpoint += len(keys)
            self._checkpoint(CHECKPOINT_EVERY)
        self._drain(0)
        return self._is_open

    def finish(self) -> None:
        """The transfer is done: removes the journal, and parts of files that are no longer sent. Raises nothing."""
        if not self.is_held:
            return
        with contextlib.suppress(OSError, sqlite3.Error), open_folder(Path(self._place.path)) as directory:
            if Place.of(directory).identity == self._place.identity:
                with self._reading:
                    parts = parts_of(self._reader)
                remove_parts(directory, parts)
        self._end(is_to_go=True)

    def close(self) -> None:
        """Leaves it for the next run, unless there is nothing in it."""
        if self.is_held:
            self._drain(CLOSE_PATIENCE)
            self._end(is_to_go=self._is_open and self.is_empty)

    @property
    def _run_now(self) -> int:
        return self._run if self._is_open else 0

    def _begin(self) -> None:
        """Raises sqlite3.Error, VersionMismatch."""
        writer = self._writer
        with self._transaction():
            version = writer.execute("PRAGMA user_version").fetchone()[0]
            if not version and not writer.execute("SELECT COUNT(*) FROM sqlite_master").fetchone()[0]:
                for statement in SCHEMA:
                    writer.execute(statement)
            elif version != VERSION:
                raise VersionMismatch
            writer.execute("UPDATE place SET path = ?, run = run + 1", (os.fsencode(self._place.path),))
            row = writer.execute("SELECT run FROM place").fetchone()
            if row is None or not isinstance(row[0], int):
                raise VersionMismatch
            self._run = row[0]

    def _note(self, statement: Statement) -> bool:
        """Waits for the disk only when MAX_PENDING have gathered."""
        if self._is_open:
            self._pending.append(statement)
            if len(self._pending) > MAX_PENDING:
                self._drain(-1)
            elif self._since_checkpoint < MAX_UNCHECKED:
                self._drain(0)
        return self._is_open

    def _drain(self, patience: float) -> None:
        """Whoever has the file writes what all others have noted meanwhile; so nobody waits for him.

        Waits for `patience` seconds, for ever if it is -1.
        """
        while self._is_open and self._pending and self._writing.acquire(timeout=patience):
            try:
                with self._guarded():
                    with self._transaction():
                        self._write_pending()
                    if patience:
                        self._checkpoint(MAX_UNCHECKED)
            finally:
                self._writing.release()

    def _write_pending(self) -> None:
        for _ in range(len(self._pending)):
            self._writer.execute(*self._pending.popleft())
            self._since_checkpoint += 1

    def _checkpoint(self, after: int) -> None:
        if self._since_checkpoint >= after:
            self._writer.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
            self._since_checkpoint = 0

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        self._writer.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            with contextlib.suppress(sqlite3.Error):
                self._writer.execute("ROLLBACK")
            raise
        self._writer.execute("COMMIT")

    def _read(self, query: str, values: tuple[Any, ...]) -> tuple[Any, ...] | None:
        row: tuple[Any, ...] | None = None
        if self._is_open:
            with self._reading, self._guarded():
                row = self._reader.execute(query, values).fetchone()
        return row

    @contextlib.contextmanager
    def _guarded(self) -> Iterator[None]:
        """An error ends what is remembered, and nothing else."""
        try:
            yield
        except (sqlite3.Error, OSError, OverflowError, ValueError) as error:
            if not self._is_open:
                return  # it was closed in the meantime
            self._is_open = False
            self._pending.clear()
            self.failure = f"After an interruption this cannot be gone on with, for its journal fails: {error}"
            if is_damage(error):
                self._on_damage(self._file)

    def _end(self, *, is_to_go: bool) -> None:
        self._is_open = False
        if self._writing.acquire(timeout=CLOSE_PATIENCE):
            with self._reading:
                for connection in (self._reader, self._writer):
                    with contextlib.suppress(sqlite3.Error):
                        connection.close()
            self._writing.release()
        if is_to_go or not os.path.lexists(self._file):
            remove_files(self._file)
        os.close(self._lock)
        self._lock = -1

    def _stored(self, node: Node) -> tuple[int, int]:
        """The device is another number after a restart: 0 stands for that of the folder."""
        if not self._is_open:
            return 0, 0
        return 0 if node.device == self._place.device else signed(node.device), signed(node.inode)

    def _node(self, device: int, inode: int) -> Node:
        return Node(unsigned(device) or self._place.device, unsigned(inode))


class NoJournal(Journal):
    """One that forgets everything, where none can be made."""

    def __init__(self, why: str) -> None:
        self.failure = f"After an interruption this cannot be gone on with, for {why}"
        self._is_open, self._lock = False, -1
