"""What of a file is on this disk already: the digests of its chunks, read from the disk and from nothing else."""

from __future__ import annotations

from collections.abc import Callable, Sequence


class Checker:
    """Computes chunk digests in a thread, one file after the other.

    Register `fileno()` at the selector for reading, and call `handle_readable` when it is.
    """

    def __init__(self) -> None: ...

    @property
    def checked(self) -> tuple[int, int]:
        """Bytes compared, and bytes to compare as far as they are known."""
        raise NotImplementedError

    def fileno(self) -> int:
        raise NotImplementedError

    def handle_readable(self) -> None:
        """Runs the `done` of what has been read."""

    def check(self, open_file: Callable[[], int | None], size: int, done: Callable[[Sequence[bytes]], None]) -> None:
        """Queues a file of which `size` bytes were announced. `done` gets what `handle_have` wants, in order of calls.

        `open_file` runs in the thread when the file's turn has come, so thousands may wait without a descriptor. It
        gives one that is closed afterwards, or None where nothing is there (then, and when it cannot be read: no
        digests).
        """

    def close(self, timeout: float = 0.0) -> bool:
        """Stops within a chunk, runs no `done`. Returns whether the thread has ended."""
        raise NotImplementedError


def digest_of(fd: int, stop: Callable[[], bool] = bool) -> bytes:
    """The BLAKE3 of the whole file, for `Complete.must_verify`. Blocks on the disk. Raises OSError, Stopped."""
    raise NotImplementedError
