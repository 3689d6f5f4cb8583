"""One UDP socket of the rendezvous server: replies leave from the address that was asked."""

from __future__ import annotations

import contextlib
import logging
import socket
import struct
import sys
from collections.abc import Iterator

from p2p.core.address import Address

RECEIVE_BATCH = 64  # datagrams of one socket before the others, the deadlines and the answers get their turn
LONGEST_DATAGRAM = 2048  # bytes; every message is shorter, and what is cut here is malformed anyway
RECEIVE_BUFFER = 4 << 20  # bytes of socket buffer asked for: some 5000 datagrams while the loop is busy

# Linux, absent from `socket` before Python 3.14 (linux/in.h): a reply has to leave from the address that was asked.
IP_PKTINFO = 8
IN_PKTINFO = struct.Struct("=I4s4s")  # ifindex, local address, destination in the header
IN6_PKTINFO = struct.Struct("=16sI")  # address, ifindex
CAN_CHOOSE_SOURCE = sys.platform == "linux"

log = logging.getLogger("p2p.server")


class UdpPort:
    """One UDP socket, and which of its local addresses a datagram was sent to."""

    def __init__(self, bound: socket.socket, is_wildcard: bool) -> None:
        self.socket = bound
        self._is_v6 = bound.family == socket.AF_INET6
        self._tells_destination = is_wildcard and CAN_CHOOSE_SOURCE
        bound.setblocking(False)
        with contextlib.suppress(OSError):
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)
        if self._tells_destination and self._is_v6:
            bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)
        elif self._tells_destination:
            bound.setsockopt(socket.IPPROTO_IP, IP_PKTINFO, 1)

    def receive(self) -> Iterator[tuple[bytes, Address, bytes]]:
        """Up to RECEIVE_BATCH datagrams that are there: payload, source, local address (empty where not known)."""
        space = socket.CMSG_SPACE(IN6_PKTINFO.size) if self._tells_destination else 0
        for _ in range(RECEIVE_BATCH):
            try:
                data, ancillary, _, source = self.socket.recvmsg(LONGEST_DATAGRAM, space)
            except BlockingIOError:
                return
            except OSError as error:  # an ICMP error to something sent before: nothing was lost
                log.debug("receiving: %s", error)
                continue
            yield data, Address(source[0].removeprefix("::ffff:"), source[1]), _local_address(ancillary)

    def send(self, data: bytes, destination: Address, local: bytes) -> None:
        """Raises OSError."""
        host = destination.host
        if self._is_v6 and ":" not in host:
            host = f"::ffff:{host}"
        ancillary = []
        if local and self._is_v6:
            ancillary = [(socket.IPPROTO_IPV6, socket.IPV6_PKTINFO, IN6_PKTINFO.pack(local, 0))]
        elif local:
            ancillary = [(socket.IPPROTO_IP, IP_PKTINFO, IN_PKTINFO.pack(0, local, bytes(4)))]
        self.socket.sendmsg([data], ancillary, 0, (host, destination.port))


def _local_address(ancillary: list[tuple[int, int, bytes]]) -> bytes:
    for level, kind, data in ancillary:
        if (level, kind) == (socket.IPPROTO_IP, IP_PKTINFO) and len(data) == IN_PKTINFO.size:
            return bytes(IN_PKTINFO.unpack(data)[1])
        if (level, kind) == (socket.IPPROTO_IPV6, socket.IPV6_PKTINFO) and len(data) == IN6_PKTINFO.size:
            address = bytes(IN6_PKTINFO.unpack(data)[0])
            return b"" if address[0] == 0xFF else address  # nothing can be sent from a multicast address
    return b""
