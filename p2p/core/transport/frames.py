"""Frames: the plaintext of SEALED packets (docs/protocol.md section 6)."""

from __future__ import annotations

from dataclasses import dataclass
from struct import Struct
from typing import assert_never

from p2p.core.errors import DecodeError
from p2p.core.transport.packets import MAX_CIPHERTEXT, MAX_PACKET_NUMBER, MAX_RECORD_NUMBER, TAG
from p2p.core.wire import Reader, text16

PADDING = 0
PING = 1
ACK = 2
SEGMENT = 3
CLOSE = 4
LONE_SEGMENT = 5
PATH_CHALLENGE = 6
PATH_RESPONSE = 7

MAX_ACK_RANGES = 129  # the first one and at most 128 further ones: an ACK then fits 1200 bytes with room for a PING
MAX_FAILED = 8  # records reported as failed in one ACK, the oldest first; the others wait for the next ACK
MAX_GAP = (1 << 32) - 1  # numbers between two ranges of an ACK
MAX_REASON = 512  # bytes of UTF-8 in CLOSE
SEGMENT_HEADER = 11  # bytes
CHALLENGE_LENGTH = 8  # bytes; RFC 9000 section 19.17

_ACK_FIELDS = Struct(">QIIIB")
_FAILED_FIELDS = Struct(">IB")
_RANGE_FIELDS = Struct(">II")
_SEGMENT_FIELDS = Struct(">BIHHH")


@dataclass(frozen=True, slots=True)
class Ping:
    """–"""


@dataclass(frozen=True, slots=True)
class Ack:
    """largest(8) delay(4, µs) record_limit(4) delivered(4) failed_count(1) {record(4) failures(1)}*
    range_count(1) first_length(4) {gap(4) length(4)}*

    `ranges` are half-open and go from the newest to the oldest; `delay` is in seconds.
    """

    ranges: tuple[tuple[int, int], ...]
    delay: float
    record_limit: int
    delivered: int
    failed: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True, slots=True)
class Segment:
    """record(4) offset(2) record_length(2) length(2) bytes

    `is_lone`: its sender sends no DATA packets any more, so whatever looks like one is forged.
    """

    record: int
    offset: int
    record_length: int
    data: bytes
    is_lone: bool = False


@dataclass(frozen=True, slots=True)
class Close:
    """exit_code(1) final(1) reason:text16"""

    exit_code: int
    final: bool
    reason: str


@dataclass(frozen=True, slots=True)
class PathChallenge:
    """data(8)"""

    data: bytes


@dataclass(frozen=True, slots=True)
class PathResponse:
    """data(8), as it stood in the challenge"""

    data: bytes


Frame = Ping | Ack | Segment | Close | PathChallenge | PathResponse


def encode_frame(frame: Frame) -> bytes:
    match frame:
        case Ping():
            return bytes([PING])
        case Ack():
            return _encode_ack(frame)
        case Segment(record, offset, record_length, data, is_lone):
            kind = LONE_SEGMENT if is_lone else SEGMENT
            return _SEGMENT_FIELDS.pack(kind, record, offset, record_length, len(data)) + data
        case Close(exit_code, final, reason):
            return bytes([CLOSE, exit_code, final]) + text16(clip(reason))
        case PathChallenge(data):
            return bytes([PATH_CHALLENGE]) + data
        case PathResponse(data):
            return bytes([PATH_RESPONSE]) + data
        case _:
            assert_never(frame)


def decode_frames(plaintext: bytes) -> list[Frame]:
    """All frames of a packet. Raises DecodeError if any of it is not a frame."""
    reader = Reader(plaintext)
    frames: list[Frame] = []
    while reader.remaining:
        kind = reader.uint(1)
        if kind == PADDING:
            if any(reader.rest()):
                raise DecodeError("padding is not zero")
        elif kind == PING:
            frames.append(Ping())
        elif kind == ACK:
            frames.append(_decode_ack(reader))
        elif kind in (SEGMENT, LONE_SEGMENT):
            frames.append(_decode_segment(reader, is_lone=kind == LONE_SEGMENT))
        elif kind == CLOSE:
            frames.append(_decode_close(reader))
        elif kind == PATH_CHALLENGE:
            frames.append(PathChallenge(reader.take(CHALLENGE_LENGTH)))
        elif kind == PATH_RESPONSE:
            frames.append(PathResponse(reader.take(CHALLENGE_LENGTH)))
        else:
            raise DecodeError(f"unknown frame type {kind}")
    return frames


def clip(reason: str) -> str:
    """The reason cut to what CLOSE may carry, never in the middle of a character."""
    return reason.encode("utf-8", "replace")[:MAX_REASON].decode("utf-8", "ignore")


def _encode_ack(ack: Ack) -> bytes:
    start, end = ack.ranges[0]
    delay = min(round(ack.delay * 1e6), (1 << 32) - 1)
    parts = [bytes([ACK]), _ACK_FIELDS.pack(end - 1, delay, ack.record_limit, ack.delivered, len(ack.failed))]
    parts += [_FAILED_FIELDS.pack(record, failures) for record, failures in ack.failed]
    first_length = (end - start).to_bytes(4, "big")
    further = []
    for low, high in ack.ranges[1:]:
        if start - high > MAX_GAP:  # a forged number far ahead; the peer learns of it, and what is below can wait
            break
        further.append(_RANGE_FIELDS.pack(start - high, high - low))
        start = low
    return b"".join([*parts, bytes([len(further)]), first_length, *further])


def _decode_ack(reader: Reader) -> Ack:
    largest, delay, record_limit, delivered, failed_count = _ACK_FIELDS.unpack(reader.take(_ACK_FIELDS.size))
    failed = tuple(_FAILED_FIELDS.iter_unpack(reader.take(_FAILED_FIELDS.size * failed_count)))
    range_count = reader.uint(1)
    if largest >= MAX_PACKET_NUMBER or range_count >= MAX_ACK_RANGES:
        raise DecodeError("ACK out of range")
    end = largest + 1
    start = end - reader.uint(4)
    ranges = [(start, end)]
    for gap, length in _RANGE_FIELDS.iter_unpack(reader.take(_RANGE_FIELDS.size * range_count)):
        if not gap:
            raise DecodeError("ACK ranges touch")
        end = start - gap
        start = end - length
        ranges.append((start, end))
    if start < 0 or any(low >= high for low, high in ranges):
        raise DecodeError("ACK range is empty or below zero")
    return Ack(tuple(ranges), delay / 1e6, record_limit, delivered, failed)


def _decode_segment(reader: Reader, *, is_lone: bool) -> Segment:
    record, offset, record_length = reader.uint(4), reader.uint(2), reader.uint(2)
    data = reader.bytes16()
    if not TAG <= record_length <= MAX_CIPHERTEXT or not data or offset + len(data) > record_length:
        raise DecodeError("segment lies outside its record")
    if record > MAX_RECORD_NUMBER:
        raise DecodeError("record number out of range")
    return Segment(record, offset, record_length, data, is_lone)


def _decode_close(reader: Reader) -> Close:
    exit_code, final = reader.uint(1), reader.uint(1)
    if final > 1:
        raise DecodeError("CLOSE is neither first nor final")
    return Close(exit_code, bool(final), reader.text16(MAX_REASON))
