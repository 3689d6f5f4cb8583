"""The multicast groups of the discovery, on every interface of this machine, IPv4 and IPv6."""

from __future__ import annotations

import contextlib
import errno
import selectors
import socket
import struct
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from p2p.core.address import Address
from p2p.core.discovery.messages import GROUP_PORT, GROUP_V4, GROUP_V6, MAGIC
from p2p.io.net.addresses import from_socket
from p2p.io.net.interfaces import InterfaceWatch, LocalAddress, machine_addresses

MAX_INTERFACES = 16  # of each IP version; Linux allows a socket 20 memberships
READ_SIZE = 2048  # bytes; what is longer is none of our messages
READS = 64  # datagrams a call, so that a flood leaves time for everything else
SHARES_PORT_BY_REUSEPORT = sys.platform not in ("linux", "win32")  # macOS and the BSDs


@dataclass(frozen=True, slots=True)
class Membership:
    """One interface of one IP version; IPv4 names it by an address of its own, IPv6 by its number."""

    family: socket.AddressFamily
    address: str
    index: int


def memberships(found: Sequence[LocalAddress]) -> list[Membership]:
    """Where to join, given this machine's addresses. Loopback only where there is nothing else."""
    outside = [each for each in found if not each.ip.is_loopback] or list(found)
    v4 = {each.index: each.host for each in reversed(outside) if each.ip.version == 4}
    v6 = dict.fromkeys(each.index for each in outside if each.ip.version == 6 and each.ip.is_link_local)
    joined_v4 = [Membership(socket.AF_INET, host, index) for index, host in sorted(v4.items())]
    joined_v6 = [Membership(socket.AF_INET6, "", index) for index in v6]
    return joined_v4[:MAX_INTERFACES] + joined_v6[:MAX_INTERFACES]


class MulticastGroups:
    """Joined on all interfaces there are, and on those that come later.

    Several programs on one machine share the port, and hear each other.
    """

    def __init__(
        self,
        selector: selectors.BaseSelector,
        now: float,
        look: Callable[[], list[LocalAddress]] = machine_addresses,
    ) -> None:
        self._selector = selector
        self._sockets: dict[int, socket.socket] = {}
        for family in (socket.AF_INET, socket.AF_INET6):
            with contextlib.suppress(OSError):  # no such family here, or somebody keeps the port for himself
                self._sockets[family] = _bind(family)
        self._joined: set[Membership] = set()
        self._watch = InterfaceWatch(lambda found, _: self._join(found), now, look)
        self._join(look())

    @property
    def is_on_a_network(self) -> bool:
        return bool(self._joined)

    def watch(self, on_datagram: Callable[[bytes, Address], None]) -> None:
        """From now on what others send to the groups is handed over; our own comes back too."""
        for sock in self._sockets.values():
            self._selector.register(sock, selectors.EVENT_READ, lambda _, sock=sock: self._read(sock, on_datagram))

    def send(self, data: bytes) -> None:
        """To the groups on every interface. What does not go out on one is lost there, as on the wire."""
        for joined in sorted(self._joined, key=lambda joined: joined.index):
            sock = self._sockets[joined.family]
            with contextlib.suppress(OSError):
                if joined.family == socket.AF_INET:
                    sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton(joined.address))
                    sock.sendto(data, (GROUP_V4, GROUP_PORT))
                else:
                    sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF, joined.index)
                    sock.sendto(data, (GROUP_V6, GROUP_PORT, 0, joined.index))

    def poll_timeout(self) -> float | None:
        """When to look at the interfaces again."""
        return self._watch.poll_timeout() if self._sockets else None

    def handle_timeout(self, now: float) -> None:
        if self._sockets:
            self._watch.handle_timeout(now)

    def close(self) -> None:
        """The kernel leaves the groups with the sockets."""
        for sock in self._sockets.values():
            with contextlib.suppress(KeyError):  # not watched
                self._selector.unregister(sock)
            sock.close()
        self._sockets.clear()
        self._joined.clear()

    def _join(self, found: Sequence[LocalAddress]) -> None:
        wanted = {each for each in memberships(found) if each.family in self._sockets}
        for gone in self._joined - wanted:
            with contextlib.suppress(OSError):  # the interface took the membership with it
                self._set(gone, join=False)
        for new in wanted - self._joined:
            try:
                self._set(new, join=True)
            except OSError as error:
                if error.errno != errno.EADDRINUSE:  # joined already, under another address of the interface
                    wanted.discard(new)
        self._joined = wanted

    def _set(self, membership: Membership, *, join: bool) -> None:
        """Raises OSError."""
        sock = self._sockets[membership.family]
        if membership.family == socket.AF_INET:
            request = socket.inet_aton(GROUP_V4) + socket.inet_aton(membership.address)  # struct ip_mreq
            option = socket.IP_ADD_MEMBERSHIP if join else socket.IP_DROP_MEMBERSHIP
            sock.setsockopt(socket.IPPROTO_IP, option, request)
        else:
            request = socket.inet_pton(socket.AF_INET6, GROUP_V6) + struct.pack("@I", membership.index)  # ipv6_mreq
            option = socket.IPV6_JOIN_GROUP if join else socket.IPV6_LEAVE_GROUP
            sock.setsockopt(socket.IPPROTO_IPV6, option, request)

    def _read(self, sock: socket.socket, on_datagram: Callable[[bytes, Address], None]) -> None:
        for data, source in _datagrams(sock):
            if data.startswith(MAGIC):  # nothing else has business here
                on_datagram(data, source)
            if sock.fileno() < 0:  # closed by what that meant
                return


def _bind(family: int) -> socket.socket:
    """Raises OSError."""
    sock = socket.socket(family, socket.SOCK_DGRAM)
    try:
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if SHARES_PORT_BY_REUSEPORT:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET:
            sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, 1)
            sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_LOOP, 1)
            # Bound to the group, the socket takes nothing that is sent to this machine alone; Windows cannot.
            sock.bind(("" if sys.platform == "win32" else GROUP_V4, GROUP_PORT))
        else:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, 1)
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_LOOP, 1)
            sock.bind(("::", GROUP_PORT))  # a link-local group would bind it to one interface
    except OSError:
        sock.close()
        raise
    return sock


def _datagrams(sock: socket.socket) -> Iterator[tuple[bytes, Address]]:
    for _ in range(READS):
        try:
            data, source = sock.recvfrom(READ_SIZE)
        except OSError:  # nothing more; or an interface went down
            return
        yield data, from_socket(source)
