"""When the relay is used, and how a direct path takes over from it; see punch_world."""

from __future__ import annotations

from dataclasses import replace

import pytest
from punch_world import FIRST_PORT, SERVER, PunchWorld
from sim.network import NAT_KINDS

from p2p.core.address import Address
from p2p.core.datagram import MAIN
from p2p.core.punch.agent import PUNCH_TIMEOUT, SEARCH_TIME
from p2p.core.punch.description import Candidate, Kind
from p2p.core.punch.events import How, PunchFailed
from p2p.core.punch.strategy import LITTLE_PATIENCE, PATIENCE

SLACK = 0.3  # virtual seconds: two ways over the server and their checks


def blocked(left: str, right: str) -> PunchWorld:
    """The left side's router lets no UDP through, and does not say so."""
    world = PunchWorld(left, right)
    nat = world.peers[0].nat
    assert nat is not None
    nat.kind = replace(nat.kind, udp_blocked=True)
    return world


def selected_at(world: PunchWorld) -> list[float]:
    return [next(at for at, event in peer.events if event in peer.selected) for peer in world.peers]


def test_a_direct_path_is_not_kept_waiting_by_a_relay_that_answers_first() -> None:
    world = PunchWorld("port-restricted", "symmetric")
    world.relay(0.0)
    world.start()
    world.rest(40.0)
    for peer in world.peers:
        assert [selected.how for selected in peer.selected] == [How.BIRTHDAY]


@pytest.mark.parametrize(
    ("left", "right", "wait"),
    [
        ("symmetric", "symmetric", LITTLE_PATIENCE),
        ("symmetric", "sequential", LITTLE_PATIENCE),
        ("UDP blocked", "port-restricted", 0.0),
        ("none", "UDP blocked", 0.0),
    ],
)
def test_where_little_can_be_hoped_for_the_relay_comes_early(left: str, right: str, wait: float) -> None:
    world = PunchWorld(left, right)
    world.relay(0.0)
    world.start()
    world.rest(60.0)
    for peer, at in zip(world.peers, selected_at(world), strict=True):
        assert wait <= at + SLACK
        assert at <= wait + SLACK
        assert [(s.how, s.kind, s.local, s.address) for s in peer.selected] == [(How.RELAY, Kind.RELAYED, MAIN, SERVER)]


def test_a_direct_path_takes_over_from_the_relay_and_the_relay_never_from_it() -> None:
    world = blocked("port-restricted", "port-restricted")
    nat = world.peers[0].nat
    assert nat is not None
    world.network.after(6.0, lambda: setattr(nat, "kind", NAT_KINDS["port-restricted"]))
    world.relay(0.1)
    world.start()
    world.rest(60.0)
    for peer, first in zip(world.peers, selected_at(world), strict=True):
        assert PATIENCE - SLACK <= first <= PATIENCE + SLACK
        assert [selected.how for selected in peer.selected] == [How.RELAY, How.PLAIN]
        assert peer.direct_at is not None
        assert peer.direct_at <= 6.0 + 1.0


def test_the_relay_may_be_granted_late_and_the_search_ends() -> None:
    world = blocked("port-restricted", "symmetric")
    world.relay(4.0)
    world.start()
    world.rest(60.0)
    for peer, at in zip(world.peers, selected_at(world), strict=True):
        assert 4.0 <= at <= 4.0 + SLACK
        assert not peer.has_failed
        assert len(peer.sockets) == 1
        after_search = [1 for when, _, address, _ in peer.sent if when > SEARCH_TIME + SLACK and address != SERVER]
        assert not after_search
        kept = [when for when, _, _, _ in peer.sent if when > SEARCH_TIME]
        assert len(kept) >= 2 * (60 - SEARCH_TIME) // 5  # its own checks, and answers to the other's


@pytest.mark.parametrize("pair", [("symmetric", "symmetric"), ("UDP blocked", "none"), ("sequential", "symmetric")])
def test_without_a_relay_it_fails_and_says_so_once(pair: tuple[str, str]) -> None:
    world = PunchWorld(*pair)
    world.start()
    world.rest(60.0)
    for peer in world.peers:
        assert [at for at, event in peer.events if event == PunchFailed()] == [pytest.approx(PUNCH_TIMEOUT)]
        assert len(peer.sockets) == 1
        assert peer.agent.poll_timeout() is None
        assert max(when for when, _, _, _ in peer.sent) <= PUNCH_TIMEOUT + SLACK


def test_the_search_ends_though_its_path_was_found_by_one_of_many_sockets() -> None:
    world = PunchWorld("port-restricted", "symmetric")
    world.start()
    world.rest(40.0)
    easy, hard = world.peers
    (path,) = hard.selected
    assert hard.sockets == {MAIN, path.local}
    assert hard.most_sockets == 257
    assert easy.sockets == {MAIN}


def test_a_port_that_the_router_opens_later_takes_over() -> None:
    """It lets everybody in, so the other symmetric side's checks arrive."""
    world = PunchWorld("symmetric", "symmetric")
    left, right = world.peers
    assert right.nat is not None
    world.relay(0.0)
    world.start()
    world.rest(3.0)
    right.nat.open(7, Address(right.host.address, FIRST_PORT))
    mapped = Candidate(Kind.MAPPED, Address(right.nat.address, 7))
    right.description = replace(right.description, candidates=(*right.description.candidates, mapped))
    world.tell(right)
    assert world.run(1.0)
    assert [selected.how for selected in left.selected] == [How.RELAY, How.MAPPED]
    assert [selected.how for selected in right.selected] == [How.RELAY, How.LEARNED]
