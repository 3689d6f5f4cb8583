"""The private folder in which this machine remembers, and what makes two commands the same one (docs/transfer.md)."""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import stat
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final

from blake3 import blake3
from platformdirs import user_state_path

from p2p.core.errors import P2PError
from p2p.core.text import escape
from p2p.core.transfer.messages import TOKEN
from p2p.io.receiving.naming import rename_exclusively

KEY: Final = 32  # bytes of the machine's own key: of BLAKE3 in keyed mode
KEY_NAME: Final = "key"
OTHERS_WRITE: Final = stat.S_IWGRP | stat.S_IWOTH

Say = Callable[[str], None]


class StateError(P2PError):
    """There is no private folder here. str() is half a sentence: which one, why, and what would help."""


def state_folder(say: Say | None = None) -> Path | None:
    """The folder, 0700 and ours, made if it is missing; None when there can be none.

    Nothing can be gone on with then, and `say` gets a sentence that tells the person so.
    """
    try:
        path = user_state_path("p2p")
        if path.is_absolute():
            return private_folder(path)
        _say_so(say, StateError("this user has no home folder"))  # older platformdirs: below the current one, then
    except StateError as error:
        _say_so(say, error)
    except (OSError, RuntimeError) as error:  # platformdirs: no home folder to be found
        _say_so(say, error)
    return None


def private_folder(path: Path) -> Path:
    """Makes it, or sees that it is nobody else's to write in. Raises StateError.

    A symbolic link is followed: what it leads to has to be as private.
    """
    here = escape(str(path))
    try:
        _make(path)
        with open_folder(path) as folder:
            status = os.fstat(folder)
            if status.st_uid != os.geteuid():
                raise StateError(f"{here} belongs to someone else: take it away, or run this as its owner")
            if status.st_mode & OTHERS_WRITE:
                raise StateError(f"others may write in {here}: chmod 700, after a look at what is in it")
            if stat.S_IMODE(status.st_mode) != 0o700:
                os.fchmod(folder, 0o700)  # others could read it: nothing in it is wrong for that
    except OSError as error:
        raise StateError(f"{here} cannot be made or opened: {why(error)}") from error
    return path


def token(
    names: tuple[str, str] | None, paths: Sequence[str], patterns: Sequence[str], say: Say | None = None
) -> bytes:
    """Says "the same command": what an earlier run of it left over there is gone on with. TOKEN bytes.

    `names` are (me, friend), None with a one-time code, which is another one each time. `paths` are made absolute and
    real, so it does not matter from where they are named. Nor does it in which order, and how often each: journals are
    asked by path, and a shell puts `*` in the order of its language. The order of `patterns` is kept, for with
    exclusions the last one decides. Without a state folder it is a random one, which is never seen again.
    """
    folder = state_folder(say)
    if folder is None:
        return secrets.token_bytes(TOKEN)
    try:
        key = machine_key(folder)
    except (StateError, OSError) as error:
        _say_so(say, error)
        return secrets.token_bytes(TOKEN)
    hash_ = blake3(key=key)
    for words in (names or (), sorted({os.path.realpath(path) for path in paths}), patterns):
        hash_.update(len(words).to_bytes(8, "big"))
        for word in words:
            encoded = word.encode("utf-8", "surrogatepass")  # a path that is no UTF-8 has surrogates
            hash_.update(len(encoded).to_bytes(8, "big"))
            hash_.update(encoded)
    digest: bytes = hash_.digest(TOKEN)
    return digest


def machine_key(folder: Path) -> bytes:
    """KEY bytes that only this machine knows, made at the first call. Programs that start at once agree.

    Raises OSError, or StateError where the key is not ours.
    """
    with open_folder(folder) as directory:
        with contextlib.suppress(OSError):  # a file system without locks: at worst one command is not recognised again
            fcntl.flock(directory, fcntl.LOCK_EX)
        while (key := _read_key(directory)) is None:
            with contextlib.suppress(FileExistsError):  # the other program was faster: its key is everybody's
                _write_key(directory, secrets.token_bytes(KEY))
        return key


@contextlib.contextmanager
def open_folder(path: Path) -> Iterator[int]:
    """Its descriptor. Raises OSError."""
    folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield folder
    finally:
        os.close(folder)


def _make(path: Path) -> None:
    """Raises StateError, OSError. Whatever has to be made is 0700, as the XDG Base Directory Specification wants it."""
    missing = [each for each in (path, *path.parents) if not os.path.lexists(each)]
    if not missing:
        return
    parent = missing[-1].parent
    owner = os.stat(parent).st_uid
    if owner not in (0, os.geteuid()):  # as with sudo: the folder would be in its owner's way ever after
        raise StateError(f"{escape(str(parent))} belongs to someone else: nothing is left behind there")
    for each in reversed(missing):
        with contextlib.suppress(FileExistsError):  # another program was faster; what it made is looked at
            os.mkdir(each, 0o700)


def _read_key(directory: int) -> bytes | None:
    """None where there is none yet, or one that is damaged: it is taken away. Raises OSError, StateError."""
    try:
        fd = os.open(KEY_NAME, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=directory)
    except FileNotFoundError:
        return None
    try:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode) or status.st_uid != os.geteuid():
            raise StateError("the key in it is not a file of this user: take it away")
        key = os.read(fd, KEY + 1)
    finally:
        os.close(fd)
    if len(key) == KEY:
        return key
    os.unlink(KEY_NAME, dir_fd=directory)
    return None


def _write_key(directory: int, key: bytes) -> None:
    """Whole and durable, or not at all. Raises OSError: FileExistsError if there is a key by now."""
    unfinished = f"{KEY_NAME}.{secrets.token_hex(8)}"
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    fd = os.open(unfinished, flags, 0o600, dir_fd=directory)
    try:
        try:
            os.write(fd, key)
            os.fsync(fd)
        finally:
            os.close(fd)
        rename_exclusively(unfinished, KEY_NAME, directory)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(unfinished, dir_fd=directory)
        raise
    with contextlib.suppress(OSError):
        os.fsync(directory)


def why(error: Exception) -> str:
    """What is wrong, without the number and the path that an OSError prints."""
    return (error.strerror or str(error)) if isinstance(error, OSError) else str(error)


def _say_so(say: Say | None, error: Exception) -> None:
    if say is not None:
        say(f"After an interruption this cannot be gone on with, for {why(error)}")
