"""How fast files pass through both ends of a transfer, with no network between: python -m bench.transfer_files

Needs twice the size in free memory: the files lie on tmpfs (/dev/shm unless --directory says otherwise).
"""

from __future__ import annotations

import argparse
import os
import selectors
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar, cast

from blake3 import blake3

from p2p.core.datagram import Buffer
from p2p.core.errors import Failure
from p2p.core.peer.peer import Peer
from p2p.core.transfer.events import Aborted, Finished, Offered, Wanted
from p2p.core.transfer.limits import MAX_PIECES
from p2p.core.transfer.messages import PIECE
from p2p.io.receiving.end import ReceivingEnd
from p2p.io.receiving.taken import Policy
from p2p.io.sending.end import SendingEnd
from p2p.io.sending.walk import Exclude

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


class Wire:
    """What both ends take for their peer: what one machine says, the other hears at once."""

    failure: Failure | None = None
    rejoin = None

    def __init__(self, sending: SendingEnd, receiving: ReceivingEnd, watch: Stopwatch) -> None:
        self._sender, self._receiver = sending.machine, receiving.machine
        self._receiving = receiving
        self._watch = watch
        self._waiting: list[bytes] = []
        self.digest: bytes | None = None
        self._sender.start()

    @property
    def peer(self) -> Peer:
        return cast("Peer", self)

    def poll_wanted(self, now: float) -> Wanted | None:
        self.advance(now)
        room = MAX_PIECES if self._receiver.ready and not self._waiting else 0
        return self._watch.time("sender: what next", lambda: self._sender.poll_wanted(room))

    def send(self, records: Sequence[Buffer], now: float) -> None:  # noqa: ARG002
        for record in records:
            self._take(bytes(record))  # the buffer is used again

    def advance(self, now: float) -> None:
        while self._waiting and self._receiver.ready:
            self._take(self._waiting.pop(0))
        while self._receiver.ready and (record := self._sender.poll_record()) is not None:
            self._take(record)
        while (answer := self._receiver.poll_record()) is not None:
            self._sender.handle_record(answer)
        while (event := self._receiver.poll_event()) is not None:
            match event:
                case Offered(offer):
                    self._receiving.accept(offer, self.peer, now)
                case Aborted(exit_code, reason):
                    raise SystemExit(f"aborted ({exit_code.name}): {reason}")
                case _:
                    pass
        while (told := self._sender.poll_event()) is not None:
            if isinstance(told, Finished):
                self.digest = told.digest

    def fail(self, failure: Failure, told: str, now: float) -> None:  # noqa: ARG002
        raise SystemExit(failure.message)

    def _take(self, record: bytes) -> None:
        if self._receiver.ready:
            self._watch.time("receiver: parse, hash", lambda: self._receiver.handle_record(record))
        else:
            self._waiting.append(record)


def run(outbox: Path, inbox: Path, watch: Stopwatch) -> bytes:
    """Returns the digest on which both sides agree."""
    with selectors.DefaultSelector() as selector:
        sending = SendingEnd.of_tree([outbox], Exclude(()), os.urandom(16), selector)
        receiving = ReceivingEnd(inbox, Policy.RENAME, None, selector)
        wire = Wire(sending, receiving, watch)
        while wire.digest is None:
            watch.time("sender: walk, read, header, hash", lambda: sending.advance(wire.peer, 0.0))
            wire.advance(0.0)
            watch.time("receiver: write, hand over", lambda: receiving.advance(wire.peer, 0.0))
            for key, mask in selector.select(0):
                key.data(mask)
        sending.close()
        receiving.close()
        return wire.digest


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
    inbox.mkdir()
    block = os.urandom(min(size, 1 << 24))
    for number in range(count):
        with (outbox / f"{number}.bin").open("wb") as file:
            for offset in range(0, size, len(block)):
                file.write(block[: size - offset])
    watch = Stopwatch()
    start = time.perf_counter()
    digest = run(outbox, inbox, watch)
    total = time.perf_counter() - start
    print(f"{count} x {size:,} B: {count * size / total / 1e9:.2f} GB/s, {count / total:,.0f} files/s, {total:.2f} s")
    for label, seconds in sorted(watch.seconds.items(), key=lambda item: -item[1]):
        print(f"  {label:34} {seconds:6.2f} s  {seconds / total:4.0%}")
    print("  (the rows of the receiver's parsing and of what is next lie within that of the sender)")
    print(f"  blake3 {digest.hex()}")
    received = inbox / "outbox"
    for path in [*outbox.iterdir(), *received.iterdir()]:
        path.unlink()
    for emptied in (outbox, received, inbox):
        emptied.rmdir()


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
