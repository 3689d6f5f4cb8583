"""A running laboratory.

with Lab(two_nats(PORT_RESTRICTED, SYMMETRIC)) as lab:
    lab.host("server").popen([sys.executable, "-m", "some.server"])
    lab.host("alice").run(["ping", "-c1", lab.host("server").address], check=True)
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Self, assert_never

from netlab import change, kernel, namespace
from netlab.cable import Cable
from netlab.capture import Capture, captured, captured_all
from netlab.events import (
    BlackholeOff,
    BlackholeOn,
    ChangeMtu,
    ChangePorts,
    Event,
    FlushMappings,
    Impair,
    KillService,
    LinkDown,
    LinkUp,
    Rebind,
    StartService,
    Way,
)
from netlab.faults import FaultPlan
from netlab.forgery import Forgery
from netlab.forging import Forging, forging
from netlab.impair import Impairment, to_json
from netlab.impaired import Backend, ImpairedLink, impaired
from netlab.injection import Injection, injected
from netlab.loss import lossy
from netlab.moves import rebound, reported
from netlab.namespace import Family
from netlab.node import Node
from netlab.plan import plan
from netlab.play import Playing, played
from netlab.port_mapper import port_mappers
from netlab.requirements import require
from netlab.schedule import Schedule
from netlab.service import Service
from netlab.timeline import Timeline
from netlab.topology import Topology, all_routers, homes

__all__ = ["Injection", "Lab", "Node"]

TIMELINE = "timeline.jsonl"  # beside the captures of all nodes


class Lab(AbstractContextManager["Lab"]):
    """A topology brought up in anonymous network namespaces for the length of a ``with`` block.

    Entering raises ``MissingRequirements`` or :class:`netlab.kernel.LabError`. On leaving, every
    process in the lab is dead and reaped, every socket it handed out is closed.

    Links are called after the machine whose they are: ``alice``, ``server``, ``left`` (a router's WAN
    side); a multi-homed host's second one is ``alice:eth1``. ``links`` are those impaired at the moment,
    by the topology or by :meth:`impair`.
    """

    def __init__(self, topology: Topology) -> None:
        self.topology = topology
        self.plan = plan(topology)
        self.links: dict[str, ImpairedLink] = {}
        self._nodes: dict[str, Node] = {}
        self._services: dict[str, Service] = {}
        self._cables: dict[str, Cable] = {}
        self.timeline = Timeline()
        self._moving = threading.Lock()  # a schedule's thread moves routers as well
        self._exit = ExitStack()

    def __enter__(self) -> Self:
        routers = all_routers(self.topology.routers)
        mapping = [(each.name, each.nat.port_mapper) for each in routers if each.nat and each.nat.port_mapper]
        require(["port-mapper"] if mapping else [])
        with ExitStack() as stack:
            spaces = namespace.create(len(self.plan.nodes))
            for space in spaces:
                stack.callback(space.close)
            family = Family()
            stack.callback(family.close)
            for node, space in zip(self.plan.nodes.values(), spaces, strict=True):
                self._nodes[node.name] = Node(node, space, family, self.timeline, self._services)
                stack.callback(self._nodes[node.name]._close_sockets)
            self._family = family
            kernel.build(self.plan, {name: node.namespace for name, node in self._nodes.items()})
            for name, attached in self.plan.attachments.items():
                ends = self._nodes[attached.host.node], self._nodes[attached.port.node]
                self._cables[name] = Cable(attached, *ends)
            stack.enter_context(port_mappers([(self._nodes[name], offered) for name, offered in mapping]))
            self.timeline.restart()
            for name, attached in self.plan.attachments.items():
                if (link := attached.link).impaired:
                    stack.enter_context(self.impair(name, up=link.up, down=link.down, seed=link.seed))
            self._exit = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._exit.close()
        self._nodes.clear()
        self._cables.clear()

    def host(self, name: str) -> Node:
        """The machine called ``name``: a host, a server, a router or ``core0``. Raises ``KeyError``."""
        if name not in self._nodes:
            known = ", ".join(self._nodes) or "none: the lab is not up"
            raise KeyError(f"no machine {name!r} in this lab; there are: {known}")
        return self._nodes[name]

    @property
    def hosts(self) -> list[str]:
        """The names of all hosts and servers."""
        return [*(host.name for host in homes(self.topology.routers)), *(s.name for s in self.topology.servers)]

    def link_down(self, host: str) -> None:
        """Pull a cable: both directions go dark, both ends lose their carrier and know it when this returns."""
        with self.timeline.doing(host, "link-down"):
            self._cable(host).plug(up=False)

    def link_up(self, host: str) -> None:
        """Plug it in again; the first packet after this passes."""
        with self.timeline.doing(host, "link-up"):
            self._cable(host).plug(up=True)

    def blackhole(self, host: str, way: Way | None = Way.BOTH) -> None:
        """Let packets from ``host`` (``Way.UP``), to it (``Way.DOWN``) or both vanish; None ends that.

        Its carrier stays, and nobody is told. Captures at the router still see what comes from the
        host reach its port, and nowhere else. Raises ``LabError``.
        """
        with self.timeline.doing(host, "blackhole-off" if way is None else "blackhole-on", way=way and way.value):
            self._cable(host).blackhole(way)

    def change_mtu(self, where: str, mtu: int, *, icmp: bool = True) -> None:
        """Let the link from router (or core hop) ``where`` towards the world take ``mtu`` bytes a packet.

        Both ways. With ``icmp`` the sender of a longer one that must not be fragmented is told so;
        without, it vanishes. What hosts have learnt they remember (``net.ipv4.route.mtu_expires``,
        600 s). Raises ``ValueError`` for a machine that has no such link, and ``LabError``.
        """
        ChangeMtu(where, mtu, icmp)  # raises for an MTU that no link can have
        ends = change.uplink(self.plan, where)
        change.check_mtu(self.plan, ends, mtu)
        with self.timeline.doing(where, "change-mtu", mtu=mtu, icmp=icmp):
            for end in ends:
                self.host(end.node).call(partial(change.change_mtu, end.interface, mtu, icmp=icmp))

    def flush_mappings(self, router: str) -> None:
        """Let a router forget every mapping and all that it let in, as after a restart."""
        with self.timeline.doing(router, "flush-mappings"):
            self.host(router).call(lambda: change.forget(self.plan.nodes[router]))

    def rebind(self, router: str) -> None:
        """Give a router the next external IPv4 address; all its mappings are gone.

        Hosts behind a router without NAT keep theirs, and are reached by the new one. ``topology``,
        ``plan`` and the node's ``address`` follow. Raises ``ValueError`` and ``LabError``.
        """
        before = self.host(router).address
        with self.timeline.doing(router, "rebind", before=before) as details:
            self._move(router, rebound)
            details["after"] = self.host(router).address

    def change_ports(self, router: str) -> None:
        """Let a router map all UDP to other external ports; mapping and filtering stay as they are.

        Which ports: :func:`netlab.moves.other_ports`. A router that kept ports keeps them no longer,
        and ``topology`` then says so. Raises ``ValueError`` for one that maps no UDP, and ``LabError``.
        """
        with self.timeline.doing(router, "change-ports"):
            self._move(router, reported)

    def _move(self, router: str, change_topology: Callable[[Topology, str], Topology]) -> None:
        with self._moving:
            topology = change_topology(self.topology, router)
            moved = plan(topology)
            change.follow(self.plan, moved, {name: node.namespace for name, node in self._nodes.items()})
            self.topology, self.plan = topology, moved
            for name, node in self._nodes.items():
                node._follow(moved.nodes[name])
            self.host(router).call(lambda: change.forget(moved.nodes[router]))

    def service(self, name: str) -> Service:
        """What :meth:`netlab.node.Node.service` started under that name. Raises ``KeyError``."""
        if name not in self._services:
            raise KeyError(f"no service {name!r} in this lab; there are: {', '.join(self._services) or 'none'}")
        return self._services[name]

    def apply(self, event: Event) -> None:
        """Make an event happen now. Raises what the method of that name raises."""
        match event:
            case FlushMappings(router):
                self.flush_mappings(router)
            case Rebind(router):
                self.rebind(router)
            case ChangePorts(router):
                self.change_ports(router)
            case LinkDown(host):
                self.link_down(host)
            case LinkUp(host):
                self.link_up(host)
            case BlackholeOn(host, way):
                self.blackhole(host, way)
            case BlackholeOff(host):
                self.blackhole(host, None)
            case ChangeMtu(where, mtu, icmp):
                self.change_mtu(where, mtu, icmp=icmp)
            case Impair(host, up, down):
                self._change_impairment(host, up, down)
            case KillService(service):
                self.service(service).kill()
            case StartService(service):
                self.service(service).start()
            case _:
                assert_never(event)

    def play(self, schedule: Schedule) -> AbstractContextManager[Playing]:
        """Let the events of ``schedule`` happen during the block, in a thread of their own.

        ``.wait()`` of what it gives returns when all have. Where the block ends earlier, what is
        left does not happen; ``.unfinished`` and the timeline say what. An event that fails ends the
        schedule, and its error is raised at the end of the block.
        """
        return played(schedule, self.apply, self.timeline)

    def offloads(self, host: str, *, on: bool) -> None:
        """Switch segmentation and checksum offload on the machine's own end of a link."""
        self._cable(host).offloads(on=on)

    def loss(self, host: str, probability: float) -> AbstractContextManager[None]:
        """Drop packets that cross the link of ``host`` at the router it leads to, each with ``probability`` (0 to 1).

        Done by the kernel (xt_statistic), so it costs no speed; not seeded, so a test must hold for
        any pattern. While it lasts no host offloads segmentation: a lost packet is one packet, not
        a super-packet of forty. Raises ``ValueError`` for a probability outside 0 to 1.
        """
        ends = [cable for cable in self._cables.values() if cable.host.name in self.hosts]
        context = lossy(self._cable(host), probability, ends)
        return self.timeline.during(host, "loss", context, probability=probability)

    def inject(self, host: str, *plans: FaultPlan) -> AbstractContextManager[Injection]:
        """Put scapy into the link of ``host`` for the length of the block, doing what ``plans`` say.

        The first plan that chooses a packet has it. About 5,000 packets a second pass. Enter it before
        there is traffic that must not be lost: the cable is unplugged for a moment on the way in and
        out. Afterwards ``.counts`` of what it gives says what was done; in between, ``.release()`` and
        ``.replay()`` do at once what plans left to the test. Raises ``LabError`` when the process dies.
        """
        return self.timeline.during(host, "injection", injected(self._cable(host), self._family, plans))

    def forge(
        self, host: str, *forgeries: Forgery, seed: int = 0, rate: float | None = 1000.0, count: int | None = None
    ) -> AbstractContextManager[Forging]:
        """Let ``host``, which need not be on the path, send forged packets for the length of the block.

        ``rate``: packets a second, None for all that the machine can do; the forgeries take turns.
        ``count`` ends it after so many in all. Afterwards ``.sent`` of what it gives says how much of each
        was sent. The core lets false sources pass, as a network does that filters none (RFC 2827).
        Raises ``LabError`` when the process dies.
        """
        context = forging(self.host(host), forgeries, seed=seed, rate=rate, count=count)
        return self.timeline.during(host, "forgery", context, seed=seed, rate=rate, count=count)

    @contextmanager
    def impair(
        self,
        host: str,
        *,
        up: Impairment | None = None,
        down: Impairment | None = None,
        seed: int | None = None,
        backend: Backend | None = None,
    ) -> Iterator[ImpairedLink]:
        """Impair the link of ``host`` for the length of the block: ``up`` from it, ``down`` to it.

        With a ``seed`` decisions are repeatable, and our own forwarder takes them. Without one, netem
        does where the kernel has it (it cannot be seeded), else the forwarder with seed 0; ``backend``
        chooses otherwise. Enter it before there is traffic that must not be lost: the cable is
        unplugged for a moment on the way in and out. Raises ``LabError``.
        """
        up, down = up or Impairment(), down or Impairment()
        context = impaired(self._cable(host), self._family, up, down, seed=seed, backend=backend)
        with self.timeline.during(host, "impairment", context, up=_words(up), down=_words(down), seed=seed) as link:
            link.on_change = lambda way, to: self.timeline.record(host, "impair", **{way: _words(to)})
            name = self.plan.attachment_name(host)
            outer = self.links.get(name)
            self.links[name] = link
            try:
                yield link
            finally:
                del self.links[name]
                if outer is not None:
                    self.links[name] = outer

    def capture(self, node: str, path: Path, interface: str = "any") -> AbstractContextManager[Capture]:
        """Write what a node sees during the block to a pcap at ``path``, 2048 bytes of each packet.

        Raises ``LabError`` with tcpdump's words when it does not start.
        """
        return self.timeline.during(node, "capture", captured(self.host(node), path, interface))

    @contextmanager
    def capture_all(self, directory: Path) -> Iterator[dict[str, Capture]]:
        """Write what each node sees during the block to NODE.pcap in ``directory``, which is made.

        All of them see the first packet of the block and the last; ``mergecap`` makes one of them.
        ``.dropped`` of each says how many packets came faster than it could write. The timeline until
        then is written to timeline.jsonl beside them. Raises ``LabError`` and ``OSError``.
        """
        directory.mkdir(parents=True, exist_ok=True)
        context = captured_all(self._nodes.values(), directory)
        try:
            with self.timeline.during("lab", "capture", context) as captures:
                yield captures
        finally:
            self.timeline.write(directory / TIMELINE)

    def _change_impairment(self, host: str, up: Impairment | None, down: Impairment | None) -> None:
        name = self.plan.attachment_name(host)
        if name not in self.links:
            raise ValueError(f"the link of {host} is not impaired: enter lab.impair({host!r}) around the schedule")
        self.links[name].change(up=up, down=down)

    def _cable(self, host: str) -> Cable:
        return self._cables[self.plan.attachment_name(host)]


def _words(impairment: Impairment) -> dict[str, object]:
    """What of it impairs."""
    nothing = to_json(Impairment())
    return {name: value for name, value in to_json(impairment).items() if value != nothing[name]}
