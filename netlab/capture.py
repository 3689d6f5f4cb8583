"""What a machine of the lab sees, written to a pcap by tcpdump."""

from __future__ import annotations

import re
import signal
import subprocess
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from netlab.kernel import LabError
from netlab.node import Node

SNAP = 2048  # bytes kept of each packet
BUFFER = 32768  # KiB between the kernel and tcpdump
SHARED_BUFFER = 8192  # KiB of each node's, where all nodes are captured
DRAIN_ROUNDS = 1000  # a capture under endless traffic ends all the same


class Capture:
    """A tcpdump at work; ``captured`` and ``dropped``, known when it is done, count packets."""

    def __init__(self, node: Node, path: Path, interface: str, buffer: int) -> None:
        # Without immediate mode packets wait a second in the kernel; with it, the buffer holds so
        # many packets of the longest length, whatever they really measure: hence a short one.
        options = ["--immediate-mode", "-s", str(SNAP), "-B", str(buffer), "-U", "-n", "-Z", "root"]
        self._tcpdump = node.popen(
            ["tcpdump", "-i", interface, *options, "-w", str(path)],
            stdin=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.captured = self.dropped = 0

    def await_start(self) -> None:
        """Return when every packet from now on is seen; raises ``LabError`` with tcpdump's words."""
        assert self._tcpdump.stderr is not None
        words = []
        for line in self._tcpdump.stderr:
            words.append(line.strip())
            if "listening on" in line:
                return
        raise LabError(f"tcpdump did not start: {' '.join(words)}")

    def drain(self) -> None:
        """Return when all that was seen before is in the file."""
        # It ends without reading what is left in its buffer: ask until nothing is.
        assert self._tcpdump.stderr is not None
        for _ in range(DRAIN_ROUNDS):
            self._tcpdump.send_signal(signal.SIGUSR1)
            words = self._tcpdump.stderr.readline()
            # A fourth number, of packets that the interface dropped, is told when there are any.
            told = [int(number) for number in re.findall(r"(\d+) packet", words)]
            if len(told) < 3:
                self._tcpdump.kill()
                code = self._tcpdump.wait()
                raise LabError(f"tcpdump ended before its capture was over (exit {code}): {words.strip()}")
            self.captured, received, self.dropped = told[:3]
            if self.captured + self.dropped >= received:
                return

    def stop(self) -> None:
        self._tcpdump.terminate()
        self._tcpdump.wait()


@contextmanager
def captured(node: Node, path: Path, interface: str) -> Iterator[Capture]:
    """Capture on ``interface`` of ``node`` during the block; see :meth:`netlab.lab.Lab.capture`."""
    with ExitStack() as stack:
        capture = Capture(node, path, interface, BUFFER)
        stack.callback(capture.stop)
        capture.await_start()
        try:
            yield capture
        finally:  # above all when the block failed
            capture.drain()


@contextmanager
def captured_all(nodes: Iterable[Node], directory: Path) -> Iterator[dict[str, Capture]]:
    """Capture on all interfaces of each node during the block; see :meth:`netlab.lab.Lab.capture_all`."""
    with ExitStack() as stack:
        captures: dict[str, Capture] = {}
        for node in nodes:
            captures[node.name] = Capture(node, directory / f"{node.name}.pcap", "any", SHARED_BUFFER)
            stack.callback(captures[node.name].stop)
        for capture in captures.values():
            capture.await_start()
        try:
            yield captures
        finally:
            for capture in captures.values():
                capture.drain()
