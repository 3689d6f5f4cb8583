"""The multicast groups on this machine: on which interfaces, shared by several programs, joined later."""

from __future__ import annotations

import selectors
import socket
from collections.abc import Iterator

import pytest

from p2p.core.address import Address
from p2p.core.discovery.messages import GROUP_V4
from p2p.io.net import multicast
from p2p.io.net.interfaces import WATCH_INTERVAL, LocalAddress
from p2p.io.net.multicast import MAX_INTERFACES, Membership, MulticastGroups, memberships

LOOPBACK = [LocalAddress("127.0.0.1", "lo", 1, 8), LocalAddress("::1", "lo", 1, 128)]
CABLE = LocalAddress("192.168.1.7", "eth0", 2, 24)
SECOND = LocalAddress("10.0.0.7", "eth0", 2, 24)
GLOBAL = LocalAddress("2001:db8::7", "eth0", 2, 64)
LINK = LocalAddress("fe80::7%eth0", "eth0", 2, 64)
WIFI = LocalAddress("192.168.1.8", "wlan0", 3, 24)
GUARD = 5.0  # seconds

V4, V6 = socket.AF_INET, socket.AF_INET6


def test_every_interface_is_joined_once_for_each_version() -> None:
    found = [*LOOPBACK, CABLE, SECOND, GLOBAL, LINK, WIFI]
    assert memberships(found) == [
        Membership(V4, "192.168.1.7", 2), Membership(V4, "192.168.1.8", 3), Membership(V6, "", 2)
    ]  # fmt: skip


def test_loopback_serves_where_there_is_nothing_else() -> None:
    assert memberships(LOOPBACK) == [Membership(V4, "127.0.0.1", 1)]
    assert memberships([*LOOPBACK, LINK]) == [Membership(V6, "", 2)]
    assert memberships([]) == []


def test_a_machine_with_very_many_interfaces_joins_as_many_as_the_system_allows() -> None:
    found = [LocalAddress(f"10.0.{n}.1", f"veth{n}", n, 24) for n in range(1, 100)]
    assert len(memberships(found)) == MAX_INTERFACES


@pytest.fixture(autouse=True)
def port(monkeypatch: pytest.MonkeyPatch) -> int:
    """A port of this test's own, so that tests which run at the same time do not hear each other."""
    with socket.socket(V4, socket.SOCK_DGRAM) as finder:
        finder.bind(("127.0.0.1", 0))
        found: int = finder.getsockname()[1]
    monkeypatch.setattr(multicast, "GROUP_PORT", found)
    return found


class Place:
    """Two programs on this machine, on loopback."""

    def __init__(self) -> None:
        self.selector = selectors.DefaultSelector()
        self.found: list[LocalAddress] = LOOPBACK[:1]
        self.heard: list[tuple[str, bytes, Address]] = []
        self.groups = [MulticastGroups(self.selector, 0.0, lambda: self.found) for _ in range(2)]
        for name, group in zip("ab", self.groups, strict=True):
            group.watch(lambda data, source, name=name: self.heard.append((name, data, source)))

    def wait(self, count: int) -> None:
        while len(self.heard) < count:
            ready = self.selector.select(GUARD)
            assert ready, f"only {self.heard}"
            for key, mask in ready:
                key.data(mask)


@pytest.fixture
def place(port: int) -> Iterator[Place]:  # noqa: ARG001 (the groups read it)
    made = Place()
    yield made
    for group in made.groups:
        group.close()
    made.selector.close()


def test_programs_on_one_machine_share_the_port_and_hear_each_other(place: Place) -> None:
    place.groups[0].send(b"lan hello")
    place.wait(2)
    assert {(name, data) for name, data, _ in place.heard} == {("a", b"lan hello"), ("b", b"lan hello")}
    assert {source.host for _, _, source in place.heard} == {"127.0.0.1"}


def test_what_is_no_message_of_the_discovery_goes_no_further(place: Place) -> None:
    place.groups[0].send(b"\xc0 a check in disguise")
    place.groups[0].send(b"lan hello")
    place.wait(2)
    assert {data for _, data, _ in place.heard} == {b"lan hello"}


def test_what_is_sent_to_this_machine_and_not_to_the_group_is_not_taken(place: Place, port: int) -> None:
    with socket.socket(V4, socket.SOCK_DGRAM) as stranger:
        stranger.sendto(b"lan by unicast", ("127.0.0.1", port))
    place.groups[0].send(b"lan hello")
    place.wait(2)
    assert {data for _, data, _ in place.heard} == {b"lan hello"}


def test_an_interface_that_comes_later_is_joined_and_one_that_went_is_left() -> None:
    found: list[LocalAddress] = []
    selector = selectors.DefaultSelector()
    group = MulticastGroups(selector, 0.0, lambda: found)
    try:
        assert not group.is_on_a_network
        group.send(b"lan nobody hears this")
        found += LOOPBACK[:1]
        group.handle_timeout(WATCH_INTERVAL)
        assert group.is_on_a_network
        found.clear()
        group.handle_timeout(2 * WATCH_INTERVAL)
        assert not group.is_on_a_network
    finally:
        group.close()
        selector.close()


def test_a_callback_may_close_it() -> None:
    selector = selectors.DefaultSelector()
    closing = MulticastGroups(selector, 0.0, lambda: LOOPBACK[:1])
    closing.watch(lambda _data, _source: closing.close())
    closing.send(b"lan one")
    closing.send(b"lan two")
    for key, mask in selector.select(GUARD):
        key.data(mask)
    assert not selector.get_map()
    assert closing.poll_timeout() is None
    selector.close()


def test_a_port_that_somebody_keeps_for_himself_costs_the_discovery_and_nothing_else(port: int) -> None:
    with socket.socket(V4, socket.SOCK_DGRAM) as greedy:
        greedy.bind((GROUP_V4, port))
        selector = selectors.DefaultSelector()
        group = MulticastGroups(selector, 0.0, lambda: LOOPBACK[:1])
        group.send(b"lan hello")
        assert not group.is_on_a_network
        group.close()
        selector.close()
