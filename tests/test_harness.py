"""What a failed test shows of a program's screens."""

from __future__ import annotations

from harness import LAST_PROGRESS, thinned

PROGRESS = [f'{{"event": "progress", "bytes": {number}}}\n' for number in range(100)]
PATH = '{"event": "path", "kind": "udp"}\n'


def test_of_much_progress_the_ends_are_shown_and_all_else_is_whole() -> None:
    shown = thinned("".join([PATH, *PROGRESS, PATH, *PROGRESS[:50], "Traceback\n"])).splitlines(keepends=True)
    first, _, *last = shown[1 : 3 + LAST_PROGRESS]
    assert (first, last) == (PROGRESS[0], PROGRESS[-LAST_PROGRESS:])
    assert shown[2] == f"... and {99 - LAST_PROGRESS} events more of progress ...\n"
    assert [line for line in shown if "progress" not in line] == [PATH, PATH, "Traceback\n"]
    assert len(shown) == 3 + 2 * (2 + LAST_PROGRESS)


def test_little_progress_and_a_line_that_was_cut_off_are_whole() -> None:
    for out in ("", PATH, "".join(PROGRESS[: 1 + LAST_PROGRESS]), PATH + "".join(PROGRESS[:2]) + '{"event": "pro'):
        assert thinned(out) == out
