"""A port mapper on a router: miniupnpd, started with the lab and ended with it.

Like many real ones it refuses when its WAN address is not public, as behind a carrier's NAT.
"""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from netlab.kernel import LabError
from netlab.miniupnpd import configuration
from netlab.nat import PortMapper
from netlab.node import Node
from netlab.port_mapping import Client

START_LIMIT = 30.0  # seconds; it takes a hundredth of one
RETRY = 0.005  # seconds between two questions to one that does not listen yet


@contextmanager
def port_mappers(
    routers: Sequence[tuple[Node, PortMapper]], configure: Callable[[PortMapper], str] = configuration
) -> Iterator[None]:
    """Keep a port mapper running on each router; it answers when the block begins.

    ``configure`` writes miniupnpd.conf. They end with the lab. Raises ``LabError`` with miniupnpd's
    words when one does not start.
    """
    if not routers:
        yield
        return
    with TemporaryDirectory(prefix="netlab-") as folder:
        started = [_start(node, configure(offered), Path(folder, node.name)) for node, offered in routers]
        for (node, offered), (process, log) in zip(routers, started, strict=True):
            _await(node, offered, process, log)
        yield


def _start(node: Node, configured: str, folder: Path) -> tuple[subprocess.Popen[Any], Path]:
    folder.mkdir()
    config, log = folder / "miniupnpd.conf", folder / "log"
    config.write_text(configured, encoding="ascii")
    with log.open("wb") as file:
        process = node.popen(
            ["miniupnpd", "-d", "-f", str(config), "-P", str(folder / "pid")],  # -d: stay in the foreground
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
        )
    return process, log


def _await(node: Node, offered: PortMapper, process: subprocess.Popen[Any], log: Path) -> None:
    """Ask until it answers: then its loop runs, and all its sockets are open."""
    client = Client(node, gateway=node.ipv4[-1])  # its address on the LAN
    until = time.monotonic() + START_LIMIT
    while not client.is_up(offered):
        with suppress(subprocess.TimeoutExpired):
            process.wait(RETRY)
        if process.poll() is not None or time.monotonic() > until:
            words = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
            raise LabError(f"{node.name}: miniupnpd did not start: {'; '.join(words[-3:]) or 'it said nothing'}")
