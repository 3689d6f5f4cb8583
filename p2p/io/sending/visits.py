"""What lies below a folder, one thing after another: for the walk that sends it, and for the one that counts it."""

from __future__ import annotations

import errno
import os
import re
import stat
from collections.abc import Generator, Iterator, Sequence
from itertools import chain, islice
from operator import attrgetter
from threading import Event
from typing import Final, NamedTuple

from p2p.core.errors import CallerError
from p2p.core.text import escape
from p2p.core.transfer.limits import MAX_DEPTH
from p2p.core.transfer.names import is_temporary
from p2p.io.sending.sources import Named, Trouble

MAX_SORTED: Final = 10_000  # names of one folder that are held and sorted, some 3 MB; more come as the system has them

FOLDER_MARK: Final = "ps_d"  # pathspec's group for the slash behind the folder that a pattern has met

LOOP: Final = Trouble("is a folder that it lies in itself", "look at what is mounted there")
TOO_DEEP: Final = Trouble(f"lies more than {MAX_DEPTH} folders deep", "pack it first, for example with tar")


class Exclude:
    """What is not sent: patterns with the rules of .gitignore, for paths below what the person named.

    An excluded folder is not entered, so nothing in it can be taken in again.
    """

    def __init__(self, patterns: Sequence[str]) -> None:
        """Raises CallerError for what is no pattern."""
        self.patterns = tuple(patterns)
        self._rules: list[tuple[bool, re.Pattern[str]]] = []  # the last one first; whether it excludes
        if not self.patterns:
            return
        from pathspec import GitIgnoreSpec  # noqa: PLC0415  (20 ms and 3 MB, which most transfers do without)

        for pattern in self.patterns:
            try:
                compiled = GitIgnoreSpec.from_lines([pattern]).patterns
            except ValueError as error:
                raise CallerError(f"{escape(pattern)} is no pattern of files to exclude: {error}") from error
            for rule in compiled:
                if rule.include is not None and rule.regex is not None:  # neither empty nor a comment
                    self._rules.insert(0, (rule.include, rule.regex))

    def __bool__(self) -> bool:
        return bool(self._rules)

    def matches(self, relative_path: str, is_folder: bool) -> bool:
        """For a path whose folders do not match: a pattern for one of them says nothing about what is in it."""
        path = relative_path
        for excludes, regex in self._rules:
            if regex.search(path) is not None and _is_met(regex, path):
                return excludes
            if is_folder and regex.search(path + "/") is not None and _is_met(regex, path + "/"):
                return excludes
        return False


def _is_met(regex: re.Pattern[str], path: str) -> bool:
    """Whether it speaks of `path` itself, and not of a folder above, or of all that is in a folder (`name/**`)."""
    end = len(path) if path.endswith("/") else -1  # where the slash of the group ends; -1: it took no part
    has_group = FOLDER_MARK in regex.groupindex
    return any((match.end(FOLDER_MARK) if has_group else -1) == end for match in regex.finditer(path))


class OpenFolder:
    """A folder that was entered and not left. What is in it is opened through its descriptor, wherever it is moved."""

    __slots__ = ("_listing", "below", "depth", "entries", "fd", "name", "path", "repaired", "sent_as", "status")

    def __init__(self, name: str, parent: OpenFolder | None) -> None:
        """Without a `parent`, `name` is the path that the person named. Raises OSError."""
        self.name = self.sent_as = name
        self.depth: int = parent.depth + 1 if parent is not None else 0
        """How many folders below its root."""
        self.path: str = os.path.join(parent.path if parent is not None else "", name, "")
        """As the person would name it, with a slash behind."""
        self.below: str = f"{parent.below}{name}/" if parent is not None else ""
        """The same from the root on, which is left out: what patterns are for."""
        self.repaired: dict[str, int] = {}
        """Names that things in it are sent under and do not bear here, each with the last number tried for it."""
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
        if parent is None:
            self.fd = os.open(name, flags)
        else:
            self.fd = os.open(name, flags | os.O_NOFOLLOW, dir_fd=parent.fd)
        try:
            self.status = os.fstat(self.fd)
            self._listing = os.scandir(self.fd)
        except OSError:
            os.close(self.fd)
            raise
        try:
            first = list(islice(self._listing, MAX_SORTED + 1))
        except OSError:
            self.close()
            raise
        self.entries: Iterator[os.DirEntry[str]]
        if len(first) > MAX_SORTED:
            self.entries = chain(_drain(first), self._listing)
        else:
            self._listing.close()
            first.sort(key=attrgetter("name"), reverse=True)  # code points have the order of UTF-8's bytes
            self.entries = _drain(first)

    @property
    def identity(self) -> tuple[int, int]:
        return self.status.st_dev, self.status.st_ino

    def __contains__(self, name: str) -> bool:
        """Whether it has something of that name."""
        try:
            os.stat(name, dir_fd=self.fd, follow_symlinks=False)
        except (OSError, UnicodeEncodeError):
            return False
        return True

    def close(self) -> None:
        self._listing.close()
        os.close(self.fd)


