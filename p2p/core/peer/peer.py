"""From the first datagram to the last on one path: composes meeting, connecting and delivery."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Sequence
from typing import assert_never

from p2p.core.address import Address
from p2p.core.contacts.exchange import ContactExchange
from p2p.core.datagram import MAIN, TUNNEL, Buffer, CloseSockets, SocketAction, Transmit, UseSocket
from p2p.core.discovery import messages as discovery
from p2p.core.errors import ExitCode, Failure
from p2p.core.introduction import NamePair
from p2p.core.nat_report import Mapping as NatMapping
from p2p.core.peer import events, explain
from p2p.core.peer.at_server import RelayClosed, RelayOpen, WantTunnel
from p2p.core.peer.channel import TcpLink, UdpLink
from p2p.core.peer.config import PeerConfig
from p2p.core.peer.connecting import Chosen, Connecting, ConnectingEvent, HasOpened, Improved, NoPath
from p2p.core.peer.delivery import Delivery, Machine
from p2p.core.peer.meeting import Changed, Meeting, MeetingEvent, Met
from p2p.core.peer.rejoin import Rejoin
from p2p.core.peer.tcp import TcpConnections
from p2p.core.punch.checks import ANSWER, CHECK
from p2p.core.punch.description import Description
from p2p.core.rendezvous import messages as rendezvous
from p2p.core.session.keys import SessionKeys
from p2p.core.transfer.events import Wanted
from p2p.core.transfer.sender import TransferSender
from p2p.core.transport.lan import Action
from p2p.core.transport.packets import DATA, SEALED

INTRODUCTION_FIRST_BYTES = (rendezvous.MAGIC[0], discovery.MAGIC[0])
STUN_FIRST_BYTES = range(0x40)  # RFC 8489 section 5: two zero bits
PATH_FIRST_BYTES = (DATA, SEALED)


class Peer:
    """Inputs, commands, outputs and one deadline; what they mean is decided by the three parts."""

    def __init__(
        self,
        config: PeerConfig,
        machine: Machine,
        random_bytes: Callable[[int], bytes],
        *,
        goes_on: bool = False,
        contact: ContactExchange | None = None,
    ) -> None:
        """`machine` is the transfer, which outlives the path; `goes_on`: it began on another one.

        `contact` outlives the path too; without one, this side does not remember the other.
        """
        self._contact = contact
        self._config = config
        self._goes_on = goes_on
        self._random_bytes = random_bytes
        self._meeting = Meeting(
            role=config.role,
            servers=config.servers,
            next_pairing=config.next_pairing,
            secret=config.secret,
            udp_candidates=config.udp_candidates,
            tcp_candidates=config.tcp_candidates,
            takes_relay=config.takes_relay,
            udp_port=config.udp_port,
            scratch=config.scratch,
            stun_servers=config.stun_servers,
            tries=config.tries,
            is_contact=config.is_contact,
            random_bytes=random_bytes,
        )
        self._connecting: Connecting | None = None
        self._delivery: Delivery | None = None
        self._udp: UdpLink | None = None
        self._tcp = TcpConnections(config.servers)
        self._socket_actions: deque[SocketAction] = deque()
        self._scratch = tuple(config.scratch)
        self._events: deque[events.PeerEvent] = deque()
        self._machine = machine
        self._keys: SessionKeys | None = None
        self._unsettled: float | None = None  # when the datagrams came whose records nobody has looked at yet
        self.failure: Failure | None = None
        self.rejoin: Rejoin | None = None
        """How the two find each other again, when the path broke in mid-transfer, or before the end was confirmed."""
        self.is_done = False

    @property
    def udp(self) -> UdpLink | None:
        return self._udp

    @property
    def seen_at(self) -> str | None:
        """The IPv4 address under which the internet sees this machine, when that is known."""
        return self._meeting.seen_at

    @property
    def has_met(self) -> bool:
        """Whether there is another side that holds our keys, and will be told how this ends."""
        return self._connecting is not None

    @property
    def tries(self) -> int:
        """Wrong codes that were tried so far, before this path too."""
        return self._meeting.tries

    @property
    def heard_at(self) -> float | None:
        """When something came last on the path that was chosen."""
        return self._delivery.heard_at if self._delivery is not None else None

    @property
    def is_over(self) -> bool:
        """Whether the run has ended and nothing is left to say to anybody."""
        ended = (self.is_done or self.failure is not None) and not self._tcp.has_link
        return ended and self._meeting.is_over and (self._delivery is None or self._delivery.is_over)

    # commands

    def start(self, now: float) -> None:
        self._meeting.start(now)
        self._advance(now)

    def refuse(self, failure: Failure, told: str, now: float) -> None:
        """Says no to the offer; `told` is the reason that the sender reads."""
        if self._delivery is None:  # the path was lost while the person was asked, and the next one is being looked for
            self._machine.stop()
            self.fail(failure, told, now)
            return
        self._delivery.refuse(failure.code, told, now)
        self._end(failure)
        self._advance(now)

    def fail(self, failure: Failure, told: str, now: float) -> None:
        """Ends the run from our side: Ctrl-C, a full disk, a source that changed."""
        if self.failure is not None or self.is_done:
            return
        if self._delivery is not None:
            self._delivery.fail(failure, told, now)
        else:
            self._meeting.bye(failure.code, told, now)
            if self._connecting is not None:
                self._connecting.part(failure.code, told, now)
            self._end(failure)
        self._advance(now)

    def lose_path(self, why: str, now: float) -> None:
        """Gives up the path that was chosen; the transfer may go on over another one."""
        if self._delivery is not None:
            self._delivery.lose(why, now)
            self._advance(now)

    def give_up(self, seconds: float, now: float) -> None:
        """Nobody came in so many seconds."""
        failure = Failure(ExitCode.NO_PEER, self._meeting.why_nobody_came(seconds, now))
        self.fail(failure, "it gave up waiting", now)

    # input

    def handle_datagram(
        self, data: Buffer, segment_size: int, source: Address, now: float, local: int = MAIN
    ) -> None:
        """One read of the UDP socket `local`: a datagram, or a burst of datagrams of `segment_size` bytes (0: one)."""
        if not data:
            return
        first = data[0]
        is_mixed = self._udp is None or first not in PATH_FIRST_BYTES
        if 0 < segment_size < len(data) and is_mixed:  # UDP_GRO looks at addresses and lengths only
            for start in range(0, len(data), segment_size):
                self.handle_datagram(data[start : start + segment_size], 0, source, now, local)
        elif first in INTRODUCTION_FIRST_BYTES:
            self._meeting.handle_datagram(bytes(data), source, now, local)
        elif first in STUN_FIRST_BYTES:
            self._meeting.handle_stun(bytes(data), source, local, now)
        elif self._udp is not None and first not in (CHECK, ANSWER):
            self._udp.handle_datagram(data, segment_size, source, now)
            self._unsettled = now  # the hot path: what it means is looked at once for all reads of a turn
            return
        elif self._connecting is not None:
            self._connecting.handle_datagram(data, segment_size, source, now, local)
        self._advance(now)

    def handle_message_too_big(self, transmit: Transmit, now: float) -> None:
        """The socket refused `transmit` because it is longer than the interface's MTU."""
        if self._udp is not None:
            self._udp.connection.handle_message_too_big(transmit, now)

    def handle_send_refused(self, transmit: Transmit, why: str, now: float) -> None:
        """Our own system does not let `transmit` out. While there are other addresses, that one is merely no path."""
        if self._udp is not None and transmit.destination == self._udp.connection.remote:
            self.lose_path(explain.send_refused(transmit.destination, why), now)

    def handle_addresses(self, udp: Sequence[Address], tcp: Sequence[Address], now: float) -> None:
        """The machine's own addresses are others now."""
        self._meeting.handle_addresses(udp, tcp, now)
        self._advance(now)

    def handle_port_mapped(self, address: Address | None, now: float) -> None:
        """The router lets anybody in to our UDP port at `address`; None: not any more."""
        self._meeting.handle_port_mapped(address, now)
        self._advance(now)

    def handle_connected(self, connection: int, now: float) -> None:
        if connection < 0:
            if self._tcp.tunnel.handle_connected(connection):
                self._meeting.handle_tunnel_opened(now)
        elif self._connecting is not None:
            self._connecting.handle_connected(connection, now)
        self._advance(now)

    def handle_accepted(self, connection: int, source: Address, now: float) -> None:
        if self._connecting is None or self._delivery is not None:
            self._tcp.refuse(connection)
        else:
            self._connecting.handle_accepted(connection, source, now)
        self._advance(now)

    def handle_tcp_data(self, connection: int, data: Buffer, now: float) -> None:
        if connection < 0:
            for datagram in self._tcp.tunnel.handle_data(connection, data):
                self.handle_datagram(datagram, 0, self._meeting.server or self._config.servers[0], now, TUNNEL)
        elif not self._tcp.handle_data(connection, data, now) and self._connecting is not None:
            self._connecting.handle_tcp_data(connection, data, now)
        self._advance(now)

    def handle_tcp_closed(self, connection: int, now: float, *, refused: bool = True) -> None:
        """`refused`: whether the other machine said so, and not the network or our own system."""
        if connection < 0:
            if self._tcp.tunnel.handle_closed(connection):
                self._meeting.handle_tunnel_closed(now)
            if refused and self._tcp.tunnel.leads_to(connection) in self._config.servers:
                self._meeting.handle_server_refused(now)  # no word of the further ports, which few servers have
        elif not self._tcp.handle_closed(connection) and self._connecting is not None:
            self._connecting.handle_closed(connection, now)
        self._advance(now)

    def handle_timeout(self, now: float) -> None:
        self._meeting.handle_timeout(now)
        if self._connecting is not None:
            self._connecting.handle_timeout(now)
        if self._delivery is not None:
            self._delivery.handle_timeout(now)
        self._advance(now)

    def send(self, records: Sequence[Buffer], now: float) -> None:
        """Records that the transfer made of what was read."""
        if self._delivery is not None:
            self._delivery.send(records, now)

    def advance(self, now: float) -> None:
        """The transfer, or the exchange of contact keys, was told something."""
        self._advance(now)

    # output

    def poll_transmit(self, now: float) -> Transmit | None:
        """What is to leave by the UDP sockets; `poll_socket_action` is to be asked before."""
        self._settle()
        while (transmit := self._next_transmit(now)) is not None and transmit.local == TUNNEL:
            self._tcp.tunnel.send(transmit)
        return transmit

    def _next_transmit(self, now: float) -> Transmit | None:
        if self._udp is not None and (transmit := self._udp.poll_transmit(now)) is not None:
            return transmit
        if (transmit := self._meeting.poll_transmit()) is not None:
            return transmit
        return self._connecting.poll_transmit(now) if self._connecting is not None else None

    def poll_socket_action(self) -> SocketAction | None:
        """UDP sockets to open and to close."""
        if self._socket_actions:
            return self._socket_actions.popleft()
        return self._connecting.poll_socket_action() if self._connecting is not None else None

    def poll_tcp_action(self) -> Action | None:
        if (action := self._tcp.poll_action()) is not None:
            return action
        return self._connecting.poll_tcp_action() if self._connecting is not None else None

    @property
    def paused_tcp(self) -> int | None:
        """The TCP connection of which nothing is to be read for now."""
        return self._tcp.paused

    def poll_tcp_output(self, is_full: Callable[[int], bool]) -> tuple[int, list[Buffer]] | None:
        """Buffers for one TCP connection. `is_full` tells whether earlier ones of it still wait for the socket."""
        if (output := self._tcp.poll_output(is_full)) is not None:
            return output
        if self._tcp.has_link or self._connecting is None:
            return None
        return self._connecting.poll_tcp_output()

    def poll_wanted(self, now: float) -> Wanted | None:
        """What the transfer wants to be read, as far as the path takes it."""
        self._settle()
        return self._delivery.poll_wanted(now) if self._delivery is not None else None

    def poll_event(self) -> events.PeerEvent | None:
        self._settle()
        return self._events.popleft() if self._events else None

    def poll_timeout(self) -> float | None:
        self._settle()
        parts = (self._meeting, self._connecting, self._delivery)
        return min((t for part in parts if part is not None and (t := part.poll_timeout()) is not None), default=None)

    # inside

    def _settle(self) -> None:
        if self._unsettled is not None:
            self._advance(self._unsettled)

    def _advance(self, now: float) -> None:
        self._unsettled = None
        while (event := self._meeting.poll_event()) is not None:
            self._handle_meeting_event(event, now)
        if self._connecting is not None:
            while (outcome := self._connecting.poll_event()) is not None:
                self._handle_outcome(outcome, now)
        if self._delivery is not None:
            self._delivery.advance(now)
            while (happened := self._delivery.poll_event()) is not None:
                self._pass_on(happened)
            if self._delivery.is_confirming and self._delivery.is_over:
                self.is_done = True
            if self._delivery.is_unconfirmed and self.is_done and self.rejoin is None:
                self._set_rejoin()
        if (self.is_done or self.failure is not None) and (self._delivery is None or self._delivery.is_over):
            self._depart(now)

    def _depart(self, now: float) -> None:
        """Nothing is left to say to the other side; what the server forwards for us ends here."""
        if self._connecting is not None:
            self._connecting.finish()
        self._meeting.leave(now)
        if self._meeting.is_over:
            self._tcp.tunnel.close()

    def _handle_meeting_event(self, event: MeetingEvent, now: float) -> None:
        match event:
            case Met(keys, local, remote, verification):
                self._keys = keys
                self._connecting = Connecting(
                    self._config.role,
                    keys,
                    local=local,
                    remote=remote,
                    receive_window=self._config.receive_window,
                    idle_timeout=self._config.idle_timeout,
                    random_bytes=self._random_bytes,
                )
                self._events.append(events.Connecting(verification, self._config.is_contact))
                self._connecting.start(now)
                self._meeting.ask_relay(now)
                self._seek_tcp(local, remote)
            case Changed(local, remote):
                if self._connecting is not None:
                    self._connecting.update(local, remote, now)
                    self._seek_tcp(local, remote)
            case RelayOpen(local, address, rate):
                if self._connecting is not None:
                    self._connecting.relay(local, address, rate, now)
            case RelayClosed(why, told):
                if self._connecting is not None:
                    self._connecting.relay_refused(why, told)
            case WantTunnel():
                self._tcp.tunnel.open()
            case _ if self._delivery is None:
                self._pass_on(event)

    def _handle_outcome(self, outcome: ConnectingEvent, now: float) -> None:
        match outcome:
            case HasOpened():
                self._meeting.tell_opened(now)
            case Chosen(channel, path, tcp_connection):
                if isinstance(channel, UdpLink):
                    self._udp = channel
                elif isinstance(channel, TcpLink) and tcp_connection is not None:
                    self._tcp.use(channel, tcp_connection)
                self._use_path(path, now)
                self._limit_rate()
                self._delivery = Delivery(
                    channel, self._machine, now, goes_on=self._goes_on, contact=self._contact
                )
            case Improved(path):
                self._use_path(path, now)
            case NoPath(reason, told):
                # a side that still waits for keys, or has a path that only it knows of, would wait in vain
                self._meeting.bye(ExitCode.NO_PATH, told, now)
                self._pass_on(events.Failed(Failure(ExitCode.NO_PATH, reason)))
            case _:
                assert_never(outcome)

    def _limit_rate(self) -> None:
        """As both people want."""
        assert self._connecting is not None, "there is a path"
        wanted = self._machine.rate_limit if isinstance(self._machine, TransferSender) else math.inf
        self._connecting.limit_rate(min(self._config.rate_limit, wanted))

    def _seek_tcp(self, local: Description, remote: Description) -> None:
        if remote.nat.mapping is NatMapping.NO_UDP and local.nat.mapping is not NatMapping.NO_UDP:
            self._meeting.seek_tcp_address()

    def _use_path(self, path: events.PathChosen, now: float) -> None:
        self._pass_on(path)
        if path.local > MAIN:
            self._socket_actions.append(UseSocket(path.local))
        if self._scratch:
            self._socket_actions.append(CloseSockets(self._scratch))
            self._scratch = ()
        if path.kind is not events.PathKind.RELAY:
            self._meeting.leave(now)

    def _pass_on(self, event: events.PeerEvent) -> None:
        if self.failure is not None or self.is_done:
            return  # the person has read how it ended
        match event:
            case events.Failed(failure):
                self._end(failure)
            case events.TransferStarted():
                self._limit_rate()
                self._events.append(event)
            case events.PathLost(why):
                self._set_rejoin()
                self.failure = Failure(ExitCode.INTERRUPTED, why)
                self._events.append(event)
            case events.Done():
                self.is_done = True
                self._events.append(event)
            case _:
                self._events.append(event)

    def _set_rejoin(self) -> None:
        """All attempts after the first meet in one place: one side may not know that the last one had a path."""
        assert self._keys is not None, "there is no path without keys"
        pairing, secret = self._config.next_pairing(0), self._config.secret
        if self._goes_on and isinstance(pairing, NamePair) and secret is not None:
            self.rejoin = Rejoin(pairing, secret)
        else:
            self.rejoin = Rejoin.of(self._config.role, self._keys)

    def _end(self, failure: Failure) -> None:
        if self.failure is None and not self.is_done:
            self.failure = failure
            self._events.append(events.Failed(failure))
            if self._connecting is not None and self._delivery is None and not self._connecting.is_parting:
                self._connecting.abandon()
