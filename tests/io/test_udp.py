"""UDP sockets on loopback, with and without offload."""

from __future__ import annotations

import contextlib
import errno
import select
import socket
import sys
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p2p.core.address import Address
from p2p.core.datagram import Transmit
from p2p.io.net import udp
from p2p.io.net.interfaces import machine_addresses
from p2p.io.net.udp import SendResult, UdpSocket

linux_only = pytest.mark.skipif(sys.platform != "linux", reason="a Linux socket option")


@pytest.fixture(params=["127.0.0.1", "::1", "::"])
def pair(request: pytest.FixtureRequest) -> Iterator[tuple[UdpSocket, UdpSocket, Address]]:
    with contextlib.ExitStack() as stack:
        try:
            sender, receiver = (stack.enter_context(contextlib.closing(UdpSocket.bind(request.param))) for _ in "12")
        except OSError:
            pytest.skip("no IPv6 here")
        host = "127.0.0.1" if request.param == "::" else request.param  # a "::" socket speaks IPv4 too
        yield sender, receiver, Address(host, receiver.address.port)


def read(sock: UdpSocket, length: int) -> list[tuple[bytes, int, Address]]:
    """Everything until `length` bytes have come."""
    found: list[tuple[bytes, int, Address]] = []
    while sum(len(data) for data, _, _ in found) < length:
        assert select.select([sock], [], [], 5)[0], "nothing arrived"
        found += [(bytes(data), size, source) for data, size, source in sock.receive()]
    return found


def datagrams(reads: list[tuple[bytes, int, Address]]) -> list[bytes]:
    found = []
    for data, size, _ in reads:
        step = size or len(data)
        found += [data[start : start + step] for start in range(0, len(data), step)]
    return found


def numbered(count: int, size: int, last: int) -> bytes:
    return b"".join(bytes([index]) * (size if index < count - 1 else last) for index in range(count))


def test_one_datagram_and_its_source(pair: tuple[UdpSocket, UdpSocket, Address]) -> None:
    sender, receiver, address = pair
    assert sender.send(Transmit(address, (b"hel", bytearray(b"lo")))) is SendResult.SENT
    [(data, size, source)] = read(receiver, 5)
    assert (data, size) == (b"hello", 0)
    assert source == Address(address.host, sender.address.port)


@pytest.mark.parametrize("offload", [True, False])
def test_a_burst_arrives_as_its_datagrams(pair: tuple[UdpSocket, UdpSocket, Address], offload: bool) -> None:
    sender, receiver, address = pair
    sender.uses_offload = sender.uses_offload and offload
    data = numbered(54, 1200, 900)
    assert sender.send(Transmit(address, (data[:100], data[100:]), 1200)) is SendResult.SENT
    assert datagrams(read(receiver, len(data))) == [data[start : start + 1200] for start in range(0, len(data), 1200)]


@linux_only
def test_a_burst_crosses_loopback_in_one_piece(pair: tuple[UdpSocket, UdpSocket, Address]) -> None:
    sender, receiver, address = pair
    assert sender.uses_offload
    data = numbered(50, 1300, 1)
    sender.send(Transmit(address, (data,), 1300))
    assert [(len(read_data), size) for read_data, size, _ in read(receiver, len(data))] == [(len(data), 1300)]


@linux_only
def test_the_largest_burst(pair: tuple[UdpSocket, UdpSocket, Address]) -> None:
    sender, receiver, address = pair
    data = numbered(54, 1213, udp.MAX_PAYLOAD - 53 * 1213)
    assert len(data) == udp.MAX_PAYLOAD
    assert sender.send(Transmit(address, (data,), 1213)) is SendResult.SENT
    assert sender.uses_offload
    assert len(datagrams(read(receiver, len(data)))) == 54


def test_environment_turns_offload_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("P2P_NO_GSO", "1")
    with (
        contextlib.closing(UdpSocket.bind("127.0.0.1")) as sock,
        contextlib.closing(UdpSocket.bind("127.0.0.1")) as other,
    ):
        assert not sock.uses_offload
        data = numbered(10, 1200, 7)
        sock.send(Transmit(other.address, (data,), 1200))
        assert datagrams(read(other, len(data))) == [data[start : start + 1200] for start in range(0, len(data), 1200)]


class RefusingSocket:
    """A real socket whose kernel refuses to send: bursts only (a network card without UDP_SEGMENT), or everything."""

    def __init__(self, error: OSError, *, bursts_only: bool) -> None:
        self._sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._error = error
        self._bursts_only = bursts_only
        self.refused = 0

    def __getattr__(self, name: str) -> object:
        return getattr(self._sock, name)

    def sendmsg(self, buffers: object, ancillary: list[object], flags: int, address: object) -> int:
        if ancillary or not self._bursts_only:
            self.refused += 1
            raise self._error
        return self._sock.sendmsg(buffers, ancillary, flags, address)  # type: ignore[arg-type]


