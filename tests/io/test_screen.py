"""What the screen says where no line can be written over, in virtual time."""

from __future__ import annotations

import pytest

from p2p.core.errors import ExitCode, Failure
from p2p.core.peer import events
from p2p.core.role import Role
from p2p.core.transfer.entries import Kind
from p2p.core.transfer.events import Progress
from p2p.core.transfer.limits import MAX_ROOTS
from p2p.core.transfer.messages import Offer, OfferKind, Root, Totals
from p2p.io.sending.walk import Renamed
from p2p.io.terminal.screen import Screen

CHUNK = 100_000


def screen_of(role: Role = Role.SENDER, *, as_json: bool = False) -> Screen:
    return Screen(
        role, "bob", lambda _: ("", None), as_json=as_json, quiet=False, verbose=False, is_asked=False
    )


def progress(
    done: int, total: int | None = 40_000_000, *, kept: int = 0, holes: int = 0, is_final: bool = True
) -> Progress:
    return Progress(done, kept, 0, total, 1, is_final, "file", holes, 30_000_000 if holes else 0)


def test_without_a_terminal_a_line_says_how_far_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    screen = screen_of()
    screen.handle_event(events.TransferStarted(goes_on=False), 0.0)
    for tenth in range(316):
        screen.tick(progress(min(tenth, 210) * CHUNK), (0, 0), tenth / 10)
    assert capsys.readouterr().err.splitlines()[1:] == [
        "  2 %, 1 MB of 40 MB, 1 MB/s, 39 s left",
        "  27 %, 11 MB of 40 MB, 1 MB/s, 29 s left",
        "  52 %, 21 MB of 40 MB, 1 MB/s, 19 s left",
        "  52 %, 21 MB of 40 MB, 0 B/s, nothing moves",
    ]


def test_comparing_and_the_wait_for_the_disk_are_said(capsys: pytest.CaptureFixture[str]) -> None:
    screen = screen_of(Role.RECEIVER)
    screen.handle_event(events.TransferStarted(goes_on=True), 0.0)
    screen.tick(progress(0), (30_000_000, 40_000_000), 10.0)
    for second in (20.0, 21.5, 30.0):
        screen.tick(progress(40_000_000), (40_000_000, 40_000_000), second)
    assert capsys.readouterr().err.splitlines()[1:] == [
        "  Comparing what is here already: 75 % of 40 MB ...",
        "Everything is across; waiting until it is safe on this machine's disk ...",
    ]


def test_empty_files_are_on_their_way_until_the_last_one(capsys: pytest.CaptureFixture[str]) -> None:
    """They have no bytes that could be missing."""
    screen = screen_of(Role.RECEIVER)
    screen.handle_event(events.TransferStarted(goes_on=False), 0.0)
    for second in range(31):
        screen.tick(Progress(0, 0, min(second * 10, 250), 0, 300, True, "tree/a"), (0, 0), float(second))
    assert capsys.readouterr().err.splitlines() == [
        "  3 %, 10 of 300 files",
        "  36 %, 110 of 300 files",
        "  70 %, 210 of 300 files",
        "Everything is across; waiting until it is safe on this machine's disk ...",
    ]


def test_a_rate_is_of_what_crosses(capsys: pytest.CaptureFixture[str]) -> None:
    """What was there already goes by at the speed of a disk, and says nothing of the rest."""
    screen = screen_of()
    screen.handle_event(events.TransferStarted(goes_on=True), 0.0)
    for second in range(12):
        screen.tick(progress(second * 2_000_000, kept=second * 1_000_000), (0, 0), float(second))
    assert "55 %, 22 MB of 40 MB, 1 MB/s" in capsys.readouterr().err


def offer(*names: str, totals: Totals, kind: OfferKind = OfferKind.TREE) -> Offer:
    named = names[:MAX_ROOTS]
    shown = tuple(Root(Kind.FOLDER if name.endswith("/") else Kind.FILE, name.rstrip("/"), 5) for name in named)
    return Offer(kind, bytes(16), totals, len(names), shown)


