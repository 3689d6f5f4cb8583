"""The first part of a run: both peers are introduced to each other and agree on keys."""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import assert_never

from p2p.core import introduction
from p2p.core.address import Address
from p2p.core.calling import option
from p2p.core.datagram import Transmit
from p2p.core.discovery.discovery import Discovery
from p2p.core.errors import DecodeError, ExitCode, Failure
from p2p.core.introduction import NamePair, Nameplate, RefusedReason, pairing_context
from p2p.core.peer import events, explain
from p2p.core.peer.at_server import AtServer, RelayClosed, RelayOpen, Said, SeenAs, Unreachable, WantTunnel
from p2p.core.peer.config import PeerConfig
from p2p.core.peer.own import OwnDescription, with_seen
from p2p.core.punch.description import Description
from p2p.core.role import Role
from p2p.core.session import events as session
from p2p.core.session.keys import SessionKeys
from p2p.core.session.session import Session

BYE_LINGER = 0.5  # seconds in our place after a BYE: its copies take that long
BURNT_LINGER = 2.0  # seconds in our place after the last wrong try: the guesser's repeats are still answered
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
class Changed:
    """After Met: one of the two is another one now."""

    local: Description
    remote: Description


MeetingEvent = events.PeerEvent | Met | Changed | WantTunnel | RelayOpen | RelayClosed
# Once keys are agreed on, what becomes of our place ends nothing any more.
_AFTER_MET = (introduction.Message, SeenAs, WantTunnel, RelayOpen, RelayClosed)


