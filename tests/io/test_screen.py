"""What the screen says where no bar can be drawn, in virtual time."""

from __future__ import annotations

import pytest

from p2p.core.peer import events
from p2p.core.role import Role
from p2p.core.transfer.events import Progress
from p2p.io.screen import Screen


def test_without_a_terminal_a_line_says_how_far_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    screen = Screen(
        Role.SENDER, "bob", lambda _: ("", None), as_json=False, quiet=False, verbose=False, is_asked=False
    )
    screen.handle_event(events.TransferStarted(), 0.0)
    for tenth in range(306):
        screen.tick(Progress(min(tenth, 200) * 100_000, 40_000_000, 0), tenth / 10)
    assert capsys.readouterr().err.splitlines()[1:] == [
        "  25 %, 10 MB of 40 MB, 1 MB/s, 30 s left",
        "  50 %, 20 MB of 40 MB, 1 MB/s, 20 s left",
        "  50 %, 20 MB of 40 MB, 0 B/s, nothing moves",
    ]
