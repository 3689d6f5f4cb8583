"""Ethernet frames: what a predicate sees of one, and the same frame with a damaged payload.

Looking reads a few bytes; scapy dissects only what is to be altered.
"""

from __future__ import annotations

from typing import assert_never

from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Ether
from scapy.packet import Raw

from netlab.faults import Change, Corrupt, Packet, Pass, Protocol, Truncate

ETHERNET = 14  # bytes of header
TYPE_IPV4, TYPE_IPV6 = b"\x08\x00", b"\x86\xdd"
IPV6_HEADER = 40  # bytes; a packet with extension headers, fragments included, is not looked into
_HEADERS = {Protocol.UDP.value: 8, Protocol.TCP.value: 20}  # bytes, at least


def packet_in(frame: bytes) -> Packet | None:
    """The UDP datagram or TCP segment in an Ethernet frame, or None for anything else (fragments included)."""
    kind = frame[12:ETHERNET]
    if kind == TYPE_IPV4 and len(frame) >= ETHERNET + 20:
        header = (frame[ETHERNET] & 0x0F) * 4
        length = int.from_bytes(frame[16:18], "big")
        if header < 20 or int.from_bytes(frame[20:22], "big") & 0x3FFF:  # more fragments, or an offset
            return None
        return _packet(frame, frame[23], ETHERNET + header, ETHERNET + length, (26, 30, 34))
    if kind == TYPE_IPV6 and len(frame) >= ETHERNET + IPV6_HEADER:
        start = ETHERNET + IPV6_HEADER
        end = start + int.from_bytes(frame[18:20], "big")
        return _packet(frame, frame[20], start, end, (22, 38, 54))
    return None


def _packet(frame: bytes, protocol: int, start: int, end: int, addresses: tuple[int, int, int]) -> Packet | None:
    """``start`` and ``end`` of UDP or TCP in the frame; where ``addresses`` begin, and the last one ends."""
    if protocol not in _HEADERS or end > len(frame) or end < start + _HEADERS[protocol]:
        return None
    header = 8 if protocol == Protocol.UDP.value else (frame[start + 12] >> 4) * 4
    ports = (int.from_bytes(frame[start : start + 2], "big"), int.from_bytes(frame[start + 2 : start + 4], "big"))
    source, destination, last = addresses
    return Packet(
        Protocol(protocol), frame[source:destination], frame[destination:last], ports, frame[start + header : end]
    )


def alter(frame: bytes, change: Change) -> bytes:
    """The frame with ``change`` done to the payload that :func:`packet_in` finds in it."""
    packet = packet_in(frame)
    if packet is None:
        return frame
    match change:
        case Pass():
            return frame
        case Corrupt(bits, recompute):
            return _with_payload(frame, flipped(packet.payload, bits), recompute=recompute)
        case Truncate(length):
            return _with_payload(frame, packet.payload[:length], recompute=True)
        case _:
            assert_never(change)


def flipped(payload: bytes, bits: tuple[int, ...]) -> bytes:
    """``payload`` with each of these bits inverted (bit 0 is the lowest of the first byte)."""
    changed = bytearray(payload)
    for bit in bits if changed else ():
        byte, shift = divmod(bit % (len(changed) * 8), 8)
        changed[byte] ^= 1 << shift
    return bytes(changed)


def _with_payload(frame: bytes, payload: bytes, *, recompute: bool) -> bytes:
    packet = Ether(frame)
    transport = packet[UDP] if UDP in packet else packet[TCP]
    transport.remove_payload()
    transport.add_payload(Raw(payload))
    if recompute:
        # scapy fills in what is absent.
        del transport.chksum
        if UDP in packet:
            del transport.len
        if IPv6 in packet:
            del packet[IPv6].plen
        else:
            del packet[IP].len, packet[IP].chksum
    return bytes(packet)
