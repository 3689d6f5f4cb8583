"""The picture of a topology: text for text as it was looked at, and true to its plan for every scenario."""

from __future__ import annotations

import re
from itertools import combinations
from pathlib import Path
from xml.etree import ElementTree

import pytest

from netlab.draw import draw
from netlab.impair import GilbertElliott, Impairment
from netlab.nat import FIREWALL, FULL_CONE, KINDS, PORT_RESTRICTED, Filtering, Mapping, Nat
from netlab.plan import plan
from netlab.scenarios import SCENARIOS
from netlab.topology import Host, Lan, Link, Router, ServerHost, Topology, two_nats
from netlab.words import link_words, nat_words

GOLDEN = Path(__file__).parent / "golden" / "two-nats.svg"  # open it in a browser before you accept a new one
SVG = "{http://www.w3.org/2000/svg}"
HARD = Nat("hard", mapping=Mapping.ADDRESS_AND_PORT_DEPENDENT, port_preservation=False)
LOOSE = Nat("loose", filtering=Filtering.ENDPOINT_INDEPENDENT)
ROAMER = Host("roamer", (Link(), Link(mtu=1400), Link(Impairment(delay=0.04, jitter=0.01), Impairment(loss=0.015))))

# One of each sort of scenario, and some that no scenario is.
TOPOLOGIES = {
    **{
        name: SCENARIOS[name].topology
        for name in (
            "none-x-symmetric",
            "one-lan-full-cone",
            "one-carrier-symmetric",
            "double-nat-port-restricted",
            "unguarded-port-restricted",
            "udp-blocked-x-udp-rejected",
            "dual-stack-symmetric",
            "ipv6-only-x-dual-stack",
            "multi-homed-carrier-grade",
            "bad-links",
        )
    },
    "on three LANs": Topology(tuple(Router(name, Lan((ROAMER,)), ipv6=FIREWALL) for name in ("r1", "r2", "r3"))),
    "three servers": Topology((Router("r", Lan((Host("h"),))),), tuple(ServerHost(f"s{i}") for i in range(3))),
    "six routers": Topology(tuple(Router(f"r{i}", Lan((Host(f"h{i}"),)), FULL_CONE) for i in range(6))),
}
every = pytest.mark.parametrize("topology", TOPOLOGIES.values(), ids=TOPOLOGIES)


def picture(topology: Topology) -> ElementTree.Element:
    return ElementTree.fromstring(draw(topology, plan(topology), "a title"))


def boxes(svg: ElementTree.Element) -> dict[str, tuple[float, float, float, float]]:
    """x, y, width, height by the node's name."""
    found = {}
    for group in svg.iter(f"{SVG}g"):
        rect, name = group.find(f"{SVG}rect"), group.find(f"{SVG}text")
        assert rect is not None
        assert name is not None
        x, y, width, height = (float(rect.get(key, "nan")) for key in ("x", "y", "width", "height"))
        found[name.text or ""] = (x, y, width, height)
    return found


def test_the_picture_is_the_one_that_was_looked_at() -> None:
    topology = two_nats(HARD, LOOSE)
    assert draw(topology, plan(topology), "hard & loose") == GOLDEN.read_text(encoding="utf-8")


def test_a_router_is_described_in_the_words_of_rfc_4787() -> None:
    (words,) = (
        [text.text for text in group.iter(f"{SVG}text")]
        for group in picture(two_nats(HARD, LOOSE)).iter(f"{SVG}g")
        if "left" in [text.text for text in group]
    )
    assert words == [
        "left",
        "hard",
        "address-and-port-dependent mapping",
        "address-and-port-dependent filtering",
        "no port preservation",
        "11.0.0.1/24",
        "192.168.1.1/24",
    ]


def test_every_kind_is_described_in_other_words_than_any_other() -> None:
    described = [nat_words(kind) for kind in KINDS]
    assert len(set(described)) == len(KINDS)
    assert all(re.fullmatch(r"[A-Za-z0-9 ,-]+", phrase) for words in described for phrase in words)


def test_an_unguarded_router_is_marked() -> None:
    open_, closed = (two_nats(PORT_RESTRICTED, PORT_RESTRICTED, guarded=guarded) for guarded in (False, True))
    assert draw(open_, plan(open_)).count(">unguarded<") == 2
    assert "unguarded" not in draw(closed, plan(closed))


def lines(topology: Topology, name: str) -> list[str | None]:
    """The text in one box."""
    texts = ([text.text for text in group.iter(f"{SVG}text")] for group in picture(topology).iter(f"{SVG}g"))
    return next(text for text in texts if text[0] == name)


