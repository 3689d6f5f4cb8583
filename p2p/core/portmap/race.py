"""All protocols asked at once for one mapping: who is ready first maps, who fails makes way for the next."""

from __future__ import annotations

import contextlib
import itertools
from collections import deque
from collections.abc import Callable
from enum import Enum, auto
from typing import assert_never

from p2p.core.address import Address
from p2p.core.datagram import Transmit
from p2p.core.errors import DecodeError
from p2p.core.portmap import nat_pmp, pcp
from p2p.core.portmap.client import DatagramClient, MappingClient
from p2p.core.portmap.events import (
    Action,
    BehindAnotherNat,
    Denied,
    Event,
    Granted,
    Lost,
    Mapped,
    NoMapper,
    Protocol,
    Ready,
    Released,
    is_public,
)
from p2p.core.portmap.nat_pmp_client import NatPmpClient
from p2p.core.portmap.pcp_client import PcpClient
from p2p.core.portmap.upnp_client import UpnpClient
from p2p.core.timers import Timers

LIFETIME = 3600  # seconds that are asked for: what is left behind by a machine that crashes is gone within the hour
TURN = 0.75  # seconds: two attempts; after them the next that is ready maps as well
ROUND = 300.0  # seconds from one round without success to the next: somebody may have switched port mapping on


class Timer(Enum):
    TURN = auto()
    ROUND = auto()


