"""A STUN server (RFC 8489 section 6.3, RFC 5780 section 6) as a pure machine."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import Final

from p2p.core.address import Address
from p2p.core.errors import DecodeError
from p2p.core.prefix import prefix
from p2p.core.rate import Rate
from p2p.core.stun.messages import (
    FIRST_BYTES,
    MAX_UNKNOWN,
    UNKNOWN_ATTRIBUTE,
    Attribute,
    Error,
    Request,
    ServerEndpoints,
    Success,
    decode,
    encode,
)

FIRST_RESPONSE_PORT: Final = 1024  # below it are services that a stranger might want us to talk to
IN_ALL: Final = Rate(burst=1000, per_second=1000)  # answers
NETWORK: Final = Rate(burst=60, per_second=20)  # to one IPv4 /24 or IPv6 /56: a classifier of NATs asks some 30 times
MAX_PADDED: Final = 1232  # bytes: no answer is cut into fragments, which the server's sockets do not do


@dataclass(frozen=True, slots=True)
class StunLimits:
    """Answers that are longer than their requests, or go to another port than they came from.

    Both are in the nature of STUN, whose request need not be longer than its header. An answer is at most 72 bytes
    longer (IPv6, both addresses told), so to a flood with forged sources the server adds 72 kB/s.
    """

    in_all: Rate = IN_ALL
    network: Rate = NETWORK


@dataclass(slots=True)
class StunCounters:
    """What happened since the start."""

    stun: int = 0  # datagrams that look like STUN
    stun_malformed: int = 0
    stun_answered: int = 0
    stun_throttled: int = 0


@dataclass(frozen=True, slots=True)
class Endpoints:
    """The server's sockets: number 2·h + p is bound to host h and port p.

    `hosts` is empty when the server listens on all addresses of its machine, and so does not know how others call it.
    """

    ports: tuple[int, int]
    hosts: tuple[str, ...] = ()

    def address(self, index: int) -> Address | None:
        return Address(self.hosts[index >> 1], self.ports[index & 1]) if self.hosts else None

    @property
    def has_two_hosts(self) -> bool:
        return len(self.hosts) == 2


@dataclass(frozen=True, slots=True)
class StunAnswer:
    """One datagram, and the number of the socket that it leaves by."""

    index: int
    destination: Address
    data: bytes


class StunServer:
    """Answers binding requests, in the form of RFC 8489 or RFC 3489 that they came in.

    What is longer than its request counts against `limits`; a request of our own peers has room for its answer.
    """

    def __init__(self, endpoints: Endpoints, limits: StunLimits = StunLimits()) -> None:
        self.counters = StunCounters()
        self._endpoints = endpoints
        self._limits = limits
        self._debt = 0.0
        # A network is forgotten within seconds of its last answer, so `limits` also bound how many there are: 4000.
        self._network_debts: OrderedDict[str, float] = OrderedDict()

    def handle_datagram(self, data: bytes, source: Address, index: int, now: float) -> StunAnswer | None:
        """Returns the answer to what came to the socket of that number, or None when it gets none."""
        self.counters.stun += 1
        try:
            request = decode(data)
        except DecodeError:
            self.counters.stun_malformed += 1
            return None
        if not isinstance(request, Request):
            return None  # an indication, or somebody's answer: two servers must not keep each other talking
        answer = self._answer(request, len(data), source, index)
        if answer is None:
            return None
        if (len(answer.data) > len(data) or answer.destination != source) and not self._may(source, now):
            self.counters.stun_throttled += 1
            return None
        self.counters.stun_answered += 1
        return answer

    def _answer(self, request: Request, size: int, source: Address, index: int) -> StunAnswer | None:
        unknown = request.unknown
        if request.change_ip and not self._endpoints.has_two_hosts:
            unknown += (Attribute.CHANGE_REQUEST,)
        if unknown:
            error = Error(request.transaction, UNKNOWN_ATTRIBUTE, unknown[:MAX_UNKNOWN], request.fingerprint)
            return StunAnswer(index, source, encode(error))
        destination = source
        if request.response_port is not None:
            if request.response_port < FIRST_RESPONSE_PORT:
                return None
            destination = Address(source.host, request.response_port)
        leaving = index ^ (2 if request.change_ip else 0) ^ (1 if request.change_port else 0)
        return StunAnswer(leaving, destination, self._success(request, size, source, index, leaving))

    def _success(self, request: Request, size: int, source: Address, index: int, leaving: int) -> bytes:
        origin = other = endpoints = None
        if request.room:
            hosts = self._endpoints.hosts
            endpoints = ServerEndpoints(
                self._endpoints.ports, hosts[1 - (index >> 1)] if self._endpoints.has_two_hosts else None
            )
        elif self._endpoints.has_two_hosts:  # RFC 5780 section 7.4: without two there is no OTHER-ADDRESS
            origin, other = self._endpoints.address(leaving), self._endpoints.address(index ^ 3)
        elif request.is_classic:
            origin = self._endpoints.address(leaving)
        plain = Success(request.transaction, source, origin, other, endpoints, fingerprint=request.fingerprint)
        data = encode(plain)
        room = min(size, MAX_PADDED) - len(data) - 4
        if not request.padding or room <= 0:
            return data
        # RFC 5780 section 6.1, except that the answer gets neither longer than its request nor than a packet.
        padding = min(request.padding, room) & ~3
        return encode(
            Success(request.transaction, source, origin, other, endpoints, padding, fingerprint=request.fingerprint)
        )

    def _may(self, source: Address, now: float) -> bool:
        limits, network = self._limits, prefix(source)
        while self._network_debts and next(iter(self._network_debts.values())) <= now:
            self._network_debts.popitem(last=False)
        debt = limits.in_all.spend(self._debt, now)
        network_debt = limits.network.spend(self._network_debts.get(network, 0.0), now)
        if debt is None or network_debt is None:
            return False
        self._debt = debt
        self._network_debts[network] = network_debt
        self._network_debts.move_to_end(network)
        return True


def looks_like_stun(data: bytes | bytearray | memoryview) -> bool:
    """Whether the first byte is STUN's, among the protocols of one socket (RFC 7983)."""
    return len(data) > 0 and data[0] in FIRST_BYTES
