"""The STUN server as a machine: RFC 8489, RFC 5780, the form of RFC 3489, and what strangers may make it send."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_stun_messages import errors, requests, successes

from p2p.core.address import Address
from p2p.core.rate import Rate
from p2p.core.stun.messages import (
    ENDPOINTS_ROOM,
    Error,
    Indication,
    Request,
    ServerEndpoints,
    Success,
    decode,
    encode,
)
from p2p.core.stun.server import Endpoints, StunLimits, StunServer, looks_like_stun

TRANSACTION = bytes(range(12))
CLASSIC = bytes(range(16))
CLIENT = Address("198.51.100.7", 40000)
CLIENT_V6 = Address("2001:db8::7", 40000)
ONE = Endpoints((8080, 8081), ("192.0.2.1",))
TWO = Endpoints((8080, 8081), ("192.0.2.1", "192.0.2.2"))
TWO_V6 = Endpoints((8080, 8081), ("2001:db8::1", "2001:db8::2"))
ALL = Endpoints((8080, 8081))


def ask(endpoints: Endpoints, request: Request, index: int = 0) -> tuple[int, Success | Error]:
    answer = StunServer(endpoints).handle_datagram(encode(request), CLIENT, index, 0.0)
    assert answer is not None
    message = decode(answer.data)
    assert isinstance(message, Success | Error)
    assert message.transaction == request.transaction
    return answer.index, message


def test_a_bare_request_is_answered_with_the_address_and_no_more_where_there_is_one_host() -> None:
    assert ask(ONE, Request(TRANSACTION), 1) == (1, Success(TRANSACTION, CLIENT))
    assert ask(ALL, Request(TRANSACTION), 1) == (1, Success(TRANSACTION, CLIENT))


@pytest.mark.parametrize("index", range(4))
def test_with_two_hosts_the_answer_says_where_from_and_where_else(index: int) -> None:
    sockets = [Address(host, port) for host in TWO.hosts for port in TWO.ports]
    expected = Success(TRANSACTION, CLIENT, sockets[index], sockets[3 - index])
    assert ask(TWO, Request(TRANSACTION), index) == (index, expected)


@pytest.mark.parametrize("index", range(4))
@pytest.mark.parametrize(("change_ip", "change_port"), [(False, True), (True, False), (True, True)])
def test_change_request_is_honoured(index: int, change_ip: bool, change_port: bool) -> None:
    sockets = [Address(host, port) for host in TWO.hosts for port in TWO.ports]
    leaving = index ^ 2 * change_ip ^ change_port
    request = Request(TRANSACTION, change_ip=change_ip, change_port=change_port)
    assert ask(TWO, request, index) == (leaving, Success(TRANSACTION, CLIENT, sockets[leaving], sockets[3 - index]))


def test_one_host_changes_its_port_and_says_that_it_cannot_change_its_address() -> None:
    assert ask(ONE, Request(TRANSACTION, change_port=True))[0] == 1
    refusal = 0, Error(TRANSACTION, 420, (0x0003,))
    assert ask(ONE, Request(TRANSACTION, change_ip=True)) == refusal
    assert ask(ALL, Request(TRANSACTION, change_ip=True, change_port=True)) == refusal


def test_a_classic_request_gets_a_classic_answer() -> None:
    request = Request(CLASSIC, change_ip=True, change_port=True)
    expected = Success(CLASSIC, CLIENT, Address("192.0.2.2", 8081), Address("192.0.2.2", 8081))
    assert ask(TWO, request) == (3, expected)
    assert ask(ONE, Request(CLASSIC)) == (0, Success(CLASSIC, CLIENT, Address("192.0.2.1", 8080)))


@pytest.mark.parametrize(
    ("endpoints", "index", "expected"),
    [(ALL, 0, None), (ONE, 1, None), (TWO, 0, "192.0.2.2"), (TWO, 1, "192.0.2.2"), (TWO, 2, "192.0.2.1")],
)
def test_our_own_peers_are_told_the_endpoints(endpoints: Endpoints, index: int, expected: str | None) -> None:
    request = Request(TRANSACTION, room=ENDPOINTS_ROOM)
    assert ask(endpoints, request, index)[1] == Success(
        TRANSACTION, CLIENT, endpoints=ServerEndpoints((8080, 8081), expected)
    )


def test_an_attribute_that_would_have_to_be_understood_is_named() -> None:
    assert ask(TWO, Request(TRANSACTION, unknown=(0x7001, 0x7002))) == (0, Error(TRANSACTION, 420, (0x7001, 0x7002)))


def test_a_response_port_is_answered_there_at_the_same_address_and_not_below_1024() -> None:
    server = StunServer(TWO)
    answer = server.handle_datagram(encode(Request(TRANSACTION, response_port=5000)), CLIENT, 0, 0.0)
    assert answer is not None
    assert answer.destination == Address(CLIENT.host, 5000)
    assert server.handle_datagram(encode(Request(TRANSACTION, response_port=53)), CLIENT, 0, 0.0) is None


def test_padding_comes_back_but_makes_the_answer_longer_than_neither_request_nor_packet() -> None:
    request = encode(Request(TRANSACTION, padding=1000))
    answer = StunServer(TWO).handle_datagram(request, CLIENT, 0, 0.0)
    assert answer is not None
    assert 900 < len(answer.data) <= len(request)
    answer = StunServer(TWO).handle_datagram(encode(Request(TRANSACTION, padding=1500)), CLIENT, 0, 0.0)
    assert answer is not None
    assert 1200 < len(answer.data) <= 1232


@given(st.one_of(successes, errors, st.builds(Indication, st.binary(min_size=12, max_size=12))))
def test_nothing_but_a_request_is_answered(message: Success | Error | Indication) -> None:
    assert StunServer(TWO).handle_datagram(encode(message), CLIENT, 0, 0.0) is None


@given(requests, st.integers(0, 3), st.sampled_from([ONE, TWO, TWO_V6, ALL]))
def test_an_answer_with_room_is_never_longer_and_any_other_by_72_bytes_at_most(
    request: Request, index: int, endpoints: Endpoints
) -> None:
    source = CLIENT_V6 if endpoints is TWO_V6 else CLIENT
    data = encode(request)
    answer = StunServer(endpoints).handle_datagram(data, source, index % (2 * max(1, len(endpoints.hosts))), 0.0)
    if answer is not None:
        has_room = request.room >= ENDPOINTS_ROOM and not request.unknown and not request.is_classic
        assert len(answer.data) - len(data) <= (0 if has_room else 72)


def test_longer_answers_are_capped_per_network_and_in_all_and_ours_are_not() -> None:
    limits = StunLimits(Rate(burst=64, per_second=128), Rate(burst=32, per_second=16))
    server = StunServer(TWO, limits)
    bare, padded = encode(Request(TRANSACTION)), encode(Request(TRANSACTION, room=ENDPOINTS_ROOM))

    def answered(data: bytes, source: Address, now: float) -> bool:
        return server.handle_datagram(data, source, 0, now) is not None

    neighbours = [Address(f"198.51.100.{number}", 4000) for number in range(100)]
    assert sum(answered(bare, source, 0.0) for source in neighbours) == 32
    strangers = [Address(f"203.0.{number}.1", 4000) for number in range(100)]
    assert sum(answered(bare, source, 0.0) for source in strangers) == 32
    assert all(answered(padded, source, 0.0) for source in neighbours + strangers)
    assert sum(answered(bare, source, 1.0) for source in neighbours) == 16
    assert sum(answered(bare, source, 1.0) for source in strangers) == 48
    assert server.counters.stun_throttled == 68 + 68 + 84 + 52


def test_answers_to_another_port_count_even_if_they_are_short() -> None:
    server = StunServer(TWO, StunLimits(network=Rate(burst=5, per_second=20)))
    request = encode(Request(TRANSACTION, response_port=5000, room=ENDPOINTS_ROOM))
    assert sum(server.handle_datagram(request, CLIENT, 0, 0.0) is not None for _ in range(50)) == 5


def test_networks_of_the_past_are_forgotten() -> None:
    server = StunServer(TWO)
    for number in range(20_000):
        source = Address(f"{1 + number // 65536}.{number // 256 % 256}.{number % 256}.1", 4000)
        server.handle_datagram(encode(Request(TRANSACTION)), source, 0, number / 1000)
    assert len(vars(server)["_network_debts"]) <= 4000


@given(st.binary(max_size=100))
def test_any_bytes_are_answered_or_not(data: bytes) -> None:
    server = StunServer(TWO)
    server.handle_datagram(data, CLIENT, 0, 0.0)
    assert looks_like_stun(data) is (data[:1] < b"\x40" and data != b"")
