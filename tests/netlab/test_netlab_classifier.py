"""Every NAT kind, judged by programs that are not ours: coturn's RFC 5780 server with two addresses,
asked by Debian's ``stun`` and by ``turnutils_natdiscovery``."""

from __future__ import annotations

import struct
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from nat_classifiers import (
    CLIENTS,
    ask_natdiscovery,
    ask_stun,
    check_installed,
    every_kind,
    natdiscovery_words,
    of_each_kind,
    outlives,
    stun_words,
)

from netlab.lab import Lab, Node
from netlab.nat import KINDS, PORT_RESTRICTED, SHORT_LIFETIME
from netlab.topology import two_nats

LISTENING_PORTS = (3478, 3479)
BINDING_REQUEST = struct.pack("!HHI12s", 0x0001, 0, 0x2112A442, b"are you up??")  # RFC 5389 section 6
START_LIMIT = 200  # requests, each answered within 50 ms or asked again

Outside = Callable[[Lab], str]


@pytest.fixture
def outside(tmp_path: Path) -> Outside:
    """Starts coturn on a lab's server and gives the address to ask; returns when it answers everywhere."""
    check_installed(CLIENTS | {"turnserver": "coturn"})

    def start(lab: Lab) -> str:
        server = lab.host("server")
        one, two = server.addresses[:2]
        server.popen(
            [
                *("turnserver", "-n", "-S", "-L", one, "-L", two, "-p", "3478", "--alt-listening-port=3479"),
                *("--no-tls", "--no-dtls", "--no-cli", "--simple-log", "--log-file", "stdout"),
                *("--pidfile", str(tmp_path / "turnserver.pid")),
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for address in (one, two):
            for port in LISTENING_PORTS:
                _await_answer(server, (address, port))
        return one

    return start


def _await_answer(node: Node, address: tuple[str, int]) -> None:
    asking = node.socket()
    asking.settimeout(0.05)
    for _ in range(START_LIMIT):
        asking.sendto(BINDING_REQUEST, address)
        try:
            asking.recv(1500)
        except TimeoutError:
            continue
        return
    raise TimeoutError(f"coturn never answered at {address}")


def test_stun_says_what_the_profile_says_and_the_same_to_a_second_host_of_the_lan(netlab, outside: Outside) -> None:
    running = netlab(every_kind())
    address = outside(running)
    for host in ("host", "other"):
        said = of_each_kind(lambda i, host=host: ask_stun(running.host(f"{host}{i}"), address))
        assert said == {kind.name: stun_words(kind) for kind in KINDS}


def test_natdiscovery_says_what_the_profile_says(netlab, outside: Outside) -> None:
    running = netlab(every_kind())
    address = outside(running)
    said = of_each_kind(lambda i: ask_natdiscovery(running, f"host{i}", f"nat{i}", address))
    assert said == {kind.name: natdiscovery_words(kind) for kind in KINDS}


def test_natdiscovery_finds_the_short_lifetime_between_one_second_and_five(netlab, outside: Outside) -> None:
    running = netlab(two_nats(SHORT_LIFETIME, PORT_RESTRICTED))
    address = outside(running)
    assert [outlives(running, "alice", address, seconds) for seconds in (1, 5)] == [True, False]
    assert outlives(running, "bob", address, 5)


def test_an_unguarded_router_maps_and_filters_as_a_guarded_one(netlab, outside: Outside) -> None:
    running = netlab(two_nats(PORT_RESTRICTED, PORT_RESTRICTED, guarded=False))
    assert ask_stun(running.host("alice"), outside(running)) == stun_words(PORT_RESTRICTED)
