"""What we tell the other side of ourselves, put together from what several parts find out one after the other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from p2p.core.address import Address, is_private
from p2p.core.nat_report import NatReport
from p2p.core.punch.description import MAX_CANDIDATES, Candidate, Description, Kind


class OwnDescription:
    """The parts as they are known now. `description` is what they come to."""

    def __init__(self, udp: Sequence[Address], tcp: Sequence[Address], *, takes_relay: bool = True) -> None:
        self.udp, self.tcp = udp, tcp  # host addresses with the ports that listen
        self.nat = NatReport()
        self.reflexive: Sequence[Address] = ()
        self.mapped: Address | None = None  # opened by the router at our request
        self.reflexive_tcp: Address | None = None
        self.has_opened = False
        self.takes_relay = takes_relay

    @property
    def description(self) -> Description:
        """Sixteen candidates at most; the last to be told are public addresses for TCP, which few ever need."""
        hosts = {address.without_zone for address in self.udp}  # the server sees no zone of ours
        told = [Candidate(Kind.SERVER_REFLEXIVE, a) for a in self.reflexive if a not in hosts]
        told += [Candidate(Kind.MAPPED, self.mapped)] if self.mapped else []
        told += [Candidate(Kind.REFLEXIVE_TCP, self.reflexive_tcp)] if self.reflexive_tcp else []
        told += [Candidate(Kind.HOST, address) for address in self.udp]
        by_reach = sorted(self.tcp, key=lambda address: not is_private(address.host))
        told += [Candidate(Kind.HOST_TCP, address) for address in by_reach]
        candidates = tuple(sorted(told[:MAX_CANDIDATES], key=lambda candidate: candidate.kind))
        return Description(self.nat, candidates, has_opened=self.has_opened, takes_relay=self.takes_relay)


def with_seen(remote: Description, seen: Address | None) -> Description:
    """Where the other side spoke to us from is an address of its socket, whether or not it knows that."""
    known = [candidate.address for candidate in remote.candidates if candidate.kind is Kind.HOST]
    if seen is None or seen in known or len(remote.candidates) >= MAX_CANDIDATES:
        return remote
    return replace(remote, candidates=(*remote.candidates, Candidate(Kind.HOST, seen)))
