"""Where a file has bytes on the disk, and where it has none: they are zero."""

from __future__ import annotations

import errno
import os
from typing import Final

BLOCK: Final = 512  # bytes of one of st_blocks; stat(2)
WORTH_A_LOOK: Final = 2**20  # bytes: a smaller file changes no estimate, and may lie in its inode, without a block
MAX_EXTENTS: Final = 10_000  # of one file that are asked for: some 10 ms; what lies behind counts as data


def is_sparse(status: os.stat_result) -> bool:
    """Whether a look for holes is worth it. A file system that compresses has such files without holes."""
    return status.st_blocks * BLOCK < status.st_size


def holes_in(name: str, folder: int | None, status: os.stat_result, *, follows: bool = False) -> int:
    """How many bytes of a file have no place on the disk; 0 where that cannot be told. `name` lies in `folder`."""
    if status.st_size < WORTH_A_LOOK or not is_sparse(status):
        return 0
    try:
        fd = os.open(
            name, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | (0 if follows else os.O_NOFOLLOW), dir_fd=folder
        )
    except OSError:
        return 0
    try:
        holes = offset = 0
        for _ in range(MAX_EXTENTS):
            data = next_data(fd, offset, status.st_size)
            holes += data - offset
            if data >= status.st_size:
                break
            offset = next_hole(fd, data, status.st_size)
        return holes
    except OSError:
        return 0
    finally:
        os.close(fd)


def next_data(fd: int, offset: int, size: int) -> int:
    """Where the first byte at or behind `offset` lies that has a place on the disk; `size` if there is none."""
    try:
        return min(size, os.lseek(fd, offset, os.SEEK_DATA))
    except OSError as error:
        if error.errno == errno.ENXIO:
            return size
        if error.errno == errno.EINVAL:  # a file system that cannot tell
            return offset
        raise


def next_hole(fd: int, offset: int, size: int) -> int:
    """Where the first byte behind `offset` lies that has no place on the disk; `size` if there is none."""
    try:
        return max(offset + 1, min(size, os.lseek(fd, offset, os.SEEK_HOLE)))
    except OSError as error:
        if error.errno in (errno.EINVAL, errno.ENXIO):  # a file system that cannot tell; a file that became shorter
            return size
        raise
