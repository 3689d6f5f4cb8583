"""What a run watches besides its sockets: the machine's addresses, and the port that its router opens."""

from __future__ import annotations

import selectors
from collections.abc import Callable, Sequence
from typing import Protocol

from p2p.core.address import Address
from p2p.core.peer.peer import Peer
from p2p.core.portmap.events import BehindAnotherNat, Lost, Mapped, NoMapper
from p2p.io.net.interfaces import InterfaceWatch, local_addresses, source_address
from p2p.io.net.port_mapper import PortMapper, find_router

FAREWELL = 0.05  # seconds in which a router that we may have left has to close our port; else its lease ends it


class OnChange(Protocol):
    def __call__(self, now: float, *, has_network: bool) -> None: ...


class Surroundings:
    """Tells the peer when one of the two changes. `note` is told in words, for --verbose; `on_change`: the addresses
    are others now, or there are none by which the server could be reached."""

    def __init__(
        self,
        peer: Peer,
        selector: selectors.BaseSelector,
        servers: Sequence[Address],
        *,
        udp_port: int,
        tcp_port: int,
        now: float,
        note: Callable[[str], None],
        on_change: OnChange | None = None,
    ) -> None:
        self._peer = peer
        self._servers = servers
        self._udp_port, self._tcp_port = udp_port, tcp_port
        self._note = note
        self._on_change = on_change
        self._seen: str | None = None
        self._watch = InterfaceWatch(lambda _, now: self._tell_addresses(now), now)
        self._selector = selector
        self._mapper = self._new_mapper()

    def start(self) -> None:
        if self._mapper is not None:
            self._mapper.start()

    def poll_timeout(self) -> float:
        timeouts = (self._watch.poll_timeout(), self._mapper.poll_timeout() if self._mapper is not None else None)
        return min(at for at in timeouts if at is not None)

    def handle_timeout(self, now: float) -> None:
        self._watch.handle_timeout(now)
        if self._mapper is not None:
            self._mapper.handle_timeout(now)

    def advance(self, now: float) -> None:
        """Passes on what has happened."""
        mapper = self._mapper
        if mapper is None:
            return
        if (seen := self._peer.seen_at) is not None and seen != self._seen:
            self._seen = seen
            mapper.set_reflexive(seen)
        while (event := mapper.poll_event()) is not None:
            match event:
                case Mapped(external, protocol):
                    self._note(f"the router lets others in at {external} ({protocol.value})")
                    self._peer.handle_port_mapped(external, now)
                case Lost(reason):
                    self._note(f"the router does not let others in any more: {reason}")
                    self._peer.handle_port_mapped(None, now)
                case BehindAnotherNat(protocol, external):
                    self._note(f"the router opens ports ({protocol.value}), but stands behind another NAT ({external})")
                    self._peer.handle_port_mapped(None, now)
                case NoMapper(reasons):
                    why = "; ".join(f"{protocol.value}: {reason}" for protocol, reason in reasons)
                    self._note(f"the router opens no port ({why})")

    def close(self) -> None:
        """Has the router close the port: some milliseconds, a second where it does not answer."""
        if self._mapper is not None:
            self._mapper.close()

    def _new_mapper(self) -> PortMapper | None:
        v4 = [server.host for server in self._servers if server.version == 4]
        router = find_router(*v4[:1])
        return PortMapper(self._selector, self._udp_port, router) if router is not None else None

    def _tell_addresses(self, now: float) -> None:
        if self._mapper is not None:
            self._mapper.close(FAREWELL)
        self._mapper, self._seen = self._new_mapper(), None
        self._peer.handle_port_mapped(None, now)
        self.start()
        hosts = local_addresses(self._servers)
        udp = [Address(host, self._udp_port) for host in hosts]
        self._peer.handle_addresses(udp, [Address(host, self._tcp_port) for host in hosts], now)
        if self._on_change is not None:
            self._on_change(now, has_network=any(map(source_address, self._servers)))
