"""scapy in the path: carries frames between two interfaces and applies fault plans to them.

Runs as a process of its own, in a namespace of its own, started by :meth:`netlab.lab.Lab.inject`:

    python -m netlab.inject NEAR FAR

NEAR faces the host. The plans come as one line of JSON on stdin; a line ``ready`` on stdout says
that frames are being carried. Each further line on stdin is a command, ``release`` or ``replay``,
and is answered by the counts as one line of JSON, as is the end of stdin, which ends it.

Only whole UDP datagrams and TCP segments that a plan's ``Match`` chooses meet faults; all else, ARP
included, is carried untouched. scapy dissects only what is to be altered.
"""

from __future__ import annotations

import json
import os
import select
import socket
import sys
import time
from collections import Counter
from collections.abc import Callable

from scapy.arch.linux import L2Socket

from netlab.faults import Direction, FaultPlan, from_json
from netlab.frames import alter, packet_in
from netlab.line import Line, Output

SOL_PACKET = 263  # linux/socket.h; these three are not in Python's socket module
SO_RCVBUFFORCE = 33  # asm-generic/socket.h
PACKET_IGNORE_OUTGOING = 23  # linux/if_packet.h: else we would read back what we wrote
RECEIVE_BUFFER = 8 << 20  # bytes; a burst must wait here while scapy works, and not be lost
STDIN = 0


class Injector:
    """Both directions of one link; ``send`` puts a frame on the far side of its direction."""

    def __init__(self, plans: list[FaultPlan], send: Callable[[Direction, bytes], None]) -> None:
        self._plans = [(plan, Counter[str](), {way: Line(plan, way) for way in Direction}) for plan in plans]
        self._send = send
        self._untouched = 0

    @property
    def counts(self) -> list[Counter[str]]:
        """The whole link's, then each plan's; see :class:`netlab.injection.Injection`."""
        of_plans = []
        for _, counts, lines in self._plans:
            late = {name: sum(getattr(line, name) for line in lines.values()) for name in ("released", "replayed")}
            of_plans.append(counts + Counter(late))
        return [sum(of_plans, Counter(untouched=self._untouched)), *of_plans]

    def handle(self, direction: Direction, frame: bytes, now: float) -> None:
        """Take one frame off the wire."""
        packet = packet_in(frame)
        for plan, counts, lines in self._plans if packet is not None else ():
            if packet is not None and plan.match.chooses(direction, packet):
                action, out = lines[direction].handle(frame, len(packet.payload), now)
                counts["chosen"] += 1
                counts[type(action).__name__.lower()] += 1
                self._put(direction, out)
                return
        self._untouched += 1
        self._send(direction, frame)

    def handle_timeout(self, now: float) -> None:
        """Send what is due by now."""
        self._each_line(lambda line: line.handle_timeout(now))

    def poll_timeout(self) -> float | None:
        """When to call :meth:`handle_timeout`."""
        times = [line.poll_timeout() for _, _, lines in self._plans for line in lines.values()]
        return min((at for at in times if at is not None), default=None)

    def release(self) -> None:
        """Forward what is held."""
        self._each_line(Line.release)

    def replay(self) -> None:
        """Send copies of what was remembered."""
        self._each_line(Line.replay)

    def _each_line(self, output: Callable[[Line], Output]) -> None:
        for _, _, lines in self._plans:
            for direction, line in lines.items():
                self._put(direction, output(line))

    def _put(self, direction: Direction, out: Output) -> None:
        for frame, change in out:
            self._send(direction, alter(frame, change))


def _open(interface: str) -> L2Socket:
    link = L2Socket(iface=interface, promisc=True)
    link.ins.setsockopt(SOL_PACKET, PACKET_IGNORE_OUTGOING, 1)
    # FORCE: the ordinary option is cut at net.core.rmem_max, a few hundred packets. Only real root may.
    try:
        link.ins.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, RECEIVE_BUFFER)
    except PermissionError:
        link.ins.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)
    link.ins.setblocking(False)
    return link


class _Commands:
    """Lines on stdin, read without a buffer that could swallow what ``select`` waits for."""

    def __init__(self) -> None:
        self._data = b""
        self.ended = False

    def read(self) -> list[str]:
        """What has come; blocks when nothing has."""
        part = os.read(STDIN, 65536)
        self.ended = not part
        *lines, self._data = (self._data + part).split(b"\n")
        return [line.decode() for line in lines]


def main(near: str, far: str) -> None:
    """Carry frames until stdin ends."""
    links = {Direction.OUT: _open(near), Direction.IN: _open(far)}  # by what is read from them
    exits = {Direction.OUT: links[Direction.IN], Direction.IN: links[Direction.OUT]}

    def send(direction: Direction, frame: bytes) -> None:
        exits[direction].outs.send(frame)

    commands = _Commands()
    while not (lines := commands.read()):
        if commands.ended:
            return
    injector = Injector([from_json(plan) for plan in json.loads(lines[0])], send)
    print("ready", flush=True)
    sources = {link.ins.fileno(): (direction, link) for direction, link in links.items()}
    while not commands.ended:
        at = injector.poll_timeout()
        wait = None if at is None else max(0.0, at - time.monotonic())
        readable, _, _ = select.select([STDIN, *sources], [], [], wait)
        for fd, (direction, link) in sources.items():
            if fd in readable or STDIN in readable:  # what came before a command meets its fault before it
                _drain(injector, direction, link)
        injector.handle_timeout(time.monotonic())
        for line in commands.read() if STDIN in readable else ():
            {"release": injector.release, "replay": injector.replay}[line]()
            print(json.dumps(injector.counts), flush=True)
    injector.release()
    print(json.dumps(injector.counts), flush=True)


def _drain(injector: Injector, direction: Direction, link: L2Socket) -> None:
    while True:
        try:
            _, frame, _ = link.recv_raw()
        except BlockingIOError:
            return
        except OSError:  # the interface is being taken away: the end of stdin follows
            return
        if frame is not None:
            injector.handle(direction, frame, time.monotonic())


if __name__ == "__main__":
    main(*sys.argv[1:])
