"""Two agents on an internet in memory; see punch_network for the drawing."""

from __future__ import annotations

import itertools
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from punch_network import KEYS, PROFILES, Network

from p2p.core.address import Address
from p2p.core.datagram import MAIN
from p2p.core.nat_report import NatReport
from p2p.core.punch.agent import (
    ALL_ANSWERS,
    CHECK_INTERVAL,
    How,
    Opened,
    PunchAgent,
    PunchFailed,
    Selected,
)
from p2p.core.punch.checklist import MAX_PEER_REFLEXIVE
from p2p.core.punch.checks import ANSWER, CHECK, Answer, Check, decode
from p2p.core.punch.description import Candidate, Description, Kind

CONES = [name for name in PROFILES if name != "symmetric"]
HOPELESS = [("symmetric", "symmetric"), ("port-restricted", "symmetric"), ("symmetric", "port-restricted")]
WORKING = [pair for pair in itertools.product(PROFILES, repeat=2) if pair not in HOPELESS]
STRANGER = Address("192.0.2.66", 6666)
SERVER = Address("203.0.113.1", 8080)


def agent_for(*remote: Candidate, controlling: bool = True, servers: tuple[Address, ...] = ()) -> PunchAgent:
    """An agent whose other side has opened its NAT."""
    told = Description(NatReport(), remote, has_opened=True)
    keys = KEYS[controlling], KEYS[not controlling]
    ours = Description(NatReport(), ())
    return PunchAgent(controlling, *keys, ours, told, random.Random(1).randbytes, servers=servers)


def assert_agreed(network: Network) -> None:
    """Each selected the address from which the other's datagrams come when sent to what the other selected."""
    left, right = network.hosts
    assert left.selected is not None, left.events
    assert right.selected is not None, right.events
    for host, other in ((left, right), (right, left)):
        assert host.selected is not None
        assert other.selected is not None
        seen = other.address if other.nat is None else other.nat.outbound(other.address, other.selected.address)
        assert host.selected.address == seen
        assert len(host.events) == 1


@pytest.mark.parametrize(("left", "right"), WORKING)
@pytest.mark.parametrize("head_start", [0.0, 0.5])
def test_a_path_is_found(left: str, right: str, head_start: float) -> None:
    network = Network(left, right)
    network.start(head_start)
    network.run(20.0)
    assert_agreed(network)
    assert max(host.events[0][0] for host in network.hosts) < head_start + 1.0


@pytest.mark.parametrize(("left", "right"), HOPELESS)
def test_no_path_is_said_after_ten_seconds(left: str, right: str) -> None:
    network = Network(left, right)
    network.start(0.0)
    network.run(30.0)
    for host in network.hosts:
        assert [event for _, event in host.events] == [PunchFailed()]
        assert host.failed_at == pytest.approx(10.0)
        assert host.agent.poll_timeout() is None
        assert not [at for at, _, _ in host.sent if at > 10.0]


@pytest.mark.parametrize(("left", "right"), [("port-restricted", "port-restricted"), ("full cone", "symmetric")])
def test_an_unforeseen_port_is_adopted(left: str, right: str) -> None:
    network = Network(left, right)
    network.start()
    network.run(5.0)
    selected = network.hosts[0].selected
    assert selected is not None
    assert selected.kind is (Kind.PEER_REFLEXIVE if right == "symmetric" else Kind.SERVER_REFLEXIVE)
    assert selected.rtt == pytest.approx(0.04)


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(WORKING), st.integers(0, 2**32), st.floats(0, 0.3))
def test_losses_copies_and_reordering_only_delay(pair: tuple[str, str], seed: int, loss: float) -> None:
    network = Network(*pair, seed=seed, loss=loss, duplicate=0.2, jitter=0.1)
    network.start()
    network.run(9.0)
    assert_agreed(network)


def test_half_of_all_datagrams_lost() -> None:
    found = 0
    for seed in range(40):
        network = Network("port-restricted", "port-restricted", seed=seed, loss=0.5)
        network.start()
        network.run(12.0)
        found += all(host.selected is not None for host in network.hosts)
    assert found >= 39  # one in 300 has bad luck for ten seconds


