"""scapy in the path: carries frames between two interfaces and applies a fault plan to them.

Runs as a process of its own, in a namespace of its own, started by :meth:`netlab.lab.Lab.inject`:

    python -m netlab.inject NEAR FAR

NEAR faces the host. The plan comes as one line of JSON on stdin; a line ``ready`` on stdout says
that frames are being carried; the end of stdin ends it, and the counts follow as one line of JSON.

Only IPv4 UDP packets that the plan's ``Match`` chooses meet faults; all else, ARP and TCP included,
is carried untouched. Choosing reads a few bytes; scapy dissects only what is to be altered.
"""

from __future__ import annotations

import json
import os
import select
import socket
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from scapy.arch.linux import L2Socket
from scapy.layers.inet import IP, UDP
from scapy.layers.l2 import Ether
from scapy.packet import Raw

from netlab.faults import Action, Corrupt, Direction, FaultPlan, Line, Truncate, from_json

SOL_PACKET = 263  # linux/socket.h; these three are not in Python's socket module
SO_RCVBUFFORCE = 33  # asm-generic/socket.h
PACKET_IGNORE_OUTGOING = 23  # linux/if_packet.h: else we would read back what we wrote
RECEIVE_BUFFER = 8 << 20  # bytes; a burst must wait here while scapy works, and not be lost
ETHERNET = 14  # bytes of header
STDIN = 0


@dataclass(frozen=True, slots=True)
class Datagram:
    """Where the parts of an unfragmented UDP packet lie in its frame."""

    ports: tuple[int, int]
    payload: bytes


def datagram(frame: bytes) -> Datagram | None:
    """The UDP datagram in an Ethernet frame, or None for anything else (fragments included)."""
    if len(frame) < ETHERNET + 28 or frame[12:14] != b"\x08\x00" or frame[23] != socket.IPPROTO_UDP:
        return None
    if int.from_bytes(frame[20:22], "big") & 0x3FFF:  # more fragments, or an offset
        return None
    start = ETHERNET + (frame[14] & 0x0F) * 4
    ports = (int.from_bytes(frame[start : start + 2], "big"), int.from_bytes(frame[start + 2 : start + 4], "big"))
    length = int.from_bytes(frame[start + 4 : start + 6], "big")
    return Datagram(ports, frame[start + 8 : start + length])


def alter(frame: bytes, action: Action) -> bytes:
    """The frame with ``action`` done to its UDP payload; unchanged for actions that alter nothing."""
    match action:
        case Corrupt(bits, recompute):
            packet = Ether(frame)
            return _with_payload(packet, flipped(bytes(packet[UDP].payload), bits), recompute=recompute)
        case Truncate(length):
            packet = Ether(frame)
            return _with_payload(packet, bytes(packet[UDP].payload)[:length], recompute=True)
        case _:
            return frame


def flipped(payload: bytes, bits: tuple[int, ...]) -> bytes:
    """``payload`` with each of these bits inverted (bit 0 is the lowest of the first byte)."""
    changed = bytearray(payload)
    for bit in bits if changed else ():
        byte, shift = divmod(bit % (len(changed) * 8), 8)
        changed[byte] ^= 1 << shift
    return bytes(changed)


def _with_payload(packet: Ether, payload: bytes, *, recompute: bool) -> bytes:
    packet[UDP].remove_payload()
    packet[UDP].add_payload(Raw(payload))
    if recompute:
        # scapy fills in what is absent.
        del packet[IP].len, packet[IP].chksum, packet[UDP].len, packet[UDP].chksum
    return bytes(packet)


class Injector:
    """Both directions of one link; ``send`` puts a frame on the far side of its direction."""

    def __init__(self, plan: FaultPlan, send: Callable[[Direction, bytes], None]) -> None:
        self._plan = plan
        self._send = send
        self._lines = {direction: Line(plan, direction) for direction in Direction}
        self.counts: Counter[str] = Counter()

    def handle(self, direction: Direction, frame: bytes) -> None:
        """Take one frame off the wire."""
        udp = datagram(frame)
        if udp is None or not self._plan.match.chooses(direction, udp.ports, udp.payload):
            self.counts["untouched"] += 1
            self._send(direction, frame)
            return
        action, now = self._lines[direction].handle(frame, len(udp.payload))
        self.counts["chosen"] += 1
        self.counts[type(action).__name__.lower()] += 1
        for each, change in now:
            self._send(direction, alter(each, change))

    def finish(self) -> None:
        """Forward what is still held."""
        for direction, line in self._lines.items():
            for frame in line.release():
                self._send(direction, frame)


def _open(interface: str) -> L2Socket:
    link = L2Socket(iface=interface, promisc=True)
    link.ins.setsockopt(SOL_PACKET, PACKET_IGNORE_OUTGOING, 1)
    # FORCE: the ordinary option is cut at net.core.rmem_max, a few hundred packets.
    link.ins.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, RECEIVE_BUFFER)
    link.ins.setblocking(False)
    return link


def main(near: str, far: str) -> None:
    """Carry frames until stdin ends."""
    links = {Direction.OUT: _open(near), Direction.IN: _open(far)}  # by what is read from them
    exits = {Direction.OUT: links[Direction.IN], Direction.IN: links[Direction.OUT]}

    def send(direction: Direction, frame: bytes) -> None:
        exits[direction].outs.send(frame)

    # os.read on purpose: a buffered reader could swallow the end that select waits for.
    line = b""
    while not line.endswith(b"\n"):
        if not (part := os.read(STDIN, 65536)):
            return
        line += part
    injector = Injector(from_json(json.loads(line)), send)
    print("ready", flush=True)
    sources = {link.ins.fileno(): (direction, link) for direction, link in links.items()}
    ending = False
    while not ending:
        readable, _, _ = select.select([STDIN, *sources], [], [])
        ending = STDIN in readable
        for fd, (direction, link) in sources.items():
            if fd in readable or ending:
                _drain(injector, direction, link)
    injector.finish()
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
            injector.handle(direction, frame)


if __name__ == "__main__":
    main(*sys.argv[1:])
