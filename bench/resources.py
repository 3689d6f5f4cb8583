"""What p2p takes of a machine: time to start, CPU while it waits, memory at a large file."""

from __future__ import annotations

import ctypes
import os
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from bench.copying import GUARD, allocated, killed_after
from bench.measure import NAP, ROOT, MeasuringError
from bench.rivals.ours import P2P, PEER, event, receive, rendezvous, send
from bench.rows import Group, Row, Sample
from bench.world import Net, World

GIB = 2**30
SLOWEST = 20e6  # bytes a second that a large file makes at least
PUNCH = 0.1  # seconds between two times that the arrived part of a large file is given back
KEEP_SIZE, PUNCH_HOLE = 1, 2  # linux/falloc.h

START = Group("start", "Start", "s", chart=False)
IDLE = Group("idle", "A receiver that waits for its friend", "CPU s", "after it said that it waits", chart=False)
MEMORY = Group("memory", "Peak memory of the larger side", "MB", "punched UDP; a sparse file", chart=False)


def rows(world: World, waiting: float, sparse: float) -> list[Row]:
    """A wait of `waiting` seconds, a file of `sparse` GiB."""
    return [
        Row(START, "python -m p2p.peer --help", _help),
        Row(START, "second peer's start to first byte, LAN", partial(_first_byte, world)),
        Row(IDLE, f"{waiting:g} s", partial(_idle, world, waiting)),
        Row(MEMORY, f"{sparse:g} GiB", partial(_memory, world, int(sparse * GIB))),
    ]


def _help() -> Sample:
    start = time.perf_counter()
    subprocess.run([*PEER, "--help"], stdout=subprocess.DEVNULL, check=True, cwd=ROOT)
    return Sample(time.perf_counter() - start)


def _first_byte(world: World) -> Sample:
    """The receiver waits; the sender's process is started; a file in the receiver's folder has a block of memory."""
    job = world.job(Net.LAN, 1 << 26)
    with tempfile.TemporaryDirectory(dir=world.folder) as name, rendezvous(job.lab) as server:
        out, ours = Path(name), P2P("direct TCP")
        receiver = receive(job.lab, server, out, {}, ours.names)
        with killed_after(receiver):
            receiver.wait_for('"waiting"', GUARD)
            sender = send(job.lab, server, [job.source], {}, ours.names)
            with killed_after(sender):
                while not allocated(out):
                    sender.check()
                    receiver.check()
                    time.sleep(NAP)
                seconds = time.monotonic() - sender.started
                sender.finish(GUARD)
                receiver.finish(GUARD)
                ours.figures(sender, receiver)
    return Sample(seconds)


def _idle(world: World, seconds: float) -> Sample:
    lab = world.lab(Net.NATS)
    with tempfile.TemporaryDirectory(dir=world.folder) as name, rendezvous(lab) as server:
        receiver = receive(lab, server, Path(name), {}, ("alice", "bob"))
        with killed_after(receiver):
            receiver.wait_for('"waiting"', GUARD)
            time.sleep(1.0)
            before = _cpu(receiver.process.pid)
            time.sleep(seconds)
            receiver.check()
            return Sample(_cpu(receiver.process.pid) - before)


def _cpu(pid: int) -> float:
    """Seconds on a core, of all threads that there are; finer than the clock ticks of stat."""
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) / 1e9


def _memory(world: World, size: int) -> Sample:
    """The file is zeros of which no disk holds any, and what has arrived is given back, so that any size fits.

    Giving back leaves zeros, which is what was there: whoever reads it finds what was sent.
    """
    lab = world.lab(Net.NATS)
    with (
        tempfile.TemporaryDirectory(dir=world.folder) as sending,
        tempfile.TemporaryDirectory(dir=world.folder) as name,
        _roomy(Path(name), 2 * size) as out,
        rendezvous(lab) as server,
    ):
        source, ours = Path(sending) / "large", P2P()
        with source.open("wb") as file:
            file.truncate(size)
        receiver = receive(lab, server, out, {}, ours.names)
        sender = send(lab, server, [source], {}, ours.names)
        with killed_after(sender, receiver), _given_back(out):
            usage = sender.finish(GUARD + size / SLOWEST), receiver.finish(GUARD)
            extra = ours.figures(sender, receiver)
        digests = {event(each, "done")[1]["blake3"] for each in (sender, receiver)}
        if (out / source.name).stat().st_size != size or len(digests) != 1:
            raise MeasuringError("the large file did not arrive whole")
    return Sample(max(each.peak_bytes for each in usage) / 1e6, size, *usage, extra=extra)


@contextmanager
def _roomy(folder: Path, size: int) -> Iterator[Path]:
    """A tmpfs that says it has room for `size` bytes, whatever memory there is: a receiver asks it first."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "p2p-bench", folder], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", folder], check=True)


@contextmanager
def _given_back(folder: Path) -> Iterator[None]:
    """Takes the memory behind the files of a folder away again and again during the block."""
    over, libc = threading.Event(), ctypes.CDLL(None, use_errno=True)
    libc.fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]

    def work() -> None:
        while not over.wait(PUNCH):
            for path in folder.iterdir():
                try:
                    fd = os.open(path, os.O_WRONLY)
                except FileNotFoundError:  # it has its final name now
                    continue
                if size := os.fstat(fd).st_size:
                    libc.fallocate(fd, KEEP_SIZE | PUNCH_HOLE, 0, size)
                os.close(fd)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
