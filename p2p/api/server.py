"""A rendezvous server as part of a program."""

from __future__ import annotations

import logging
import socket
import threading
import time
from collections.abc import Sequence
from types import TracebackType
from typing import Self

from p2p.core.address import Address
from p2p.core.rendezvous.relay import RelayLimits
from p2p.io.server.bind import everywhere
from p2p.io.server.log import EventLog
from p2p.io.server.loop import ServerLoop

DEFAULT_PORT = 8080
WILDCARDS = ("0.0.0.0", "::")

logging.getLogger("p2p").addHandler(logging.NullHandler())  # it is for the program to show it, or not


class Server:
    """Introduces two to each other, and forwards, sealed, what finds no direct path. It never sees a file.

    It listens from the beginning; it serves in a thread of its own from `start` to `stop`, for which `with` is the
    short form, or in this one while `run` lasts. What it does goes to the logger "p2p.server".
    """

    def __init__(
        self,
        host: str | None = None,
        port: int = DEFAULT_PORT,
        *,
        alternate_port: int | None = None,
        alt_host: str | None = None,
        tcp_ports: Sequence[int] = (),
        relay: bool = True,
        full_addresses: bool = False,
    ) -> None:
        """`host`: an address of this machine; None: all. `port`: of UDP and TCP; 0: any that is free.

        `alternate_port`: the second UDP port, None: the one after, or any. docs/server.md has `alt_host`, `tcp_ports`
        and `relay`. `full_addresses`: log those of the peers, and not their networks only. Raises OSError: the ports
        cannot be had.
        """
        self._loop = ServerLoop(
            everywhere() if host is None else host,
            port,
            alternate_port,
            EventLog(full_addresses),
            time.monotonic,
            alt_host=alt_host,
            tcp_ports=tcp_ports,
            relay=RelayLimits() if relay else None,
        )
        self._reader, self._writer = socket.socketpair()
        self._lock = threading.Lock()
        self._is_stopped = False
        self._has_run = False
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None

    @property
    def ports(self) -> tuple[int, int]:
        """The first one, which peers are told, and the second UDP port."""
        return self._loop.ports

    @property
    def address(self) -> str:
        """What peers on this machine say as `server`; from elsewhere, one of this machine's addresses and the port."""
        host = self._loop.hosts[0]
        return str(Address("127.0.0.1" if host in WILDCARDS else host, self.ports[0]))

    def start(self) -> None:
        """Serves in a thread. A server is started once."""
        self._begin()
        self._thread = threading.Thread(target=self._serve, name="p2p-server", daemon=True)
        self._thread.start()

    def run(self) -> None:
        """Serves in this thread, until another one calls `stop`, or KeyboardInterrupt ends it."""
        self._begin()
        try:
            self._loop.run(self._reader)
        finally:
            self._close()

    def stop(self) -> None:
        """Ends it, and frees the ports; waits for its thread. Raises what ended the server before, if something did."""
        with self._lock:
            if not self._is_stopped:
                self._is_stopped = True
                if self._has_run:
                    self._writer.send(b"\0")
                else:
                    self._loop.close()
                    self._close_pair()
        if self._thread is not None:
            self._thread.join()
            error, self._error = self._error, None
            if error is not None:
                raise error

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    def _begin(self) -> None:
        with self._lock:
            if self._has_run or self._is_stopped:
                raise RuntimeError("a server runs once: make another one")
            self._has_run = True

    def _serve(self) -> None:
        try:
            self._loop.run(self._reader)
        except BaseException as error:  # whatever it is belongs to who stops it
            self._error = error
        finally:
            self._close()

    def _close(self) -> None:
        with self._lock:
            self._is_stopped = True
            self._close_pair()

    def _close_pair(self) -> None:
        self._reader.close()
        self._writer.close()
