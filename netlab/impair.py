"""What a bad link does to its packets: seeded, decided without a kernel or a clock. Pure.

An :class:`Engine` is one direction of a link. Each packet meets, in this order: loss, duplication,
the queue of a link of limited rate, delay with jitter (which some packets skip, so they overtake),
and corruption.

Random decisions depend on the seed, the direction and the packet's number only: every packet draws
the same quantities, used or not, so that a change of one parameter moves no other's decisions.
What a full queue drops depends on arrival times as well.

Parameters mean what tc-netem(8) means by them; :mod:`netlab.netem` spells them for it.
"""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import asdict, dataclass
from random import Random
from typing import Any

DEFAULT_QUEUE = 1000  # packets; tc-netem(8) "limit", and the length of an Ethernet transmit queue


@dataclass(frozen=True, slots=True)
class GilbertElliott:
    """Bursty loss: a good and a bad state, changed by a draw after each packet. All are probabilities.

    ``to_bad`` and ``to_good`` are those of a change, ``loss_bad`` and ``loss_good`` of loss in each
    state (1-h and 1-k of Elliott, "Estimates of Error Rates for Codes on Burst-Noise Channels", 1963;
    Gilbert's model of 1960 has ``loss_good`` 0). Raises ``ValueError`` for what is no probability, or
    a state that is never left.
    """

    to_bad: float
    to_good: float
    loss_bad: float = 1.0
    loss_good: float = 0.0

    def __post_init__(self) -> None:
        for name in self.__slots__:
            _probability(name, getattr(self, name))
        if not self.to_bad or not self.to_good:
            raise ValueError(f"both states must be left at times: {self}")

    @classmethod
    def of(cls, loss: float, mean_burst: float) -> GilbertElliott:
        """Lose the share ``loss`` (between 0 and 1) in bursts of ``mean_burst`` (1 or more) packets on average."""
        if not 0 < loss < 1 or mean_burst < 1:
            raise ValueError(f"no bursts of {mean_burst} packets can lose a share of {loss}")
        return cls(to_bad=loss / (1 - loss) / mean_burst, to_good=1 / mean_burst)

    @property
    def mean_loss(self) -> float:
        """The share of packets lost in the long run."""
        bad = self.to_bad / (self.to_bad + self.to_good)
        return bad * self.loss_bad + (1 - bad) * self.loss_good


@dataclass(frozen=True, slots=True)
class Impairment:
    """One direction of a link. Raises ``ValueError`` for parameters that mean nothing.

    ``delay``           seconds, one way
    ``jitter``          seconds, at most ``delay``: the delay is uniform over delay ± jitter. Order is
                        kept: a packet waits for the one before it
    ``rate``            bits per second, of IP packets without their Ethernet header
    ``queue_packets``   how many may wait for the link, the one being sent not counted; or
    ``queue_bytes``     how many bytes; a packet that finds no room is dropped. 1000 packets by default
    ``loss``            probability; or
    ``burst``           loss in bursts
    ``reorder``         probability that a packet skips the delay and so overtakes those on the way
    ``duplicate``       probability that a packet comes twice
    ``corrupt``         probability that a bit behind the IP header is flipped, per copy
    """

    delay: float = 0.0
    jitter: float = 0.0
    rate: float | None = None
    queue_packets: int | None = None
    queue_bytes: int | None = None
    loss: float = 0.0
    burst: GilbertElliott | None = None
    reorder: float = 0.0
    duplicate: float = 0.0
    corrupt: float = 0.0

    def __post_init__(self) -> None:
        for name in ("loss", "reorder", "duplicate", "corrupt"):
            _probability(name, getattr(self, name))
        if not 0 <= self.jitter <= self.delay < float("inf"):
            raise ValueError(f"jitter is at least 0 and at most the delay: {self}")
        if self.rate is not None and not 0 < self.rate < float("inf"):
            raise ValueError(f"a rate is more than 0 bits per second, not {self.rate}")
        if self.queue_packets is not None and self.queue_bytes is not None:
            raise ValueError("a queue is bounded in packets or in bytes, not in both")
        if min(self.queue_packets or 0, self.queue_bytes or 0) < 0:
            raise ValueError(f"a queue holds no less than nothing: {self}")
        if self.rate is None and (self.queue_packets is not None or self.queue_bytes is not None):
            raise ValueError("without a rate nothing waits in a queue")
        if self.loss and self.burst is not None:
            raise ValueError("loss is independent or in bursts, not both")
        if self.reorder and not self.delay:
            raise ValueError("without a delay there is nobody to overtake")


