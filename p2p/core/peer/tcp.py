"""The TCP connections that a run keeps: the tunnel to the server, and the link to the other side."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence

from p2p.core.address import Address
from p2p.core.datagram import Buffer
from p2p.core.peer.channel import TcpLink
from p2p.core.peer.tunnel import Tunnel
from p2p.core.transport.lan import Action, Close

HTTPS = 443  # where the server may listen by TCP as well: what lets anything out lets that out


class TcpConnections:
    """Negative numbers are the tunnel's; of the others one is the link, after `use`. The race has those before it."""

    def __init__(self, servers: Sequence[Address]) -> None:
        self.tunnel = Tunnel(_ports(servers))
        self._link: tuple[int, TcpLink] | None = None  # until it is told to close
        self._actions: deque[Action] = deque()

    @property
    def has_link(self) -> bool:
        """Whether there is one that has not been told to close."""
        return self._link is not None

    @property
    def paused(self) -> int | None:
        """The connection of which nothing is to be read for now."""
        return self._link[0] if self._link is not None and self._link[1].is_full else None

    def use(self, link: TcpLink, number: int) -> None:
        self._link = number, link

    def refuse(self, number: int) -> None:
        """A connection that comes when none is looked for."""
        self._actions.append(Close(number))

    def handle_data(self, number: int, data: Buffer, now: float) -> bool:
        """Whether it was the link's."""
        if self._link is None or self._link[0] != number:
            return False
        self._link[1].handle_data(data, now)
        return True

    def handle_closed(self, number: int) -> bool:
        """Whether it was the link."""
        if self._link is None or self._link[0] != number:
            return False
        self._link[1].handle_closed()
        return True

    def poll_action(self) -> Action | None:
        if (action := self.tunnel.poll_action()) is not None:
            return action
        if self._link is not None and self._link[1].wants_close:
            self._actions.append(Close(self._link[0], flush=True))
            self._link = None
        return self._actions.popleft() if self._actions else None

    def poll_output(self, is_full: Callable[[int], bool]) -> tuple[int, list[Buffer]] | None:
        """`is_full` tells whether earlier buffers of that connection still wait for the socket."""
        number = self.tunnel.number
        if number is not None and not is_full(number) and (output := self.tunnel.poll_output()) is not None:
            return output
        if self._link is None:
            return None
        number, link = self._link
        may_speak = link.wants_close or not is_full(number)
        return (number, buffers) if may_speak and (buffers := link.poll_output()) else None


def _ports(servers: Sequence[Address]) -> list[Address]:
    return list(dict.fromkeys([*servers, *(Address(server.host, HTTPS) for server in servers)]))
