"""Records both screens of every scene, and writes docs/screens.md: python -m docs.screens

    python -m docs.screens              all scenes: six minutes
    python -m docs.screens file lost    these scenes only; the others stay as they are in the file
    python -m docs.screens --check      says what differs from the file, and leaves it; exit code 1 when something does
    python -m docs.screens --silences   tells after which lines a screen said nothing for a second or more

Needs root, as the lab does.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from docs.screens.contacts import CONTACTS
from docs.screens.failures import FAILURES
from docs.screens.page import HEADER, differences, sections
from docs.screens.record import Recorded, record
from docs.screens.scenes import SCENES

FILE = Path(__file__).parents[1] / "screens.md"
EVERY = (*SCENES, *CONTACTS, *FAILURES)
SILENT = 1.0  # seconds


def main() -> int:
    every = {scene.name: scene for scene in EVERY}
    parser = argparse.ArgumentParser(
        prog="python -m docs.screens", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("scenes", nargs="*", metavar="SCENE", help=f"of {', '.join(every)}")
    parser.add_argument("--check", action="store_true", help="compare with the file, and leave it")
    parser.add_argument("--silences", action="store_true", help="tell of silent screens, on stderr")
    options = parser.parse_args()
    if unknown := sorted(set(options.scenes) - set(every)):
        parser.error(f"no scene {', '.join(unknown)}; there are: {', '.join(every)}")
    written = sections(FILE.read_text(encoding="utf-8"))
    made: dict[str, str] = {}
    for name in options.scenes or every:
        print(f"{name} ...", file=sys.stderr, flush=True)
        recorded = record(every[name])
        made[recorded.scene.title] = recorded.section
        if options.silences:
            _tell_silences(recorded)
    if options.check:
        found = list(differences(written, made))
        print("\n".join(found) or "The file is what the programs say.")
        return 1 if found else 0
    now = written | made
    FILE.write_text("\n".join([HEADER, *(now[scene.title] for scene in every.values())]), encoding="utf-8")
    return 0


def _tell_silences(recorded: Recorded) -> None:
    for silence in recorded.silences:
        if silence.seconds >= SILENT:
            print(f"  {silence.who} silent for {silence.seconds:.1f} s after: {silence.after}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
