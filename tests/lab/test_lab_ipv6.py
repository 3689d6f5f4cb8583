"""IPv6 beside IPv4, instead of it, broken; link-local addresses; several interfaces, VPNs among them; NAT behind NAT.

alice --- left --- core0 --- core1 --- right --- bob
       (firewall)              |     (firewall)
                             server (listens on ::)
"""

from __future__ import annotations

import fcntl
import os
import re
import select
import struct
import subprocess
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from harness import Program, Stage, hash_of, make_file, stage

from netlab.addressing import link_local
from netlab.events import ChangeMtu
from netlab.lab import Lab, Node
from netlab.nat import (
    CARRIER,
    CARRIER_OPEN,
    CARRIER_SYMMETRIC,
    FIREWALL,
    FULL_CONE,
    NONE,
    PORT_RESTRICTED,
    PORT_RESTRICTED_MAPPER,
    SYMMETRIC,
)
from netlab.topology import Topology, carrier, ipv6_only, multi_homed, one_carrier, one_lan, two_nats
from p2p.core.peer.outlook import SAME_NAT

pytestmark = pytest.mark.netlab()

SIZE = 3_000_000
GUARD = 120.0  # seconds for what takes one or two
NAME = "server.example"
NO_PATH = 6
TUNSETIFF = 0x400454CA  # linux/if_tun.h, as is the next line
IFF_TUN, IFF_NO_PI = 0x0001, 0x1000
VPN = "wg0"

Spawn = Callable[..., "subprocess.Popen[Any]"]


def knowing(node: Node, hosts: Path) -> Spawn:
    """Starts programs on `node` for which the file `hosts` is /etc/hosts."""

    def spawn(argv: Sequence[str], **kwargs: Any) -> subprocess.Popen[Any]:
        script = 'mount --bind "$0" /etc/hosts && exec "$@"'
        return node.popen(["unshare", "--mount", "sh", "-c", script, str(hosts), *argv], **kwargs)

    return spawn


class Scene:
    """A server on all addresses of its machine, which has a name, and two peers that know it by that name."""

    def __init__(self, lab: Lab, programs: Stage, tmp_path: Path) -> None:
        self._lab, self._programs, self._tmp_path = lab, programs, tmp_path
        server = lab.host("server")
        self._hosts = tmp_path / "hosts"
        addresses = [each[0] for each in (server.ipv6, server.ipv4) if each]
        self._hosts.write_text("".join(f"{address} {NAME}\n" for address in addresses))
        self._digest = make_file(tmp_path / "file", SIZE)

    def run(self, *options: str, server: str | None = None) -> tuple[Program, Program]:
        """Both programs at their end."""
        where = server or f"{NAME}:{self._programs.port}"
        spawn = {name: knowing(self._lab.host(name), self._hosts) for name in ("alice", "bob")}
        common = ("--json", "--verbose", *options)
        sender = self._programs.send(
            "alice", "bob", self._tmp_path / "file", *common, spawn=spawn["alice"], server=where
        )
        receiver = self._programs.recv(
            "bob", "alice", "--out", self._out, "--yes", *common, spawn=spawn["bob"], server=where
        )
        for program in (sender, receiver):
            program.finish(GUARD)
        return sender, receiver

    @property
    def _out(self) -> Path:
        return self._tmp_path / "out"

    def path(self, *options: str, server: str | None = None) -> str:
        """How both name the path over which the file came whole, without milliseconds and whose port was learned."""
        sender, receiver = self.run(*options, server=server)
        assert sender.process.returncode == receiver.process.returncode == 0, sender.err + receiver.err
        assert hash_of(self._out / "file") == self._digest
        for program in (sender, receiver):
            # Nobody waited for long: of a silence we are told after two seconds, as it may be on a busy machine, and
            # again after five.
            silences = [event for event in program.events if event["event"] in ("server_silent", "peer_silent")]
            assert len(silences) <= 1, program.said
        said = [re.sub(r"\d+ ms", "N ms", each.event("path")["description"]) for each in (sender, receiver)]
        names = [re.sub(", port learned[^)]*", "", each) for each in said]
        assert names[0] == names[1]
        return names[0]


