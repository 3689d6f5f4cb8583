"""The first part of a run: both peers come to the server and agree on keys through it."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import assert_never

from p2p.core.address import Address, is_private
from p2p.core.datagram import Transmit
from p2p.core.discovery.discovery import Discovery
from p2p.core.errors import DecodeError, ExitCode, Failure
from p2p.core.introduction import Introduction, Nameplate, Pairing, RefusedReason, pairing_context
from p2p.core.nat_report import Mapping, NatReport
from p2p.core.peer import events, explain
from p2p.core.punch.description import MAX_CANDIDATES, Candidate, Description, Kind
from p2p.core.rendezvous import events as rendezvous
from p2p.core.rendezvous.client import RendezvousClient
from p2p.core.role import Role
from p2p.core.session import events as session
from p2p.core.session.keys import SessionKeys
from p2p.core.session.session import Session

SERVER_DEADLINE = 10.0  # seconds in which the server must answer for the first time
SERVER_LOST_DEADLINE = 180.0  # seconds of silence that we put up with once it has answered: a restart, a reboot
BYE_LINGER = 0.5  # seconds at the server after a BYE: its copies take that long
BURNT_LINGER = 2.0  # seconds at the server after the last wrong try: the guesser's repeats are still answered
AGREEING_PATIENCE = 5.0  # seconds without an answer of a peer that is there, after which we say so
MAX_NAMEPLATES = 8  # one-time codes tried before we say that the server is full of them


@dataclass(frozen=True, slots=True)
class Met:
    """Keys are agreed on and the other side has described itself."""

    keys: SessionKeys
    local: Description
    remote: Description
    verification: str | None


@dataclass(frozen=True, slots=True)
class ProbeServer:
    """The server is silent: see whether it answers on TCP. Said again as long as it stays silent."""

    server: Address


MeetingEvent = events.PeerEvent | Met | ProbeServer


class Meeting:
    """Composes whoever introduces us to the other side (the server, or the network) and the session."""

    def __init__(
        self,
        *,
        role: Role,
        server: Address | None,
        next_pairing: Callable[[int], Pairing],
        secret: bytes | None,
        udp_candidates: Sequence[Address],
        tcp_candidates: Sequence[Address],
        udp_port: int,
        random_bytes: Callable[[int], bytes],
    ) -> None:
        """`next_pairing(n)` gives what to join for the n-th attempt; names give the same each time.

        Without a `server` the other side is looked for on our own network; `udp_port` is then our UDP socket's.
        """
        self._role = role
        self._server = server
        self._next_pairing = next_pairing
        self._secret = secret
        self._udp_candidates = udp_candidates
        self._tcp_candidates = tcp_candidates
        self._udp_port = udp_port
        self._random_bytes = random_bytes
        self._events: deque[MeetingEvent] = deque()
        self._attempt = 0
        self._mapped: tuple[Address, Address | None] | None = None
        self._peer_tag: bytes | None = None
        self._peer_address: Address | None = None
        self._description: Description | None = None
        self._answered = False
        self._refused = False
        self._waiting = False
        self._invited = False
        self._is_met = False
        self._over = False
        self._deadline: float | None = None
        self._leave_at: float | None = None
        self._begun_with: bytes | None = None
        self._agreeing_until: float | None = None
        self._join_as(next_pairing(0))

    @property
    def is_over(self) -> bool:
        """Whether the seat was given up, and the server told as well as can be."""
        return self._over and self._leave_at is None and self._client.is_closed

    def why_nobody_came(self, seconds: float, now: float) -> str:
        """What to say after a wait of so many seconds."""
        if isinstance(self._client, Discovery):
            client = self._client
            return explain.nobody_on_this_network(seconds, others=client.neighbours(now), version=client.heard_version)
        if self._server is not None and not self._answered:
            return explain.server_unreachable(self._server, refused=self._refused)
        return explain.nobody_came(seconds)

    # input

    def handle_datagram(self, data: bytes, source: Address, now: float) -> None:
        self._client.handle_datagram(data, source, now)
        self._advance(now)

    def handle_server_refused(self, now: float) -> None:
        """The server's host says that nothing listens on its port (a TCP reset)."""
        if isinstance(self._client, RendezvousClient):
            self._client.handle_error(now)
        self._advance(now)

    def handle_server_on_tcp(self) -> None:
        """The server answers on TCP while UDP stays unanswered."""
        if self._server is not None and not self._answered:
            self._fail(ExitCode.NO_PATH, explain.udp_blocked(self._server))

    def handle_timeout(self, now: float) -> None:
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
        if self._deadline is not None and self._deadline <= now:
            self._deadline = None
            assert self._server is not None
            self._fail(ExitCode.NO_PEER, explain.server_unreachable(self._server, refused=self._refused))
        self._advance(now)

    # command

    def start(self, now: float) -> None:
        if self._server is not None:
            self._deadline = now + SERVER_DEADLINE
        self._client.start(now)
        self._advance(now)

    def bye(self, code: ExitCode, reason: str, now: float) -> None:
        """Tells the other side, if it is there, why we go; then gives up the seat."""
        self._session.bye(code, reason, now)
        self._leave_at = now + BYE_LINGER
        self._over = True
        self._deadline = None
        self._advance(now)

    def leave(self, now: float) -> None:
        """Gives up the seat, at once or when what has to be said before is said."""
        self._over = True
        self._deadline = None
        if self._leave_at is None:
            self._client.leave(now)

    # output

    def poll_transmit(self) -> Transmit | None:
        return self._client.poll_transmit()

    def poll_event(self) -> MeetingEvent | None:
        return self._events.popleft() if self._events else None

    def poll_timeout(self) -> float | None:
        speaks = not self._over or self._leave_at is not None
        session_timeout = self._session.poll_timeout() if speaks else None
        agreeing = None if self._over else self._agreeing_until
        timeouts = (self._client.poll_timeout(), session_timeout, self._deadline, self._leave_at, agreeing)
        return min((t for t in timeouts if t is not None), default=None)

    # inside

    def _join_as(self, pairing: Pairing) -> None:
        self._pairing = pairing
        self._client: Introduction[rendezvous.Event] = (
            Discovery(pairing, self._role, self._udp_port, self._random_bytes)
            if self._server is None
            else RendezvousClient(self._server, pairing, self._role, self._random_bytes)
        )
        self._session = Session(self._role, self._secret, pairing_context(pairing), self._random_bytes)

    def _advance(self, now: float) -> None:
        while (event := self._client.poll_event()) is not None:
            self._handle_client_event(event, now)
        while (happened := self._session.poll_event()) is not None:
            self._handle_session_event(happened, now)
        self._forward_messages(now)

    def _forward_messages(self, now: float) -> None:
        while (message := self._session.poll_message()) is not None:
            self._client.forward(message, now)

    def _handle_client_event(self, event: rendezvous.Event, now: float) -> None:
        if self._is_met and not isinstance(event, rendezvous.Message):
            return  # keys are agreed on: what becomes of our seat now ends nothing any more
        match event:
            case rendezvous.Mapped(first, second, _):
                self._mapped = (first, second)
                self._begin(now)
            case rendezvous.Waiting(mapped):
                self._heard_server()
                self._waiting = True
                if not self._invited and not self._is_met:
                    self._invited = True
                    self._events.append(events.WaitingForPeer(self._pairing, mapped))
            case rendezvous.Paired(peer_tag, address):
                self._heard_server()
                self._peer_tag = peer_tag
                self._peer_address = address
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
                if self._server is not None and not self._answered and not self._refused:
                    self._events.append(ProbeServer(self._server))
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
            case rendezvous.Gone() | rendezvous.Relayed():
                pass  # we left on purpose; no relay was asked for
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
        self._mapped = None
        self._join_as(pairing)
        self._client.start(now)

    def _begin(self, now: float) -> None:
        if self._peer_tag is None or self._over or (self._mapped is None and self._server is not None):
            return
        if self._begun_with == self._peer_tag:
            return
        self._begun_with = self._peer_tag
        self._agreeing_until = now + AGREEING_PATIENCE
        self._description = self._describe(*(self._mapped or (None, None)))
        self._session.begin(self._description.encode(), now)

    def _describe(self, first: Address | None, second: Address | None) -> Description:
        candidates = [Candidate(Kind.HOST, address) for address in self._udp_candidates]
        candidates += [Candidate(Kind.HOST_TCP, a) for a in self._tcp_candidates if is_private(a.host)]
        reflexive = [a for a in dict.fromkeys((first, second)) if a is not None and a not in self._udp_candidates]
        candidates += [Candidate(Kind.SERVER_REFLEXIVE, a) for a in reflexive]
        mapping = Mapping.UNKNOWN
        if second is not None:
            mapping = Mapping.ENDPOINT_INDEPENDENT if first == second else Mapping.DESTINATION_DEPENDENT
        return Description(NatReport(mapping), tuple(candidates))

    def _with_seen_address(self, remote: Description) -> Description:
        """Where the other side spoke to us from is an address of its socket, whether or not it knows that."""
        seen = self._peer_address
        known = [candidate.address for candidate in remote.candidates if candidate.kind is Kind.HOST]
        if seen is None or seen in known or len(remote.candidates) >= MAX_CANDIDATES:
            return remote
        return replace(remote, candidates=(*remote.candidates, Candidate(Kind.HOST, seen)))

    def _handle_session_event(self, event: session.SessionEvent, now: float) -> None:
        match event:
            case session.Established(keys, description, verification):
                assert self._description is not None
                try:
                    remote = Description.decode(description)
                except DecodeError as error:
                    self._fail(ExitCode.INTERNAL, explain.senseless_description(error))
                    return
                self._is_met = True
                self._deadline = None
                self._events.append(Met(keys, self._description, self._with_seen_address(remote), verification))
            case session.Updated():
                pass  # a friend whose description never changes says so once
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
