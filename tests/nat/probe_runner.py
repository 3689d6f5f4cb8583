"""Runs a NatProbe, or another machine of p2p.core.nat, on real sockets."""

from __future__ import annotations

import contextlib
import random
import selectors
import socket
import time
from collections.abc import Callable
from typing import Protocol, TypeVar

from p2p.core.address import Address
from p2p.core.datagram import Transmit

GUARD = 20.0  # seconds after which a machine that says nothing fails the test

EventT_co = TypeVar("EventT_co", covariant=True)


class Machine(Protocol[EventT_co]):
    def handle_datagram(self, data: bytes, source: Address, local: int, now: float) -> None: ...
    def handle_timeout(self, now: float) -> None: ...
    def poll_transmit(self) -> Transmit | None: ...
    def poll_event(self) -> EventT_co | None: ...
    def poll_timeout(self) -> float | None: ...


class Sockets:
    """UDP sockets by number, made by `make` and bound to `host`; closed by whoever made them."""

    def __init__(self, make: Callable[[], socket.socket], host: str) -> None:
        self._make = make
        self._host = host
        self._sockets: dict[int, socket.socket] = {}
        self._selector = selectors.DefaultSelector()
        self.random_bytes = random.SystemRandom().randbytes
        self.clock = time.monotonic
        self.asked: set[tuple[int, Address]] = set()  # from which socket where, however often

    def open(self, count: int) -> dict[int, int]:
        """Numbers of so many more sockets, and their ports."""
        fresh = {}
        for _ in range(count):
            made, number = self._make(), len(self._sockets)
            made.bind((self._host, 0))
            made.setblocking(False)
            self._sockets[number] = made
            self._selector.register(made, selectors.EVENT_READ, number)
            fresh[number] = made.getsockname()[1]
        return fresh

    def until(self, machine: Machine[EventT_co], is_last: Callable[[EventT_co], bool]) -> list[EventT_co]:
        """Runs the machine until such an event; all events up to it."""
        events: list[EventT_co] = []
        guard = time.monotonic() + GUARD
        while not events or not is_last(events[-1]):
            while (transmit := machine.poll_transmit()) is not None:
                self.asked.add((transmit.local, transmit.destination))
                with contextlib.suppress(ConnectionRefusedError):  # a router's answer to something sent before
                    self._sockets[transmit.local].sendto(b"".join(transmit.buffers), transmit.destination)
            if (event := machine.poll_event()) is not None:
                events.append(event)
                continue
            assert time.monotonic() < guard, f"nothing more after {events}"
            deadline = machine.poll_timeout()
            wait = GUARD if deadline is None else max(0.0, deadline - time.monotonic())
            for key, _ in self._selector.select(wait):
                self._receive(machine, key.data)
            machine.handle_timeout(time.monotonic())
        return events

    def _receive(self, machine: Machine[EventT_co], number: int) -> None:
        try:
            data, source = self._sockets[number].recvfrom(2048)
        except ConnectionRefusedError:
            return
        machine.handle_datagram(data, Address(source[0], source[1]), number, time.monotonic())
