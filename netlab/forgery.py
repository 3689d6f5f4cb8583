"""What an attacker sends who sees none of the traffic: false sources, guessed ports and contents. Pure, seeded.

A packet depends on the seed, the forgery and the packet's number only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, is_dataclass
from enum import Enum
from ipaddress import ip_address
from random import Random
from typing import Any, TypeAlias, assert_never

ANY_PORT = 65536
QUOTED_SIZE = 1200  # bytes of UDP payload in the datagram that a forged error complains of


@dataclass(frozen=True, slots=True)
class Given:
    """These, one after the other, and again from the first."""

    values: tuple[int, ...]

    def __post_init__(self) -> None:
        if not self.values:
            raise ValueError("nothing given to choose from")


@dataclass(frozen=True, slots=True)
class Span:
    """``first`` up to, not including, ``end``, in order and again from the first: a scan."""

    first: int
    end: int

    def __post_init__(self) -> None:
        if not 0 <= self.first < self.end:
            raise ValueError(f"no numbers from {self.first} up to {self.end}")


@dataclass(frozen=True, slots=True)
class Drawn(Span):
    """Any of ``first`` up to, not including, ``end``, each time anew."""


Guess: TypeAlias = Given | Span | Drawn


@dataclass(frozen=True, slots=True)
class Fixed:
    """These bytes."""

    data: bytes


@dataclass(frozen=True, slots=True)
class Number:
    """A big-endian field of ``size`` bytes; what is guessed is cut to it."""

    size: int
    guess: Guess


@dataclass(frozen=True, slots=True)
class Noise:
    """``min_size`` to ``max_size`` random bytes, both included: sizes on the wire."""

    min_size: int
    max_size: int

    def __post_init__(self) -> None:
        if not 0 <= self.min_size <= self.max_size:
            raise ValueError(f"no size from {self.min_size} to {self.max_size} bytes")


@dataclass(frozen=True, slots=True)
class Mutated:
    """A packet seen elsewhere with ``bits`` of its bits inverted (fewer when two hit the same one)."""

    template: bytes
    bits: int = 1


Part: TypeAlias = Fixed | Number | Noise | Mutated


@dataclass(frozen=True, slots=True)
class Spoofed:
    """A UDP datagram that claims to come from ``source``, its payload the parts one behind the other.

    Addresses are IPv4 or IPv6, both the same. Raises ``ValueError`` for others.
    """

    source: str
    destination: str
    source_ports: Guess
    destination_ports: Guess
    payload: tuple[Part, ...]
    ttl: int = 64

    def __post_init__(self) -> None:
        _check_addresses(self.source, self.destination)


class Problem(Enum):
    """What a forged ICMP error complains of (RFC 792 and 4443)."""

    PORT_UNREACHABLE = "port unreachable"
    HOST_UNREACHABLE = "host unreachable"
    PROHIBITED = "administratively prohibited"
    TOO_BIG = "fragmentation needed"
    TIME_EXCEEDED = "time exceeded"


@dataclass(frozen=True, slots=True)
class ForgedError:
    """An ICMP error in which ``reporter`` tells ``victim`` that it could not deliver a UDP datagram, which
    it quotes: from the victim's port to ``remote``. ``mtu`` (bytes) is what ``TOO_BIG`` claims.

    Routers hand it on to the machine behind them, and kernels to the socket, when the quote fits a flow.
    """

    problem: Problem
    reporter: str
    victim: str
    remote: str
    victim_ports: Guess
    remote_ports: Guess
    mtu: int = 0

    def __post_init__(self) -> None:
        _check_addresses(self.reporter, self.victim, self.remote)


Forgery: TypeAlias = Spoofed | ForgedError


def _check_addresses(*addresses: str) -> None:
    if len({ip_address(address).version for address in addresses}) > 1:
        raise ValueError(f"IPv4 and IPv6 in one packet: {', '.join(addresses)}")


@dataclass(frozen=True, slots=True)
class Datagram:
    """One UDP datagram, all guesses made."""

    source: tuple[str, int]
    destination: tuple[str, int]
    payload: bytes
    ttl: int


@dataclass(frozen=True, slots=True)
class IcmpError:
    """One ICMP error, all guesses made; ``quoted`` is what could not be delivered."""

    problem: Problem
    reporter: str
    quoted: Datagram
    mtu: int


def forged(forgery: Forgery, seed: int, index: int) -> Datagram | IcmpError:
    """Packet ``index`` of ``forgery``."""
    random = Random(f"{seed} {index}")
    match forgery:
        case Spoofed(source, destination, source_ports, destination_ports, payload, ttl):
            ports = _guessed(source_ports, random, index), _guessed(destination_ports, random, index)
            data = b"".join(_bytes_of(part, random, index) for part in payload)
            return Datagram((source, ports[0]), (destination, ports[1]), data, ttl)
        case ForgedError(problem, reporter, victim, remote, victim_ports, remote_ports, mtu):
            ports = _guessed(victim_ports, random, index), _guessed(remote_ports, random, index)
            quoted = Datagram((victim, ports[0]), (remote, ports[1]), bytes(QUOTED_SIZE), 60)
            return IcmpError(problem, reporter, quoted, mtu)
        case _:
            assert_never(forgery)


def _guessed(guess: Guess, random: Random, index: int) -> int:
    match guess:
        case Given(values):
            return values[index % len(values)]
        case Drawn(first, end):  # before Span, of which it is one
            return random.randrange(first, end)
        case Span(first, end):
            return first + index % (end - first)
        case _:
            assert_never(guess)


def _bytes_of(part: Part, random: Random, index: int) -> bytes:
    match part:
        case Fixed(data):
            return data
        case Number(size, guess):
            return (_guessed(guess, random, index) % (1 << 8 * size)).to_bytes(size, "big")
        case Noise(min_size, max_size):
            return random.randbytes(random.randint(min_size, max_size))
        case Mutated(template, bits):
            changed = bytearray(template)
            for _ in range(bits if changed else 0):
                bit = random.randrange(8 * len(changed))
                changed[bit // 8] ^= 1 << bit % 8
            return bytes(changed)
        case _:
            assert_never(part)


_KINDS = {kind.__name__: kind for kind in (Given, Span, Drawn, Fixed, Number, Noise, Mutated, Spoofed, ForgedError)}


def to_json(forgeries: Sequence[Forgery]) -> Any:
    """The forgeries as plain values; :func:`from_json` makes them again."""
    return _plain(tuple(forgeries))


def from_json(value: Any) -> tuple[Forgery, ...]:
    """The inverse of :func:`to_json`; for our own output only (raises whatever a wrong one leads to)."""
    made: tuple[Forgery, ...] = _made(value)
    return made


def _plain(value: Any) -> Any:
    if is_dataclass(value):
        parts = {each.name: _plain(getattr(value, each.name)) for each in fields(value)}
        return {"kind": type(value).__name__, **parts}
    match value:
        case tuple():
            return [_plain(each) for each in value]
        case bytes():
            return {"hex": value.hex()}
        case Problem():
            return {"problem": value.value}
        case _:
            return value


def _made(value: Any) -> Any:
    match value:
        case list():
            return tuple(_made(each) for each in value)
        case {"hex": text}:
            return bytes.fromhex(text)
        case {"kind": kind}:
            return _KINDS[kind](**{name: _made(each) for name, each in value.items() if name != "kind"})
        case {"problem": text}:
            return Problem(text)
        case _:
            return value
