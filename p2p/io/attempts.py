"""One attempt at a path: fresh sockets, a peer on them and its loop, until the path is gone or all is said."""

from __future__ import annotations

import contextlib
import math
import secrets
import selectors
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from p2p.core.address import Address
from p2p.core.contacts.exchange import ContactExchange
from p2p.core.errors import Failure, InternalError
from p2p.core.introduction import Pairing
from p2p.core.peer import events, explain
from p2p.core.peer.config import PeerConfig
from p2p.core.peer.delivery import Machine
from p2p.core.peer.peer import Peer
from p2p.core.peer.rejoin import Rejoin
from p2p.core.role import Role
from p2p.core.transport.idle import IDLE_TIMEOUT, KEEPALIVE_INTERVAL
from p2p.io.ends import End
from p2p.io.interrupts import Stop
from p2p.io.loop import Beside, PeerLoop
from p2p.io.net.interfaces import local_addresses
from p2p.io.net.multicast import MulticastGroups
from p2p.io.net.sockets import UdpSockets
from p2p.io.net.surroundings import Surroundings
from p2p.io.net.tcp import TcpHub
from p2p.io.net.udp import UdpSocket

LOOPBACK = Address("127.0.0.1", 0)
# Seconds of silence on a path whose network we left: it is dead. A keep-alive has gone out by then, and the other side
# has had time to follow us (docs/transport.md, "Migration").
AFTER_A_CHANGE = KEEPALIVE_INTERVAL + 2.0


@dataclass(frozen=True, slots=True)
class Settings:
    """What is the same for all attempts of a run."""

    role: Role
    servers: Sequence[Address] = ()
    stun_servers: Sequence[Address] = ()
    takes_relay: bool = True
    idle_timeout: float = IDLE_TIMEOUT
    rate_limit: float = math.inf


@dataclass(frozen=True, slots=True)
class Wish:
    """Whom to meet. `tries`: wrong codes so far. `patience`: seconds to wait for the other side, None: for ever;
    `impatience` is how that ends, when there is a better reason than that nobody came.

    `rejoin`: the transfer began on another path, and these are the two who had that. `is_contact`: the secret is no
    code, but that of two contacts. `seat`, `former`: see PeerConfig.
    """

    next_pairing: Callable[[int], Pairing]
    secret: bytes | None
    tries: int = 0
    patience: float | None = None
    impatience: Failure | None = None
    is_contact: bool = False
    rejoin: Rejoin | None = None
    seat: bytes | None = None
    former: bytes | None = None

    @classmethod
    def again(cls, rejoin: Rejoin, patience: float) -> Wish:
        """To meet who was lost."""
        return cls(lambda _: rejoin.pairing, rejoin.secret, patience=patience, rejoin=rejoin)


class Attempt:
    """The peer, its sockets and its loop."""

    def __init__(
        self,
        settings: Settings,
        wish: Wish,
        machine: Machine,
        end: End,
        *,
        selector: selectors.BaseSelector,
        interrupts: Stop,
        contact: ContactExchange,
        on_event: Callable[[Peer, events.PeerEvent, float], None],
        on_tick: Callable[[Peer, float], None],
        note: Callable[[str], None],
        ticks_at_once: bool = False,
    ) -> None:
        """`note` is told in words what --verbose shows; `ticks_at_once`: see PeerLoop. Raises OSError."""
        servers, goes_on = settings.servers, wish.rejoin is not None
        with contextlib.ExitStack() as stack:
            udp = stack.enter_context(contextlib.closing(UdpSocket.bind_all()))
            tcp = TcpHub(selector, note=note)
            stack.callback(tcp.close_all)
            groups: MulticastGroups | None = None
            if not servers:
                groups = stack.enter_context(contextlib.closing(MulticastGroups(selector, time.monotonic())))
                if not groups.is_on_a_network:
                    note("this machine is on no network")
            sockets = UdpSockets(selector, udp)
            hosts = local_addresses(servers) or local_addresses([LOOPBACK])
            config = PeerConfig(
                role=settings.role,
                servers=servers,
                next_pairing=wish.next_pairing,
                secret=wish.secret,
                tries=wish.tries,
                udp_candidates=[Address(host, udp.address.port) for host in hosts],
                tcp_candidates=[Address(host, tcp.port) for host in hosts],
                udp_port=udp.address.port,
                scratch=sockets.open_scratch() if servers else {},
                stun_servers=settings.stun_servers,
                takes_relay=settings.takes_relay,
                idle_timeout=settings.idle_timeout,
                rate_limit=settings.rate_limit,
                is_contact=wish.is_contact,
                seat=wish.seat,
                former=wish.former,
                rejoin=wish.rejoin,
            )
            self.peer = peer = Peer(config, machine, secrets.token_bytes, goes_on=goes_on, contact=contact)
            changes = Changes(peer)
            surroundings: Surroundings | None = None
            if servers:
                surroundings = Surroundings(
                    peer,
                    selector,
                    servers,
                    udp_port=udp.address.port,
                    tcp_port=tcp.port,
                    now=time.monotonic(),
                    note=note,
                    on_change=changes.note,
                )
                stack.callback(surroundings.close)

            def tick(now: float) -> None:
                changes.check(now)
                on_tick(peer, now)

            self.loop = PeerLoop(
                peer,
                sockets=sockets,
                surroundings=surroundings,
                tcp=tcp,
                end=end,
                interrupts=interrupts,
                selector=selector,
                on_event=lambda event, now: on_event(peer, event, now),
                on_tick=tick,
                patience=wish.patience,
                impatience=wish.impatience,
                groups=groups,
                ticks_at_once=goes_on or ticks_at_once,
            )
            self._stack = stack.pop_all()

    def run(self, beside: Beside) -> Peer:
        """Returns the peer, which is over then. Raises OSError, and InternalError for all that nobody expects."""
        self.loop.beside = beside
        with self._stack:
            try:
                self.loop.run()
            except OSError:
                raise
            except Exception as error:
                raise InternalError(explain.type_and_text(error)) from error
        return self.peer

    def close(self) -> None:
        """Of one that was started, and is not run."""
        self.loop.close()
        self._stack.close()


class LosesPath(Protocol):
    """What `Changes` needs of a peer."""

    @property
    def heard_at(self) -> float | None: ...

    def lose_path(self, why: str, now: float) -> None: ...


class Changes:
    """Sees that a path is dead before the idle time-out does: our own addresses changed, and nothing came since."""

    def __init__(self, peer: LosesPath) -> None:
        self._peer = peer
        self._at: float | None = None
        self._has_network = True

    def note(self, now: float, *, has_network: bool) -> None:
        self._has_network = has_network
        if self._peer.heard_at is not None:
            self._at = now

    def check(self, now: float) -> None:
        if self._at is not None and now >= self._at + AFTER_A_CHANGE:
            heard_at = self._peer.heard_at
            if heard_at is not None and heard_at < self._at:
                self._peer.lose_path(explain.addresses_changed(has_network=self._has_network), now)
            self._at = None
