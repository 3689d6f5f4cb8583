"""The second part of a run: TCP on private addresses, with a head start over the UDP punch."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace

from p2p.core.address import Address
from p2p.core.datagram import MAIN, Buffer, Transmit
from p2p.core.nat_report import NatReport
from p2p.core.peer import explain
from p2p.core.peer.channel import Channel, TcpLink, UdpLink
from p2p.core.peer.events import PathChosen, PathKind
from p2p.core.punch import agent as punch
from p2p.core.punch.checks import ANSWER, CHECK
from p2p.core.punch.description import Description, Kind, usable
from p2p.core.role import Role
from p2p.core.session.keys import SessionKeys
from p2p.core.transport.connection import Connection, ConnectionKeys
from p2p.core.transport.lan import Action, LanRace
from p2p.core.transport.tcp import TcpKeys

MAX_EARLY = 16  # reads of the socket that are kept until the path is known on which they came
HEAD_START = 0.25  # seconds that TCP on private addresses gets before the punch starts: many LAN round trips


@dataclass(frozen=True, slots=True)
class Chosen:
    """The path on which the sender speaks."""

    channel: Channel
    path: PathChosen
    tcp_connection: int | None


@dataclass(frozen=True, slots=True)
class NoPath:
    """No path, why in our words, and in those of the other side."""

    reason: str
    told: str


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
        )
        # Without a word of the server in between nobody waits for the other's opener; without sockets nobody guesses.
        self._agent = punch.PunchAgent(
            role is Role.SENDER,
            derive(f"check {me}"),
            derive(f"check {other}"),
            replace(local, nat=NatReport()),
            replace(remote, nat=NatReport(), has_opened=True),
            random_bytes,
        )
        self._punch_at: float | None = None
        self._punched: tuple[Connection, punch.Selected] | None = None
        self._early: deque[tuple[bytes, int, Address]] = deque(maxlen=MAX_EARLY)
        self._punch_failed = False
        self._over = False
        self._events: deque[Chosen | NoPath] = deque()

    # command

    def start(self, now: float) -> None:
        candidates = usable(self._remote.candidates, self._local.candidates)
        tcp = [c.address for c in candidates if c.kind is Kind.HOST_TCP]
        self._lan.start(tcp, now)
        self._punch_at = now + (HEAD_START if tcp else 0.0)

    def abandon(self) -> None:
        """Drops every connection that was being tried."""
        self._over = True
        self._lan.drop_all()

    # input

    def handle_datagram(self, data: Buffer, segment_size: int, source: Address, now: float) -> None:
        """Checks and transport packets. After the choice it still answers checks whose answer was lost."""
        if data[0] in (CHECK, ANSWER):
            self._agent.handle_datagram(bytes(data), source, MAIN, now)
        elif self._punched is not None and not self._over:
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
        if self._over:
            return
        if self._punch_at is not None and self._punch_at <= now:
            self._punch_at = None
            self._agent.start(now)
        if (at := self._agent.poll_timeout()) is not None and at <= now:
            self._agent.handle_timeout(now)
        self._lan.handle_timeout(now)
        if self._punched is not None and (at := self._punched[0].poll_timeout()) is not None and at <= now:
            self._punched[0].handle_timeout(now)
        self._advance(now)

    # output

    def poll_transmit(self, now: float) -> Transmit | None:
        transmit = self._agent.poll_transmit()
        if transmit is None and self._punched is not None and not self._over:
            transmit = self._punched[0].poll_transmit(now)
        return transmit

    def poll_tcp_action(self) -> Action | None:
        return self._lan.poll_action()

    def poll_tcp_output(self) -> tuple[int, list[Buffer]] | None:
        return self._lan.poll_output()

    def poll_event(self) -> Chosen | NoPath | None:
        return self._events.popleft() if self._events else None

    def poll_timeout(self) -> float | None:
        if self._over:
            return None
        connection = self._punched[0].poll_timeout() if self._punched else None
        timeouts = (self._punch_at, self._agent.poll_timeout(), self._lan.poll_timeout(), connection)
        return min((t for t in timeouts if t is not None), default=None)

    # inside

    def _advance(self, now: float) -> None:
        while (event := self._agent.poll_event()) is not None:
            match event:
                case punch.Selected():
                    connection = Connection(
                        self._connection_keys,
                        event.address,
                        now,
                        receive_window_records=self._receive_window,
                        expects_bulk=self._role is Role.SENDER,
                        idle_timeout=self._idle_timeout,
                        random_bytes=self._random_bytes,
                    )
                    self._punched = (connection, event)
                    while self._early:
                        connection.handle_datagram(*self._early.popleft(), now)
                case punch.PunchFailed():
                    self._punch_failed = True
                case punch.Opened():
                    pass
        if not self._over:
            self._choose(now)

    def _choose(self, now: float) -> None:
        tcp = self._lan.poll_authenticated() if self._role is Role.SENDER else self._lan.poll_first_record()
        if tcp is not None:
            self._choose_tcp(tcp, now)
        elif self._punched is not None and (self._role is Role.SENDER or _was_spoken_on(self._punched[0])):
            self._choose_udp(*self._punched)
        elif self._punch_failed and not self._lan.is_trying:
            self._over = True
            local, remote = self._local.nat, self._remote.nat
            heard = self._agent.was_heard
            reason = explain.no_path(local, remote, heard=heard)
            self._events.append(NoPath(reason, explain.no_path(remote, local, heard=heard)))

    def _choose_tcp(self, number: int, now: float) -> None:
        self._over = True
        channel, address = self._lan.take(number)
        path = PathChosen(PathKind.TCP, address, None, explain.TCP_PATH)
        self._events.append(Chosen(TcpLink(channel, now, self._idle_timeout), path, number))

    def _choose_udp(self, connection: Connection, selected: punch.Selected) -> None:
        self._over = True
        self._lan.drop_all()
        path = PathChosen(PathKind.UDP, selected.address, selected.rtt, explain.udp_path(selected.kind, selected.rtt))
        self._events.append(Chosen(UdpLink(connection), path, None))


def _was_spoken_on(connection: Connection) -> bool:
    """Whether the sender picked it: it said something, its end was told, or it went away before it could speak."""
    return bool(connection.stats.records_received) or not connection.is_open
