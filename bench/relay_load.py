"""Pairs of peers that do nothing but send through the relay of a server, in one process; prints what arrived, as JSON.

python -m bench.relay_load HOST PORT --pairs N [--offer GBIT] [--segments N] [--seconds S] [--greedy X]

Without `--offer`, finds the highest rate of all pairs together at which less than LOSS_FREE is lost.
`--greedy X`: the first pair offers X Gbit/s more than its part.
"""

from __future__ import annotations

import argparse
import json
import secrets
import selectors
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass

from p2p.core.address import Address
from p2p.core.datagram import Transmit
from p2p.core.introduction import NamePair
from p2p.core.rendezvous import events
from p2p.core.rendezvous.client import RendezvousClient
from p2p.core.rendezvous.messages import RelayState
from p2p.core.role import Role
from p2p.io.net.udp import UdpSocket

DATAGRAM = 1472  # bytes of payload: Ethernet's MTU
LOSS_FREE = 0.001
SETTLING = 0.5  # seconds of load before anything is counted
CATCH_UP = 0.004  # seconds of its rate that a sender makes up for after a pause of its process
DRAINING = 0.2  # seconds for what is still under way
JOIN_PATIENCE = 20.0  # seconds until all relays have to be open
HIGHEST = 40.0  # Gbit/s; where the search ends
STEPS = 7  # halvings of the search
TRIES = 2  # of each rate: other work of the machine is not the server's fault
KEPT = 4.0  # seconds between two turns of all rendezvous machines: below the interval of their JOINs


@dataclass(slots=True)
class Sender:
    """One peer of a pair."""

    socket: UdpSocket
    machine: RendezvousClient
    is_open: bool = False
    received: int = 0  # bytes
    sent: int = 0
    credit: float = 0.0


class Load:
    """All pairs. The first of each sends, the second receives."""

    def __init__(self, server: Address, pairs: int, segments: int) -> None:
        self._server = server
        self._burst = Transmit(server, (b"\xd0" * (DATAGRAM * segments),), DATAGRAM if segments > 1 else 0)
        self._size = DATAGRAM * segments
        self.all_got = 0  # bytes, of all runs
        self._selector = selectors.DefaultSelector()
        self._pairs = [
            (
                self._sender(f"a{number}", f"b{number}", Role.SENDER),
                self._sender(f"b{number}", f"a{number}", Role.RECEIVER),
            )
            for number in range(pairs)
        ]

    def open(self) -> None:
        """Raises SystemExit when not all relays open."""
        for each in self._all():
            each.machine.start(time.monotonic())
            each.machine.ask_relay(time.monotonic())
        limit = time.monotonic() + JOIN_PATIENCE
        while not all(each.is_open for each in self._all()):
            self._speak()
            self._receive(0.01)
            if time.monotonic() > limit:
                raise SystemExit("not all relays opened")

    def run(self, rates: list[float], seconds: float) -> tuple[list[float], list[float]]:
        """Offers `rates` (bytes of payload a second) for `seconds`. Returns what was sent and arrived, likewise."""
        self._send(rates, SETTLING)
        self._settle()
        began = time.monotonic()
        self._send(rates, seconds)
        elapsed = time.monotonic() - began
        self._settle(forget=False)
        sent, got = ([getattr(pair[end], name) / elapsed for pair in self._pairs] for end, name in _COUNTS)
        return sent, got

    def _send(self, rates: list[float], seconds: float) -> None:
        now = time.monotonic()
        end, last, speak_at = now + seconds, now, now
        while now < end:
            if now >= speak_at:
                self._speak()
                speak_at = now + KEPT
            for (sender, _), rate in zip(self._pairs, rates, strict=True):
                most = max(4 * self._size, rate * CATCH_UP)
                sender.credit = min(sender.credit + rate * (now - last), most)
                while sender.credit >= self._size:
                    sender.credit -= self._size
                    if sender.socket.send(self._burst):
                        sender.sent += self._size
            last = now
            self._receive(0.0)
            now = time.monotonic()

    def _settle(self, *, forget: bool = True) -> None:
        limit = time.monotonic() + DRAINING
        while time.monotonic() < limit:
            self._receive(0.01)
        for each in self._all() if forget else ():
            each.received = each.sent = 0

    def _receive(self, wait: float) -> None:
        for key, _ in self._selector.select(wait):
            peer: Sender = key.data
            for data, segment_size, source in peer.socket.receive():
                if data[0] == 0xD0:
                    peer.received += len(data)
                    self.all_got += len(data)
                    continue
                step = segment_size or len(data)
                for start in range(0, len(data), step):
                    peer.machine.handle_datagram(bytes(data[start : start + step]), source, time.monotonic())
                self._speak_for(peer)

    def _speak(self) -> None:
        for each in self._all():
            each.machine.handle_timeout(time.monotonic())
            self._speak_for(each)

    def _speak_for(self, peer: Sender) -> None:
        while (event := peer.machine.poll_event()) is not None:
            if isinstance(event, events.Relayed):
                peer.is_open = event.state is RelayState.OPEN
        while (transmit := peer.machine.poll_transmit()) is not None:
            peer.socket.send(transmit)

    def _sender(self, me: str, friend: str, role: Role) -> Sender:
        bound = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        bound.bind(("0.0.0.0", 0))
        made = Sender(UdpSocket(bound), RendezvousClient(self._server, NamePair(me, friend), role, secrets.token_bytes))
        self._selector.register(made.socket, selectors.EVENT_READ, made)
        return made

    def _all(self) -> Iterator[Sender]:
        for pair in self._pairs:
            yield from pair


_COUNTS = ((0, "sent"), (1, "received"))


def search(load: Load, pairs: int, seconds: float) -> tuple[list[float], list[float]]:
    """By halving, in the logarithm, between a hundredth of HIGHEST and HIGHEST Gbit/s of all pairs together."""
    low, high = HIGHEST / 100, HIGHEST
    best = load.run([low * 1e9 / 8 / pairs] * pairs, seconds)
    for _ in range(STEPS):
        middle = (low * high) ** 0.5
        for _ in range(TRIES):
            sent, got = load.run([middle * 1e9 / 8 / pairs] * pairs, seconds)
            offered_in_time = sum(sent) >= 0.97 * middle * 1e9 / 8
            if offered_in_time and sum(got) >= (1 - LOSS_FREE) * sum(sent):
                low, best = middle, (sent, got)
                break
        else:
            high = middle
    return best


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("host")
    parser.add_argument("port", type=int)
    parser.add_argument("--pairs", type=int, default=1)
    parser.add_argument("--segments", type=int, default=43, help="datagrams in a burst")
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--greedy", type=float, default=0.0)
    parser.add_argument("--offer", type=float)
    options = parser.parse_args()
    load = Load(Address(options.host, options.port), options.pairs, options.segments)
    load.open()
    print("open", flush=True)
    if options.offer is None:
        sent, got = search(load, options.pairs, options.seconds)
    else:
        rates = [options.offer * 1e9 / 8 / options.pairs] * options.pairs
        rates[0] += options.greedy * 1e9 / 8
        sent, got = load.run(rates, options.seconds)
    print(json.dumps({"sent": sent, "got": got, "all_got": load.all_got}), flush=True)


if __name__ == "__main__":
    main()
