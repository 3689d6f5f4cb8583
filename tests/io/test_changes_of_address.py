"""A path is given up early where this machine's own addresses changed, and nothing was heard since."""

from __future__ import annotations

from p2p.core.peer import explain
from p2p.io.attempts import AFTER_A_CHANGE, Changes


class Path:
    """A peer of which only the path is of interest."""

    def __init__(self, heard_at: float | None) -> None:
        self.heard_at = heard_at
        self.lost: list[tuple[str, float]] = []

    def lose_path(self, why: str, now: float) -> None:
        self.lost.append((why, now))
        self.heard_at = None


def test_nothing_is_heard_after_the_change() -> None:
    path = Path(heard_at=9.9)
    changes = Changes(path)
    changes.note(10.0, has_network=True)
    changes.check(10.0 + AFTER_A_CHANGE - 0.01)
    assert path.lost == []
    changes.check(10.0 + AFTER_A_CHANGE)
    changes.check(20.0 + AFTER_A_CHANGE)
    assert path.lost == [(explain.addresses_changed(has_network=True), 10.0 + AFTER_A_CHANGE)]


def test_a_path_that_was_heard_after_the_change_is_kept() -> None:
    path = Path(heard_at=9.9)
    changes = Changes(path)
    changes.note(10.0, has_network=True)
    path.heard_at = 10.5
    changes.check(10.0 + AFTER_A_CHANGE)
    path.heard_at = None
    changes.check(20.0 + AFTER_A_CHANGE)
    assert path.lost == []


def test_the_last_of_several_changes_counts() -> None:
    path = Path(heard_at=9.9)
    changes = Changes(path)
    changes.note(10.0, has_network=True)
    changes.note(10.0 + AFTER_A_CHANGE / 2, has_network=True)
    changes.check(10.0 + AFTER_A_CHANGE)
    assert path.lost == []
    changes.check(10.0 + 1.5 * AFTER_A_CHANGE)
    assert len(path.lost) == 1


def test_before_there_is_a_path_a_change_is_of_no_interest() -> None:
    path = Path(heard_at=None)
    changes = Changes(path)
    changes.note(10.0, has_network=True)
    path.heard_at = 5.0
    changes.check(10.0 + AFTER_A_CHANGE)
    assert path.lost == []


def test_a_machine_without_any_network_is_not_said_to_be_on_another_one() -> None:
    path = Path(heard_at=9.9)
    changes = Changes(path)
    changes.note(10.0, has_network=False)
    changes.check(10.0 + AFTER_A_CHANGE)
    assert path.lost == [("this machine has no network", 10.0 + AFTER_A_CHANGE)]
