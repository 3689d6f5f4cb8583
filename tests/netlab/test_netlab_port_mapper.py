"""A router's port mapper, asked by programs that are not ours (upnpc, natpmpc) and by our own client.

    alice --- left --- core0 --- core1 --- server        alice --- home --- carrier --- core0 ...
            (mapper)                                             (mapper)
"""

from __future__ import annotations

import shutil
import socket
import tempfile
import time
from dataclasses import replace
from ipaddress import IPv4Address
from pathlib import Path

import pytest

from netlab.kernel import LabError
from netlab.lab import Lab, Node
from netlab.miniupnpd import configuration, tables
from netlab.nat import (
    ADDRESS_DEPENDENT,
    CARRIER_OPEN,
    FULL_CONE_HAIRPIN,
    KINDS,
    NO_PORT_MAPPER,
    NONE,
    PORT_RESTRICTED,
    PORT_RESTRICTED_MAPPER,
    PORT_RESTRICTED_UNGUARDED,
    Filtering,
    Nat,
    PortMapper,
    Udp,
)
from netlab.port_mapping import (
    Client,
    MapRefused,
    Wish,
    nat_pmp_answer,
    nat_pmp_request,
    pcp_answer,
    pcp_request,
    upnp_service,
)
from netlab.probe import Bench, readable
from netlab.prove import probe_port_mapper, prove
from netlab.requirements import MissingRequirements
from netlab.topology import Host, Lan, Router, Topology, carrier, two_nats

LIMIT = 60  # seconds for a program or a packet
MAPPER = two_nats(PORT_RESTRICTED_MAPPER, NONE)
ALL = PortMapper.NAT_PMP | PortMapper.PCP | PortMapper.UPNP
GOLDEN_FOLDER = Path(__file__).parent / "golden"

each_protocol = pytest.mark.parametrize("protocol", PortMapper, ids=lambda each: each.name)


# With programs that are not ours


def natpmpc(node: Node, internal: int, external: int, lifetime: int) -> str:
    return said(node, ["natpmpc", "-a", str(external), str(internal), "udp", str(lifetime)])


def upnpc_add(node: Node, internal: int, external: int) -> str:
    return said(node, ["upnpc", "-a", node.address, str(internal), str(external), "udp", "120"])


def said(node: Node, argv: list[str]) -> str:
    program = shutil.which(argv[0])
    assert program, f"an outside client is not installed: apt-get install {'miniupnpc' if 'upnpc' in argv else argv[0]}"
    return node.run(argv, capture_output=True, text=True, timeout=LIMIT).stdout


def listening(node: Node) -> socket.socket:
    made = node.socket()
    made.bind((node.address, 0))
    made.settimeout(LIMIT)
    return made


def open_to(lab: Lab, inside: socket.socket, router: str, external: int) -> bool:
    """Whether a packet to the router's port arrives, each time from one of whom conntrack knows nothing."""
    with Bench(lab.host("alice"), lab.host("server")) as bench:
        bench.servers[0].sendto(b"may I?", (lab.host(router).address, external))
        bench.settle()
        if not readable(inside, 0.1):
            return False
        assert inside.recv(16) == b"may I?"
        return True


def test_natpmpc_opens_a_port_and_closes_it(netlab) -> None:
    lab = netlab(MAPPER)
    inside = listening(lab.host("alice"))
    port = inside.getsockname()[1]
    assert not open_to(lab, inside, "left", 6000)
    assert "Mapped public port 6000 protocol UDP" in natpmpc(lab.host("alice"), port, 6000, 120)
    assert open_to(lab, inside, "left", 6000)
    assert "liftime 0" in natpmpc(lab.host("alice"), port, 6000, 0)
    assert not open_to(lab, inside, "left", 6000)


def test_upnpc_opens_a_port_and_closes_it(netlab) -> None:
    lab = netlab(MAPPER)
    inside = listening(lab.host("alice"))
    port = inside.getsockname()[1]
    assert f"external {lab.host('left').address}:6000 UDP is redirected" in upnpc_add(lab.host("alice"), port, 6000)
    assert open_to(lab, inside, "left", 6000)
    assert "UPNP_DeletePortMapping() returned : 0" in said(lab.host("alice"), ["upnpc", "-d", "6000", "udp"])
    assert not open_to(lab, inside, "left", 6000)


