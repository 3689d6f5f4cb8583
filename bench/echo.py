"""The round-trip time of a link while others use it: small datagrams of ours, sent back by the server."""

from __future__ import annotations

import socket
import statistics
import struct
import threading
import time
from contextlib import AbstractContextManager, suppress
from typing import Self

from netlab.lab import Lab

INTERVAL = 0.025  # seconds
STAMP = struct.Struct(">d")
SETTLED = 0.4  # of a transfer; before that it still looks for the rate


class Echo(AbstractContextManager["Echo"]):
    """Measures from alice to the server and back for the length of the ``with`` block."""

    def __init__(self, lab: Lab) -> None:
        server = lab.host("server")
        self._far, self._near = server.socket(), lab.host("alice").socket()
        self._far.bind((server.address, 0))
        self._near.connect(self._far.getsockname())
        self._over = threading.Event()
        self._found: list[tuple[float, float]] = []  # sent at (monotonic seconds), came back after
        self._threads = [threading.Thread(target=work, daemon=True) for work in (self._send, self._answer, self._take)]

    def __enter__(self) -> Self:
        for each in (self._far, self._near):
            each.settimeout(0.2)
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()
        self._far.close()
        self._near.close()

    def settled(self, began: float, ended: float) -> float | None:
        """The median over the later part of what went on from `began` to `ended`, in seconds."""
        start = began + SETTLED * (ended - began)
        found = [after for sent, after in list(self._found) if start <= sent < ended]
        return statistics.median(found) if found else None

    def _send(self) -> None:
        while not self._over.wait(INTERVAL):
            with suppress(OSError):
                self._near.send(STAMP.pack(time.monotonic()))

    def _answer(self) -> None:
        while not self._over.is_set():
            with suppress(socket.timeout, OSError):
                data, source = self._far.recvfrom(64)
                self._far.sendto(data, source)

    def _take(self) -> None:
        while not self._over.is_set():
            with suppress(socket.timeout, OSError):
                (sent,) = STAMP.unpack(self._near.recv(64))
                self._found.append((sent, time.monotonic() - sent))
