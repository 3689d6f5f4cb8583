"""The introduction by a server: which of its addresses, by UDP or by TCP, how it sees us, and what it forwards."""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias, assert_never

from p2p.core import introduction
from p2p.core.address import Address
from p2p.core.datagram import MAIN, TUNNEL, Transmit
from p2p.core.errors import DecodeError
from p2p.core.introduction import Pairing
from p2p.core.nat.probe import NatFound, NatProbe
from p2p.core.nat_report import Mapping as NatMapping
from p2p.core.nat_report import NatReport
from p2p.core.peer import events, explain
from p2p.core.peer.eyeballs import Eyeballs
from p2p.core.rendezvous import events as rendezvous
from p2p.core.rendezvous.client import RendezvousClient
from p2p.core.rendezvous.messages import TRANSACTION_SIZE, Cookie, Hello, RelayState, decode, encode
from p2p.core.role import Role

SERVER_DEADLINE = 10.0  # seconds in which the server must answer for the first time
SERVER_LOST_DEADLINE = 180.0  # seconds of silence that we put up with once it has answered: a restart, a reboot
TUNNEL_AFTER = 0.75  # seconds without an answer by UDP, two repetitions in them, after which TCP is tried beside it
TUNNEL_PAUSE = 1.0  # seconds until a tunnel that broke is opened again
FIRST_SAMPLES = 4  # scratch sockets that the first look at the NAT takes; the others are for when the friend has come


@dataclass(frozen=True, slots=True)
class SeenAs:
    """How our NAT behaves and at which addresses others see us; `tcp` that of our connection to the server."""

    nat: NatReport
    reflexive: tuple[Address, ...]
    tcp: Address | None


@dataclass(frozen=True, slots=True)
class WantTunnel:
    """UDP to the server stays unanswered: it is to be tried by TCP. Said again as long as it stays silent."""


@dataclass(frozen=True, slots=True)
class RelayOpen:
    """The server forwards what goes to `address` by the socket `local`.

    `rate`: bytes a second, both ways together; 0: no limit.
    """

    local: int
    address: Address
    rate: int


@dataclass(frozen=True, slots=True)
class RelayClosed:
    """The server does not, or no longer, forward anything; why as half a sentence, for us and for the other side."""

    why: str
    told: str


@dataclass(frozen=True, slots=True)
class Unreachable:
    """The end: the server does not answer, or speaks another version; `message` says so."""

    is_outdated: bool
    message: str


Said: TypeAlias = (
    introduction.Event
    | SeenAs
    | WantTunnel
    | RelayOpen
    | RelayClosed
    | Unreachable
    | events.ServerSilent
    | events.ServerAnswering
)


