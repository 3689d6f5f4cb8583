"""What a peer knows of the NAT before it, in the words of RFC 4787; part of its description."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Final, TypeVar

from p2p.core.errors import DecodeError
from p2p.core.wire import Reader, uint

PRESERVES: Final = 0x01
LAST_PORT: Final = 65535

Member = TypeVar("Member", bound=IntEnum)


class Mapping(IntEnum):
    """Mapping behaviour (RFC 4787 section 4.1), as far as the server's addresses and ports can tell."""

    UNKNOWN = 0
    ENDPOINT_INDEPENDENT = 1
    ADDRESS_DEPENDENT = 2
    ADDRESS_AND_PORT_DEPENDENT = 3
    DESTINATION_DEPENDENT = 4  # one of the two; a server with one address cannot tell which
    NO_UDP = 5
    NOT_PORT_DEPENDENT = 6  # endpoint-independent or address-dependent; as above. Nearly always the former


@dataclass(frozen=True, slots=True)
class NatReport:
    """mapping(1) flags(1) stride(2, signed) first(2) last(2) newest(2)

    `stride`: how far apart the external ports of mappings made one after the other are; 0: at random, or not known.
    `ports`: the external ports that may be given (half-open), empty when nothing is known of them; on the wire its
    first and last port, both 0 when empty. `newest`: the external port of the newest mapping, 0 when not known.
    """

    mapping: Mapping = Mapping.UNKNOWN
    preserves_ports: bool = False
    stride: int = 0
    ports: range = range(0)
    newest: int = 0

    @property
    def is_predictable(self) -> bool:
        """Whether the port of the next mapping can be told beforehand, or does not change."""
        seems_independent = self.mapping in (Mapping.ENDPOINT_INDEPENDENT, Mapping.NOT_PORT_DEPENDENT)
        return seems_independent or (self.is_dependent and self.stride != 0)

    @property
    def is_dependent(self) -> bool:
        """Whether each destination, or each new address, sees another port (a "symmetric" NAT)."""
        return self.mapping in (
            Mapping.ADDRESS_DEPENDENT,
            Mapping.ADDRESS_AND_PORT_DEPENDENT,
            Mapping.DESTINATION_DEPENDENT,
        )

    def encode(self) -> bytes:
        first, last = (self.ports[0], self.ports[-1]) if self.ports else (0, 0)
        stride = self.stride.to_bytes(2, "big", signed=True)
        flags = PRESERVES if self.preserves_ports else 0
        return bytes([self.mapping, flags]) + stride + uint(first, 2) + uint(last, 2) + uint(self.newest, 2)

    @classmethod
    def read(cls, reader: Reader) -> NatReport:
        """Raises DecodeError."""
        mapping = reader.member(Mapping)
        if (flags := reader.uint(1)) & ~PRESERVES:
            raise DecodeError(f"unknown flags {flags:#x}")
        stride = int.from_bytes(reader.take(2), "big", signed=True)
        first, last, newest = reader.uint(2), reader.uint(2), reader.uint(2)
        if first > last or (first == 0) is not (last == 0):
            raise DecodeError(f"ports from {first} to {last}")
        return cls(mapping, bool(flags), stride, range(first, last + 1) if last else range(0), newest)
