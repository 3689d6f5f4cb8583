"""What a router's table of bindings must get right beyond a single flow."""

from __future__ import annotations

import re
import socket
import time
from dataclasses import replace

import pytest

from netlab import kernel
from netlab.filters import flush_text
from netlab.lab import Lab, Node
from netlab.nat import (
    ADDRESS_RESTRICTED,
    CARRIER,
    CARRIER_OPEN,
    FULL_CONE,
    FULL_CONE_HAIRPIN,
    FULL_CONE_RANDOM,
    NONE,
    SYMMETRIC_OPEN,
    SYMMETRIC_SEQUENTIAL,
    Filtering,
    Lifetime,
    Nat,
)
from netlab.rules import SEQUENCE_LENGTH
from netlab.topology import one_lan, two_nats

LIMIT = 20  # seconds for one packet

Address = tuple[str, int]


def bound(node: Node, address: str, port: int = 0) -> socket.socket:
    made = node.socket()
    made.bind((address, port))
    made.settimeout(LIMIT)
    return made


def seen(client: socket.socket, server: socket.socket) -> Address:
    client.sendto(b"hello", server.getsockname())
    return server.recvfrom(16)[1]


def passes(sender: socket.socket, mapped: Address, receiver: socket.socket, fence: socket.socket) -> bool:
    """Whether a packet arrives; ``fence`` may always send, and its packet goes the same way after it."""
    sender.sendto(b"may I?", mapped)
    fence.sendto(b"fence", mapped)
    arrived = receiver.recv(16)
    if arrived == b"may I?":
        assert receiver.recv(16) == b"fence"
    return arrived == b"may I?"


@pytest.mark.parametrize(
    "nat", [FULL_CONE, ADDRESS_RESTRICTED, FULL_CONE_HAIRPIN, FULL_CONE_RANDOM, CARRIER_OPEN], ids=lambda nat: nat.name
)
def test_two_hosts_on_one_source_port_are_both_reached_by_whom_the_filter_lets_in(netlab, nat: Nat) -> None:
    """Each towards another destination: conntrack alone would let both have one external port."""
    running = netlab(one_lan(nat))
    server = running.host("server")
    found: list[Address] = []
    for name, address in zip(("alice", "bob"), server.addresses, strict=True):
        known, client = bound(server, address), bound(running.host(name), running.host(name).address, 40000)
        mapped = seen(client, known)
        other = address if nat.filtering is Filtering.ADDRESS_DEPENDENT else server.addresses[name == "alice"]
        assert passes(bound(server, other), mapped, client, known)
        found.append(mapped)
    assert found[0] != found[1]


@pytest.mark.parametrize("nat", [FULL_CONE_RANDOM, CARRIER_OPEN], ids=lambda nat: nat.name)
def test_a_mapping_that_only_strangers_still_use_stays_what_it_is(netlab, nat: Nat) -> None:
    running = netlab(two_nats(replace(nat, lifetime=Lifetime(3, 6)), NONE))
    server = running.host("server")
    client, known = bound(running.host("alice"), running.host("alice").address), bound(server, server.address)
    stranger = bound(server, server.addresses[1])
    mapped = seen(client, known)
    until = time.monotonic() + 4.5  # by then the flow to the known one is forgotten
    while time.monotonic() < until:
        stranger.sendto(b"I use it", mapped)
        source = client.recvfrom(16)[1]
        client.settimeout(0.2)
        with pytest.raises(TimeoutError):
            client.recv(16)
        client.settimeout(LIMIT)
        client.sendto(b"so do I", source)
        assert stranger.recvfrom(16) == (b"so do I", mapped)
    assert seen(client, known) == mapped


@pytest.mark.parametrize("nat", [FULL_CONE, ADDRESS_RESTRICTED, SYMMETRIC_OPEN], ids=lambda nat: nat.name)
def test_what_is_flushed_lets_in_nobody_new(netlab, nat: Nat) -> None:
    running: Lab = netlab(two_nats(nat, NONE))
    server, left = running.host("server"), running.host("left")
    client, known = bound(running.host("alice"), running.host("alice").address), bound(server, server.address)
    one, two = bound(server, server.address), bound(server, server.address)
    mapped = seen(client, known)
    assert passes(one, mapped, client, known)
    left.call(lambda: kernel.nft(flush_text(running.plan.nodes["left"].rules.learnt)))
    assert not passes(two, mapped, client, known)  # conntrack's own entry still lets in the known one, our fence


