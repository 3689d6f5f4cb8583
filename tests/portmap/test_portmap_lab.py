"""A small program that holds a port, behind routers with the real miniupnpd.

alice --- left --- core0 --- core1 --- server        alice --- home --- carrier --- core0 ...
        (mapper)                                             (mapper)
"""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from netlab.impair import Impairment
from netlab.lab import Lab, Node
from netlab.miniupnpd import configuration, tables
from netlab.nat import NO_PORT_MAPPER, NONE, PORT_RESTRICTED, PORT_RESTRICTED_MAPPER, PortMapper
from netlab.port_mapper import port_mappers
from netlab.port_mapping import Client, Wish
from netlab.topology import Host, Lan, Router, Topology, carrier, two_nats

PROGRAM = Path(__file__).with_name("hold_port.py")
ALL = PORT_RESTRICTED_MAPPER.port_mapper
NAMES = {PortMapper.NAT_PMP: "NAT-PMP", PortMapper.PCP: "PCP", PortMapper.UPNP: "UPnP"}
PORT = 5000
LIMIT = 60.0  # seconds
SLOW = Impairment(delay=0.15)  # one way: a question is repeated after 0.25 s
ASLEEP = Impairment(delay=2.5)  # the router is given up after 3.75 s


class Holder:
    """The program, on `node`; its events one by one."""

    def __init__(self, node: Node, towards: str, lifetime: int = 3600) -> None:
        self.process = node.popen(
            [sys.executable, str(PROGRAM), str(PORT), str(lifetime), towards],
            stdout=subprocess.PIPE,
            cwd=PROGRAM.parents[2],
            env={"PYTHONPATH": str(PROGRAM.parents[2])},
        )
        self._unread = b""

    def event(self, patience: float = LIMIT) -> dict[str, Any] | None:
        """The next one; None when none comes within `patience` seconds."""
        output = self.process.stdout
        assert output is not None
        while b"\n" not in self._unread:
            if not select.select([output], [], [], patience)[0]:
                return None
            piece = os.read(output.fileno(), 4096)
            assert piece, "it ended"
            self._unread += piece
        line, _, self._unread = self._unread.partition(b"\n")
        return dict(json.loads(line))

    def interrupt(self) -> None:
        """As Ctrl-C does; returns when it has ended in order."""
        self.process.send_signal(signal.SIGINT)
        while (event := self.event()) is not None and event["event"] != "closed":
            pass
        assert event is not None
        assert self.process.wait(LIMIT) == 0


def rules(router: Node) -> int:
    """How many ports the router's mapper leads to the inside."""
    listed = router.run(["nft", "list", "table", "inet", "port_mapper"], capture_output=True, text=True, check=True)
    return int(listed.stdout.count("dnat"))


def knock(lab: Lab, router: str, holder: Holder, word: str) -> None:
    """Packets of strangers, to whom nobody has written, until one is let in.

    miniupnpd renews by deleting a rule and adding it again: a packet can come in between.
    """
    until = time.monotonic() + LIMIT
    while True:
        with lab.host("server").socket() as stranger:
            stranger.sendto(word.encode(), (lab.host(router).address, PORT))
        if (event := holder.event(patience=0.5)) is not None:
            assert event == {"event": "in", "data": word}
            return
        assert time.monotonic() < until, "nobody is let in"


def side_by_side(offers: list[PortMapper]) -> Topology:
    nats = [replace(PORT_RESTRICTED, port_mapper=offered) for offered in offers]
    return Topology(tuple(Router(f"nat{i}", Lan((Host(f"host{i}"),)), nat) for i, nat in enumerate(nats)))


def test_each_protocol_alone_and_all_together_let_a_stranger_in_until_ctrl_c(netlab: Callable[[Topology], Lab]) -> None:
    offers = [*NAMES, ALL]
    lab = netlab(side_by_side(offers))
    holders = [Holder(lab.host(f"host{i}"), lab.host("server").address) for i in range(len(offers))]
    for i, (offered, holder) in enumerate(zip(offers, holders, strict=True)):
        mapped = holder.event()
        assert mapped is not None
        assert mapped["event"] == "Mapped"
        assert mapped["external"] == [lab.host(f"nat{i}").address, PORT]
        assert mapped["protocol"] == NAMES.get(offered, mapped["protocol"])
        assert rules(lab.host(f"nat{i}")) == 1
        knock(lab, f"nat{i}", holder, f"knock {i}")
        holder.interrupt()
        assert rules(lab.host(f"nat{i}")) == 0


def test_a_lease_is_renewed_while_one_that_is_not_runs_out(netlab: Callable[[Topology], Lab]) -> None:
    lab = netlab(side_by_side([*NAMES]))
    holders = [Holder(lab.host(f"host{i}"), lab.host("server").address, lifetime=8) for i in range(len(NAMES))]
    for holder in holders:
        assert str(holder.event()).startswith("{'event': 'Mapped'")
    for i, protocol in enumerate(NAMES):
        Client(lab.host(f"host{i}")).map(protocol, Wish(6000, 6000, lifetime=9))  # begins later, ends later
    until = time.monotonic() + LIMIT
    for i, holder in enumerate(holders):
        while rules(lab.host(f"nat{i}")) == 2:
            assert time.monotonic() < until, "it never runs out"
        knock(lab, f"nat{i}", holder, "still there?")
        holder.interrupt()


