"""The load of `python -m bench server`: addresses, datagrams, figures."""

from __future__ import annotations

import contextlib
import ctypes
import math
import random
import socket
import time
from collections import Counter

import pytest

from bench import flood, introductions, rows
from bench.crowd import Commands, Crowd, Peer, host_of, percentile
from bench.introductions import PEERS
from bench.world import World
from p2p.core.address import Address
from p2p.core.prefix import prefix
from p2p.core.rendezvous.messages import Join, decode, encode
from p2p.core.rendezvous.server import RendezvousServer
from p2p.core.rendezvous.server_events import Limits
from p2p.core.role import Role


def test_every_peer_has_an_address_and_no_network_is_full() -> None:
    hosts = [host_of(index) for index in range(Limits().entries + 5_000)]
    assert len(set(hosts)) == len(hosts)
    assert all(
        flooded.split(".")[1] not in {host.split(".")[1] for host in hosts} for flooded in ("127.130", "127.254")
    )
    networks = Counter(prefix(Address(host, 1)) for host in hosts)
    assert max(networks.values()) <= Limits().entries_per_network
    assert Limits().entries > PEERS


def test_percentiles() -> None:
    values = [float(value) for value in range(100, 0, -1)]
    assert percentile(values, 0.5) == 50
    assert percentile(values, 0.99) == 99
    assert percentile([7.0], 0.99) == 7
    assert math.isnan(percentile([], 0.5))


def test_what_a_peer_sends_is_a_join() -> None:
    peer = Peer(77, "127.1.2.3", "me", "friend", Role.RECEIVER)
    other = Peer(78, "127.1.2.3", "me", "friend", Role.RECEIVER)
    join = decode(b"p2p\1\3" + bytes(8) + bytes(16) + peer.tail)
    assert isinstance(join, Join)
    assert join.client == peer.client != other.client


def test_peers_take_seats_renew_and_leave_at_a_real_socket() -> None:
    machine = RendezvousServer(random.Random(1).randbytes)
    with contextlib.ExitStack() as stack, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.1", 0))
        server.setblocking(False)
        crowd = stack.enter_context(contextlib.closing(Crowd(server.getsockname())))
        peers = [crowd.add(host_of(index), f"me-{index}", f"you-{index}") for index in range(20)]

        def serve() -> None:
            for _ in range(200):
                try:
                    data, source = server.recvfrom(2048)
                except BlockingIOError:
                    break
                machine.handle_datagram(data, Address(*source), 0, 1.0)
                while (transmit := machine.poll_transmit()) is not None:
                    server.sendto(transmit.data, transmit.destination)
            crowd.turn(0.0)

        for peer in peers:
            crowd.arrive(peer, time.monotonic())
        while any(peer.asked or not peer.seen for peer in peers):
            serve()
        assert len(machine) == len(crowd.fresh) == 20
        crowd.leave(peers[0], time.monotonic())
        while len(machine) == 20:
            serve()
        assert crowd.lost_seats == 0


def test_newcomers_that_are_never_let_in_count_with_the_time_that_they_have_waited() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as mute:
        mute.bind(("127.0.0.1", 0))
        commands = Commands(mute.getsockname())
        with contextlib.closing(commands.crowd):
            found = commands.watch(0.05, 200.0, patience=0.05)
    assert found["came"] > found["came_in"] == 0
    assert found["fresh_p99"] > 0.05


@pytest.mark.parametrize("kind", sorted(set(flood.KINDS) - {"random", "all"}))
def test_the_flood_is_what_a_server_has_to_look_at(kind: str) -> None:
    (maker,) = flood.KINDS[kind]
    data = maker(random.Random(4))
    assert encode(decode(data)) == data


def test_datagrams_of_the_flood_leave_from_addresses_of_their_own() -> None:
    assert ctypes.sizeof(flood._Message) == 64
    source = random.Random(2)
    wanted = [(bytes([number]) * 20, flood.host(source)) for number in range(10)]
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as target,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock,
    ):
        target.bind(("127.0.0.1", 0))
        sock.bind(("0.0.0.0", 0))
        prepared = flood.Prepared(wanted, target.getsockname())
        assert prepared.send(sock, 2, 5) == 5
        found = [target.recvfrom(2048) for _ in range(5)]
    assert [(data, host) for data, (host, _) in found] == wanted[2:7]


@pytest.mark.netlab
def test_every_kind_of_row_is_measured_at_a_real_server(monkeypatch: pytest.MonkeyPatch) -> None:
    """The whole of it, but for the server that is full, with a thousandth of the peers."""
    said: list[str] = []
    monkeypatch.setattr(introductions, "PEERS", 100)
    with World() as world:
        chosen = [
            row
            for row in introductions.rows(world, seconds=0.2)
            if row.name in ("nobody else there", "100 wait", "100 others wait and renew", "random bytes")
        ]
        outcomes = rows.measure(chosen, 1, said.append)
    assert len(outcomes) == len(said) == 4
    assert not [failure for outcome in outcomes.values() for failure in outcome.failures]
