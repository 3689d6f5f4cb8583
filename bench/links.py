"""Links far from a LAN: what netlab is told, and how long a transfer over them may take. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

from netlab.impair import GilbertElliott, Impairment

MEAN_BURST = 5  # packets lost in a row, on average, where loss comes in bursts
OVERTAKING = 0.05  # share of packets that come half a round-trip time early, where order is not kept
MIN_QUEUE = 15_000  # bytes; ten full packets
UTILISATION, ROUND_TRIPS = 0.85, 12  # of the bound: a share of what the link delivers, and for everything that waits


@dataclass(frozen=True, slots=True)
class FarLink:
    """`rate` in bits a second, `rtt` in seconds, `loss` a share (both ways), `queue` in bandwidth-delay products.

    The rate limits the way of the data; acknowledgements have delay and loss.
    """

    rate: float
    rtt: float
    loss: float = 0.0
    bursts: bool = False
    queue: float = 1.0
    queue_packets: int | None = None  # instead of `queue`
    reordering: bool = False

    @property
    def name(self) -> str:
        """In words, as short as they can be."""
        parts = [f"{self.rate / 1e6:g} Mbit/s, {self.rtt * 1000:g} ms, {self.loss * 100:g} %"]
        if self.bursts:
            parts.append("in bursts")
        if self.queue_packets is not None:
            parts.append(f"queue {self.queue_packets}")
        elif self.queue != 1:
            parts.append(f"queue {self.queue:g} BDP")
        if self.reordering:
            parts.append("reordered")
        return ", ".join(parts)

    @property
    def up(self) -> Impairment:
        """The way of the data."""
        size = None if self.queue_packets is not None else max(MIN_QUEUE, round(self.queue * self.rate * self.rtt / 8))
        return Impairment(
            delay=self.rtt / 2,
            rate=self.rate,
            queue_packets=self.queue_packets,
            queue_bytes=size,
            loss=0.0 if self._burst else self.loss,
            burst=self._burst,
            reorder=OVERTAKING if self.reordering else 0.0,
        )

    @property
    def down(self) -> Impairment:
        """The way of the acknowledgements."""
        return Impairment(delay=self.rtt / 2, loss=0.0 if self._burst else self.loss, burst=self._burst)

    @property
    def _burst(self) -> GilbertElliott | None:
        return GilbertElliott.of(self.loss, MEAN_BURST) if self.bursts and self.loss else None

    def bound(self, size: int) -> float:
        """Seconds in which `size` bytes should be across."""
        return size * 8 / (UTILISATION * (1 - self.loss) * self.rate) + ROUND_TRIPS * self.rtt


FAST = 200e6  # bits a second
LOSSY = FarLink(FAST, 0.050, 0.01)  # where programs are compared
LOSSIER = FarLink(FAST, 0.100, 0.03)
ORDERED, REORDERED = FarLink(FAST, 0.050), FarLink(FAST, 0.050, reordering=True)
DEEP = FarLink(FAST, 0.050, queue=4)

SELECTED = (
    FarLink(FAST, 0.020),
    FarLink(FAST, 0.050, 0.001),
    FarLink(FAST, 0.050, 0.01, bursts=True),
    FarLink(FAST, 0.100, queue=0.5),
    FarLink(FAST, 0.200, 0.01),
    FarLink(FAST, 0.300),
    FarLink(FAST, 0.300, 0.05),
    FarLink(10e6, 0.050, queue_packets=25),
    DEEP,
    ORDERED,
    REORDERED,
)


def grid() -> Iterator[FarLink]:
    """Every combination, then what is measured apart from them."""
    losses = [(0.0, False), *product((0.001, 0.01, 0.03, 0.05), (False, True))]
    for rtt, (loss, bursts), queue in product((0.020, 0.050, 0.100, 0.200, 0.300), losses, (0.5, 1.0, 4.0)):
        yield FarLink(FAST, rtt, loss, bursts, queue)
    for rtt, loss in product((0.020, 0.050), (0.0, 0.01)):
        yield FarLink(500e6, rtt, loss)  # netlab's forwarder carries 60,000 packets a second, 700 Mbit/s
    for rtt in (0.020, 0.050, 0.100):
        yield FarLink(10e6, rtt, queue_packets=25)
    yield REORDERED
