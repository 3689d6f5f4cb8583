"""The last line while nothing moves: it changes every second, in virtual time, and leaves nothing behind."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable

import pytest

from p2p.core.address import Address
from p2p.core.errors import ExitCode, Failure
from p2p.core.introduction import Nameplate
from p2p.core.peer import events
from p2p.core.role import Role
from p2p.core.transfer.events import Progress
from p2p.core.transfer.messages import Offer, OfferKind, Totals
from p2p.io.terminal.screen import Screen
from p2p.io.terminal.status_line import RESERVED
from p2p.io.terminal.words import UNNAMED, columns

TICKS = 10  # a second, as the loop has it
NOTHING = Progress(0, 0, 0, 40_000_000, 1, True, "file")
ALL = Progress(40_000_000, 0, 0, 40_000_000, 1, True, "file")
WAITING = events.WaitingForPeer(Nameplate("7"), None)
OFFERED = events.Offered(Offer(OfferKind.TREE, bytes(16), Totals(1, 5, is_final=True), 1, ()))
Terminal = Callable[..., "Watched"]


class Fake(io.StringIO):
    """A terminal of USUAL_WIDTH columns."""

    def isatty(self) -> bool:
        return True


class Watched:
    """A screen on a terminal, and a clock that goes only here."""

    def __init__(self, role: Role, friend: str, err: Fake) -> None:
        self.err = err
        self._ticks = 0
        self.screen = Screen(
            role, friend, lambda _: ("", None), as_json=False, quiet=False, verbose=False, is_asked=False
        )

    @property
    def now(self) -> float:
        return self._ticks / TICKS

    def rest(self, ticks: int) -> None:
        """Time in which nobody looks."""
        self._ticks += ticks

    def handle(self, event: events.PeerEvent) -> None:
        self.screen.handle_event(event, self.now)

    def lines(
        self,
        seconds: int,
        progress: Progress = NOTHING,
        checked: Callable[[int], tuple[int, int]] = lambda _: (0, 0),
        reread: Callable[[int], tuple[int, int]] = lambda _: (0, 0),
    ) -> list[str]:
        """What the last line became in so many seconds. Fails where it stood still for more than one."""
        became: list[str] = []
        changed = self.now
        for tick in range(seconds * TICKS):
            before = self.err.tell()
            self._ticks += 1
            self.screen.tick(progress, checked(tick // TICKS), self.now, reread(tick // TICKS))
            if self.err.tell() > before:
                became.append(self.err.getvalue()[before:].rpartition("\r\x1b[K")[2])
                changed = self.now
            assert self.now - changed < 1 + 1.5 / TICKS, f"silent after {became}"
        return became

    @property
    def is_clean(self) -> bool:
        """Whether nothing is left of a last line."""
        return self.err.getvalue().endswith(("\n", "\r\x1b[K"))


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    def made(role: Role = Role.SENDER, friend: str = "bob") -> Watched:
        err = Fake()
        monkeypatch.setattr(sys, "stderr", err)
        monkeypatch.setenv("TERM", "xterm")
        return Watched(role, friend, err)

    return made


@pytest.mark.parametrize(
    ("happens", "words"),
    [
        ([], "Asking the server"),
        ([events.ServerSilent(3.0, ever=False, refused=False)], "Asking the server"),
        ([events.SeatTaken()], "Waiting for our place"),
        ([WAITING], "Waiting for bob"),
        ([WAITING, events.PeerFound()], "Agreeing on keys"),
        ([WAITING, events.PeerFound(), events.PeerSilent(5.0)], "Agreeing on keys"),
        ([WAITING, events.PeerFound(), events.CodeRejected(1, 3)], "Waiting for bob"),
        ([events.Connecting(None)], "Looking for a path"),
        ([events.Connecting(None), events.OfferSent()], "Waiting for a yes or no"),
    ],
)
def test_each_wait_shows_how_long_it_is(terminal: Terminal, happens: list[events.PeerEvent], words: str) -> None:
    watched = terminal()
    for event in happens:
        watched.handle(event)
    assert watched.lines(3)[:3] == [f"{words}, 0:00", f"{words}, 0:01", f"{words}, 0:02"]
    watched.screen.say("Something else.")
    assert watched.err.getvalue().endswith(f"{words}, 0:02\r\x1b[KSomething else.\n")


def test_a_friend_who_is_silent_does_not_start_the_clock_again(terminal: Terminal) -> None:
    watched = terminal()
    watched.handle(events.PeerFound())
    watched.lines(4)
    watched.handle(events.PeerSilent(5.0))
    assert watched.lines(2)[-1] == "Agreeing on keys, 0:05"


def test_what_is_over_at_once_does_not_flicker(terminal: Terminal) -> None:
    watched = terminal()
    watched.handle(WAITING)
    for event in (events.PeerFound(), events.Connecting(None), events.OfferSent()):
        watched.handle(event)
        watched.screen.tick(NOTHING, (0, 0), watched.now)
        watched.rest(4)
        watched.screen.tick(NOTHING, (0, 0), watched.now)
    assert "\r" not in watched.err.getvalue()


@pytest.mark.parametrize("role", Role)
def test_everything_is_across_and_the_disk_takes_its_time(terminal: Terminal, role: Role) -> None:
    watched = terminal(role)
    watched.handle(events.TransferStarted(goes_on=False))
    watched.lines(12, ALL)
    where = " there" if role is Role.SENDER else ""
    assert watched.lines(2, ALL)[-1] == f"Waiting for the disk{where}, 0:12"
    assert watched.err.getvalue().count("Everything is across") == 1


def test_what_is_compared_and_what_is_read_once_more_says_how_much_of_it(terminal: Terminal) -> None:
    watched = terminal(Role.RECEIVER)
    watched.handle(events.TransferStarted(goes_on=True))
    compared = watched.lines(3, checked=lambda second: (second * 10**7, 4 * 10**7))
    assert compared[-1] == "Comparing 20 MB of 40 MB, 0:02"
    watched.lines(2, ALL)
    reread = watched.lines(3, ALL, reread=lambda _: (10**9, 4 * 10**9))  # a slow disk
    assert reread[0] == "Checking 1 GB of 4 GB, 0:00"
    assert reread[-1] == "Checking 1 GB of 4 GB, 0:02"
    assert watched.lines(2, ALL)[-1] == "Waiting for the disk, 0:01"


def test_a_question_is_not_written_over(terminal: Terminal) -> None:
    watched = terminal(Role.RECEIVER)
    watched.handle(OFFERED)
    watched.screen.ask("Take it? [y/N] ")
    better = events.PathChosen(events.PathKind.UDP, Address("192.0.2.1", 1), None, "direct UDP")  # than a relay
    watched.handle(better)
    asked = watched.err.getvalue()
    for tick in range(30):
        watched.screen.tick(NOTHING, (0, 0), watched.now + tick / TICKS)
    assert watched.err.getvalue() == asked


@pytest.mark.parametrize(
    "event",
    [
        WAITING,
        events.Done(bytes(32), ExitCode.DONE),
        events.Failed(Failure(ExitCode.NO_PEER, "Nobody came")),
        events.PathLost("nothing came"),
    ],
)
def test_nothing_is_left_behind(terminal: Terminal, event: events.PeerEvent) -> None:
    for progress in (NOTHING, ALL):
        watched = terminal()
        if progress is ALL:
            watched.handle(events.TransferStarted(goes_on=False))
        watched.lines(3, progress)
        assert not watched.is_clean
        watched.screen.handle_event(event, watched.now, progress)
        assert watched.is_clean
        watched.screen.stop()
        said = watched.err.getvalue()
        if not isinstance(event, events.PathLost | events.WaitingForPeer):
            watched.screen.tick(progress, (0, 0), watched.now + 5.0)
            watched.screen.tick(progress, (0, 0), watched.now + 9.0)
            assert watched.err.getvalue() == said


def test_forty_columns_hold_every_wait() -> None:
    """Of a friend without a name as well."""
    assert columns(f"Waiting for {UNNAMED}, 3:05:00") <= 40 - RESERVED
    assert columns("Comparing 1.23 GB of 99.9 GB, 3:05:00") <= 40 - RESERVED


def test_where_no_line_can_be_written_over_a_wait_is_a_sentence(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TERM", "dumb")
    watched = Watched(Role.SENDER, "bob", Fake())
    assert not watched.screen.shows_waiting
    watched.handle(WAITING)
    for tick in range(300):
        watched.screen.tick(NOTHING, (0, 0), watched.now + tick / TICKS)
    assert capsys.readouterr().err.splitlines()[-1].startswith("Waiting for bob on this network, without a server")
