"""docs/screens.md is what the programs say today: three of its scenes are played again, across two NATs.

Of the others the titles are compared, and all of them by python -m docs.screens --check.

    alice --- left --- core0 --- core1 --- right --- bob
              (NAT)                |       (NAT)
                            meet.example.org
"""

from __future__ import annotations

import pytest

from docs.screens import __main__ as screens
from docs.screens.page import HEADER, differences, masked, sections
from docs.screens.record import record

EVERY = {scene.name: scene for scene in screens.EVERY}
PLAYED = ("wrong-code", "mistyped", "mistaken")  # many sentences, and no moment of a transfer that could be missed


@pytest.mark.netlab
@pytest.mark.parametrize("name", PLAYED)
def test_the_file_is_what_the_programs_say(name: str) -> None:
    made = record(EVERY[name])
    written = sections(screens.FILE.read_text(encoding="utf-8"))
    assert list(differences(written, {made.scene.title: made.section})) == []


def test_the_file_has_every_scene_and_no_other() -> None:
    text = screens.FILE.read_text(encoding="utf-8")
    assert text.startswith(HEADER)
    assert list(sections(text)) == [scene.title for scene in EVERY.values()]


def test_what_differs_from_run_to_run_is_masked() -> None:
    runs = (("0.4 s (57.3 MB/s) by direct UDP 0 ms", "6.1"), ("12.0 s (9 MB/s) by direct UDP 11 ms", "9.87"))
    shown = [
        f"Received 60 MB in {figures}; verified.\nblake3 {'5f' * 32}\n  9 %, {done} MB of 60 MB, {done} MB/s, 3 s left"
        for figures, done in runs
    ]
    assert {masked(each, 80) for each in shown} == {
        "Received 60 MB in #.# s (##.# MB/s) by direct UDP ## ms; verified.\nblake3 5f5f5f5f...\n"
        "  ## %, ##.# MB of 60 MB, ##.# MB/s, ## s left"
    }
