"""Runs p2p, as a program, between every pair of NATs, and measures.

alice --- left --- core0 --- core1 --- right --- bob
          (NAT)                |       (NAT)
                             server
"""

from __future__ import annotations

import json
import multiprocessing
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import IO, Any

from netlab.lab import Lab, Node
from netlab.nat import Nat
from netlab.page import Result
from netlab.topology import Topology, two_nats

GUARD = 120  # seconds after which a pair that has not ended is called hung
CODE = "amber-walnut-tiger"  # both sides are given it, so that neither has to ask
SIZE = 8_000_000  # bytes sent for each pair unless asked otherwise
BLOCK = 1 << 20

SERVER = ["-m", "p2p.server", "--tcp-port", "443"]

Event = dict[str, Any]


def matrix(kinds: Sequence[Nat], *, size: int = SIZE, jobs: int = 1) -> Iterator[Result]:
    """One result for each ordered pair of kinds, in order, as they come; ``size`` in bytes.

    With several jobs, pairs run at once and share the machine: rates are then lower. Raises
    ``MissingRequirements`` and ``LabError``.
    """
    pairs = [(left, right, size) for left in kinds for right in kinds]
    if jobs == 1:
        for each in pairs:
            yield run_pair(*each)
        return
    # Spawned, not forked: a lab keeps threads, and a fork of those is a coin toss.
    with ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("spawn")) as pool:
        yield from pool.map(run_pair, *zip(*pairs, strict=True))


def run_pair(left: Nat, right: Nat, size: int, options: Sequence[str] = ()) -> Result:
    """alice behind ``left`` sends ``size`` bytes, with these options, to bob behind ``right``."""
    return run_in(two_nats(left, right), (left.name, right.name), size, options)


def run_in(
    topology: Topology,
    names: tuple[str, str],
    size: int,
    options: Sequence[str] = (),
    rules: Sequence[tuple[str, str]] = (),
) -> Result:
    """The same in another network with an alice, a bob and a server. ``names`` are those of the result's two sides.

    ``rules`` are iptables commands, each behind the name of the node that it is for.
    """
    with TemporaryDirectory(prefix="netlab-") as name, Lab(topology) as lab:
        for node, rule in rules:
            lab.host(node).iptables(rule)
        folder = Path(name)
        with (folder / "file").open("wb") as file:
            for start in range(0, size, BLOCK):
                file.write(os.urandom(min(BLOCK, size - start)))
        try:
            sender, receiver = _transfer(lab, folder, options)
        except _Failure as failure:
            return Result(*names, words=str(failure))
    return judge(*names, sender, receiver)


def judge(left: str, right: str, sender: Sequence[Event], receiver: Sequence[Event]) -> Result:
    """What the events of both programs say; the receiver's bear ``at``, seconds from its start. Pure."""
    paths = [event for event in receiver if event.get("event") == "path"]
    failed = _event(receiver, "failed") or _event(sender, "failed")
    words = str(failed.get("message", ""))
    if not paths:
        return Result(left, right, words=words)
    done = _event(sender, "done")
    rate = done["total"] / done["seconds"] if done.get("seconds") else None
    first, last = ((str(path["description"]), float(path["at"])) for path in (paths[0], paths[-1]))
    return Result(left, right, *first, rate, words, *(last if len(paths) > 1 else ()))


def _event(events: Sequence[Event], name: str) -> Event:
    return next((event for event in events if event.get("event") == name), {})


class _Failure(Exception):
    """The pair could not be run to its end; the message says what hung."""


class _Peer:
    """One program, and the events it prints with the seconds since its start."""

    def __init__(self, node: Node, arguments: Sequence[str]) -> None:
        self.events: list[Event] = []
        self.waits = threading.Event()  # it waits for the other one, or has ended
        self._born = time.monotonic()
        self.process = _start(node, ["-m", "p2p.peer", *arguments])
        self._thread = threading.Thread(target=self._read, args=(self.process.stdout,), daemon=True)
        self._thread.start()

    def _read(self, stream: IO[str]) -> None:
        with suppress(ValueError):  # the lab closed it
            for line in stream:
                with suppress(json.JSONDecodeError):
                    event = json.loads(line)
                    self.events.append({**event, "at": time.monotonic() - self._born})
                    if event.get("event") == "waiting":
                        self.waits.set()
        self.waits.set()

    def finish(self, who: str) -> int:
        """Its exit code, when all its events are read; raises ``_Failure`` when it does not end."""
        try:
            code = self.process.wait(GUARD)
        except subprocess.TimeoutExpired:
            raise _Failure(f"{who} did not end within {GUARD} s") from None
        self._thread.join(GUARD)
        return code


def _transfer(lab: Lab, folder: Path, options: Sequence[str]) -> tuple[list[Event], list[Event]]:
    server = lab.host("server")
    hosts = ["::"] if server.ipv6 else [server.ipv4[0], "--alt-host", server.ipv4[1]]
    rendezvous = _start(server, [*SERVER, "--host", *hosts])
    assert rendezvous.stdout is not None
    said = rendezvous.stdout.readline()
    if "listening on" not in said:
        raise _Failure(f"the rendezvous server did not start: {said.strip() or 'it said nothing'}")
    alice, bob = lab.host("alice"), lab.host("bob")
    common = ["--code", CODE, "--json"]
    words = ["send", "alice", "bob", str(folder / "file"), *_server_for(alice, bob, server), *common, *options]
    sender = _Peer(alice, words)
    if not sender.waits.wait(GUARD):
        raise _Failure(f"the sender did not reach the rendezvous server within {GUARD} s")
    if _event(sender.events, "waiting"):
        words = ["recv", "bob", "alice", "--out", str(folder / "out"), "--yes", *common]
        words += _server_for(bob, alice, server)
        receiver = _Peer(bob, words)
        if receiver.finish("the receiver") == 0:
            sender.finish("the sender")
        return sender.events, receiver.events
    sender.finish("the sender")
    return sender.events, []


def _server_for(node: Node, other: Node, server: Node) -> list[str]:
    """The server has no name here, so at its IPv6 address only who needs no IPv4 for the other one."""
    is_ipv6 = bool(server.ipv6 and node.ipv6) and bool(other.ipv6 or not node.ipv4)
    return ["--server", f"[{server.ipv6[0]}]" if is_ipv6 else server.ipv4[0]]


def _start(node: Node, arguments: Sequence[str]) -> subprocess.Popen[str]:
    own = {name: value for name, value in os.environ.items() if not name.startswith("P2P_")}
    process: subprocess.Popen[str] = node.popen(
        [sys.executable, *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=own | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )
    return process
