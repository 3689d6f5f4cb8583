"""File objects of a program as the ends of a transfer. They are read and written in a thread beside the loop."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Protocol

from p2p.io.sending.pipes import PipeData, PipeError, PipeReader

OnError = Callable[[Exception], None]


class Readable(Protocol):
    """A binary file, or what has its `read`: at most so many bytes, b"" at the end."""

    def read(self, size: int, /) -> bytes: ...


class Writable(Protocol):
    """A binary file, or what has its `write`."""

    def write(self, data: bytes, /) -> object: ...


class StreamReader(PipeReader):
    """Reads a file object as the transfer asks for it. It stays open. `on_error`: it raised this."""

    def __init__(self, stream: Readable, on_error: OnError) -> None:
        self._read_some: Callable[[int], bytes | None] = getattr(stream, "read1", stream.read)
        self._on_error = on_error
        super().__init__(-1, "The stream")

    def _prepare(self) -> None:
        """Whether it can be read shows when it is."""

    def _read(self, length: int) -> PipeData:
        try:
            data = self._read_some(length)
            if not isinstance(data, bytes | bytearray | memoryview):
                raise TypeError(f"a stream to send gives bytes, and waits for them; not {type(data).__name__}")
        except Exception as error:
            self._on_error(error)
            raise PipeError(f"The stream cannot be read: {error}", "cannot be read") from error
        return PipeData(bytes(data), is_end=not data)


class StreamWriter:
    """What StdoutEnd writes by. The stream stays open. `on_error`: it raised this."""

    def __init__(self, stream: Writable, on_error: OnError) -> None:
        self._stream = stream
        self._on_error = on_error

    def __call__(self, data: memoryview) -> int:
        """Returns how much was taken: a raw stream may take less. Raises OSError."""
        try:
            count = self._stream.write(bytes(data))
            if count == 0 or (count is None and isinstance(self._stream, io.RawIOBase)):
                raise BlockingIOError("the stream takes nothing now: it has to be one that waits")
        except Exception as error:
            self._on_error(error)
            raise OSError(0, str(error)) from error
        return count if isinstance(count, int) else len(data)
