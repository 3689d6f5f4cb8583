"""The addresses under which others may reach this machine, and when they change."""

from __future__ import annotations

import contextlib
import ipaddress
import socket
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import IntFlag
from pathlib import Path

import psutil

from p2p.core.address import Address, split_zone
from p2p.io.net.addresses import from_socket, to_socket, zone_name

MAX_ADDRESSES = 6  # so that UDP and TCP candidates of all of them fit a description (docs/protocol.md, section 3)
MAX_LINK_LOCAL = 2  # of those: every bridge and every container's cable has one, and they reach one link only
WATCH_INTERVAL = 2.0  # seconds between two looks at the interfaces; one takes 0.4 ms
IF_INET6 = Path("/proc/thread-self/net/if_inet6")  # Linux: address, index, prefix length, scope, flags, name

# Networks that lead to this machine's own containers and virtual machines; where VPNs do not say what they are.
_VIRTUAL = ("docker", "br-", "veth", "virbr", "vmnet", "vboxnet", "vEthernet", "lxc", "lxdbr", "cni", "podman", "cali")
_TUNNELS = ("tun", "tap", "wg", "utun", "tailscale", "zt", "ipsec", "WireGuard", "OpenVPN", "Tailscale", "ZeroTier")

_IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address


class _Flag(IntFlag):
    """linux/if_addr.h"""

    TEMPORARY = 0x01
    DUPLICATE = 0x08
    DEPRECATED = 0x20
    TENTATIVE = 0x40


@dataclass(frozen=True, slots=True)
class LocalAddress:
    """One address of one interface that is up.

    `host` names its zone when it is link-local. `is_tunnel`: on a VPN or another point-to-point interface;
    `is_virtual`: on a network inside this machine. Temporary addresses (RFC 8981) are for connections that go out;
    deprecated ones (RFC 4862 section 5.5.4) go away soon. Both are known on Linux only.
    """

    host: str
    interface: str
    index: int
    prefix: int = 0
    is_tunnel: bool = False
    is_virtual: bool = False
    is_temporary: bool = False
    is_deprecated: bool = False

    @property
    def ip(self) -> _IPAddress:
        return ipaddress.ip_address(self.host)

    @property
    def network(self) -> tuple[int, str]:
        """Addresses with the same one reach, and are reached from, the same places."""
        prefix = self.prefix if self.ip.version == 4 else min(self.prefix, 64)  # DHCPv6 gives 128 for one of a /64
        return self.index, str(ipaddress.ip_interface(f"{split_zone(self.host)[0]}/{prefix}").network)

    @property
    def preference(self) -> tuple[bool, bool, bool, bool, int, bool, int]:
        """Lower is better: what may lead nowhere last, then IPv6 before IPv4 (RFC 6724 section 2.1)."""
        ip = self.ip
        return (
            ip.is_link_local,
            self.is_virtual,
            self.is_tunnel,
            self.is_deprecated,
            -ip.version,
            not self.is_temporary,
            self.index,
        )


def local_addresses(towards: Sequence[Address]) -> list[str]:
    """Under which addresses others may reach this machine, best first: those that route to `towards`, in its order.

    Of several addresses in one network of one interface only the best is told. Loopback counts only when one of
    `towards` is on loopback itself: then both peers and the server are on this machine.
    """
    routed = [source for each in towards if (source := source_address(each)) is not None]
    on_loopback = any(ipaddress.ip_address(each.host).is_loopback for each in towards)
    return choose(machine_addresses(), routed, on_loopback=on_loopback)


def choose(found: Sequence[LocalAddress], routed: Sequence[str], *, on_loopback: bool) -> list[str]:
    """`routed` first, then the best of `found`: MAX_ADDRESSES at most, one of each network. Pure."""
    hosts = list(dict.fromkeys(routed))
    networks = {each.network for each in found if each.host in hosts}
    link_local = 0
    for each in sorted(found, key=lambda each: each.preference):
        if each.host in hosts or each.network in networks or (each.ip.is_loopback and not on_loopback):
            continue
        if each.ip.is_link_local:
            if link_local == MAX_LINK_LOCAL:
                continue
            link_local += 1
        elif not each.ip.is_loopback:
            networks.add(each.network)
        hosts.append(each.host)
    return [host for host in hosts if on_loopback or not ipaddress.ip_address(host).is_loopback][:MAX_ADDRESSES]


