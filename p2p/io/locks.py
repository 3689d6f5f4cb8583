"""Locks that go with the process that holds them, however it ends (flock)."""

from __future__ import annotations

import fcntl


def try_lock(fd: int) -> bool | None:
    """True: locked, until the descriptor is closed. False: someone else holds it. None: that file system has none."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True
