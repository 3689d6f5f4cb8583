"""The first part of a run: both peers come to the server and agree on keys through it."""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import assert_never

from p2p.core.address import Address
from p2p.core.datagram import MAIN, TUNNEL, Transmit
from p2p.core.errors import DecodeError, ExitCode, Failure
from p2p.core.nat_report import Mapping, NatReport
from p2p.core.peer import events, explain
from p2p.core.peer.eyeballs import Eyeballs
from p2p.core.peer.own import OwnDescription
from p2p.core.punch.description import Description
from p2p.core.rendezvous import events as rendezvous
from p2p.core.rendezvous.client import RendezvousClient
from p2p.core.rendezvous.messages import NamePair, Nameplate, Pairing, RefusedReason, RelayState
from p2p.core.role import Role
from p2p.core.session import events as session
from p2p.core.session.keys import SessionKeys
from p2p.core.session.session import Session

SERVER_DEADLINE = 10.0  # seconds in which the server must answer for the first time
SERVER_LOST_DEADLINE = 180.0  # seconds of silence that we put up with once it has answered: a restart, a reboot
BYE_LINGER = 0.5  # seconds at the server after a BYE: its copies take that long
BURNT_LINGER = 2.0  # seconds at the server after the last wrong try: the guesser's repeats are still answered
AGREEING_PATIENCE = 5.0  # seconds without an answer of a peer that is there, after which we say so
TUNNEL_AFTER = 0.75  # seconds without an answer by UDP, two repetitions in them, after which TCP is tried beside it
TUNNEL_PAUSE = 1.0  # seconds until a tunnel that broke is opened again
MAX_NAMEPLATES = 8  # one-time codes tried before we say that the server is full of them


@dataclass(frozen=True, slots=True)
class Met:
    """Keys are agreed on and the other side has described itself."""

    keys: SessionKeys
    local: Description
    remote: Description
    verification: str | None


@dataclass(frozen=True, slots=True)
class Changed:
    """After Met: one of the two is another one now."""

    local: Description
    remote: Description


@dataclass(frozen=True, slots=True)
class WantTunnel:
    """UDP to the server stays unanswered: it is to be tried by TCP. Said again as long as it stays silent."""


@dataclass(frozen=True, slots=True)
class RelayOpen:
    """The server forwards what goes to `address` by the socket `local`."""

    local: int
    address: Address


@dataclass(frozen=True, slots=True)
class RelayClosed:
    """The server does not, or no longer, forward anything; why as half a sentence."""

    why: str


MeetingEvent = events.PeerEvent | Met | Changed | WantTunnel | RelayOpen | RelayClosed


_AFTER_MET = (rendezvous.Message, rendezvous.Mapped, rendezvous.Relayed)


