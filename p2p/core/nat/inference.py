"""What samples of a NAT's mappings say about it; pure functions, no state."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain, combinations, pairwise
from math import comb, gcd
from typing import Final

from p2p.core.address import Address
from p2p.core.nat_report import LAST_PORT, Mapping

FIRST_PORT: Final = 1024  # below it NATs give out no ports of themselves (RFC 4787 section 4.2.2, REQ-3)
ALL_PORTS: Final = LAST_PORT + 1 - FIRST_PORT
# How likely a conclusion may be drawn from ports that were in truth chosen at random.
CHANCE: Final = 1e-3
# How likely a pool that was found may in truth be twice as large: then the other half is never probed.
MISS: Final = 1e-2
MIN_SAMPLES: Final = 3  # two steps: one alone says nothing of how far apart ports are
SMALLEST_POOL: Final = 1024  # ports; no carrier gives less to a subscriber that it wants to keep (RFC 7422: 1024 up)
MAX_STEP: Final = 256  # ports; further apart, others open so many mappings that no prediction helps


@dataclass(frozen=True, slots=True)
class Sample:
    """A mapping as a STUN server saw it. `number`: the order in which mappings were asked for.

    `is_in_order` is False when the request was sent more than once: then nobody knows which one made the mapping.
    """

    number: int
    local: int
    port: int  # that the local socket is bound to
    destination: Address
    mapped: Address
    is_in_order: bool = True


@dataclass(frozen=True, slots=True)
class Pool:
    """The external ports that may be given. `chance`: that random ones out of all ports look like this."""

    ports: range
    chance: float


def mapping_of(samples: Iterable[Sample]) -> Mapping:
    """RFC 4787 section 4.1, no further than the destinations tell.

    Two ports of one address that see us differently: address-and-port-dependent. Two that see us alike leave
    endpoint-independent and address-dependent, which only a second address tells apart.
    """
    by_local: dict[int, list[Sample]] = {}
    for sample in samples:
        by_local.setdefault(sample.local, []).append(sample)
    same_address = other_address = None  # whether destinations that differ (only) so saw us alike
    for one, two in chain.from_iterable(combinations(each, 2) for each in by_local.values()):
        if one.destination == two.destination:
            continue
        alike = one.mapped == two.mapped
        if one.destination.host == two.destination.host:
            same_address = alike and same_address is not False
        else:
            other_address = alike and other_address is not False
    match same_address, other_address:
        case False, _:
            return Mapping.ADDRESS_AND_PORT_DEPENDENT
        case _, True:
            return Mapping.ENDPOINT_INDEPENDENT
        case True, False:
            return Mapping.ADDRESS_DEPENDENT
        case None, False:
            return Mapping.DESTINATION_DEPENDENT
        case True, None:
            return Mapping.NOT_PORT_DEPENDENT
        case _:
            return Mapping.UNKNOWN


def preserves_ports(samples: Iterable[Sample]) -> bool:
    """RFC 4787 section 4.2.1: whether every mapping has the port of its socket."""
    samples = list(samples)
    return bool(samples) and all(sample.mapped.port == sample.port for sample in samples)


def new_ports(samples: Iterable[Sample]) -> list[int]:
    """The external ports of mappings, each once, in the order in which the NAT gave them.

    Those of the newest one's external address: the others are of a time before it changed, or the NAT has several
    (RFC 4787 section 4.1, "arbitrary" pooling), and each has its own ports.
    """
    ordered = sorted((sample for sample in samples if sample.is_in_order), key=lambda sample: sample.number)
    if not ordered:
        return []
    host = ordered[-1].mapped.host
    return list(dict.fromkeys(sample.mapped.port for sample in ordered if sample.mapped.host == host))


def stride_of(ports: Sequence[int], out_of_order: Iterable[int] = ()) -> int:
    """How far apart a NAT that counts sets the ports of new mappings, negative downward; 0: it does not count.

    `ports` in the order in which they were given. Between two of them others may have got theirs, so that a step is a
    multiple of the stride; one step of four or more may be anything, for the NAT begins anew somewhere. So are the
    distances of ports `out_of_order`, which were given in between, or not long before or after.
    """
    if len(ports) < MIN_SAMPLES:
        return 0
    steps = [after - before for before, after in pairwise(ports)]
    exceptions = 1 if len(steps) >= 4 else 0
    for sign in (1, -1):
        right = [abs(step) for step in steps if 0 < sign * step <= MAX_STEP]
        if len(right) < len(steps) - exceptions:
            continue
        left_out = len(steps) - len(right)
        # Each step at random lies on the right side, and this near, with less than widest / SMALLEST_POOL.
        chance = 2 * comb(len(steps), left_out) * (max(right) / SMALLEST_POOL) ** len(right)
        if chance <= CHANCE:
            distances = (min(abs(port - other) for port in ports) for other in out_of_order)
            return sign * gcd(*right, *(distance for distance in distances if distance <= MAX_STEP))
    return 0


def pool_of(ports: Sequence[int]) -> Pool | None:
    """The port block that random ports come from, where chance does not explain that they lie so near each other.

    A block is 2^n ports from a multiple of 2^n (RFC 7422), SMALLEST_POOL at least. It is taken as large as needed for
    MISS, and None is returned when ports out of all would lie in it with more than CHANCE.
    """
    count = len(set(ports))
    if count < MIN_SAMPLES:
        return None
    bits = max((min(ports) ^ max(ports)).bit_length(), SMALLEST_POOL.bit_length() - 1)
    # All of `count` in one part of 2^doublings equal ones: 2^(-doublings · (count - 1)).
    while 2.0 ** (-(bits + 1 - (min(ports) ^ max(ports)).bit_length()) * (count - 1)) > MISS:
        bits += 1
    chance = (2**bits / ALL_PORTS) ** (count - 1)
    if chance > CHANCE:
        return None
    start = min(ports) >> bits << bits
    return Pool(range(max(start, FIRST_PORT), min(start + (1 << bits), LAST_PORT + 1)), chance)
