"""One UDP socket of the rendezvous server: bursts in and out, and replies leave from the address that was asked."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import socket
import struct
from collections.abc import Iterator, Sequence

from p2p.core.address import Address
from p2p.core.datagram import Buffer
from p2p.io.net.addresses import from_socket, to_socket
from p2p.io.net.udp import (
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
from p2p.io.server.lanes import Lane, dropped

BATCH = 64  # reads of a socket that is the only one of its port before others get their turn
MOST_READS = 512  # of any socket: 5 ms
BATCH_BYTES = 2 << 20  # and bytes likewise: some 2 ms of forwarding

# Linux, absent from `socket` before Python 3.14 (linux/in.h): a reply has to leave from the address that was asked.
IP_PKTINFO = 8
IN_PKTINFO = struct.Struct("=I4s4s")  # ifindex, local address, destination in the header
IN6_PKTINFO = struct.Struct("=16sI")  # address, ifindex
MAX_LOCALS = 512  # local addresses remembered; all of 127/8 is local
SEGMENT_SIZE = struct.Struct("=i")  # of what UDP_GRO has coalesced

log = logging.getLogger("p2p.server")


class UdpPort:
    """One UDP port, and which of its local addresses a datagram was sent to.

    `bound` sends; it receives too where there are no `lanes`, else it has the garbage.
    """

    def __init__(self, bound: socket.socket, is_wildcard: bool, lanes: Sequence[Lane] = ()) -> None:
        self.lanes = tuple(lanes) or (Lane(bound, BATCH),)
        self._socket = bound
        self._has_garbage = bool(lanes)
        self._is_v6 = bound.family == socket.AF_INET6
        self._tells_destination = is_wildcard and IS_LINUX
        self._offloads = IS_LINUX and os.environ.get("P2P_NO_GSO") != "1"
        for each in {bound, *(lane.socket for lane in lanes)}:
            self._prepare(each)
        if not lanes:
            enlarge(bound, socket.SO_RCVBUF, SO_RCVBUFFORCE, SOCKET_BUFFER)
        enlarge(bound, socket.SO_SNDBUF, SO_SNDBUFFORCE, SOCKET_BUFFER)
        self._view = memoryview(bytearray(READ_SIZE))
        self._space = 0
        if IS_LINUX:
            self._space = socket.CMSG_SPACE(SEGMENT_SIZE.size) + socket.CMSG_SPACE(IN6_PKTINFO.size)
        self._locals: dict[bytes, bytes] = {}  # by ancillary data: unpacking it costs as much as a system call
        self._ancillary: dict[bytes, list[tuple[int, int, bytes]]] = {b"": []}  # by local address

    @property
    def garbage(self) -> int:
        """Datagrams that could not be for us, and which the kernel dropped."""
        return dropped(self._socket) if self._has_garbage else 0

    @property
    def overflown(self) -> int:
        """Datagrams that the kernel dropped because too many waited."""
        return sum(dropped(lane.socket) for lane in self.lanes) if IS_LINUX else 0

    def _prepare(self, bound: socket.socket) -> None:
        bound.setblocking(False)
        if self._tells_destination and self._is_v6:
            bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)
        elif self._tells_destination:
            bound.setsockopt(socket.IPPROTO_IP, IP_PKTINFO, 1)
        if self._offloads:
            with contextlib.suppress(OSError):  # kernel before 5.0
                bound.setsockopt(SOL_UDP, UDP_GRO, 1)
        if IS_LINUX:  # what peers forward is their search for the path's MTU too: it must not be fragmented here
            with contextlib.suppress(OSError):
                bound.setsockopt(socket.IPPROTO_IP, IP_MTU_DISCOVER, IP_PMTUDISC_PROBE)
            if self._is_v6:
                bound.setsockopt(socket.IPPROTO_IPV6, IPV6_MTU_DISCOVER, IP_PMTUDISC_PROBE)

    def receive(self, lane: Lane, share: int) -> Iterator[tuple[memoryview, int, Address, bytes]]:
        """What is there: data, segment size (0: one datagram), source, local address (empty: unknown).

        The data is valid until the next step. At most `share` times the lane's reads.
        """
        received = 0
        view, space, read = self._view, self._space, lane.socket.recvmsg_into
        for _ in range(min(MOST_READS, lane.reads * share)):
            try:
                length, ancillary, _, source = read([view], space)
            except BlockingIOError:
                return
            except OSError as error:  # an ICMP error to something sent before: nothing was lost
                log.debug("receiving: %s", error)
                continue
            segment_size, local = 0, b""
            for level, _, value in ancillary:
                if level == SOL_UDP:
                    segment_size = SEGMENT_SIZE.unpack_from(value)[0]
                else:
                    local = self._local(value)
            yield view[:length], segment_size, from_socket(source) if self._is_v6 else Address(*source), local
            received += length
            if received >= BATCH_BYTES:
                return

    def send(self, data: Buffer, segment_size: int, destination: Address, local: bytes) -> None:
        """`data` is datagrams of `segment_size` bytes (0: one). Raises OSError."""
        ancillary = self._ancillary.get(local) or self._from(local)
        to = to_socket(destination, is_v6=self._is_v6)
        if not 0 < segment_size < len(data):
            self._socket.sendmsg([data], ancillary, 0, to)
            return
        if self._offloads:
            try:
                self._socket.sendmsg(
                    [data], [*ancillary, (SOL_UDP, UDP_SEGMENT, struct.pack("=H", segment_size))], 0, to
                )
                return
            except OSError as error:
                if error.errno not in GSO_REFUSED:
                    raise
        try:
            for start in range(0, len(data), segment_size):
                self._socket.sendmsg([data[start : start + segment_size]], ancillary, 0, to)
            self._offloads = False  # this kernel, or the card below it, does not want it: never again
        except OSError as error:
            # Older kernels say EINVAL for segments above the interface's MTU; that is no reason to give it up.
            self._offloads = self._offloads and error.errno == errno.EMSGSIZE
            raise

    def _local(self, packet_info: bytes) -> bytes:
        """The address in an IP_PKTINFO or IPV6_PKTINFO."""
        known = self._locals.get(packet_info)
        if known is not None:
            return known
        local = b""
        if len(packet_info) == IN_PKTINFO.size:
            local = IN_PKTINFO.unpack(packet_info)[1]
        elif len(packet_info) == IN6_PKTINFO.size:
            address = IN6_PKTINFO.unpack(packet_info)[0]
            local = b"" if address[0] == 0xFF else address  # nothing can be sent from a multicast address
        if len(self._locals) < MAX_LOCALS:
            self._locals[packet_info] = local
        return local

    def _from(self, local: bytes) -> list[tuple[int, int, bytes]]:
        """The ancillary data that makes a datagram leave from that address."""
        if not local:
            return []
        if self._is_v6:
            ancillary = [(int(socket.IPPROTO_IPV6), int(socket.IPV6_PKTINFO), IN6_PKTINFO.pack(local, 0))]
        else:
            ancillary = [(int(socket.IPPROTO_IP), IP_PKTINFO, IN_PKTINFO.pack(0, local, bytes(4)))]
        if len(self._ancillary) < MAX_LOCALS:
            self._ancillary[local] = ancillary
        return ancillary