class PortMapping:
    """Opens `internal_port` (UDP, of the IPv4 address `client`) at the router `gateway`.

    With `is_guess`, `gateway` is only likely to be the router, and UPnP takes any private address that answers.
    """

    def __init__(
        self,
        gateway: str,
        client: str,
        internal_port: int,
        random_bytes: Callable[[int], bytes],
        *,
        is_guess: bool = False,
        lifetime: int = LIFETIME,
    ) -> None:
        self._gateway = Address(gateway, nat_pmp.PORT)
        self._client = client
        self._internal_port = internal_port
        self._random_bytes = random_bytes
        self._is_guess = is_guess
        self._lifetime = lifetime
        self._nonce = random_bytes(pcp.NONCE_SIZE)
        self._numbers = itertools.count(1)
        self._seen: str | None = None
        self._timers: Timers[Timer] = Timers()
        self._events: deque[Event] = deque()
        self._transmits: deque[Transmit] = deque()
        self._actions: deque[Action] = deque()
        self._clients: dict[Protocol, MappingClient] = {}
        self._ready: list[Protocol] = []  # speak, and wait for their turn
        self._winner: Protocol | None = None
        self._granted: Granted | None = None  # to the winner
        self._reasons: dict[Protocol, str] = {}  # of those that are out
        self._behind: BehindAnotherNat | None = None  # what one of them is out for
        self._again: dict[Protocol, float] = {}
        self._told: Event | None = None  # the last word on a round without success
        self._is_closing = False

    @property
    def is_closed(self) -> bool:
        """After `close`: nothing of ours is left on the router, or it no longer answers."""
        return self._is_closing and all(client.is_over for client in self._clients.values())

    @property
    def is_searching(self) -> bool:
        """Whether answers to a UPnP search are still of use; if not, nobody has to read them."""
        upnp_client = self._clients.get(Protocol.UPNP)
        return isinstance(upnp_client, UpnpClient) and upnp_client.is_searching

    def start(self, now: float) -> None:
        self._begin(now)
        self._collect(now)

    def set_reflexive(self, host: str, now: float) -> None:
        """Where the internet sees us (IPv4), as the server says. What the router claims has to agree with it."""
        if host == self._seen or not is_public(host) or self._is_closing:
            return
        self._seen = host
        if self._granted is not None and not self._agrees(self._granted.external.host):
            assert self._winner is not None
            self._reject(self._winner, self._granted.external.host, now)
        elif self._winner is None and self._behind is not None and self._behind.external == host:
            self._begin(now)
        self._collect(now)

    def close(self, now: float) -> None:
        """Deletes what was leased; `is_closed` follows."""
        self._is_closing = True
        for timer in Timer:
            self._timers.stop(timer)
        for client in self._clients.values():
            client.release(now)
        self._collect(now)
        self._events.clear()

    def handle_datagram(self, data: bytes, source: Address, now: float) -> None:
        """Anything that came to the sockets from which poll_transmit's datagrams leave."""
        with contextlib.suppress(DecodeError):
            if source == self._gateway:
                self._handle_answer(data, now)
            elif (client := self._clients.get(Protocol.UPNP)) is not None:
                assert isinstance(client, UpnpClient)
                client.handle_search_answer(data, source, now)
        self._collect(now)

    def handle_unreachable(self, now: float) -> None:
        """ICMP says that nobody listens on the gateway's port."""
        for client in self._clients.values():
            if isinstance(client, DatagramClient):
                client.handle_unreachable(now)
        self._collect(now)

    def handle_data(self, number: int, data: bytes | memoryview, now: float) -> None:
        """Bytes from the connection of an Open."""
        self._upnp().handle_data(number, data, now)
        self._collect(now)

    def handle_closed(self, number: int, now: float, reason: str | None = None) -> None:
        """The connection of an Open was closed, or, with a reason, could not be made or broke."""
        self._upnp().handle_closed(number, now, reason)
        self._collect(now)

    def handle_timeout(self, now: float) -> None:
        for client in self._clients.values():
            client.handle_timeout(now)
        self._collect(now)
        for timer in self._timers.pop_expired(now):
            match timer:
                case Timer.TURN:
                    self._give_turn(now)
                case Timer.ROUND:
                    self._begin(now)
                case _:
                    assert_never(timer)
        self._collect(now)

    def poll_timeout(self) -> float | None:
        deadlines = [client.poll_timeout() for client in self._clients.values()]
        return min((at for at in (*deadlines, self._timers.earliest()) if at is not None), default=None)

    def poll_transmit(self) -> Transmit | None:
        return self._transmits.popleft() if self._transmits else None

    def poll_action(self) -> Action | None:
        return self._actions.popleft() if self._actions else None

    def poll_event(self) -> Event | None:
        return self._events.popleft() if self._events else None

    def _begin(self, now: float) -> None:
        """A round: everybody is asked anew."""
        port, lifetime, entropy = self._internal_port, self._lifetime, self._random_bytes
        for client in self._clients.values():
            client.drop()
        self._collect_outputs()
        self._clients = {
            Protocol.PCP: PcpClient(self._gateway, self._client, port, lifetime, entropy, nonce=self._nonce),
            Protocol.NAT_PMP: NatPmpClient(self._gateway, port, lifetime, entropy),
            Protocol.UPNP: UpnpClient(
                None if self._is_guess else self._gateway.host,
                self._client,
                port,
                lifetime,
                entropy,
                numbers=self._numbers,
            ),
        }
        self._ready, self._reasons, self._again, self._behind = [], {}, {}, None
        for timer in Timer:
            self._timers.stop(timer)
        for client in self._clients.values():
            client.start(now)

    def _upnp(self) -> UpnpClient:
        client = self._clients[Protocol.UPNP]
        assert isinstance(client, UpnpClient)
        return client

    def _handle_answer(self, data: bytes, now: float) -> None:
        """By the version in the first byte; RFC 6887 section 9 and appendix A."""
        pcp_client, nat_pmp_client = self._clients[Protocol.PCP], self._clients[Protocol.NAT_PMP]
        assert isinstance(pcp_client, PcpClient)
        assert isinstance(nat_pmp_client, NatPmpClient)
        if data[:1] != bytes([nat_pmp.VERSION]):
            pcp_client.handle_answer(data, now)
        elif data[2:4] == bytes([0, nat_pmp.UNSUPPORTED_VERSION]):
            pcp_client.handle_other_version(now)
        else:
            nat_pmp_client.handle_answer(data, now)

    def _collect(self, now: float) -> None:
        """Hears the clients until they have no more to say; what they hear in return may make them say more."""
        is_news = True
        while is_news:
            is_news = False
            for protocol, client in list(self._clients.items()):
                while self._clients[protocol] is client and (event := client.poll_event()) is not None:
                    is_news = True
                    self._hear(protocol, event, now)
        self._collect_outputs()

    def _collect_outputs(self) -> None:
        for client in self._clients.values():
            while (transmit := client.poll_transmit()) is not None:
                self._transmits.append(transmit)
            while (action := client.poll_action()) is not None:
                self._actions.append(action)

    def _hear(self, protocol: Protocol, event: Ready | Granted | Denied | Released, now: float) -> None:
        if self._is_closing:
            return
        match event:
            case Ready(host):
                self._handle_ready(protocol, host, now)
            case Granted(external):
                self._handle_granted(protocol, event, external, now)
            case Denied(reason, again):
                self._handle_denied(protocol, reason, again, now)
            case Released():
                if self._winner not in (None, protocol):  # one router may have taken both for the same mapping
                    self._clients[self._winner].map(now)
                self._conclude(now)
            case _:
                assert_never(event)

    def _handle_ready(self, protocol: Protocol, host: str | None, now: float) -> None:
        self._reasons.pop(protocol, None)
        if host is not None and not self._agrees(host):
            self._reject(protocol, host, now)
            return
        self._ready.append(protocol)
        self._give_turn(now)

    def _give_turn(self, now: float) -> None:
        """To one at a time, for two protocols would make two mappings; a slow one is joined by the next."""
        if self._winner is not None or self._timers.get(Timer.TURN) is not None or not self._ready:
            return
        self._clients[self._ready.pop(0)].map(now)
        self._timers.set(Timer.TURN, now + TURN)

    def _handle_granted(self, protocol: Protocol, granted: Granted, external: Address, now: float) -> None:
        self._reasons.pop(protocol, None)
        if self._winner not in (None, protocol):  # it was slow, and another one won meanwhile
            if self._granted is not None and self._granted.external == external:
                self._clients[protocol].drop()
            else:
                self._clients[protocol].release(now)
            self._reasons[protocol] = "another protocol was faster"
        elif not self._agrees(external.host):
            self._reject(protocol, external.host, now)
        else:
            self._winner, self._granted, self._told = protocol, granted, None
            self._timers.stop(Timer.TURN)
            self._timers.stop(Timer.ROUND)
            self._events.append(Mapped(external, protocol, granted.lifetime))

    def _handle_denied(self, protocol: Protocol, reason: str, again: float | None, now: float) -> None:
        self._reasons[protocol] = reason
        if again is not None:
            self._again[protocol] = again
        if protocol is self._winner:
            self._winner = self._granted = None
            self._events.append(Lost(reason))
            self._begin(now)
            return
        if self._winner is None and not any(client.is_mapping for client in self._clients.values()):
            self._timers.stop(Timer.TURN)
        self._give_turn(now)
        self._conclude(now)

    def _agrees(self, host: str) -> bool:
        return is_public(host) and self._seen in (None, host)

    def _reject(self, protocol: Protocol, host: str, now: float) -> None:
        """The mapping, made or not, would not be reached from the internet."""
        if host == "0.0.0.0":
            reason = "it has no internet address itself, as behind a carrier's NAT"
        else:
            reason = f"its external address is {host}, so there is another NAT behind it"
            self._behind = BehindAnotherNat(protocol, host, self._seen if is_public(host) else None)
        if protocol is self._winner:
            self._winner = self._granted = None
            self._events.append(Lost(reason))
        self._reasons[protocol] = reason
        self._clients[protocol].release(now)
        self._timers.stop(Timer.TURN)
        self._give_turn(now)
        self._conclude(now)

    def _conclude(self, now: float) -> None:
        """When all are out, says so, once."""
        if self._winner is not None or len(self._reasons) < len(self._clients):
            return
        if self._timers.get(Timer.ROUND) is None:
            self._timers.set(Timer.ROUND, now + min([ROUND, *self._again.values()]))
        verdict = self._behind or NoMapper(tuple((protocol, self._reasons[protocol]) for protocol in Protocol))
        if verdict != self._told:
            self._told = verdict
            self._events.append(verdict)
