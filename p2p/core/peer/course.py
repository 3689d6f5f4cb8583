"""The course of one path: the two meet, connect, and deliver; each part begins with what the one before it found."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from typing import assert_never

from p2p.core.calling import spoken
from p2p.core.contacts.exchange import ContactExchange
from p2p.core.datagram import MAIN, CloseSockets, SocketAction, UseSocket
from p2p.core.errors import ExitCode, Failure
from p2p.core.nat_report import Mapping as NatMapping
from p2p.core.peer import events
from p2p.core.peer.at_server import RelayClosed, RelayOpen, WantTunnel
from p2p.core.peer.channel import TcpLink, UdpLink
from p2p.core.peer.config import PeerConfig
from p2p.core.peer.connecting import Chosen, Connecting, ConnectingEvent, HasOpened, Improved, NoPath
from p2p.core.peer.delivery import Delivery, Machine
from p2p.core.peer.meeting import Changed, Meeting, MeetingEvent, Met
from p2p.core.peer.rejoin import Rejoin
from p2p.core.peer.tcp import TcpConnections
from p2p.core.punch.description import Description
from p2p.core.transfer.sender import TransferSender


class Course:
    """What the events of each part mean for the others. Inputs go to the parts, and then `advance` is to be called."""

    def __init__(
        self,
        config: PeerConfig,
        machine: Machine,
        random_bytes: Callable[[int], bytes],
        *,
        goes_on: bool,
        contact: ContactExchange | None,
    ) -> None:
        """As of Peer."""
        self.way_back: Rejoin | None = config.rejoin if goes_on else None
        """How the two would find each other again, once there are keys.

        All attempts after the first meet in one place: one side may not know that the last one had a path.
        """
        self._config = config
        self._contact = contact
        self._goes_on = goes_on
        self._random_bytes = random_bytes
        self.machine = machine
        self.meeting = Meeting(config, random_bytes)
        self.connecting: Connecting | None = None
        self.delivery: Delivery | None = None
        self.udp: UdpLink | None = None
        self.tcp = TcpConnections(config.servers)
        self.socket_actions: deque[SocketAction] = deque()
        self.events: deque[events.PeerEvent] = deque()
        self._scratch = tuple(config.scratch)
        self.failure: Failure | None = None
        self.rejoin: Rejoin | None = None
        self.is_done = False

    @property
    def has_ended(self) -> bool:
        return self.is_done or self.failure is not None

    def end(self, failure: Failure) -> None:
        if not self.has_ended:
            self.failure = failure
            self.events.append(events.Failed(failure))
            if self.connecting is not None and self.delivery is None and not self.connecting.is_parting:
                self.connecting.abandon()

    def advance(self, now: float) -> None:
        while (event := self.meeting.poll_event()) is not None:
            self._handle_meeting_event(event, now)
        if self.connecting is not None:
            while (outcome := self.connecting.poll_event()) is not None:
                self._handle_outcome(outcome, now)
        if self.delivery is not None:
            self.delivery.advance(now)
            while (happened := self.delivery.poll_event()) is not None:
                self._pass_on(happened)
            if self.delivery.is_confirming and self.delivery.is_over:
                self.is_done = True
            if self.delivery.is_unconfirmed and self.is_done and self.rejoin is None:
                self.rejoin = self.way_back
        if self.has_ended and (self.delivery is None or self.delivery.is_over):
            self._depart(now)

    def _depart(self, now: float) -> None:
        """Nothing is left to say to the other side; what the server forwards for us ends here."""
        if self.connecting is not None:
            self.connecting.finish()
        self.meeting.leave(now)
        if self.meeting.is_over:
            self.tcp.tunnel.close()

    def _handle_meeting_event(self, event: MeetingEvent, now: float) -> None:
        match event:
            case Met(keys, local, remote, verification):
                if self._config.rejoin is None or not self._goes_on:
                    self.way_back = Rejoin.of(self._config.role, keys)
                self.connecting = Connecting(
                    self._config.role,
                    keys,
                    local=local,
                    remote=remote,
                    receive_window=self._config.receive_window,
                    idle_timeout=self._config.idle_timeout,
                    random_bytes=self._random_bytes,
                    servers=self._config.servers,
                )
                self.events.append(events.Connecting(verification, self._config.is_contact))
                self.connecting.start(now)
                self.meeting.ask_relay(now)
                self._seek_tcp(local, remote)
            case Changed(local, remote):
                if self.connecting is not None:
                    self.connecting.update(local, remote, now)
                    self._seek_tcp(local, remote)
            case RelayOpen(local, address, rate):
                if self.connecting is not None:
                    self.connecting.relay(local, address, rate, now)
            case RelayClosed(why, told):
                if self.connecting is not None:
                    self.connecting.relay_refused(why, told)
            case WantTunnel():
                self.tcp.tunnel.open()
            case _ if self.delivery is None:
                self._pass_on(event)

    def _handle_outcome(self, outcome: ConnectingEvent, now: float) -> None:
        match outcome:
            case HasOpened():
                self.meeting.tell_opened(now)
            case Chosen(channel, path, tcp_connection):
                if isinstance(channel, UdpLink):
                    self.udp = channel
                elif isinstance(channel, TcpLink) and tcp_connection is not None:
                    self.tcp.use(channel, tcp_connection)
                self._use_path(path, now)
                self._limit_rate()
                self.delivery = Delivery(
                    channel, self.machine, now, goes_on=self._goes_on, contact=self._contact
                )
            case Improved(path):
                self._use_path(path, now)
            case NoPath(reason, told):
                # a side that still waits for keys, or has a path that only it knows of, would wait in vain
                self.meeting.bye(ExitCode.NO_PATH, spoken(told), now)
                self._pass_on(events.Failed(Failure(ExitCode.NO_PATH, reason)))
            case _:
                assert_never(outcome)

    def _limit_rate(self) -> None:
        """As both people want."""
        assert self.connecting is not None, "there is a path"
        wanted = self.machine.rate_limit if isinstance(self.machine, TransferSender) else math.inf
        self.connecting.limit_rate(min(self._config.rate_limit, wanted))

    def _seek_tcp(self, local: Description, remote: Description) -> None:
        if remote.nat.mapping is NatMapping.NO_UDP and local.nat.mapping is not NatMapping.NO_UDP:
            self.meeting.seek_tcp_address()

    def _use_path(self, path: events.PathChosen, now: float) -> None:
        self._pass_on(path)
        if path.local > MAIN:
            self.socket_actions.append(UseSocket(path.local))
        if self._scratch:
            self.socket_actions.append(CloseSockets(self._scratch))
            self._scratch = ()
        if path.kind is not events.PathKind.RELAY:
            self.meeting.leave(now)

    def _pass_on(self, event: events.PeerEvent) -> None:
        if self.has_ended:
            return  # the person has read how it ended
        match event:
            case events.Failed(failure):
                self.end(failure)
            case events.TransferStarted():
                self._limit_rate()
                self.events.append(event)
            case events.PathLost(why):
                self.rejoin = self.way_back
                self.failure = Failure(ExitCode.INTERRUPTED, why)
                self.events.append(event)
            case events.Done():
                self.is_done = True
                self.events.append(event)
            case _:
                self.events.append(event)
