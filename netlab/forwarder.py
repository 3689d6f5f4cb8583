"""A link with impairments: carries frames between two TAP devices, one engine per direction.

Runs as a process of its own, in a namespace of its own, started by :mod:`netlab.impaired`:

    python -m netlab.forwarder NEAR FAR MTU

makes the devices NEAR (towards the host) and FAR and says ``ready`` on stdout. Lines of JSON on stdin,
``{"seed": 1, "up": {...}, "down": {...}}`` first, then ``{"up": {...}}`` and ``{"down": {...}}`` in any
mixture, are impairments as :func:`netlab.impair.to_json` writes them; each is answered by ``ok`` when it
holds. The end of stdin ends it: what is on its way is forwarded at once, and the counts of both
directions follow as one line of JSON.

A TAP device without IFF_VNET_HDR is given packets of at most one MTU with finished checksums, whatever
segmentation the sender leaves to its network card.

Measured by ``python -m bench.forwarder``; the work per packet is reading, one decision, the heap, writing.
"""

from __future__ import annotations

import fcntl
import gc
import json
import os
import select
import socket
import struct
import sys
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from heapq import heappop, heappush
from pathlib import Path
from typing import Any

from netlab.impair import Engine, from_json

TUNSETIFF = 0x400454CA  # linux/if_tun.h, as is the next line
IFF_TAP, IFF_NO_PI = 0x0002, 0x1000
SIOCSIFMTU, SIOCSIFTXQLEN = 0x8922, 0x8943  # linux/sockios.h
TRANSMIT_QUEUE = 10_000  # frames that wait in the kernel for us, 0.15 s at 64,000 packets a second
PRIORITY = -15  # nice value
BATCH = 64  # frames read from one device before the other's turn
ETHERNET = 14  # bytes of header
IPV4, IPV6 = b"\x08\x00", b"\x86\xdd"  # Ethernet types
IGMP, ICMPV6 = b"\x02", b"\x3a"  # IP protocols
STDIN = 0

UP, DOWN = "up", "down"  # from the host, to the host

Write = Callable[[bytes], object]


class Forwarder:
    """Both directions and what is on its way; ``writes`` puts a frame on the far side of a direction."""

    def __init__(self, seed: int, impairments: dict[str, Any], writes: dict[str, Write]) -> None:
        self._engines = {way: Engine(from_json(impairments[way]), seed=seed, direction=way) for way in (UP, DOWN)}
        self._writes = writes
        self._heap: list[tuple[float, int, str, bytes]] = []
        self.refused: Counter[str] = Counter()  # by a device that is down, or takes no such frame
        self._number = 0  # those that depart together do so as they came

    @property
    def counts(self) -> dict[str, Counter[str]]:
        """What each direction's engine counted."""
        return {way: engine.counts for way, engine in self._engines.items()}

    @property
    def next_departure(self) -> float | None:
        """When :meth:`release` has something to do."""
        return self._heap[0][0] if self._heap else None

    def change(self, impairments: dict[str, Any]) -> None:
        """Give the directions named another impairment."""
        for way, impairment in impairments.items():
            self._engines[way].change(from_json(impairment))

    def handle(self, way: str, frames: list[bytes], now: float) -> None:
        """Take the frames that came at ``now`` in one direction."""
        decide, heap = self._engines[way].handle, self._heap
        for frame in frames:
            # The first half is the second's common answer, without the call.
            if (frame[12:14] != IPV4 or frame[23:24] == IGMP) and housekeeping(frame):
                self._put(way, frame)
                continue
            for departure, where in decide(len(frame) - ETHERNET, now):
                leaving = frame if where is None else damaged(frame, where)
                if departure <= now and not heap:
                    self._put(way, leaving)
                else:
                    self._number += 1
                    heappush(heap, (departure, self._number, way, leaving))

    def release(self, now: float) -> None:
        """Forward what departs at ``now`` or earlier; infinity forwards everything."""
        heap = self._heap
        while heap and heap[0][0] <= now:
            _, _, way, frame = heappop(heap)
            self._put(way, frame)

    def _put(self, way: str, frame: bytes) -> None:
        try:
            self._writes[way](frame)
        except OSError:
            self.refused[way] += 1


def housekeeping(frame: bytes) -> bool:
    """Is it what the machines of a link say by themselves: ARP, IGMP, neighbour and listener discovery?

    It comes at times of the kernel's choosing, and would move the decisions on all packets after it.
    """
    kind = frame[12:14]
    if kind == IPV4:
        return frame[23:24] == IGMP
    if kind == IPV6:
        # RFC 3810 section 5: listener discovery has a hop-by-hop header; RFC 4861 section 4: types 133 to 137.
        return frame[20:21] == b"\0" or (frame[20:21] == ICMPV6 and b"\x85" <= frame[54:55] <= b"\x89")
    return True


