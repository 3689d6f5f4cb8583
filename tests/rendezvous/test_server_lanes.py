"""Into which of a port's sockets the kernel puts what comes: the program of classic BPF, in a real kernel."""

from __future__ import annotations

import contextlib
import ipaddress
import random
import socket
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p2p.core.address import Address, encode_address
from p2p.core.errors import DecodeError, VersionError
from p2p.core.rendezvous.cookies import ADDRESS_OFFSET, CookieJar, TagKey, source_tag
from p2p.core.rendezvous.messages import Forward, Hello, Join, Leave, NamePair, Relay, decode, encode
from p2p.core.rendezvous.relay import RELAYED_FIRST_BYTES
from p2p.core.role import Role
from p2p.io.net.udp import IS_LINUX
from p2p.io.server.lanes import (
    ADD_K,
    AND_K,
    IP_HEADER,
    JEQ_K,
    JEQ_X,
    JMP,
    LD_BYTE,
    LD_HALF,
    LD_IMM,
    LD_MEM,
    LD_WORD,
    LDX_MEM,
    MUL_K,
    RET_A,
    RET_K,
    RSH_K,
    ST,
    TAX,
    XOR_X,
    Kind,
    classifier,
    dropped,
    open_lanes,
)

pytestmark = pytest.mark.skipif(not IS_LINUX, reason="other systems have one socket a port")

KEY = CookieJar(random.Random(3).randbytes).tag_key
NAMES = NamePair("alice", "bob")
HERE = "127.0.0.1"
STUN_REQUEST = b"\0\1\0\0\x21\x12\xa4\x42" + bytes(12)


class Port:
    """A port with lanes. What is sent over loopback is there when the call returns."""

    def __init__(self, stack: contextlib.ExitStack, host: str = HERE) -> None:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self.bound = stack.enter_context(socket.socket(family, socket.SOCK_DGRAM))
        self.bound.bind((host, 0))
        self.lanes = open_lanes(stack, self.bound, KEY)
        self._kinds = [kind for kind in Kind for _ in range(kind.value.lanes)]
        for lane in self.lanes:
            lane.socket.setblocking(False)
        self._stack = stack
        self._senders: dict[str, socket.socket] = {}

    def send(self, data: bytes, source: str) -> None:
        if source not in self._senders:
            self._senders[source] = self._stack.enter_context(socket.socket(self.bound.family, socket.SOCK_DGRAM))
            self._senders[source].bind((source, 0))
        self._senders[source].sendto(data, self.bound.getsockname())

    def taken(self) -> list[tuple[Kind, int]]:
        """Kind and number of the lane of each datagram that waits."""
        found = []
        for number, (kind, lane) in enumerate(zip(self._kinds, self.lanes, strict=True), start=1):
            with contextlib.suppress(BlockingIOError):
                while True:
                    lane.socket.recv(65536)
                    found.append((kind, number - kind.first))
        return found

    def kind_of(self, data: bytes, source: str = HERE) -> Kind | None:
        """None: dropped."""
        before = dropped(self.bound)
        self.send(data, source)
        found = self.taken()
        assert len(found) + dropped(self.bound) - before == 1
        return found[0][0] if found else None


@pytest.fixture
def port() -> Iterator[Port]:
    with contextlib.ExitStack() as stack:
        yield Port(stack)


def tagged_join(host: str, key: TagKey = KEY) -> bytes:
    tag = source_tag(key, encode_address(Address(host, 1))[ADDRESS_OFFSET:])
    return encode(Join(bytes(8), tag.to_bytes(4, "big") + bytes(12), bytes(16), Role.SENDER, NAMES))


@pytest.mark.parametrize("host", ["127.0.0.1", "127.255.3.254", "127.128.0.1"])
def test_only_who_was_given_a_cookie_gets_into_the_queue_of_renewals(port: Port, host: str) -> None:
    assert port.kind_of(tagged_join(host), host) is Kind.RENEWAL
    assert port.kind_of(tagged_join("127.0.0.2"), host) is Kind.NEWCOMER
    assert port.kind_of(tagged_join(host, KEY._replace(seed=KEY.seed ^ 1)), host) is Kind.NEWCOMER


def test_the_tag_is_that_of_the_cookies_which_the_server_gives(port: Port) -> None:
    jar, source = CookieJar(random.Random(3).randbytes), Address(HERE, 5)
    cookie = jar.bake(source, encode_address(source), 0, 1000.0)
    assert port.kind_of(encode(Join(bytes(8), cookie, bytes(16), Role.SENDER, NAMES))) is Kind.RENEWAL


def test_ipv6_has_tags_and_lanes_too() -> None:
    with contextlib.ExitStack() as stack:
        try:
            port = Port(stack, "::1")
        except OSError:
            pytest.skip("no IPv6 here")
        assert port.kind_of(tagged_join("::1"), "::1") is Kind.RENEWAL
        assert port.kind_of(tagged_join("::2"), "::1") is Kind.NEWCOMER
        assert port.kind_of(encode(Hello(bytes(8))), "::1") is Kind.NEWCOMER


def expected(data: bytes) -> Kind | None:
    """For what comes without a good tag."""
    if data[:1] and data[:1] in RELAYED_FIRST_BYTES and len(data) >= 4:
        return Kind.RELAYED
    if data[:2] == STUN_REQUEST[:2] and len(data) >= 4:
        return Kind.STUN
    try:
        message = decode(data)
    except VersionError:
        return Kind.NEWCOMER
    except DecodeError:
        return Kind.NEWCOMER if data[:3] == b"p2p" else None
    return Kind.SEATED if isinstance(message, Forward | Leave | Relay) else Kind.NEWCOMER


