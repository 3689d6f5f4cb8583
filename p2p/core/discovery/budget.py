"""How often something may be done, in all and for the sake of one source."""

from __future__ import annotations

from typing import Final

from p2p.core.rate import Bucket, Rate

# Runs of the test, each of which costs us some 15 ms and lets the other side try one guess. A hall of a hundred others
# is asked at once; a source (one address) has a few, as a machine with several users needs; then the rates hold.
TESTS: Final = Rate(burst=128, per_second=1.0)
TESTS_PER_SOURCE: Final = Rate(burst=8, per_second=0.2)
MAX_SOURCES: Final = 256  # whose spending is remembered; who comes with more addresses still meets TESTS
# Datagrams sent because of announcements, whose sources anybody can forge: an announcement in a victim's name brings
# one small datagram of each peer on the network.
ANSWERS: Final = Rate(burst=300, per_second=100.0)


class Budget:
    """A bucket for all and one for each source (at most `sources` of them; the one used longest ago is forgotten)."""

    def __init__(self, in_all: Rate, per_source: Rate, sources: int) -> None:
        self._in_all = Bucket(in_all)
        self._per_source = per_source
        self._sources = sources
        self._buckets: dict[str, Bucket] = {}

    def take(self, source: str, now: float) -> bool:
        """Whether both had a token."""
        bucket = self._buckets.pop(source, None) or Bucket(self._per_source)
        self._buckets[source] = bucket
        if len(self._buckets) > self._sources:
            del self._buckets[next(iter(self._buckets))]
        return self._in_all.has(now) and bucket.take(now) and self._in_all.take(now)
