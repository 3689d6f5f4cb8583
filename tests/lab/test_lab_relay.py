"""Pairs that nothing else joins talk through the server: by UDP behind symmetric NATs, in TCP where only 443 gets out.

alice --- left --- core0 --- core1 --- right --- bob
          (NAT)                |       (NAT)
                             server
"""

from __future__ import annotations

from contextlib import ExitStack

import pytest
from harness import GUARD, Program

from netlab.nat import ONLY_TCP_443, SYMMETRIC, UDP_BLOCKED, Nat
from netlab.topology import two_nats

pytestmark = pytest.mark.netlab


def talk(lab, alice: tuple[str, int], bob: tuple[str, int], server_address: str, *options: str) -> str:
    """Both until each has heard the other twenty times. Returns the server's log."""
    with ExitStack() as stack:

        def start(host: str, *arguments: str) -> Program:
            program = Program(lab.host(host).popen, list(arguments))
            stack.callback(program.kill)
            return program

        server = start("server", "-m", "p2p.server", "--host", server_address, *options)
        server.wait_for("listening on")
        peers = []
        for me, friend, role, (way, port) in (
            ("alice", "bob", "sender", alice),
            ("bob", "alice", "receiver", bob),
        ):
            peers.append(start(me, "tests/relay_client.py", server_address, str(port), way, me, friend, role))
        for peer in peers:
            peer.wait_for("heard 20")
        server.interrupt()
        assert server.finish(GUARD) == 0
        return server.err


@pytest.mark.parametrize(
    ("left", "way"),
    [(SYMMETRIC, ("udp", 8080)), (UDP_BLOCKED, ("tcp", 8080)), (ONLY_TCP_443, ("tcp", 443))],
    ids=lambda value: value.name if isinstance(value, Nat) else "-".join(map(str, value)),
)
def test_what_nothing_else_joins_talks_through_the_server(netlab, left: Nat, way: tuple[str, int]) -> None:
    lab = netlab(two_nats(left, SYMMETRIC))
    log = talk(lab, way, ("udp", 8080), lab.host("server").address, "--tcp-port", "443")
    assert "relays opened 1" in log
