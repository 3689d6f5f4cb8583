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

    def __str__(self) -> str:
        return f"one LAN behind {self.left}" if self.one_lan else f"{self.left} x {self.right}"


SYMMETRIC_CASES = [
    Scenario("symmetric", "none"),
    Scenario("symmetric", "full cone"),
    Scenario("symmetric", "address-restricted"),
    # what no punch of this version joins
    Scenario("symmetric", "port-restricted", None, ExitCode.NO_PATH),
]
SCENARIOS = [
    Scenario("port-restricted", "port-restricted", "direct TCP (LAN)", one_lan=True),
    Scenario("symmetric", "symmetric", "direct TCP (LAN)", one_lan=True),
    *(Scenario(left, right) for left, right in product(CONES, CONES)),
    *SYMMETRIC_CASES,
    *(replace(scenario, left=scenario.right, right=scenario.left) for scenario in SYMMETRIC_CASES),
    Scenario("symmetric", "symmetric", None, ExitCode.NO_PATH),
    Scenario("UDP blocked", "none", None, ExitCode.NO_PATH),
]
