"""What happens to which packet: a seeded plan, decided without a clock or a kernel. Pure.

The decision for a packet depends on the seed, the direction and the packet's number among the
chosen packets of that direction, on nothing else: the same traffic meets the same faults, in
whatever order the two directions interleave. Several plans can lie in one path: the first whose
:class:`Match` chooses a packet has it, and numbers it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from enum import Enum
from functools import cache
from ipaddress import ip_address
from random import Random
from types import MappingProxyType
from typing import Any, TypeAlias


class Direction(Enum):
    """Seen from the host on whose link the faults are."""

    OUT = "out"
    IN = "in"


class Protocol(Enum):
    UDP = 17  # IANA protocol numbers
    TCP = 6


@dataclass(frozen=True, slots=True)
class Packet:
    """What a predicate sees of a whole UDP datagram or TCP segment, over IPv4 or IPv6.

    ``source`` and ``destination`` are the addresses' 4 or 16 bytes; ``ports`` in the same order.
    """

    protocol: Protocol
    source: bytes
    destination: bytes
    ports: tuple[int, int]
    payload: bytes


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
    """Keep it back until ``packets`` more chosen ones of its direction came (1 swaps it with the next),
    or ``seconds`` have passed, whichever is first; with neither, until the test says so.

    The end of the injection releases it in any case.
    """

    packets: int | None = 1
    seconds: float | None = None

    def __post_init__(self) -> None:
        _check_release(self.packets, self.seconds)


@dataclass(frozen=True, slots=True)
class Corrupt:
    """Flip these bits of the payload, counted from 0 and taken modulo its length in bits.

    ``recompute`` False leaves the UDP or TCP checksum as it was, so the receiver's kernel drops the packet;
    True makes it right again, so the damage reaches the application.
    """

    bits: tuple[int, ...]
    recompute: bool = True


@dataclass(frozen=True, slots=True)
class Truncate:
    """Keep only the first ``length`` bytes of the payload; lengths and checksum are made right."""

    length: int


Change: TypeAlias = Pass | Corrupt | Truncate


@dataclass(frozen=True, slots=True)
class Replay:
    """Forward it, remember it, and send ``times`` copies, each with ``change`` done to it: when ``packets``
    more chosen ones of its direction came, or after ``seconds``, whichever is first; and whenever the
    test says so, however often. With neither it is only remembered.

    Copies that are not due when the injection ends are not sent.
    """

    packets: int | None = None
    seconds: float | None = None
    times: int = 1
    change: Change = Pass()

    def __post_init__(self) -> None:
        _check_release(self.packets, self.seconds)


def _check_release(packets: int | None, seconds: float | None) -> None:
    if (packets is not None and packets < 0) or (seconds is not None and seconds < 0):
        raise ValueError(f"packets ({packets}) and seconds ({seconds}) to wait for are not negative")


Action: TypeAlias = Pass | Drop | Duplicate | Hold | Corrupt | Truncate | Replay
SWAP = Hold(1)
_KINDS = (Pass, Drop, Duplicate, Hold, Corrupt, Truncate, Replay)
ACTIONS = {kind.__name__.lower(): kind for kind in _KINDS}


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


@cache
def _packed(address: str) -> bytes:
    return ip_address(address).packed


@dataclass(frozen=True, slots=True)
class Match:
    """Which packets count; every condition given must hold. Sizes in bytes of UDP or TCP payload.

    ``port`` and ``address`` are the source's or the destination's; ``prefix`` stands ``offset`` bytes
    into the payload, ``contains`` anywhere in it. Raises ``ValueError`` for what is no address.
    """

    direction: Direction | None = None
    port: int | None = None
    min_size: int = 0
    max_size: int = 65535
    prefix: bytes = b""
    contains: bytes = b""
    offset: int = 0
    protocol: Protocol = Protocol.UDP
    source_port: int | None = None
    destination_port: int | None = None
    address: str | None = None
    source: str | None = None
    destination: str | None = None

    def __post_init__(self) -> None:
        for address in (self.address, self.source, self.destination):
            if address is not None:
                ip_address(address)

    def chooses(self, direction: Direction, packet: Packet) -> bool:
        """Does this packet count?"""
        return (
            packet.protocol is self.protocol
            and self.direction in {None, direction}
            and (self.port is None or self.port in packet.ports)
            and self.source_port in {None, packet.ports[0]}
            and self.destination_port in {None, packet.ports[1]}
            and self.min_size <= len(packet.payload) <= self.max_size
            and packet.payload.startswith(self.prefix, self.offset)
            and self.contains in packet.payload
            and (self.address is None or _packed(self.address) in (packet.source, packet.destination))
            and (self.source is None or _packed(self.source) == packet.source)
            and (self.destination is None or _packed(self.destination) == packet.destination)
        )


@dataclass(frozen=True, slots=True)
class FaultPlan:
    """Faults by number, by rate, or for all (a number given in ``script`` wins, then ``rates``).

    ``script`` counts the chosen packets of each direction from 0. ``otherwise`` meets those that the
    rates spare. ``limit`` ends both after so many chosen packets per direction; None never ends them.
    """

    seed: int = 0
    rates: Rates = field(default_factory=Rates)
    script: Mapping[int, Action] = field(default_factory=lambda: MappingProxyType({}))
    match: Match = field(default_factory=Match)
    limit: int | None = None
    otherwise: Action = Pass()

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
        return self.otherwise


def to_json(plan: FaultPlan) -> dict[str, Any]:
    """The plan as plain values; :func:`from_json` makes it again."""
    match = {each.name: getattr(plan.match, each.name) for each in fields(Match)}
    match["direction"] = plan.match.direction.value if plan.match.direction else None
    match["protocol"] = plan.match.protocol.value
    match["prefix"], match["contains"] = plan.match.prefix.hex(), plan.match.contains.hex()
    return {
        "seed": plan.seed,
        "limit": plan.limit,
        "rates": {each.name: getattr(plan.rates, each.name) for each in fields(Rates)},
        "script": [[index, _action_to_json(action)] for index, action in plan.script.items()],
        "match": match,
        "otherwise": _action_to_json(plan.otherwise),
    }


def _action_to_json(action: Action) -> dict[str, Any]:
    values = {each.name: getattr(action, each.name) for each in fields(action)}
    if isinstance(action, Replay):
        values["change"] = _action_to_json(action.change)
    return {"action": type(action).__name__.lower(), **values}


def from_json(value: dict[str, Any]) -> FaultPlan:
    """The inverse of :func:`to_json`; for our own output only (raises whatever a wrong one leads to)."""
    match = dict(value["match"])
    match["direction"] = Direction(match["direction"]) if match["direction"] else None
    match["protocol"] = Protocol(match["protocol"])
    match["prefix"], match["contains"] = bytes.fromhex(match["prefix"]), bytes.fromhex(match["contains"])
    script = {index: _action_from_json(action) for index, action in value["script"]}
    otherwise = _action_from_json(value["otherwise"])
    return FaultPlan(value["seed"], Rates(**value["rates"]), script, Match(**match), value["limit"], otherwise)


def _action_from_json(value: dict[str, Any]) -> Action:
    values = dict(value)
    kind = ACTIONS[values.pop("action")]
    if "bits" in values:
        values["bits"] = tuple(values["bits"])
    if "change" in values:
        values["change"] = _action_from_json(values["change"])
    made: Action = kind(**values)
    return made
