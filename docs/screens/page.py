"""The page: what differs from run to run is masked, so that it is the same as long as the programs say the same."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping, Sequence

from docs.screens.stage import Shot
from p2p.io.terminal.words import wrapped

HEADER = """\
# Both screens

What two people see, in good runs and in bad ones. Made by `python -m docs.screens` (root), which runs the real programs
in shells on pseudo-terminals, across two NATs of [netlab](netlab.md), with a server outside. A test plays three of the
scenes again and compares every line (a wrong code; a no that was none; mistyped); of the others it compares the titles.
`python -m docs.screens --check` plays them all, in six minutes.

On a terminal there is a last line as well while one waits, which says for what, and for how long already. It is written
over and leaves nothing behind, so it is to be seen here only where a section says so.

`p2p` is `python -m p2p.peer`, and both have set `P2P_SERVER=meet.example.org`. `echo $?` shows the exit code
([commands.md](commands.md)). `#` stands for digits that are others in each run, the code is always the same one here,
hashes are cut to eight digits. The terminals have 80 columns where nothing else is said.
"""

# Of what differs from run to run: figures of time and speed, codes, hashes.
MASKS: Sequence[tuple[str, str]] = (
    (r"\b\d+-[a-z]+-[a-z]+-[a-z]+\b", "7-amber-walnut-tiger"),
    (r"(this code when it asks:  |screen shows: )(?!ember)\S+", r"\1amber-walnut-tiger"),
    (r"\b(UDP|TCP|relay) <?[\d.]+ ms", r"\1 ## ms"),
    (r"^  \d+ %, [\d.]+ [kMG]?B of (.*?), [\d.]+ MB/s, \d+ s left$", r"  ## %, ##.# MB of \1, ##.# MB/s, ## s left"),
    (r"blake3 ([0-9a-f]{8})[0-9a-f]{56}", r"blake3 \1..."),
)
# Of the last line of a transfer under way.
LAST_LINE: Sequence[tuple[str, str]] = (
    (r" *[\d.]+ [kMG]?B( of [\d.]+ [kMG]?B)", r"  ##.# MB\1"),
    (r" *[\d.]+ [kMG]?B/s", "  ##.# MB/s"),
    (r"  (\d+|-):[\d-][\d-]  ", "  0:##  "),
    (r"  (\d+|-):[\d-][\d-]$", "  0:##"),
    (r"for \d+:\d\d more", "for ##:## more"),
)
RESULT = re.compile(r"^(?:Sent|Received) .*?\.(?=\nblake3)", re.M | re.S)
LEFT_OVER = re.compile(r"^ *\d+ %  .*$", re.M)  # a last line that a killed program could not take away
KILLED_AT = 50  # percent, and a little more


def masked(text: str, columns: int) -> str:
    """A screen of so many columns."""
    is_partial = "left out" in text or "were there already" in " ".join(text.split())

    def result(found: re.Match[str]) -> str:
        sentence = re.sub(r"in [\d.,]+ s \([\d.]+ [kMG]?B/s\)", "in #.# s (##.# MB/s)", " ".join(found[0].split()))
        sentence = _replaced(sentence, [(r" (UDP|TCP|relay) <?[\d.]+ ms", r" \1 ## ms")])
        if is_partial:  # how much it was depends on the moment
            sentence = re.sub(r"[\d.]+ MB(?!/s)", "##.# MB", sentence)
        return wrapped(sentence, columns - 1)

    text = RESULT.sub(result, text)
    text = LEFT_OVER.sub(lambda found: line_of(Shot(found[0], KILLED_AT)), text)
    return _replaced(text, MASKS)


def line_of(shot: Shot) -> str:
    """As it was when just that percentage had crossed; ten times a second it is not that often."""
    line = _replaced(shot.line, LAST_LINE)
    if (share := shot.share) is None:
        return line
    line = re.sub(r"^ *\d+ %", f"{share:3} %", line)

    def bar(found: re.Match[str]) -> str:
        full = len(found[0]) * share // 100
        return "█" * full + "░" * (len(found[0]) - full)

    return re.sub("[█░]+", bar, line)


def _replaced(text: str, masks: Sequence[tuple[str, str]]) -> str:
    for pattern, instead in masks:
        text = re.sub(pattern, instead, text, flags=re.MULTILINE)
    return text


def compose(
    title: str,
    about: str,
    screens: Sequence[tuple[str, str, int]],
    shots: Sequence[tuple[str, Sequence[Shot]]],
) -> str:
    """One section. `screens`: who, what their screen shows in the end, its columns; `shots`: a caption, and lines."""
    parts = [f"## {title}", *([about] if about else [])]
    parts += [f"{who}:\n\n```text\n{masked(text, columns)}\n```" for who, text, columns in screens]
    parts += [
        f"Meanwhile {caption} was, in turn:\n\n```text\n" + "\n".join(map(line_of, lines)) + "\n```"
        for caption, lines in shots
    ]
    return "\n\n".join(parts) + "\n"


def sections(page: str) -> dict[str, str]:
    """Of a page, by title."""
    found = re.split(r"^(?=## )", page, flags=re.MULTILINE)[1:]
    return {section.partition("\n")[0].removeprefix("## "): section.rstrip("\n") + "\n" for section in found}


def differences(written: Mapping[str, str], made: Mapping[str, str]) -> Iterator[str]:
    """Lines of a diff: what the file has, and what the programs say."""
    for title, section in made.items():
        old = written.get(title, "")
        yield from difflib.unified_diff(old.splitlines(), section.splitlines(), "docs/screens.md", title, lineterm="")