class Entered(NamedTuple):
    """`parent` is None for a root."""

    folder: OpenFolder
    parent: OpenFolder | None


class Left(NamedTuple):
    """`trouble`: why the rest of what is in it is not known."""

    folder: OpenFolder
    trouble: Trouble | None


class Seen(NamedTuple):
    """Something in `folder` that is no folder."""

    folder: OpenFolder
    name: str
    status: os.stat_result


class Missed(NamedTuple):
    """Something in `folder` (None: the root itself) that cannot be looked at or entered."""

    folder: OpenFolder | None
    name: str
    trouble: Trouble


Visit = Entered | Left | Seen | Missed


def visits(named: Named, exclude: Exclude, stopped: Event) -> Generator[Visit, None, None]:
    """What lies below a folder that was named, itself first. Ends early when `stopped` is set.

    Depth first, each folder in the order of names. No link is followed but `named` itself, to where it led when it was
    looked up. To be closed, like a file, if it is not taken to its end.
    """
    stack: list[OpenFolder] = []
    try:
        try:
            stack.append(OpenFolder(named.path, None))
        except OSError as error:
            yield Missed(None, named.path, trouble_in_between(error))
            return
        if stack[0].identity != (named.status.st_dev, named.status.st_ino):
            yield Missed(None, named.path, Trouble.changed("was replaced"))
            return
        yield Entered(stack[0], None)
        while stack:
            folder, trouble, is_left = stack[-1], None, False
            try:
                for entry in folder.entries:
                    if stopped.is_set():
                        return
                    if (visit := _visit(stack, entry, exclude)) is not None:
                        yield visit
                        if isinstance(visit, Entered):
                            break
                else:
                    is_left = True
            except OSError as error:  # of reading on in the folder
                is_left, trouble = True, trouble_in_between(error)
            if is_left:
                yield Left(folder, trouble)
                stack.pop().close()
    finally:
        for folder in stack:
            folder.close()


def _visit(stack: list[OpenFolder], entry: os.DirEntry[str], exclude: Exclude) -> Visit | None:
    """What there is to say about it; None if it is excluded, or not whole yet. A folder is entered."""
    folder, name = stack[-1], entry.name
    try:
        if exclude and exclude.matches(folder.below + name, entry.is_dir(follow_symlinks=False)):
            return None
        status = entry.stat(follow_symlinks=False)
        if not stat.S_ISDIR(status.st_mode):
            # What somebody else is sending us, or was, until it broke off, is not ours to pass on half.
            is_arriving = name.startswith(".") and is_temporary(name) and stat.S_ISREG(status.st_mode)
            return None if is_arriving else Seen(folder, name, status)
        if len(stack) >= MAX_DEPTH:
            return Missed(folder, name, TOO_DEEP)
        inner = OpenFolder(name, folder)
    except OSError as error:
        return Missed(folder, name, trouble_in_between(error))
    if any(outer.identity == inner.identity for outer in stack):  # a bind mount
        inner.close()
        return Missed(folder, name, LOOP)
    stack.append(inner)
    return Entered(inner, folder)


def trouble_in_between(error: OSError) -> Trouble:
    """Of something that was there a moment ago."""
    if error.errno in (errno.ELOOP, errno.ENOTDIR):
        return Trouble.changed("was replaced")
    if error.errno == errno.ENOENT:
        return Trouble("went away while its folder was read", "send it again if it is needed")
    return Trouble.of(error)


def _drain(entries: list[os.DirEntry[str]]) -> Iterator[os.DirEntry[str]]:
    """From the last to the first, keeping none: each holds what stat said of it."""
    while entries:
        yield entries.pop()
