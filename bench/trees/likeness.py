"""Whether what arrived is what was sent: every name, kind, mode, time, link, hole and byte."""

from __future__ import annotations

import os
import stat
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from blake3 import blake3

from bench.trees.forest import ISLANDS
from bench.trees.sides import Verdict
from p2p.core.transfer.messages import PIECE

READ = 1 << 20  # bytes at a time; mapped into memory instead, a hole on tmpfs would fill it
BLOCK = 512  # bytes; what st_blocks counts
SPARE = ISLANDS * PIECE  # bytes that a file may take more than it took: data ends with a piece
EXAMPLES = 3  # of each difference, told by name

Groups = dict[tuple[int, int], set[bytes]]  # by device and inode


@dataclass(slots=True)
class Likeness:
    """Of two trees. `renamed`: names of the first that are others in the second; `umask` of who made that."""

    renamed: Mapping[bytes, bytes]
    umask: int
    compared: Counter[str] = field(default_factory=Counter)
    """How many of each kind."""
    differences: dict[str, list[str]] = field(default_factory=dict)
    """In what, and which."""

    def compare(self, source: Path, copy: Path) -> None:
        """All that is below both, and the two folders themselves."""
        there = {path: status for path, status, _ in _walk(os.fsencode(copy))}
        ours: Groups = {}
        theirs: Groups = {}
        for path, status, whole in _walk(os.fsencode(source)):
            arrived = self._renamed(path)
            found = there.pop(arrived, None)
            if found is None:
                self._differ("missing", path)
                continue
            self._compare(path, whole, status, os.path.join(os.fsencode(copy), arrived), found)
            if stat.S_ISREG(status.st_mode):
                ours.setdefault((status.st_dev, status.st_ino), set()).add(arrived)
                theirs.setdefault((found.st_dev, found.st_ino), set()).add(arrived)
        for path in there:
            self._differ("not sent", path)
        several = [{frozenset(group) for group in groups.values() if len(group) > 1} for groups in (ours, theirs)]
        self.compared["hard link groups"] = len(several[0])
        for group in several[0] ^ several[1]:
            self._differ("hard links", min(group))

    def verdict(self) -> Verdict:
        counted = ", ".join(f"{count:,} {what}" for what, count in self.compared.items())
        if not self.differences:
            return Verdict("the same on both sides", counted, holds=True)
        told = (f"{what}: {len(which)} ({', '.join(which[:EXAMPLES])})" for what, which in self.differences.items())
        return Verdict("the same on both sides", "; ".join(told), holds=False)

    def _compare(self, path: bytes, source: bytes, status: os.stat_result, copy: bytes, found: os.stat_result) -> None:
        kind = stat.S_IFMT(status.st_mode)
        if kind != stat.S_IFMT(found.st_mode):
            self._differ("kind", path)
            return
        if status.st_mtime_ns != found.st_mtime_ns:
            self._differ("time", path)
        if kind == stat.S_IFLNK:
            self.compared["symbolic links"] += 1
            if self._renamed(os.readlink(source)) != os.readlink(copy):
                self._differ("target", path)
            return
        own = stat.S_IRWXU if kind == stat.S_IFDIR else stat.S_IRUSR  # whose it is can always go on with it
        if status.st_mode & 0o777 & ~self.umask | own != stat.S_IMODE(found.st_mode):
            self._differ("mode", path)
        if kind == stat.S_IFDIR:
            self.compared["folders"] += 1
            return
        self.compared["files"] += 1
        if found.st_blocks * BLOCK > status.st_blocks * BLOCK + SPARE:
            self._differ("blocks", path)
        if status.st_size != found.st_size or _hash(source) != _hash(copy):
            self._differ("content", path)

    def _renamed(self, path: bytes) -> bytes:
        return b"/".join(self.renamed.get(part, part) for part in path.split(b"/"))

    def _differ(self, what: str, path: bytes) -> None:
        self.differences.setdefault(what, []).append(repr(path[-60:]))


def equal(source: Path, copy: Path) -> Verdict:
    """Two trees of plain names."""
    likeness = Likeness({}, own_umask())
    likeness.compare(source, copy)
    return likeness.verdict()


def own_umask() -> int:
    """Ours, and that of the programs that we start."""
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _walk(root: bytes) -> Iterator[tuple[bytes, os.stat_result, bytes]]:
    """Below `root`, its status, and the way to it; `root` itself is `.`."""
    yield b".", os.lstat(root), root
    waiting = [b""]
    while waiting:
        folder = waiting.pop()
        with os.scandir(os.path.join(root, folder)) as entries:
            for entry in entries:
                below = os.path.join(folder, entry.name)
                yield below, entry.stat(follow_symlinks=False), entry.path
                if entry.is_dir(follow_symlinks=False):
                    waiting.append(below)


def _hash(path: bytes) -> bytes:
    digest = blake3()
    with open(path, "rb", buffering=0) as file:
        while data := file.read(READ):
            digest.update(data)
    return digest.digest()
