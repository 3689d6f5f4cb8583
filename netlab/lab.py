"""A running laboratory.

with Lab(two_nats(PORT_RESTRICTED, SYMMETRIC)) as lab:
    lab.host("server").popen([sys.executable, "-m", "some.server"])
    lab.host("alice").run(["ping", "-c1", lab.host("server").address], check=True)
"""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import Any, NoReturn, Self, TypeVar

from netlab import kernel, namespace
from netlab.faults import FaultPlan, to_json
from netlab.impair import Impairment
from netlab.impaired import Backend, Forwarding, ImpairedLink, Netem, has_netem, prepare
from netlab.namespace import Family, Namespace
from netlab.plan import NodePlan, plan
from netlab.requirements import require
from netlab.topology import Topology

T = TypeVar("T")

DRAIN_ROUNDS = 1000  # a capture under endless traffic ends all the same
STOP_LIMIT = 30  # seconds for the fault injector to forward what it has read and end


class Node:
    """One machine of a lab: host, server, router or core hop. Made by :class:`Lab` only."""

    def __init__(self, node: NodePlan, inside: Namespace, family: Family) -> None:
        self.name = node.name
        self.namespace = inside
        self._addresses = [str(address.ip) for _, address in node.addresses]
        self._family = family
        self._sockets: list[socket.socket] = []

    @property
    def address(self) -> str:
        """The first IPv4 address (of a router: its WAN side)."""
        return self._addresses[0]

    @property
    def addresses(self) -> list[str]:
        """Every IPv4 address except loopback."""
        return list(self._addresses)

    def call(self, function: Callable[[], T]) -> T:
        """Run ``function`` in a thread inside the namespace; returns its result, raises its exception.

        Sockets it makes stay in the namespace; threads it starts begin there.
        """
        return self.namespace.call(function)

    def socket(self, family: int = socket.AF_INET, kind: int = socket.SOCK_DGRAM, protocol: int = 0) -> socket.socket:
        """A socket in this namespace, usable from any thread; closed with the lab. Raises ``OSError``."""
        made = self.call(lambda: socket.socket(family, kind, protocol))
        self._sockets.append(made)
        return made

    def popen(self, argv: Sequence[str], **kwargs: Any) -> subprocess.Popen[Any]:
        """``subprocess.Popen`` inside the namespace.

        The process, and all that it starts, is killed when the lab ends or when we die by whatever
        cause. Its pipes are closed with the lab: read them before.
        """
        return self._family.popen(self.namespace, argv, **kwargs)

    def run(
        self,
        argv: Sequence[str],
        *,
        input: str | bytes | None = None,
        timeout: float | None = None,
        check: bool = False,
        capture_output: bool = False,
        **kwargs: Any,
    ) -> subprocess.CompletedProcess[Any]:
        """``subprocess.run`` inside the namespace; ``timeout`` in seconds.

        Raises ``subprocess.TimeoutExpired`` (the process is killed) and ``CalledProcessError``.
        """
        if input is not None:
            kwargs["stdin"] = subprocess.PIPE
        if capture_output:
            kwargs["stdout"] = kwargs["stderr"] = subprocess.PIPE
        process = self.popen(argv, **kwargs)
        try:
            out, err = process.communicate(input, timeout=timeout)
        except BaseException:
            process.kill()
            process.wait()
            raise
        result: subprocess.CompletedProcess[Any] = subprocess.CompletedProcess(argv, process.returncode, out, err)
        if check:
            result.check_returncode()
        return result

    def iptables(self, *commands: str) -> None:
        """Run ``iptables ...`` commands in here, all or none per table; raises ``LabError``."""
        self.call(lambda: kernel.iptables(commands))

    def _close_sockets(self) -> None:
        for each in self._sockets:
            each.close()


