"""From the first datagram to the last on one path: composes meeting, connecting and delivery."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from p2p.core.address import Address
from p2p.core.calling import spoken
from p2p.core.contacts.exchange import ContactExchange
from p2p.core.datagram import MAIN, TUNNEL, Buffer, SocketAction, Transmit
from p2p.core.discovery import messages as discovery
from p2p.core.errors import ExitCode, Failure
from p2p.core.introduction import Pairing
from p2p.core.peer import events, explain
from p2p.core.peer.channel import UdpLink
from p2p.core.peer.config import PeerConfig
from p2p.core.peer.course import Course
from p2p.core.peer.delivery import Machine
from p2p.core.peer.rejoin import Rejoin
from p2p.core.punch.checks import ANSWER, CHECK
from p2p.core.rendezvous import messages as rendezvous
from p2p.core.transfer.events import Wanted
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
        self._course = Course(config, machine, random_bytes, goes_on=goes_on, contact=contact)
        self._servers = config.servers
        self.goes_on = goes_on
        self._unsettled: float | None = None  # when the datagrams came whose records nobody has looked at yet

    @property
    def failure(self) -> Failure | None:
        return self._course.failure

    @property
    def is_done(self) -> bool:
        return self._course.is_done

    @property
    def rejoin(self) -> Rejoin | None:
        """How the two find each other again, when the path broke in mid-transfer, or before the end was confirmed."""
        return self._course.rejoin

    @property
    def udp(self) -> UdpLink | None:
        return self._course.udp

    @property
    def seen_at(self) -> str | None:
        """The IPv4 address under which the internet sees this machine, when that is known."""
        return self._course.meeting.seen_at

    @property
    def has_met(self) -> bool:
        """Whether there is another side that holds our keys, and will be told how this ends."""
        return self._course.connecting is not None

    @property
    def tries(self) -> int:
        """Wrong codes that were tried so far, before this path too."""
        return self._course.meeting.tries

    @property
    def heard_at(self) -> float | None:
        """When something came last on the path that was chosen."""
        return self._course.delivery.heard_at if self._course.delivery is not None else None

    @property
    def is_over(self) -> bool:
        """Whether the run has ended and nothing is left to say to anybody."""
        course = self._course
        has_ended = course.has_ended and not course.tcp.has_link
        return has_ended and course.meeting.is_over and (course.delivery is None or course.delivery.is_over)

    @property
    def way_back(self) -> Rejoin | None:
        """How the two would find each other again, as soon as that is known."""
        return self._course.way_back

    @property
    def friend(self) -> bytes | None:
        """The tag at the server of the other side's run, once keys are agreed on."""
        return self._course.meeting.peer_tag

    @property
    def pairing(self) -> Pairing:
        """Under which the two meet."""
        return self._course.meeting.pairing

    @property
    def other_run(self) -> bytes | None:
        """The tag of who has come to sit where `friend` sat, as long as we keep our seat."""
        return self._course.meeting.other_run

    @property
    def holds_seat(self) -> bool:
        """Whether our seat at the server is still in use, as for a relay."""
        return self._course.meeting.holds_seat

    @property
    def server(self) -> Address | None:
        """The address at which the server is reached by UDP, if it is."""
        return None if self._course.meeting.uses_tunnel else self._course.meeting.server

    # commands

    def start(self, now: float) -> None:
        self._course.meeting.start(now)
        self._advance(now)

    def refuse(self, failure: Failure, told: str, now: float) -> None:
        """Says no to the offer; `told` is the reason that the sender reads."""
        told = spoken(told)  # what our own person would call it does not cross
        if self._course.delivery is None:  # the path was lost while the person was asked; the next one is looked for
            self._course.machine.stop()
            self.fail(failure, told, now)
            return
        self._course.delivery.refuse(failure.code, told, now)
        self._course.end(failure)
        self._advance(now)

    def fail(self, failure: Failure, told: str, now: float) -> None:
        """Ends the run from our side: Ctrl-C, a full disk, a source that changed. The other side reads `told`."""
        told = spoken(told)
        if self.failure is not None or self.is_done:
            return
        if self._course.delivery is not None:
            self._course.delivery.fail(failure, told, now)
        else:
            self._course.meeting.bye(failure.code, told, now)
            if self._course.connecting is not None:
                self._course.connecting.part(failure.code, told, now)
            self._course.end(failure)
        self._advance(now)

    def lose_path(self, why: str, now: float) -> None:
        """Gives up the path that was chosen; the transfer may go on over another one."""
        if self._course.delivery is not None:
            self._course.delivery.lose(why, now)
            self._advance(now)

    def use(self, machine: Machine) -> None:
        """It is that transfer which is to cross. To be called before there is a path."""
        self._course.machine = machine

    def hand_over_seat(self) -> None:
        """Another peer of ours takes our seat at the server over."""
        self._course.meeting.hand_over()

    def give_up(self, seconds: float, now: float) -> None:
        """Nobody came in so many seconds."""
        failure = Failure(ExitCode.NO_PEER, self._course.meeting.why_nobody_came(seconds, now))
        self.fail(failure, "it gave up waiting", now)

    # input

    def handle_datagram(
        self, data: Buffer, segment_size: int, source: Address, now: float, local: int = MAIN
    ) -> None:
        """One read of the UDP socket `local`: a datagram, or a burst of datagrams of `segment_size` bytes (0: one)."""
        if not data:
            return
        first = data[0]
        is_mixed = self._course.udp is None or first not in PATH_FIRST_BYTES
        if 0 < segment_size < len(data) and is_mixed:  # UDP_GRO looks at addresses and lengths only
            for start in range(0, len(data), segment_size):
                self.handle_datagram(data[start : start + segment_size], 0, source, now, local)
        elif first in INTRODUCTION_FIRST_BYTES:
            self._course.meeting.handle_datagram(bytes(data), source, now, local)
        elif first in STUN_FIRST_BYTES:
            self._course.meeting.handle_stun(bytes(data), source, local, now)
        elif self._course.udp is not None and first not in (CHECK, ANSWER):
            self._course.udp.handle_datagram(data, segment_size, source, now)
            self._unsettled = now  # the hot path: what it means is looked at once for all reads of a turn
            return
        elif self._course.connecting is not None:
            self._course.connecting.handle_datagram(data, segment_size, source, now, local)
        self._advance(now)

    def handle_message_too_big(self, transmit: Transmit, now: float) -> None:
        """The socket refused `transmit` because it is longer than the interface's MTU."""
        if self._course.udp is not None:
            self._course.udp.connection.handle_message_too_big(transmit, now)

    def handle_send_refused(self, transmit: Transmit, why: str, now: float) -> None:
        """Our own system does not let `transmit` out. While there are other addresses, that one is merely no path."""
        if self._course.udp is not None and transmit.destination == self._course.udp.connection.remote:
            self.lose_path(explain.send_refused(transmit.destination, why), now)

    def handle_addresses(self, udp: Sequence[Address], tcp: Sequence[Address], now: float) -> None:
        """The machine's own addresses are others now."""
        self._course.meeting.handle_addresses(udp, tcp, now)
        self._advance(now)

    def handle_port_mapped(self, address: Address | None, now: float) -> None:
        """The router lets anybody in to our UDP port at `address`; None: not any more."""
        self._course.meeting.handle_port_mapped(address, now)
        self._advance(now)

    def handle_connected(self, connection: int, now: float) -> None:
        if connection < 0:
            if self._course.tcp.tunnel.handle_connected(connection):
                self._course.meeting.handle_tunnel_opened(now)
        elif self._course.connecting is not None:
            self._course.connecting.handle_connected(connection, now)
        self._advance(now)

    def handle_accepted(self, connection: int, source: Address, now: float) -> None:
        if self._course.connecting is None or self._course.delivery is not None:
            self._course.tcp.refuse(connection)
        else:
            self._course.connecting.handle_accepted(connection, source, now)
        self._advance(now)

    def handle_tcp_data(self, connection: int, data: Buffer, now: float) -> None:
        if connection < 0:
            for datagram in self._course.tcp.tunnel.handle_data(connection, data):
                self.handle_datagram(datagram, 0, self._course.meeting.server or self._servers[0], now, TUNNEL)
        elif not self._course.tcp.handle_data(connection, data, now) and self._course.connecting is not None:
            self._course.connecting.handle_tcp_data(connection, data, now)
        self._advance(now)

    def handle_tcp_closed(self, connection: int, now: float, *, refused: bool = True) -> None:
        """`refused`: whether the other machine said so, and not the network or our own system."""
        if connection < 0:
            if self._course.tcp.tunnel.handle_closed(connection):
                self._course.meeting.handle_tunnel_closed(now)
            if refused and self._course.tcp.tunnel.leads_to(connection) in self._servers:
                self._course.meeting.handle_server_refused(now)  # no word of the further ports, which few servers have
        elif not self._course.tcp.handle_closed(connection) and self._course.connecting is not None:
            self._course.connecting.handle_closed(connection, now)
        self._advance(now)

    def handle_timeout(self, now: float) -> None:
        self._course.meeting.handle_timeout(now)
        if self._course.connecting is not None:
            self._course.connecting.handle_timeout(now)
        if self._course.delivery is not None:
            self._course.delivery.handle_timeout(now)
        self._advance(now)

    def send(self, records: Sequence[Buffer], now: float) -> None:
        """Records that the transfer made of what was read."""
        if self._course.delivery is not None:
            self._course.delivery.send(records, now)

    def advance(self, now: float) -> None:
        """The transfer, or the exchange of contact keys, was told something."""
        self._advance(now)

    # output

    def poll_transmit(self, now: float) -> Transmit | None:
        """What is to leave by the UDP sockets; `poll_socket_action` is to be asked before."""
        self._settle()
        while (transmit := self._next_transmit(now)) is not None and transmit.local == TUNNEL:
            self._course.tcp.tunnel.send(transmit)
        return transmit

    def _next_transmit(self, now: float) -> Transmit | None:
        if self._course.udp is not None and (transmit := self._course.udp.poll_transmit(now)) is not None:
            return transmit
        if (transmit := self._course.meeting.poll_transmit()) is not None:
            return transmit
        return self._course.connecting.poll_transmit(now) if self._course.connecting is not None else None

    def poll_socket_action(self) -> SocketAction | None:
        """UDP sockets to open and to close."""
        if self._course.socket_actions:
            return self._course.socket_actions.popleft()
        return self._course.connecting.poll_socket_action() if self._course.connecting is not None else None

    def poll_tcp_action(self) -> Action | None:
        if (action := self._course.tcp.poll_action()) is not None:
            return action
        return self._course.connecting.poll_tcp_action() if self._course.connecting is not None else None

    @property
    def paused_tcp(self) -> int | None:
        """The TCP connection of which nothing is to be read for now."""
        return self._course.tcp.paused

    def poll_tcp_output(self, is_full: Callable[[int], bool]) -> tuple[int, list[Buffer]] | None:
        """Buffers for one TCP connection. `is_full` tells whether earlier ones of it still wait for the socket."""
        if (output := self._course.tcp.poll_output(is_full)) is not None:
            return output
        if self._course.tcp.has_link or self._course.connecting is None:
            return None
        return self._course.connecting.poll_tcp_output()

    def poll_wanted(self, now: float) -> Wanted | None:
        """What the transfer wants to be read, as far as the path takes it."""
        self._settle()
        return self._course.delivery.poll_wanted(now) if self._course.delivery is not None else None

    def poll_event(self) -> events.PeerEvent | None:
        self._settle()
        return self._course.events.popleft() if self._course.events else None

    def poll_timeout(self) -> float | None:
        self._settle()
        parts = (self._course.meeting, self._course.connecting, self._course.delivery)
        return min((t for part in parts if part is not None and (t := part.poll_timeout()) is not None), default=None)

    # inside

    def _settle(self) -> None:
        if self._unsettled is not None:
            self._advance(self._unsettled)

    def _advance(self, now: float) -> None:
        self._unsettled = None
        self._course.advance(now)
