"""Every NAT kind, judged by programs that are not ours: coturn's RFC 5780 server with two addresses,
asked by Debian's ``stun`` and by ``turnutils_natdiscovery``."""

from __future__ import annotations

import os
import re
import shutil
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from netlab.lab import Lab, Node
from netlab.nat import KINDS, PORT_RESTRICTED, Filtering, Mapping, Nat, Udp
from netlab.topology import one_lan, two_nats

PROGRAMS = {"turnserver": "coturn", "turnutils_natdiscovery": "coturn", "stun": "stun-client"}  # Debian packages
LISTENING_PORTS = (3478, 3479)
BINDING_REQUEST = struct.pack("!HHI12s", 0x0001, 0, 0x2112A442, b"are you up??")  # RFC 5389 section 6
START_LIMIT = 200  # requests, each answered within 50 ms or asked again
ASK_LIMIT = 60  # seconds for one program; each silence costs it up to nine

by_name = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
Outside = Callable[[Lab], str]


@pytest.fixture
def outside(tmp_path: Path) -> Outside:
    """Starts coturn on a lab's server and gives the address to ask; returns when it answers everywhere."""
    missing = {package for program, package in PROGRAMS.items() if shutil.which(program) is None}
    assert not missing, f"the outside classifier is not installed: apt-get install {' '.join(sorted(missing))}"

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


@by_name
def test_stun_says_what_the_profile_says(netlab, outside: Outside, kind: Nat) -> None:
    running = netlab(two_nats(kind, PORT_RESTRICTED))
    assert ask_stun(running.host("alice"), outside(running)) == stun_words(kind)


@by_name
def test_stun_says_the_same_to_a_second_host_of_the_lan(netlab, outside: Outside, kind: Nat) -> None:
    running = netlab(one_lan(kind))
    address = outside(running)
    assert ask_stun(running.host("alice"), address) == stun_words(kind)
    assert ask_stun(running.host("bob"), address) == stun_words(kind)


@by_name
def test_natdiscovery_says_what_the_profile_says(netlab, outside: Outside, kind: Nat) -> None:
    running = netlab(two_nats(kind, PORT_RESTRICTED))
    assert ask_natdiscovery(running.host("alice"), outside(running)) == natdiscovery_words(kind)


def test_an_unguarded_router_maps_and_filters_as_a_guarded_one(netlab, outside: Outside) -> None:
    running = netlab(two_nats(PORT_RESTRICTED, PORT_RESTRICTED, guarded=False))
    assert ask_stun(running.host("alice"), outside(running)) == stun_words(PORT_RESTRICTED)


def ask_stun(node: Node, address: str) -> str:
    # Left to itself it draws a port that may lie in the router's own range, and "random port" is then kept by chance.
    # Each host has a port of its own: on a taken one the router would have to choose another.
    port = 50_000 + 10 * int(node.address.rpartition(".")[2])
    # Its exit code is its verdict, so it is never 0.
    said = node.run(["stun", address, "-p", str(port)], capture_output=True, text=True, timeout=ASK_LIMIT).stdout
    found = re.search(r"^Primary: (.*?)\s*$", said, re.MULTILINE)
    assert found, said
    return found[1]


def stun_words(nat: Nat) -> str:
    """The verdict of ``stun`` for a router that does what the profile says."""
    if nat.udp is not Udp.ALLOWED:
        return "Blocked or could not reach STUN server"
    if not nat.translates:
        return "Open" if nat.filtering is Filtering.ENDPOINT_INDEPENDENT else "Firewall"
    ports = "preserves ports" if nat.port_preservation else "random port"
    hairpin = "will hairpin" if nat.hairpinning else "no hairpin"
    if nat.mapping is not Mapping.ENDPOINT_INDEPENDENT:
        return f"Dependent Mapping, {ports}, {hairpin}"
    filters = {
        Filtering.ENDPOINT_INDEPENDENT: "Independent Filter",
        Filtering.ADDRESS_DEPENDENT: "Address Dependent Filter",
        Filtering.ADDRESS_AND_PORT_DEPENDENT: "Port Dependent Filter",
    }
    return f"Independent Mapping, {filters[nat.filtering]}, {ports}, {hairpin}"


def ask_natdiscovery(node: Node, address: str) -> set[str]:
    """Its sentences on mapping, filtering and hairpinning; asked side by side, as it is patient."""
    asked = [
        node.popen(
            ["turnutils_natdiscovery", *flags, address],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=os.environ | {"LC_ALL": "C"},
        )
        for flags in (["-m", "-f"], ["-H"])
    ]
    said = "".join(each.communicate(timeout=ASK_LIMIT)[0] for each in asked)
    return {*re.findall(r"NAT with [\w ]+!", said), *re.findall(r"successful hairpinning", said)}


def natdiscovery_words(nat: Nat) -> set[str]:
    """What ``turnutils_natdiscovery`` says of a router that does what the profile says."""
    if nat.udp is not Udp.ALLOWED:
        return set()
    ways = {"EI": "Endpoint Independent", "AD": "Address Dependent", "APD": "Address and Port Dependent"}
    mapping, filtering = (ways[behaviour.value[:-1]] for behaviour in (nat.mapping, nat.filtering))
    # Without NAT the host reaches itself at the address it is seen at.
    hairpin = {"successful hairpinning"} if nat.hairpinning or not nat.translates else set()
    return {f"NAT with {mapping} Mapping!", f"NAT with {filtering} Filtering!", *hairpin}