@pytest.mark.parametrize(("left", "right"), WORKING + HOPELESS)
def test_checks_are_paced(left: str, right: str) -> None:
    network = Network(left, right, loss=0.3, duplicate=0.3, jitter=0.05)
    network.start()
    network.run(15.0)
    for host in network.hosts:
        times = [at for at, _, data in host.sent if data[0] == CHECK]
        assert times
        assert all(later - at >= CHECK_INTERVAL - 1e-9 for at, later in itertools.pairwise(times))


def test_answers_go_on_after_selection_and_the_mapping_is_kept_alive() -> None:
    network = Network("port-restricted", "port-restricted")
    network.start()
    network.run(1.0)
    assert_agreed(network)
    before = {host.name: len(host.sent) for host in network.hosts}
    network.run(31.0)
    for host in network.hosts:
        later = host.sent[before[host.name] :]
        assert sum(data[0] == ANSWER for _, _, data in later) == 6
        checks = [at for at, _, data in later if data[0] == CHECK]
        assert max(b - a for a, b in itertools.pairwise(checks)) <= 10.0


def test_a_lost_answer_to_the_nomination_is_repeated() -> None:
    network = Network("none", "none")
    left, right = network.hosts
    network.start()
    while right.selected is None:  # the controlled side knows; its ANSWER is in the air
        network.run(network.now + 0.001)
    assert left.selected is None
    network.flying.clear()
    network.run(5.0)
    assert_agreed(network)


def test_the_controlled_side_selects_only_what_answered_itself() -> None:
    agent = agent_for(controlling=False)
    agent.start(0.0)
    assert agent.poll_event() == Opened()
    agent.handle_datagram(Check(bytes(12), True).encode(KEYS[True]), STRANGER, MAIN, 0.1)
    answer, check = agent.poll_transmit(), agent.poll_transmit()
    assert answer is not None
    assert check is not None
    assert agent.poll_event() is None
    sent = decode(bytes(check.buffers[0]), KEYS[False])
    assert isinstance(sent, Check)
    reply = Answer(sent.transaction, STRANGER).encode(KEYS[True])
    agent.handle_datagram(reply, Address("192.0.2.67", 6666), MAIN, 0.2)  # not symmetric
    assert agent.poll_event() is None
    agent.handle_datagram(reply, STRANGER, MAIN, 0.2)
    assert agent.poll_event() == Selected(MAIN, STRANGER, Kind.PEER_REFLEXIVE, pytest.approx(0.1), How.LEARNED)


def test_host_candidates_win_over_reflexive_ones() -> None:
    host, reflexive = Address("10.0.0.2", 5), Address("203.0.113.9", 6)
    remote = [Candidate(Kind.SERVER_REFLEXIVE, reflexive), Candidate(Kind.HOST, host)]
    agent = agent_for(*remote)
    checks: dict[Address, bytes] = {}
    agent.start(0.0)
    agent.handle_timeout(0.02)
    while (transmit := agent.poll_transmit()) is not None:
        sent = decode(bytes(transmit.buffers[0]), KEYS[True])
        assert isinstance(sent, Check)
        if transmit.ttl is None:
            checks[transmit.destination] = sent.transaction
    assert list(checks) == [host, reflexive]
    agent.handle_datagram(Answer(checks[reflexive], host).encode(KEYS[False]), reflexive, MAIN, 0.030)
    agent.handle_datagram(Answer(checks[host], host).encode(KEYS[False]), host, MAIN, 0.070)
    agent.handle_timeout(0.070)
    nominating = agent.poll_transmit()
    assert nominating is not None
    assert nominating.destination == host
    assert decode(bytes(nominating.buffers[0]), KEYS[True]).nominate


def test_forgeries_change_nothing() -> None:
    network = Network("none", "none")
    left, right = network.hosts
    for key in (bytes(32)[::-1] + b"!", KEYS[True]):  # a wrong key; the receiver of these is left, whose own key it is
        network.inject(Check(bytes(12), True).encode(key), STRANGER, left.address)
        network.inject(Answer(bytes(12), STRANGER).encode(key), right.address, left.address)
    network.inject(b"\xc0", STRANGER, left.address)
    assert not left.agent.was_heard  # or the person would read that packets come through
    network.start(0.2)
    network.run(5.0)
    assert_agreed(network)
    assert left.agent.was_heard
    assert left.agent.dropped >= 5
    assert not [1 for host in network.hosts for _, to, _ in host.sent if to == STRANGER]


