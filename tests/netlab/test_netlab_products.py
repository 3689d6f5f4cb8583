"""Every product of mapping, filtering, port preservation, hairpinning, guard and lifetime that the rules
can make, proved on the kernel: six or more routers of one mapping share a lab.

    host0 --- nat0 --- core0 --- core1 --- nat5 --- host5
                                  |
                                server
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import product

import pytest

from netlab.nat import Filtering, Guard, Lifetime, Mapping, Nat
from netlab.prove import probe_lifetime, prove
from netlab.topology import Host, Lan, Router, Topology

BLOCK = range(10240, 11264)
MAPPINGS = {
    "EIM that keeps ports": Nat("EIM"),
    "EIM with random ports": Nat("EIM", port_preservation=False),
    "EIM with a port block": Nat("EIM", port_preservation=False, port_block=BLOCK),
    "ADM": Nat("ADM", mapping=Mapping.ADDRESS_DEPENDENT, port_preservation=False),
    "APDM at random": Nat("APDM", mapping=Mapping.ADDRESS_AND_PORT_DEPENDENT, port_preservation=False),
    "APDM that counts": Nat("APDM", mapping=Mapping.ADDRESS_AND_PORT_DEPENDENT, port_preservation=False, stride=1),
    "APDM with a port block": Nat(
        "APDM", mapping=Mapping.ADDRESS_AND_PORT_DEPENDENT, port_preservation=False, port_block=BLOCK
    ),
}
BRIEF = Lifetime(2, 4)  # seconds; shorter ones expire between two of our packets when the machine is busy

by_mapping = pytest.mark.parametrize("mapping", MAPPINGS.values(), ids=MAPPINGS)


def products(mapping: Nat) -> list[Nat]:
    """All filtering, hairpinning and guards that a probe can tell apart behind that mapping."""
    guards = Guard if mapping.port_preservation else [Guard.DROP]
    return [
        replace(
            mapping,
            name=f"{mapping.name} {filtering.value}{' hairpin' * hairpinning} {guard.name}",
            filtering=filtering,
            hairpinning=hairpinning,
            guard=guard,
        )
        for filtering, hairpinning, guard in product(Filtering, [False, True], guards)
    ]


def side_by_side(nats: list[Nat]) -> Topology:
    return Topology(tuple(Router(f"nat{i}", Lan((Host(f"host{i}"),)), nat) for i, nat in enumerate(nats)))


@by_mapping
def test_every_product_is_measured_as_composed(netlab, mapping: Nat) -> None:
    nats = products(mapping)
    running = netlab(side_by_side(nats))
    measured = {nat.name: prove(running, f"host{i}", nat) for i, nat in enumerate(nats)}
    assert measured == {nat.name: nat for nat in nats}


@by_mapping
def test_every_product_forgets_idle_mappings_in_time(netlab, mapping: Nat) -> None:
    nats = [replace(nat, lifetime=BRIEF) for nat in products(mapping) if nat.guard is Guard.DROP]
    running = netlab(side_by_side(nats))
    with ThreadPoolExecutor(len(nats)) as pool:
        lives = pool.map(
            lambda i: probe_lifetime(running, f"host{i}", BRIEF.two_way + 1, filtering=nats[i].filtering),
            range(len(nats)),
        )
    assert {nat.name: life for nat, life in zip(nats, lives, strict=True)} == {nat.name: BRIEF for nat in nats}
