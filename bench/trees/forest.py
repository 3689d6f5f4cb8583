"""A folder with some of everything, the same one for the same seed."""

from __future__ import annotations

import os
import random
from dataclasses import dataclass, field
from pathlib import Path

LARGEST = 8192  # bytes of a small file, where nothing else is said
BLOCK = 1 << 22  # bytes at random, of which every small file holds a stretch
ISLAND = 300_000  # bytes of data in the sparse file, at each of ISLANDS places
ISLANDS = 6
DEPTH = 50  # folders in a row; 64 are allowed
LINKS = 0.01  # of all files; the hard links, and of both some more
UMASKED = (0o644, 0o600, 0o755, 0o777, 0o666, 0o400, 0o444, 0o000, 0o4755, 0o2711, 0o1666)
FOLDER_MODES = (0o755, 0o700, 0o777, 0o555, 0o000, 0o2775, 0o1777)
EARLIEST, LATEST = -(10**9), 8 * 10**9  # seconds since 1970: from 1938 to 2223

# What lies on the sender's disk, and what it is called on any system (docs/protocol.md section 7).
ODD_NAMES: dict[bytes, str] = {
    b"caf\xe9": "caf\ufffd",
    b"\xff" * 255: "\ufffd" * 85,
    b"new\nline": "new_line",
    b"bell\x07 and \x1b[2J": "bell_ and _[2J",
    b"next\xc2\x85line": "next_line",
    b"con.txt": "_con.txt",
    b"Nul": "_Nul",
    b"com1.tar.gz": "_com1.tar.gz",
    b"trailing.": "trailing_",
    b"spaces  ": "spaces__",
    b"...": "___",
    b"a:b": "a_b",
    b"a\\b": "a_b (1)",
}
PLAIN_NAMES: tuple[bytes, ...] = (
    b"x" * 255,
    ("\u00fc" * 127 + "x").encode(),
    b"Readme",
    b"README",
    b"readme",
    b"\xc3\xa9",  # one character
    b"e\xcc\x81",  # the same as two
    b"-rf",
    b" leading",
    b"%41' \" $ `*?",
    "\u65e5\u672c\u8a9e \U0001f332".encode(),
)


@dataclass(slots=True)
class Forest:
    """So many small files in so many folders, and a file of `sparse` bytes of which few are written; 0: no such."""

    files: int
    folders: int
    sparse: int
    seed: int
    largest: int = LARGEST
    """Bytes of a small file."""
    renamed: dict[bytes, bytes] = field(default_factory=dict)
    """Names that other systems cannot bear, and what arrives instead; wherever they are."""

    def plant(self, root: Path) -> None:
        """Makes it; `root` is not there yet."""
        rng = random.Random(self.seed)
        block = rng.randbytes(BLOCK)
        self.renamed = {name: text.encode() for name, text in ODD_NAMES.items()}
        root.mkdir()
        folders = self._folders(os.fsencode(root), rng)
        files = [os.path.join(rng.choice(folders), b"%d.dat" % number) for number in range(self.files)]
        odd = os.path.join(os.fsencode(root), b"odd names")
        os.mkdir(odd)
        folders.append(odd)
        files += [os.path.join(odd, name) for name in (*ODD_NAMES, *PLAIN_NAMES)]
        for path in files:
            size = rng.randrange(self.largest + 1)
            start = rng.randrange(BLOCK - size)
            _write(path, block[start : start + size])
        linked = _hard_links(files, folders, rng)
        symlinks = _symlinks(files, folders, rng)
        if self.sparse:
            self._sparse(os.path.join(os.fsencode(root), b"sparse"), block)
        for path in files + linked:
            os.chmod(path, rng.choice(UMASKED) if rng.random() < 0.1 else 0o644)
        for path in (*files, *symlinks):
            _date(path, rng)
        for path in reversed(folders):
            os.chmod(path, rng.choice(FOLDER_MODES) if rng.random() < 0.1 else 0o755)
            _date(path, rng)

    def _folders(self, root: bytes, rng: random.Random) -> list[bytes]:
        """The way to each, a folder before what is in it."""
        made = [root]
        deep = root
        for number in range(min(DEPTH, self.folders // 2)):
            deep = os.path.join(deep, b"deep %d" % number)
            os.mkdir(deep)
            made.append(deep)
        shallow = [root]
        while len(made) < self.folders:
            name = b"folder\xe9 %d" if rng.random() < 0.05 else b"folder %d"
            path = os.path.join(rng.choice(shallow), name % len(made))
            os.mkdir(path)
            made.append(path)
            shallow.append(path)
            if b"\xe9" in name:
                self.renamed[os.path.basename(path)] = os.path.basename(path).replace(b"\xe9", "\ufffd".encode())
        for number in range(20):
            os.mkdir(empty := os.path.join(rng.choice(shallow), b"empty %d" % number))
            made.append(empty)
        return made

    def _sparse(self, path: bytes, block: bytes) -> None:
        with open(path, "wb") as file:
            file.truncate(self.sparse)
            for number in range(1, ISLANDS + 1):
                file.seek(self.sparse * number // (ISLANDS + 1) + number)  # no page's beginning
                file.write(block[number : number + min(ISLAND, self.sparse // 100)])


def plant_sizes(root: Path, size: int, seed: int) -> None:
    """A folder of `size` bytes: a tenth in small files, three tenths in some of a few MB, and a large one."""
    rng = random.Random(seed)
    block = rng.randbytes(BLOCK)
    root.mkdir()
    left, number = size, 0
    for share, smallest, largest in ((0.9, 0, 40_000), (0.6, 1_000_000, 5_000_000), (0.0, size, size + 1)):
        while left > size * share:
            length = min(rng.randrange(smallest, largest), left)
            path = root / f"folder {number // 100}" / f"{number}"
            path.parent.mkdir(exist_ok=True)
            start = rng.randrange(BLOCK // 2)
            with path.open("wb") as file:
                for done in range(0, length, BLOCK // 2):
                    file.write(number.to_bytes(4, "big") + done.to_bytes(8, "big"))
                    file.write(block[start : start + min(length - done, BLOCK // 2) - 12])
                file.truncate(length)
            left -= length
            number += 1


def _write(path: bytes, content: bytes) -> None:
    with open(path, "wb") as file:
        file.write(content)


def _hard_links(files: list[bytes], folders: list[bytes], rng: random.Random) -> list[bytes]:
    made: list[bytes] = []
    for number in range(int(len(files) * LINKS)):
        first = rng.choice(files)
        for again in range(rng.randrange(1, 4)):
            os.link(first, path := os.path.join(rng.choice(folders), b"link %d %d" % (number, again)))
            made.append(path)
    return made


def _symlinks(files: list[bytes], folders: list[bytes], rng: random.Random) -> list[bytes]:
    made: list[bytes] = []
    for number in range(int(len(files) * LINKS)):
        target = rng.choice((rng.choice(files), rng.choice(folders)))
        folder = rng.choice(folders)
        relative = b"nowhere" if number % 10 == 0 else os.path.relpath(target, folder)
        os.symlink(relative, path := os.path.join(folder, b"symlink %d" % number))
        made.append(path)
    return made


def _date(path: bytes, rng: random.Random) -> None:
    when = rng.randrange(EARLIEST * 10**9, LATEST * 10**9)
    os.utime(path, ns=(when, when), follow_symlinks=False)
