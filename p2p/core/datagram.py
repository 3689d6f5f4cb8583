"""What a machine hands to a UDP socket."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from p2p.core.address import Address

# Local ends of a path, by number; others are sockets that a machine asked for (p2p/core/punch), from 1 up.
MAIN: Final = 0  # the UDP socket that talks to the server
TUNNEL: Final = -1  # the TCP connection to the server; each datagram is a frame in it
MULTICAST: Final = -2  # the sockets of the discovery: to its groups, on every interface (p2p/core/discovery)

Buffer = bytes | bytearray | memoryview


@dataclass(frozen=True, slots=True)
class Transmit:
    """One datagram, or a burst of datagrams of one size, to one destination.

    The payload is the concatenation of `buffers`. With `segment_size` > 0 it is cut into datagrams
    of that many bytes (only the last may be shorter), as UDP_SEGMENT does; 0 means one datagram.
    `local` is the socket that it leaves by: MAIN, TUNNEL, or the number of another one.
    """

    destination: Address
    buffers: Sequence[Buffer]
    segment_size: int = 0
    ttl: int | None = None
    local: int = MAIN


@dataclass(frozen=True, slots=True)
class OpenSockets:
    """UDP sockets of the main one's family, on any port, are wanted under the numbers from `first` on.

    What is sent by one that could not be opened is to be dropped.
    """

    first: int
    count: int


@dataclass(frozen=True, slots=True)
class CloseSockets:
    """These will not be used any more."""

    numbers: Sequence[int]


@dataclass(frozen=True, slots=True)
class UseSocket:
    """This one is to carry the files from now on: it is worth larger buffers."""

    number: int


SocketAction = OpenSockets | CloseSockets | UseSocket