def test_behind_a_carrier_the_outside_clients_are_refused(netlab) -> None:
    lab = netlab(carrier(PORT_RESTRICTED_MAPPER))
    inside = listening(lab.host("alice"))
    port = inside.getsockname()[1]
    assert "Mapped public port" not in natpmpc(lab.host("alice"), port, 6000, 120)
    assert "is redirected" not in upnpc_add(lab.host("alice"), port, 6000)
    assert not open_to(lab, inside, "home", 6000)


# With our own client


@each_protocol
def test_a_port_is_open_from_the_wish_to_its_deletion(netlab, protocol: PortMapper) -> None:
    lab = netlab(MAPPER)
    client, inside = Client(lab.host("alice")), listening(lab.host("alice"))
    port = inside.getsockname()[1]
    assert client.map(protocol, Wish(port, 6000)) == 6000
    assert open_to(lab, inside, "left", 6000)
    client.map(protocol, Wish(port, 6000, lifetime=0))
    assert not open_to(lab, inside, "left", 6000)


@each_protocol
def test_a_port_closes_when_its_time_is_over(netlab, protocol: PortMapper) -> None:
    lab = netlab(MAPPER)
    client, inside = Client(lab.host("alice")), listening(lab.host("alice"))
    assert client.map(protocol, Wish(inside.getsockname()[1], 6000, lifetime=3)) == 6000
    assert open_to(lab, inside, "left", 6000)
    until = time.monotonic() + LIMIT
    while open_to(lab, inside, "left", 6000):
        assert time.monotonic() < until, "it never closes"


@pytest.mark.parametrize(("protocol", "code"), [*zip(PortMapper, (3, 8, 501), strict=True)], ids=str)
def test_behind_a_carrier_every_protocol_refuses_in_its_own_words(netlab, protocol: PortMapper, code: int) -> None:
    """RFC 6886 section 3.5: network failure; RFC 6887 section 7.4: no resources; UPnP: action failed."""
    lab = netlab(carrier(PORT_RESTRICTED_MAPPER))
    with pytest.raises(MapRefused) as refused:
        Client(lab.host("alice")).map(protocol, Wish(5000, 6000))
    assert refused.value.code == code
    assert probe_port_mapper(lab, "alice") == NO_PORT_MAPPER


def test_without_a_mapper_nobody_answers(netlab) -> None:
    lab = netlab(two_nats(PORT_RESTRICTED, NONE))
    assert probe_port_mapper(lab, "alice") == NO_PORT_MAPPER
    assert prove(lab, "alice", PORT_RESTRICTED_MAPPER) == PORT_RESTRICTED


OFFERS = [PortMapper.NAT_PMP, PortMapper.PCP, PortMapper.UPNP, PortMapper.NAT_PMP | PortMapper.PCP]


def test_a_router_offers_just_what_it_is_told_to(netlab) -> None:
    nats = [replace(PORT_RESTRICTED, port_mapper=offered) for offered in OFFERS]
    lab = netlab(side_by_side(nats))
    assert [probe_port_mapper(lab, f"host{i}") for i in range(len(nats))] == OFFERS


def test_a_mapper_goes_with_every_mapping_and_filtering(netlab) -> None:
    translating = [kind for kind in KINDS if kind.translates and not kind.port_mapper and kind.udp is Udp.ALLOWED]
    further = replace(ADDRESS_DEPENDENT, name="ADM, ADF", filtering=Filtering.ADDRESS_DEPENDENT)
    nats = [replace(kind, port_mapper=ALL) for kind in (*translating, further)]
    lab = netlab(side_by_side(nats))
    measured = {nat.name: probe_port_mapper(lab, f"host{i}") for i, nat in enumerate(nats)}
    assert measured == {nat.name: ALL for nat in nats}


@pytest.mark.parametrize("kind", [FULL_CONE_HAIRPIN, CARRIER_OPEN, PORT_RESTRICTED_UNGUARDED], ids=lambda nat: nat.name)
def test_a_mapper_changes_nothing_else(netlab, kind: Nat) -> None:
    nat = replace(kind, port_mapper=ALL)
    assert prove(netlab(two_nats(nat, NONE)), "alice", nat) == nat


def side_by_side(nats: list[Nat]) -> Topology:
    return Topology(tuple(Router(f"nat{i}", Lan((Host(f"host{i}"),)), nat) for i, nat in enumerate(nats)))


