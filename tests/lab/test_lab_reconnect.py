"""One transfer whose path breaks, ten times even, or whose program stands still: both find each other again, and nobody
is asked for anything.

    alice --- left --- core0 --- core1 --- right --- bob
              (NAT)                |       (NAT)
                                 server
"""

from __future__ import annotations

import itertools
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from harness import Program, hash_of, make_file, stage

from netlab.events import Event, FlushMappings, LinkDown, LinkUp, Rebind
from netlab.impair import Impairment
from netlab.lab import Lab
from netlab.nat import PORT_RESTRICTED, PORT_RESTRICTED_RANDOM
from netlab.topology import one_lan, two_nats

SIZE = 100_000_000  # bytes: minutes of data on a narrow link, so that each break finds it under way
SHORT, RATE = 30_000_000, "3M"  # bytes, and bytes a second, for one break
NARROW = Impairment(rate=4e6, queue_packets=100)  # until the last break
GUARD = 120.0  # seconds, for anything
UNNOTICED = 10  # events of progress with more data each: more than what was on its way accounts for

# Each is more than a path can outlive by itself: bob's router drops what comes from a new port or address.
BREAKS: tuple[tuple[Event, ...], ...] = (
    (Rebind("left"),),
    (FlushMappings("left"),),
    (LinkDown("alice"), LinkUp("alice")),
    (Rebind("right"), Rebind("left")),
    (FlushMappings("left"), FlushMappings("right")),
)


class Side:
    """A program and how far it has come."""

    def __init__(self, program: Program) -> None:
        self.program = program

    def names(self) -> list[str]:
        return [event["event"] for event in self.program.events]

    def data(self) -> list[int]:
        """Bytes so far, each time that there were more."""
        return sorted({event["bytes"] for event in self.program.events_named("progress")})

    def await_data(self) -> None:
        before = len(self.data())
        self.program.wait_until(lambda: len(self.data()) > before or None, "more data", GUARD)

    def await_loss(self, number: int, broken: tuple[Event, ...]) -> None:
        before = len(self.data())

        def look() -> bool | None:
            if self.names().count("path_lost") >= number:
                return True
            assert len(self.data()) <= before + UNNOTICED, (
                f"break {number} went by unnoticed, data goes on on the same path: {broken}\n{self.program.said}"
            )
            return None

        self.program.wait_until(look, f"path_lost after break {number}, {broken},", GUARD)

    def await_path(self, number: int) -> None:
        """Another one, after so many were lost, and no more than that."""

        def look() -> bool | None:
            names = self.names()
            assert names.count("path_lost") == number, f"lost again without a break\n{self.program.said}"
            return True if "path" in names[len(names) - names[::-1].index("path_lost") :] else None

        self.program.wait_until(look, f"path after break {number}", GUARD)


def break_it(lab: Lab, broken: tuple[Event, ...], await_loss: Callable[[], None]) -> None:
    """Returns when both sides have noticed. A cable stays pulled until then."""
    now, later = (broken[:1], broken[1:]) if isinstance(broken[0], LinkDown) else (broken, ())
    for event in now:
        lab.apply(event)
    await_loss()
    for event in later:
        lab.apply(event)


@pytest.mark.netlab(needs="tun")
def test_ten_breaks_in_one_transfer(netlab, tmp_path: Path) -> None:
    lab = netlab(two_nats(PORT_RESTRICTED_RANDOM, PORT_RESTRICTED))
    digest = make_file(tmp_path / "file", SIZE)
    server, out = lab.host("server"), tmp_path / "out"
    options = ("--json", "--idle-timeout", "6")
    with stage(server.popen, server.address) as programs, lab.impair("bob", down=NARROW, seed=1) as link:
        sender = programs.send("alice", "bob", tmp_path / "file", *options, spawn=lab.host("alice").popen)
        receiver = programs.recv("bob", "alice", "--out", out, "--yes", *options, spawn=lab.host("bob").popen)
        sides = Side(receiver), Side(sender)
        for number, broken in enumerate(itertools.islice(itertools.cycle(BREAKS), 10), start=1):
            sides[0].await_data()

            def await_loss(number: int = number, broken: tuple[Event, ...] = broken) -> None:
                for side in sides:
                    side.await_loss(number, broken)

            break_it(lab, broken, await_loss)
            if number == 10:
                link.change(down=Impairment())
            for side in sides:
                side.await_path(number)
        assert (sender.finish(GUARD), receiver.finish(GUARD)) == (0, 0), sender.said + receiver.said
    assert hash_of(out / "file") == digest
    for side in sides:
        names = side.names()
        assert names.count("path_lost") == 10
        assert [names.count(name) for name in ("started", "done")] == [1, 1]
        assert names.count("waiting") <= 1  # none where the other side was there before
        assert "code" not in side.program.err.partition("Connected")[2]
    assert receiver.event("done")["kept"] == 0


