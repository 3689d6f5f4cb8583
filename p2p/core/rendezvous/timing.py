"""When a peer asks its server, and how long it bears what."""

from __future__ import annotations

from p2p.core.rendezvous.messages import LEASE

RETRY_FIRST = 0.25  # seconds; half of RFC 8489 section 6.2.1: a lost datagram should not be felt
RETRY_MAX = 2.0  # seconds; doubles up to this
JOIN_INTERVAL = 5.0  # seconds; three in a lease, and far below the 2 min of RFC 4787 section 4.3, which not all keep
COOKIES_IN_A_ROW = 3  # answered at once; more of them mean a NAT that changes our address with every datagram
REFUSED_INTERVAL = 1.0  # seconds between two attempts to get a seat that is not free
REFUSED_PATIENCE = LEASE + 2.0  # seconds: by then the seat of a predecessor that crashed has expired
REJOIN_GRACE = JOIN_INTERVAL + 2.0  # seconds: after a restart of the server the friend is back within this
# Seconds in which an answer may still contradict what says that the server speaks another version: anybody who knows
# our address can forge that, for it bears no number; two more requests fit in.
OUTDATED_WAIT = 1.0
LEAVE_RETRY = 0.2  # seconds
LEAVE_PATIENCE = 1.0  # seconds
