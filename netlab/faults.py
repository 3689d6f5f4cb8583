"""What happens to which packet: a seeded plan, decided without a clock or a kernel. Pure.

The decision for a packet depends on the seed, the direction and the packet's number among the
chosen packets of that direction, on nothing else: the same traffic meets the same faults, in
whatever order the two directions interleave.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from random import Random
from types import MappingProxyType
from typing import Any, TypeAlias


class Direction(Enum):
    """Seen from the host on whose link the faults are."""

    OUT = "out"
    IN = "in"


@dataclass(frozen=True, slots=True)
class Pass:
    """Forward it untouched."""


@dataclass(frozen=True, slots=True)
class Drop:
    """Lose it."""


@dataclass(frozen=True, slots=True)
class Duplicate:
    """Forward it ``1 + copies`` times."""

    copies: int = 1


@dataclass(frozen=True, slots=True)
class Hold:
    """Forward it only after ``packets`` more chosen packets of its direction; 1 swaps it with the next.

    When no more come it is forwarded at the end of the injection.
    """

    packets: int = 1


@dataclass(frozen=True, slots=True)
class Corrupt:
    """Flip these bits of the UDP payload, counted from 0 and taken modulo its length in bits.

    ``recompute`` False leaves the UDP checksum as it was, so the receiver's kernel drops the packet;
    True makes it right again, so the damage reaches the application.
    """

    bits: tuple[int, ...]
    recompute: bool = True


@dataclass(frozen=True, slots=True)
class Truncate:
    """Keep only the first ``length`` bytes of the UDP payload; lengths and checksum are made right."""

    length: int


Action: TypeAlias = Pass | Drop | Duplicate | Hold | Corrupt | Truncate
SWAP = Hold(1)
ACTIONS = {kind.__name__.lower(): kind for kind in (Pass, Drop, Duplicate, Hold, Corrupt, Truncate)}


@dataclass(frozen=True, slots=True)
class Rates:
    """Probabilities (0 to 1) of each fault per chosen packet; the rest passes.

    ``damage`` corrupts and recomputes the checksum, ``corrupt`` leaves the wrong one.
    Raises ``ValueError`` when one is negative or their sum exceeds 1.
    """

    drop: float = 0.0
    duplicate: float = 0.0
    swap: float = 0.0
    corrupt: float = 0.0
    damage: float = 0.0
    truncate: float = 0.0

    def __post_init__(self) -> None:
        rates = (self.drop, self.duplicate, self.swap, self.corrupt, self.damage, self.truncate)
        if min(rates) < 0 or sum(rates) > 1:
            raise ValueError(f"rates are at least 0 and at most 1 together: {self}")


@dataclass(frozen=True, slots=True)
class Match:
    """Which UDP packets count; every condition given must hold. Sizes in bytes of UDP payload.

    ``port`` is the source or the destination port; ``prefix`` and ``contains`` are payload bytes.
    """

    direction: Direction | None = None
    port: int | None = None
    min_size: int = 0
    max_size: int = 65535
    prefix: bytes = b""
    contains: bytes = b""

    def chooses(self, direction: Direction, ports: tuple[int, int], payload: bytes) -> bool:
        """Does this packet count?"""
        return (
            self.direction in {None, direction}
            and (self.port is None or self.port in ports)
            and self.min_size <= len(payload) <= self.max_size
            and payload.startswith(self.prefix)
            and self.contains in payload
        )


@dataclass(frozen=True, slots=True)
class FaultPlan:
    """Faults by rate, by number, or both (a number given in ``script`` wins).

    ``script`` counts the chosen packets of each direction from 0. ``limit`` ends the faults by rate
    after so many chosen packets per direction; None never ends them.
    """

    seed: int = 0
    rates: Rates = field(default_factory=Rates)
    script: Mapping[int, Action] = field(default_factory=lambda: MappingProxyType({}))
    match: Match = field(default_factory=Match)
    limit: int | None = None

    def decide(self, direction: Direction, index: int, size: int) -> Action:
        """What to do with chosen packet ``index`` of ``direction`` with ``size`` bytes of payload."""
        if index in self.script:
            return self.script[index]
        if self.limit is not None and index >= self.limit:
            return Pass()
        random = Random(f"{self.seed} {direction.value} {index}")
        draw = random.random()
        # Always drawn, used or not: a change of one rate does not move the bits of another fault.
        bits = tuple(sorted(random.sample(range(size * 8), 1 + random.randrange(3)))) if size else ()
        length = random.randrange(size) if size else 0
        for rate, action in (
            (self.rates.drop, Drop()),
            (self.rates.duplicate, Duplicate()),
            (self.rates.swap, SWAP),
            (self.rates.corrupt, Corrupt(bits, recompute=False) if size else Pass()),
            (self.rates.damage, Corrupt(bits, recompute=True) if size else Pass()),
            (self.rates.truncate, Truncate(length) if size else Pass()),
        ):
            if draw < rate:
                return action
            draw -= rate
        return Pass()


class Line:
    """The packets of one direction, in the order they leave. ``T`` in :meth:`handle` is any packet.

    Pure as well: packets come in, packets come out; :class:`netlab.inject` only carries them.
    """

    def __init__(self, plan: FaultPlan, direction: Direction) -> None:
        self._plan = plan
        self._direction = direction
        self._count = 0
        self._held: list[tuple[int, bytes]] = []  # (number after which to release, packet)

    def handle(self, packet: bytes, payload_size: int) -> tuple[Action, list[tuple[bytes, Action]]]:
        """Take one chosen packet; returns its action, and what to forward now and how to alter it."""
        index, self._count = self._count, self._count + 1
        action = self._plan.decide(self._direction, index, payload_size)
        now: list[tuple[bytes, Action]] = []
        match action:
            case Pass() | Corrupt() | Truncate():
                now.append((packet, action))
            case Duplicate(copies):
                now += [(packet, Pass())] * (1 + copies)
            case Hold(packets):
                self._held.append((index + packets, packet))
            case Drop():
                pass
        now += [(held, Pass()) for until, held in self._held if until <= index]
        self._held = [(until, held) for until, held in self._held if until > index]
        return action, now

    def release(self) -> list[bytes]:
        """Everything still held."""
        held, self._held = [packet for _, packet in self._held], []
        return held


def to_json(plan: FaultPlan) -> dict[str, Any]:
    """The plan as plain values; :func:`from_json` makes it again."""
    rates, match = plan.rates, plan.match
    return {
        "seed": plan.seed,
        "limit": plan.limit,
        "rates": {name: getattr(rates, name) for name in Rates.__slots__},
        "script": [[index, *_action_to_json(action)] for index, action in plan.script.items()],
        "match": {
            "direction": match.direction.value if match.direction else None,
            "port": match.port,
            "min_size": match.min_size,
            "max_size": match.max_size,
            "prefix": match.prefix.hex(),
            "contains": match.contains.hex(),
        },
    }


def _action_to_json(action: Action) -> tuple[str, dict[str, Any]]:
    return type(action).__name__.lower(), {name: getattr(action, name) for name in type(action).__slots__}


def from_json(value: dict[str, Any]) -> FaultPlan:
    """The inverse of :func:`to_json`; for our own output only (raises whatever a wrong one leads to)."""
    match = dict(value["match"])
    match["direction"] = Direction(match["direction"]) if match["direction"] else None
    match["prefix"], match["contains"] = bytes.fromhex(match["prefix"]), bytes.fromhex(match["contains"])
    script: dict[int, Action] = {}
    for index, name, fields in value["script"]:
        if "bits" in fields:
            fields["bits"] = tuple(fields["bits"])
        script[index] = ACTIONS[name](**fields)
    return FaultPlan(value["seed"], Rates(**value["rates"]), script, Match(**match), value["limit"])
