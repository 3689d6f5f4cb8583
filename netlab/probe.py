"""Measures how a router behaves, from a host behind it, against a server's two addresses × two ports.

The tests of RFC 5780 sections 4.3 and 4.4, but with both ends in our hands: what arrives where is
read off the sockets, so nothing has to answer. A result compares equal to a :class:`netlab.nat.Nat`
profile when the router does what the profile says.
"""

from __future__ import annotations

import errno
import os
import select
import socket
from collections import Counter
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from itertools import pairwise
from typing import Self, TypeVar

from netlab.lab import Lab, Node
from netlab.nat import Filtering, Guard, Mapping, Nat, Tcp, Udp

T = TypeVar("T")

ARRIVAL_LIMIT = 5.0  # seconds until a packet that should arrive counts as lost
# Seconds that a packet may still take after a later packet on the same way has made a round trip.
# Only what is filtered waits this long.
SETTLE = 0.1
HTTPS = 443
FLOWS = 2  # ports tried: a random choice equals the one asked for once in 64,512, not twice

EVERYONE = Filtering.ENDPOINT_INDEPENDENT

Address = tuple[str, int]


@dataclass(frozen=True, slots=True)
class Observed:
    """Where one socket's packets came from, by the server address they were sent to."""

    local: Address
    seen: dict[Address, Address]

    def seen_address(self) -> str:
        """The address, without port, that every server socket saw."""
        return _agreed("external address", {address for address, _ in self.seen.values()})

    def independent(self) -> bool:
        """Whether every server socket saw the same external address and port."""
        return len(set(self.seen.values())) == 1

    def keeps_port(self) -> bool:
        """Whether every server socket saw the local port (RFC 4787 section 4.2.1)."""
        return {port for _, port in self.seen.values()} == {self.local[1]}


def probe(lab: Lab, host: str, server: str = "server", *, address: str | None = None) -> Nat:
    """The behaviour that ``host`` meets towards ``server``.

    ``address`` is one of the host's; its first by default. It decides whether IPv4 or IPv6 is probed and,
    of a multi-homed host, by which interface.
    A router that lets no UDP out is reported as ``udp`` DROP or REJECT, with the profile's defaults
    for what then cannot be measured. Raises ``ProbeError`` when flows contradict each other and
    ``TimeoutError`` when a packet is lost that should not be.
    """
    with Bench(lab.host(host), lab.host(server), address) as bench:
        if (udp := bench.udp()) is not Udp.ALLOWED:
            return Nat("probed", udp=udp, tcp=bench.tcp())
        flows = [bench.observe() for _ in range(FLOWS)]
        mapping = _agreed("mapping", {_mapping(flow.seen) for flow in flows})
        translates = _agreed("translation", {flow.seen_address() != flow.local[0] for flow in flows})
        return Nat(
            "probed",
            translates=translates,
            mapping=mapping,
            filtering=(filters := _agreed("filtering", {bench.filtering() for _ in range(FLOWS)})),
            port_preservation=(keeps := all(flow.keeps_port() for flow in flows)),
            tcp=bench.tcp(),
            stride=_stride(flows),
            hairpinning=_agreed("hairpinning", {bench.hairpinning() for _ in range(FLOWS)}) if translates else False,
            guard=bench.guard() if keeps and (translates or filters is not EVERYONE) else Guard.DROP,
        )


def probe_guard(lab: Lab, host: str, server: str = "server") -> bool:
    """Whether a mapping keeps its port although its peer sent there first.

    Only for a port-preserving router. False means that the early packet took the port on the router
    itself, and that plain hole punching fails whenever the other side is quicker.
    """
    with Bench(lab.host(host), lab.host(server)) as bench:
        return bench.guard() is not Guard.NONE


class ProbeError(Exception):
    """The router behaved one way for one flow and another way for the next."""


def _agreed(what: str, answers: set[T]) -> T:
    if len(answers) != 1:
        raise ProbeError(f"{what} differs between flows: {answers}")
    return answers.pop()


def _stride(flows: list[Observed]) -> int:
    """How far apart the ports of mappings made one after the other are; 0 unless always as far.

    One step may differ: where the NAT begins anew.
    """
    ports = [port for flow in flows for _, port in flow.seen.values()]
    step, times = Counter(b - a for a, b in pairwise(ports)).most_common(1)[0]
    return step if times >= len(ports) - 2 else 0