class Meeting:
    """Composes whoever introduces us to the other side (the server, or the network) and the session."""

    def __init__(self, config: PeerConfig, random_bytes: Callable[[int], bytes]) -> None:
        self._former = config.former
        self.other_run: bytes | None = None
        """After keys were agreed on: the tag of who sits where the other side sat."""
        self._role = config.role
        self._next_pairing = config.next_pairing
        self._secret = config.secret
        self._is_contact = config.is_contact
        self._own = OwnDescription(config.udp_candidates, config.tcp_candidates, takes_relay=config.takes_relay)
        self._random_bytes = random_bytes
        self._events: deque[MeetingEvent] = deque()
        self._attempt = 0
        self._peer_tag: bytes | None = None
        self._peer_address: Address | None = None
        self._told: Description | None = None  # of ourselves, last
        self._remote: Description | None = None
        self._waiting = False
        self._invited = False
        self._is_met = False
        self._over = False
        self._leave_at: float | None = None
        self._begun_with: bytes | None = None
        self._agreeing_until: float | None = None
        self.pairing = config.next_pairing(0)
        """Under which the two meet."""
        self._place: AtServer | Discovery = (
            AtServer(
                config.servers,
                self.pairing,
                config.role,
                random_bytes,
                main_port=config.udp_port,
                scratch=config.scratch,
                stun_servers=config.stun_servers,
                seat=config.seat,
            )
            if config.servers
            else Discovery(self.pairing, config.role, config.udp_port, random_bytes)
        )
        self._session = self._new_session(config.tries)

    @property
    def tries(self) -> int:
        """Wrong codes that were tried so far."""
        return self._session.tries

    @property
    def is_over(self) -> bool:
        """Whether our place was given up, and the server told as well as can be."""
        return self._over and self._leave_at is None and self._place.is_closed

    @property
    def server(self) -> Address | None:
        """The address of the server that is used."""
        return self._place.server if isinstance(self._place, AtServer) else None

    @property
    def uses_tunnel(self) -> bool:
        return isinstance(self._place, AtServer) and self._place.uses_tunnel

    @property
    def peer_tag(self) -> bytes | None:
        """Of the run of the other side with which keys were agreed on, where there is a server."""
        return self._peer_tag if self._is_met else None

    @property
    def holds_seat(self) -> bool:
        return not self._over

    @property
    def seen_at(self) -> str | None:
        """The IPv4 address under which others see us."""
        return next((seen.host for seen in self._own.reflexive if seen.version == 4), None)

    def why_nobody_came(self, seconds: float, now: float) -> str:
        """What to say after a wait of so many seconds."""
        if isinstance(self._place, Discovery):
            others, version = self._place.neighbours(now), self._place.heard_version
            return explain.nobody_on_this_network(seconds, others=others, version=version)
        return self._place.complaint or explain.nobody_came(seconds)

    # input

    def handle_datagram(self, data: bytes, source: Address, now: float, local: int) -> None:
        self._place.handle_datagram(data, source, now, local)
        self._advance(now)

    def handle_stun(self, data: bytes, source: Address, local: int, now: float) -> None:
        if isinstance(self._place, AtServer):
            self._place.handle_stun(data, source, local, now)
            self._advance(now)

    def handle_server_refused(self, now: float) -> None:
        """The server's host says that nothing listens on its port (a TCP reset)."""
        if isinstance(self._place, AtServer):
            self._place.handle_refused(now)
            self._advance(now)

    def handle_tunnel_opened(self, now: float) -> None:
        """A TCP connection to the server stands."""
        if isinstance(self._place, AtServer):
            self._place.handle_tunnel_opened(now)
            self._advance(now)

    def handle_tunnel_closed(self, now: float) -> None:
        if isinstance(self._place, AtServer):
            self._place.handle_tunnel_closed(now)

    def handle_addresses(self, udp: Sequence[Address], tcp: Sequence[Address], now: float) -> None:
        """The machine's own addresses are others now."""
        self._own.udp, self._own.tcp = udp, tcp
        self._tell(now)
        self._advance(now)

    def handle_port_mapped(self, address: Address | None, now: float) -> None:
        """The router lets anybody in at `address`; None: not any more."""
        self._own.mapped = address
        self._tell(now)
        self._advance(now)

    def handle_timeout(self, now: float) -> None:
        if (at := self._place.poll_timeout()) is not None and at <= now:
            self._place.handle_timeout(now)
        if (at := self._session.poll_timeout()) is not None and at <= now:
            self._session.handle_timeout(now)
        if self._leave_at is not None and self._leave_at <= now:
            self._leave_at = None
            self._place.leave(now)
        if self._agreeing_until is not None and self._agreeing_until <= now:
            self._agreeing_until = None
            if self._peer_tag is not None and not self._is_met:
                self._events.append(events.PeerSilent(AGREEING_PATIENCE))
        self._advance(now)

    # command

    def start(self, now: float) -> None:
        self._place.start(now)
        self._advance(now)

    def tell_opened(self, now: float) -> None:
        """The packets that open our NAT are out."""
        self._own.has_opened = True
        self._tell(now)
        self._advance(now)

    def ask_relay(self, now: float) -> None:
        """Have the server forward between us and the other side, if both want it."""
        assert self._remote is not None
        ours, theirs = (f"{who} chose {option('--no-relay')}" for who in ("you", "the other side"))
        if not self._own.takes_relay:
            self._events.append(RelayClosed(ours, theirs))
        elif not self._remote.takes_relay:
            self._events.append(RelayClosed(theirs, ours))
        elif isinstance(self._place, AtServer):
            self._place.ask_relay(now)
            self._advance(now)
        else:
            self._events.append(RelayClosed(*(2 * ["there is no server that could forward"])))

    def seek_tcp_address(self) -> None:
        """See AtServer."""
        if isinstance(self._place, AtServer):
            self._place.seek_tcp_address()

    def bye(self, code: ExitCode, reason: str, now: float) -> None:
        """Tells the other side, if it is there, why we go; then gives up our place."""
        self._session.bye(code, reason, now)
        self._leave_at = now + BYE_LINGER
        self._over = True
        self._advance(now)

    def hand_over(self) -> None:
        """Another meeting of ours has our seat from now on."""
        if isinstance(self._place, AtServer):
            self._over = True
            self._place.hand_over()

    def leave(self, now: float) -> None:
        """Gives up our place, at once or when what has to be said before is said."""
        self._over = True
        if self._leave_at is None:
            self._place.leave(now)

    # output

    def poll_transmit(self) -> Transmit | None:
        return self._place.poll_transmit()

    def poll_event(self) -> MeetingEvent | None:
        return self._events.popleft() if self._events else None

    def poll_timeout(self) -> float | None:
        speaks = not self._over or self._leave_at is not None
        session_timeout = self._session.poll_timeout() if speaks else None
        agreeing = None if self._over else self._agreeing_until
        timeouts = (self._place.poll_timeout(), session_timeout, self._leave_at, agreeing)
        return min((t for t in timeouts if t is not None), default=None)

    # inside

    def _new_session(self, tries: int) -> Session:
        context = pairing_context(self.pairing)
        return Session(
            self._role, self._secret, context, self._random_bytes, tries=tries, is_contact=self._is_contact
        )

    def _advance(self, now: float) -> None:
        while (event := self._place.poll_event()) is not None:
            if not self._is_met or isinstance(event, _AFTER_MET):
                self._handle_introduction(event, now)
            elif isinstance(event, introduction.Paired):
                self.other_run = event.peer_tag if event.peer_tag != self._peer_tag else None
            elif isinstance(event, introduction.PeerLeft):
                self.other_run = None
        while (happened := self._session.poll_event()) is not None:
            self._handle_session_event(happened, now)
        while (message := self._session.poll_message()) is not None:
            self._place.forward(message, now)

    def _handle_introduction(self, event: Said, now: float) -> None:
        match event:
            case SeenAs(nat, reflexive, tcp):
                self._own.nat, self._own.reflexive, self._own.reflexive_tcp = nat, reflexive, tcp
                self._tell(now)
            case introduction.Waiting(mapped):
                self._waiting = True
                if not self._invited:
                    self._invited = True
                    self._events.append(events.WaitingForPeer(self.pairing, mapped))
            case introduction.Paired(peer_tag) if peer_tag == self._former:
                pass  # it lives, and looks out for us
            case introduction.Paired(peer_tag, address):
                self._peer_tag, self._peer_address = peer_tag, address
                self._events.append(events.PeerFound())
                self._begin(now)
            case introduction.PeerLeft():
                self._peer_tag = None
                self._waiting = True
                self._events.append(events.PeerGone())
            case introduction.Message(peer_tag, payload):
                if peer_tag == self._peer_tag:
                    self._session.handle_message(payload, now)
            case introduction.Contested(reason):
                self._handle_contested(reason, now)
            case introduction.Refused(reason):
                self._fail(*explain.refused(reason, self.pairing, self._role))
            case introduction.Gone():
                pass  # we left on purpose
            case Unreachable(is_outdated, message):
                self._fail(ExitCode.INTERNAL if is_outdated else ExitCode.NO_PEER, message)
            case WantTunnel() | RelayOpen() | RelayClosed() | events.ServerSilent() | events.ServerAnswering():
                self._events.append(event)
            case _:
                assert_never(event)

    def _handle_contested(self, reason: RefusedReason, now: float) -> None:
        """The seat is not free. It is asked for again for a while; what that means to the person is decided here."""
        if reason not in (RefusedReason.TAKEN, RefusedReason.SAME_ROLE):
            self._fail(*explain.refused(reason, self.pairing, self._role))
        elif isinstance(self.pairing, Nameplate):
            if not self._waiting:  # else a stranger drew our number; the seat stays ours
                self._join_with_next_nameplate(now)
        elif reason is RefusedReason.SAME_ROLE:
            self._fail(*explain.refused(reason, self.pairing, self._role))
        else:
            self._events.append(events.SeatTaken())

    def _join_with_next_nameplate(self, now: float) -> None:
        pairing = self._next_pairing(self._attempt + 1)
        is_given = self._role is Role.RECEIVER or pairing == self.pairing  # the person chose the code
        if is_given or not isinstance(self._place, AtServer):
            self._events.append(events.SeatTaken())
            return
        self._attempt += 1
        if self._attempt >= MAX_NAMEPLATES:
            self._fail(*explain.refused(RefusedReason.SERVER_FULL, self.pairing, self._role))
            return
        self.pairing = pairing
        self._session = self._new_session(self._session.tries)
        self._place.join(pairing, now)

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

    def _handle_session_event(self, event: session.SessionEvent, now: float) -> None:
        match event:
            case session.Established(keys, description, verification):
                assert self._told is not None
                try:
                    self._remote = with_seen(Description.decode(description), self._peer_address)
                except DecodeError as error:
                    self._fail(ExitCode.INTERNAL, explain.senseless_description(error))
                    return
                self._is_met = True
                self._events.append(Met(keys, self._told, self._remote, verification))
            case session.Updated(description):
                assert self._told is not None
                with contextlib.suppress(DecodeError):  # one that is known already still holds
                    self._remote = with_seen(Description.decode(description), self._peer_address)
                    self._events.append(Changed(self._told, self._remote))
            case session.WrongCode(tries, limit, burnt):
                if burnt:
                    self._leave_at = now + BURNT_LINGER
                    self._fail(ExitCode.WRONG_CODE, self._burnt(tries))
                else:
                    self._events.append(events.CodeRejected(tries, limit, self._is_contact))
            case session.Rejected(reason, tries, limit):
                if self._is_contact and isinstance(self.pairing, NamePair):
                    self._fail(*explain.rejected_contact(reason, self.pairing.friend))
                else:
                    self._fail(*explain.rejected(reason, tries, limit))
            case session.PeerBye(exit_code, reason):
                self._fail(*explain.told(exit_code, reason))
            case session.Outdated(version):
                self._fail(ExitCode.INTERNAL, explain.outdated("the other side", version))
            case _:
                assert_never(event)

    def _burnt(self, tries: int) -> str:
        if self._is_contact and isinstance(self.pairing, NamePair):
            return explain.key_not_shared(self.pairing.friend)
        return explain.code_burnt(tries, with_code=self._secret is not None)

    def _fail(self, code: ExitCode, message: str) -> None:
        if not self._over:
            self._events.append(events.Failed(Failure(code, message)))
