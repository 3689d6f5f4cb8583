"""One machine of a running laboratory: sockets, processes and calls inside its namespace."""

from __future__ import annotations

import shlex
import socket
import subprocess
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from netlab import kernel
from netlab.addressing import Version
from netlab.namespace import Family, Namespace
from netlab.plan import NodePlan
from netlab.service import Service
from netlab.timeline import Timeline

T = TypeVar("T")

COMMAND_LENGTH = 100  # characters of a command line in the timeline


class Node:
    """One machine of a lab: host, server, router or core hop. Made by :class:`netlab.lab.Lab` only.

    ``ipv4`` and ``ipv6`` are its addresses of each version, either may be empty; a router's WAN side
    comes first, a multi-homed host's eth0.
    """

    def __init__(
        self, node: NodePlan, inside: Namespace, family: Family, timeline: Timeline, services: dict[str, Service]
    ) -> None:
        self.name = node.name
        self.namespace = inside
        self._follow(node)
        self._family = family
        self._timeline = timeline
        self._services = services  # the whole lab's
        self._sockets: list[socket.socket] = []

    def _follow(self, node: NodePlan) -> None:
        """It is planned like this from now on."""
        self._plan = node
        self.ipv4, self.ipv6 = (
            [str(address.ip) for _, address in node.addresses if address.version == version] for version in (4, 6)
        )

    @property
    def address(self) -> str:
        """The first IPv4 address, or the first IPv6 address where there is no IPv4 (of a router: its WAN side)."""
        return self.addresses[0]

    @property
    def addresses(self) -> list[str]:
        """Every address, IPv4 before IPv6, except loopback and link-local ones."""
        return [*self.ipv4, *self.ipv6]

    def on(self, interface: str, version: Version) -> list[str]:
        """The addresses of that version on one interface."""
        return [
            str(address.ip)
            for where, address in self._plan.addresses
            if where == interface and address.version == version.value
        ]

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
        process = self._family.popen(self.namespace, argv, **kwargs)
        self._timeline.record(self.name, "process", command=_in_one_line(argv))
        return process

    def service(self, name: str, argv: Sequence[str], **kwargs: Any) -> Service:
        """Start a program that can be killed and started again under ``name``, also by an event.

        ``kwargs`` as for :meth:`popen`, used at each start. Raises ``ValueError`` when the lab has a
        service of that name.
        """
        if name in self._services:
            raise ValueError(f"this lab has a service called {name} already")
        kwargs.setdefault("start_new_session", True)  # it is killed together with what it started
        self._services[name] = Service(name, lambda: self.popen(argv, **kwargs), self._timeline)
        return self._services[name]

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
        """Run ``iptables ...`` and ``ip6tables ...`` commands in here, all or none per table; raises ``LabError``."""
        self.call(lambda: kernel.iptables(commands))

    def _close_sockets(self) -> None:
        for each in self._sockets:
            each.close()


def _in_one_line(argv: Sequence[str]) -> str:
    words = " ".join(shlex.join(map(str, argv)).split())
    return words if len(words) <= COMMAND_LENGTH else words[: COMMAND_LENGTH - 3] + "..."