@contextmanager
def scene(lab: Lab, tmp_path: Path):
    with stage(lab.host("server").popen, "::" if lab.host("server").ipv6 else "0.0.0.0") as programs:
        yield Scene(lab, programs, tmp_path)


DIRECT6 = "direct UDP N ms (IPv6, no NAT between)"
DIRECT = "direct UDP N ms (no NAT between)"
PUNCHED = "direct UDP N ms (punched)"
LAN = "direct TCP (LAN)"


def test_ipv6_is_preferred_where_both_have_it_and_goes_through_two_firewalls(netlab, tmp_path: Path) -> None:
    with scene(netlab(two_nats(PORT_RESTRICTED, PORT_RESTRICTED, ipv6=(FIREWALL, FIREWALL))), tmp_path) as running:
        assert running.path() == DIRECT6


@pytest.mark.parametrize("mtu", [1500, 1280])
def test_ipv6_alone_and_its_datagrams_fill_the_link(netlab, tmp_path: Path, mtu: int) -> None:
    """1280 is the least that IPv6 allows: 40 and 8 bytes of headers leave 1232."""
    lab = netlab(ipv6_only(FIREWALL, FIREWALL))
    if mtu != 1500:
        lab.apply(ChangeMtu("left", mtu, icmp=False))
    with scene(lab, tmp_path) as running:
        sender, receiver = running.run()
        assert (sender.process.returncode, receiver.process.returncode) == (0, 0), sender.err + receiver.err
        assert re.sub(r"\d+ ms", "N ms", sender.event("path")["description"]) == DIRECT6
        assert re.findall(r"datagrams of (\d+) B", sender.err) == [str(mtu - 48)]


@pytest.mark.parametrize("broken", [("left",), ("left", "right")], ids=["at one side", "at both"])
def test_ipv6_that_leads_nowhere_costs_a_quarter_of_a_second(netlab, tmp_path: Path, broken: tuple[str, ...]) -> None:
    """Addresses and routes are there, and packets vanish: the server's IPv4 address is asked, and IPv4 is punched."""
    lab = netlab(two_nats(PORT_RESTRICTED, PORT_RESTRICTED, ipv6=(FIREWALL, FIREWALL)))
    for router in broken:
        lab.host(router).iptables("ip6tables -I FORWARD -j DROP")
    with scene(lab, tmp_path) as running:
        assert running.path() == PUNCHED


def test_a_peer_whose_seat_is_on_ipv6_names_its_ipv4_mapping_too(netlab, tmp_path: Path) -> None:
    """Behind its router nobody could guess it, and the friend has no IPv6."""
    with scene(netlab(two_nats(PORT_RESTRICTED, PORT_RESTRICTED, ipv6=(FIREWALL, None))), tmp_path) as running:
        assert running.path() == PUNCHED


def test_two_firewalls_that_let_no_udp_out_are_opened_by_tcp_from_both_sides(netlab, tmp_path: Path) -> None:
    """Without NAT the address that the server sees is the host's own."""
    lab = netlab(ipv6_only(FIREWALL, FIREWALL))
    for router in ("left", "right"):
        lab.host(router).iptables("ip6tables -I FORWARD -p udp -j DROP")
    with scene(lab, tmp_path) as running:
        assert running.path() == "direct TCP (UDP does not get through)"


def test_networks_without_a_common_version_are_relayed_or_told_so(netlab, tmp_path: Path) -> None:
    with scene(netlab(two_nats(None, PORT_RESTRICTED, ipv6=(FIREWALL, None))), tmp_path) as running:
        assert running.path().startswith("relay")
        sender, receiver = running.run("--no-relay")
        assert (sender.process.returncode, receiver.process.returncode) == (NO_PATH, NO_PATH)
        assert "your network has IPv6 only, the other side's IPv4 only" in sender.err
        assert "your network has IPv4 only, the other side's IPv6 only" in receiver.err


