"""The figures as a picture: bars of the medians, lines from the least to the most. One SVG file that needs no other.

It brings its own light background, so it reads the same on a dark page.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from xml.sax.saxutils import escape

WIDTH, MARGIN, LABELS, FIGURES = 860, 24, 250, 130  # pixels
BAR, PITCH, TITLE, GAP = 16, 24, 46, 14  # pixels: a bar, from bar to bar, a group's heading, between groups
INK, QUIET, PAPER, LINE = "#1f2328", "#59636e", "#ffffff", "#d1d9e0"
OURS, REFERENCE, OTHERS = "#0969da", "#c4ccd5", "#8c959f"
FONT = "font-family=\"-apple-system, 'Segoe UI', Helvetica, Arial, sans-serif\""

Json = dict[str, Any]


def draw(found: Json) -> str:
    """The picture of what `python -m bench --json` writes."""
    groups: dict[str, list[Json]] = {}
    for row in found["rows"]:
        if row["chart"] and row["median"] is not None:
            groups.setdefault(row["group"], []).append(row)
    body: list[str] = []
    y = MARGIN + 20
    body.append(_text(MARGIN, y, "File to file: p2p beside other programs", size=18, weight=600))
    y += 20
    body.append(_text(MARGIN, y, _legend(found), size=12, fill=QUIET))
    y += GAP
    for rows in groups.values():
        lines, y = _group(rows, y)
        body += lines
    for line in _machine(found["machine"]):
        body.append(_text(MARGIN, y + 16, line, size=11, fill=QUIET))
        y += 15
    height = y + MARGIN
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}"'
            f' viewBox="0 0 {WIDTH} {height}" role="img" {FONT}>',
            "<title>p2p beside other programs that move files</title>",
            f'<rect x="0.5" y="0.5" width="{WIDTH - 1}" height="{height - 1}" rx="8" fill="{PAPER}" stroke="{LINE}"/>',
            *body,
            "</svg>\n",
        ]
    )


def _legend(found: Json) -> str:
    return (
        f"Bars: median of {found['runs']} interleaved runs; thin lines: least to most. iperf3 neither encrypts nor"
        " writes files."
    )


def _group(rows: list[Json], y: int) -> tuple[list[str], int]:
    first = rows[0]
    body = [
        f'<line x1="{MARGIN}" y1="{y}" x2="{WIDTH - MARGIN}" y2="{y}" stroke="{LINE}"/>',
        _text(MARGIN, y + 22, f"{first['title']}, {first['unit']}", size=14, weight=600),
        *([_text(MARGIN, y + 38, first["note"], size=11, fill=QUIET)] if first["note"] else []),
    ]
    top = y + (TITLE if first["note"] else TITLE - 14)
    most = max(max(_values(row)) for row in rows)
    room = WIDTH - 2 * MARGIN - LABELS - FIGURES
    for number, row in enumerate(rows):
        body += _bar(row, top + number * PITCH, room / most)
    return body, top + len(rows) * PITCH + GAP


def _bar(row: Json, y: int, scale: float) -> Iterator[str]:
    values, left = _values(row), MARGIN + LABELS
    middle, width = y + BAR / 2, row["median"] * scale
    ours = row["program"] == "p2p"
    fill = OURS if ours else REFERENCE if row["program"] == "iperf3" else OTHERS
    yield _text(left - 8, y + 12.5, row["name"], size=12.5, anchor="end", weight=600 if ours else 400)
    yield f'<rect x="{left}" y="{y}" width="{max(width, 1):.1f}" height="{BAR}" rx="2" fill="{fill}"/>'
    low, high = left + min(values) * scale, left + max(values) * scale
    if high - low > 2:
        path = f"M{low:.1f} {middle - 4}v8M{low:.1f} {middle}H{high:.1f}M{high:.1f} {middle - 4}v8"
        yield f'<path d="{path}" stroke="{INK}" stroke-width="1" fill="none"/>'
    figure = f"{row['median']:.3g}"
    if row["ratio"] is not None:
        digits = 0 if row["ratio"] >= 10 else 2 if row["ratio"] >= 0.1 else 3
        figure += f"  ({row['ratio']:.{digits}f} x)"
    yield _text(max(left + width, high) + 8, y + 12.5, figure, size=12.5, weight=600 if ours else 400)


def _values(row: Json) -> list[float]:
    return [run["value"] for run in row["runs"] if run is not None]


def _machine(machine: dict[str, str]) -> Iterator[str]:
    """The description in lines that fit."""
    line = ""
    for name, value in machine.items():
        word = value if name == "CPU" else f"{name} {value}"
        if len(line) + len(word) > 125:
            yield line
            line = ""
        line += f"{' · ' if line else ''}{word}"
    yield line


def _text(
    x: float, y: float, words: str, *, size: float, fill: str = INK, weight: int = 400, anchor: str = "start"
) -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" fill="{fill}" font-weight="{weight}"'
        f' text-anchor="{anchor}">{escape(words)}</text>'
    )
