"""What a disk that does not take something means: for the one thing, or for all of them."""

from __future__ import annotations

import errno
import os

from p2p.core.calling import option
from p2p.core.text import escape
from p2p.io.sending.sources import FileError

ENDED = "the transfer was ended"

SPACE = frozenset([errno.ENOSPC, errno.EDQUOT])
# What will happen to the next file too. Everything else concerns one name or one folder, and the rest goes on.
FATAL = SPACE | {errno.EROFS, errno.EIO, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENODEV, errno.ENXIO}


class StorageError(FileError):
    """The receiving folder takes nothing more: full, read-only, not permitted, broken, gone."""


class Unstorable(Exception):
    """One thing cannot be made; the rest goes on. str() is what is wrong, without a name."""


def storage_error(error: OSError, directory: str, name: str) -> StorageError:
    """`name` is empty where the directory itself is meant."""
    here, file = escape(directory), escape(name) or "a file"
    what, advice = _explain(error, name)
    if error.errno == errno.ENOSPC and _has_no_inodes(directory):
        what = "the disk holds no more files (its inodes are used up)"
        advice = f"remove some, or choose another folder with {option('--out')}"
    return StorageError(f"Cannot store {file} in {here}: {what}; {advice}", f"the receiver cannot store {file}: {what}")


def fatal_cause(error: OSError, root: int) -> OSError | None:
    """What ends it all, if the next file would fare no better; `root` is the receiving folder."""
    if not os.fstat(root).st_nlink:
        return OSError(errno.ENOENT, os.strerror(errno.ENOENT))
    return error if error.errno in FATAL else None


def problem(error: OSError | Unstorable, path: str) -> str:
    """For both sides: names no folder of this machine."""
    what = _explain(error, path)[0] if isinstance(error, OSError) else str(error)
    return f"{escape(path)} cannot be stored: {what}"


def _has_no_inodes(directory: str) -> bool:
    """Whoever looks how much is free finds enough then."""
    try:
        status = os.statvfs(directory)
    except OSError:
        return False
    return status.f_files > 0 and not status.f_favail


def _explain(error: OSError, name: str) -> tuple[str, str]:  # what is wrong, and what to do
    another = f"choose another with {option('--out')}"
    elsewhere = f"choose another folder with {option('--out')}"
    if error.errno == errno.ENOSPC:
        return "the disk is full", "free some space, or " + elsewhere
    if error.errno == errno.EDQUOT:
        return "the disk quota is used up", "free some space, or " + elsewhere
    if error.errno == errno.EFBIG:
        return "the file is larger than that file system, or ulimit -f, allows", another
    if error.errno == errno.EROFS:
        return "the file system is read-only", elsewhere
    if error.errno in (errno.EACCES, errno.EPERM):
        return "this user may not write there", elsewhere
    if error.errno in (errno.ENOTDIR, errno.EEXIST) and not name:
        return "that is not a folder", f"choose a folder with {option('--out')}"
    if error.errno == errno.ENOENT and not name:
        return "the folder cannot be made there", another
    if error.errno == errno.ENOENT:
        return "the folder or the temporary file was removed by someone else", "receive it again"
    if error.errno in (errno.ENOTDIR, errno.ELOOP, errno.ESTALE):
        return "something else took its place meanwhile", "receive it again"
    if error.errno == errno.ENAMETOOLONG:
        return "its name is too long for that file system", elsewhere
    if error.errno == errno.EMFILE:
        return "too many open files", "raise the limit with ulimit -n"
    return (error.strerror or str(error)), "check the disk"
