"""The scenario table in memory: the whole core of both peers and the server, in virtual time."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
from scenarios import SCENARIOS, Scenario
from sim.network import Impairment
from sim.programs import UDP_PORT, SimPeer
from sim.worlds import World, meet

from p2p.core.address import Address
from p2p.core.errors import ExitCode
from p2p.core.peer import events
from p2p.core.peer.at_server import TUNNEL_AFTER
from p2p.core.peer.connecting import TCP_HEAD_START

CONTENT = random.Random(1).randbytes(200_000)
NATTED = Scenario("port-restricted", "port-restricted")
LIMIT = 60.0  # virtual seconds
NO_PATH_LIMIT = 15.0  # virtual seconds in which both sides must have said that there is no path


@pytest.mark.parametrize("scenario", SCENARIOS, ids=str)
def test_every_network_ends_as_the_table_says(scenario: Scenario) -> None:
    world = World(scenario)
    options = {"takes_relay": scenario.takes_relay}
    sender, receiver = meet(world, {"file": CONTENT}, LIMIT if scenario.path else NO_PATH_LIMIT, **options)
    assert (sender.exit_code, receiver.exit_code) == (scenario.exit_code, scenario.exit_code)
    if scenario.path is None:
        assert sender.peer.failure.message.startswith("No path")
        assert "--no-relay" in sender.peer.failure.message
        assert receiver.received == {}
    else:
        assert sender.path.description.startswith(scenario.path)
        assert receiver.path.description.startswith(scenario.path)
        assert receiver.received == {"file": CONTENT}


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("one_lan", [False, True])
def test_bad_networks_only_take_longer(seed: int, one_lan: bool) -> None:
    world = World(Scenario("port-restricted", "port-restricted", one_lan=one_lan), seed)
    files = {"a": CONTENT, "empty": b"", "b": CONTENT[:61_440]}
    sender, receiver = world.sender(files), world.receiver()
    for host in world.hosts:
        host.impairment = Impairment(loss=0.15, duplicate=0.1, reorder=0.3)
    sender.start()
    world.network.after(0.05, receiver.start)
    world.network.run(lambda: sender.peer.has_met and receiver.peer.has_met, 60.0)
    for host in world.hosts:  # not before: what damages a share past the UDP checksum looks like a wrong code
        host.impairment.corrupt = 0.02
    world.run(sender, receiver, limit=120.0)
    assert (sender.exit_code, receiver.exit_code) == (ExitCode.DONE, ExitCode.DONE)
    assert receiver.received == files


@pytest.mark.parametrize("late", [(True, True), (True, False), (False, True)], ids=["both", "sender", "receiver"])
def test_a_network_that_was_away_is_not_one_that_blocks_udp(late: tuple[bool, bool]) -> None:
    """As when a cable is back: TCP stands before the next question by UDP would be due."""
    world = World(NATTED)
    for host, is_late in zip(world.hosts, late, strict=True):
        host.lost_until = (TUNNEL_AFTER if is_late else 0.0, "")
    sender, receiver = meet(world, {"file": CONTENT}, LIMIT)
    assert receiver.received == {"file": CONTENT}
    assert "punched" in sender.path.description
    assert "punched" in receiver.path.description


@pytest.mark.parametrize("other", ["port-restricted", "firewall", "UDP blocked"])
@pytest.mark.parametrize("is_sender", [True, False])
@pytest.mark.parametrize("delay", [0.01, 0.15])
def test_tcp_that_is_opened_from_both_sides_comes_before_a_relay_that_is_there_sooner(
    other: str, is_sender: bool, delay: float
) -> None:
    """The side that has UDP first asks the server where its TCP comes from, and tells it: three round trips."""
    kinds = ("UDP blocked", other) if is_sender else (other, "UDP blocked")
    sender, receiver = meet(World(Scenario(*kinds), delay=delay), {"file": CONTENT}, LIMIT)
    assert receiver.received == {"file": CONTENT}
    assert paths(sender) == paths(receiver) == [events.PathKind.TCP]


@pytest.mark.parametrize("kinds", [("UDP blocked", "symmetric"), ("symmetric", "UDP blocked")])
def test_a_relay_waits_no_longer_than_for_tcp_to_be_opened(kinds: tuple[str, str]) -> None:
    world = World(Scenario(*kinds), delay=0.05)
    sender, _ = meet(world, {"file": CONTENT}, LIMIT)
    assert paths(sender) == [events.PathKind.RELAY]
    met, chosen = (
        next(at for at, event in sender.timeline if isinstance(event, kind))
        for kind in (events.Connecting, events.PathChosen)
    )
    assert TCP_HEAD_START < chosen - met < 2 * TCP_HEAD_START


def paths(peer: SimPeer) -> list[events.PathKind]:
    return [event.kind for event in peer.events if isinstance(event, events.PathChosen)]


@pytest.mark.parametrize("kind", ["none", "address-restricted", "port-restricted"])
def test_the_first_word_is_heard_at_once(kind: str) -> None:
    """It may come before the receiver knows that the sender has chosen this path."""
    world = World(Scenario(kind, kind))
    sender, receiver = world.sender({"file": CONTENT}), world.receiver()
    sender.start()
    receiver.start()
    world.network.run(lambda: sender.path is not None, LIMIT)
    chosen = world.network.now
    world.network.run(lambda: receiver.path is not None, LIMIT)
    assert world.network.now < chosen + 0.1
    world.run(sender, receiver, limit=LIMIT)


@pytest.mark.parametrize("kind", ["none", "port-restricted"])
def test_a_card_that_joins_datagrams_costs_nothing(kind: str) -> None:
    """UDP_GRO joins whatever comes close together from one address, and the last one may be shorter."""
    scenario = Scenario(kind, kind)
    plain, world = World(scenario), World(scenario)
    meet(plain, {"file": CONTENT}, LIMIT)
    peers = world.sender({"file": CONTENT}), world.receiver()
    for peer, host in zip(peers, world.hosts, strict=True):
        host.udp[UDP_PORT] = joining(world, peer)
    peers[0].start()
    world.network.after(0.05, peers[1].start)
    world.run(*peers, limit=LIMIT)
    assert [peer.exit_code for peer in peers] == [ExitCode.DONE, ExitCode.DONE]
    assert peers[1].received == {"file": CONTENT}
    assert world.network.now < plain.network.now + 0.1


def joining(world: World, peer: SimPeer) -> Callable[[bytes, Address], None]:
    """Takes datagrams for a peer, and hands them over once a millisecond."""
    waiting: list[tuple[bytes, Address]] = []

    def receive(data: bytes, source: Address) -> None:
        if not waiting:
            world.network.after(0.001, hand_over)
        waiting.append((data, source))

    def hand_over() -> None:
        bursts: list[list[tuple[bytes, Address]]] = []
        for data, source in waiting:
            last = bursts[-1] if bursts else None
            if last and last[0][1] == source and len(last[0][0]) == len(last[-1][0]) >= len(data):
                last.append((data, source))
            else:
                bursts.append([(data, source)])
        waiting.clear()
        for burst in bursts:
            segment_size = len(burst[0][0]) if len(burst) > 1 else 0
            peer.receive(b"".join(data for data, _ in burst), burst[0][1], segment_size)

    return receive


def test_a_direct_path_that_is_found_late_takes_over_in_mid_transfer() -> None:
    """The search meets only after the relay has been carrying for a while."""
    world = World(Scenario("symmetric", "port-restricted"), 3)
    content = random.Random(2).randbytes(30_000_000)
    sender, receiver = world.sender({"file": content}), world.receiver()
    for host in world.hosts:  # the searches of both, but not what goes to the server, are lost for three seconds
        host.lost_until = (3.0, world.server.host.address)
    sender.start()
    receiver.start()
    world.run(sender, receiver, limit=120.0)
    for peer in (sender, receiver):
        assert paths(peer) == [events.PathKind.RELAY, events.PathKind.UDP]
        *_, last = (event for event in peer.events if isinstance(event, events.PathChosen))
        assert last.description.startswith("direct UDP")
    assert receiver.received == {"file": content}


@pytest.mark.parametrize("left", ["symmetric", "UDP blocked"])
def test_the_relay_outlives_a_restart_of_the_server(left: str) -> None:
    world = World(Scenario(left, "symmetric"), 5)
    content = random.Random(2).randbytes(20_000_000)
    sender, receiver = world.sender({"file": content}), world.receiver()
    sender.start()
    receiver.start()
    world.network.run(lambda: sender.machine.progress.done > 2_000_000, 60.0)
    world.server.stop()
    world.network.after(2.0, world.server.restart)
    world.run(sender, receiver, limit=120.0)
    assert (sender.exit_code, receiver.exit_code) == (ExitCode.DONE, ExitCode.DONE)
    assert receiver.received == {"file": content}


@pytest.mark.parametrize("one_lan", [False, True])
def test_files_that_cannot_be_read_make_more_records_than_a_path_takes_at_once(one_lan: bool) -> None:
    world = World(Scenario("port-restricted", "port-restricted", one_lan=one_lan))
    files = {str(number): bytes([number % 256]) for number in range(600)}
    sender, receiver = world.sender(files), world.receiver()
    sender.source.tree.unreadable = dict.fromkeys(range(0, 600, 2), 0)
    sender.start()
    receiver.start()
    world.run(sender, receiver, limit=20.0)
    assert receiver.received == {name: content for name, content in files.items() if int(name) % 2}
    for peer in (sender, receiver):
        done = next(event for event in peer.events if isinstance(event, events.Done))
        assert (done.exit_code, done.missed) == (ExitCode.INTEGRITY, 300)