def damaged(frame: bytes, where: float) -> bytes:
    """The frame with one bit flipped, at this fraction of what is behind its IP header."""
    header = 40 if frame[12:14] == IPV6 else (int.from_bytes(frame[ETHERNET : ETHERNET + 1], "big") & 0x0F) * 4
    start = ETHERNET + header
    byte, bit = divmod(int(where * 8 * (len(frame) - start)), 8)
    if start >= len(frame):
        return frame
    changed = bytearray(frame)
    changed[start + byte] ^= 1 << bit
    return bytes(changed)


def open_tap(name: str, mtu: int) -> int:
    """Make a TAP device in our namespace, one that lives as long as its descriptor; raises ``OSError``."""
    tap = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    fcntl.ioctl(tap, TUNSETIFF, struct.pack("16sH22x", name.encode(), IFF_TAP | IFF_NO_PI))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        for request, value in ((SIOCSIFMTU, mtu), (SIOCSIFTXQLEN, TRANSMIT_QUEUE)):
            fcntl.ioctl(control, request, struct.pack("16si20x", name.encode(), value))
    return tap


def overrun(device: str) -> int:
    """How many frames found our queue in the kernel full: loss that no engine decided."""
    for line in Path("/proc/self/net/dev").read_text(encoding="ascii").splitlines():
        name, _, figures = line.partition(":")
        if name.strip() == device:
            return int(figures.split()[11])  # the transmit side's "drop"
    return 0


def _read(tap: int, size: int) -> list[bytes]:
    frames: list[bytes] = []
    read = os.read
    try:
        for _ in range(BATCH):
            frames.append(read(tap, size))
    except OSError:  # nothing more, or the device is down
        pass
    return frames


class _Control:
    """Lines from stdin. os.read on purpose: a buffered reader could swallow what select waits for."""

    def __init__(self) -> None:
        self._buffer = b""
        self.ended = False

    def lines(self) -> list[dict[str, Any]]:
        """Read once; the whole lines that there are now."""
        part = os.read(STDIN, 65536)
        self.ended = not part
        *whole, self._buffer = (self._buffer + part).split(b"\n")
        return [json.loads(line) for line in whole]


def main(near: str, far: str, mtu: int) -> None:
    """Carry frames until stdin ends."""
    try:
        taps = {UP: open_tap(near, mtu), DOWN: open_tap(far, mtu)}  # by what is read from them
    except OSError as error:
        sys.exit(
            f"no TAP device can be made of /dev/net/tun ({error.strerror}): run as root with the module tun;"
            " in a container, add --device /dev/net/tun"
        )
    writes: dict[str, Write] = {UP: partial(os.write, taps[DOWN]), DOWN: partial(os.write, taps[UP])}
    print("ready", flush=True)
    control = _Control()
    first: list[dict[str, Any]] = []
    while not first:
        first = control.lines()
        if control.ended:
            return
    setup, *later = first
    forwarder = Forwarder(setup["seed"], {way: setup[way] for way in (UP, DOWN)}, writes)
    print("ok", flush=True)
    for line in later:
        forwarder.change(line)
        print("ok", flush=True)
    with suppress(PermissionError):
        # As a network card does not wait for programs. Without the right to that it waits its turn.
        os.setpriority(os.PRIO_PROCESS, 0, PRIORITY)
    gc.disable()  # nothing here makes cycles, and a collection is a pause of the link
    _carry(forwarder, taps, control, mtu + 64)
    forwarder.release(float("inf"))
    counts = forwarder.counts
    for way, device in ((UP, near), (DOWN, far)):
        counts[way]["overrun"] = overrun(device)
        counts[way]["refused"] = forwarder.refused[way]
    print(json.dumps(counts), flush=True)


def _carry(forwarder: Forwarder, taps: dict[str, int], control: _Control, size: int) -> None:
    # select and not epoll: Python rounds the time-out of the latter up to a millisecond.
    clock, sources = time.monotonic, [STDIN, *taps.values()]

    def take(way: str, tap: int) -> bool:
        frames = _read(tap, size)
        # Read first, then asked for the time: nothing departs before its delay is over.
        forwarder.handle(way, frames, clock())
        return len(frames) == BATCH

    while True:
        due = forwarder.next_departure
        wait = None if due is None else max(0.0, due - clock())
        readable, _, _ = select.select(sources, [], [], wait)
        for way, tap in taps.items():
            if tap in readable:
                take(way, tap)
        forwarder.release(clock())
        if STDIN in readable:
            # What came before the change is decided before it; endless traffic delays it only so long.
            for way, tap in taps.items():
                for _ in range(TRANSMIT_QUEUE // BATCH):
                    if not take(way, tap):
                        break
            for line in control.lines():
                forwarder.change(line)
                print("ok", flush=True)
            if control.ended:
                return


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
