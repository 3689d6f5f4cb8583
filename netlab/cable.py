"""The link between a host and its router: pulled and plugged in, with other machines put between the two."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

from netlab import change, kernel
from netlab.events import Way
from netlab.namespace import Namespace
from netlab.node import Node
from netlab.plan import Attachment

NEAR, FAR = "near", "far"  # what lies between has two interfaces: towards the host, and towards the router


@dataclass(frozen=True, slots=True)
class Cable:
    """The link of a host, a server or a router's WAN side. ``router`` is the one (or core hop) that it leads to."""

    attached: Attachment
    host: Node
    router: Node
    _middles: list[Namespace] = field(default_factory=list)  # what lies between the two, from the host's side

    def plug(self, *, up: bool) -> None:
        """Pull the cable or plug it in; after the latter, the first packet passes."""
        port = self.attached.port.interface
        self.router.call(lambda: kernel.set_link(port, up=up))
        for middle in self._middles[:1]:  # its near end is the host's peer: without it, carrier would stay
            middle.call(lambda: kernel.set_link(NEAR, up=up))
        self.await_carrier()

    def blackhole(self, way: Way | None) -> None:
        """Let packets vanish at the router's port; None lets them pass again."""
        self.router.call(lambda: change.blackhole(self.attached.port.interface, way))

    def await_carrier(self) -> None:
        """Have both ends see what the cable is now."""
        end, port = self.attached.host, self.attached.port
        for middle in self._middles:
            middle.call(kernel.await_every_carrier)
        self.host.call(lambda: kernel.await_carrier(end.interface))
        self.router.call(lambda: kernel.await_carrier(port.interface, port.bridge))

    def offloads(self, *, on: bool) -> None:
        """Segmentation and checksum offload on the host's own interface."""
        self.host.call(lambda: kernel.set_offloads(self.attached.host.interface, on=on))

    def router_offloads_off(self) -> None:
        """The same on the router's port, off only: a spliced cable's port is a new one each time."""
        self.router.call(lambda: kernel.set_offloads(self.attached.port.interface, on=False))

    @contextmanager
    def without_offloads(self) -> Iterator[None]:
        """Whoever sends towards the middle of the cable sends finished packets of at most one MTU."""
        with ExitStack() as stack:
            self.offloads(on=False)
            stack.callback(self.offloads, on=True)
            yield

    @contextmanager
    def spliced(self, middle: Namespace) -> Iterator[None]:
        """Put the empty namespace ``middle`` between host and router, with interfaces ``near`` and ``far``."""
        where = (self.attached.port.interface, self.attached.port.bridge, self.router.namespace, middle)
        with ExitStack() as stack:
            stack.callback(self.await_carrier)
            kernel.splice(*where, near=NEAR, far=FAR, mtu=self.attached.link.mtu)
            stack.callback(kernel.unsplice, *where, near=NEAR, far=FAR)
            self._middles.append(middle)
            stack.callback(self._middles.remove, middle)
            self.await_carrier()
            yield
