"""UDP sockets with segmentation offload: super-packets out (UDP_SEGMENT) and in (UDP_GRO) where the kernel has them."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import struct
import sys
from collections.abc import Iterator
from enum import Enum, auto

from p2p.core.address import Address
from p2p.core.datagram import Transmit
from p2p.io.net.addresses import MAPPED, SocketAddress, from_socket, to_socket

IS_LINUX = sys.platform == "linux"

# Constants of Linux that Python's socket module lacks.
SOL_UDP = 17
UDP_SEGMENT = 103
UDP_GRO = 104
IP_MTU_DISCOVER = 10
IPV6_MTU_DISCOVER = 23
IP_PMTUDISC_PROBE = 3  # set DF, and leave the path MTU to us
SO_SNDBUFFORCE = 32
SO_RCVBUFFORCE = 33

MAX_SEGMENTS = 64  # UDP_MAX_SEGMENTS of kernels before 6.9
MAX_PAYLOAD = 65_473  # bytes; above it an IPv6 send is silently not segmented
READ_SIZE = 65_536  # bytes; a coalesced read never exceeds it
BATCH = 32  # bursts a call: 2 MB of super-packets, some 2 ms of work
READS = 256  # and reads: no more work where they bring a datagram each, so that acknowledgements do not wait for it
RUN_SIZE = 65_536  # bytes of datagrams that are coalesced here
SOCKET_BUFFER = 8 * 1024 * 1024  # bytes wanted; a default of 212,992 holds three super-packets
MAX_REFUSED_SENDS = 3  # EPERM in a row that are borne: conntrack and firewalls refuse now and then

GSO_REFUSED = {errno.EIO, errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP}
_SOFT = {
    errno.ECONNREFUSED, errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ENETDOWN, errno.ENOBUFS, errno.EHOSTDOWN,
    errno.EADDRNOTAVAIL, errno.ENODEV, errno.ENXIO,  # no address of that version here, no such interface
}  # fmt: skip
_MSG_TRUNC = int(socket.MSG_TRUNC)  # the enum's own & costs 3 µs
_ANCILLARY = socket.CMSG_SPACE(4) if hasattr(socket, "CMSG_SPACE") else 0


class SendResult(Enum):
    """What became of a Transmit. False in a condition: keep it and wait until the socket is writable."""

    SENT = auto()  # or lost on the way out, which the transport finds out by itself
    WOULD_BLOCK = auto()
    TOO_BIG = auto()  # EMSGSIZE: the interface's MTU is smaller than the datagrams; nothing left

    def __bool__(self) -> bool:
        return self is not SendResult.WOULD_BLOCK


class _Run:
    """Datagrams that were read one behind the other: all of `size` bytes, but perhaps the last."""

    __slots__ = ("count", "end", "size", "source", "start")

    def __init__(self) -> None:
        self.start = self.end = self.size = self.count = 0
        self.source: SocketAddress = ("", 0)

    @property
    def segment_size(self) -> int:
        return self.size if self.count > 1 else 0

    def takes(self, length: int, source: SocketAddress) -> bool:
        return self.count > 0 and length <= self.size and source == self.source

    def begin(self, length: int, source: SocketAddress) -> None:
        """A new one, with the datagram that was just read behind the old one, or (0) with none."""
        self.start = self.end if length else 0
        self.end = self.start + length
        self.size, self.count, self.source = length, int(length > 0), source


class UdpSocket:
    """A non-blocking UDP socket. `uses_offload` says whether super-packets go out whole."""

    def __init__(
        self, sock: socket.socket, *, buffer_size: int = SOCKET_BUFFER, reads_like: UdpSocket | None = None
    ) -> None:
        """Takes over a bound AF_INET or AF_INET6 socket.

        With `reads_like` it reads into the memory of that one, and what either has read is valid until the other reads.
        """
        self._socket = sock
        self._is_v6 = sock.family == socket.AF_INET6
        sock.setblocking(False)
        self.uses_offload = IS_LINUX and os.environ.get("P2P_NO_GSO") != "1"
        if self.uses_offload:
            try:
                sock.setsockopt(SOL_UDP, UDP_GRO, 1)
            except OSError:  # kernel before 5.0
                self.uses_offload = False
        if IS_LINUX:
            with contextlib.suppress(OSError):
                sock.setsockopt(socket.IPPROTO_IP, IP_MTU_DISCOVER, IP_PMTUDISC_PROBE)
            if self._is_v6:
                sock.setsockopt(socket.IPPROTO_IPV6, IPV6_MTU_DISCOVER, IP_PMTUDISC_PROBE)
        self.enlarge_buffers(buffer_size)
        self._view: memoryview = reads_like._view if reads_like else memoryview(bytearray(RUN_SIZE + READ_SIZE))
        self._refused = 0
        self.truncated = 0  # reads that the kernel cut; dropped
        # What was converted last: almost all of a transfer goes to one address and comes from one.
        self._to: tuple[Address | None, SocketAddress] = (None, ("", 0))
        self._from: tuple[SocketAddress, Address] = (("", 0), Address("", 0))

    @classmethod
    def bind(
        cls,
        host: str = "0.0.0.0",
        port: int = 0,
        *,
        buffer_size: int = SOCKET_BUFFER,
        reads_like: UdpSocket | None = None,
    ) -> UdpSocket:
        """Raises OSError when the address cannot be had. "::" takes IPv4 as well."""
        sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM)
        try:
            if sock.family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, int(host != "::"))
            sock.bind((host, port))
            return cls(sock, buffer_size=buffer_size, reads_like=reads_like)
        except OSError:
            sock.close()
            raise

    @classmethod
    def bind_all(cls, port: int = 0, *, buffer_size: int = SOCKET_BUFFER) -> UdpSocket:
        """All addresses of this machine, IPv6 and IPv4; of IPv4 alone where IPv6 is switched off. Raises OSError."""
        try:
            return cls.bind("::", port, buffer_size=buffer_size)
        except OSError:
            return cls.bind("0.0.0.0", port, buffer_size=buffer_size)

    @property
    def address(self) -> Address:
        """Where the socket is bound."""
        host, port = self._socket.getsockname()[:2]
        return Address(host, port)

    def enlarge_buffers(self, buffer_size: int = SOCKET_BUFFER) -> None:
        self.receive_buffer = enlarge(self._socket, socket.SO_RCVBUF, SO_RCVBUFFORCE, buffer_size)
        self.send_buffer = enlarge(self._socket, socket.SO_SNDBUF, SO_SNDBUFFORCE, buffer_size)

    def fileno(self) -> int:
        return self._socket.fileno()

    def close(self) -> None:
        self._socket.close()

    def send(self, transmit: Transmit) -> SendResult:
        """Raises OSError only for what waiting does not mend: a closed socket, or a firewall that keeps refusing."""
        size = transmit.segment_size
        try:
            destination = self._destination(transmit.destination)
            if not size:
                self._sendmsg(transmit.buffers, [], destination, transmit.ttl)
            elif self.uses_offload:
                self._send_offloaded(transmit, destination)
            else:
                self._send_each(transmit, destination)
        except BlockingIOError:
            return SendResult.WOULD_BLOCK
        except OSError as error:
            return self._on_error(error)
        self._refused = 0
        return SendResult.SENT

    def receive(self) -> Iterator[tuple[memoryview, int, Address]]:
        """At most BATCH bursts, and a few more: data (valid until the next step), segment size (0: one) and source.

        What the kernel did not coalesce is coalesced here: datagrams of one size from one source, read one behind the
        other, are one burst. To take apart 43 of them one by one takes three times as long (bench.hot_path).
        """
        view = self._view
        run = _Run()
        bursts = reads = 0
        while bursts < BATCH and reads < READS:
            reads += 1
            try:
                length, ancillary, flags, source = self._socket.recvmsg_into([view[run.end :]], _ANCILLARY)
            except BlockingIOError:
                break
            except OSError as error:
                if error.errno in _SOFT:  # an ICMP answer to something sent before
                    continue
                raise
            if flags & _MSG_TRUNC:
                self.truncated += 1
                continue
            segment_size = 0
            for level, kind, data in ancillary:
                if level == SOL_UDP and kind == UDP_GRO:
                    segment_size = struct.unpack_from("=i", data)[0]
            if not segment_size and run.takes(length, source):
                run.end += length
                run.count += 1
                if length == run.size and run.count < MAX_SEGMENTS and run.end <= RUN_SIZE:
                    continue
                length = 0  # the run is full, or ends with a shorter one
            if run.count:
                yield view[run.start : run.end], run.segment_size, self._source(run.source)
                bursts += 1
            if segment_size:
                yield view[run.end : run.end + length], segment_size, self._source(source)
                bursts += 1
                length = 0
            run.begin(length, source)
            if run.end > RUN_SIZE:
                yield view[run.start : run.end], 0, self._source(source)
                bursts += 1
                run.begin(0, source)
        if run.count:
            yield view[run.start : run.end], run.segment_size, self._source(run.source)

    def _send_offloaded(self, transmit: Transmit, destination: SocketAddress) -> None:
        ancillary = [(SOL_UDP, UDP_SEGMENT, struct.pack("=H", transmit.segment_size))]
        try:
            self._sendmsg(transmit.buffers, ancillary, destination, transmit.ttl)
        except BlockingIOError:
            raise
        except OSError as error:
            if error.errno not in GSO_REFUSED:
                raise
            self.uses_offload = False  # this kernel, or the card below it, does not want it: never again
            try:
                self._send_each(transmit, destination)
            except OSError as each:
                # Older kernels say EINVAL for segments above the interface's MTU; that is no reason to give it up.
                self.uses_offload = each.errno == errno.EMSGSIZE
                raise

    def _send_each(self, transmit: Transmit, destination: SocketAddress) -> None:
        """One call a datagram. Those that find the socket full after the first are lost, as on the wire."""
        data = b"".join(transmit.buffers)
        for start in range(0, len(data), transmit.segment_size):
            try:
                self._sendmsg([data[start : start + transmit.segment_size]], [], destination, transmit.ttl)
            except BlockingIOError:
                if not start:
                    raise
                return

    def _sendmsg(
        self,
        buffers: object,
        ancillary: list[tuple[int, int, bytes]],
        destination: SocketAddress,
        ttl: int | None,
    ) -> None:
        if ttl is None:
            self._socket.sendmsg(buffers, ancillary, 0, destination)  # type: ignore[arg-type]
            return
        mapped = destination[0].startswith(MAPPED)
        level, option = (
            (socket.IPPROTO_IPV6, socket.IPV6_UNICAST_HOPS)
            if self._is_v6 and not mapped
            else (socket.IPPROTO_IP, socket.IP_TTL)
        )
        before = self._socket.getsockopt(level, option)
        self._socket.setsockopt(level, option, ttl)  # not as ancillary data, which macOS has not
        try:
            self._socket.sendmsg(buffers, ancillary, 0, destination)  # type: ignore[arg-type]
        finally:
            self._socket.setsockopt(level, option, before)

    def _on_error(self, error: OSError) -> SendResult:
        if error.errno == errno.EMSGSIZE:
            return SendResult.TOO_BIG
        if error.errno == errno.EPERM and self._refused < MAX_REFUSED_SENDS:
            self._refused += 1
            return SendResult.SENT
        if error.errno in _SOFT:
            return SendResult.SENT
        raise error

    def _destination(self, address: Address) -> SocketAddress:
        """Raises OSError where there is no such interface, or no IPv6."""
        if address == self._to[0]:
            return self._to[1]
        destination = to_socket(address, is_v6=self._is_v6)
        if len(destination) == 2:  # no interface is named: one that comes back has another number
            self._to = (address, destination)
        return destination

    def _source(self, source: SocketAddress) -> Address:
        if source != self._from[0]:
            self._from = (source, from_socket(source))
        return self._from[1]


def enlarge(sock: socket.socket, option: int, force: int, wanted: int) -> int:
    """Asks for a larger buffer and returns the size in force: what the kernel counts, headers and slack included."""
    before = sock.getsockopt(socket.SOL_SOCKET, option)
    if before < wanted:
        if IS_LINUX:
            with contextlib.suppress(OSError):  # needs CAP_NET_ADMIN
                sock.setsockopt(socket.SOL_SOCKET, force, wanted)
        if sock.getsockopt(socket.SOL_SOCKET, option) < wanted:
            with contextlib.suppress(OSError):
                sock.setsockopt(socket.SOL_SOCKET, option, wanted)
    return sock.getsockopt(socket.SOL_SOCKET, option)