def _mapping(seen: dict[Address, Address]) -> Mapping:
    """RFC 5780 section 4.3, with all four destinations at hand."""
    if len(set(seen.values())) == 1:
        return Mapping.ENDPOINT_INDEPENDENT
    per_address = {(to[0], source) for to, source in seen.items()}
    if len(per_address) == len({to[0] for to in seen}):
        return Mapping.ADDRESS_DEPENDENT
    return Mapping.ADDRESS_AND_PORT_DEPENDENT


class Bench:
    """What probes are made of: two machines, four server sockets, and as many client sockets as asked for."""

    def __init__(self, host: Node, server: Node, address: str | None = None) -> None:
        self.limit = ARRIVAL_LIMIT
        self.host, self.server = host, server
        self.address = address or host.address
        if self.address not in host.addresses:
            raise ValueError(f"{host.name} has no address {self.address}; it has {', '.join(host.addresses)}")
        self._family = socket.AF_INET if self.address in host.ipv4 else socket.AF_INET6
        self.reached = server.ipv4 if self._family == socket.AF_INET else server.ipv6
        self._stack = ExitStack()
        self.servers: list[socket.socket] = []  # by address, then by port
        self._https: socket.socket | None = None

    def __enter__(self) -> Self:
        addresses = self.reached[:2]
        if len(addresses) < 2:
            raise ValueError(f"a probe from {self.address} needs two such addresses of {self.server.name}")
        first = self.bound(self.server, addresses[0])
        second = self.bound(self.server, addresses[0])
        ports = [first.getsockname()[1], second.getsockname()[1]]
        with suppress(OSError):  # whoever listens there already takes up our connections as well
            self._https = self.bound(self.server, self.reached[0], HTTPS, kind=socket.SOCK_STREAM)
            self._https.listen()
        self.servers = [first, second, *(self.bound(self.server, addresses[1], port) for port in ports)]
        # The kernel keeps what a veth carries in a queue per CPU, that of the sender: in one queue
        # nothing overtakes, which :meth:`settle` relies on.
        cpus = sorted(os.sched_getaffinity(0))
        self._stack.callback(os.sched_setaffinity, 0, cpus)
        os.sched_setaffinity(0, {cpus[os.getpid() % len(cpus)]})
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def bound(self, node: Node, address: str, port: int = 0, kind: int = socket.SOCK_DGRAM) -> socket.socket:
        """A non-blocking socket in ``node``; raises ``OSError``."""
        made = self._stack.enter_context(node.socket(self._family, kind))
        made.bind((address, port))
        made.setblocking(False)
        return made

    def client(self) -> socket.socket:
        """A fresh UDP socket on the host."""
        return self.bound(self.host, self.address)

    def settle(self) -> bool:
        """Let what is under way arrive: a later TCP handshake on the same way overtakes nothing.

        Returns whether the handshake came about.
        To port 443, which routers let out when nothing else. Where that is blocked too there is
        nothing to go by but time.
        """
        with self.host.socket(self._family, socket.SOCK_STREAM) as fence:
            fence.bind((self.address, 0))
            fence.settimeout(ARRIVAL_LIMIT)
            try:
                fence.connect((self.reached[0], HTTPS))
            except OSError:
                return False
        patience = ARRIVAL_LIMIT
        while self._https and readable(self._https, patience):  # those of other benches too
            self._https.accept()[0].close()
            patience = 0.0
        return True

    def udp(self) -> Udp:
        """Does UDP get out at all; if not, does the sender learn of it (ICMP)?"""
        client, server = self.client(), self.servers[0]
        client.connect(server.getsockname())
        client.send(b"out?")
        self.settle()
        if readable(server, SETTLE):
            server.recvfrom(64)
            return Udp.ALLOWED
        refused = client.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == errno.ECONNREFUSED
        return Udp.REJECT if refused else Udp.DROP

    def tcp(self) -> Tcp:
        """Does TCP get out to another port than 443? Raises ``ProbeError`` if to none at all."""
        listener = self.bound(self.server, self.reached[0], kind=socket.SOCK_STREAM)
        listener.listen()
        with self.host.socket(self._family, socket.SOCK_STREAM) as client:
            client.bind((self.address, 0))
            client.setblocking(False)
            client.connect_ex(listener.getsockname())
            https = self.settle()
            if readable(listener, SETTLE):
                return Tcp.ALLOWED
        if not https:
            raise ProbeError(f"{self.host.name} reaches no TCP port, not even {HTTPS}")
        return Tcp.ONLY_443

    def hairpinning(self) -> bool:
        """RFC 5780 section 4.2: can a second socket reach the first at its external address?

        Raises ``ProbeError`` when it can, but is seen there at an address that is not its external
        one, or when the answer to that does not come from whom it wrote to (RFC 4787 REQ-9a).
        """
        one, two = self.client(), self.client()
        external = self.observe(two)
        # The target last: a NAT may give its port away, to a flow towards another destination.
        target = self.seen(one, self.servers[0])
        two.sendto(b"hairpin", target)
        self.settle()
        if not readable(one, SETTLE):
            return False
        source = bound_at(one.recvfrom(64)[1])
        if source[0] != external.seen_address() or (external.independent() and source not in external.seen.values()):
            raise ProbeError(f"hairpins, but {external.seen} is seen as {source} (RFC 4787 REQ-9a)")
        one.sendto(b"back", source)
        if not readable(two, ARRIVAL_LIMIT) or bound_at(two.recvfrom(64)[1]) != target:
            raise ProbeError(f"hairpins, but no answer comes back from {target} (RFC 4787 REQ-9a)")
        return True

    def guard(self) -> Guard:
        """What becomes of a packet to a port that has no mapping yet; for port-preserving routers."""
        local, remote = self.client(), self.bound(self.server, self.reached[0])
        port = int(local.getsockname()[1])
        early = (self.observe().seen_address(), port)
        remote.connect(early)
        remote.send(b"early")
        self.settle()
        refused = remote.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == errno.ECONNREFUSED
        # Not connected any more, it hears from whatever port the flow has got.
        again = self._again(remote)
        if self.seen(local, again)[1] != port:
            return Guard.NONE
        return Guard.REJECT if refused else Guard.DROP

    def _again(self, sock: socket.socket) -> socket.socket:
        """The same address once more, not connected."""
        address, port = bound_to(sock)
        sock.close()
        return self.bound(self.server, address, port)

    def seen(self, client: socket.socket, server: socket.socket) -> Address:
        """The address that ``server`` sees ``client`` at."""
        token = f"{client.getsockname()} to {server.getsockname()}".encode()
        client.sendto(token, server.getsockname())
        while True:
            if not readable(server, ARRIVAL_LIMIT):
                raise TimeoutError(f"no UDP packet came from {self.host.name} to {server.getsockname()}")
            got, source = server.recvfrom(256)
            if got == token:
                return (str(source[0]), int(source[1]))

    def observe(self, client: socket.socket | None = None) -> Observed:
        """One socket, by default a fresh one, sent to all four destinations."""
        client = client or self.client()
        return Observed(bound_to(client), {bound_to(server): self.seen(client, server) for server in self.servers})

    def filtering(self) -> Filtering:
        """RFC 5780 section 4.4: contact one address and port, see who else gets in."""
        client = self.client()
        # Fresh ones: whom an earlier flow contacted, a NAT may know by the same external port.
        known, same_address = (self.bound(self.server, self.reached[0]) for _ in range(2))
        stranger = self.bound(self.server, self.reached[1])
        mapped = self.seen(client, known)
        for number, server in enumerate((known, same_address, stranger)):
            server.sendto(bytes([number]), mapped)
        self.settle()
        arrived: set[int] = set()
        if not readable(client, ARRIVAL_LIMIT):
            raise TimeoutError(f"{self.host.name} does not even hear from whom it contacted")
        while len(arrived) < 3 and readable(client, SETTLE):
            arrived.add(client.recv(64)[0])
        match sorted(arrived):
            case [0]:
                return Filtering.ADDRESS_AND_PORT_DEPENDENT
            case [0, 1]:
                return Filtering.ADDRESS_DEPENDENT
            case [0, 1, 2]:
                return Filtering.ENDPOINT_INDEPENDENT
        raise ProbeError(f"no filtering of RFC 4787 lets through just {sorted(arrived)}")


def bound_to(sock: socket.socket) -> Address:
    """A socket's own address, without what IPv6 adds to it."""
    return bound_at(sock.getsockname())


def bound_at(name: tuple[str, int] | tuple[str, int, int, int]) -> Address:
    """An address as the socket module has it, without what IPv6 adds to it."""
    return (name[0], name[1])


def readable(sock: socket.socket, seconds: float) -> bool:
    """Whether something is there to be received within so many seconds."""
    return bool(select.select([sock], [], [], seconds)[0])