MESSAGES = [
    encode(Hello(b"12345678")),
    encode(Join(bytes(8), b"not a good one!!", bytes(16), Role.SENDER, NAMES)),
    encode(Forward(bytes(16), b"sealed")),
    encode(Leave(bytes(8), bytes(16))),
    encode(Relay(bytes(8), bytes(16))),
    b"p2p\x09\x01and what comes then",
    STUN_REQUEST,
    b"\xc0relayed",
    b"\xdfrelayed",
    b"\xbfnot relayed",
    b"GET / HTTP/1.1\r\n",
    b"",
]


@pytest.mark.parametrize("data", MESSAGES)
def test_what_the_machines_understand_reaches_them(port: Port, data: bytes) -> None:
    assert port.kind_of(data) is expected(data)


@settings(max_examples=200, deadline=None)
@given(
    data=st.one_of(
        st.binary(max_size=80), st.sampled_from(MESSAGES).flatmap(lambda each: st.binary().map(each.__add__))
    )
)
def test_nothing_that_decodes_is_dropped(data: bytes) -> None:
    with contextlib.ExitStack() as stack:
        port = Port(stack)
        found = port.kind_of(data)
        try:
            decode(data)
        except VersionError:
            assert found is Kind.NEWCOMER
        except DecodeError:
            if data[:3] != b"p2p":
                assert found in (expected(data), None)
        else:
            assert found is expected(data)


def test_a_network_has_one_lane_and_many_networks_have_all(port: Port) -> None:
    for host in range(1, 30):
        port.send(MESSAGES[0], f"127.7.7.{host}")
    assert len(set(port.taken())) == 1
    for network in range(200):
        port.send(MESSAGES[0], f"127.9.{network}.1")
    assert len(set(port.taken())) == Kind.NEWCOMER.value.lanes


def run(data: bytes, source: str) -> int:
    """What the program returns for a datagram over IPv6, of which loopback has but one address."""
    ip = b"\x60" + bytes(7) + encode_address(Address(source, 1))[ADDRESS_OFFSET:] + bytes(16)
    program, memory, at, a, x = classifier(KEY), [0] * 16, 0, 0, 0
    while True:
        code, jump, _, k = program[at]
        at += 1
        if code in (LD_WORD, LD_HALF, LD_BYTE):
            size = {LD_WORD: 4, LD_HALF: 2, LD_BYTE: 1}[code]
            packet, offset = (ip, k - IP_HEADER) if k >= IP_HEADER else (data, k)
            if offset + size > len(packet):
                return 0
            a = int.from_bytes(packet[offset : offset + size], "big")
        elif code == LD_IMM:
            a = k
        elif code == LD_MEM:
            a = memory[k]
        elif code == LDX_MEM:
            x = memory[k]
        elif code == ST:
            memory[k] = a
        elif code == TAX:
            x = a
        elif code in (JMP, JEQ_K, JEQ_X):
            at += k if code == JMP else jump if a == (k if code == JEQ_K else x) else 0
        elif code in (RET_A, RET_K):
            return a if code == RET_A else k
        else:
            a = {ADD_K: a + k, MUL_K: a * k, AND_K: a & k, RSH_K: a >> k, XOR_X: a ^ x}[code] & 0xFFFF_FFFF


def test_an_ipv6_network_is_a_56() -> None:
    first, hello = Kind.NEWCOMER.first, MESSAGES[0]
    assert len({run(hello, f"2001:db8:1:2{last:02x}:{last:x}::{last:x}") for last in range(256)}) == 1
    for spread in ("2001:db8:1:{:x}00::1", "2001:db8:{:x}::1", "2001:{:x}::1"):
        lanes = {run(hello, spread.format(number)) for number in range(256)}
        assert lanes == set(range(first, first + Kind.NEWCOMER.value.lanes))


@given(st.integers(0, 2**128 - 1), st.integers(0, 2**128 - 1))
def test_the_tag_of_an_ipv6_address_is_of_all_its_bits(one: int, other: int) -> None:
    hosts = [str(ipaddress.IPv6Address(number)) for number in (one, other)]
    renewals = range(Kind.RENEWAL.first, Kind.RENEWAL.first + Kind.RENEWAL.value.lanes)
    assert run(tagged_join(hosts[0]), hosts[0]) in renewals
    assert (run(tagged_join(hosts[0]), hosts[1]) in renewals) is (one == other)


def test_floods_of_all_kinds_leave_room_for_a_renewal(port: Port) -> None:
    for network in range(32):
        for data in MESSAGES:
            for _ in range(40):
                port.send(data * 20 if data[:1] == b"\xc0" else data, f"127.20.{network}.1")
    renewal = tagged_join(HERE)
    port.send(renewal, HERE)
    assert [kind for kind, _ in port.taken()].count(Kind.RENEWAL) == 1


def test_the_port_is_not_for_another_server(port: Port) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other, pytest.raises(OSError, match="in use"):
        other.bind(port.bound.getsockname())


def test_without_lanes_the_port_takes_all(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError("no such option")

    monkeypatch.setattr("p2p.io.server.lanes._attach", refuse)
    with contextlib.ExitStack() as stack:
        port = Port(stack)
        assert port.lanes == ()
        port.bound.setblocking(False)
        for data in MESSAGES:
            port.send(data, HERE)
            assert port.bound.recv(2048) == data