@linux_only
@pytest.mark.parametrize("error", [errno.EIO, errno.EINVAL])
def test_a_refused_burst_goes_out_unsegmented_and_offload_stays_off(error: int) -> None:
    with contextlib.closing(UdpSocket.bind("127.0.0.1")) as receiver:
        refusing = RefusingSocket(OSError(error, "refused"), bursts_only=True)
        sender = UdpSocket(refusing)  # type: ignore[arg-type]
        data = numbered(5, 1200, 100)
        for _ in range(2):
            assert sender.send(Transmit(receiver.address, (data,), 1200)) is SendResult.SENT
            assert len(datagrams(read(receiver, len(data)))) == 5
        assert refusing.refused == 1
        assert not sender.uses_offload
        sender.close()


@linux_only
def test_a_burst_refused_for_its_length_leaves_offload_on() -> None:
    """A kernel that calls segments above the interface's MTU an invalid argument, and single datagrams too long."""

    class NarrowSocket(RefusingSocket):
        def sendmsg(self, buffers: object, ancillary: list[object], flags: int, address: object) -> int:  # noqa: ARG002
            raise OSError(errno.EINVAL if ancillary else errno.EMSGSIZE, "refused")

    sender = UdpSocket(NarrowSocket(OSError(), bursts_only=False))  # type: ignore[arg-type]
    assert sender.send(Transmit(Address("127.0.0.1", 9), (bytes(6000),), 1472)) is SendResult.TOO_BIG
    assert sender.uses_offload
    sender.close()


@linux_only
def test_too_big_for_the_interface() -> None:
    with contextlib.closing(UdpSocket.bind("127.0.0.1")) as sock:
        assert sock.send(Transmit(sock.address, (bytes(65_535),))) is SendResult.TOO_BIG
        assert sock.send(Transmit(sock.address, (b"small",))) is SendResult.SENT


def test_a_full_send_buffer_says_so() -> None:
    """Loopback empties the buffer at once, so a socket that refuses stands in for a slow card."""
    sock = UdpSocket(RefusingSocket(BlockingIOError(), bursts_only=False))  # type: ignore[arg-type]
    for segment_size in (0, 1200):
        result = sock.send(Transmit(Address("127.0.0.1", 9), (bytes(2400),), segment_size))
        assert result is SendResult.WOULD_BLOCK
        assert not result
    assert bool(SendResult.SENT)
    sock.close()


def test_a_refused_connection_is_soft() -> None:
    with contextlib.closing(UdpSocket.bind("127.0.0.1")) as sock:
        with contextlib.closing(UdpSocket.bind("127.0.0.1")) as gone:
            address = gone.address
        for _ in range(3):
            assert sock.send(Transmit(address, (b"anybody?",))) is SendResult.SENT
            assert list(sock.receive()) == []


def test_a_first_refusal_by_the_firewall_is_soft_and_a_lasting_one_is_not() -> None:
    firewall = RefusingSocket(PermissionError(errno.EPERM, "refused"), bursts_only=False)
    sock = UdpSocket(firewall)  # type: ignore[arg-type]
    transmit = Transmit(Address("127.0.0.1", 9), (b"x",))
    assert [sock.send(transmit) for _ in range(udp.MAX_REFUSED_SENDS)] == [SendResult.SENT] * udp.MAX_REFUSED_SENDS
    with pytest.raises(PermissionError):
        sock.send(transmit)
    sock.close()


@linux_only
def test_ttl_is_set_for_one_transmit_only() -> None:
    with contextlib.closing(UdpSocket.bind("127.0.0.1")) as sender:
        receiver = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        receiver.bind(("127.0.0.1", 0))
        receiver.settimeout(5)
        receiver.setsockopt(socket.IPPROTO_IP, 12, 1)  # IP_RECVTTL
        address = Address(*receiver.getsockname())
        seen = []
        for ttl in (None, 3, None):
            sender.send(Transmit(address, (b"x",), ttl=ttl))
            _, ancillary, _, _ = receiver.recvmsg(10, 64)
            seen.append(int.from_bytes(ancillary[0][2], sys.byteorder))
        receiver.close()
        assert seen[1] == 3
        assert seen[0] == seen[2] > 3


@linux_only
def test_buffers_are_enlarged_and_fragments_forbidden() -> None:
    with contextlib.closing(UdpSocket.bind("127.0.0.1")) as sock:
        assert sock.receive_buffer > 212_992
        assert sock.send_buffer > 212_992
        raw = socket.socket(fileno=sock.fileno())
        assert raw.getsockopt(socket.IPPROTO_IP, udp.IP_MTU_DISCOVER) == udp.IP_PMTUDISC_PROBE
        raw.detach()


