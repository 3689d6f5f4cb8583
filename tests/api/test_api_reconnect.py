"""A path that breaks under a transfer of a program."""

from __future__ import annotations

import contextlib
import os
import socket
from functools import partial
from pathlib import Path

from beside import Beside
from harness import hash_of, make_file

import p2p

CODE = "amber-walnut-tiger"


def cut(port: int) -> None:
    """Ends the TCP connections of this process to that port, as a router does that forgets them."""
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):  # it is closed by now, or not connected
            if os.readlink(f"/proc/self/fd/{name}").startswith("socket:"):
                with socket.socket(fileno=os.dup(int(name))) as found:
                    is_tcp = found.type is socket.SOCK_STREAM and found.family is not socket.AF_UNIX
                    if is_tcp and found.getpeername()[1] == port:
                        found.shutdown(socket.SHUT_RDWR)


def test_both_find_each_other_again(address: str, tmp_path: Path) -> None:
    digest = make_file(tmp_path / "file", 6_000_000)
    happened: list[p2p.events.Event] = []
    done: list[int] = []

    def note(event: p2p.events.Event) -> None:
        happened.append(event)
        if isinstance(event, p2p.events.PathChosen):
            assert event.kind is p2p.events.PathKind.TCP

    def watch(progress: p2p.Progress) -> None:
        done.append(progress.done)
        chosen = [event for event in happened if isinstance(event, p2p.events.PathChosen)]
        if progress.done > 1_000_000 and len(chosen) == 1:
            cut(chosen[0].address.port)

    send = partial(p2p.send, tmp_path / "file", me="alice", to="bob", code=CODE, server=address, rate_limit=3e6)
    sending = Beside(partial(send, on_event=note, on_progress=watch))
    received = p2p.receive(CODE, me="bob", sender="alice", out=tmp_path / "out", server=address)
    assert sending.result.blake3 == received.blake3 == digest == hash_of(tmp_path / "out" / "file")
    counts = {kind: sum(isinstance(event, kind) for event in happened) for kind in set(map(type, happened))}
    assert counts[p2p.events.PathLost] == 1
    assert counts[p2p.events.PathChosen] == 2
    assert counts[p2p.events.TransferStarted] == 1
    assert counts[p2p.events.Connecting] == 1  # how the two meet again is of no interest
    assert done == sorted(done)
