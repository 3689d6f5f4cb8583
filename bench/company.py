"""A link whose rate changes, and a link that others use as well. Nothing here runs to its end: it is cut off."""

from __future__ import annotations

import re
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from bench.copying import GUARD, allocated, killed_after
from bench.links import FarLink
from bench.measure import NAP, MeasuringError, Watched
from bench.rivals import need_program
from bench.rivals.iperf3 import started
from bench.rivals.ours import PORT, receive, rendezvous, send
from bench.rows import Group, Row, Sample
from bench.wan import Far
from bench.world import Net
from netlab.lab import Lab

BEFORE, SETTLING, AFTER = 5.0, 10.0, 4.0  # seconds: until the change, until it has to be found, of measuring
ALONE, JOINED, TOGETHER = 3.0, 8.0, 10.0  # seconds: of the first flow, until they have to be fair, of measuring
SHARED = FarLink(100e6, 0.050)
SLOW, QUICK = 20e6, 200e6  # bits a second

CHANGES = Group("wan-change", "Rate changed tenfold", "of new rate", "goodput from 10 s after", chart=False)
SHARES = Group("wan-share", "Share of a link with another flow", "share", SHARED.name + ", from 8 s after", chart=False)


def rows(far: Far) -> list[Row]:
    """Changes first."""
    return [
        Row(CHANGES, "20 to 200 Mbit/s", lambda: _changed(far, SLOW, QUICK)),
        Row(CHANGES, "200 to 20 Mbit/s", lambda: _changed(far, QUICK, SLOW)),
        share_row(far),
        Row(SHARES, "p2p that joins another p2p", lambda: _shared(far, _second)),
    ]


def share_row(far: Far) -> Row:
    """The one that the short form has as well."""
    missing = tuple(need_program("iperf3", "iperf3"))
    return Row(SHARES, "p2p that joins one CUBIC flow", lambda: _shared(far, _cubic), missing=missing)


@contextmanager
def _flow(far: Far, lab: Lab, names: tuple[str, str], port: int = PORT) -> Iterator[Path]:
    """A transfer that has begun, and is longer than anybody looks; the folder that it fills."""
    source, _ = far.world.source(int(QUICK * (BEFORE + SETTLING + AFTER + 2) / 8))
    with tempfile.TemporaryDirectory(dir=far.world.folder) as name, rendezvous(lab, port) as server:
        out = Path(name)
        receiver = receive(lab, server, out, {}, names)
        sender = send(lab, server, [source], {}, names)
        with killed_after(sender, receiver):
            limit = time.monotonic() + GUARD
            while not allocated(out):
                if time.monotonic() > limit:
                    raise MeasuringError(f"nothing arrived: {receiver.words()}")
                sender.check()
                receiver.check()
                time.sleep(NAP)
            yield out


def _changed(far: Far, before: float, after: float) -> Sample:
    """The queue has one bandwidth-delay product of the higher rate, before and after."""
    lab, link = far.world.lab(Net.NATS), FarLink(max(before, after), SHARED.rtt)
    with far.impaired(lab, link, f"{before} {after}") as impaired:
        impaired.change(up=replace(link.up, rate=before))
        with _flow(far, lab, ("alice", "bob")) as out:
            time.sleep(BEFORE)
            impaired.change(up=replace(link.up, rate=after))
            time.sleep(SETTLING)
            rate = _rate(out, AFTER)
    return Sample(rate / after, extra={"rate": rate})


def _rate(out: Path, seconds: float) -> float:
    """Bits a second that arrive in a folder."""
    meter = _Folder(out)
    meter.start()
    time.sleep(seconds)
    return meter.stop()


class Meter(Protocol):
    """What another flow carries."""

    def start(self) -> None:
        """Measure from here."""

    def stop(self) -> float:
        """Bits a second since then."""


@dataclass(slots=True)
class _Folder:
    out: Path
    _began: float = 0.0
    _had: int = 0

    def start(self) -> None:
        self._began, self._had = time.monotonic(), allocated(self.out)

    def stop(self) -> float:
        return (allocated(self.out) - self._had) * 8 / (time.monotonic() - self._began)


@dataclass(slots=True)
class _Lines:
    """iperf3's receiver, which says once a second what the last second was."""

    server: Watched
    _began: float = 0.0

    def start(self) -> None:
        self._began = time.monotonic()

    def stop(self) -> float:
        rates = [
            float(match[1]) * 1000
            for when, line in self.server.lines
            if when >= self._began + 1 and (match := re.search(r"sec .* ([\d.]+) Kbits/sec", line))
        ]
        if not rates:
            raise MeasuringError(f"the CUBIC flow carried nothing: {self.server.words()}")
        return sum(rates) / len(rates)


def _shared(far: Far, other: Callable[[Far, Lab, ExitStack], Meter]) -> Sample:
    lab = far.world.lab(Net.NATS)
    with far.impaired(lab, SHARED, other.__name__), ExitStack() as stack:
        meter = other(far, lab, stack)
        time.sleep(ALONE)
        with _flow(far, lab, ("alice", "bob")) as out:
            time.sleep(JOINED)
            meter.start()
            ours = _rate(out, TOGETHER)
            theirs = meter.stop()
    return Sample(ours / (ours + theirs), extra={"rate": ours, "other": theirs})


def _cubic(_: Far, lab: Lab, stack: ExitStack) -> Meter:
    amount = ["-t", str(int(ALONE + JOINED + TOGETHER + GUARD))]
    server, client = started(lab, amount, "cubic", ["-i", "1", "-f", "k"])
    stack.enter_context(killed_after(server, client))
    return _Lines(server)


def _second(far: Far, lab: Lab, stack: ExitStack) -> Meter:
    return _Folder(stack.enter_context(_flow(far, lab, ("carol", "dave"), PORT + 2)))
