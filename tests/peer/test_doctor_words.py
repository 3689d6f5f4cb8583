"""Facts to words: every combination has a verdict, and no sentence says anything else than the table does."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import pairwise, product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2p.core.address import Address
from p2p.core.doctor import words
from p2p.core.doctor.doctor import Topic
from p2p.core.doctor.facts import FRIENDS, Facts, Interface, Network, Upstream
from p2p.core.doctor.tcp import TcpFound, TcpOutcome
from p2p.core.nat.filtering import Filtering
from p2p.core.nat.lifetime import LifetimeFound
from p2p.core.nat_report import Mapping, NatReport
from p2p.core.peer.outlook import Ease, Reach, ease, reach, reach_of
from p2p.core.portmap.events import BEHIND_CARRIER, BehindAnotherNat, Mapped, NoMapper, Protocol
from p2p.io.terminal.doctor_screen import conclusion, finding, report

SERVER = Address("198.51.100.7", 8080)
SERVER_V6 = Address("2a00::7", 8080)
HOST, OUTSIDE = "192.168.1.10", "203.0.113.5"
BLOCK = range(10240, 11264)
DIRECTLY = (Reach.DIRECT, Reach.PREDICTED, Reach.SEARCHED)

EASY = NatReport(Mapping.ENDPOINT_INDEPENDENT, preserves_ports=True)
COUNTING = NatReport(Mapping.ADDRESS_AND_PORT_DEPENDENT, stride=4)
RANDOM = NatReport(Mapping.ADDRESS_AND_PORT_DEPENDENT)
POOL = replace(RANDOM, ports=BLOCK)
STRICT = Filtering.ADDRESS_AND_PORT_DEPENDENT
NOBODY = NoMapper(tuple((protocol, "no answer") for protocol in Protocol))
REFUSED_BY_ALL = NoMapper(tuple((protocol, f"it has no address, {BEHIND_CARRIER}") for protocol in Protocol))


def behind(nat: NatReport, filtering: Filtering = STRICT, *, host: str = HOST, **more: object) -> Facts:
    network = Network(host, asked=True, nat=nat, reflexive=(Address(OUTSIDE, 4000),), filtering=filtering)
    facts = Facts(SERVER, (Interface("eth0", (host,)),), network, mapper=NOBODY, mtu=1500)
    return replace(facts, tcp=answers(8080), **more)


def answers(*ports: int, of: Address = SERVER, silent: tuple[int, ...] = ()) -> tuple[TcpFound, ...]:
    found = [TcpFound(Address(of.host, port), TcpOutcome.ANSWERED) for port in ports]
    return (*found, *(TcpFound(Address(of.host, port), TcpOutcome.SILENT) for port in silent))


def blocked(*ports: int, **more: object) -> Facts:
    network = Network(HOST, asked=True, nat=NatReport(Mapping.NO_UDP))
    return Facts(SERVER, (Interface("eth0", (HOST,)),), network, tcp=answers(*ports), mapper=NOBODY, **more)


WITH_V6 = Network("2a00::10", asked=True, nat=EASY, reflexive=(Address("2a00::10", 4000),), filtering=STRICT)

KINDS = {
    "open": (behind(EASY, Filtering.ENDPOINT_INDEPENDENT, host=OUTSIDE), Ease.PUBLIC, "Nearly all friends"),
    "full cone": (behind(EASY, Filtering.ENDPOINT_INDEPENDENT), Ease.OPEN, "Nearly all friends"),
    "symmetric, open to all": (behind(RANDOM, Filtering.ENDPOINT_INDEPENDENT), Ease.OPEN, "Nearly all friends"),
    "address-restricted": (behind(EASY, Filtering.ADDRESS_DEPENDENT), Ease.LENIENT, "Nearly all friends"),
    "one address": (behind(EASY, Filtering.NOT_PORT_DEPENDENT), Ease.LENIENT, "Nearly all friends"),
    "port-restricted": (behind(EASY), Ease.EASY, "Most friends will reach you directly."),
    "firewall": (behind(EASY, host=OUTSIDE), Ease.EASY, "Most friends will reach you directly."),
    "counting": (behind(COUNTING), Ease.COUNTING, "though your router makes it harder"),
    "at random": (behind(RANDOM), Ease.RANDOM, "after a search of some seconds"),
    "symmetric, lenient": (behind(RANDOM, Filtering.ADDRESS_DEPENDENT), Ease.RANDOM, "after a search"),
    "pool": (behind(POOL), Ease.POOL, "after a search of some seconds"),
    "with a port mapper": (
        behind(RANDOM, mapper=Mapped(Address(OUTSIDE, 7), Protocol.PCP, 60), proved=True),
        Ease.OPEN,
        "Nearly all friends",
    ),
    "with a port mapper that lies": (
        behind(RANDOM, mapper=Mapped(Address(OUTSIDE, 7), Protocol.PCP, 60), proved=False),
        Ease.RANDOM,
        "after a search",
    ),
    "no UDP": (blocked(8080), Ease.BLOCKED, "lets no UDP out, but most friends will usually"),
    "only 443": (blocked(443), Ease.CAGED, "lets no UDP out."),
    "no UDP, but IPv6": (blocked(8080, v6=WITH_V6), Ease.BLOCKED, "Friends who have IPv6, as you do"),
    "IPv6 only": (Facts(SERVER_V6, v6=WITH_V6), Ease.EASY, "Most friends who have IPv6 too"),
    "server inside": (
        Facts(SERVER, v4=Network(HOST, asked=True, nat=EASY, reflexive=(Address(HOST, 4),), filtering=STRICT)),
        Ease.UNKNOWN,
        "The server stands in your own network",
    ),
    "nobody asked": (Facts(), Ease.UNKNOWN, "Only this machine was looked at"),
    "nobody answers": (Facts(SERVER, v4=Network(HOST, asked=True)), Ease.UNKNOWN, "answers neither by UDP nor by TCP"),
    "no STUN server answers": (Facts(v4=Network(HOST, asked=True)), Ease.UNKNOWN, "No STUN server answers"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_has_its_verdict(kind: str) -> None:
    facts, expected, begins = KINDS[kind]
    assert facts.ease is expected
    assert begins in words.verdict(facts)
    check(facts)


@pytest.mark.parametrize(
    ("facts", "label", "term"),
    [
        (behind(EASY), "Ports", "keeps the program's own number (port preservation)"),
        (behind(replace(EASY, preserves_ports=False, ports=BLOCK)), "Ports", "out of 1024 (10240 to 11263)"),
        (behind(COUNTING), "Ports", "counting up in steps of 4: it can be predicted"),
        (behind(replace(COUNTING, stride=-1)), "Ports", "counting down: it can be predicted"),
        (behind(POOL), "Ports", "(symmetric NAT; address-and-port-dependent mapping), out of 1024"),
        (behind(RANDOM), "Ports", "nobody can predict it"),
        (behind(EASY, Filtering.ENDPOINT_INDEPENDENT), "Who gets in", "full cone; endpoint-independent filtering"),
        (behind(EASY, Filtering.ENDPOINT_INDEPENDENT, host=OUTSIDE), "Who gets in", "no firewall"),
        (behind(EASY, host=OUTSIDE), "Address", "no NAT"),
        (behind(EASY, mapper=REFUSED_BY_ALL), "Another NAT", "your provider probably shares"),
        (behind(EASY, mapper=BehindAnotherNat(Protocol.PCP, "100.64.0.2", None)), "Another NAT", "carrier-grade NAT"),
        (behind(EASY, mapper=BehindAnotherNat(Protocol.PCP, "192.168.0.2", None)), "Another NAT", "double NAT"),
        (behind(EASY, mtu=1420), "Packets", "1420 bytes"),
        (behind(EASY, mtu=0), "Packets", "not even 1280"),
        (behind(EASY, v6=WITH_V6), "IPv6", "works: 2a00::10, without NAT; a firewall lets in only"),
        (behind(EASY, v6=Network("2a00::1", asked=True)), "IPv6", "does not answer by UDP over IPv6"),
        (blocked(443), "TCP", "only port 443 gets out"),
        (behind(EASY, interfaces=(Interface("tun0", (HOST,), is_tunnel=True),)), "VPN", "everything leaves by tun0"),
        (behind(EASY, interfaces=(Interface("wg0", ("10.0.0.1",), is_tunnel=True),)), "VPN", "does not lead to the"),
    ],
)
def test_each_fact_is_told_with_its_term(facts: Facts, label: str, term: str) -> None:
    assert term in dict(words.rows(facts))[label]
    check(facts)


@pytest.mark.parametrize(
    ("facts", "piece"),
    [
        (behind(EASY), "Switch on port opening"),
        (behind(RANDOM), '"full cone"'),
        (behind(RANDOM, mapper=REFUSED_BY_ALL), "Ask your provider"),
        (behind(RANDOM, mapper=BehindAnotherNat(Protocol.PCP, "192.168.0.2", None)), "bridge mode"),
        (behind(EASY), "Switch on IPv6"),
        (blocked(8080), "another network"),
        (behind(EASY, interfaces=(Interface("tun0", (HOST,), is_tunnel=True),)), "Switch the VPN (tun0) off"),
        (Facts(), "--stun"),
        (Facts(SERVER, v4=Network(HOST, asked=True)), "python -m p2p.server"),
    ],
)
def test_what_helps_is_advised(facts: Facts, piece: str) -> None:
    assert piece in "\n".join(words.advice(facts))


def test_what_does_not_help_is_not_advised() -> None:
    assert words.advice(KINDS["full cone"][0]) == words.advice(KINDS["open"][0]) == []
    assert "Switch on port opening" not in "\n".join(words.advice(behind(RANDOM, mapper=REFUSED_BY_ALL)))
    assert "IPv6" not in "\n".join(words.advice(behind(RANDOM, v6=WITH_V6)))


addresses = st.sampled_from(
    [Address(host, 4000) for host in (HOST, OUTSIDE, "203.0.113.6", "100.64.0.9", "2a00::10", "fd00::1")]
)
hosts = st.sampled_from([None, HOST, OUTSIDE, "100.64.0.9", "2a00::10", "fd00::1", "fe80::1%eth0"])
reports = st.builds(
    NatReport,
    st.sampled_from(Mapping),
    st.booleans(),
    st.integers(-256, 256),
    st.sampled_from([range(0), BLOCK, range(1024, 65536)]),
    st.integers(0, 65535),
)
seconds = st.none() | st.floats(0.5, 300)
networks = st.builds(
    Network,
    hosts,
    st.booleans(),
    st.none() | reports,
    st.lists(addresses, max_size=2).map(tuple),
    st.none() | st.sampled_from(Filtering),
    st.none() | st.booleans(),
    st.none() | st.builds(LifetimeFound, seconds, seconds),
)
protocols = st.sampled_from(Protocol)
reasons = st.sampled_from(["no answer", "it refuses\x1b]0;", f"it has none, {BEHIND_CARRIER}"])
mappers = st.one_of(
    st.none(),
    st.builds(Mapped, addresses, protocols, st.just(60)),
    st.builds(NoMapper, st.lists(st.tuples(protocols, reasons), min_size=1, max_size=3).map(tuple)),
    st.builds(BehindAnotherNat, protocols, st.sampled_from(["100.64.0.2", "10.0.0.1", "203.0.113.9"]), st.none()),
)
some_facts = st.builds(
    Facts,
    st.none() | st.just(SERVER),
    st.lists(
        st.builds(
            Interface,
            st.sampled_from(["eth0", "tun0"]),
            st.lists(hosts.filter(bool), max_size=4).map(tuple),
            st.booleans(),
            st.booleans(),
        ),
        max_size=3,
    ).map(tuple),
    networks,
    networks,
    st.lists(
        st.builds(
            TcpFound,
            st.builds(Address, st.sampled_from([SERVER.host, SERVER_V6.host]), st.sampled_from([8080, 443])),
            st.sampled_from(TcpOutcome),
        ),
        max_size=4,
    ).map(tuple),
    mappers,
    st.none() | st.booleans(),
    st.sampled_from([None, 0, 1280, 1420, 1500]),
)


@given(some_facts, st.integers(40, 120))
def test_whatever_is_found_out_has_a_verdict_that_agrees_with_the_table(facts: Facts, width: int) -> None:
    check(facts)
    for line in report(facts, width).splitlines():
        assert len(line) <= max(width, 80)  # the table is not folded
    assert report(facts, width, quiet=True)
    for topic, version in product(Topic, (None, 4, 6)):
        json.dumps(finding(topic, facts, version))
    json.dumps(conclusion(facts, 1.0))


def check(facts: Facts) -> None:
    """No contradiction between verdict, table and advice; sentences that can be read."""
    said, table = words.verdict(facts), words.table(facts)
    by = dict(facts.table)
    assert said.endswith(".")
    for label, sentence in words.rows(facts):
        assert label
        assert "None" not in sentence
        assert sentence.isprintable()
        assert "_" not in sentence.replace(facts.vpn or "", "")
    assert (table != []) is (facts.is_answered and not facts.is_inside)
    others = [reached for friend, reached in facts.table if friend is not Ease.BLOCKED]
    assert ("Nearly all" in said) is (table != [] and set(others) == {Reach.DIRECT})
    assert ("Most" in said) is (table != [] and by[Ease.EASY] in DIRECTLY and "Nearly all" not in said)
    assert ("search" in said) is (table != [] and by[Ease.EASY] is Reach.SEARCHED)
    assert ("lets no UDP out" in said and facts.is_answered) is facts.is_udp_blocked
    assert ("directly by TCP" in said and facts.is_answered) is (by[Ease.EASY] is Reach.TCP)
    if facts.is_udp_blocked:
        assert set(by.values()) <= {Reach.RELAYED, Reach.TCP}
    if not facts.is_answered:
        assert words.advice(facts)
    if facts.upstream in (Upstream.CARRIER, Upstream.ANOTHER):
        assert "Another NAT" in dict(words.rows(facts))


# the table itself

# From the easiest network to the hardest, as far as they can be compared.
LADDERS = (
    (Ease.PUBLIC, Ease.OPEN, Ease.LENIENT, Ease.EASY, Ease.COUNTING),
    (Ease.EASY, Ease.POOL, Ease.RANDOM, Ease.CAGED),
    (Ease.PUBLIC, Ease.BLOCKED, Ease.CAGED),
)
ORDER = (Reach.DIRECT, Reach.PREDICTED, Reach.SEARCHED, Reach.TCP, Reach.RELAYED)
KNOWN = [each for each in Ease if each is not Ease.UNKNOWN]


def test_the_table_is_the_same_from_both_sides_and_says_nothing_of_the_unknown() -> None:
    for ours, theirs in product(Ease, Ease):
        assert reach_of(ours, theirs) is reach_of(theirs, ours)
        is_unsure = Ease.UNKNOWN in (ours, theirs) and Ease.CAGED not in (ours, theirs)
        assert (reach_of(ours, theirs) is Reach.UNSURE) is is_unsure


@pytest.mark.parametrize("ladder", LADDERS)
def test_an_easier_network_never_reaches_less(ladder: tuple[Ease, ...]) -> None:
    for (easier, harder), friend in product(pairwise(ladder), KNOWN):
        assert ORDER.index(reach_of(easier, friend)) <= ORDER.index(reach_of(harder, friend))


def test_what_two_descriptions_tell_is_read_from_the_same_table() -> None:
    no_udp = NatReport(Mapping.NO_UDP)
    kinds = {EASY: Ease.EASY, COUNTING: Ease.COUNTING, RANDOM: Ease.RANDOM, POOL: Ease.POOL, no_udp: Ease.BLOCKED}
    for nat, kind in kinds.items():
        assert ease(nat) is kind
    for (ours, one), (theirs, two) in product(kinds.items(), kinds.items()):
        assert reach(ours, theirs) is reach_of(one, two)
    assert {friend for friend, _ in behind(EASY).table} == set(FRIENDS) == set(words.FRIENDS)
    assert set(words.REACHES) == set(Reach)
