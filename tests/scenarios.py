"""The networks that every release must cross: one table, run in memory (tests/sim) and on real kernels (tests/lab)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import product

from p2p.core.errors import ExitCode

CONES = ("none", "full cone", "address-restricted", "port-restricted")


@dataclass(frozen=True, slots=True)
class Scenario:
    """Two peers behind these NATs, or on one LAN, and how their run has to end.

    `path` is the beginning of the words in which both sides name the path; None: there is none.
    """

    left: str
    right: str
    path: str | None = "direct UDP"
    exit_code: ExitCode = ExitCode.DONE
    one_lan: bool = False
    takes_relay: bool = True  # of the left one

    def __str__(self) -> str:
        where = f"one LAN behind {self.left}" if self.one_lan else f"{self.left} x {self.right}"
        return where if self.takes_relay else f"{where}, no relay"


SYMMETRIC_CASES = [
    Scenario("symmetric", "none"),
    Scenario("symmetric", "full cone"),
    Scenario("symmetric", "address-restricted"),
    # Found by guessing: one in 300 takes longer than the relay waits, one in 50,000 longer than anybody.
    Scenario("symmetric", "port-restricted", takes_relay=False),
    Scenario("UDP blocked", "none", "direct TCP"),
    Scenario("UDP blocked", "port-restricted", "direct TCP"),
    Scenario("UDP blocked", "UDP blocked", "direct TCP"),
    Scenario("UDP blocked", "firewall", "direct TCP"),  # a host without NAT tells one address as two kinds
    Scenario("UDP blocked", "symmetric", "relay"),
]
SCENARIOS = [
    Scenario("port-restricted", "port-restricted", "direct TCP (LAN)", one_lan=True),
    Scenario("symmetric", "symmetric", "direct TCP (LAN)", one_lan=True),
    *(Scenario(left, right) for left, right in product(CONES, CONES)),
    *SYMMETRIC_CASES,
    *(replace(scenario, left=scenario.right, right=scenario.left) for scenario in SYMMETRIC_CASES),
    Scenario("symmetric", "symmetric", "relay"),
    Scenario("symmetric", "symmetric", None, ExitCode.NO_PATH, takes_relay=False),
    Scenario("UDP blocked", "symmetric", None, ExitCode.NO_PATH, takes_relay=False),
]
