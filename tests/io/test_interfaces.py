"""Which of a machine's addresses are told to the other side, and in which order; when they change."""

from __future__ import annotations

import ipaddress
import socket
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2p.core.address import Address
from p2p.io.net import interfaces
from p2p.io.net.interfaces import (
    MAX_ADDRESSES,
    MAX_LINK_LOCAL,
    WATCH_INTERVAL,
    InterfaceWatch,
    LocalAddress,
    choose,
    local_addresses,
    machine_addresses,
)

LOOPBACK = [LocalAddress("127.0.0.1", "lo", 1, 8), LocalAddress("::1", "lo", 1, 128)]
CABLE = LocalAddress("192.168.1.7", "eth0", 2, 24)
STABLE = LocalAddress("2001:db8::7", "eth0", 2, 64)
TEMPORARY = LocalAddress("2001:db8::f00", "eth0", 2, 64, is_temporary=True)
OUTDATED = LocalAddress("2001:db8:1::7", "eth0", 2, 64, is_deprecated=True)
LINK = LocalAddress("fe80::7%eth0", "eth0", 2, 64)
WIFI = LocalAddress("192.168.1.8", "wlan0", 3, 24)
CONTAINERS = LocalAddress("172.17.0.1", "docker0", 4, 16, is_virtual=True)
VPN = LocalAddress("10.8.0.2", "tun0", 5, 24, is_tunnel=True)


def test_what_leads_to_the_server_comes_first_then_ipv6_and_what_may_lead_nowhere_last() -> None:
    found = [*LOOPBACK, VPN, CABLE, LINK, OUTDATED, TEMPORARY, CONTAINERS, WIFI]
    order = ["192.168.1.8", "2001:db8::f00", "192.168.1.7", "2001:db8:1::7", "10.8.0.2", "172.17.0.1", "fe80::7%eth0"]
    assert choose(found, ["192.168.1.8"], on_loopback=False) == order[:MAX_ADDRESSES]
    found.remove(CONTAINERS)
    assert choose(found, ["192.168.1.8"], on_loopback=False) == [*order[:5], order[6]]


def test_of_one_network_only_the_temporary_address_is_told() -> None:
    dhcp = LocalAddress("2001:db8::1234", "eth0", 2, 128)
    assert choose([STABLE, dhcp, TEMPORARY], [], on_loopback=False) == [TEMPORARY.host]
    assert choose([STABLE, TEMPORARY], [STABLE.host], on_loopback=False) == [STABLE.host]  # the system chose it


def test_loopback_is_told_to_a_server_on_loopback_only() -> None:
    assert choose([*LOOPBACK, CABLE], [], on_loopback=False) == [CABLE.host]
    assert choose([*LOOPBACK, CABLE], ["127.0.0.1"], on_loopback=True) == ["127.0.0.1", "::1", CABLE.host]


def test_the_cables_of_many_containers_do_not_take_all_places() -> None:
    cables = [LocalAddress(f"fe80::{n}%veth{n}", f"veth{n}", n, 64, is_virtual=True) for n in range(10, 30)]
    told = choose([*cables, LINK, CABLE], [], on_loopback=False)
    assert told[:2] == [CABLE.host, LINK.host]
    assert len(told) == 1 + MAX_LINK_LOCAL


ips = st.one_of(st.ip_addresses(v=4), st.ip_addresses(v=6)).map(str)
addresses = st.builds(
    LocalAddress, ips, st.sampled_from(["eth0", "tun0"]), st.integers(1, 9), prefix=st.integers(0, 32),
    is_tunnel=st.booleans(), is_virtual=st.booleans(), is_temporary=st.booleans(), is_deprecated=st.booleans(),
)  # fmt: skip


@given(st.lists(addresses, max_size=40), st.lists(ips, max_size=4), st.booleans())
def test_whatever_is_found_a_few_different_addresses_are_told(
    found: list[LocalAddress], routed: list[str], on_loopback: bool
) -> None:
    told = choose(found, routed, on_loopback=on_loopback)
    assert len(told) == len(set(told)) <= MAX_ADDRESSES
    assert set(told) <= {each.host for each in found} | set(routed)
    assert on_loopback or not any(ipaddress.ip_address(host).is_loopback for host in told)


def test_this_machine_has_a_loopback_address_of_each_kind_it_speaks() -> None:
    hosts = {each.host: each for each in machine_addresses()}
    assert hosts["127.0.0.1"].index == socket.if_nametoindex(hosts["127.0.0.1"].interface)
    assert local_addresses([Address("127.0.0.1", 9)])[0] == "127.0.0.1"
    assert "127.0.0.1" not in local_addresses([Address("192.0.2.1", 9)])


def test_flags_of_the_kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = tmp_path / "if_inet6"
    table.write_text(
        "20010db8000000000000000000000f00 02 40 00 01     eth0\n"
        "20010db8000000000000000000000007 02 40 00 20     eth0\n"
        "fe800000000000000000000000000007 02 40 20 40     eth0\n"
    )
    monkeypatch.setattr(interfaces, "IF_INET6", table)
    flags = interfaces._ipv6_flags()

    def usable(address: str) -> list[LocalAddress]:
        mask = "ffff:ffff:ffff:ffff::"
        return list(interfaces._usable(address, mask, name="eth0", index=2, is_tunnel=False, flags=flags))

    assert usable("2001:db8::f00") == [TEMPORARY]
    assert usable("2001:db8::7") == [LocalAddress("2001:db8::7", "eth0", 2, 64, is_deprecated=True)]
    assert usable("fe80::7%eth0") == []  # tentative: not ours until nobody objects


def test_a_system_without_the_table_has_no_flags(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(interfaces, "IF_INET6", tmp_path / "none")
    mask = "ffff:ffff:ffff:ffff::"
    [found] = interfaces._usable("fe80::7", mask, name="lo", index=1, is_tunnel=False, flags=interfaces._ipv6_flags())
    assert found.host == ("fe80::7%1" if sys.platform == "win32" else f"fe80::7%{socket.if_indextoname(1)}")


def test_the_watch_speaks_when_addresses_come_and_go_and_not_otherwise() -> None:
    now = [CABLE, LINK]
    told: list[list[LocalAddress]] = []
    watch = InterfaceWatch(lambda found, _: told.append(found), 0.0, look=lambda: list(now))
    now.reverse()
    watch.handle_timeout(WATCH_INTERVAL)
    assert told == []
    now.append(WIFI)
    watch.handle_timeout(WATCH_INTERVAL * 1.5)  # too early: nothing was due
    assert told == []
    assert watch.poll_timeout() == 2 * WATCH_INTERVAL
    watch.handle_timeout(watch.poll_timeout())
    watch.handle_timeout(watch.poll_timeout())
    assert told == [[LINK, CABLE, WIFI]]
    now.clear()
    watch.handle_timeout(watch.poll_timeout())
    assert told[1:] == [[]]
