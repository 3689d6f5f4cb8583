"""A tiny peer that meets its friend at the server and talks to it through the relay, by UDP or in a TCP connection.

python relay_client.py HOST PORT udp|tcp ME FRIEND sender|receiver

Prints `open` once the relay is open, and `heard N` when N datagrams of the friend have come, for N = 1 and WANTED.
Goes on until it is killed, for the friend may not have heard enough.
"""

from __future__ import annotations

import secrets
import selectors
import socket
import sys
import time

from p2p.core.address import Address
from p2p.core.datagram import MAIN, TUNNEL
from p2p.core.introduction import NamePair
from p2p.core.rendezvous import events
from p2p.core.rendezvous.client import RendezvousClient
from p2p.core.rendezvous.frames import FrameReader, frame
from p2p.core.rendezvous.messages import RelayState
from p2p.core.role import Role

WANTED = 20
PAUSE = 0.02  # seconds between two datagrams to the friend
SIZE = 1200
PATIENCE = 30.0


class Way:
    """To the server: one datagram in, one datagram out."""

    def __init__(self, server: Address, kind: str) -> None:
        self.local = TUNNEL if kind == "tcp" else MAIN
        self._server = server
        self._reader = FrameReader()
        family = socket.AF_INET6 if ":" in server.host else socket.AF_INET
        if self.local == TUNNEL:
            self.socket = socket.create_connection(server, PATIENCE)
        else:
            self.socket = socket.socket(family, socket.SOCK_DGRAM)
            self.socket.bind(("::" if family == socket.AF_INET6 else "0.0.0.0", 0))

    def send(self, datagram: bytes, destination: Address) -> None:
        if self.local == TUNNEL:
            self.socket.sendall(frame(datagram))
        else:
            self.socket.sendto(datagram, destination)

    def receive(self) -> list[bytes]:
        data = self.socket.recv(65_536)
        return self._reader.feed(data) if self.local == TUNNEL else [data]


def main() -> None:
    host, port, kind, me, friend, role = sys.argv[1:]
    server = Address(host, int(port))
    way = Way(server, kind)
    machine = RendezvousClient(server, NamePair(me, friend), Role[role.upper()], secrets.token_bytes)
    machine.use(way.local, time.monotonic())
    machine.start(time.monotonic())
    machine.ask_relay(time.monotonic())
    heard, is_open, next_datagram = 0, False, 0.0
    with selectors.DefaultSelector() as selector:
        selector.register(way.socket, selectors.EVENT_READ)
        while True:
            now = time.monotonic()
            machine.handle_timeout(now)
            while (event := machine.poll_event()) is not None:
                if isinstance(event, events.Relayed) and event.state is RelayState.OPEN and not is_open:
                    is_open = True
                    print("open", flush=True)
            while (transmit := machine.poll_transmit()) is not None:
                way.send(b"".join(transmit.buffers), transmit.destination)
            if is_open and now >= next_datagram:
                next_datagram = now + PAUSE
                way.send(b"\xd0" + me.encode().ljust(SIZE - 1, b"."), server)
            if selector.select(PAUSE):
                for datagram in way.receive():
                    if datagram[0] != 0xD0:
                        machine.handle_datagram(datagram, server, now, way.local)
                        continue
                    assert datagram == b"\xd0" + friend.encode().ljust(SIZE - 1, b"."), datagram
                    heard += 1
                    if heard in (1, WANTED):
                        print(f"heard {heard}", flush=True)


if __name__ == "__main__":
    main()