def test_behind_a_carrier_every_protocol_is_refused_in_words(netlab: Callable[[Topology], Lab]) -> None:
    lab = netlab(carrier(PORT_RESTRICTED_MAPPER))
    holder = Holder(lab.host("alice"), lab.host("server").address)
    verdict = holder.event()
    assert verdict is not None
    assert verdict["event"] == "NoMapper"
    assert [name for name, _ in verdict["reasons"]] == ["PCP", "NAT-PMP", "UPnP"]
    assert all("behind a carrier's NAT" in reason for _, reason in verdict["reasons"]), verdict
    holder.interrupt()
    assert rules(lab.host("home")) == 0


def denying(offered: PortMapper) -> str:
    """Its administrator allows nobody anything."""
    return "".join(line for line in configuration(offered).splitlines(True) if not line.startswith("allow "))


def test_a_router_whose_rules_deny_every_port_opens_none_and_we_say_so(netlab: Callable[[Topology], Lab]) -> None:
    """By UPnP it says no. By NAT-PMP, as by PCP, it tries port after port, all 65,535, and answers nobody meanwhile."""
    offers = [PortMapper.UPNP, PortMapper.NAT_PMP]  # one that tries is enough: it takes a core
    lab = netlab(side_by_side([NO_PORT_MAPPER] * len(offers)))
    routers = [lab.host(f"nat{i}") for i in range(len(offers))]
    for router, offered in zip(routers, offers, strict=True):
        router.run(["nft", "-f", "-"], input=tables(offered).encode(), check=True)
    with port_mappers(list(zip(routers, offers, strict=True)), denying):
        holders = [Holder(lab.host(f"host{i}"), lab.host("server").address) for i in range(len(offers))]
        for offered, holder, router in zip(offers, holders, routers, strict=True):
            verdict = holder.event()
            assert verdict is not None
            assert verdict["event"] == "NoMapper"
            reason = dict(verdict["reasons"])[NAMES[offered]]
            said_no = reason.startswith("it refuses: ") and "not allowed to this machine" in reason
            assert said_no or (offered is not PortMapper.UPNP and reason == "no answer"), verdict
            holder.interrupt()
            assert rules(router) == 0


def late(lab: Lab, stack: ExitStack, impairment: Impairment) -> list[Holder]:
    """Holders behind one router for each protocol, by slow lines."""
    for i in range(len(NAMES)):
        stack.enter_context(lab.impair(f"host{i}", up=impairment, down=impairment, seed=i))
    return [Holder(lab.host(f"host{i}"), lab.host("server").address) for i in range(len(NAMES))]


def await_no_rule(router: Node) -> None:
    until = time.monotonic() + LIMIT
    while rules(router):
        assert time.monotonic() < until, "the mapping stays"


@pytest.mark.netlab(needs="tun")
def test_a_router_that_answers_after_the_question_was_repeated_maps_once(netlab: Callable[[Topology], Lab]) -> None:
    lab = netlab(side_by_side([*NAMES]))
    with ExitStack() as stack:
        for i, holder in enumerate(late(lab, stack, SLOW)):
            mapped = holder.event()
            assert mapped is not None
            assert (mapped["event"], mapped["external"]) == ("Mapped", [lab.host(f"nat{i}").address, PORT])
            assert rules(lab.host(f"nat{i}")) == 1
            knock(lab, f"nat{i}", holder, "slow")
            holder.interrupt()
            await_no_rule(lab.host(f"nat{i}"))


@pytest.mark.netlab(needs="tun")
def test_a_router_that_was_given_up_may_still_map(netlab: Callable[[Topology], Lab]) -> None:
    """But not by UPnP, which takes several questions."""
    lab = netlab(side_by_side([*NAMES]))
    with ExitStack() as stack:
        for i, (protocol, holder) in enumerate(zip(NAMES, late(lab, stack, ASLEEP), strict=True)):
            first, second = holder.event(), holder.event()
            assert first is not None
            assert second is not None
            assert (first["event"], {reason for _, reason in first["reasons"]}) == ("NoMapper", {"no answer"})
            if protocol is PortMapper.UPNP:
                assert dict(second["reasons"])["UPnP"] == "it is too slow to answer"
            else:
                assert (second["event"], second["protocol"]) == ("Mapped", NAMES[protocol])
            holder.interrupt()
            await_no_rule(lab.host(f"nat{i}"))


def test_ctrl_c_ends_the_program_also_when_the_router_no_longer_answers(netlab: Callable[[Topology], Lab]) -> None:
    lab = netlab(two_nats(PORT_RESTRICTED_MAPPER, NONE))
    holder = Holder(lab.host("alice"), lab.host("server").address)
    assert str(holder.event()).startswith("{'event': 'Mapped'")
    lab.host("left").iptables("iptables -I INPUT -i lan -j DROP")
    holder.interrupt()
