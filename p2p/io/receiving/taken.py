"""What to do where a name is taken."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import stat
from collections.abc import Callable
from enum import Enum, auto
from itertools import chain

from p2p.core.transfer.names import is_temporary, numbered, temporary_name
from p2p.io.receiving.naming import component, folded, rename_over
from p2p.io.receiving.storage_errors import Unstorable

MAX_NUMBER = 9_999  # taken names tried for one thing; each try is a system call
MAX_REMEMBERED = 1024  # names of which is known up to which number they are taken
TEMPORARY_ENTROPY = 8  # bytes; nobody guesses the name, and no two transfers meet
TIME_GRAIN = 2 * 10**9  # ns; of FAT. A network's file system rounds times after it has told us another one
MAX_GIVEN = 2**20  # entries, two a name, of what a transfer gave where no time tells: 70 MB; then none is replaced

# What Windows, and with it FAT, exFAT and SMB, refuse in a name, and the errors by which they do.
_PLAINER = re.compile(r'[?*"<>|]')
_REFUSED = frozenset([errno.EINVAL, errno.ENOENT, errno.EPERM, errno.EACCES, errno.EILSEQ])

Ways = tuple[Callable[[str], None], Callable[[str], None] | None, Callable[[str], bool] | None]


class Policy(Enum):
    """What to do where a name is taken."""

    RENAME = auto()
    """Number it: `name (1).ext`."""
    OVERWRITE = auto()
    """Replace files, enter folders. What has been stored or changed since this transfer began is never replaced."""
    SKIP = auto()
    """Enter folders; leave a file alone whose content is the same, number others."""


class Names:
    """Gives names in folders, by the policy."""

    def __init__(self, policy: Policy, random_bytes: Callable[[int], bytes]) -> None:
        self._policy = policy
        self.began_ns = 0
        """The change time (st_ctime_ns) of a file that was made when this transfer began."""
        self.sees_changes = True
        """Whether the change time tells when a file was made. On FAT it is the time of modification, as it was sent."""
        # Where it does not: by inode, and by place and name, for by FUSE inodes have other numbers after a while. Kept
        # are their hashes, a third of the memory: where two fall together, a file is numbered and not replaced.
        self._given: set[int] = set()
        self._random_bytes = random_bytes
        self._next_number: dict[tuple[str, str], int] = {}

    def temporary(self) -> str:
        return temporary_name(self._random_bytes(TEMPORARY_ENTROPY))

    def first_free(self, directory: int, place: str, offered: str) -> str:
        """The name that would be given now, in the directory, which lies there."""
        with contextlib.suppress(FileNotFoundError):
            if self._may_replace(directory, place, offered):
                return offered
        for number in range(MAX_NUMBER + 1):
            name = numbered(offered, number) if number else offered
            try:
                os.stat(component(name), dir_fd=directory, follow_symlinks=False)
            except FileNotFoundError:
                return name
        return offered

    def give(
        self,
        directory: int,
        place: str,
        offered: str,
        exclusively: Callable[[str], None],
        *,
        over: Callable[[str], None] | None = None,
        is_it: Callable[[str], bool] | None = None,
        first: str | None = None,
    ) -> str:
        """Calls `exclusively` with one name after the other, until it does not raise FileExistsError. Returns the name.

        `over` gives the name even if it is taken: that of a temporary name, if None. `is_it` says whether what bears
        the name is what would be made. `first` is the name to be tried before others; `place`: see folders.Folder.
        Where the file system refuses the name, as FAT does `?`, a plainer one is given. Raises OSError, Unstorable.
        """
        ways = (exclusively, over, is_it)
        try:
            name = self._give(directory, place, offered, ways, first)
        except OSError as error:
            plainer = _PLAINER.sub("_", offered)
            if error.errno not in _REFUSED or plainer == offered:
                raise
            name = self._give(directory, place, plainer, ways, None)
        self.note(directory, place, name)
        return name

    def note(self, directory: int, place: str, name: str) -> None:
        """This transfer has given that name."""
        if self._policy is Policy.OVERWRITE and not self.sees_changes and len(self._given) < MAX_GIVEN:
            self._given.add(hash((place, folded(name))))
            with contextlib.suppress(OSError):
                status = os.stat(component(name), dir_fd=directory, follow_symlinks=False)
                self._given.add(hash((status.st_dev, status.st_ino)))

    def _give(
        self, directory: int, place: str, offered: str, ways: Ways, first: str | None
    ) -> str:
        exclusively, over, is_it = ways
        if is_temporary(offered):
            raise Unstorable("only temporary files are called that")
        name = first or offered
        try:  # nearly always
            exclusively(name)
            return name
        except FileExistsError:
            pass
        key = (place, offered)
        for number in chain([0], range(self._next_number.get(key, 1), MAX_NUMBER + 1)):
            name = numbered(offered, number) if number else offered
            with contextlib.suppress(FileExistsError):
                exclusively(name)
                if number:
                    self._remember(key, number + 1)
                return name
            if is_it is not None and is_it(name):
                return name
            if not number and self._replace(directory, place, name, exclusively, over):
                return name
        raise Unstorable(f"{MAX_NUMBER} names like it are taken")

    def _replace(
        self,
        directory: int,
        place: str,
        name: str,
        exclusively: Callable[[str], None],
        over: Callable[[str], None] | None,
    ) -> bool:
        with contextlib.suppress(FileNotFoundError, IsADirectoryError):
            if self._may_replace(directory, place, name):
                (over or (lambda name: self.over(directory, name, exclusively)))(name)
                return True
        return False

    def over(self, directory: int, name: str, exclusively: Callable[[str], None]) -> None:
        """In one step. Raises OSError."""
        temporary = self.temporary()
        exclusively(temporary)
        try:
            rename_over(temporary, name, directory, directory)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(temporary, dir_fd=directory)
            raise

    def _may_replace(self, directory: int, place: str, name: str) -> bool:
        """Two names of one transfer may fall together, where case is not told apart: nothing that is new is replaced.

        Raises FileNotFoundError, OSError.
        """
        if self._policy is not Policy.OVERWRITE:
            return False
        status = os.stat(component(name), dir_fd=directory, follow_symlinks=False)
        if stat.S_ISDIR(status.st_mode) or status.st_ctime_ns >= self.began_ns:
            return False
        if self.sees_changes:
            return True
        keys = hash((status.st_dev, status.st_ino)), hash((place, folded(name)))
        return self._given.isdisjoint(keys) and len(self._given) < MAX_GIVEN

    def _remember(self, key: tuple[str, str], number: int) -> None:
        if len(self._next_number) >= MAX_REMEMBERED:
            self._next_number.clear()
        self._next_number[key] = number


def same_inode(directory: int, name: str, node: tuple[int, int]) -> bool:
    """Whether that inode bears the name there. A link is not followed."""
    try:
        status = os.stat(component(name), dir_fd=directory, follow_symlinks=False)
    except OSError:
        return False
    return (status.st_dev, status.st_ino) == node


def is_inode(fd: int, node: tuple[int, int]) -> bool:
    """The same of a descriptor. Raises OSError."""
    status = os.fstat(fd)
    return (status.st_dev, status.st_ino) == node


def same_time(one_ns: int, other_ns: int) -> bool:
    """Whether nobody wrote to a file in between, as far as its times of modification can tell."""
    return abs(one_ns - other_ns) < TIME_GRAIN


def another_took_its_place() -> OSError:
    return OSError(errno.ESTALE, "another file took its place")
