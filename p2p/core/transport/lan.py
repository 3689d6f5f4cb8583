"""The race of TCP connections on private addresses: the first that proves itself on both ends is used."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from p2p.core.address import Address
from p2p.core.datagram import Buffer
from p2p.core.errors import RemoteError
from p2p.core.transport.tcp import TcpChannel, TcpKeys

HANDSHAKE_TIMEOUT = 3.0  # seconds; a stranger's time to fail in, and a private address's time to answer
MAX_STRANGERS = 16  # unproved incoming connections held at once; the oldest gives way, so nobody can block the door
RETRY_FIRST = 0.05  # seconds, doubling: who is not as far as we are closes what comes too early
OPENING_TIME = 10.0  # seconds in which two NATs may be opened from both sides; systems repeat a SYN after 1 and 3 s
RETRY_MAX = 0.5  # seconds
FIRST_REFLEXIVE = 2 * 16  # the number of the first connection that is to be opened from both sides
MAX_ATTEMPTS = 16  # outgoing connections, one for each address that the peer described


@dataclass(frozen=True, slots=True)
class Connect:
    """The caller is to open a connection and report it under this number.

    `from_listener`: from the port that we listen on, which is the one that the other side aims at.
    """

    connection: int
    address: Address
    from_listener: bool = False


@dataclass(frozen=True, slots=True)
class Close:
    """The caller is to close this connection, after what is still queued for it if `flush`."""

    connection: int
    flush: bool = False


Action = Connect | Close


class LanRace:
    """Connections that have not been chosen yet, by number: even ones are ours, odd ones came in."""

    def __init__(self, keys: TcpKeys, random_bytes: Callable[[int], bytes], *, yields: bool = False) -> None:
        """`yields` on one side only: it is the listener where both open one connection at the same time."""
        self._keys = keys
        self._yields = yields
        self._random_bytes = random_bytes
        self._channels: dict[int, TcpChannel | None] = {}  # None: not connected yet
        self._deadlines: dict[int, float] = {}
        self._retries: dict[int, float] = {}  # when to connect again
        self._pauses: dict[int, float] = {}  # how long the last wait before that was
        self._addresses: dict[int, Address] = {}
        self._actions: deque[Action] = deque()
        self._authenticated: deque[int] = deque()
        self._word: Buffer | None = None  # what is said to whoever proves itself, after the end
        self._last_words: deque[tuple[int, list[Buffer]]] = deque()  # and the connection is closed behind them
        self._next_reflexive = FIRST_REFLEXIVE

    def start(self, addresses: Iterable[Address], now: float) -> None:
        for index, address in enumerate(list(addresses)[:MAX_ATTEMPTS]):
            connection = 2 * index
            self._channels[connection] = None
            self._addresses[connection] = address
            self._deadlines[connection] = now + HANDSHAKE_TIMEOUT
            self._actions.append(Connect(connection, address))

    def open_from_both_sides(self, addresses: Iterable[Address], now: float) -> None:
        """These are our peer's addresses before its NAT; it opens to ours at the same time (RFC 5382 section 4.3).

        A host without NAT has told the same address as its own. But that we reach it there from some other port opens
        no firewall of ours for what it sends to the port on which we listen.
        """
        known = {at for number, at in self._addresses.items() if number % 2 or number >= FIRST_REFLEXIVE}
        for address in [address for address in addresses if address not in known][:MAX_ATTEMPTS]:
            connection = self._next_reflexive
            self._next_reflexive += 2
            self._channels[connection] = None
            self._addresses[connection] = address
            self._deadlines[connection] = now + OPENING_TIME
            self._actions.append(Connect(connection, address, from_listener=True))

    def handle_connected(self, connection: int) -> None:
        if self._channels.get(connection, self) is None:
            self._channels[connection] = TcpChannel(
                self._keys, connector=True, random_bytes=self._random_bytes, yields=self._yields
            )

    def handle_accepted(self, connection: int, source: Address, now: float) -> None:
        strangers = [c for c, channel in self._channels.items() if c % 2 and channel and not channel.is_open]
        if len(strangers) >= MAX_STRANGERS:
            self._drop(strangers[0])
        self._channels[connection] = TcpChannel(self._keys, connector=False, random_bytes=self._random_bytes)
        self._addresses[connection] = source
        self._deadlines[connection] = now + HANDSHAKE_TIMEOUT

    def handle_data(self, connection: int, data: Buffer) -> None:
        channel = self._channels.get(connection)
        if channel is None:
            return
        was_open = channel.is_open
        try:
            channel.handle_data(data)
        except RemoteError:
            self._drop(connection)
            return
        if channel.is_open and not was_open:
            self._deadlines.pop(connection, None)
            if self._word is None:
                self._authenticated.append(connection)
            else:
                self._say_last(connection, channel, self._word)

    def handle_closed(self, connection: int, now: float) -> None:
        """The other side may have had no keys yet, or no listener: ours are tried again until their time is up."""
        pause = self._pauses.get(connection, RETRY_FIRST)
        if connection % 2 or now + pause >= self._deadlines.get(connection, now):
            self._forget(connection)
            return
        self._channels[connection] = None
        self._retries[connection] = now + pause
        self._pauses[connection] = min(2 * pause, RETRY_MAX) if connection >= FIRST_REFLEXIVE else 2 * pause

    def handle_timeout(self, now: float) -> None:
        for connection in [c for c, at in self._retries.items() if at <= now]:
            del self._retries[connection]
            from_listener = connection >= FIRST_REFLEXIVE
            self._actions.append(Connect(connection, self._addresses[connection], from_listener))
        for connection in [c for c, deadline in self._deadlines.items() if deadline <= now]:
            self._drop(connection)

    def poll_timeout(self) -> float | None:
        return min((*self._deadlines.values(), *self._retries.values()), default=None)

    def part(self, word: Buffer) -> None:
        """Ends all of it. `word` is the last record of each connection whose other end has proved itself, or does so
        as long as the caller listens: it may have been picked over there."""
        self._word = word
        for connection, channel in list(self._channels.items()):
            if channel is None:
                self._drop(connection)
            elif channel.is_open:
                self._say_last(connection, channel, word)

    def poll_action(self) -> Action | None:
        return self._actions.popleft() if self._actions else None

    def poll_authenticated(self) -> int | None:
        """The next connection whose two ends have proved themselves."""
        return self._authenticated.popleft() if self._authenticated else None

    def poll_output(self) -> tuple[int, list[Buffer]] | None:
        if self._last_words:
            self._actions.append(Close(self._last_words[0][0], flush=True))
            return self._last_words.popleft()
        for connection, channel in self._channels.items():
            if channel is not None and (buffers := channel.poll_output()):
                return connection, buffers
        return None

    def poll_first_record(self) -> int | None:
        """A connection on which the sender has begun to speak: that is the one it picked."""
        for connection, channel in self._channels.items():
            if channel is not None and channel.has_record:
                return connection
        return None

    def take(self, connection: int) -> tuple[TcpChannel, Address]:
        """Hands one authenticated channel over and drops all the others."""
        channel, address = self._channels[connection], self._addresses[connection]
        assert channel is not None
        self._forget(connection)
        self.drop_all()
        return channel, address

    def drop_all(self) -> None:
        for connection in list(self._channels):
            self._drop(connection)

    @property
    def is_trying(self) -> bool:
        """Whether a connection of ours may still succeed."""
        return any(connection % 2 == 0 for connection in self._channels)

    def _say_last(self, connection: int, channel: TcpChannel, word: Buffer) -> None:
        channel.send(word, urgent=True)
        self._last_words.append((connection, channel.poll_output()))
        self._forget(connection)

    def _drop(self, connection: int) -> None:
        self._forget(connection)
        self._actions.append(Close(connection))

    def _forget(self, connection: int) -> None:
        self._channels.pop(connection, None)
        self._deadlines.pop(connection, None)
        self._retries.pop(connection, None)
        self._pauses.pop(connection, None)
        self._addresses.pop(connection, None)
        if connection in self._authenticated:
            self._authenticated.remove(connection)