def test_reflected_and_replayed_datagrams_are_harmless() -> None:
    """Somebody copies all that flies, sends it back to its sender and, from his own address, to its destination."""
    network = Network("none", "none")

    def copy(data: bytes, source: Address, destination: Address) -> None:
        network.inject(data, destination, source)
        network.inject(data, STRANGER, destination)

    network.taps.append(copy)
    network.start()
    network.run(20.0)
    assert_agreed(network)
    # The copies arrive just after the originals: the transaction is known from another source by then.
    assert not [1 for host in network.hosts for _, to, _ in host.sent if to == STRANGER]


@pytest.mark.parametrize("controlling", [True, False])
def test_what_the_server_forwards_before_we_know_of_it_is_no_direct_path(controlling: bool) -> None:
    """The word that it forwards may be lost, or overtaken by what it forwards."""
    agent = agent_for(controlling=controlling, servers=(SERVER,))
    agent.start(0.0)

    def answers(number: int) -> list[Address]:
        check = Check(bytes([number]) * 12, nominate=not controlling)
        agent.handle_datagram(check.encode(KEYS[not controlling]), SERVER, MAIN, 0.1)
        return [sent.destination for sent in iter(agent.poll_transmit, None)]

    assert answers(1) == []
    assert agent.dropped == 1
    assert not agent.was_heard  # or the person would read that only our own packets are stopped
    agent.relay(MAIN, SERVER, 0.1)
    assert SERVER in answers(2)
    assert agent.dropped == 1


def test_a_replay_that_wins_the_race_selects_nothing() -> None:
    network = Network("port-restricted", "full cone")
    overtaken: set[bytes] = set()

    def overtake(data: bytes, source: Address, destination: Address) -> None:  # noqa: ARG001
        if data not in overtaken and len(overtaken) < 30:
            overtaken.add(data)
            for host in network.hosts:
                if host.nat is not None and destination.host == host.nat.public:
                    host.agent.handle_datagram(data, STRANGER, MAIN, network.now)

    network.taps.append(overtake)
    network.start()
    network.run(9.0)
    assert_agreed(network)
    to_stranger = [at for host in network.hosts for at, to, _ in host.sent if to == STRANGER]
    assert len(to_stranger) < 100


def test_peer_reflexive_candidates_are_capped() -> None:
    agent = agent_for()
    agent.start(0.0)
    for number in range(500):
        check = Check(number.to_bytes(12, "big"), False).encode(KEYS[False])
        agent.handle_datagram(check, Address(f"192.0.2.{number % 250}", 1000 + number), MAIN, 0.001)
    assert len(list(agent._list)) == MAX_PEER_REFLEXIVE
    now, checked = 0.001, set()
    while (deadline := agent.poll_timeout()) is not None and deadline < 9.0:
        now = max(now, deadline)
        agent.handle_timeout(now)
        while (transmit := agent.poll_transmit()) is not None:
            if bytes(transmit.buffers[0])[0] == CHECK:
                checked.add(transmit.destination)
    # One went out at once; it had given way by the end.
    assert len(checked) <= MAX_PEER_REFLEXIVE + 1


def answers_within_two_seconds(agent: PunchAgent, sources: int) -> int:
    agent.start(0.0)
    answers = 0
    for number in range(2000):
        check = Check(number.to_bytes(12, "big"), False).encode(KEYS[False])
        agent.handle_datagram(check, Address(STRANGER.host, 1000 + number % sources), MAIN, number / 1000)
        while (transmit := agent.poll_transmit()) is not None:
            answers += bytes(transmit.buffers[0])[0] == ANSWER
    return answers


def test_answers_to_one_source_and_to_all_are_limited() -> None:
    assert 20 <= answers_within_two_seconds(agent_for(), 1) <= 60
    assert 200 <= answers_within_two_seconds(agent_for(), 1000) <= ALL_ANSWERS.burst + 2 * ALL_ANSWERS.per_second


@pytest.mark.parametrize("host", ["224.0.0.1", "0.0.0.0", "255.255.255.255", "ff02::1", "::", "fe80::1"])
def test_addresses_that_are_no_single_host_are_not_checked(host: str) -> None:
    remote = [
        Candidate(Kind.HOST, Address(host, 5000)),
        Candidate(Kind.HOST, Address("10.0.0.1", 0)),
        Candidate(Kind.HOST_TCP, Address("10.0.0.1", 80)),
    ]
    agent = agent_for(*remote)
    agent.start(0.0)
    assert agent.poll_transmit() is None
    assert agent.poll_timeout() == 10.0