@pytest.mark.parametrize(
    ("totals", "kind", "words"),
    [
        (Totals(1204, 3_400_000_000, True), OfferKind.TREE, "1,204 files, 3.4 GB."),
        (Totals(900, 1_000, False), OfferKind.TREE, "at least 900 files, 1 kB (still counting)."),
        (Totals(0, 0, False), OfferKind.TREE, "more than is counted yet."),
        (Totals(0, 0, True), OfferKind.TREE, "no files, but folders or links."),
        (Totals(1, None, True), OfferKind.PIPE, "the output of a program; how much it is nobody knows yet."),
        (Totals(1, 12, True), OfferKind.TEXT, "a text of 12 B."),
    ],
)
def test_an_offer_says_what_and_how_much(
    capsys: pytest.CaptureFixture[str], totals: Totals, kind: OfferKind, words: str
) -> None:
    screen_of(Role.RECEIVER).handle_event(events.Offered(offer("photos/", totals=totals, kind=kind)), 0.0)
    shown = [] if kind is OfferKind.TEXT else ["  photos/"]
    assert capsys.readouterr().err.splitlines() == [*shown, f"bob wants to send {words}"]


def test_a_hole_neither_counts_as_fast_nor_as_left(capsys: pytest.CaptureFixture[str]) -> None:
    """Of 40 MB, 10 MB cross: after 5 s half of them have, and the holes are all behind or all ahead."""
    for holes in (1, 30_000_000):
        screen = screen_of()
        screen.handle_event(events.TransferStarted(goes_on=False), 0.0)
        for second in range(12):
            screen.tick(progress(second * 500_000 + holes, holes=holes), (0, 0), float(second))
        assert ", 500 kB/s, 9 s left" in capsys.readouterr().err
    done = events.Done(bytes(32), ExitCode.DONE, 0)
    screen.handle_event(done, 10.0, progress(40_000_000, holes=30_000_000))
    assert "Sent 10 MB in 10.0 s (1 MB/s); verified by the other side. 30 MB are holes, which do not cross." in (
        capsys.readouterr().err
    )


def test_an_offer_that_is_counted_later_is_told_once(capsys: pytest.CaptureFixture[str]) -> None:
    screen = screen_of(Role.RECEIVER)
    screen.handle_event(events.Offered(offer("photos/", totals=Totals(9, 9, False))), 0.0)
    screen.ask("Take it? [y/N] ")
    capsys.readouterr()
    for now in (1.0, 2.0):
        screen.tick(Progress(0, 0, 0, 3_000, 12, True, ""), (0, 0), now)
    assert capsys.readouterr().err == "\nIt is all counted now: 12 files, 3 kB.\nTake it? [y/N] "


def test_no_hidden_file_slips_in_behind_others(capsys: pytest.CaptureFixture[str]) -> None:
    """A shell may run it at the next login."""
    names = [*(f"photo {number}" for number in range(10)), ".bash_profile", "photo"]
    screen_of(Role.RECEIVER).handle_event(events.Offered(offer(*names, totals=Totals(12, 100, True))), 0.0)
    lines = capsys.readouterr().err.splitlines()
    assert lines[-3:-1] == ["  .bash_profile  (5 B)", "  and 3 more: 3 files, 15 B"]


def test_many_folders_are_said(capsys: pytest.CaptureFixture[str]) -> None:
    for others, said in ((100, "3 files, 9 B."), (10**9, "3 files, 9 B, and 1,000,000,000 folders and links.")):
        screen = screen_of(Role.RECEIVER)
        screen.handle_event(events.Offered(offer("tree/", totals=Totals(3, 9, True, others))), 0.0)
        assert capsys.readouterr().err.endswith(f"wants to send {said}\n")
        screen.handle_event(events.Offered(offer("tree/", totals=Totals(1, 9, False, 1))), 0.0)
        screen.tick(Progress(0, 0, 0, 9, 3, True, "", things=3 + others), (0, 0), 1.0)
        assert capsys.readouterr().err.endswith(f"It is all counted now: {said}\n")


