"""The attacker off the path: builds forged packets and sends them under false addresses.

Runs as a process in the namespace of a machine, started by :meth:`netlab.lab.Lab.forge`:

    python -m netlab.forge

What to send comes as one line of JSON on stdin; a line ``ready`` on stdout says that it has begun. It
ends when stdin does, or when all is sent, and tells how much of each forgery was sent as one line of JSON.

Packets are built by hand: scapy makes some hundred a second. It judges them in the tests.
"""

from __future__ import annotations

import json
import select
import socket
import sys
import time
from functools import cache
from ipaddress import ip_address
from struct import Struct
from typing import assert_never

from netlab.forgery import Datagram, IcmpError, Problem, forged, from_json

TURN = 0.005  # seconds of sending at once
ICMP, UDP, ICMPV6 = 1, 17, 58  # IANA protocol numbers
TTL = 64  # of an error
MAX_QUOTE = 548  # bytes of the packet an error quotes; with it no error exceeds 576 (RFC 1812 section 4.3.2.3)

_IPV4 = Struct(">BBHHHBBH4s4s")  # RFC 791
_IPV6 = Struct(">IHBB16s16s")  # RFC 8200
_UDP = Struct(">HHHH")  # RFC 768
_ERROR = Struct(">BBHI")  # type, code, checksum, and the MTU or nothing: RFC 792, 1191 and 4443
_TYPES = {  # type and code, in ICMP and in ICMPv6
    Problem.PORT_UNREACHABLE: ((3, 3), (1, 4)),
    Problem.HOST_UNREACHABLE: ((3, 1), (1, 3)),
    Problem.PROHIBITED: ((3, 13), (1, 1)),
    Problem.TOO_BIG: ((3, 4), (2, 0)),
    Problem.TIME_EXCEEDED: ((11, 0), (3, 0)),
}


def built(packet: Datagram | IcmpError) -> tuple[bytes, str]:
    """The IP packet on the wire, and where it goes."""
    match packet:
        case Datagram():
            return _datagram(packet), packet.destination[0]
        case IcmpError(_, reporter, quoted, _):
            return _ip(reporter, quoted.source[0], *_error(packet), TTL), quoted.source[0]
        case _:
            assert_never(packet)


def _datagram(packet: Datagram) -> bytes:
    (source, source_port), (destination, destination_port) = packet.source, packet.destination
    length = _UDP.size + len(packet.payload)
    bare = _UDP.pack(source_port, destination_port, length, 0) + packet.payload
    sum_ = _checksum(_pseudo_header(source, destination, UDP, length) + bare) or 0xFFFF  # RFC 768: 0 means none
    return _ip(source, destination, UDP, bare[:6] + sum_.to_bytes(2, "big") + bare[8:], packet.ttl)


def _error(error: IcmpError) -> tuple[int, bytes]:
    """The protocol, and the message."""
    victim, quote = error.quoted.source[0], _datagram(error.quoted)[:MAX_QUOTE]
    is_v6 = ":" in victim
    kind, code = _TYPES[error.problem][is_v6]
    bare = _ERROR.pack(kind, code, 0, error.mtu) + quote
    covered = _pseudo_header(error.reporter, victim, ICMPV6, len(bare)) + bare if is_v6 else bare
    return ICMPV6 if is_v6 else ICMP, bare[:2] + _checksum(covered).to_bytes(2, "big") + bare[4:]


def _ip(source: str, destination: str, protocol: int, content: bytes, ttl: int) -> bytes:
    from_, to = _packed(source), _packed(destination)
    if len(from_) == 16:
        return _IPV6.pack(6 << 28, len(content), protocol, ttl, from_, to) + content
    dont_fragment = 0x4000
    fields = [0x45, 0, _IPV4.size + len(content), 0, dont_fragment, ttl, protocol, 0, from_, to]
    fields[7] = _checksum(_IPV4.pack(*fields))
    return _IPV4.pack(*fields) + content


def _pseudo_header(source: str, destination: str, protocol: int, length: int) -> bytes:
    """RFC 768 and RFC 8200 section 8.1; the longer fields of the latter add up to the same."""
    return _packed(source) + _packed(destination) + protocol.to_bytes(2, "big") + length.to_bytes(2, "big")


@cache
def _packed(address: str) -> bytes:
    return ip_address(address).packed


def _checksum(data: bytes) -> int:
    """RFC 1071: the ones' complement of the ones' complement sum of 16-bit words, which is a remainder."""
    value = int.from_bytes(data + bytes(len(data) % 2), "big") % 0xFFFF
    return (0xFFFF - value) % 0xFFFF


class _Sockets:
    """One raw socket a family, the header our own."""

    def __init__(self) -> None:
        self._made: dict[int, socket.socket] = {}

    def send(self, packet: bytes, destination: str) -> None:
        family = socket.AF_INET6 if ":" in destination else socket.AF_INET
        if family not in self._made:
            self._made[family] = socket.socket(family, socket.SOCK_RAW, socket.IPPROTO_RAW)
        self._made[family].sendto(packet, (destination, 0))


def main() -> None:
    """Send until stdin ends or all is sent."""
    job = json.loads(sys.stdin.readline())
    forgeries = from_json(job["forgeries"])
    seed, rate, total = job["seed"], job["rate"], job["count"]
    sockets, counts = _Sockets(), [0] * len(forgeries)
    print("ready", flush=True)
    begun = time.monotonic()
    sent = 0
    while total is None or sent < total:
        due = sent + 100 if rate is None else int((time.monotonic() - begun) * rate) + 1
        for number in range(sent, due if total is None else min(due, total)):
            index, which = divmod(number, len(forgeries))
            sockets.send(*built(forged(forgeries[which], seed, index)))
            counts[which] += 1
            sent += 1
        if select.select([sys.stdin], [], [], 0 if rate is None else TURN)[0]:
            break
    print(json.dumps(counts), flush=True)


if __name__ == "__main__":
    main()