def machine_addresses() -> list[LocalAddress]:
    """Every usable address of every interface that is up, loopback too, in the order of the interfaces."""
    flags = _ipv6_flags()
    found: list[LocalAddress] = []
    with contextlib.suppress(OSError):  # an interface that went away while we looked
        states, indices = psutil.net_if_stats(), {name: index for index, name in socket.if_nameindex()}
        for name, addresses in psutil.net_if_addrs().items():
            if name in states and states[name].isup:
                is_tunnel = "pointopoint" in states[name].flags.split(",") or name.startswith(_TUNNELS)
                for each in addresses:
                    if each.family in (socket.AF_INET, socket.AF_INET6):
                        index = indices.get(name, 0)
                        found += _usable(
                            each.address, each.netmask, name=name, index=index, is_tunnel=is_tunnel, flags=flags
                        )
    return sorted(found, key=lambda each: each.index)


class InterfaceWatch:
    """Says when the machine's addresses have become others: a cable, a Wi-Fi network, a VPN that came or went."""

    def __init__(
        self,
        on_change: Callable[[list[LocalAddress], float], None],
        now: float,
        look: Callable[[], list[LocalAddress]] = machine_addresses,
    ) -> None:
        self._on_change = on_change
        self._look = look
        self._known = _identity(look())
        self._next = now + WATCH_INTERVAL

    def poll_timeout(self) -> float:
        return self._next

    def handle_timeout(self, now: float) -> None:
        if now < self._next:
            return
        self._next = now + WATCH_INTERVAL
        found = self._look()
        if (identity := _identity(found)) != self._known:
            self._known = identity
            self._on_change(found, now)


def _identity(found: Sequence[LocalAddress]) -> frozenset[tuple[str, int]]:
    return frozenset((each.host, each.index) for each in found)


def _usable(
    address: str, netmask: str | None, *, name: str, index: int, is_tunnel: bool, flags: dict[tuple[int, int], _Flag]
) -> Iterator[LocalAddress]:
    host, zone = split_zone(address)
    ip = ipaddress.ip_address(host)
    state = flags.get((int(ip), index), _Flag(0)) if ip.version == 6 else _Flag(0)
    if state & (_Flag.TENTATIVE | _Flag.DUPLICATE) or ip.is_unspecified or ip.is_multicast:
        return
    if ip.version == 6 and ip.is_link_local:
        host = f"{ip}%{zone or zone_name(index)}"
    yield LocalAddress(
        host,
        name,
        index,
        prefix=_prefix(netmask, ip),
        is_tunnel=is_tunnel,
        is_virtual=name.startswith(_VIRTUAL),
        is_temporary=bool(state & _Flag.TEMPORARY),
        is_deprecated=bool(state & _Flag.DEPRECATED),
    )


def _prefix(netmask: str | None, ip: _IPAddress) -> int:
    """The netmask as a length; a whole address where the system does not tell."""
    if not netmask:
        return ip.max_prefixlen
    return int(ipaddress.ip_address(netmask)).bit_count()


def _ipv6_flags() -> dict[tuple[int, int], _Flag]:
    """By address and interface; empty where the system does not tell."""
    try:
        lines = IF_INET6.read_text().splitlines()
    except OSError:
        return {}
    fields = (line.split() for line in lines)
    return {(int(each[0], 16), int(each[1], 16)): _Flag(int(each[4], 16)) for each in fields}


def source_address(towards: Address) -> str | None:
    """Asks the routing table, without sending anything, which source address it would use."""
    is_v6 = towards.version == 6
    try:
        with socket.socket(socket.AF_INET6 if is_v6 else socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.connect(to_socket(towards, is_v6=is_v6))
            return from_socket(probe.getsockname()).host
    except OSError:
        return None
