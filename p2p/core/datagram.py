"""What a machine hands to a UDP socket."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from p2p.core.address import Address

Buffer = bytes | bytearray | memoryview


@dataclass(frozen=True, slots=True)
class Transmit:
    """One datagram, or a burst of datagrams of one size, to one destination.

    The payload is the concatenation of `buffers`. With `segment_size` > 0 it is cut into datagrams
    of that many bytes (only the last may be shorter), as UDP_SEGMENT does; 0 means one datagram.
    """

    destination: Address
    buffers: Sequence[Buffer]
    segment_size: int = 0
    ttl: int | None = None