def test_names_of_an_offer_cannot_paint_the_screen(capsys: pytest.CaptureFixture[str]) -> None:
    shown = offer(*(f"evil\x1b[2J{number}" for number in range(20)), totals=Totals(20, 100, True))
    screen_of(Role.RECEIVER).handle_event(events.Offered(shown), 0.0)
    said = capsys.readouterr().err
    assert "\x1b" not in said
    assert "  and 12 more: 12 files, 60 B\n" in said


def test_of_what_is_not_listed_one_reads_how_many_and_how_much(capsys: pytest.CaptureFixture[str]) -> None:
    shown = (*(Root(Kind.FILE, f"{number}", 1_000_000) for number in range(MAX_ROOTS - 2)), *(
        Root(Kind.FOLDER, f"f{number}", 0) for number in range(2)
    ))
    offered = Offer(OfferKind.TREE, bytes(16), Totals(9_000, 10**10, is_final=True), 5_000, shown)
    screen_of(Role.RECEIVER).handle_event(events.Offered(offered), 0.0)
    assert capsys.readouterr().err.splitlines()[-2:] == [
        "  and 4,992 more: 190 files, 190 MB; 2 folders; 4,800 that are too many to be named, none of them hidden",
        "bob wants to send 9,000 files, 10 GB.",
    ]


def test_the_end_lists_what_went_otherwise_and_counts_it(capsys: pytest.CaptureFixture[str]) -> None:
    screen = screen_of()
    screen.begin(lambda: ([Renamed("tree/a\nb", "a_b")], 1))
    screen.handle_event(events.TransferStarted(goes_on=False), 0.0)
    for number in range(30):
        problem = events.NotTransferred(f"tree/{number}", "cannot be read", ExitCode.STORAGE, by_peer=False)
        screen.handle_event(problem, 1.0)
    done = events.Done(bytes(32), ExitCode.STORAGE, 5000)
    screen.handle_event(done, 2.0, Progress(3_000, 1_000, 7, 3_000, 7, True, ""))
    lines = capsys.readouterr().err.splitlines()[1:]
    assert lines[0] == "Sent 2 kB in 2.0 s (1 kB/s); verified by the other side. 1 kB were there already."
    assert lines[2:4] == ["Sent under another name: 1 thing.", r"  tree/a\x0ab as a_b"]
    assert lines[4:6] == ["Not everything arrived: 5,000 things left out.", "  tree/0: cannot be read"]
    assert lines[-2:] == ["  tree/19: cannot be read", "  and 4,980 more"]


@pytest.mark.parametrize(
    ("is_open", "advice"),
    [
        (True, "start it again there with the same command ..."),
        (False, "press Ctrl-C, and run both commands again ..."),
    ],
)
def test_while_the_two_look_for_each_other_again_only_that_is_said(
    capsys: pytest.CaptureFixture[str], is_open: bool, advice: str
) -> None:
    screen = screen_of()
    screen.handle_event(events.TransferStarted(goes_on=False), 0.0)
    screen.handle_event(events.PathLost("nothing came for 12 seconds", is_open), 1.0)
    screen.is_reconnecting = True
    for event in (events.PeerFound(), events.Connecting(None), events.PeerGone()):
        screen.handle_event(event, 2.0)
    assert capsys.readouterr().err.splitlines()[1:] == [
        "The connection was lost (nothing came for 12 seconds). Looking for bob again. "
        f"If the program there has ended, {advice}"
    ]


def test_a_refusal_says_that_the_wait_goes_on(capsys: pytest.CaptureFixture[str]) -> None:
    screen = screen_of(as_json=True)
    screen.say_refused(Failure(ExitCode.REFUSED, "The other side refused: no"), 60.0)
    told = capsys.readouterr()
    assert "refused: no. Waiting 60 seconds more" in told.err
    assert told.out == '{"event": "refused", "code": 5, "message": "The other side refused: no"}\n'
