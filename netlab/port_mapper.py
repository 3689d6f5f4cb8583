"""A port mapper on a router: miniupnpd, started with the lab and ended with it.

Like many real ones it refuses when its WAN address is not public, as behind a carrier's NAT. Its files are in memory
and have no name in any folder, so that nothing of them is left, whatever ends us.
"""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from typing import IO, Any

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
    with ExitStack() as files:
        started = [(node, offered, _start(node, configure(offered), files)) for node, offered in routers]
        for each in started:
            _await(*each)
        yield


@dataclass(frozen=True, slots=True)
class _Started:
    process: subprocess.Popen[Any]
    log: IO[bytes]


def _start(node: Node, configured: str, files: ExitStack) -> _Started:
    config, log, pid = (files.enter_context(os.fdopen(os.memfd_create(each), "r+b")) for each in ("conf", "log", "pid"))
    config.write(configured.encode("ascii"))
    config.flush()
    process = node.popen(
        ["miniupnpd", "-d", "-f", _path(config), "-P", _path(pid)],  # -d: stay in the foreground
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=log,
        pass_fds=(config.fileno(), pid.fileno()),
    )
    return _Started(process, log)


def _path(file: IO[bytes]) -> str:
    """Where a process that inherits the file finds it; no unlink can go wrong there."""
    return f"/proc/self/fd/{file.fileno()}"


def _await(node: Node, offered: PortMapper, started: _Started) -> None:
    """Ask until it answers: then its loop runs, and all its sockets are open."""
    client = Client(node, gateway=node.ipv4[-1])  # its address on the LAN
    until = time.monotonic() + START_LIMIT
    while not client.is_up(offered):
        with suppress(subprocess.TimeoutExpired):
            started.process.wait(RETRY)
        if started.process.poll() is not None or time.monotonic() > until:
            started.log.seek(0)
            words = started.log.read().decode(errors="replace").strip().splitlines()
            raise LabError(f"{node.name}: miniupnpd did not start: {'; '.join(words[-3:]) or 'it said nothing'}")
