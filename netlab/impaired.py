"""Puts an impaired link between a host and its router: the edge of :mod:`netlab.impair` to the kernel.

                 near |br-near| tap-near          tap-far |br-far| far
    host eth0 ---------------------- [forwarder] ------------------------ port of the router's bridge

All of it is in a namespace of its own between the two, and below IP: addresses, routes, TTLs and
the router's conntrack know nothing of it. With netem there is one bridge from ``near`` to ``far``.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from enum import Enum
from functools import cache
from pathlib import Path
from typing import Any, NoReturn, Protocol

from netlab import kernel, namespace, netem
from netlab.cable import FAR, NEAR, Cable
from netlab.impair import Impairment, to_json
from netlab.namespace import Family, Namespace

TAP_NEAR, TAP_FAR = "tap-near", "tap-far"
STOP_LIMIT = 30  # seconds for the forwarder to forward what is on its way and end
UP, DOWN = "up", "down"

_SYSCTLS = (
    # What the middle says by itself would be packets that nobody sent.
    ("net/ipv6/conf/all/disable_ipv6", "1"),
    ("net/ipv6/conf/default/disable_ipv6", "1"),
    ("net/bridge/bridge-nf-call-iptables", "0"),
    ("net/bridge/bridge-nf-call-arptables", "0"),
)


class Backend(Enum):
    """What impairs: our own process, or the kernel."""

    FORWARDER = "forwarder"
    NETEM = "netem"


class _Works(Protocol):
    def change(self, way: str, impairment: Impairment) -> None: ...
    def stop(self) -> dict[str, Counter[str]]: ...
    def kill(self) -> None: ...


class ImpairedLink:
    """A link under impairment; ``up`` is from the host, ``down`` to it.

    ``counts``, known after the block, by direction: ``packets`` and ``bytes`` that came, ``lost``,
    ``overflowed``, ``duplicated``, ``reordered``, ``corrupted``, ``left`` as decided; and of the
    forwarder's own ``overrun`` (frames that came faster than it could read) and ``refused``
    (by a device). Netem tells ``packets``, ``bytes`` and ``dropped`` of its outermost stage only.
    """

    def __init__(self, works: _Works, backend: Backend, up: Impairment, down: Impairment) -> None:
        self._works = works
        self.backend = backend
        self.impairments = {UP: up, DOWN: down}
        self.counts: dict[str, Counter[str]] = {UP: Counter(), DOWN: Counter()}
        self.on_change: Callable[[str, Impairment], None] = lambda way, impairment: None  # noqa: ARG005
        self._lock = threading.Lock()  # a schedule's thread changes it as well

    def change(self, *, up: Impairment | None = None, down: Impairment | None = None) -> None:
        """Impair each direction given in another way; it holds when this returns.

        What is on its way leaves when it was going to. Raises ``LabError``.
        """
        for way, impairment in ((UP, up), (DOWN, down)):
            if impairment is not None:
                with self._lock:
                    self._works.change(way, impairment)
                    self.impairments[way] = impairment
                self.on_change(way, impairment)

    def _stop(self) -> None:
        self.counts = self._works.stop()


@contextmanager
def impaired(
    cable: Cable, family: Family, up: Impairment, down: Impairment, *, seed: int | None, backend: Backend | None
) -> Iterator[ImpairedLink]:
    """Impair ``cable`` for the length of the block; see :meth:`netlab.lab.Lab.impair`."""
    if backend is None:
        backend = Backend.NETEM if seed is None and has_netem() else Backend.FORWARDER
    with ExitStack() as stack:
        (middle,) = namespace.create(1)
        stack.callback(middle.close)
        prepare(middle)
        works: Forwarding | Netem
        if backend is Backend.FORWARDER:
            works = Forwarding(family, middle, up, down, seed=seed or 0, mtu=cable.attached.link.mtu)
        else:
            works = Netem(middle, up, down)
            # A super-packet would be lost, delayed and counted as one. The forwarder's devices cut it up.
            stack.enter_context(cable.without_offloads())
        stack.enter_context(cable.spliced(middle))
        if backend is Backend.NETEM:
            cable.router_offloads_off()
        stack.callback(works.kill)
        works.connect()
        link = ImpairedLink(works, backend, up, down)
        yield link
        link._stop()


def prepare(middle: Namespace) -> None:
    """Make an empty namespace silent."""

    def quiet() -> None:
        for path, value in _SYSCTLS:
            # Absent where the kernel was built without that part, and then silent about it.
            if (file := Path("/proc/sys", path)).exists():
                file.write_text(value, encoding="ascii")

    middle.call(quiet)


class Forwarding:
    """The forwarder's process. Raises ``LabError``."""

    def __init__(
        self, family: Family, middle: Namespace, up: Impairment, down: Impairment, *, seed: int, mtu: int
    ) -> None:
        self._middle = middle
        self._process: subprocess.Popen[str] = family.popen(
            middle,
            [sys.executable, "-m", "netlab.forwarder", TAP_NEAR, TAP_FAR, str(mtu)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
            text=True,
        )
        try:
            self._expect("ready")
            self._tell({"seed": seed, UP: to_json(up), DOWN: to_json(down)})
        except BaseException:
            self.kill()
            raise

    def connect(self) -> None:
        """Join the spliced interfaces to the forwarder's devices."""
        self._middle.call(lambda: _bridge({"br-near": (NEAR, TAP_NEAR), "br-far": (FAR, TAP_FAR)}))

    def change(self, way: str, impairment: Impairment) -> None:
        self._tell({way: to_json(impairment)})

    def stop(self) -> dict[str, Counter[str]]:
        if self._process.poll() is not None:
            self._fail()
        out, words = self._process.communicate(timeout=STOP_LIMIT)
        if self._process.returncode != 0:
            self._fail(words)
        return {way: Counter(counts) for way, counts in json.loads(out).items()}

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    def _tell(self, line: dict[str, Any]) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(line) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass  # its last words are told below
        self._expect("ok")

    def _expect(self, word: str) -> None:
        assert self._process.stdout is not None
        if self._process.stdout.readline() != f"{word}\n":
            self._fail()

    def _fail(self, words: str | None = None) -> NoReturn:
        self._process.kill()
        if words is None:
            _, words = self._process.communicate()
        raise kernel.LabError(f"the forwarder ended (exit {self._process.returncode}): {words.strip()}")


class Netem:
    """The kernel's own queueing disciplines in the middle. Raises ``LabError``."""

    def __init__(self, middle: Namespace, up: Impairment, down: Impairment) -> None:
        self._middle = middle
        self._now: dict[str, Impairment] = {}
        self._first = {UP: up, DOWN: down}

    def connect(self) -> None:
        """Join the spliced interfaces and impair what leaves by each."""
        self._middle.call(lambda: _bridge({"br": (NEAR, FAR)}))
        for way, impairment in self._first.items():
            self.change(way, impairment)

    def change(self, way: str, impairment: Impairment) -> None:
        lines = netem.commands(_EXITS[way], impairment, self._now.get(way))
        if lines:
            self._middle.call(lambda: _tc(["-batch", "-"], "\n".join(lines) + "\n"))
        self._now[way] = impairment

    def stop(self) -> dict[str, Counter[str]]:
        return {way: self._count(device) for way, device in _EXITS.items()}

    def kill(self) -> None:
        """Nothing runs."""

    def _count(self, device: str) -> Counter[str]:
        shown = json.loads(self._middle.call(lambda: _tc(["-json", "-statistics", "qdisc", "show", "dev", device], "")))
        root: dict[str, int] = next((each for each in shown if each.get("root")), {})
        return Counter({name: root.get(key, 0) for name, key in _STATISTICS.items()})


_EXITS = {UP: FAR, DOWN: NEAR}
_STATISTICS = {"packets": "packets", "bytes": "bytes", "dropped": "drops"}


@cache
def has_netem() -> bool:
    """Can this kernel do netem, and is there a ``tc`` to ask it with? Found out by doing."""
    (space,) = namespace.create(1)
    try:
        space.call(lambda: _tc(["qdisc", "replace", "dev", "lo", "root", "netem", "delay", "1ms"], ""))
    except kernel.LabError:
        return False
    finally:
        space.close()
    return True


def _tc(arguments: list[str], lines: str) -> str:
    try:
        done = subprocess.run(["tc", *arguments], input=lines, capture_output=True, text=True, check=False)
    except FileNotFoundError as error:
        raise kernel.LabError("the program tc is not installed (apt-get install iproute2)") from error
    if done.returncode != 0:
        raise kernel.LabError(f"tc failed: {done.stderr.strip()}")
    return done.stdout


def _bridge(bridges: dict[str, tuple[str, str]]) -> None:
    with kernel.netlink() as ipr:
        for bridge, ports in bridges.items():
            # A group that nobody asked for aloud is still to be reached: no snooping.
            ipr.link("add", ifname=bridge, kind="bridge", br_mcast_snooping=0)
            for name in ports:
                ipr.link("set", index=kernel.index_of(ipr, name), master=kernel.index_of(ipr, bridge), state="up")
            ipr.link("set", index=kernel.index_of(ipr, bridge), state="up")
    for bridge, ports in bridges.items():
        kernel.await_carrier(*ports, bridge)