class AtServer:
    """Composes the choice of an address, the rendezvous client, and the probe of our NAT."""

    def __init__(
        self,
        servers: Sequence[Address],
        pairing: Pairing,
        role: Role,
        random_bytes: Callable[[int], bytes],
        *,
        main_port: int,
        scratch: Mapping[int, int],
        stun_servers: Sequence[Address] = (),
        seat: bytes | None = None,
    ) -> None:
        """`servers`: the addresses of one server, at least one, in the order in which to try them.

        `scratch`: numbers of fresh sockets and the ports that they are bound to, for samples of what our NAT does.
        `seat`: the secret of our seat, if it is one of before.
        """
        self._role = role
        self._random_bytes = random_bytes
        self._eyeballs = Eyeballs(servers, random_bytes)
        self._scratch = dict(scratch)
        v4 = [server for server in servers if server.version == 4]
        first = {number: self._scratch.pop(number) for number in sorted(scratch)[:FIRST_SAMPLES]}
        self._new_probe: Callable[[], NatProbe | None] = lambda: (
            NatProbe(v4[0], main_port, first, random_bytes, stun_servers) if v4 else None
        )
        self._probe = self._new_probe()
        self._nat = NatReport()
        self._seen: dict[Address, None] = {}  # our addresses, in the order in which to tell them
        self._tcp: Address | None = None
        self._local = MAIN  # by which socket the server is reached
        self._is_asking = False
        self._is_left = False
        self._answered = False
        self._refused = False
        self._deadline: float | None = None
        self._tunnel_at: float | None = None
        self._seeking: bytes | None = None  # transaction of the question how our TCP connections are seen
        self._transmits: deque[Transmit] = deque()
        self._events: deque[Said] = deque()
        self.server = servers[0]
        self._pairing = pairing
        self._seat = seat
        self._client = self._new_client()

    @property
    def is_closed(self) -> bool:
        return self._client.is_closed

    @property
    def uses_tunnel(self) -> bool:
        return self._local == TUNNEL

    @property
    def complaint(self) -> str | None:
        """What to say of a server that has not answered at all."""
        return None if self._answered else explain.server_unreachable(self.server, refused=self._refused)

    # commands

    def start(self, now: float) -> None:
        self._deadline = now + SERVER_DEADLINE
        self._tunnel_at = now + TUNNEL_AFTER
        self._eyeballs.start(now)
        if self._probe is not None:
            self._probe.start(now)
        self._advance(now)

    def join(self, pairing: Pairing, now: float) -> None:
        """Takes a seat of another pairing instead."""
        self._pairing = pairing
        self._client = self._new_client()
        self._client.start(now)
        if self._local != MAIN:
            self._client.use(self._local, now)
        self._advance(now)

    def forward(self, payload: bytes, now: float) -> None:
        self._client.forward(payload, now)

    def ask_relay(self, now: float) -> None:
        self._client.ask_relay(now)
        self._advance(now)

    def seek_tcp_address(self) -> None:
        """The friend has no UDP: to open a TCP connection with him from both sides he has to know where ours come from.

        A connection to the server tells it; what we say to the server goes on by UDP.
        """
        if self._seeking is None and not self.uses_tunnel:
            self._seeking = self._random_bytes(TRANSACTION_SIZE)
            self._events.append(WantTunnel())

    def hand_over(self) -> None:
        """Another meeting of ours has the seat from now on."""
        self._client.hand_over()

    def leave(self, now: float) -> None:
        self._is_left = True
        self._deadline = self._tunnel_at = None
        self._eyeballs.stop()
        self._probe = None
        self._client.leave(now)

    # input

    def handle_datagram(self, data: bytes, source: Address, now: float, local: int = MAIN) -> None:
        if local == TUNNEL and self._seeking is not None and not self.uses_tunnel:
            self._handle_sought(data)
        elif local == TUNNEL or not self._eyeballs.handle_datagram(data, source, now):
            self._client.handle_datagram(data, source, now, local)
        elif self.uses_tunnel and not self._is_left:
            self._return_to_udp(now)
        self._advance(now)

    def handle_stun(self, data: bytes, source: Address, local: int, now: float) -> None:
        if self._probe is not None:
            self._probe.handle_datagram(data, source, local, now)
        self._advance(now)

    def handle_refused(self, now: float) -> None:
        """The server's host says that nothing listens on its port (a TCP reset)."""
        self._client.handle_error(now, self._local)
        self._advance(now)

    def handle_tunnel_opened(self, now: float) -> None:
        """A TCP connection to the server stands. It is used unless UDP was answered meanwhile.

        That UDP is blocked is not known yet: the whole network may have been away until now. So UDP is asked once
        more, and has answered by the time that a seat is taken.
        """
        if self._answered and not self.uses_tunnel:
            if self._seeking is not None:
                hello = encode(Hello(self._seeking))
                self._transmits.append(Transmit(self.server, (hello,), local=TUNNEL))
            return
        self._local = TUNNEL
        self._nat, self._seen, self._probe = NatReport(NatMapping.NO_UDP), {}, None
        self._eyeballs.ask_again(self.server, now)
        if not self._is_asking:
            self._is_asking = True
            self._client.start(now)
        self._client.use(TUNNEL, now)
        self._say_seen()
        self._advance(now)

    def handle_tunnel_closed(self, now: float) -> None:
        """It is opened again as long as it is needed."""
        if self.uses_tunnel and not self._is_left:
            self._tunnel_at = now + TUNNEL_PAUSE

    def handle_timeout(self, now: float) -> None:
        if (at := self._eyeballs.poll_timeout()) is not None and at <= now:
            self._eyeballs.handle_timeout(now)
        if (at := self._client.poll_timeout()) is not None and at <= now:
            self._client.handle_timeout(now)
        if self._probe is not None and (at := self._probe.poll_timeout()) is not None and at <= now:
            self._probe.handle_timeout(now)
        if self._tunnel_at is not None and self._tunnel_at <= now:
            self._tunnel_at = None
            if self.uses_tunnel or not self._answered:
                self._events.append(WantTunnel())
        if self._deadline is not None and self._deadline <= now:
            self._deadline = None
            self._events.append(
                Unreachable(False, explain.server_unreachable(self.server, refused=self._refused))
            )
        self._advance(now)

    # output

    def poll_transmit(self) -> Transmit | None:
        if self._transmits:
            return self._transmits.popleft()
        if (transmit := self._eyeballs.poll_transmit() or self._client.poll_transmit()) is not None:
            return transmit
        return self._probe.poll_transmit() if self._probe is not None else None

    def poll_event(self) -> Said | None:
        return self._events.popleft() if self._events else None

    def poll_timeout(self) -> float | None:
        parts = (self._eyeballs, self._client, self._probe)
        timeouts = [part.poll_timeout() for part in parts if part is not None]
        timeouts += [self._deadline, self._tunnel_at]
        return min((at for at in timeouts if at is not None), default=None)

    # inside

    def _new_client(self) -> RendezvousClient:
        return RendezvousClient(self.server, self._pairing, self._role, self._random_bytes, secret=self._seat)

    def _advance(self, now: float) -> None:
        if self._eyeballs.chosen is not None and not self._is_asking and not self._is_left:
            self._is_asking = True
            if self._eyeballs.chosen != self.server:
                self.server = self._eyeballs.chosen
                self._client = self._new_client()
            self._client.start(now)
        while self._probe is not None and (found := self._probe.poll_event()) is not None:
            if isinstance(found, NatFound):
                self._handle_nat(found)
        while (event := self._client.poll_event()) is not None:
            self._handle_client_event(event, now)

    def _return_to_udp(self, now: float) -> None:
        self._local = MAIN
        self._nat = NatReport()
        self._client.use(MAIN, now)
        self._probe = self._new_probe()
        if self._probe is not None:
            self._probe.start(now)
        self._see(*self._eyeballs.reflexive.values())

    def _handle_nat(self, found: NatFound) -> None:
        if self._answered or found.report.mapping is not NatMapping.NO_UDP:  # else TCP will tell
            self._nat = found.report
        self._see(*found.reflexive)

    def _see(self, *addresses: Address) -> None:
        known = len(self._seen)
        self._seen.update(dict.fromkeys((*addresses, *self._eyeballs.reflexive.values())))
        if len(self._seen) != known or addresses:
            self._say_seen()

    def _say_seen(self) -> None:
        self._events.append(SeenAs(self._nat, tuple(self._seen), self._tcp))

    def _handle_client_event(self, event: rendezvous.Event, now: float) -> None:
        match event:
            case rendezvous.Mapped(mapped, local):
                self._handle_mapped(mapped, local)
            case rendezvous.Silent(seconds):
                self._events.append(events.ServerSilent(seconds, self._answered, self._refused))
                if self.uses_tunnel or not (self._answered or self._refused):
                    self._events.append(WantTunnel())
                if self._answered and self._deadline is None:
                    self._deadline = now + SERVER_LOST_DEADLINE
            case rendezvous.ServerUnreachable():
                self._refused = True
                self._events.append(events.ServerSilent(0.0, self._answered, refused=True))
            case rendezvous.Answering():
                self._heard()
                self._events.append(events.ServerAnswering())
            case rendezvous.Outdated(version):
                self._events.append(Unreachable(True, explain.outdated("the server", version)))
            case rendezvous.Relayed(state, rate):
                self._handle_relayed(state, rate)
            case introduction.Paired():
                self._heard()
                self._sample_again(now)
                self._events.append(event)
            case introduction.Waiting() | introduction.Contested():
                self._heard()
                self._events.append(event)
            case introduction.Message() | introduction.PeerLeft() | introduction.Refused() | introduction.Gone():
                self._events.append(event)
            case _:
                assert_never(event)

    def _handle_sought(self, data: bytes) -> None:
        with contextlib.suppress(DecodeError):
            message = decode(data)
            if isinstance(message, Cookie) and message.transaction == self._seeking:
                self._tcp = message.mapped
                self._say_seen()

    def _handle_mapped(self, mapped: Address, local: int) -> None:
        """How the server sees us. An address that changed is no longer that of the others."""
        if local == TUNNEL:
            self._tcp = mapped
            self._say_seen()
        elif not self.uses_tunnel:
            same_version = [seen for seen in self._seen if seen.version == mapped.version]
            if same_version and mapped not in self._seen:
                self._seen = {seen: None for seen in self._seen if seen not in same_version}
            self._see(mapped)

    def _sample_again(self, now: float) -> None:
        """Where ports depend on the destination, what counts is which are given now, not when we began to wait."""
        if self._probe is not None and self._nat.is_dependent and self._scratch:
            fresh, self._scratch = self._scratch, {}
            self._probe.refresh(fresh, now)

    def _handle_relayed(self, state: RelayState, rate: int) -> None:
        match state:
            case RelayState.OPEN:
                self._events.append(RelayOpen(self._local, self.server, rate))
            case RelayState.NONE:
                self._close_relay("the server forwards nothing, or for no more pairs now")
            case RelayState.USED_UP:
                self._close_relay("the server has forwarded as much between the two as it allows")
            case RelayState.ALONE:
                pass
            case _:
                assert_never(state)

    def _close_relay(self, why: str) -> None:
        self._events.append(RelayClosed(why, why))

    def _heard(self) -> None:
        self._answered = True
        self._refused = False
        self._deadline = None