def test_a_port_given_twice_belongs_to_the_newest_flow(netlab) -> None:
    nat = replace(SYMMETRIC_SEQUENTIAL, filtering=Filtering.ENDPOINT_INDEPENDENT)
    running = netlab(two_nats(nat, NONE))
    alice, server = running.host("alice"), running.host("server")
    old, known = bound(alice, alice.address), bound(server, server.address)
    mapped = seen(old, known)
    other = bound(server, server.addresses[1])  # where conntrack may give out the same port again
    for _ in range(SEQUENCE_LENGTH):
        newest = bound(alice, alice.address)
        again = seen(newest, other)
    assert again == mapped
    stranger = bound(server, server.address)
    assert passes(stranger, mapped, newest, other)


@pytest.mark.parametrize("nat", [CARRIER, CARRIER_OPEN, FULL_CONE_RANDOM], ids=lambda nat: nat.name)
def test_no_port_is_given_to_two_while_there_are_others(netlab, nat: Nat) -> None:
    """Or the first one's packets to the second one's friend would be the flow of the second, and be dropped."""
    running = netlab(two_nats(nat, NONE))
    alice, server = running.host("alice"), running.host("server")
    known, other = bound(server, server.address), bound(server, server.addresses[1])
    clients = [bound(alice, alice.address) for _ in range(256)]
    mapped = [seen(client, known if number % 2 else other) for number, client in enumerate(clients)]
    assert len(set(mapped)) == len(clients)
    assert [seen(client, other if number % 2 else known) for number, client in enumerate(clients)] == mapped


def test_a_port_given_to_two_belongs_to_who_came_last(netlab) -> None:
    """Also where a mapping is for all destinations: a NAT that has no port left gives the oldest once more."""
    running = netlab(two_nats(replace(CARRIER_OPEN, port_block=range(10240, 10242)), NONE))
    alice, server = running.host("alice"), running.host("server")
    old, known = bound(alice, alice.address), bound(server, server.address)
    mapped = seen(old, known)
    other = bound(server, server.addresses[1])
    newest = next(client for _ in range(64) if seen(client := bound(alice, alice.address), other) == mapped)
    stranger = bound(server, server.address)
    assert passes(stranger, mapped, newest, other)
    assert seen(old, bound(server, server.address)) == mapped  # keeps its mapping, and takes nothing back
    assert passes(stranger, mapped, newest, other)


def test_who_takes_over_a_port_does_not_hear_from_whom_the_other_one_wrote_to(netlab) -> None:
    """Address-dependent filtering is of the mapping's own packets, whoever had that port before."""
    nat = replace(SYMMETRIC_SEQUENTIAL, filtering=Filtering.ADDRESS_DEPENDENT)
    running = netlab(two_nats(nat, NONE))
    alice, server = running.host("alice"), running.host("server")
    here, there = server.addresses[:2]
    old, old_friend = bound(alice, alice.address), bound(server, there)
    mapped = seen(old, old_friend)
    known = bound(server, here)  # where conntrack may give out the same port again
    for _ in range(SEQUENCE_LENGTH):
        newest = bound(alice, alice.address)
        again = seen(newest, known)
    assert again == mapped
    assert not passes(bound(server, there), mapped, newest, known)
    assert passes(bound(server, here), mapped, newest, known)
    assert old.recv(16) == b"may I?"  # both keep the port: the remote address tells them apart


def test_answering_a_stranger_opens_no_other_port(netlab) -> None:
    """The stranger's port is no port of ours: nobody who sends there may be sent on to him."""
    running = netlab(two_nats(FULL_CONE, NONE))
    server = running.host("server")
    client, known = bound(running.host("alice"), running.host("alice").address), bound(server, server.address)
    stranger = bound(server, server.addresses[1])
    mapped = seen(client, known)
    stranger.sendto(b"hello", mapped)
    client.sendto(b"answer", client.recvfrom(16)[1])
    assert stranger.recvfrom(16) == (b"answer", mapped)
    listing = ["nft", "--numeric", "list", "map", "ip", "netlab", "inside_one_way"]
    said = running.host("left").run(listing, capture_output=True, text=True, check=True, timeout=LIMIT).stdout
    delivered = re.findall(r"(\d+) [^,:]*: ([\d.]+) \. (\d+)", said.partition("elements = ")[2])
    assert delivered == [(str(mapped[1]), *map(str, client.getsockname()))]
