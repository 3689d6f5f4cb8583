"""Ready-made worlds: a public server with two ports, and two hosts as a scenario has them."""

from __future__ import annotations

from scenarios import Scenario
from sim.network import LINK_DELAY, NAT_KINDS, Host, Network
from sim.programs import SERVER_PORTS, SimPeer, SimServer

from p2p.core.address import Address
from p2p.core.rendezvous.messages import NamePair
from p2p.core.role import Role

SERVER_ADDRESS = Address("203.0.113.1", SERVER_PORTS[0])

ALTERNATE_HOST = "203.0.113.2"


class World:
    """A server, `alice` (left, sends) and `bob` (right, receives)."""

    def __init__(
        self,
        scenario: Scenario = Scenario("none", "none"),  # noqa: B008
        seed: int = 0,
        delay: float = LINK_DELAY,
    ) -> None:
        """`delay` in seconds one way, between any two machines."""
        self.network = Network(seed, delay)
        self.server = SimServer(
            self.network,
            self.network.add_host("server", SERVER_ADDRESS.host),
            self.network.add_host("server", ALTERNATE_HOST),
        )
        left = self._host("alice", scenario.left, 1)
        if scenario.one_lan:
            right = self.network.add_host("bob", "192.168.1.3", left.nat)
        else:
            right = self._host("bob", scenario.right, 2)
        self.hosts: tuple[Host, Host] = (left, right)

    def sender(self, files: dict[str, bytes], **options: object) -> SimPeer:
        pairing = NamePair("alice", "bob")
        return SimPeer(self.network, self.hosts[0], Role.SENDER, SERVER_ADDRESS, pairing, files=files, **options)

    def receiver(self, **options: object) -> SimPeer:
        pairing = NamePair("bob", "alice")
        return SimPeer(self.network, self.hosts[1], Role.RECEIVER, SERVER_ADDRESS, pairing, **options)

    def sender_as_bob(self, files: dict[str, bytes], **options: object) -> SimPeer:
        """Bob, who should receive, sends as well."""
        pairing = NamePair("bob", "alice")
        return SimPeer(self.network, self.hosts[1], Role.SENDER, SERVER_ADDRESS, pairing, files=files, **options)

    def receiver_as_alice(self) -> SimPeer:
        """Alice, who should send, receives as well."""
        return SimPeer(self.network, self.hosts[0], Role.RECEIVER, SERVER_ADDRESS, NamePair("alice", "bob"))

    def run(self, *peers: SimPeer, limit: float) -> None:
        """Lets time pass until all of these have ended."""
        self.network.run(lambda: all(peer.is_over for peer in peers), limit)

    def _host(self, name: str, kind: str, number: int) -> Host:
        nat_kind = NAT_KINDS[kind]
        if nat_kind is None:
            return self.network.add_host(name, f"198.51.100.{number}")
        nat = self.network.add_nat(nat_kind, f"198.51.100.{number}")
        return self.network.add_host(name, f"192.168.{number}.2" if nat_kind.translates else nat.address, nat)


def meet(world: World, files: dict[str, bytes], limit: float, **options: object) -> tuple[SimPeer, SimPeer]:
    """Sends `files` from alice, who has these options, to bob and runs until both have ended."""
    sender, receiver = world.sender(files, **options), world.receiver()
    sender.start()
    world.network.after(0.05, receiver.start)
    world.run(sender, receiver, limit=limit)
    return sender, receiver