def test_what_a_router_does_to_ipv6_has_words_of_its_own() -> None:
    filtering = "address-and-port-dependent filtering"
    told = lines(TOPOLOGIES["dual-stack-symmetric"], "left")
    assert told[told.index("IPv6: stateful firewall") :] == [
        *("IPv6: stateful firewall", "no translation", filtering),
        *("11.0.0.1/24", "192.168.1.1/24", "2a11::1/64", "2a13::1/64"),
    ]
    assert lines(TOPOLOGIES["ipv6-only-x-dual-stack"], "left")[1] == "IPv6: stateful firewall"


def test_the_interfaces_of_a_multi_homed_host_are_told_apart() -> None:
    assert lines(TOPOLOGIES["on three LANs"], "roamer") == [
        "roamer",
        *("eth0 to r1", "13.0.0.10/24", "2a13::10/64"),
        *("eth1 to r2", "13.0.1.10/24", "2a13:0:1::10/64", "MTU 1400"),
        *("eth2 to r3", "13.0.2.10/24", "2a13:0:2::10/64", "up 40 ± 10 ms", "down 1.5 % lost"),
    ]


@pytest.mark.parametrize(
    ("link", "words"),
    [
        (Link(), ()),
        (Link(Impairment(delay=0.02), Impairment(delay=0.02), seed=3), ("both ways 20 ms",)),
        (Link(down=Impairment(rate=2.5e6, queue_packets=50)), ("down 2.5 Mbit/s, queue of 50",)),
        (Link(Impairment(rate=1e6, queue_bytes=9000)), ("up 1 Mbit/s, queue of 9000 bytes",)),
        (Link(Impairment(burst=GilbertElliott.of(0.02, 5), corrupt=0.001)), ("up 0.1 % damaged, 2 % lost in bursts",)),
        (
            Link(Impairment(delay=1, reorder=0.1), Impairment(duplicate=0.2), mtu=1280),
            ("up 1000 ms, 10 % reordered", "down 20 % twice", "MTU 1280"),
        ),
    ],
)
def test_a_cable_is_described_by_what_it_does(link: Link, words: tuple[str, ...]) -> None:
    assert link_words(link) == words


@every
def test_every_node_address_and_link_is_there(topology: Topology) -> None:
    svg, made = picture(topology), plan(topology)
    shown = [text.text for text in svg.iter(f"{SVG}text")]
    assert set(boxes(svg)) == set(made.nodes)
    for node in made.nodes.values():
        for _, address in node.addresses:
            assert str(address) in shown
    titles = [title.text for path in svg.iter(f"{SVG}path") for title in path]
    assert titles == [f"{link.a.node} to {link.b.node}" for link in made.links]


@every
def test_no_two_boxes_touch_and_all_are_on_the_paper(topology: Topology) -> None:
    svg = picture(topology)
    width, height = float(svg.get("width", "nan")), float(svg.get("height", "nan"))
    found = boxes(svg)
    for x, y, w, h in found.values():
        assert x >= 0
        assert x + w <= width
        assert y >= 0
        assert y + h <= height
    for (one, a), (two, b) in combinations(found.items(), 2):
        apart = a[0] + a[2] < b[0] or b[0] + b[2] < a[0] or a[1] + a[3] < b[1] or b[1] + b[3] < a[1]
        assert apart, f"{one} and {two} overlap"


@every
def test_links_end_at_the_boxes_that_they_join(topology: Topology) -> None:
    svg = picture(topology)
    found = boxes(svg)
    for path in svg.iter(f"{SVG}path"):
        (title,) = path
        numbers = [float(n) for n in re.findall(r"-?[\d.]+", path.get("d", ""))]
        ends = {(numbers[0], numbers[1])}
        # M x y V middle H x V y, or M x y H x
        ends.add((numbers[3], numbers[4]) if len(numbers) == 5 else (numbers[2], numbers[1]))
        for name in (title.text or "").split(" to "):
            x, y, w, h = found[name]
            assert any(x - 1 <= ex <= x + w + 1 and y - 1 <= ey <= y + h + 1 for ex, ey in ends), name


@every
def test_the_same_topology_gives_the_same_text_and_nothing_is_fetched(topology: Topology) -> None:
    text = draw(topology, plan(topology))
    assert text == draw(topology, plan(topology))
    assert re.findall(r"(?:https?:)?//[^\s\"')]+", text) == ["http://www.w3.org/2000/svg"]
    assert not re.search(r"@import|url\(|href", text)


def test_names_cannot_break_the_picture() -> None:
    topology = Topology((Router("<r&>", Lan((Host('"h"'),)), Nat("<b>")),))
    svg = ElementTree.fromstring(draw(topology, plan(topology), "</svg>"))
    assert {'"h"', "<r&>"} <= set(boxes(svg))
