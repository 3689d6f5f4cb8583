"""Every decoder takes any bytes at all and raises DecodeError (or RemoteError, for the stream) and nothing else."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from p2p.core import address
from p2p.core.contacts import messages as contacts
from p2p.core.discovery import messages as discovery
from p2p.core.errors import DecodeError, RemoteError
from p2p.core.portmap import nat_pmp, pcp, upnp, xml
from p2p.core.portmap.http import ResponseReader
from p2p.core.punch import checks
from p2p.core.punch.description import Description
from p2p.core.rendezvous import messages as rendezvous
from p2p.core.session import messages as session
from p2p.core.stun import messages as stun
from p2p.core.transfer import codec as transfer
from p2p.core.transfer.entries import decode_entry
from p2p.core.transport import frames, packets
from p2p.core.transport.tcp import TcpChannel, TcpKeys
from p2p.core.wire import Reader

KEY = bytes(32)
DECODERS: dict[str, Callable[[bytes], object]] = {
    "address": address.decode_address,
    "rendezvous": rendezvous.decode,
    "discovery": discovery.decode,
    "discovery, sealed contents": discovery.decode_content,
    "session, with a code": lambda data: session.decode_message(data, session.Mode.CODE),
    "session, without": lambda data: session.decode_message(data, session.Mode.OPEN),
    "session, of contacts": lambda data: session.decode_message(data, session.Mode.CONTACT),
    "bye": session.decode_bye,
    "contacts": contacts.decode,
    "description": Description.decode,
    "check": lambda data: checks.decode(data, KEY),
    "STUN": stun.decode,
    "frames": frames.decode_frames,
    "NAT-PMP": nat_pmp.decode,
    "PCP": pcp.decode,
    "answer to a UPnP search": lambda data: upnp.parse_search_answer(data, "192.168.1.1"),
    "HTTP": lambda data: ResponseReader().feed(data),
    "XML": xml.parse,
    "data packet": packets.decode_data,
    "data burst": lambda data: packets.decode_burst(data, 100),
    "transfer": transfer.decode,
    "entry of a transfer": lambda data: decode_entry(Reader(data)),
}
# prefixes that lead deep into each decoder
STARTS = [
    b"\x01\x01\x00\x0c!\x12\xa4B" + bytes(12), b"\x00\x01\x00\x08!\x12\xa4B" + bytes(12),
    b"", b"p2p\x01", b"lan\x01", b"\x01", b"\x01\x01\x01", b"\xc0\x00", b"\xc1", b"\xd0" + bytes(7), b"\x02", b"\x04",
    b"\x01\x02\x00\x01" + bytes(36), b"\x02\x03\x01\xa4" + bytes(16), b"\x0f" + bytes(8),
    b"\x06", b"\x01\x07", b"\0\x81\0\0", b"\x02\x81\0\0", b"HTTP/1.1 200 OK\r\nLOCATION:", b"<a>", b"<!DOCTYPE a ",
    b"\x14\x01\x01", b"\x14\x01",
]  # fmt: skip


@pytest.mark.parametrize("name", DECODERS)
@given(start=st.sampled_from(STARTS), data=st.binary(max_size=300), kind=st.integers(0, 255))
@example(start=b"", data=b"", kind=0)
def test_any_bytes_decode_or_raise_decode_error(name: str, start: bytes, data: bytes, kind: int) -> None:
    for message in (start + data, start + bytes([kind]) + data, bytes([kind]) + data):
        with contextlib.suppress(DecodeError):
            DECODERS[name](message)


@pytest.mark.parametrize("connector", [True, False])
@given(chunks=st.lists(st.binary(max_size=200), max_size=10), honest_start=st.booleans())
def test_any_bytes_on_a_tcp_connection_raise_remote_error_or_nothing(
    connector: bool, chunks: list[bytes], honest_start: bool
) -> None:
    keys = [bytes([number]) * 32 for number in range(4)]
    entropy = random.Random(7).randbytes
    channel = TcpChannel(TcpKeys(*keys), connector=connector, random_bytes=entropy)
    with contextlib.suppress(RemoteError):
        if honest_start:
            swapped = TcpKeys(keys[1], keys[0], keys[3], keys[2])
            other = TcpChannel(swapped, connector=not connector, random_bytes=entropy)
            for _ in range(2):
                for side, peer in ((channel, other), (other, channel)):
                    for buffer in side.poll_output():
                        peer.handle_data(buffer)
            assert channel.is_open
        for chunk in chunks:
            channel.handle_data(chunk)
    assert channel.poll_record() is None