class Injection:
    """A process in the path. ``counts``, known after the block: packets ``chosen`` and ``untouched``,
    and by action ``pass``, ``drop``, ``duplicate``, ``hold``, ``corrupt``, ``truncate``."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self.counts: Counter[str] = Counter()

    def _start(self, plan: FaultPlan) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps(to_json(plan)) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass  # its last words are told below
        if self._process.stdout.readline() != "ready\n":
            self._fail()

    def _stop(self) -> None:
        if self._process.poll() is not None:
            self._fail()
        out, _ = self._process.communicate(timeout=STOP_LIMIT)
        if self._process.returncode != 0:
            self._fail()
        self.counts.update(json.loads(out))

    def _fail(self) -> NoReturn:
        self._process.kill()
        _, words = self._process.communicate()
        raise kernel.LabError(f"the fault injector ended (exit {self._process.returncode}): {words.strip()}")

    def _kill(self) -> None:
        self._process.kill()
        self._process.wait()


class Lab(AbstractContextManager["Lab"]):
    """A topology brought up in anonymous network namespaces for the length of a ``with`` block.

    Entering raises ``MissingRequirements`` or :class:`netlab.kernel.LabError`. On leaving, every
    process in the lab is dead and reaped, every socket it handed out is closed.
    """

    def __init__(self, topology: Topology) -> None:
        self.topology = topology
        self.plan = plan(topology)
        self._nodes: dict[str, Node] = {}
        self._exit = ExitStack()

    def __enter__(self) -> Self:
        require()
        with ExitStack() as stack:
            spaces = namespace.create(len(self.plan.nodes))
            for space in spaces:
                stack.callback(space.close)
            family = Family()
            stack.callback(family.close)
            for node, space in zip(self.plan.nodes.values(), spaces, strict=True):
                self._nodes[node.name] = Node(node, space, family)
                stack.callback(self._nodes[node.name]._close_sockets)
            self._family = family
            kernel.build(self.plan, {name: node.namespace for name, node in self._nodes.items()})
            self._exit = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._exit.close()
        self._nodes.clear()

    def host(self, name: str) -> Node:
        """The machine called ``name``: a host, a server, a router or ``core0``. Raises ``KeyError``."""
        if name not in self._nodes:
            known = ", ".join(self._nodes) or "none: the lab is not up"
            raise KeyError(f"no machine {name!r} in this lab; there are: {known}")
        return self._nodes[name]

    @property
    def hosts(self) -> list[str]:
        """The names of all hosts and servers."""
        return list(self.plan.attachments)

    def link_down(self, host: str) -> None:
        """Pull the cable of a host: both directions go dark, the host's carrier is lost."""
        port = self.plan.attachments[host].port
        self.host(port.node).call(lambda: kernel.set_link(port.interface, up=False))

    def link_up(self, host: str) -> None:
        """Plug it in again; the first packet after this passes."""
        port = self.plan.attachments[host].port
        self.host(port.node).call(lambda: kernel.set_link(port.interface, up=True))
        self._await_carrier(host)

    def _await_carrier(self, host: str) -> None:
        attached = self.plan.attachments[host]
        end, port = attached.host, attached.port
        self.host(end.node).call(lambda: kernel.await_carrier(end.interface))
        self.host(port.node).call(lambda: kernel.await_carrier(port.interface, port.bridge))

    def offloads(self, host: str, *, on: bool) -> None:
        """Switch segmentation and checksum offload on a host's own interface."""
        end = self.plan.attachments[host].host
        self.host(end.node).call(lambda: kernel.set_offloads(end.interface, on=on))

    @contextmanager
    def loss(self, host: str, probability: float) -> Iterator[None]:
        """Drop packets to and from ``host`` at its router, each with ``probability`` (0 to 1).

        Done by the kernel (xt_statistic), so it costs no speed; not seeded, so a test must hold for
        any pattern. While it lasts no host offloads segmentation: a lost packet is one packet, not
        a super-packet of forty. Raises ``ValueError`` for a probability outside 0 to 1.
        """
        if not 0 <= probability <= 1:
            raise ValueError(f"a probability is between 0 and 1, not {probability}")
        router = self.host(self.plan.attachments[host].port.node)
        drop = f"-m statistic --mode random --probability {probability:.9f} -j DROP"
        rules = [f"FORWARD -{way} {address} {drop}" for address in self.host(host).addresses for way in "sd"]
        with ExitStack() as stack:
            for each in self.hosts:
                self.offloads(each, on=False)
                stack.callback(self.offloads, each, on=True)
            router.iptables(*(f"iptables -I {rule}" for rule in rules))
            stack.callback(router.iptables, *(f"iptables -D {rule}" for rule in rules))
            yield

    @contextmanager
    def inject(self, host: str, plan: FaultPlan) -> Iterator[Injection]:
        """Put scapy into the link of ``host`` for the length of the block, doing what ``plan`` says.

        About 5,000 packets a second pass. Enter it before there is traffic that must not be lost:
        the cable is unplugged for a moment on the way in and out. Afterwards ``.counts`` of what it
        gives says what was done. Raises ``LabError`` when the process in the path dies.
        """
        attached = self.plan.attachments[host]
        router = self.host(attached.port.node)
        with ExitStack() as stack:
            (middle,) = namespace.create(1)
            stack.callback(middle.close)
            where = (attached.port.interface, attached.port.bridge, router.namespace, middle)
            # Whoever sends towards scapy must send finished packets of at most one MTU.
            self.offloads(host, on=False)
            stack.callback(self.offloads, host, on=True)
            stack.callback(self._await_carrier, host)
            kernel.splice(*where, near="near", far="far")
            stack.callback(kernel.unsplice, *where, near="near", far="far")
            self._await_carrier(host)
            router.call(lambda: kernel.set_offloads(attached.port.interface, on=False))
            process = self._family.popen(
                middle,
                [sys.executable, "-m", "netlab.inject", "near", "far"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
                text=True,
            )
            injection = Injection(process)
            stack.callback(injection._kill)
            injection._start(plan)
            yield injection
            injection._stop()

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
        if backend is None:
            backend = Backend.NETEM if seed is None and has_netem() else Backend.FORWARDER
        attached = self.plan.attachments[host]
        router = self.host(attached.port.node)
        with ExitStack() as stack:
            (middle,) = namespace.create(1)
            stack.callback(middle.close)
            prepare(middle)
            works: Forwarding | Netem
            if backend is Backend.FORWARDER:
                works = Forwarding(self._family, middle, up, down, seed or 0)
            else:
                works = Netem(middle, up, down)
                # A super-packet would be lost, delayed and counted as one. The forwarder's devices cut it up.
                self.offloads(host, on=False)
                stack.callback(self.offloads, host, on=True)
            where = (attached.port.interface, attached.port.bridge, router.namespace, middle)
            stack.callback(self._await_carrier, host)
            kernel.splice(*where, near="near", far="far")
            stack.callback(kernel.unsplice, *where, near="near", far="far")
            self._await_carrier(host)
            if backend is Backend.NETEM:
                router.call(lambda: kernel.set_offloads(attached.port.interface, on=False))
            stack.callback(works.kill)
            works.connect()
            link = ImpairedLink(works, backend, up, down)
            yield link
            link._stop()

    @contextmanager
    def capture(self, node: str, path: Path, interface: str = "any") -> Iterator[None]:
        """Write what a node sees during the block to a pcap at ``path``, 2048 bytes of each packet.

        Raises ``LabError`` with tcpdump's words when it does not start.
        """
        # Without immediate mode packets wait a second in the kernel; with it, the buffer holds so
        # many packets of the longest length, whatever they really measure: hence a short one.
        options = ["--immediate-mode", "-s", "2048", "-B", "32768", "-U", "-n", "-Z", "root"]
        tcpdump = self.host(node).popen(
            ["tcpdump", "-i", interface, *options, "-w", str(path)],
            stdin=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert tcpdump.stderr is not None
        words = []
        try:
            for line in tcpdump.stderr:
                words.append(line.strip())
                if "listening on" in line:
                    break
            else:
                raise kernel.LabError(f"tcpdump did not start: {' '.join(words)}")
            yield
            # It ends without reading what is left in its buffer: ask until nothing is.
            for _ in range(DRAIN_ROUNDS):
                tcpdump.send_signal(signal.SIGUSR1)
                captured, received, dropped = map(int, re.findall(r"(\d+) packet", tcpdump.stderr.readline()))
                if captured + dropped >= received:
                    break
        finally:
            tcpdump.terminate()
            tcpdump.wait()