def test_a_lan_on_which_there_are_link_local_addresses_only(netlab, tmp_path: Path) -> None:
    """Two machines and a router without the internet, which runs the server: no address leads beyond the cable."""
    lab = netlab(one_lan(NONE, ipv6=NONE))
    for name in ("alice", "bob"):
        for version in ("-4", "-6"):
            lab.host(name).run(["ip", version, "addr", "flush", "dev", "eth0", "scope", "global"], check=True)
    router = lab.host("router")
    address = link_local(lab.plan.nodes["router"].macs["lan"])
    with stage(router.popen, "::") as programs:
        running = Scene(lab, programs, tmp_path)
        assert running.path(server=f"[{address}%eth0]:{programs.port}") == LAN


def test_udp_between_link_local_addresses_where_tcp_is_forbidden(netlab, tmp_path: Path) -> None:
    lab = netlab(one_lan(NONE, ipv6=NONE))
    for name in ("alice", "bob"):
        for version in ("-4", "-6"):
            lab.host(name).run(["ip", version, "addr", "flush", "dev", "eth0", "scope", "global"], check=True)
        lab.host(name).iptables("ip6tables -A INPUT -p tcp -j DROP")
    address = link_local(lab.plan.nodes["router"].macs["lan"])
    with stage(lab.host("router").popen, "::") as programs:
        running = Scene(lab, programs, tmp_path)
        assert running.path(server=f"[{address}%eth0]:{programs.port}") == DIRECT6


def test_a_second_interface_that_is_dead_does_not_delay(netlab, tmp_path: Path) -> None:
    lab = netlab(multi_homed(PORT_RESTRICTED, FULL_CONE))
    lab.host("mobile").iptables("iptables -I FORWARD -j DROP", "iptables -I INPUT -j DROP")
    with scene(lab, tmp_path) as running:
        assert running.path() == PUNCHED


def test_a_second_interface_with_an_easier_nat_is_not_punched_from(netlab, tmp_path: Path) -> None:
    """By it the path could be direct; only the network of the default route is measured (docs/connecting.md)."""
    with scene(netlab(multi_homed(SYMMETRIC, FULL_CONE, SYMMETRIC)), tmp_path) as running:
        assert running.path().startswith("relay")


def test_a_vpn_that_leads_nowhere_does_not_delay(netlab, tmp_path: Path) -> None:
    """Both have an address in the same private network, and a cable that nobody answers at."""
    lab = netlab(two_nats(PORT_RESTRICTED, PORT_RESTRICTED, ipv6=(FIREWALL, FIREWALL)))
    for number, name in enumerate(("alice", "bob"), start=2):
        host = lab.host(name)
        host.run(["ip", "link", "add", "wg0", "type", "veth", "peer", "name", "nowhere"], check=True)
        host.run(["sh", "-c", "echo 0 > /proc/sys/net/ipv6/conf/wg0/disable_ipv6"], check=True)
        host.run(["ip", "addr", "add", f"10.8.0.{number}/24", "dev", "wg0"], check=True)
        host.run(["ip", "addr", "add", f"fd08::{number}/64", "dev", "wg0", "nodad"], check=True)
        host.run(["ip", "link", "set", "wg0", "up"], check=True)
        host.run(["ip", "link", "set", "nowhere", "up"], check=True)
    with scene(lab, tmp_path) as running:
        assert running.path() in (DIRECT6, PUNCHED)


def open_tun() -> int:
    made = os.open("/dev/net/tun", os.O_RDWR)
    fcntl.ioctl(made, TUNSETIFF, struct.pack("16sH22x", VPN.encode(), IFF_TUN | IFF_NO_PI))
    return made