@pytest.mark.netlab(needs="tun")
def test_a_side_that_does_not_come_back_is_given_up_in_words(netlab, tmp_path: Path) -> None:
    lab = netlab(two_nats(PORT_RESTRICTED, PORT_RESTRICTED))
    make_file(tmp_path / "file", SIZE)
    server = lab.host("server")
    options = ("--json", "--idle-timeout", "6", "--reconnect", "5")
    with stage(server.popen, server.address) as programs, lab.impair("bob", down=NARROW, seed=1):
        sender = programs.send("alice", "bob", tmp_path / "file", *options, spawn=lab.host("alice").popen)
        receiver = programs.recv(
            "bob", "alice", "--out", tmp_path / "out", "--yes", *options, spawn=lab.host("bob").popen
        )
        receiver.wait_for('"event": "progress"')
        lab.apply(LinkDown("alice"))
        assert (sender.finish(GUARD), receiver.finish(GUARD)) == (7, 7), sender.err + receiver.err
        for side in (sender, receiver):
            assert len(side.events_named("path_lost")) == 1
            assert side.events[-1]["event"] == "failed"
            assert "run both commands again" in side.events[-1]["message"]
            assert "Traceback" not in side.err


def assert_it_went_on(sender: Program, receiver: Program, out: Path, digest: str) -> None:
    """Over another path, and the person has read and typed nothing about a code meanwhile."""
    assert (sender.finish(GUARD), receiver.finish(GUARD)) == (0, 0), sender.said + receiver.said
    assert hash_of(out / "file") == digest
    for side in (sender, receiver):
        names = [event["event"] for event in side.events]
        assert [names.count(name) for name in ("started", "path_lost", "path", "done")] == [1, 1, 2, 1], side.said
        assert "code" not in side.err.partition("Connected")[2]


@pytest.mark.netlab
@pytest.mark.parametrize("victim", ["sender", "receiver"])
def test_a_program_that_stood_still_past_the_idle_timeout_goes_on(netlab, tmp_path: Path, victim: str) -> None:
    """SIGSTOP and SIGCONT: Ctrl-Z and fg, or a lid that is closed and opened."""
    lab = netlab(two_nats(PORT_RESTRICTED, PORT_RESTRICTED))
    digest = make_file(tmp_path / "file", SHORT)
    server, out = lab.host("server"), tmp_path / "out"
    options = ("--json", "--idle-timeout", "6", "--reconnect", "300")
    with stage(server.popen, server.address) as programs:
        sender = programs.send(
            "alice", "bob", tmp_path / "file", *options, "--limit-rate", RATE, spawn=lab.host("alice").popen
        )
        receiver = programs.recv("bob", "alice", "--out", out, "--yes", *options, spawn=lab.host("bob").popen)
        frozen, other = (sender, receiver) if victim == "sender" else (receiver, sender)
        Side(receiver).await_data()
        frozen.process.send_signal(signal.SIGSTOP)
        other.wait_for_events("path_lost", guard=GUARD)
        frozen.process.send_signal(signal.SIGCONT)
        assert_it_went_on(sender, receiver, out, digest)
    assert receiver.event("done")["kept"] == 0


@pytest.mark.netlab
@pytest.mark.parametrize("verdict", ["DROP", "REJECT --reject-with tcp-reset"], ids=["dropped", "reset"])
def test_where_tcp_on_the_lan_is_lost_the_rest_goes_by_udp(netlab, tmp_path: Path, verdict: str) -> None:
    """Alice and Bob behind one router; a firewall on Bob's machine learns in mid-transfer that TCP is forbidden."""
    lab = netlab(one_lan(PORT_RESTRICTED))
    digest = make_file(tmp_path / "file", SHORT)
    server, alice, bob, out = lab.host("server"), lab.host("alice"), lab.host("bob"), tmp_path / "out"
    options = ("--json", "--idle-timeout", "6", "--reconnect", "300")
    with stage(server.popen, server.address) as programs:
        sender = programs.send("alice", "bob", tmp_path / "file", *options, "--limit-rate", RATE, spawn=alice.popen)
        receiver = programs.recv("bob", "alice", "--out", out, "--yes", *options, spawn=bob.popen)
        Side(receiver).await_data()
        bob.iptables(f"iptables -I INPUT -p tcp -s {alice.address} -j {verdict}")
        assert_it_went_on(sender, receiver, out, digest)
    for side in (sender, receiver):
        kinds = [event["kind"] for event in side.events_named("path")]
        assert kinds == ["tcp", "udp"], side.said
