"""How long a connection may be silent; of either kind, UDP or TCP."""

from __future__ import annotations

IDLE_TIMEOUT = 12.0  # seconds without anything genuine from the peer; docs/protocol.md section 6
KEEPALIVE_INTERVAL = 3.0  # seconds without sending; well under the 30 s that NATs keep a UDP mapping (RFC 4787 REQ-5)
MIN_IDLE_TIMEOUT = 2 * KEEPALIVE_INTERVAL  # one keep-alive may be lost
