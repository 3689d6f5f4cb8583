"""A topology as a picture: SVG text, the same for the same topology, with nothing outside it. Pure.

Servers stand on top, the chain of core hops below them, then routers, then the hosts of each LAN.
Colours follow the reader's light or dark setting (CSS ``prefers-color-scheme``).
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from enum import Enum
from xml.sax.saxutils import escape, quoteattr

from netlab.addressing import Version
from netlab.nat import NONE
from netlab.plan import Attachment, NodePlan, Plan
from netlab.topology import Router, Topology, all_routers, core_names
from netlab.words import link_words, nat_words

# All in SVG user units, which a browser shows as CSS pixels.
LINE = 17  # from one line of text to the next
CHARACTER = 6.9  # width of the widest of the fonts, at 11.5
TITLE_CHARACTER = 9.2  # the same at 15, bold
PADDING = 14
MIN_WIDTH = 120
GAP = 28  # between two boxes in a row
ASIDE = 40  # between two links to one box, where they meet it
LANE = 9  # between them, on their way there
ROW_GAP = 56  # between two rows, for the links
MARGIN = 24
CORNER = 10


class Role(Enum):
    """What a node is; also its CSS class."""

    SERVER = "server"
    CORE = "core"
    NAT = "nat"
    ROUTER = "router"
    HOST = "host"


@dataclass(slots=True)
class Box:
    """A node on its way into the picture; x is its middle, y its top."""

    name: str
    role: Role
    lines: tuple[tuple[str, str], ...]  # CSS class, text
    children: list[Box] = field(default_factory=list)
    x: float = 0
    y: float = 0

    @property
    def width(self) -> float:
        longest = max(len(text) for _, text in (("name", self.name), *self.lines))
        return max(MIN_WIDTH, round(longest * CHARACTER + 2 * PADDING))

    @property
    def height(self) -> float:
        return (1 + len(self.lines)) * LINE + 2 * PADDING - 6

    @property
    def span(self) -> float:
        """The width of it and all below it."""
        return max(self.width, sum(child.span for child in self.children) + GAP * (len(self.children) - 1))

    def place(self, left: float) -> None:
        """Give it and all below it their x, starting at ``left``."""
        self.x = left + self.span / 2
        inner = sum(child.span for child in self.children) + GAP * (len(self.children) - 1)
        left = self.x - inner / 2
        for child in self.children:
            child.place(left)
            left += child.span + GAP


def draw(topology: Topology, plan: Plan, title: str = "") -> str:
    """The picture of a topology and of the plan made of it. Ends in a newline."""
    boxes = {name: _box(node, topology, plan) for name, node in plan.nodes.items()}
    rows = _layout(topology, plan, boxes)
    width = max(box.x + box.width / 2 for box in boxes.values()) + MARGIN
    left = min(box.x - box.width / 2 for box in boxes.values()) - MARGIN
    for box in boxes.values():
        box.x -= left
    width = max(width - left, len(title) * TITLE_CHARACTER + 2 * MARGIN)
    y: float = MARGIN + (LINE + 6 if title else 0)
    for row in rows:
        for box in row:
            box.y = y
        y += max(box.height for box in row) + ROW_GAP
    height = y - ROW_GAP + MARGIN
    drawn = _links(plan, boxes)
    drawn += [_node(box) for box in boxes.values()]
    heading = title or "topology"
    if title:
        drawn.insert(0, f'<text class="title" x="{MARGIN}" y="{MARGIN + 6}">{escape(title)}</text>')
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_n(width)} {_n(height)}" width="{_n(width)}"'
            f' height="{_n(height)}" role="img" aria-label={quoteattr(f"{heading}: {_spoken(plan)}")}>',
            f"<style>{STYLE}</style>",
            '<rect class="paper" width="100%" height="100%"/>',
            *drawn,
            "</svg>\n",
        ]
    )


def _box(node: NodePlan, topology: Topology, plan: Plan) -> Box:
    attached = [each for each in plan.attachments.values() if each.host.node == node.name]
    addresses = tuple(("address", str(address)) for _, address in node.addresses)
    if len(attached) > 1:
        addresses = tuple(line for each in attached for line in _interface(node, each))
    else:
        ours = "WAN " if node.bridges else ""
        addresses += tuple(("word", f"{ours}{words}") for each in attached for words in link_words(each.link))
    router = next((r for r in all_routers(topology.routers) if r.name == node.name), None)
    if router is not None:
        plain = router.nat in (NONE, None) and router.ipv6 in (NONE, None)
        return Box(node.name, Role.ROUTER if plain else Role.NAT, (*_kind(router), *addresses))
    if node.name in core_names(topology.core):
        return Box(node.name, Role.CORE, addresses)
    if node.name in {server.name for server in topology.servers}:
        return Box(node.name, Role.SERVER, addresses)
    return Box(node.name, Role.HOST, addresses)


def _kind(router: Router) -> tuple[tuple[str, str], ...]:
    lines = []
    for version in Version:
        if (nat := router.profile(version)) is not None:
            name = nat.name if version is Version.IPV4 else f"IPv6: {nat.name}"
            lines += [("kind", name), *(("word", words) for words in nat_words(nat))]
            if nat.translates and not router.guarded:
                lines.append(("word", "unguarded"))
    return tuple(lines)


def _interface(node: NodePlan, attached: Attachment) -> tuple[tuple[str, str], ...]:
    """One of several: where it leads, its addresses, its cable."""
    name = attached.host.interface
    return (
        ("word", f"{name} to {attached.port.node}"),
        *(("address", str(address)) for where, address in node.addresses if where == name),
        *(("word", words) for words in link_words(attached.link)),
    )


def _layout(topology: Topology, plan: Plan, boxes: dict[str, Box]) -> list[list[Box]]:
    """Give every box its x; returns the rows from top to bottom."""
    cores = [boxes[name] for name in core_names(topology.core)]
    servers: dict[str, list[Box]] = {core.name: [] for core in cores}
    placed: set[str] = set()
    for link in plan.links:  # a link's end a is the lower one, except between core hops
        child, parent = boxes[link.a.node], boxes[link.b.node]
        if child.role is Role.CORE or child.name in placed:
            continue
        placed.add(child.name)
        (servers[parent.name] if child.role is Role.SERVER else parent.children).append(child)
    left: float = 0
    for core in cores:
        above = servers[core.name]
        # A hop is as wide as the servers above it or as what hangs below it, whichever is more.
        top = sum(box.width for box in above) + GAP * (len(above) - 1)
        room = max(core.span, top)
        core.place(left + (room - core.span) / 2)
        x = core.x - top / 2
        for box in above:
            box.x = x + box.width / 2
            x += box.width + GAP
        left += room + GAP
    rows: list[list[Box]] = [[box for above in servers.values() for box in above], cores]
    below = [child for core in cores for child in core.children]
    while below:
        rows.append(below)
        below = [child for box in below for child in box.children]
    return [row for row in rows if row]


def _links(plan: Plan, boxes: dict[str, Box]) -> list[str]:
    ends = Counter(link.a.node for link in plan.links if boxes[link.a.node].role is not Role.CORE)
    drawn, seen = [], Counter[str]()
    for link in plan.links:
        a, b = boxes[link.a.node], boxes[link.b.node]
        # The links of a multi-homed host reach its box side by side, each by a lane of its own.
        place = seen[a.name] - (ends[a.name] - 1) / 2 if ends[a.name] > 1 else 0
        seen[a.name] += 1
        drawn.append(_link(a, b, place))
    return drawn


def _link(a: Box, b: Box, place: float) -> str:
    """From ``a`` to ``b``, the ``place``-th of several that meet ``a`` from above, counted from their middle."""
    if a.y == b.y:
        y = min(a.y + a.height / 2, b.y + b.height / 2)
        one, two = (a, b) if a.x < b.x else (b, a)
        path = f"M{_n(one.x + one.width / 2)} {_n(y)}H{_n(two.x - two.width / 2)}"
    else:
        upper, lower = (a, b) if a.y < b.y else (b, a)
        start, end = upper.y + upper.height, lower.y
        middle = end - ROW_GAP / 2 + place * LANE
        path = f"M{_n(upper.x)} {_n(start)}V{_n(middle)}H{_n(lower.x + place * ASIDE)}V{_n(end)}"
    return f'<path class="link" d="{path}"><title>{escape(a.name)} to {escape(b.name)}</title></path>'


def _node(box: Box) -> str:
    x, y = box.x - box.width / 2, box.y
    text = [f'<text class="name" x="{_n(box.x)}" y="{_n(y + PADDING + 8)}">{escape(box.name)}</text>']
    text += [
        f'<text class="{kind}" x="{_n(box.x)}" y="{_n(y + PADDING + 8 + LINE * (i + 1))}">{escape(line)}</text>'
        for i, (kind, line) in enumerate(box.lines)
    ]
    shape = f'<rect x="{_n(x)}" y="{_n(y)}" width="{_n(box.width)}" height="{_n(box.height)}" rx="{CORNER}"/>'
    return f'<g class="{box.role.value}">{shape}{"".join(text)}</g>'


def _spoken(plan: Plan) -> str:
    """For who does not see the picture."""
    return ", ".join(f"{link.a.node} to {link.b.node}" for link in plan.links)


def _n(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")


STYLE = """
svg { --paper: #ffffff; --ink: #1c2330; --soft: #5b6577; --line: #8a94a6;
  --server: #e3f4e8; --server-edge: #2e8b57; --core: #f1f3f6; --core-edge: #9aa4b4;
  --nat: #fdeedc; --nat-edge: #c9771a; --nat-ink: #8f5206; --router: #f1f3f6; --router-edge: #9aa4b4;
  --host: #e4eefb; --host-edge: #3b75c4; }
@media (prefers-color-scheme: dark) {
  svg { --paper: #12161d; --ink: #e8ecf3; --soft: #a5afc0; --line: #66718a;
    --server: #15301f; --server-edge: #58b583; --core: #1e242e; --core-edge: #66718a;
    --nat: #382712; --nat-edge: #e09a45; --nat-ink: #eeb06a; --router: #1e242e; --router-edge: #66718a;
    --host: #16283f; --host-edge: #6ca3ea; }
}
.paper { fill: var(--paper); }
.link { fill: none; stroke: var(--line); stroke-width: 2; stroke-linejoin: round; }
rect { stroke-width: 1.5; }
.server rect { fill: var(--server); stroke: var(--server-edge); }
.core rect { fill: var(--core); stroke: var(--core-edge); }
.nat rect { fill: var(--nat); stroke: var(--nat-edge); }
.router rect { fill: var(--router); stroke: var(--router-edge); stroke-dasharray: 5 3; }
.host rect { fill: var(--host); stroke: var(--host-edge); }
text { font: 11.5px system-ui, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; fill: var(--soft); text-anchor: middle; }
.name { font-size: 14px; font-weight: 650; fill: var(--ink); }
.kind { font-weight: 600; fill: var(--nat-ink); }
.router .kind { fill: var(--soft); }
.address { font-family: ui-monospace, "DejaVu Sans Mono", monospace; font-size: 11px; fill: var(--ink); }
.title { text-anchor: start; font-size: 15px; font-weight: 650; fill: var(--ink); }
"""