# Coming up and going down


@pytest.mark.netlab(needs="port-mapper")
def test_nothing_stays_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with Lab(MAPPER):
        assert list(tmp_path.iterdir()) == [], "nor is there anything that a killed run would leave"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.netlab
def test_only_a_topology_with_a_mapper_needs_miniupnpd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for program in ("iptables-restore", "nft", "cat"):
        (tmp_path / program).symlink_to(str(shutil.which(program)))
    monkeypatch.setenv("PATH", str(tmp_path))
    with Lab(two_nats(PORT_RESTRICTED, NONE)):
        pass
    with pytest.raises(MissingRequirements, match="apt-get install miniupnpd-nftables"), Lab(MAPPER):
        pass


@pytest.mark.netlab
def test_a_mapper_that_does_not_start_is_told_in_its_own_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = tmp_path / "miniupnpd"
    fake.write_text("#!/bin/sh\necho no such interface >&2\nexit 1\n", encoding="ascii")
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    with pytest.raises(LabError, match="left: miniupnpd did not start: no such interface"), Lab(MAPPER):
        pass


# Text and wire formats


def test_tables_of_a_mapper() -> None:
    assert tables(NO_PORT_MAPPER) == ""
    assert tables(PortMapper.NAT_PMP) == (GOLDEN_FOLDER / "nat-pmp.nft").read_text(encoding="utf-8")
    assert '"lan" udp dport 5351 @th,64,8 0 drop' in tables(PortMapper.PCP)
    assert "drop" not in tables(ALL)


def test_configuration_of_a_mapper() -> None:
    assert "enable_upnp=no\nenable_natpmp=yes\n" in configuration(PortMapper.PCP)
    assert "enable_upnp=yes\nenable_natpmp=no\n" in configuration(PortMapper.UPNP)


def test_nat_pmp_on_the_wire() -> None:
    assert nat_pmp_request(Wish(5000, 6000, 120)).hex() == "000100001388177000000078"
    assert nat_pmp_request(Wish(5000, 6000, 0)).hex() == "000100001388000000000000"
    assert nat_pmp_answer(bytes.fromhex("00810000000000091388177000000078")) == 6000
    with pytest.raises(MapRefused, match="NAT_PMP refused with 3"):
        nat_pmp_answer(bytes.fromhex("0081000300000009"))


def test_pcp_on_the_wire() -> None:
    host, nonce = "00000000000000000000ffffc0a8010a", "000102030405060708090a0b"
    request = pcp_request(Wish(5000, 6000, 120), IPv4Address("192.168.1.10"), bytes(range(12)))
    assert request.hex() == f"0201000000000078{host}{nonce}110000001388177000000000000000000000ffff00000000"
    granted = f"0281000000000078{'00000009':0<32}{nonce}110000001388177000000000000000000000ffff0b000001"
    assert pcp_answer(bytes.fromhex(granted)) == 6000
    with pytest.raises(MapRefused, match="PCP refused with 8"):
        pcp_answer(bytes.fromhex("02810008"))


@pytest.mark.parametrize("answer", [nat_pmp_answer, pcp_answer])
@pytest.mark.parametrize("garbage", [b"", b"\0", bytes(2), bytes(8), bytes(200)])
def test_garbage_is_no_answer(answer, garbage: bytes) -> None:
    with pytest.raises(ConnectionError, match="no answer of"):
        answer(garbage)


def test_the_connection_service_of_a_description() -> None:
    description = """<root xmlns="urn:schemas-upnp-org:device-1-0"><device><serviceList>
      <service><serviceType>urn:schemas-upnp-org:service:Layer3Forwarding:1</serviceType><controlURL>/a</controlURL></service>
      <service><serviceType>urn:schemas-upnp-org:service:WANIPConnection:2</serviceType><controlURL>/b</controlURL></service>
    </serviceList></device></root>"""
    kind = "urn:schemas-upnp-org:service:WANIPConnection:2"
    assert upnp_service(description, "http://192.168.1.1:5000/rootDesc.xml") == (kind, "http://192.168.1.1:5000/b")
    with pytest.raises(ConnectionError, match="no connection service"):
        upnp_service("<root/>", "http://192.168.1.1:5000/rootDesc.xml")