class Engine:
    """One direction of an impaired link, ``direction`` by name. Same seed, same decisions.

    ``counts``: ``packets`` and ``bytes`` that came; of these ``lost``, ``overflowed`` (a copy found the
    queue full), ``duplicated``, ``reordered`` (skipped the delay) and ``corrupted``; ``left`` counts
    the copies that go on.
    """

    def __init__(self, impairment: Impairment, *, seed: int, direction: str) -> None:
        self._draw = Random(f"{seed} {direction}").random
        self._draw_copy = Random(f"{seed} {direction} copies").random  # so that copies move no other decision
        self._bad = False
        self._queue: deque[tuple[float, int]] = deque()  # when it is sent to the last bit, size
        self._queued_bytes = 0
        self._link_free = 0.0
        self._limited = False  # by a rate, or by what is left of one
        self._last_departure = 0.0
        self._packets = self._bytes = self._left = 0
        self._rare: Counter[str] = Counter()
        self.change(impairment)

    @property
    def counts(self) -> Counter[str]:
        """What happened until now."""
        return self._rare + Counter(packets=self._packets, bytes=self._bytes, left=self._left)

    def change(self, impairment: Impairment) -> None:
        """From now on this. What is on its way or in the queue leaves when it was going to."""
        self.impairment = impairment
        self._loss, self._burst = impairment.loss, impairment.burst
        self._delay, self._jitter = impairment.delay - impairment.jitter, 2 * impairment.jitter
        self._reorder, self._duplicate, self._corrupt = impairment.reorder, impairment.duplicate, impairment.corrupt
        rate = impairment.rate
        self._seconds_per_byte = 8 / rate if rate else 0.0
        self._limited = self._limited or rate is not None
        default = DEFAULT_QUEUE if impairment.queue_bytes is None else None
        self._queue_packets = impairment.queue_packets if impairment.queue_packets is not None else default

    def handle(self, size: int, now: float) -> list[tuple[float, float | None]]:
        """Take one packet of ``size`` bytes at ``now`` (seconds, never less than before).

        Returns for each copy when it departs, and None or, when it is to be corrupted, at which
        fraction (0 up to 1) of what is behind its IP header. Nothing when it is lost.
        """
        # 1.6 µs a packet with delay, jitter and loss: attributes rather than counters, no call that can be saved.
        draw = self._draw
        lose, state, twice, overtake, spread, damage, where = draw(), draw(), draw(), draw(), draw(), draw(), draw()
        self._packets += 1
        self._bytes += size
        if lose < self._loss or (self._burst is not None and self._burst_loses(self._burst, lose, state)):
            self._rare["lost"] += 1
            return []
        leaving = []
        if (sent := self._transmitted(size, now) if self._limited else now) is not None:
            leaving.append(self._departure(sent, overtake, spread, damage, where))
        if twice < self._duplicate:
            self._rare["duplicated"] += 1
            draw = self._draw_copy
            overtake, spread, damage, where = draw(), draw(), draw(), draw()
            if (sent := self._transmitted(size, now) if self._limited else now) is not None:
                leaving.append(self._departure(sent, overtake, spread, damage, where))
        self._left += len(leaving)
        return leaving

    def _burst_loses(self, burst: GilbertElliott, lose: float, state: float) -> bool:
        lost = lose < (burst.loss_bad if self._bad else burst.loss_good)
        if state < (burst.to_good if self._bad else burst.to_bad):
            self._bad = not self._bad
        return lost

    def _transmitted(self, size: int, now: float) -> float | None:
        """When the link has sent its last bit; None when the queue has no room."""
        queue = self._queue
        while queue and queue[0][0] <= now:
            self._queued_bytes -= queue.popleft()[1]
        if not self._seconds_per_byte:
            # After a change from a limited rate, what still waits goes first.
            self._limited = bool(queue)
            return max(now, self._link_free)
        if queue:
            limit = self._queue_packets
            if limit is not None and len(queue) > limit:  # the first one is being sent
                self._rare["overflowed"] += 1
                return None
            waiting, room = self._queued_bytes - queue[0][1], self.impairment.queue_bytes
            if room is not None and waiting + size > room:
                self._rare["overflowed"] += 1
                return None
        sent = self._link_free = max(now, self._link_free) + size * self._seconds_per_byte
        queue.append((sent, size))
        self._queued_bytes += size
        return sent

    def _departure(
        self, sent: float, overtake: float, spread: float, damage: float, where: float
    ) -> tuple[float, float | None]:
        if overtake < self._reorder:
            self._rare["reordered"] += 1
            departure = sent
        else:
            departure = sent + self._delay + spread * self._jitter
            if departure < self._last_departure:
                departure = self._last_departure
            else:
                self._last_departure = departure
        if damage < self._corrupt:
            self._rare["corrupted"] += 1
            return departure, where
        return departure, None


def to_json(impairment: Impairment) -> dict[str, Any]:
    """The impairment as plain values; :func:`from_json` makes it again."""
    return asdict(impairment)


def from_json(value: dict[str, Any]) -> Impairment:
    """The inverse of :func:`to_json`; for our own output only (raises whatever a wrong one leads to)."""
    burst = value["burst"]
    return Impairment(**value | {"burst": GilbertElliott(**burst) if burst else None})


def _probability(name: str, value: float) -> None:
    if not 0 <= value <= 1:
        raise ValueError(f"{name} is a probability, 0 to 1, not {value}")
