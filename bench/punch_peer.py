"""One side of a measured punch: an agent on real sockets, told by lines of JSON what to do. Started by bench.punching.

in   {"measure": [[host, port], ...]}     out  {"description": hex}
     {"start": {"controlling": bool, "local": hex, "remote": hex}}
     {"update": {"local": hex, "remote": hex}}
                                          out  {"opened": true}
                                               {"direct": seconds, "how": name, "sent": n, "cpu": seconds, "sockets": n}
                                               {"failed": true, ...}
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import selectors
import socket
import statistics
import sys
import time
from collections import Counter
from collections.abc import Iterable
from itertools import pairwise
from typing import Any, Final

from p2p.core.address import Address
from p2p.core.datagram import MAIN, CloseSockets, OpenSockets, Transmit
from p2p.core.nat_report import Mapping, NatReport
from p2p.core.punch.agent import PunchAgent
from p2p.core.punch.description import Candidate, Description, Kind
from p2p.core.punch.events import Opened, PunchFailed, Selected

KEYS: Final = {True: bytes(32), False: bytes([1]) * 32}
TRIES: Final = 5  # requests to one port of the server
WAIT: Final = 0.2  # seconds for its answer
SCRATCH: Final = 8  # sockets that are asked for more samples of ports drawn at random
FEW: Final = 2  # sockets after which a NAT that counts is known as one
MAX_STRIDE: Final = 64
SMALL_POOL: Final = 8192  # ports; samples of a larger one do not tell it from all


def main() -> None:
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    peer: Peer | None = None
    while True:
        line = sys.stdin.readline() if peer is None else peer.run()
        if not line:
            return
        match json.loads(line):
            case {"measure": targets}:
                peer = None
                main_socket, description = measure([Address(*target) for target in targets])
                say(description=description.encode().hex())
            case {"start": told}:
                peer = Peer(main_socket, told["controlling"], decoded(told["local"]), decoded(told["remote"]))
            case {"update": told} if peer is not None:
                peer.update(decoded(told["local"]), decoded(told["remote"]))


def say(**words: Any) -> None:
    print(json.dumps(words))


def decoded(text: str) -> Description:
    return Description.decode(bytes.fromhex(text))


class Peer:
    """An agent, its sockets and the loop that drives it."""

    def __init__(self, main_socket: socket.socket, controlling: bool, local: Description, remote: Description) -> None:
        self._sockets = {MAIN: main_socket}
        self._most = 1
        self._selector = selectors.DefaultSelector()
        self._selector.register(main_socket, selectors.EVENT_READ, MAIN)
        self._selector.register(sys.stdin, selectors.EVENT_READ, None)
        self._sent = 0
        keys = KEYS[controlling], KEYS[not controlling]
        self._agent = PunchAgent(controlling, *keys, local, remote, os.urandom)
        self._began, self._cpu = time.monotonic(), cpu()
        self._agent.start(self._began)

    def update(self, local: Description, remote: Description) -> None:
        self._agent.update(local, remote, time.monotonic())

    def run(self) -> str:
        """Until there is a line to read."""
        while True:
            self._pump()
            at = self._agent.poll_timeout()
            for key, _ in self._selector.select(None if at is None else max(0.0, at - time.monotonic())):
                if key.data is None:
                    return self._line()
                self._read(key.data)
            if (at := self._agent.poll_timeout()) is not None and at <= time.monotonic():
                self._agent.handle_timeout(time.monotonic())

    def _line(self) -> str:
        line = sys.stdin.readline()
        if "update" not in line:  # the next run, or the end
            for each in self._sockets.values():
                each.close()
            self._selector.close()
        return line

    def _read(self, number: int) -> None:
        if number not in self._sockets:
            return
        try:
            data, source = self._sockets[number].recvfrom(2048)
        except (BlockingIOError, ConnectionRefusedError):
            return
        if data[0] in (0xC0, 0xC1):
            self._agent.handle_datagram(data, Address(*source), number, time.monotonic())

    def _pump(self) -> None:
        while (action := self._agent.poll_action()) is not None:
            match action:
                case OpenSockets(first, count):
                    for number in range(first, first + count):
                        self._sockets[number] = opened()
                        self._selector.register(self._sockets[number], selectors.EVENT_READ, number)
                    self._most = max(self._most, len(self._sockets))
                case CloseSockets(numbers):
                    for number in numbers:
                        self._selector.unregister(self._sockets[number])
                        self._sockets.pop(number).close()
        while (transmit := self._agent.poll_transmit()) is not None:
            self._send(transmit)
        while (event := self._agent.poll_event()) is not None:
            used = {"sent": self._sent, "cpu": round(cpu() - self._cpu, 4), "sockets": self._most}
            match event:
                case Opened():
                    say(opened=True)
                case Selected():
                    say(direct=time.monotonic() - self._began, how=event.how.name.lower(), **used)
                case PunchFailed():
                    say(failed=True, **used)

    def _send(self, transmit: Transmit) -> None:
        ttl = (
            []
            if transmit.ttl is None
            else [(socket.IPPROTO_IP, socket.IP_TTL, transmit.ttl.to_bytes(4, sys.byteorder))]
        )
        self._sent += 1
        with contextlib.suppress(OSError):  # unreachable, refused, or full: as good as lost
            self._sockets[transmit.local].sendmsg(transmit.buffers, ttl, 0, transmit.destination)


def opened() -> socket.socket:
    made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    made.setblocking(False)
    made.bind(("", 0))
    return made


def cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def measure(targets: list[Address]) -> tuple[socket.socket, Description]:
    """A socket, and what all those ports of a server say of it and of a few others."""
    main_socket = opened()
    samples = [[asked(main_socket, target) for target in targets]]
    for number in range(SCRATCH):
        found = report(samples)
        if found.mapping is Mapping.ENDPOINT_INDEPENDENT or (number >= FEW and found.stride):
            break
        scratch = opened()
        samples.append([asked(scratch, target) for target in targets])
        scratch.close()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect(targets[0])
        own = Address(probe.getsockname()[0], main_socket.getsockname()[1])
    seen = samples[0][0]
    candidates = [Candidate(Kind.HOST, own)]
    if seen != own:
        candidates.append(Candidate(Kind.SERVER_REFLEXIVE, seen))
    return main_socket, Description(report(samples), tuple(candidates))


def asked(sock: socket.socket, target: Address) -> Address:
    """The address that `target` sees. Raises OSError when it does not answer."""
    sock.settimeout(WAIT)
    try:
        for _ in range(TRIES):
            sock.sendto(b"?", target)
            try:
                data, source = sock.recvfrom(100)
            except TimeoutError:
                continue
            if source == target:
                host, port = data.decode().split()
                return Address(host, int(port))
    finally:
        sock.setblocking(False)
    raise OSError(f"{target} does not answer")


def report(samples: list[list[Address]]) -> NatReport:
    """Of the addresses that were seen of each socket, in the order in which they were asked for.

    The targets are the ports of one address of the server, then those of another.
    """
    half = len(samples[0]) // 2
    mappings = []
    for seen in samples:
        same_address = len(set(seen[:half])) == 1 and len(set(seen[half:])) == 1
        independent = len(set(seen)) == 1
        mappings.append(0 if independent else 1 if same_address else 2)
    kinds = (Mapping.ENDPOINT_INDEPENDENT, Mapping.ADDRESS_DEPENDENT, Mapping.ADDRESS_AND_PORT_DEPENDENT)
    mapping = kinds[max(mappings)]
    ports = list(unrepeated(address.port for seen in samples for address in seen))
    if mapping is Mapping.ENDPOINT_INDEPENDENT or len(ports) < 2:
        return NatReport(mapping, newest=ports[-1])
    steps = Counter(after - before for before, after in pairwise(ports))
    stride, often = steps.most_common(1)[0]
    if often > len(ports) / 2 and abs(stride) <= MAX_STRIDE:
        return NatReport(mapping, stride=stride, newest=ports[-1])
    return NatReport(mapping, ports=pool(ports), newest=ports[-1])


def unrepeated(ports: Iterable[int]) -> Iterable[int]:
    last = None
    for port in ports:
        if port != last:
            yield port
        last = port


def pool(ports: list[int]) -> range:
    """Uniform samples leave, at each end, a gap as wide as one between two of them."""
    low, high = min(ports), max(ports)
    gap = (high - low) // max(1, len(set(ports)) - 1)
    estimate = range(max(1024, low - 2 * gap), min(65536, high + 2 * gap + 1))
    return estimate if len(estimate) <= SMALL_POOL and statistics.pstdev(ports) > 0 else range(0)


if __name__ == "__main__":
    main()
