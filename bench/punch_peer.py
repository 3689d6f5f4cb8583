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
import sys
import time
from typing import Any, Final

from p2p.core.address import Address
from p2p.core.datagram import MAIN, CloseSockets, OpenSockets, Transmit
from p2p.core.nat.inference import Sample, mapping_of, new_ports, pool_of, preserves_ports, stride_of
from p2p.core.nat_report import Mapping, NatReport
from p2p.core.punch.agent import PunchAgent
from p2p.core.punch.description import Candidate, Description, Kind
from p2p.core.punch.events import Opened, PunchFailed, Selected

KEYS: Final = {True: bytes(32), False: bytes([1]) * 32}
TRIES: Final = 5  # requests to one port of the server
WAIT: Final = 0.2  # seconds for its answer
SCRATCH: Final = 4  # sockets that ask two of the ports each, where the main one's samples differ


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
    """A socket, and what ports of a server say of it and of a few others: as many samples as the program takes."""
    main_socket = opened()
    seen = [asked(main_socket, target) for target in targets]
    own_port = main_socket.getsockname()[1]
    samples = [Sample(number, MAIN, own_port, *pair) for number, pair in enumerate(zip(targets, seen, strict=True))]
    for local in range(1, SCRATCH + 1) if len(set(seen)) > 1 else ():
        with opened() as scratch:
            port = scratch.getsockname()[1]
            for target in targets[:2]:
                samples.append(Sample(len(samples), local, port, target, asked(scratch, target)))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect(targets[0])
        own = Address(probe.getsockname()[0], own_port)
    candidates = [Candidate(Kind.HOST, own)]
    if seen[0] != own:
        candidates.append(Candidate(Kind.SERVER_REFLEXIVE, seen[0]))
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


def report(samples: list[Sample]) -> NatReport:
    mapping, ports = mapping_of(samples), new_ports(samples)
    if mapping is Mapping.ENDPOINT_INDEPENDENT:
        return NatReport(mapping, preserves_ports(samples), newest=ports[-1])
    stride = stride_of(ports)
    pool = None if stride else pool_of(ports)
    return NatReport(mapping, preserves_ports(samples), stride, pool.ports if pool else range(0), ports[-1])


if __name__ == "__main__":
    main()
