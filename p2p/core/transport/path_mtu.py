"""Datagram packetization layer path MTU discovery (RFC 8899): how large a datagram may be."""

from __future__ import annotations

from p2p.core.transport.packets import BASE_DATAGRAM

# Bytes of UDP payload: what is left of common link MTUs under IPv4 and IPv6, tunnels and PPPoE, then jumbo frames.
SIZES = (BASE_DATAGRAM, 1232, 1252, 1280, 1372, 1392, 1412, 1432, 1452, 1472, 8952, 8972)
FIRST_TRY = SIZES.index(1472)  # Ethernet without a tunnel is by far the commonest path
MAX_PROBES = 3  # RFC 8899 section 5.1.2
RAISE_INTERVAL = 600.0  # seconds; RFC 8899 section 5.1.1 (PMTU_RAISE_TIMER)
BLACK_HOLE_LOSSES = 3  # loss events without one large datagram getting through
BLACK_HOLE_PAUSE = 60.0  # seconds before the search begins again on a path that swallowed large datagrams


class PathMtu:
    """Bisects SIZES, the usual answer first; one probe at a time."""

    __slots__ = ("_high", "_large_losses", "_low", "_outstanding", "_restart", "_tries", "size")

    def __init__(self) -> None:
        self.size = BASE_DATAGRAM
        self._low = 0  # index known to pass
        self._high = len(SIZES)  # first index known not to pass
        self._tries = 0
        self._outstanding = False
        self._restart: float | None = None
        self._large_losses = 0

    def next_probe(self) -> int | None:
        """Size of the probe to send now, or None."""
        if self._outstanding or self._high - self._low <= 1:
            return None
        return SIZES[self._candidate()]

    def on_probe_sent(self) -> None:
        self._outstanding = True

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
        self.size, self._low = BASE_DATAGRAM, 0
        self._fail(size, now)
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
        self.size, self._low, self._high = BASE_DATAGRAM, 0, 1
        self._large_losses = 0
        self._restart = now + BLACK_HOLE_PAUSE
        return True

    def handle_timeout(self, now: float) -> None:
        if self._restart is not None and now >= self._restart:
            self._restart = None
            self._high = len(SIZES)
            self._tries = 0

    def poll_timeout(self) -> float | None:
        return self._restart

    def _candidate(self) -> int:
        return FIRST_TRY if self._low < FIRST_TRY < self._high else (self._low + self._high) // 2

    def _fail(self, size: int, now: float) -> None:
        self._tries = 0
        larger = [index for index, candidate in enumerate(SIZES) if candidate >= size]
        self._high = max(min([self._high, *larger]), self._low + 1)
        self._restart = now + RAISE_INTERVAL
