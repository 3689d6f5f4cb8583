"""A NAT's behaviour in the words of RFC 4787, for people. Pure."""

from __future__ import annotations

import re
from dataclasses import fields
from enum import Enum

from netlab.nat import Filtering, Mapping, Nat, Udp

_MAPPING = {
    Mapping.ENDPOINT_INDEPENDENT: "endpoint-independent mapping",
    Mapping.ADDRESS_DEPENDENT: "address-dependent mapping",
    Mapping.ADDRESS_AND_PORT_DEPENDENT: "address-and-port-dependent mapping",
}
_FILTERING = {
    Filtering.ENDPOINT_INDEPENDENT: "endpoint-independent filtering",
    Filtering.ADDRESS_DEPENDENT: "address-dependent filtering",
    Filtering.ADDRESS_AND_PORT_DEPENDENT: "address-and-port-dependent filtering",
}
_SAID = {"name", "translates", "mapping", "filtering", "port_preservation", "udp"}


def nat_words(nat: Nat) -> tuple[str, ...]:
    """What a router does, one phrase each; what a profile does not set apart is left out.

    A field that this function has no phrase for is said by its name where it differs from the default.
    """
    if not nat.translates:
        return ("no translation, no filter",)
    further = tuple(
        f"{each.name.replace('_', ' ')}: {_plain(getattr(nat, each.name))}"
        for each in fields(nat)
        if each.name not in _SAID and getattr(nat, each.name) != each.default
    )
    if nat.udp is not Udp.ALLOWED:
        return (f"UDP {nat.udp.value}", *further)
    ports = "port preservation" if nat.port_preservation else "no port preservation"
    return (_MAPPING[nat.mapping], _FILTERING[nat.filtering], ports, *further)


def slug(name: str) -> str:
    """A kind's name as one word of a command line: ``port-restricted-random-port``."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def _plain(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return str(value.value if isinstance(value, Enum) else value)
