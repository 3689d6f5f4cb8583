"""The second part of a run: TCP on private addresses, with a head start over the UDP punch."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import assert_never

from p2p.core.address import Address, is_private, link
from p2p.core.datagram import Buffer, SocketAction, Transmit
from p2p.core.errors import ExitCode
from p2p.core.nat_report import Mapping
from p2p.core.peer import explain
from p2p.core.peer.channel import Channel, TcpLink, UdpLink
from p2p.core.peer.events import PathChosen, PathKind
from p2p.core.peer.outlook import SAME_NAT, why_not_direct
from p2p.core.punch import agent as punch
from p2p.core.punch.checks import ANSWER, CHECK
from p2p.core.punch.description import Description, Kind, usable, versions
from p2p.core.role import Role
from p2p.core.session.keys import SessionKeys
from p2p.core.transfer.codec import encode
from p2p.core.transfer.messages import Abort
from p2p.core.transport.connection import Connection, ConnectionKeys
from p2p.core.transport.lan import Action, LanRace
from p2p.core.transport.tcp import TcpKeys

MAX_EARLY = 16  # reads of the socket that are kept until the path is known on which they came
HEAD_START = 0.25  # seconds that TCP on private addresses gets before the punch starts: many LAN round trips
# Seconds that a relayed path waits until both know where to open TCP to, and again until it stands, three round trips
# of 300 ms: a TCP path does not take over later.
TCP_HEAD_START = 1.0
RELAY_SHARE = 0.92  # of what the server forwards for a pair: the rest is for headers and acknowledgements


@dataclass(frozen=True, slots=True)
class Chosen:
    """The path on which the sender speaks."""

    channel: Channel
    path: PathChosen
    tcp_connection: int | None


@dataclass(frozen=True, slots=True)
class Improved:
    """The same connection goes by a better path from now on."""

    path: PathChosen


@dataclass(frozen=True, slots=True)
class HasOpened:
    """The packets that open our NAT are out; the other side is to be told."""


@dataclass(frozen=True, slots=True)
class NoPath:
    """No path, why in our words, and in those of the other side."""

    reason: str
    told: str


ConnectingEvent = Chosen | Improved | HasOpened | NoPath


class Connecting:
    """Composes the LAN race, the punch and the connection that follows it. The sender picks, the receiver follows."""

    def __init__(
        self,
        role: Role,
        keys: SessionKeys,
        *,
        local: Description,
        remote: Description,
        receive_window: int,
        idle_timeout: float,
        random_bytes: Callable[[int], bytes],
        servers: Sequence[Address],
    ) -> None:
        me, other = role.name.lower(), role.other.name.lower()
        derive = keys.derive
        self._role = role
        self._local, self._remote = local, remote
        self._receive_window = receive_window
        self._idle_timeout = idle_timeout
        self._random_bytes = random_bytes
        self._connection_keys = ConnectionKeys(
            records_out=derive(f"udp records {me}"),
            records_in=derive(f"udp records {other}"),
            control_out=derive(f"udp control {me}"),
            control_in=derive(f"udp control {other}"),
            id_out=derive(f"udp id {me}")[:7],
            id_in=derive(f"udp id {other}")[:7],
        )
        self._lan = LanRace(
            TcpKeys(
                hello_out=derive(f"tcp {me}"),
                hello_in=derive(f"tcp {other}"),
                records_out=derive(f"tcp records {me}"),
                records_in=derive(f"tcp records {other}"),
            ),
            random_bytes,
            yields=role is Role.RECEIVER,
        )
        self._agent = punch.PunchAgent(
            role is Role.SENDER,
            derive(f"check {me}"),
            derive(f"check {other}"),
            local,
            remote,
            random_bytes,
            servers=servers,
        )
        self._punch_at: float | None = None
        self._punched: tuple[Connection, punch.Selected] | None = None
        self._early: deque[tuple[bytes, int, Address]] = deque(maxlen=MAX_EARLY)
        self._punch_failed = False
        self._opens_tcp = False  # from both sides
        self._over = False
        self.is_parting = False
        """Whether it is over, and the other side may have to be told so."""
        self._relay_refusal = self._relay_refusal_told = "the server has not offered to forward"
        self._relay_rate = math.inf  # bytes a second of ours, where the server forwards
        self._rate_limit = math.inf  # bytes a second on any path: what the two people want
        self._link: TcpLink | None = None
        self._is_relayed = False  # the path that was chosen; a better one is still looked for
        self._events: deque[ConnectingEvent] = deque()

    # command

    def start(self, now: float) -> None:
        candidates = usable(self._remote.candidates, self._local.candidates)
        tcp = [c.address for c in candidates if c.kind is Kind.HOST_TCP and self._is_wanted(c.address)]
        self._lan.start(tcp, now)
        if self._may_open_tcp:
            self._agent.hold_relay(now + TCP_HEAD_START)
        self._open_tcp(now)
        self._punch_at = now + (HEAD_START if tcp and self._is_one_site else 0.0)

    def update(self, local: Description, remote: Description, now: float) -> None:
        """One of the two has changed."""
        self._local, self._remote = local, remote
        self._agent.update(local, remote, now)
        self._open_tcp(now)
        self._advance(now)

    def relay(self, local: int, address: Address, rate: int, now: float) -> None:
        """The server forwards what goes by that socket to that address; `rate` as in RelayOpen."""
        self._relay_rate = RELAY_SHARE * rate if rate else math.inf
        self._limit()
        self._agent.relay(local, address, now)
        self._advance(now)

    def limit_rate(self, limit: float) -> None:
        """No more than so many bytes a second from now on, whatever the path."""
        self._rate_limit = limit
        self._limit()

    def relay_refused(self, why: str, told: str) -> None:
        """There is, or will be, no relay; why as half a sentence, for us and for the other side."""
        self._relay_refusal, self._relay_refusal_told = why, told
        if not usable(self._remote.candidates, self._local.candidates):
            self._punch_failed = True  # nothing can be tried, so nothing is waited for

    def abandon(self) -> None:
        """Drops every connection that was being tried."""
        self._over = True
        self._lan.drop_all()

    def part(self, code: ExitCode, told: str, now: float) -> None:
        """Ends before there is a path. The other side may have chosen one: then it is there that it listens."""
        self._over = self.is_parting = True
        self._lan.part(encode(Abort(code, told)))
        if self._punched is not None:
            self._punched[0].close(code, told, now)

    def finish(self) -> None:
        """What was to be carried is carried: no better path is wanted."""
        self._is_relayed = False

    # input

    def handle_datagram(self, data: Buffer, segment_size: int, source: Address, now: float, local: int) -> None:
        """Checks and transport packets. After the choice it still answers checks whose answer was lost."""
        if data[0] in (CHECK, ANSWER):
            self._agent.handle_datagram(bytes(data), source, local, now)
        elif self._punched is not None and (self.is_parting or not self._over):
            self._punched[0].handle_datagram(data, segment_size, source, now)
        elif not self._over and data[1:8] == self._connection_keys.id_in:
            # The sender has chosen and speaks; the answer to our own check comes right behind it.
            self._early.append((bytes(data), segment_size, source))
        self._advance(now)

    def handle_connected(self, connection: int, now: float) -> None:
        self._lan.handle_connected(connection)
        self._advance(now)

    def handle_accepted(self, connection: int, source: Address, now: float) -> None:
        self._lan.handle_accepted(connection, source, now)

    def handle_tcp_data(self, connection: int, data: Buffer, now: float) -> None:
        self._lan.handle_data(connection, data)
        self._advance(now)

    def handle_closed(self, connection: int, now: float) -> None:
        self._lan.handle_closed(connection, now)
        self._advance(now)

    def handle_timeout(self, now: float) -> None:
        if self._over and not self._is_relayed:
            return
        if self._punch_at is not None and self._punch_at <= now:
            self._punch_at = None
            self._agent.start(now)
        if (at := self._agent.poll_timeout()) is not None and at <= now:
            self._agent.handle_timeout(now)
        if self._over:
            self._advance(now)
            return
        self._lan.handle_timeout(now)
        if self._punched is not None and (at := self._punched[0].poll_timeout()) is not None and at <= now:
            self._punched[0].handle_timeout(now)
        self._advance(now)

    # output

    def poll_transmit(self, now: float) -> Transmit | None:
        transmit = self._agent.poll_transmit()
        if transmit is None and self._punched is not None and (self.is_parting or not self._over):
            transmit = self._punched[0].poll_transmit(now)
        return transmit

    def poll_tcp_action(self) -> Action | None:
        return self._lan.poll_action()

    def poll_tcp_output(self) -> tuple[int, list[Buffer]] | None:
        return self._lan.poll_output()

    def poll_socket_action(self) -> SocketAction | None:
        return self._agent.poll_action()

    def poll_event(self) -> ConnectingEvent | None:
        return self._events.popleft() if self._events else None

    def poll_timeout(self) -> float | None:
        if self._over:
            return self._agent.poll_timeout() if self._is_relayed else None
        connection = self._punched[0].poll_timeout() if self._punched else None
        timeouts = (self._punch_at, self._agent.poll_timeout(), self._lan.poll_timeout(), connection)
        return min((t for t in timeouts if t is not None), default=None)

    # inside

    @property
    def _is_one_site(self) -> bool:
        """Whether both may be on one network: the server sees them at one address, or sees no NAT before one of them.

        Global IPv6 addresses on different links are two networks too.
        """
        ours, theirs = (
            {c.address.host for c in description.candidates if c.kind is Kind.SERVER_REFLEXIVE}
            for description in (self._local, self._remote)
        )
        if ours & theirs:
            return True
        our_links, their_links = (
            {of for c in description.candidates if c.kind is Kind.HOST and (of := link(c.address.host)) is not None}
            for description in (self._local, self._remote)
        )
        may_be = bool(our_links & their_links) or not (our_links and their_links)
        return may_be and not (ours and theirs)

    def _is_wanted(self, address: Address) -> bool:
        """Across the internet TCP is for those who have no UDP."""
        return is_private(address.host) or Mapping.NO_UDP in (self._local.nat.mapping, self._remote.nat.mapping)

    @property
    def _may_open_tcp(self) -> bool:
        """Whether all who have no UDP have told where their TCP comes from; the others learn it now."""
        blocked = [each for each in (self._local, self._remote) if each.nat.mapping is Mapping.NO_UDP]
        return bool(blocked) and all(Kind.REFLEXIVE_TCP in {c.kind for c in each.candidates} for each in blocked)

    def _open_tcp(self, now: float) -> None:
        """Where both reached the server by TCP only: each towards the other's address before its NAT."""
        ours, theirs = (
            [c.address for c in description.candidates if c.kind is Kind.REFLEXIVE_TCP]
            for description in (self._local, self._remote)
        )
        if ours and theirs and not self._over:
            if not self._opens_tcp:
                self._opens_tcp = True
                self._agent.hold_relay(now + TCP_HEAD_START)
            self._lan.open_from_both_sides(theirs, now)

    def _advance(self, now: float) -> None:
        while (event := self._agent.poll_event()) is not None:
            match event:
                case punch.Selected():
                    self._handle_selected(event, now)
                case punch.Opened():
                    self._events.append(HasOpened())
                case punch.PunchFailed():
                    self._punch_failed = True
                case _:
                    assert_never(event)
        if not self._over:
            self._choose(now)

    def _handle_selected(self, selected: punch.Selected, now: float) -> None:
        if self._punched is not None:  # a relay first, and now what is better
            connection = self._punched[0]
            connection.move_to(selected.address, selected.local, selected.rtt)
            self._punched = (connection, selected)
            self._limit()
            if self._over and self._is_relayed:
                self._is_relayed = selected.kind is Kind.RELAYED
                self._events.append(Improved(self._path(selected)))
            return
        if self.is_parting:
            return
        connection = Connection(
            self._connection_keys,
            selected.address,
            now,
            receive_window_records=self._receive_window,
            expects_bulk=self._role is Role.SENDER,
            idle_timeout=self._idle_timeout,
            random_bytes=self._random_bytes,
            local=selected.local,
        )
        self._punched = (connection, selected)
        self._limit()
        while self._early:
            connection.handle_datagram(*self._early.popleft(), now)

    def _limit(self) -> None:
        """The one place that decides how fast we may be: as the people want, and as the server forwards.

        It drops what is above a pair's rate, without a queue: no controller could tell that from loss.
        """
        if self._link is not None:
            self._link.limit_rate(self._rate_limit)
        if self._punched is not None:
            connection, selected = self._punched
            is_relayed = selected.kind is Kind.RELAYED
            connection.limit_rate(min(self._rate_limit, self._relay_rate) if is_relayed else self._rate_limit)

    def _choose(self, now: float) -> None:
        tcp = self._lan.poll_authenticated() if self._role is Role.SENDER else self._lan.poll_first_record()
        if tcp is not None:
            self._choose_tcp(tcp, now)
        elif self._punched is not None and (self._role is Role.SENDER or _was_spoken_on(self._punched[0])):
            self._choose_udp(*self._punched)
        elif self._punch_failed and not self._lan.is_trying:
            self._over = True
            why = self._why(self._local, self._remote, self._relay_refusal)
            self._events.append(NoPath(why, self._why(self._remote, self._local, self._relay_refusal_told)))

    def _why(self, local: Description, remote: Description, relay: str) -> str:
        ours, theirs = versions(local.candidates), versions(remote.candidates)
        if not ours & theirs:
            return explain.no_common_version(ours, theirs, relay=relay)
        return explain.no_path(self._obstacles(local, remote), relay)

    def _obstacles(self, local: Description, remote: Description) -> str:
        """Why there is no direct path, as half a sentence."""
        ours, theirs = (
            {c.address.host for c in each.candidates if c.kind is Kind.SERVER_REFLEXIVE and c.address.version == 4}
            for each in (local, remote)
        )
        if ours & theirs:
            return SAME_NAT
        return why_not_direct(local.nat, remote.nat, heard=self._agent.was_heard)

    def _choose_tcp(self, number: int, now: float) -> None:
        self._over = True
        channel, address = self._lan.take(number)
        path = PathChosen(PathKind.TCP, address, None, explain.tcp_path(address))
        self._link = TcpLink(channel, now, self._idle_timeout)
        self._limit()
        self._events.append(Chosen(self._link, path, number))

    def _choose_udp(self, connection: Connection, selected: punch.Selected) -> None:
        self._over = True
        self._lan.drop_all()
        self._is_relayed = selected.kind is Kind.RELAYED
        self._events.append(Chosen(UdpLink(connection), self._path(selected), None))

    def _path(self, selected: punch.Selected) -> PathChosen:
        kind = PathKind.RELAY if selected.kind is Kind.RELAYED else PathKind.UDP
        words = explain.udp_path(selected, self._obstacles(self._local, self._remote))
        return PathChosen(kind, selected.address, selected.rtt, words, selected.local)


def _was_spoken_on(connection: Connection) -> bool:
    """Whether the sender picked it: it said something, its end was told, or it went away before it could speak."""
    return bool(connection.stats.records_received) or not connection.is_open
