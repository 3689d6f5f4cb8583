"""What can happen to a running laboratory, as plain data that survives JSON. Pure.

:meth:`netlab.lab.Lab.apply` makes one happen; :mod:`netlab.schedule` says when.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from enum import Enum
from typing import Any, TypeAlias

from netlab import impair
from netlab.impair import Impairment

MTUS = range(576, 65536)  # bytes; RFC 791 section 3.1: what every host must take, and the longest packet


class Way(Enum):
    """A direction, as seen from the host."""

    UP = "up"
    DOWN = "down"
    BOTH = "both"


@dataclass(frozen=True, slots=True)
class FlushMappings:
    """The router forgets every mapping and all that it let in, as after a restart."""

    router: str


@dataclass(frozen=True, slots=True)
class Rebind:
    """The router gets another external address, as from a provider that renumbers at night."""

    router: str


@dataclass(frozen=True, slots=True)
class ChangePorts:
    """The router keeps its address and maps all UDP to other external ports."""

    router: str


@dataclass(frozen=True, slots=True)
class LinkDown:
    """The host's cable is pulled: its carrier is lost."""

    host: str


@dataclass(frozen=True, slots=True)
class LinkUp:
    """The host's cable is plugged in again."""

    host: str


@dataclass(frozen=True, slots=True)
class BlackholeOn:
    """Packets from the host (up), to it (down) or both vanish; its carrier stays, nobody is told."""

    host: str
    way: Way = Way.BOTH


@dataclass(frozen=True, slots=True)
class BlackholeOff:
    """Packets from and to the host pass again."""

    host: str


@dataclass(frozen=True, slots=True)
class ChangeMtu:
    """The link from a router (or core hop) towards the world takes only so many bytes.

    With ``icmp`` whoever sends a longer packet that must not be fragmented is told (RFC 1191, RFC
    8201); without, it vanishes: a PMTU black hole (RFC 2923 section 2.1).
    """

    where: str
    mtu: int  # bytes of an IP packet
    icmp: bool = True

    def __post_init__(self) -> None:
        if self.mtu not in MTUS:
            raise ValueError(f"an MTU is {MTUS.start} to {MTUS[-1]} bytes, not {self.mtu}")


@dataclass(frozen=True, slots=True)
class Impair:
    """A link that is impaired already (:meth:`netlab.lab.Lab.impair`) is so in another way."""

    host: str
    up: Impairment | None = None
    down: Impairment | None = None


@dataclass(frozen=True, slots=True)
class KillService:
    """The service ends at once, by SIGKILL."""

    service: str


@dataclass(frozen=True, slots=True)
class StartService:
    """A service that was killed runs again."""

    service: str


Event: TypeAlias = (
    FlushMappings
    | Rebind
    | ChangePorts
    | LinkDown
    | LinkUp
    | BlackholeOn
    | BlackholeOff
    | ChangeMtu
    | Impair
    | KillService
    | StartService
)
_TYPES = (
    FlushMappings, Rebind, ChangePorts, LinkDown, LinkUp, BlackholeOn, BlackholeOff, ChangeMtu, Impair,
    KillService, StartService,
)  # fmt: skip
_NAMES: dict[type, str] = {kind: re.sub(r"(?<!^)(?=[A-Z])", "-", kind.__name__).lower() for kind in _TYPES}
_KINDS: dict[str, Callable[..., Event]] = {name: kind for kind, name in _NAMES.items()}


def name_of(event: Event) -> str:
    """``flush-mappings``, ``link-down``, ...: the event's name in JSON and in a timeline."""
    return _NAMES[type(event)]


def to_json(event: Event) -> dict[str, Any]:
    """``{"event": NAME, FIELD: VALUE, ...}``."""
    return {"event": name_of(event)} | {
        field.name: _plain(value) for field in fields(event) if (value := getattr(event, field.name)) is not None
    }


def from_json(value: Mapping[str, Any]) -> Event:
    """The event again; raises ``ValueError`` saying what is wrong."""
    name = value.get("event")
    if name not in _KINDS:
        raise ValueError(f"no event is called {name!r}; there are: {', '.join(_KINDS)}")
    parsers: dict[str, Callable[[Any], Any]] = {"way": Way, "up": impair.from_json, "down": impair.from_json}
    try:
        return _KINDS[name](**{key: parsers.get(key, _same)(each) for key, each in value.items() if key != "event"})
    except (TypeError, AttributeError) as error:
        raise ValueError(f"{name}: {error}") from error


def _same(value: Any) -> Any:
    return value


def _plain(value: str | float | Way | Impairment) -> Any:
    match value:
        case Way():
            return value.value
        case Impairment():
            return impair.to_json(value)
        case _:
            return value