class Meeting:
    """Composes the rendezvous client and the session."""

    def __init__(
        self,
        *,
        role: Role,
        servers: Sequence[Address],
        next_pairing: Callable[[int], Pairing],
        secret: bytes | None,
        udp_candidates: Sequence[Address],
        tcp_candidates: Sequence[Address],
        takes_relay: bool,
        random_bytes: Callable[[int], bytes],
    ) -> None:
        """`next_pairing(n)` gives what to join for the n-th attempt; names give the same each time.

        `servers`: the addresses of one server, at least one, in the order in which to try them.
        """
        self._role = role
        self._server = servers[0]
        self._eyeballs = Eyeballs(servers, random_bytes)
        self._is_asking = False
        self._next_pairing = next_pairing
        self._secret = secret
        self._own = OwnDescription(udp_candidates, tcp_candidates, takes_relay=takes_relay)
        self._random_bytes = random_bytes
        self._events: deque[MeetingEvent] = deque()
        self._attempt = 0
        self._local = MAIN  # by which socket the server is reached
        self._peer_tag: bytes | None = None
        self._told: Description | None = None  # of ourselves, last
        self._remote: Description | None = None
        self._answered = False
        self._refused = False
        self._waiting = False
        self._invited = False
        self._is_met = False
        self._over = False
        self._deadline: float | None = None
        self._leave_at: float | None = None
        self._tunnel_at: float | None = None  # when to open it again
        self._begun_with: bytes | None = None
        self._agreeing_until: float | None = None
        self._join_as(next_pairing(0))

    @property
    def _uses_tunnel(self) -> bool:
        return self._local == TUNNEL

    @property
    def is_over(self) -> bool:
        """Whether the seat was given up, and the server told as well as can be."""
        return self._over and self._leave_at is None and self._client.is_closed

    @property
    def server(self) -> Address:
        """The address of the server that is used."""
        return self._server

    def why_nobody_came(self, seconds: float) -> str:
        """What to say after a wait of so many seconds."""
        if not self._answered:
            return explain.server_unreachable(self._server, refused=self._refused)
        return explain.nobody_came(seconds)

    # input

    def handle_datagram(self, data: bytes, source: Address, now: float, local: int) -> None:
        if local == TUNNEL or not self._eyeballs.handle_datagram(data, source, now):
            self._client.handle_datagram(data, source, now, local)
        self._advance(now)

    def handle_server_refused(self, now: float) -> None:
        """The server's host says that nothing listens on its port (a TCP reset)."""
        self._client.handle_error(now, self._local)
        self._advance(now)

    def handle_tunnel_opened(self, now: float) -> None:
        """A TCP connection to the server stands. It is used unless UDP was answered meanwhile."""
        if not self._uses_tunnel and self._answered:
            return
        self._local = TUNNEL
        self._own.nat = NatReport(Mapping.NO_UDP)
        self._own.reflexive = ()
        self._eyeballs.stop()
        if not self._is_asking:
            self._is_asking = True
            self._client.start(now)
        self._client.use(TUNNEL, now)
        self._advance(now)

    def handle_tunnel_closed(self, now: float) -> None:
        """It is opened again as long as it is needed."""
        if self._uses_tunnel and not self._over:
            self._tunnel_at = now + TUNNEL_PAUSE

    def handle_addresses(self, udp: Sequence[Address], tcp: Sequence[Address], now: float) -> None:
        """The machine's own addresses are others now."""
        self._own.udp, self._own.tcp = udp, tcp
        self._tell(now)

    def handle_port_mapped(self, address: Address | None, now: float) -> None:
        """The router lets anybody in at `address`; None: not any more."""
        self._own.mapped = address
        self._tell(now)

    def handle_timeout(self, now: float) -> None:
        if (at := self._eyeballs.poll_timeout()) is not None and at <= now:
            self._eyeballs.handle_timeout(now)
        if (at := self._client.poll_timeout()) is not None and at <= now:
            self._client.handle_timeout(now)
        if (at := self._session.poll_timeout()) is not None and at <= now:
            self._session.handle_timeout(now)
        if self._leave_at is not None and self._leave_at <= now:
            self._leave_at = None
            self._client.leave(now)
        if self._agreeing_until is not None and self._agreeing_until <= now:
            self._agreeing_until = None
            if self._peer_tag is not None and not self._is_met:
                self._events.append(events.PeerSilent(AGREEING_PATIENCE))
        if self._tunnel_at is not None and self._tunnel_at <= now:
            self._tunnel_at = None
            if self._uses_tunnel or not self._answered:
                self._events.append(WantTunnel())
        if self._deadline is not None and self._deadline <= now:
            self._deadline = None
            self._fail(ExitCode.NO_PEER, explain.server_unreachable(self._server, refused=self._refused))
        self._advance(now)

    # command

    def start(self, now: float) -> None:
        self._deadline = now + SERVER_DEADLINE
        self._tunnel_at = now + TUNNEL_AFTER
        self._eyeballs.start(now)
        self._advance(now)

    def tell_opened(self, now: float) -> None:
        """The packets that open our NAT are out."""
        self._own.has_opened = True
        self._tell(now)

    def ask_relay(self, now: float) -> None:
        """Have the server forward between us and the other side, if both want it."""
        assert self._remote is not None
        if not self._own.takes_relay:
            self._events.append(RelayClosed("this side does not want to be forwarded by the server (--no-relay)"))
        elif not self._remote.takes_relay:
            self._events.append(RelayClosed("the other side does not want to be forwarded by the server (--no-relay)"))
        else:
            self._client.ask_relay(now)
            self._advance(now)

    def bye(self, code: ExitCode, reason: str, now: float) -> None:
        """Tells the other side, if it is there, why we go; then gives up the seat."""
        self._session.bye(code, reason, now)
        self._leave_at = now + BYE_LINGER
        self._over = True
        self._eyeballs.stop()
        self._deadline = None
        self._advance(now)

    def leave(self, now: float) -> None:
        """Gives up the seat, at once or when what has to be said before is said."""
        self._over = True
        self._eyeballs.stop()
        self._deadline = None
        if self._leave_at is None:
            self._client.leave(now)

    # output

    def poll_transmit(self) -> Transmit | None:
        return self._eyeballs.poll_transmit() or self._client.poll_transmit()

    def poll_event(self) -> MeetingEvent | None:
        return self._events.popleft() if self._events else None

    def poll_timeout(self) -> float | None:
        speaks = not self._over or self._leave_at is not None
        session_timeout = self._session.poll_timeout() if speaks else None
        ours = () if self._over else (self._agreeing_until, self._tunnel_at)
        asking = self._eyeballs.poll_timeout()
        timeouts = (asking, self._client.poll_timeout(), session_timeout, self._deadline, self._leave_at, *ours)
        return min((t for t in timeouts if t is not None), default=None)

    # inside

    def _join_as(self, pairing: Pairing) -> None:
        self._pairing = pairing
        self._client = RendezvousClient(self._server, pairing, self._role, self._random_bytes)
        self._session = Session(self._role, self._secret, _context(pairing), self._random_bytes)

    def _advance(self, now: float) -> None:
        if self._eyeballs.chosen is not None and not self._is_asking and not self._over:
            self._is_asking = True
            if self._eyeballs.chosen != self._server:
                self._server = self._eyeballs.chosen
                self._join_as(self._pairing)
            self._client.start(now)
        while (event := self._client.poll_event()) is not None:
            self._handle_client_event(event, now)
        while (happened := self._session.poll_event()) is not None:
            self._handle_session_event(happened, now)
        self._forward_messages(now)

    def _forward_messages(self, now: float) -> None:
        while (message := self._session.poll_message()) is not None:
            self._client.forward(message, now)

    def _handle_client_event(self, event: rendezvous.Event, now: float) -> None:
        if self._is_met and not isinstance(event, _AFTER_MET):
            return  # keys are agreed on: what becomes of our seat now ends nothing any more
        match event:
            case rendezvous.Mapped(first, second, local):
                self._handle_mapped(first, second, local)
                self._tell(now)
            case rendezvous.Waiting(mapped):
                self._heard_server()
                self._waiting = True
                if not self._invited and not self._is_met:
                    self._invited = True
                    self._events.append(events.WaitingForPeer(self._pairing, mapped))
            case rendezvous.Paired(peer_tag):
                self._heard_server()
                self._peer_tag = peer_tag
                self._events.append(events.PeerFound())
                self._begin(now)
            case rendezvous.PeerLeft():
                self._peer_tag = None
                self._waiting = True
                self._events.append(events.PeerGone())
            case rendezvous.Message(peer_tag, payload):
                if peer_tag == self._peer_tag:
                    self._session.handle_message(payload, now)
            case rendezvous.Contested(reason):
                self._heard_server()
                self._handle_contested(reason, now)
            case rendezvous.Refused(reason):
                self._fail(*explain.refused(reason, self._pairing, self._role))
            case rendezvous.Silent(seconds):
                self._events.append(events.ServerSilent(seconds, self._answered, self._refused))
                if self._uses_tunnel or not (self._answered or self._refused):
                    self._events.append(WantTunnel())
                if self._answered and self._deadline is None:
                    self._deadline = now + SERVER_LOST_DEADLINE
            case rendezvous.ServerUnreachable():
                self._refused = True
                self._events.append(events.ServerSilent(0.0, self._answered, refused=True))
            case rendezvous.Answering():
                self._heard_server()
                self._events.append(events.ServerAnswering())
            case rendezvous.Outdated(version):
                self._fail(ExitCode.INTERNAL, explain.outdated("the server", version))
            case rendezvous.Relayed(state):
                self._handle_relayed(state)
            case rendezvous.Gone():
                pass  # we left on purpose
            case _:
                assert_never(event)

    def _heard_server(self) -> None:
        self._answered = True
        self._refused = False
        self._deadline = None

    def _handle_contested(self, reason: RefusedReason, now: float) -> None:
        """The seat is not free. The client asks again for a while; what that means to the person is decided here."""
        if reason not in (RefusedReason.TAKEN, RefusedReason.SAME_ROLE):
            self._fail(*explain.refused(reason, self._pairing, self._role))
        elif isinstance(self._pairing, Nameplate):
            if not self._waiting:  # else a stranger drew our number; the seat stays ours
                self._join_with_next_nameplate(now)
        elif reason is RefusedReason.SAME_ROLE:
            self._fail(*explain.refused(reason, self._pairing, self._role))
        else:
            self._events.append(events.SeatTaken())

    def _join_with_next_nameplate(self, now: float) -> None:
        pairing = self._next_pairing(self._attempt + 1)
        if self._role is Role.RECEIVER or pairing == self._pairing:  # the person chose the code
            self._events.append(events.SeatTaken())
            return
        self._attempt += 1
        if self._attempt >= MAX_NAMEPLATES:
            self._fail(*explain.refused(RefusedReason.SERVER_FULL, self._pairing, self._role))
            return
        self._join_as(pairing)
        self._client.start(now)

    def _begin(self, now: float) -> None:
        if self._peer_tag is None or self._over or self._begun_with == self._peer_tag:
            return
        self._begun_with = self._peer_tag
        self._agreeing_until = now + AGREEING_PATIENCE
        self._told = self._own.description
        self._session.begin(self._told.encode(), now)

    def _tell(self, now: float) -> None:
        """The other side, what is news of us."""
        if self._told is None or self._over or (description := self._own.description) == self._told:
            return
        self._told = description
        self._session.update(description.encode(), now)
        if self._remote is not None:
            self._events.append(Changed(description, self._remote))

    def _handle_mapped(self, first: Address, second: Address | None, local: int) -> None:
        """How the server's ports see us."""
        if local == TUNNEL:
            self._own.reflexive_tcp = first
            return
        if self._uses_tunnel:
            return
        self._own.reflexive = list(dict.fromkeys([first, second or first, *self._eyeballs.reflexive.values()]))
        mapping = Mapping.UNKNOWN
        if second is not None:
            mapping = Mapping.ENDPOINT_INDEPENDENT if first == second else Mapping.DESTINATION_DEPENDENT
        self._own.nat = NatReport(mapping)

    def _handle_relayed(self, state: RelayState) -> None:
        match state:
            case RelayState.OPEN:
                self._events.append(RelayOpen(self._local, self._server))
            case RelayState.NONE:
                self._events.append(RelayClosed("the server forwards nothing, or for no more pairs now"))
            case RelayState.USED_UP:
                self._events.append(RelayClosed("the server has forwarded as much between the two as it allows"))
            case RelayState.ALONE:
                pass
            case _:
                assert_never(state)

    def _handle_session_event(self, event: session.SessionEvent, now: float) -> None:
        match event:
            case session.Established(keys, description, verification):
                assert self._told is not None
                try:
                    self._remote = Description.decode(description)
                except DecodeError as error:
                    self._fail(ExitCode.INTERNAL, explain.senseless_description(error))
                    return
                self._is_met = True
                self._deadline = None
                self._events.append(Met(keys, self._told, self._remote, verification))
            case session.Updated(description):
                assert self._told is not None
                with contextlib.suppress(DecodeError):  # one that is known already still holds
                    self._remote = Description.decode(description)
                    self._events.append(Changed(self._told, self._remote))
            case session.WrongCode(tries, limit, burnt):
                if burnt:
                    self._leave_at = now + BURNT_LINGER
                    self._fail(ExitCode.WRONG_CODE, explain.code_burnt(tries, with_code=self._secret is not None))
                else:
                    self._events.append(events.CodeRejected(tries, limit))
            case session.Rejected(reason, tries, limit):
                self._fail(*explain.rejected(reason, tries, limit))
            case session.PeerBye(exit_code, reason):
                self._fail(*explain.told(exit_code, reason))
            case session.Outdated(version):
                self._fail(ExitCode.INTERNAL, explain.outdated("the other side", version))
            case _:
                assert_never(event)

    def _fail(self, code: ExitCode, message: str) -> None:
        if not self._over:
            self._events.append(events.Failed(Failure(code, message)))


def _context(pairing: Pairing) -> tuple[bytes, ...]:
    match pairing:
        case NamePair(me, friend):
            return tuple(sorted((me.encode(), friend.encode())))
        case Nameplate(text):
            return (text.encode(),)
        case _:
            assert_never(pairing)
