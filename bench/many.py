"""Many small files: p2p beside `tar c | nc`, which neither encrypts nor verifies, in the same two networks.

The clock starts when the first file in the receiver's folder has a block of memory, and stops when all are there under
their names with all their bytes; contents are compared afterwards.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import count
from pathlib import Path

from bench.copying import GUARD, LIMIT, allocated, killed_after
from bench.measure import NAP, MeasuringError, Watched
from bench.rivals import need_program
from bench.rivals.ours import P2P, receive, rendezvous, send
from bench.rows import Group, Row, Sample
from bench.world import Net, World
from netlab.lab import Lab

SIZE = 4096  # bytes of each file
LISTENING = 0.3  # seconds: nc does not say when it listens
REST = 0.02  # seconds between two looks at a folder of many files

Programs = tuple[Watched, Watched]  # sender, receiver
Start = Callable[[Path], AbstractContextManager[Programs]]


@dataclass(slots=True)
class Many:
    """`number` files in one folder, made when first asked for."""

    world: World
    number: int
    _ports: Iterator[int] = field(default_factory=lambda: count(9000))

    @property
    def folder(self) -> Path:
        folder = self.world.folder / f"many-{self.number}"
        if not folder.exists():
            folder.mkdir()
            for each in range(self.number):
                (folder / f"{each:05}").write_bytes(os.urandom(SIZE))
        return folder

    def ours(self, net: Net, path: str) -> Sample:
        """p2p, with every file as an argument."""
        lab = self.world.lab(net)
        ours = P2P(path)

        @contextmanager
        def start(out: Path) -> Iterator[Programs]:
            with rendezvous(lab) as server:
                receiver = receive(lab, server, out, {}, ours.names)
                sender = send(lab, server, sorted(self.folder.iterdir()), {}, ours.names)
                with killed_after(sender, receiver):
                    yield sender, receiver
                    ours.figures(sender, receiver)

        return self._timed(start)

    def tar(self, net: Net) -> Sample:
        """tar into nc, and out of it again."""
        lab, port = self.world.lab(net), next(self._ports)
        target = _forwarded(lab, port)

        @contextmanager
        def start(out: Path) -> Iterator[Programs]:
            receiver = Watched(lab.host("bob"), ["sh", "-c", f"nc -l {port} | tar -C '{out}' -xf -"])
            with killed_after(receiver):
                time.sleep(LISTENING)
                command = f"tar -C '{self.folder}' -cf - . | nc -N {target} {port}"
                sender = Watched(lab.host("alice"), ["sh", "-c", command])
                with killed_after(sender):
                    yield sender, receiver

        sample = self._timed(start)
        # The peak is that of the shell, which says nothing of tar and nc.
        sides = [each and replace(each, peak_bytes=0) for each in (sample.sender, sample.receiver)]
        return replace(sample, sender=sides[0], receiver=sides[1])

    def _timed(self, start: Start) -> Sample:
        wanted = _digest(self.folder)
        with tempfile.TemporaryDirectory(dir=self.world.folder) as name, start(Path(name)) as (sender, receiver):
            out, began, limit = Path(name), 0.0, time.monotonic() + GUARD + LIMIT
            while not (began and _complete(out, self.number)):
                now = time.monotonic()
                if not began and allocated(out):
                    began = now
                if now > limit:
                    raise MeasuringError(f"not all files arrived: {receiver.words()}")
                sender.check()
                receiver.check()
                time.sleep(REST if began else NAP)
            seconds = time.monotonic() - began
            usage = sender.finish(GUARD), receiver.finish(GUARD)
            if _digest(out) != wanted:
                raise MeasuringError("the files arrived with other content")
        return Sample(self.number / seconds, self.number * SIZE, *usage, {"seconds": seconds})


def _complete(folder: Path, number: int) -> bool:
    names = os.listdir(folder)
    if len(names) != number or any(name.startswith(".") for name in names):
        return False
    return all((folder / name).stat().st_size == SIZE for name in names)


def _digest(folder: Path) -> bytes:
    digest = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        digest.update(path.name.encode() + path.read_bytes())
    return digest.digest()


def _forwarded(lab: Lab, port: int) -> str:
    """bob's address for alice; his router, if he is behind one that she is not, lets the port in."""
    bob = lab.host("bob").address
    if "right" not in lab.plan.nodes:
        return bob
    right = lab.host("right")
    right.iptables(f"iptables -t nat -A PREROUTING -i wan -p tcp --dport {port} -j DNAT --to {bob}")
    return right.address


def rows(world: World, number: int) -> list[Row]:
    """In both networks."""
    many = Many(world, number)
    missing = (*need_program("tar", "tar"), *need_program("nc", "netcat-openbsd"))
    made = []
    for net, title, path in ((Net.LAN, "same network", "direct TCP"), (Net.NATS, "through two NATs", "direct UDP")):
        group = Group(f"files-{net.name.lower()}", f"{number:,} files of 4 KiB, {title}", "files/s", chart=False)
        made += [
            Row(group, "tar c | nc", partial(many.tar, net), None, "tar", missing),
            Row(group, "p2p", partial(many.ours, net, path), "tar c | nc"),
        ]
    return made
