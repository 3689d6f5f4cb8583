"""The scenario table on real kernels: server and peers as processes, NATs by iptables, packets for real.

    alice --- left --- core0 --- core1 --- right --- bob
              (NAT)                |       (NAT)
                                 server (two addresses)
"""

from __future__ import annotations

from pathlib import Path

import pytest
from harness import hash_of, make_file, stage
from scenarios import SCENARIOS, Scenario

from netlab import nat
from netlab.topology import Topology, one_lan, two_nats

KINDS = {
    "none": nat.NONE,
    "full cone": nat.FULL_CONE,
    "address-restricted": nat.ADDRESS_RESTRICTED,
    "port-restricted": nat.PORT_RESTRICTED,
    "symmetric": nat.SYMMETRIC,
    "UDP blocked": nat.UDP_BLOCKED,
    "firewall": nat.FIREWALL,
}
SIZE = 1_000_000


def topology(scenario: Scenario) -> Topology:
    if scenario.one_lan:
        return one_lan(KINDS[scenario.left])
    return two_nats(KINDS[scenario.left], KINDS[scenario.right])


@pytest.mark.parametrize("scenario", SCENARIOS, ids=str)
def test_every_network_ends_as_the_table_says(netlab, tmp_path: Path, scenario: Scenario) -> None:
    running = netlab(topology(scenario))
    alice, bob, server = (running.host(name) for name in ("alice", "bob", "server"))
    digest = make_file(tmp_path / "file", SIZE)
    out = tmp_path / "out"
    with stage(server.popen, server.address) as programs:
        words = [] if scenario.takes_relay else ["--no-relay"]
        sender = programs.send("alice", "bob", tmp_path / "file", "--json", *words, spawn=alice.popen)
        receiver = programs.recv("bob", "alice", "--out", out, "--yes", "--json", spawn=bob.popen)
        ends = sender.finish(), receiver.finish()
    assert ends == (scenario.exit_code, scenario.exit_code), sender.err + receiver.err
    if scenario.path is None:
        assert "No path" in sender.err
        assert "No path" in receiver.err
        assert "--no-relay" in sender.err
        assert list(out.iterdir() if out.exists() else []) == []
    else:
        assert sender.event("path")["description"].startswith(scenario.path)
        assert receiver.event("path")["description"].startswith(scenario.path)
        assert hash_of(out / "file") == digest == sender.event("done")["blake3"] == receiver.event("done")["blake3"]
