"""The matrix as one HTML page that needs nothing outside itself. Pure: results in, text out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape


@dataclass(frozen=True, slots=True)
class Result:
    """How one pair went. ``left`` and ``right`` are the NATs of the sender and of the receiver, by name.

    ``path`` is the program's own description of it, "" when there was none; ``seconds`` run from the
    second peer's start to its ``path`` event, start-up of the program included; ``rate`` is in bytes a
    second, of payload, as the sender counts; ``words`` is what went wrong.
    ``later`` is the last path, where that is another one, and ``later_seconds`` when it took over.
    ``wanted`` is what was to be expected of the pair, ``wrong`` what is not as it should be; whoever
    knows the program fills them in.
    """

    left: str
    right: str
    path: str = ""
    seconds: float | None = None
    rate: float | None = None
    words: str = ""
    later: str = ""
    later_seconds: float | None = None
    wanted: str = ""
    wrong: str = ""


def page(results: Sequence[Result], *, size: int, when: str = "", about: str = "") -> str:
    """The page. ``size``: bytes sent per pair; ``when`` and ``about``: words for the subtitle.

    The same results give the same page. A pair without a result is an empty cell.
    """
    lefts = list(dict.fromkeys(result.left for result in results))
    rights = list(dict.fromkeys(result.right for result in results))
    by_pair = {(result.left, result.right): result for result in results}
    slowest = max((r.seconds for r in results if r.seconds is not None), default=0.0)
    fastest = max((r.rate for r in results if r.rate is not None), default=0.0)
    connected = sum(bool(result.path) for result in results)
    body = []
    for row, left in enumerate(lefts):
        cells = []
        for column, right in enumerate(rights):
            result = by_pair.get((left, right))
            first = row == column == 0
            cells.append(_cell(result, slowest, fastest, first=first) if result else '<td class="none"></td>')
        body.append(f'<tr><th scope="row">{escape(left)}</th>{"".join(cells)}</tr>')
    heads = "".join(f'<th scope="col"><span>{escape(name)}</span></th>' for name in rights)
    judged = [result for result in results if result.wanted]
    verdict = f"{sum(not result.wrong for result in judged)} of {len(judged)} as wanted" if judged else ""
    facts = [f"{connected} of {len(results)} pairs connected", verdict, f"{_size(size)} sent in each", when, about]
    return _PAGE.format(
        style=_STYLE,
        script=_SCRIPT,
        facts=" · ".join(escape(fact) for fact in facts if fact),
        heads=heads,
        body="\n".join(body),
        quick=_seconds(0.0),
        slow=_seconds(slowest),
        fast=_size(round(fastest)) + "/s",
    )


def _cell(result: Result, slowest: float, fastest: float, *, first: bool) -> str:
    tab = 0 if first else -1
    where = f"{result.left} → {result.right}"
    marked = " wrong" if result.wrong else ""
    judged = [("wanted", result.wanted), ("not as wanted", result.wrong)]
    if not result.path:
        rows = [("path", "none"), ("why", result.words or "the programs gave no reason"), *judged]
        return f'<td class="no{marked}" tabindex="{tab}"><b>no path</b>{_detail(where, rows)}</td>'
    kind = _short(result.path)
    seconds = "" if result.seconds is None else _seconds(result.seconds)
    rate = "" if result.rate is None else f"{_size(round(result.rate))}/s"
    rows = [("path", result.path), ("connected in", seconds)]
    if result.later_seconds is not None:
        rows.append((f"after {_seconds(result.later_seconds)}", result.later))
    rows += [("rate", rate), ("but", result.words), *judged]
    heat = f"--slow:{_share(result.seconds, slowest)}%;--fast:{_share(result.rate, fastest)}%"
    return (
        f'<td class="{kind.lower()}{marked}" tabindex="{tab}" style="{heat}"><b>{kind}</b>'
        f"<span>{seconds}</span><span>{rate}</span>{_detail(where, rows)}</td>"
    )


def _detail(title: str, rows: Sequence[tuple[str, str]]) -> str:
    listed = "".join(f"<dt>{escape(name)}</dt><dd>{escape(text)}</dd>" for name, text in rows if text)
    return f'<div class="detail" role="note"><strong>{escape(title)}</strong><dl>{listed}</dl></div>'


def _short(path: str) -> str:
    """``direct UDP 23 ms (punched)`` is UDP."""
    return next((word for word in ("UDP", "TCP") if path.startswith(f"direct {word}")), "relay")


def _share(value: float | None, most: float) -> int:
    return round(100 * value / most) if value and most else 0


def _seconds(value: float) -> str:
    return f"{value:.2f} s"


def _size(count: int) -> str:
    power = next((p for p in range(5) if count < 999.5 * 1000**p), 4)
    return f"{count / 1000**power:.3g} {('B', 'kB', 'MB', 'GB', 'TB')[power]}"


_STYLE = """
:root { color-scheme: light dark; --paper: #fff; --ink: #1b2230; --soft: #566072; --edge: #d5dae2; --card: #fff;
  --cool: #dff3e6; --warm: #f9c27c; --weak: #e9eef6; --strong: #8fbdf0; --udp: #d9f0e1; --tcp: #dbe8fb;
  --relay: #efe3fb; --no: #f6dfe0; --no-line: #e9c4c6; --focus: #1d62c9; --wrong: #c02f37; }
@media (prefers-color-scheme: dark) {
  :root { --paper: #12161d; --ink: #e9edf4; --soft: #a7b1c2; --edge: #343c4a; --card: #1d232d;
    --cool: #17382a; --warm: #8a4f0c; --weak: #1b2432; --strong: #245a99; --udp: #17382a; --tcp: #1a3152;
    --relay: #36254d; --no: #3d2226; --no-line: #54303a; --focus: #7db2ff; --wrong: #ff8087; } }
* { box-sizing: border-box; }
body { margin: 0; padding: 28px; background: var(--paper); color: var(--ink);
  font: 14px/1.45 system-ui, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; }
h1 { font-size: 22px; margin: 0 0 2px; } p { margin: 0 0 14px; color: var(--soft); max-width: 90ch; }
fieldset { border: 0; padding: 0; margin: 0 0 12px; display: flex; gap: 18px; flex-wrap: wrap; align-items: center; }
legend { float: left; padding: 0; margin-right: 4px; color: var(--soft); } label { cursor: pointer; }
.scale { display: none; align-items: center; gap: 8px; color: var(--soft); font-size: 13px; min-height: 20px; }
.scale i { display: inline-block; width: 130px; height: 12px; border-radius: 6px; }
.scale .box { width: 14px; border-radius: 3px; }
body:has(#by-time:checked) .scale.time, body:has(#by-rate:checked) .scale.rate,
body:has(#by-path:checked) .scale.path { display: flex; }
.time i { background: linear-gradient(90deg, var(--cool), var(--warm)); }
.rate i { background: linear-gradient(90deg, var(--weak), var(--strong)); }
.table { overflow: auto; max-height: 100vh; padding: 4px 4px 150px; margin: 0 -4px -110px; }
table { border-collapse: separate; border-spacing: 3px; }
caption { text-align: left; color: var(--soft); padding: 8px 0; }
caption span { position: sticky; left: 4px; display: inline-block; max-width: min(90ch, calc(100vw - 64px)); }
th { font-weight: 600; }
tbody th { position: sticky; left: 0; z-index: 1; background: var(--paper); text-align: right;
  padding: 4px 10px 4px 0; }
thead th { position: sticky; top: 0; z-index: 4; background: var(--paper); text-align: center; vertical-align: bottom;
  padding: 0 4px 6px; width: 104px; }
td { position: relative; width: 104px; height: 66px; padding: 5px; text-align: center; border-radius: 7px;
  font-variant-numeric: tabular-nums; background: color-mix(in oklab, var(--cool), var(--warm) var(--slow, 0%)); }
body:has(#by-rate:checked) td:not(.no, .none) {
  background: color-mix(in oklab, var(--weak), var(--strong) var(--fast, 0%)); }
body:has(#by-path:checked) td.udp { background: var(--udp); }
body:has(#by-path:checked) td.tcp { background: var(--tcp); }
body:has(#by-path:checked) td.relay { background: var(--relay); }
td.no, i.no {
  background: repeating-linear-gradient(45deg, var(--no) 0 7px, var(--no-line) 7px 9px); }
td.none { background: none; }
td.wrong { outline: 3px solid var(--wrong); outline-offset: -3px; } td.wrong b::after { content: " !"; }
td b, td span { display: block; } td span { font-size: 12.5px; white-space: nowrap; }
td:focus { outline: 3px solid var(--focus); outline-offset: 1px; }
.detail { position: absolute; z-index: 2; top: calc(100% + 6px); left: 50%; transform: translateX(-50%);
  width: 270px; padding: 10px 12px; text-align: left; background: var(--card); border: 1px solid var(--edge);
  border-radius: 8px; box-shadow: 0 6px 22px #0003; opacity: 0; visibility: hidden; pointer-events: none; }
td:hover .detail, td:focus .detail { opacity: 1; visibility: visible; }
td:hover { z-index: 3; } td:focus { z-index: 2; }
td:nth-last-child(-n+2) .detail { left: auto; right: 0; transform: none; }
td:nth-child(-n+2) .detail { left: 0; right: auto; transform: none; }
tr:nth-last-child(-n+2):nth-child(n+3) .detail { top: auto; bottom: calc(100% + 6px); }
dl { display: grid; grid-template-columns: auto 1fr; gap: 2px 10px; margin: 6px 0 0; font-size: 13px; }
dt { color: var(--soft); } dd { margin: 0; }
"""

_SCRIPT = """
const cells = [...document.querySelectorAll("tbody tr")].map(row => [...row.cells].slice(1));
document.querySelector("tbody").addEventListener("keydown", event => {
  const step = {ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1]}[event.key];
  const at = event.target.closest("td");
  if (event.key === "Escape" && at) at.blur();
  if (!step || !at) return;
  const row = cells.findIndex(each => each.includes(at)), column = cells[row].indexOf(at);
  const next = cells[row + step[0]]?.[column + step[1]];
  event.preventDefault();
  if (!next || !next.hasAttribute("tabindex")) return;
  at.tabIndex = -1; next.tabIndex = 0; next.focus();
});
"""

_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Which NATs connect</title>
<style>{style}</style>
</head>
<body>
<h1>Which NATs connect</h1>
<p>{facts}</p>
<fieldset><legend>Colour by</legend>
<label><input type="radio" name="by" id="by-time" checked> time to connect</label>
<label><input type="radio" name="by" id="by-rate"> rate</label>
<label><input type="radio" name="by" id="by-path"> path</label>
</fieldset>
<div class="scale time">{quick} <i></i> {slow} <i class="box no"></i> no path</div>
<div class="scale rate">0 <i></i> {fast} <i class="box no"></i> no path</div>
<div class="scale path"><i class="box" style="background:var(--udp)"></i> direct UDP
<i class="box" style="background:var(--tcp)"></i> direct TCP
<i class="box" style="background:var(--relay)"></i> relay <i class="box no"></i> no path</div>
<div class="table">
<table>
<caption><span>Rows: the NAT of the sender, alice. Columns: the NAT of the receiver, bob, who starts second. Each cell:
path, seconds from bob’s start (the program’s own start included) until he has a path, rate; “!”: not as wanted. Hover
for detail, or use Tab and the arrow keys.</span></caption>
<thead><tr><td class="none"></td>{heads}</tr></thead>
<tbody>
{body}
</tbody>
</table>
</div>
<script>{script}</script>
</body>
</html>
"""
