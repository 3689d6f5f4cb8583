"""Our server with two addresses, in the lab: programs of others and our own probe, behind every NAT kind, say what
the profile says.

alice --- left --- core0 --- core1 --- right --- bob
          (NAT)                |
                             server (two addresses × two ports)
"""

from __future__ import annotations

import re
import subprocess

import pytest
from harness import Program
from nat_classifiers import (
    ASK_LIMIT,
    CLIENTS,
    ask_natdiscovery,
    ask_stun,
    check_installed,
    every_kind,
    natdiscovery_words,
    of_each_kind,
    stun_words,
)
from probe_runner import Sockets

from netlab.lab import Lab
from netlab.nat import ADDRESS_DEPENDENT, KINDS, NONE, PORT_RESTRICTED, SHORT_LIFETIME, Filtering, Mapping, Nat, Udp
from netlab.topology import two_nats
from p2p.core import nat_report
from p2p.core.address import Address
from p2p.core.datagram import MAIN
from p2p.core.nat import filtering
from p2p.core.nat.filtering import FilteringFound
from p2p.core.nat.hairpin import HairpinFound
from p2p.core.nat.lifetime import CONTROL_AGE, LifetimeFound, LifetimeTest
from p2p.core.nat.probe import SCRATCH, NatFound, NatProbe

PORT = 3478  # which the programs of others take for granted
BLOCK_SAMPLES = 8

by_name = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)

MAPPINGS = {
    Mapping.ENDPOINT_INDEPENDENT: nat_report.Mapping.ENDPOINT_INDEPENDENT,
    Mapping.ADDRESS_DEPENDENT: nat_report.Mapping.ADDRESS_DEPENDENT,
    Mapping.ADDRESS_AND_PORT_DEPENDENT: nat_report.Mapping.ADDRESS_AND_PORT_DEPENDENT,
}
FILTERINGS = {
    Filtering.ENDPOINT_INDEPENDENT: filtering.Filtering.ENDPOINT_INDEPENDENT,
    Filtering.ADDRESS_DEPENDENT: filtering.Filtering.ADDRESS_DEPENDENT,
    Filtering.ADDRESS_AND_PORT_DEPENDENT: filtering.Filtering.ADDRESS_AND_PORT_DEPENDENT,
}
# It takes where to ask third from the second answer, as coturn has it there: the same address. By RFC 5780 section 6.1
# that is the first address again, and so it compares two addresses where it means to compare two ports.
NATDISCOVERY_ERRS = {
    ADDRESS_DEPENDENT.name: {"NAT with Address Dependent Mapping!", "NAT with Address and Port Dependent Mapping!"},
}


def serve(lab: Lab) -> Address:
    """Our server at both addresses; the first endpoint."""
    server = lab.host("server")
    one, two = server.addresses[:2]
    options = ["--host", one, "--alt-host", two, "--port", str(PORT)]
    program = Program(server.popen, ["-m", "p2p.server", *options])
    program.wait_for(f"listening on {one} and {two} ports {PORT} and {PORT + 1}")
    return Address(one, PORT)


@by_name
def test_the_probe_says_what_the_profile_says(netlab, kind: Nat) -> None:
    running = netlab(two_nats(kind, PORT_RESTRICTED))
    server, alice = serve(running), running.host("alice")
    sockets = Sockets(alice.socket, alice.address)
    probe = NatProbe(server, sockets.open(1)[MAIN], sockets.open(SCRATCH), sockets.random_bytes)
    probe.start(sockets.clock())
    found = sockets.until(probe, lambda event: isinstance(event, NatFound) and event.is_settled)[-1]
    assert isinstance(found, NatFound)
    report = found.report
    if kind.udp is not Udp.ALLOWED:
        assert report == nat_report.NatReport(nat_report.Mapping.NO_UDP)
        return
    assert len(sockets.asked) <= 12  # a busy machine has it repeat some
    assert report.mapping is MAPPINGS[kind.mapping]
    assert report.preserves_ports is kind.port_preservation
    assert report.stride == kind.stride
    assert (len(found.reflexive) > 1) is report.is_dependent
    if kind.port_block is not None:
        probe.refresh(sockets.open(BLOCK_SAMPLES), sockets.clock())
        found = sockets.until(probe, lambda event: isinstance(event, NatFound) and event.is_settled)[-1]
        assert isinstance(found, NatFound)
        assert found.report.ports == kind.port_block
    probe.measure_filtering(*sockets.open(1), sockets.clock())
    probe.measure_hairpin(*sockets.open(1), sockets.clock())
    measured = sockets.until(probe, lambda event: isinstance(event, HairpinFound))
    if not any(isinstance(event, FilteringFound) for event in measured):
        measured += sockets.until(probe, lambda event: isinstance(event, FilteringFound))
    assert FilteringFound(FILTERINGS[kind.filtering]) in measured
    assert HairpinFound(kind.hairpinning or not kind.translates) in measured


def test_programs_of_others_say_of_our_answers_what_the_profile_says(netlab) -> None:
    check_installed(CLIENTS)
    running = netlab(every_kind())
    server = serve(running)
    said = of_each_kind(lambda i: ask_stun(running.host(f"host{i}"), server.host))
    assert said == {kind.name: stun_words(kind) for kind in KINDS}
    found = of_each_kind(lambda i: ask_natdiscovery(running, f"host{i}", f"nat{i}", server.host))
    differs = {kind.name: found[kind.name] ^ natdiscovery_words(kind) for kind in KINDS}
    assert {name: words for name, words in differs.items() if not words <= NATDISCOVERY_ERRS.get(name, set())} == {}


def test_stunclient_of_coturn_reads_our_answers(netlab) -> None:
    check_installed(CLIENTS)
    running = netlab(two_nats(NONE, PORT_RESTRICTED))
    server, alice = serve(running), running.host("alice")
    one, two = running.host("server").addresses[:2]
    asked = ["turnutils_stunclient", server.host]
    said = alice.run(asked, stdout=subprocess.PIPE, text=True, timeout=ASK_LIMIT, stderr=subprocess.STDOUT).stdout
    origins = re.findall(r"Response origin: : (\S+)", said)
    assert set(origins) == {f"{one}:{PORT}", f"{two}:{PORT + 1}"}, said
    assert set(re.findall(r"Other addr: : (\S+)", said)) == {f"{two}:{PORT + 1}"}, said
    assert said.count(f"UDP reflexive addr: {alice.address}:") == 3, said


def test_how_long_an_idle_mapping_lives(netlab) -> None:
    running = netlab(two_nats(SHORT_LIFETIME, PORT_RESTRICTED))
    server, alice = serve(running), running.host("alice")
    sockets = Sockets(alice.socket, alice.address)
    young, old = 1.5, 6.0  # seconds; on either side of the profile's 3, with time for a busy machine
    assert young < SHORT_LIFETIME.lifetime.one_way < old
    ages = dict(zip(sockets.open(4), (CONTROL_AGE, young, old, 60.0), strict=True))
    test = LifetimeTest(server, *sockets.open(1), ages, sockets.random_bytes)
    test.start(sockets.clock())
    assert sockets.until(test, lambda _: True) == [LifetimeFound(young, old)]
