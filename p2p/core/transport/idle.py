"""How long a connection may be silent; of either kind, UDP or TCP."""

from __future__ import annotations

IDLE_TIMEOUT = 12.0  # seconds without anything genuine from the peer; docs/protocol.md section 6
KEEPALIVE_INTERVAL = 1.0  # seconds without sending
SUSPICION = 2.5  # seconds of silence after which a path may be dead: keep-alives, and their repetitions, were lost
MIN_IDLE_TIMEOUT = 6.0  # time for both to suspect it, and a second for a path that was only dark
