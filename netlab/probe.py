"""Measures how a router behaves, from a host behind it, against a server's two addresses × two ports.

The tests of RFC 5780 sections 4.3 and 4.4, but with both ends in our hands: what arrives where is
read off the sockets, so nothing has to answer. A result compares equal to a :class:`netlab.nat.Nat`
profile when the router does what the profile says.
"""

from __future__ import annotations

import errno
import select
import socket
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Self, TypeVar

from netlab.lab import Lab, Node
from netlab.nat import Filtering, Mapping, Nat, Udp

T = TypeVar("T")

ARRIVAL_LIMIT = 5.0  # seconds until a packet that should arrive counts as lost
# Seconds that a packet may still take after a later packet on the same way has made a round trip.
# Only what is filtered waits this long.
SETTLE = 0.1
FLOWS = 2  # ports tried: a random choice equals the one asked for once in 64,512, not twice

Address = tuple[str, int]


@dataclass(frozen=True, slots=True)
class Observed:
    """Where one socket's packets came from, by the server address they were sent to."""

    local: Address
    seen: dict[Address, Address]

    def seen_address(self) -> str:
        """The address, without port, that every server socket saw."""
        return _agreed("external address", {address for address, _ in self.seen.values()})


def probe(lab: Lab, host: str, server: str = "server") -> Nat:
    """The behaviour that ``host`` meets towards ``server``.

    A router that lets no UDP out is reported as ``udp`` DROP or REJECT, with the profile's defaults
    for what then cannot be measured. Raises ``ProbeError`` when flows contradict each other and
    ``TimeoutError`` when a packet is lost that should not be.
    """
    with _Bench(lab.host(host), lab.host(server)) as bench:
        if (udp := bench.udp()) is not Udp.ALLOWED:
            return Nat("probed", udp=udp)
        flows = [bench.observe() for _ in range(FLOWS)]
        mapping = _agreed("mapping", {_mapping(flow.seen) for flow in flows})
        return Nat(
            "probed",
            translates=_agreed("translation", {flow.seen_address() != flow.local[0] for flow in flows}),
            mapping=mapping,
            filtering=_agreed("filtering", {bench.filtering() for _ in range(FLOWS)}),
            port_preservation=all({a[1] for a in flow.seen.values()} == {flow.local[1]} for flow in flows),
        )


def probe_guard(lab: Lab, host: str, server: str = "server") -> bool:
    """Whether a mapping keeps its port although its peer sent there first.

    Only for a port-preserving router. False means that the early packet took the port on the router
    itself, and that plain hole punching fails whenever the other side is quicker.
    """
    with _Bench(lab.host(host), lab.host(server)) as bench:
        wan = bench.observe().seen_address()
        local = bench.client()
        remote = bench.servers[0]
        remote.sendto(b"early", (wan, local.getsockname()[1]))
        bench.settle()
        return bench.seen(local, remote)[1] == int(local.getsockname()[1])


class ProbeError(Exception):
    """The router behaved one way for one flow and another way for the next."""


def _agreed(what: str, answers: set[T]) -> T:
    if len(answers) != 1:
        raise ProbeError(f"{what} differs between flows: {answers}")
    return answers.pop()


def _mapping(seen: dict[Address, Address]) -> Mapping:
    """RFC 5780 section 4.3, with all four destinations at hand."""
    if len(set(seen.values())) == 1:
        return Mapping.ENDPOINT_INDEPENDENT
    per_address = {(to[0], source) for to, source in seen.items()}
    if len(per_address) == len({to[0] for to in seen}):
        return Mapping.ADDRESS_DEPENDENT
    return Mapping.ADDRESS_AND_PORT_DEPENDENT


class _Bench:
    """Two machines, four server sockets, and as many client sockets as asked for."""

    def __init__(self, host: Node, server: Node) -> None:
        self.host, self.server = host, server
        self._stack = ExitStack()
        self.servers: list[socket.socket] = []  # by address, then by port

    def __enter__(self) -> Self:
        addresses = self.server.addresses[:2]
        if len(addresses) < 2:
            raise ValueError(f"{self.server.name} has one address; a probe needs two")
        first = self._bound(self.server, addresses[0])
        second = self._bound(self.server, addresses[0])
        ports = [first.getsockname()[1], second.getsockname()[1]]
        self.servers = [first, second, *(self._bound(self.server, addresses[1], port) for port in ports)]
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _bound(self, node: Node, address: str, port: int = 0, kind: int = socket.SOCK_DGRAM) -> socket.socket:
        made = self._stack.enter_context(node.socket(kind=kind))
        made.bind((address, port))
        made.setblocking(False)
        return made

    def client(self) -> socket.socket:
        """A fresh UDP socket on the host."""
        return self._bound(self.host, self.host.address)

    def settle(self) -> None:
        """Let what is under way arrive: a later TCP handshake on the same way overtakes nothing.

        Where TCP is blocked too there is nothing to go by but time.
        """
        listener = self._bound(self.server, self.server.address, kind=socket.SOCK_STREAM)
        listener.listen()
        listener.settimeout(ARRIVAL_LIMIT)
        with self.host.socket(kind=socket.SOCK_STREAM) as fence:
            fence.settimeout(ARRIVAL_LIMIT)
            try:
                fence.connect(listener.getsockname())
            except OSError:
                return
            accepted, _ = listener.accept()
            accepted.close()

    def udp(self) -> Udp:
        """Does UDP get out at all; if not, does the sender learn of it (ICMP)?"""
        client, server = self.client(), self.servers[0]
        client.connect(server.getsockname())
        client.send(b"out?")
        self.settle()
        if _readable(server, SETTLE):
            server.recvfrom(64)
            return Udp.ALLOWED
        refused = client.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == errno.ECONNREFUSED
        return Udp.REJECT if refused else Udp.DROP

    def seen(self, client: socket.socket, server: socket.socket) -> Address:
        """The address that ``server`` sees ``client`` at."""
        token = f"{client.getsockname()} to {server.getsockname()}".encode()
        client.sendto(token, server.getsockname())
        while True:
            if not _readable(server, ARRIVAL_LIMIT):
                raise TimeoutError(f"no UDP packet came from {self.host.name} to {server.getsockname()}")
            got, source = server.recvfrom(256)
            if got == token:
                return (str(source[0]), int(source[1]))

    def observe(self) -> Observed:
        """One socket, sent to all four destinations."""
        client = self.client()
        local = client.getsockname()
        return Observed(local, {server.getsockname(): self.seen(client, server) for server in self.servers})

    def filtering(self) -> Filtering:
        """RFC 5780 section 4.4: contact one address and port, see who else gets in."""
        client = self.client()
        known, same_address, _, stranger = self.servers
        mapped = self.seen(client, known)
        for number, server in enumerate((known, same_address, stranger)):
            server.sendto(bytes([number]), mapped)
        self.settle()
        arrived: set[int] = set()
        if not _readable(client, ARRIVAL_LIMIT):
            raise TimeoutError(f"{self.host.name} does not even hear from whom it contacted")
        while len(arrived) < 3 and _readable(client, SETTLE):
            arrived.add(client.recv(64)[0])
        match sorted(arrived):
            case [0]:
                return Filtering.ADDRESS_AND_PORT_DEPENDENT
            case [0, 1]:
                return Filtering.ADDRESS_DEPENDENT
            case [0, 1, 2]:
                return Filtering.ENDPOINT_INDEPENDENT
        raise ProbeError(f"no filtering of RFC 4787 lets through just {sorted(arrived)}")


def _readable(sock: socket.socket, seconds: float) -> bool:
    return bool(select.select([sock], [], [], seconds)[0])
