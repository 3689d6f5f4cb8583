"""Far links: p2p against its own bound on many of them, and beside other programs on two."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import count

from bench.copying import Arrival, Rival, copy
from bench.echo import Echo
from bench.links import FAST, LOSSIER, LOSSY, REORDERED, FarLink
from bench.rivals.iperf3 import Iperf3
from bench.rivals.ours import P2P
from bench.rows import Group, Row, Sample
from bench.world import Net, World
from netlab.impaired import Backend, ImpairedLink
from netlab.lab import Lab

MEGABIT = 1e6
FORWARDER_LOSS = 0.001  # share of packets above which the forwarder's own loss is told
LATE = 1.6  # times the seconds for which a link is filled: of a rival that takes longer, the rate until then
HOPELESS = 4.0  # times its bound; then p2p is cut off

BOUND = Group(
    "wan",
    "Far links",
    "Mbit/s",
    "netlab's forwarder; s: from the receiver's yes to its verified end; bound: size / (0.85 (1 - loss) rate) + 12 RTT",
    ("own_seconds", "bound", "of_bound", "retransmitted", "loaded"),
    chart=False,
)


@dataclass(slots=True)
class Far:
    """Runs on far links. A file fills its link for `seconds`."""

    world: World
    seconds: float
    _rounds: dict[str, count[int]] = field(default_factory=dict)

    def size(self, link: FarLink) -> int:
        """Bytes; the same for all losses and delays, so that there are few files."""
        return int(link.rate * self.seconds / 8)

    @contextmanager
    def impaired(self, lab: Lab, link: FarLink, key: str) -> Iterator[ImpairedLink]:
        """alice's cable is that link. The seed is the round, the same for all rows."""
        seed = next(self._rounds.setdefault(key, count(1)))
        with lab.impair("alice", up=link.up, down=link.down, seed=seed, backend=Backend.FORWARDER) as impaired:
            yield impaired

    def rival(self, link: FarLink, rival: Rival, net: Net, key: str) -> Callable[[], Sample]:
        """One program over it."""

        def run() -> Sample:
            size = self.size(link)
            job = self.world.job(net, size, LATE * self.seconds)
            with self.impaired(job.lab, link, key) as impaired:
                sample = rival.run(job)
            return _told(sample, impaired)

        return run

    def ours(self, link: FarLink, key: str) -> Callable[[], Sample]:
        """p2p, with what the issue of a far link is: time against its bound, what is sent again, the queue it makes."""

        def run() -> Sample:
            size = self.size(link)
            job = self.world.job(Net.NATS, size, HOPELESS * link.bound(size))
            with self.impaired(job.lab, link, key) as impaired, Echo(job.lab) as echo:
                loaded: list[float | None] = []
                arrival: Arrival = lambda began, ended: loaded.append(echo.settled(began, ended))  # noqa: E731
                sample = copy(job, P2P().start, arrival)
            extra = dict(sample.extra)
            seconds = extra.setdefault("own_seconds", extra["seconds"])  # of one that was cut off, until then
            extra |= {"bound": link.bound(size), "of_bound": seconds / link.bound(size)}
            if "retransmitted" in extra:
                extra["excess"] = extra["retransmitted"] - link.loss
            if loaded and loaded[0] is not None:
                extra["loaded"] = loaded[0] / link.rtt
            return _told(replace(sample, extra=extra), impaired)

        return run


def _told(sample: Sample, impaired: ImpairedLink) -> Sample:
    """In Mbit/s, with a word when the laboratory was the bottleneck."""
    counts = impaired.counts["up"]
    own = counts["overrun"] / max(1, counts["packets"])
    note = f"{sample.note}; the forwarder itself lost {own:.1%}".lstrip("; ") if own > FORWARDER_LOSS else sample.note
    return replace(sample, value=sample.value / MEGABIT, note=note)


def bound_rows(far: Far, links: Iterable[FarLink]) -> list[Row]:
    """p2p on each of the links; on the fastest beside TCP, which shows what this machine's forwarder carries."""
    rows = []
    for link in links:
        reference = replace(link, reordering=False).name if link == REORDERED else None
        if link.rate > FAST:
            tcp, reference = Iperf3("bbr", max(1, round(far.seconds))), f"{link.name}, TCP BBR"
            run = far.rival(link, tcp, Net.NATS, reference)
            rows.append(Row(BOUND, reference, run, None, "iperf3", tuple(tcp.missing())))
        rows.append(Row(BOUND, link.name, far.ours(link, link.name), reference))
    return rows


def rival_rows(far: Far, rivals: list[Rival], links: Iterable[FarLink] = (LOSSY, LOSSIER)) -> list[Row]:
    """All programs on each of the links, in a group for each."""
    rows = []
    for link in links:
        note = "p2p and iperf3 through NATs; cut off: the rate until then"
        name = f"wan-{link.rtt * 1000:g}ms-{link.loss * 100:g}%"
        group = Group(name, f"Far away: {link.name} loss", "Mbit/s", note, ("of_bound", "retransmitted", "loaded"))
        reference = "iperf3 TCP, CUBIC"
        for algorithm in ("cubic", "bbr"):
            tcp = Iperf3(algorithm, max(1, round(far.seconds)))
            title = f"iperf3 TCP, {algorithm.upper()}"
            run = far.rival(link, tcp, Net.NATS, f"{name} {algorithm}")
            row = Row(group, title, run, reference, "iperf3", tuple(tcp.missing()))
            rows.append(replace(row, reference=None) if title == reference else row)
        rows.append(Row(group, "p2p", far.ours(link, f"{name} p2p"), reference))
        for rival in rivals:
            run = far.rival(link, rival, Net.PUBLIC, f"{name} {rival.name}")
            rows.append(Row(group, rival.name, run, reference, rival.name, tuple(rival.missing())))
    return rows
