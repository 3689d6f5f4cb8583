"""One UDP socket of the rendezvous server: bursts in and out, and replies leave from the address that was asked."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import socket
import struct
from collections.abc import Iterator

from p2p.core.address import Address
from p2p.core.datagram import Buffer
from p2p.io.addresses import from_socket, to_socket
from p2p.io.udp import (
    GSO_REFUSED,
    IP_MTU_DISCOVER,
    IP_PMTUDISC_PROBE,
    IPV6_MTU_DISCOVER,
    IS_LINUX,
    READ_SIZE,
    SO_RCVBUFFORCE,
    SO_SNDBUFFORCE,
    SOCKET_BUFFER,
    SOL_UDP,
    UDP_GRO,
    UDP_SEGMENT,
    enlarge,
)

BATCH = 64  # reads of one socket before the others, the deadlines and the answers get their turn
BATCH_BYTES = 2 << 20  # and bytes likewise: some 2 ms of forwarding

# Linux, absent from `socket` before Python 3.14 (linux/in.h): a reply has to leave from the address that was asked.
IP_PKTINFO = 8
IN_PKTINFO = struct.Struct("=I4s4s")  # ifindex, local address, destination in the header
IN6_PKTINFO = struct.Struct("=16sI")  # address, ifindex
SEGMENT_SIZE = struct.Struct("=i")  # of what UDP_GRO has coalesced

log = logging.getLogger("p2p.server")


class UdpPort:
    """One UDP socket, and which of its local addresses a datagram was sent to."""

    def __init__(self, bound: socket.socket, is_wildcard: bool) -> None:
        self.socket = bound
        self._is_v6 = bound.family == socket.AF_INET6
        self._tells_destination = is_wildcard and IS_LINUX
        bound.setblocking(False)
        enlarge(bound, socket.SO_RCVBUF, SO_RCVBUFFORCE, SOCKET_BUFFER)
        enlarge(bound, socket.SO_SNDBUF, SO_SNDBUFFORCE, SOCKET_BUFFER)
        if self._tells_destination and self._is_v6:
            bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)
        elif self._tells_destination:
            bound.setsockopt(socket.IPPROTO_IP, IP_PKTINFO, 1)
        self._offloads = IS_LINUX and os.environ.get("P2P_NO_GSO") != "1"
        if self._offloads:
            with contextlib.suppress(OSError):  # kernel before 5.0
                bound.setsockopt(SOL_UDP, UDP_GRO, 1)
        if IS_LINUX:  # what peers forward is their search for the path's MTU too: it must not be fragmented here
            with contextlib.suppress(OSError):
                bound.setsockopt(socket.IPPROTO_IP, IP_MTU_DISCOVER, IP_PMTUDISC_PROBE)
            if self._is_v6:
                bound.setsockopt(socket.IPPROTO_IPV6, IPV6_MTU_DISCOVER, IP_PMTUDISC_PROBE)
        self._view = memoryview(bytearray(READ_SIZE))
        self._space = 0
        if IS_LINUX:
            self._space = socket.CMSG_SPACE(SEGMENT_SIZE.size) + socket.CMSG_SPACE(IN6_PKTINFO.size)

    def receive(self) -> Iterator[tuple[memoryview, int, Address, bytes]]:
        """What is there, within BATCH: data, segment size (0: one datagram), source, local address (empty: unknown).

        The data is valid until the next step.
        """
        received = 0
        for _ in range(BATCH):
            try:
                length, ancillary, _, source = self.socket.recvmsg_into([self._view], self._space)
            except BlockingIOError:
                return
            except OSError as error:  # an ICMP error to something sent before: nothing was lost
                log.debug("receiving: %s", error)
                continue
            segment_size, local = _about(ancillary)
            yield self._view[:length], segment_size, from_socket(source), local
            received += length
            if received >= BATCH_BYTES:
                return

    def send(self, data: Buffer, segment_size: int, destination: Address, local: bytes) -> None:
        """`data` is datagrams of `segment_size` bytes (0: one). Raises OSError."""
        ancillary = []
        if local and self._is_v6:
            ancillary = [(socket.IPPROTO_IPV6, socket.IPV6_PKTINFO, IN6_PKTINFO.pack(local, 0))]
        elif local:
            ancillary = [(socket.IPPROTO_IP, IP_PKTINFO, IN_PKTINFO.pack(0, local, bytes(4)))]
        to = to_socket(destination, is_v6=self._is_v6)
        if not 0 < segment_size < len(data):
            self.socket.sendmsg([data], ancillary, 0, to)
            return
        if self._offloads:
            try:
                self.socket.sendmsg(
                    [data], [*ancillary, (SOL_UDP, UDP_SEGMENT, struct.pack("=H", segment_size))], 0, to
                )
                return
            except OSError as error:
                if error.errno not in GSO_REFUSED:
                    raise
        try:
            for start in range(0, len(data), segment_size):
                self.socket.sendmsg([data[start : start + segment_size]], ancillary, 0, to)
            self._offloads = False  # this kernel, or the card below it, does not want it: never again
        except OSError as error:
            # Older kernels say EINVAL for segments above the interface's MTU; that is no reason to give it up.
            self._offloads = self._offloads and error.errno == errno.EMSGSIZE
            raise


def _about(ancillary: list[tuple[int, int, bytes]]) -> tuple[int, bytes]:
    """Segment size and local address."""
    segment_size, local = 0, b""
    for level, kind, data in ancillary:
        if (level, kind) == (SOL_UDP, UDP_GRO):
            segment_size = SEGMENT_SIZE.unpack_from(data)[0]
        elif (level, kind) == (socket.IPPROTO_IP, IP_PKTINFO) and len(data) == IN_PKTINFO.size:
            local = IN_PKTINFO.unpack(data)[1]
        elif (level, kind) == (socket.IPPROTO_IPV6, socket.IPV6_PKTINFO) and len(data) == IN6_PKTINFO.size:
            address = IN6_PKTINFO.unpack(data)[0]
            local = b"" if address[0] == 0xFF else address  # nothing can be sent from a multicast address
    return segment_size, local
