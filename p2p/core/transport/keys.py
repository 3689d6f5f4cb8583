"""The keys of a connection, and what of them is seen on the wire."""

from __future__ import annotations

from dataclasses import dataclass

from p2p.core.transport import packets


@dataclass(frozen=True, slots=True)
class ConnectionKeys:
    """32 bytes each, of which an id uses the first 7. `out` is what we send, `in` what the peer sends."""

    records_out: bytes
    records_in: bytes
    control_out: bytes
    control_in: bytes
    id_out: bytes
    id_in: bytes


def prefixes(connection_id: bytes) -> tuple[bytes, bytes]:
    """The first 8 bytes of DATA and of SEALED packets."""
    short = connection_id[: packets.CONNECTION_ID_LENGTH]
    return bytes([packets.DATA]) + short, bytes([packets.SEALED]) + short
