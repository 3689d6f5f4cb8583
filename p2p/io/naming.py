"""Giving a file a name that nobody has, atomically: never over another file, never half."""

from __future__ import annotations

import ctypes
import errno
import os
from functools import cache
from typing import Any

RENAME_NOREPLACE = 1  # renameat2(2)

_NO_RENAMEAT2 = frozenset([errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP])
# Of open with O_TMPFILE: a file system, or a kernel, that has no files without a name.
_NO_NAMELESS = frozenset([errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL, errno.ENOENT, errno.EACCES, errno.EPERM])


def rename_exclusively(old: str, new: str, directory: int) -> None:
    """Renames within the directory; raises FileExistsError if `new` exists, whatever it is.

    renameat2 serves FAT and SMB, which have no hard links; link and unlink serve NFS, which has no flags to rename.
    """
    rename, new_bytes = _renameat2(), _encoded(new)
    if rename is not None:
        if rename(directory, os.fsencode(old), directory, new_bytes, RENAME_NOREPLACE) == 0:
            return
        code = ctypes.get_errno()
        if code not in _NO_RENAMEAT2:
            raise OSError(code, os.strerror(code))
    os.link(old, new_bytes, src_dir_fd=directory, dst_dir_fd=directory, follow_symlinks=False)
    os.unlink(old, dir_fd=directory)


def open_nameless(directory: int) -> int | None:
    """A descriptor of a file in the directory that has no name yet and is gone with it; None where there are none."""
    try:
        return os.open(".", os.O_TMPFILE | os.O_WRONLY | os.O_CLOEXEC, 0o600, dir_fd=directory)
    except AttributeError:  # no Linux
        return None
    except OSError as error:
        if error.errno in _NO_NAMELESS:
            return None
        raise


def can_name(fd: int) -> bool:
    """Whether `name_exclusively` works: it needs /proc."""
    return os.path.lexists(f"/proc/self/fd/{fd}")


def name_exclusively(fd: int, name: str, directory: int) -> None:
    """Names a nameless file; raises FileExistsError if `name` exists, whatever it is."""
    os.link(f"/proc/self/fd/{fd}", _encoded(name), dst_dir_fd=directory, follow_symlinks=True)


def _encoded(name: str) -> bytes:
    try:
        return os.fsencode(name)
    except UnicodeEncodeError:  # a locale that lacks these letters: written as the rest of the world writes them
        return name.encode("utf-8")


@cache
def _renameat2() -> Any:
    """None where the C library lacks the call."""
    try:
        function = ctypes.CDLL(None, use_errno=True).renameat2
    except AttributeError:
        return None
    function.argtypes = [ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_uint]
    return function
