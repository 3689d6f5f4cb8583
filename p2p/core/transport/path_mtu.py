"""Datagram packetization layer path MTU discovery (RFC 8899): how large a datagram may be."""

from __future__ import annotations

from p2p.core.transport.packets import BASE_DATAGRAM

# Bytes of UDP payload that common links leave: their MTU less 28 bytes of headers over IPv4, less 48 over IPv6.
SIZES = (
    BASE_DATAGRAM,
    1232,  # 1280 over IPv6: the least that IPv6 allows
    1252,  # 1280 over IPv4
    1280,
    1352,  # 1400 over IPv6: many tunnels
    1372,  # 1400 over IPv4; 1420 (WireGuard) over IPv6
    1392,  # 1420 over IPv4
    1412,  # 1460 (some clouds) over IPv6
    1432,  # 1460 over IPv4
    1444,  # 1492 (PPPoE) over IPv6
    1452,  # 1500 (Ethernet) over IPv6
    1464,  # 1492 over IPv4
    1472,  # 1500 over IPv4
    # 9000 (jumbo frames) leaves 8972 or 8952, of which a record needs eight, more than a super-packet holds. Eight of
    # these carry the same record, and fit: 8 * (7962 - 24) = 63504.
    7962,
)
ETHERNET = {4: SIZES.index(1472), 6: SIZES.index(1452)}  # without a tunnel it is by far the commonest path
MAX_PROBES = 3  # RFC 8899 section 5.1.2
RAISE_INTERVAL = 600.0  # seconds; RFC 8899 section 5.1.1 (PMTU_RAISE_TIMER)
BLACK_HOLE_LOSSES = 3  # loss events without one large datagram getting through
# Seconds before what used to pass and no longer does is tried again, doubling up to RAISE_INTERVAL: routes come back,
# and a try costs three datagrams.
SHRUNK_PAUSE = 10.0


class PathMtu:
    """Bisects SIZES, the usual answer first; one probe at a time."""

    __slots__ = (
        "_best", "_first_try", "_high", "_large_losses", "_low", "_outstanding", "_pause", "_restart", "_tries", "size",
    )  # fmt: skip

    def __init__(self, version: int = 4) -> None:
        """`version` of the Internet Protocol, 4 or 6: what a link leaves depends on it."""
        self.size = BASE_DATAGRAM
        self._first_try = ETHERNET[version]
        self._best = BASE_DATAGRAM  # the largest size that ever passed
        self._low = 0  # index known to pass
        self._high = len(SIZES)  # first index known not to pass
        self._tries = 0
        self._outstanding = False
        self._restart: float | None = None
        self._pause = SHRUNK_PAUSE
        self._large_losses = 0

    def next_probe(self) -> int | None:
        """Size of the probe to send now, or None."""
        if self._outstanding or self._high - self._low <= 1:
            return None
        return SIZES[self._candidate()]

    def on_probe_sent(self) -> None:
        self._outstanding = True

    def on_probe_forgotten(self) -> None:
        """Nobody will say what became of it."""
        self._outstanding = False

    def on_probe_acked(self, size: int) -> bool:
        """Returns whether the size of datagrams grew."""
        self._outstanding = False
        self._tries = 0
        if size not in SIZES:
            return False
        self._low = max(self._low, SIZES.index(size))
        self._high = max(self._high, self._low + 1)
        grown = size > self.size
        self.size = max(self.size, size)
        self._best = max(self._best, size)
        return grown

    def on_probe_lost(self, size: int, now: float) -> None:
        self._outstanding = False
        self._tries += 1
        if self._tries >= MAX_PROBES:
            self._fail(size, now)

    def on_too_big(self, size: int, now: float) -> bool:
        """The socket refused a datagram of `size` bytes (EMSGSIZE). Returns whether datagrams became smaller."""
        self._outstanding = False
        if size > self.size:
            self._fail(size, now)
            return False
        if size <= BASE_DATAGRAM:
            return False
        self._shrink(size, now)
        return True

    def on_acked(self, size: int) -> None:
        if size > BASE_DATAGRAM:
            self._large_losses = 0

    def on_lost(self, size: int, now: float) -> bool:
        """One loss event, whose largest datagram had `size` bytes. Returns whether datagrams became smaller."""
        if size <= BASE_DATAGRAM or self.size == BASE_DATAGRAM:
            return False
        self._large_losses += 1
        if self._large_losses < BLACK_HOLE_LOSSES:
            return False
        self._shrink(self.size, now)
        return True

    def handle_timeout(self, now: float) -> None:
        if self._restart is not None and now >= self._restart:
            self._restart = None
            self._high = len(SIZES)
            self._tries = 0
            self._pause = min(2 * self._pause, RAISE_INTERVAL)

    def poll_timeout(self) -> float | None:
        return self._restart

    def _candidate(self) -> int:
        first = self._first_try
        return first if self._low < first < self._high else (self._low + self._high) // 2

    def _shrink(self, size: int, now: float) -> None:
        """What passed does so no more: back to what every path carries, and search below `size` at once."""
        self.size, self._low = BASE_DATAGRAM, 0
        self._large_losses = 0
        self._fail(size, now)

    def _fail(self, size: int, now: float) -> None:
        """`size` does not pass. All is tried again later: soon, if it did pass once."""
        self._tries = 0
        larger = [index for index, candidate in enumerate(SIZES) if candidate >= size]
        self._high = max(min([self._high, *larger]), self._low + 1)
        restart = now + (self._pause if size <= self._best else RAISE_INTERVAL)
        self._restart = restart if self._restart is None else min(restart, self._restart)