def test_a_call_reads_a_bounded_batch() -> None:
    with contextlib.closing(UdpSocket.bind("127.0.0.1")) as sock:
        for index in range(udp.BATCH + 5):
            sock.send(Transmit(sock.address, (bytes([index]) * (index + 1),)))  # ever longer ones make no burst
        first = [data[0] for data, _, _ in sock.receive()]
        assert first == list(range(len(first)))
        assert udp.BATCH <= len(first) <= udp.BATCH + 1
        assert [data[0] for data, _, _ in sock.receive()] == list(range(len(first), udp.BATCH + 5))
        for _ in range(udp.READS + 5):
            sock.send(Transmit(sock.address, (b"x",)))  # and those of one size few
        assert sum(len(data) for data, _, _ in sock.receive()) == udp.READS
        assert sum(len(data) for data, _, _ in sock.receive()) == 5


@given(st.lists(st.tuples(st.booleans(), st.sampled_from([1, 7, 1200, 1201, 1472, 9000])), max_size=150))
@settings(deadline=None, max_examples=50)
def test_what_comes_one_by_one_keeps_its_order_its_bounds_and_its_sources(sent: list[tuple[bool, int]]) -> None:
    with (
        contextlib.closing(UdpSocket.bind("127.0.0.1")) as receiver,
        contextlib.closing(UdpSocket.bind("127.0.0.1")) as one,
        contextlib.closing(UdpSocket.bind("127.0.0.1")) as two,
    ):
        expected = []
        for number, (is_one, size) in enumerate(sent):
            sender, data = one if is_one else two, number.to_bytes(1, "big") * size
            assert sender.send(Transmit(receiver.address, (data,)))
            expected.append((data, sender.address))
        reads = read(receiver, sum(size for _, size in sent))
        found = [(each, source) for data, size, source in reads for each in datagrams([(data, size, source)])]
        assert found == expected
        assert all(len(data) <= udp.RUN_SIZE + 9000 and len(data) <= (size or 9000) * 64 for data, size, _ in reads)


@linux_only
def test_what_comes_one_by_one_is_one_burst() -> None:
    with contextlib.closing(UdpSocket.bind("127.0.0.1")) as sock:
        data = numbered(43, 1472, 500)
        for start in range(0, len(data), 1472):
            sock.send(Transmit(sock.address, (data[start : start + 1472],)))
        assert read(sock, len(data)) == [(data, 1472, sock.address)]


def test_a_link_local_address_has_its_interface_coming_and_going() -> None:
    host = next((each.host for each in machine_addresses() if "%" in each.host), None)
    if host is None:
        pytest.skip("no link-local address here")
    with contextlib.closing(UdpSocket.bind("::")) as one, contextlib.closing(UdpSocket.bind("::")) as two:
        assert one.send(Transmit(Address(host, two.address.port), (b"hello",)))
        assert read(two, 5) == [(b"hello", 0, Address(host, one.address.port))]
        assert two.send(Transmit(Address(host, one.address.port), (numbered(5, 1200, 9),), 1200))
        assert len(datagrams(read(one, 4809))) == 5


def test_an_interface_that_is_gone_or_a_version_that_is_off_is_soft() -> None:
    with contextlib.closing(UdpSocket.bind_all()) as sock:
        assert sock.send(Transmit(Address("fe80::1%gone", 9), (b"x",))) is SendResult.SENT
    with contextlib.closing(UdpSocket.bind("127.0.0.1")) as sock:
        assert sock.send(Transmit(Address("2001:db8::1", 9), (b"x",))) is SendResult.SENT


def test_where_ipv6_is_off_ipv4_is_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    create = socket.socket

    def without_ipv6(family: int = socket.AF_INET, *rest: int) -> socket.socket:
        if family == socket.AF_INET6:
            raise OSError(errno.EAFNOSUPPORT, "Address family not supported by protocol")
        return create(family, *rest)

    monkeypatch.setattr(socket, "socket", without_ipv6)
    with contextlib.closing(UdpSocket.bind_all()) as sock:
        assert sock.address.host == "0.0.0.0"


def test_one_socket_speaks_to_both_versions_in_turn() -> None:
    """What was converted last is remembered, and is not taken for what comes next."""
    with contextlib.closing(UdpSocket.bind_all()) as sender, contextlib.closing(UdpSocket.bind_all()) as receiver:
        if sender.address.host != "::":
            pytest.skip("no IPv6 here")
        for host in ("127.0.0.1", "::1", "127.0.0.1", "127.0.0.2", "::1"):
            sender.send(Transmit(Address(host, receiver.address.port), (host.encode(),)))
            [(data, _, source)] = read(receiver, len(host))
            assert data.decode() == host
            assert source == Address("::1" if host == "::1" else "127.0.0.1", sender.address.port)
