"""Giving a file a name in a folder, atomically: never half, and over another file only where that is wanted.

Folders are descriptors, and every name passes `component`: no path is ever resolved.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import stat
import unicodedata
from functools import cache
from typing import Any

RENAME_NOREPLACE = 1  # renameat2(2)
MAX_NAME = 255  # bytes; NAME_MAX

NO_LINKS = frozenset([errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS])  # EPERM: link(2), symlink(2), of FAT
_NO_RENAMEAT2 = frozenset([errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP])
# Of open with O_TMPFILE: a file system, or a kernel, that has no files without a name.
_NO_NAMELESS = frozenset([errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL, errno.ENOENT, errno.EACCES, errno.EPERM])


def component(name: str) -> bytes:
    """A name as the kernel takes it. Raises OSError for what is not exactly one component."""
    try:
        encoded = os.fsencode(name)
    except UnicodeEncodeError:  # a locale that lacks these letters: written as the rest of the world writes them
        encoded = name.encode("utf-8", "replace")
    if encoded in (b"", b".", b"..") or b"/" in encoded or b"\0" in encoded:
        raise OSError(errno.EINVAL, "that is no name")
    if len(encoded) > MAX_NAME:
        raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG))
    return encoded


def folded(name: str) -> str:
    """Alike for names that a file system without case may take for one."""
    return unicodedata.normalize("NFKC", name).casefold()


def rename_exclusively(old: str, new: str, directory: int, into: int | None = None) -> None:
    """Renames, `into` another folder if that is given; raises FileExistsError if `new` exists, whatever it is.

    renameat2 serves FAT and SMB, which have no hard links; link and unlink serve NFS, which has no flags to rename.
    Where there is neither, as with FAT and exFAT by FUSE, an empty file takes the name, and is replaced in the next
    step: a program that is killed in between leaves it there, empty.
    """
    into = directory if into is None else into
    rename, old_bytes, new_bytes = _renameat2(), component(old), component(new)
    if rename is not None:
        if rename(directory, old_bytes, into, new_bytes, RENAME_NOREPLACE) == 0:
            return
        code = ctypes.get_errno()
        if code not in _NO_RENAMEAT2:
            raise OSError(code, os.strerror(code))
    try:
        os.link(old_bytes, new_bytes, src_dir_fd=directory, dst_dir_fd=into, follow_symlinks=False)
    except OSError as error:
        if error.errno not in NO_LINKS:
            raise
        _rename_by_placeholder(old_bytes, new_bytes, directory, into)
    else:
        os.unlink(old_bytes, dir_fd=directory)


def _rename_by_placeholder(old: bytes, new: bytes, directory: int, into: int) -> None:
    """Raises FileExistsError, OSError."""
    os.close(os.open(new, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=into))
    try:
        os.rename(old, new, src_dir_fd=directory, dst_dir_fd=into)
    except BaseException:
        with contextlib.suppress(OSError):
            if not os.stat(new, dir_fd=into, follow_symlinks=False).st_size:
                os.unlink(new, dir_fd=into)
        raise


def rename_over(old: str, new: str, directory: int, into: int) -> None:
    """Takes the place of what bears `new`. Raises IsADirectoryError if that is a folder."""
    os.rename(component(old), component(new), src_dir_fd=directory, dst_dir_fd=into)


def open_nameless(directory: int) -> int | None:
    """A descriptor of a file in the directory that has no name yet and is gone with it; None where there are none."""
    try:
        return os.open(".", os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600, dir_fd=directory)
    except AttributeError:  # no Linux
        return None
    except OSError as error:
        if error.errno in _NO_NAMELESS:
            return None
        raise


def can_name(fd: int) -> bool:
    """Whether `name_exclusively` works: it needs /proc."""
    return os.path.lexists(_magic(fd))


def name_exclusively(fd: int, name: str, directory: int) -> None:
    """Gives a nameless file its name, or another file one more; raises FileExistsError if `name` exists."""
    os.link(_magic(fd), component(name), dst_dir_fd=directory, follow_symlinks=True)


def open_itself(name: str, directory: int) -> int | None:
    """A descriptor of what bears the name, a symbolic link too, good for nothing but to say which inode is meant.

    None where that is not to be had (no Linux), or nothing leads from it to the inode (no /proc): all there is then is
    the name, and a look at what bears it.
    """
    flag = getattr(os, "O_PATH", None)
    if flag is None:
        return None
    fd = os.open(component(name), flag | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
    if can_name(fd):
        return fd
    os.close(fd)
    return None


def set_link_time(name: str, directory: int, mtime_ns: int) -> None:
    """Of a symbolic link, and of nothing else that may bear the name by now; nothing where the file system cannot."""
    times = (mtime_ns, mtime_ns)
    with contextlib.suppress(OSError, OverflowError, NotImplementedError):
        fd = open_itself(name, directory)
        if fd is None:
            if stat.S_ISLNK(os.stat(component(name), dir_fd=directory, follow_symlinks=False).st_mode):
                os.utime(component(name), ns=times, dir_fd=directory, follow_symlinks=False)
            return
        try:
            if stat.S_ISLNK(os.fstat(fd).st_mode):
                os.utime(_magic(fd), ns=times)
        finally:
            os.close(fd)


def _magic(fd: int) -> str:
    """Leads to the very inode, whatever its names are by now: no path of ours is resolved (proc(5))."""
    return f"/proc/self/fd/{fd}"


@cache
def _renameat2() -> Any:
    """None where the C library lacks the call."""
    try:
        function = ctypes.CDLL(None, use_errno=True).renameat2
    except AttributeError:
        return None
    function.argtypes = [ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_uint]
    return function
