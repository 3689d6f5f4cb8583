"""When events happen: a seeded schedule, decided before anything runs. Pure.

The time of an event depends on the seed and on the event's number in the schedule, on nothing else:
the same schedule gives the same times, and a further event at its end moves none before it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from netlab.events import (
    BlackholeOff,
    BlackholeOn,
    ChangeMtu,
    ChangePorts,
    Event,
    FlushMappings,
    KillService,
    LinkDown,
    LinkUp,
    Rebind,
    StartService,
    Way,
    from_json,
    to_json,
)

ETHERNET_MTU = 1500  # bytes
LOW_MTU = (1280, 1492)  # bytes, half-open: what tunnels leave of Ethernet's


@dataclass(frozen=True, slots=True)
class At:
    """``event`` happens in [``seconds``, ``seconds + spread``) from the start, to be drawn from the seed."""

    seconds: float
    event: Event
    spread: float = 0.0

    def __post_init__(self) -> None:
        for name in ("seconds", "spread"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0):
                raise ValueError(f"{name} is a finite number of seconds from 0 on, not {value}")


@dataclass(frozen=True, slots=True)
class Due:
    """``event`` happens so many seconds after the start."""

    seconds: float
    event: Event


@dataclass(frozen=True, slots=True)
class Schedule:
    """Events, and the seed that their exact times are drawn from."""

    events: tuple[At, ...]
    seed: int = 0

    def times(self) -> tuple[Due, ...]:
        """What happens when, the earliest first; events of one time in the order they are given."""
        drawn = (
            Due(at.seconds + at.spread * Random(f"{self.seed} {number}").random(), at.event)
            for number, at in enumerate(self.events)
        )
        return tuple(sorted(drawn, key=lambda due: due.seconds))

    def to_json(self) -> str:
        """One line to reproduce it by."""
        return json.dumps({
            "seed": self.seed,
            "events": [{"at": at.seconds, "spread": at.spread, **to_json(at.event)} for at in self.events],
        })

    @classmethod
    def from_json(cls, text: str) -> Schedule:
        """What :meth:`to_json` gave; raises ``ValueError`` saying what is wrong."""
        value = json.loads(text)
        try:
            events = tuple(
                At(each.pop("at"), spread=each.pop("spread", 0.0), event=from_json(each)) for each in value["events"]
            )
            return cls(events, value["seed"])
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"this is no schedule: {error!r}") from error


@dataclass(frozen=True, slots=True)
class Targets:
    """What a random schedule may hit; ``routers`` translate."""

    hosts: tuple[str, ...] = ()
    routers: tuple[str, ...] = ()
    services: tuple[str, ...] = ()


def random_schedule(
    seed: int, targets: Targets, *, seconds: float, count: int, longest: float = 2.0, moves: bool = False
) -> Schedule:
    """``count`` disturbances within ``seconds``, for a soak test.

    Each that takes something away gives it back at most ``longest`` seconds later and before the
    end, and what is away is not taken a second time. ``moves`` also flushes, rebinds and
    changes ports. Raises ``ValueError`` when there is nothing to hit or no time to hit it in.
    """
    if not (0 < longest < seconds and math.isfinite(seconds)):
        raise ValueError(f"a disturbance of up to {longest} s does not fit into {seconds} s")
    random = Random(f"{seed} schedule")
    pairs = _pairs(random, targets)
    single: list[Event] = [
        kind(router) for router in targets.routers for kind in (FlushMappings, Rebind, ChangePorts) if moves
    ]
    if not pairs and not single:
        raise ValueError("nothing to hit: give hosts, services or (with moves) routers")
    slot = seconds / max(1, count)  # each in a slot of its own, so that none meets another
    events: list[At] = []
    for number in range(count):
        choice = random.randrange(len(pairs) + len(single))
        start = number * slot + random.uniform(0, slot / 2)
        if choice >= len(pairs):
            events.append(At(start, single[choice - len(pairs)]))
            continue
        away, back = pairs[choice]()
        length = random.uniform(0, min(longest, slot / 2))
        events += [At(start, away), At(start + length, back)]
    return Schedule(tuple(events), seed)


def _pairs(random: Random, targets: Targets) -> list[Callable[[], tuple[Event, Event]]]:
    """What can be taken away, with how it is given back; details are drawn when it is called."""

    def pull(host: str) -> tuple[Event, Event]:
        return LinkDown(host), LinkUp(host)

    def swallow(host: str) -> tuple[Event, Event]:
        return BlackholeOn(host, random.choice(list(Way))), BlackholeOff(host)

    def narrow(router: str) -> tuple[Event, Event]:
        low = ChangeMtu(router, random.randrange(*LOW_MTU), icmp=random.random() < 0.5)
        return low, ChangeMtu(router, ETHERNET_MTU)

    def kill(service: str) -> tuple[Event, Event]:
        return KillService(service), StartService(service)

    return [
        *((lambda make=make, host=host: make(host)) for host in targets.hosts for make in (pull, swallow)),
        *((lambda router=router: narrow(router)) for router in targets.routers),
        *((lambda service=service: kill(service)) for service in targets.services),
    ]
