"""How fast files pass through the transfer machines, with no network between: python -m bench.transfer_files

Needs twice the size in free memory: the files lie on tmpfs (/dev/shm unless --directory says otherwise).
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar, assert_never

from blake3 import blake3

from p2p.core.errors import ExitCode
from p2p.core.transfer.events import Aborted, Complete, Finished, Offered, Open, ReceiverEvent, Whole, Write
from p2p.core.transfer.messages import DATA_HEADER, PIECE
from p2p.core.transfer.receiver import TransferReceiver
from p2p.core.transfer.sender import ReadWhole, TransferSender
from p2p.io.files import Destination, Part, Source, open_sources

GROUP = 64  # files
Result = TypeVar("Result")


class Stopwatch:
    """Seconds spent in each kind of work."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)

    def time(self, label: str, function: Callable[[], Result]) -> Result:
        start = time.perf_counter()
        result = function()
        self.seconds[label] += time.perf_counter() - start
        return result


class Receiving:
    """The receiving machine and its directory, verified files finished in groups as a busy worker would."""

    def __init__(self, destination: Destination, watch: Stopwatch) -> None:
        self.machine = TransferReceiver()
        self.digest: bytes | None = None
        self._destination = destination
        self._watch = watch
        self._parts: dict[int, Part] = {}
        self._complete: list[int] = []
        self._small: list[Whole] = []

    def handle_record(self, record: bytes | bytearray | memoryview) -> None:
        self._watch.time("receiver: parse, hash", lambda: self.machine.handle_record(record))
        while (event := self.machine.poll_event()) is not None:
            self._handle_event(event)
        if self.machine.unnamed >= GROUP or self.machine.progress.done == self.machine.progress.total:
            self._finish()

    def _finish(self) -> None:
        parts = [self._parts.pop(file) for file in self._complete]
        names = self._watch.time("receiver: fsync, rename", lambda: self._destination.finish(parts))
        small = [(each.entry, each.content) for each in self._small]
        names += self._watch.time("receiver: small files", lambda: self._destination.store(small))
        for file, name in zip([*self._complete, *(each.file for each in self._small)], names, strict=True):
            self.machine.handle_stored(file, name)
        self._complete.clear()
        self._small.clear()
        while (event := self.machine.poll_event()) is not None:
            self._handle_event(event)

    def _handle_event(self, event: ReceiverEvent) -> None:
        match event:
            case Offered(entries, _):
                self._destination.reserve(entry.size for entry in entries)
                self.machine.accept()
            case Open(file, entry):
                self._parts[file] = self._watch.time("receiver: open", lambda: self._destination.open(entry))
            case Write(file, offset, pieces):
                self._watch.time("receiver: pwrite", lambda: self._parts[file].write(offset, pieces))
            case Complete():
                self._complete.append(event.file)
            case Whole():
                self._small.append(event)
            case Finished(digest):
                self.digest = digest
            case Aborted(exit_code, reason):
                raise SystemExit(f"aborted ({ExitCode(exit_code).name}): {reason}")
            case _:
                assert_never(event)


def run(sources: list[Source], destination: Destination, watch: Stopwatch) -> bytes:
    """Returns the digest on which both sides agree."""
    sender = TransferSender([source.entry for source in sources])
    receiving = Receiving(destination, watch)
    buffer = memoryview(bytearray(DATA_HEADER + PIECE))
    sender.start()
    while True:
        while (control := sender.poll_record()) is not None:
            receiving.handle_record(control)
        while (answer := receiving.machine.poll_record()) is not None:
            sender.handle_record(answer)
        read = sender.poll_read()
        if isinstance(read, ReadWhole):
            contents = watch.time(
                "sender: small files",
                lambda: [source.read_whole() for source in sources[read.first : read.end]],  # noqa: B023
            )
            receiving.handle_record(sender.handle_whole(read, contents) or b"")
        elif read is not None:
            record = buffer[: DATA_HEADER + read.length]
            pieces = [record[DATA_HEADER:]]
            watch.time("sender: preadv", lambda: sources[read.file].read_into(pieces, read.offset))  # noqa: B023
            watch.time("sender: header, hash", lambda: sender.handle_read(read, [record]))  # noqa: B023
            receiving.handle_record(record)
        while (event := sender.poll_event()) is not None:
            if isinstance(event, Finished):
                assert event.digest == receiving.digest
                return event.digest


def touch_memory(folder: Path, size: int) -> None:
    """Has tmpfs fill `size` bytes once: a virtual machine may get its memory from the host only now, and slowly."""
    path = folder / "memory"
    with path.open("wb") as file:
        for _ in range(0, size, 1 << 20):
            file.write(bytes(1 << 20))
    path.unlink()


def measure(folder: Path, count: int, size: int) -> None:
    inbox, outbox = folder / "inbox", folder / "outbox"
    outbox.mkdir()
    block = os.urandom(min(size, 1 << 24))
    for number in range(count):
        with (outbox / f"{number}.bin").open("wb") as file:
            for offset in range(0, size, len(block)):
                file.write(block[: size - offset])
    watch = Stopwatch()
    start = time.perf_counter()
    with Destination(inbox) as destination:
        digest = run(open_sources(sorted(outbox.iterdir())), destination, watch)
    total = time.perf_counter() - start
    print(f"{count} x {size:,} B: {count * size / total / 1e9:.2f} GB/s, {count / total:,.0f} files/s, {total:.2f} s")
    for label, seconds in sorted(watch.seconds.items(), key=lambda item: -item[1]):
        print(f"  {label:26} {seconds:6.2f} s  {seconds / total:4.0%}")
    print(f"  {'loop, timers, the rest':26} {total - sum(watch.seconds.values()):6.2f} s")
    print(f"  blake3 {digest.hex()}")
    for path in [*outbox.iterdir(), *inbox.iterdir()]:
        path.unlink()
    outbox.rmdir()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--directory", default="/dev/shm")
    parser.add_argument("--size", type=int, default=1 << 30, help="bytes of the one large file")
    parser.add_argument("--files", type=int, default=5000, help="number of small files")
    options = parser.parse_args()
    block = os.urandom(PIECE)
    start = time.perf_counter()
    for _ in range(2000):
        blake3(block).digest()
    print(f"BLAKE3 alone: {2000 * PIECE / (time.perf_counter() - start) / 1e9:.2f} GB/s")
    with tempfile.TemporaryDirectory(dir=options.directory) as folder:
        touch_memory(Path(folder), 2 * options.size)
        measure(Path(folder), 1, options.size)
        measure(Path(folder), options.files, 1000)


if __name__ == "__main__":
    main()