@contextmanager
def vpn(*nodes: Node) -> Iterator[None]:
    """What a VPN is to two machines: a point-to-point interface of 10.8.0.0/24 each, and between them who carries."""
    with ExitStack() as stack:
        ends: list[int] = []
        for number, node in enumerate(nodes, start=1):
            ends.append(node.call(open_tun))
            stack.callback(os.close, ends[-1])
            for words in (f"addr add 10.8.0.{number}/24 dev {VPN}", f"link set {VPN} mtu 1420 up"):
                node.run(["ip", *words.split()], check=True)
        reader, writer = os.pipe()

        def carry() -> None:
            while reader not in (ready := select.select([*ends, reader], [], [])[0]):
                for end in ready:
                    with suppress(OSError):  # the other end's machine has closed its own
                        os.write(ends[1 - ends.index(end)], os.read(end, 2000))

        carrier = threading.Thread(target=carry)
        carrier.start()
        try:
            yield
        finally:
            os.close(writer)
            carrier.join()
            os.close(reader)


@pytest.mark.netlab(needs="tun")
@pytest.mark.parametrize(("forbidden", "path"), [("sctp", LAN), ("tcp", DIRECT)], ids=["TCP and UDP", "UDP alone"])
def test_a_vpn_that_joins_both_is_a_direct_path_where_there_is_no_other(
    netlab, tmp_path: Path, forbidden: str, path: str
) -> None:
    lab = netlab(two_nats(SYMMETRIC, SYMMETRIC))
    alice, bob = lab.host("alice"), lab.host("bob")
    for host in (alice, bob):
        host.iptables(f"iptables -A INPUT -i {VPN} -p {forbidden} -j DROP")
    with vpn(alice, bob), scene(lab, tmp_path) as running:
        assert running.path() == path


@pytest.mark.netlab(needs="tun")
def test_all_goes_into_a_vpn_and_udp_comes_out_of_it(netlab, tmp_path: Path) -> None:
    """The provider of the VPN, at the core, has a NAT; past the VPN nothing leaves the house."""
    lab = netlab(two_nats(PORT_RESTRICTED, PORT_RESTRICTED))
    alice, provider = lab.host("alice"), lab.host("core0")
    lab.host("left").iptables("iptables -I FORWARD -j DROP")
    provider.iptables(
        "iptables -t nat -A POSTROUTING -s 10.8.0.0/24 -j MASQUERADE",
        "iptables -A INPUT -i next -p udp -j DROP",  # what comes too early takes no port, as in every guarded router
    )
    with vpn(alice, provider), scene(lab, tmp_path) as running:
        alice.run(["ip", "route", "replace", "default", "dev", VPN], check=True)
        assert running.path() == PUNCHED


NETWORKS = {
    "homes of one carrier that hairpins": one_carrier(PORT_RESTRICTED, PORT_RESTRICTED, CARRIER_OPEN),
    "a home behind a carrier": carrier(PORT_RESTRICTED, CARRIER),
    "a home behind a carrier that maps each destination, to an open one": carrier(
        PORT_RESTRICTED, CARRIER_SYMMETRIC, FULL_CONE
    ),
}


@pytest.mark.parametrize("topology", NETWORKS.values(), ids=NETWORKS)
def test_nat_behind_nat(netlab, tmp_path: Path, topology: Topology) -> None:
    with scene(netlab(topology), tmp_path) as running:
        assert running.path() == PUNCHED


SHUT_CARRIERS = {
    "one port each": one_carrier(PORT_RESTRICTED, PORT_RESTRICTED, CARRIER),
    "another port for each destination": one_carrier(PORT_RESTRICTED, PORT_RESTRICTED, CARRIER_SYMMETRIC),
    "homes whose port mappers it makes useless": one_carrier(
        PORT_RESTRICTED_MAPPER, PORT_RESTRICTED_MAPPER, CARRIER
    ),
}


@pytest.mark.parametrize("topology", SHUT_CARRIERS.values(), ids=SHUT_CARRIERS)
def test_one_carrier_that_does_not_hairpin_is_relayed_in_words(netlab, tmp_path: Path, topology: Topology) -> None:
    with scene(netlab(topology), tmp_path) as running:
        assert running.path() == f"relay N ms ({SAME_NAT})"
