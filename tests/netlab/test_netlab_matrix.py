"""The matrix: what the programs' events mean, the page made of results, and one real pair."""

from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from netlab.__main__ import main
from netlab.matrix import judge
from netlab.page import Result, page

PUNCHED = Result("full cone", "symmetric", "direct UDP 3 ms (punched)", 0.75, 100e6)
SLOW = Result("symmetric", "full cone", "direct TCP (LAN)", 1.5, 50e6)
NONE = Result("symmetric", "symmetric", words="No direct path: <both> & neither")
RESULTS = (Result("full cone", "full cone", "relay", 0.3, None, "the sender did not end"), PUNCHED, SLOW, NONE)

PATH = {"event": "path", "description": "direct UDP 3 ms (punched)", "at": 0.75}
DONE = {"event": "done", "total": 8_000_000, "seconds": 0.08, "at": 1.0}
FAILED = {"event": "failed", "code": 6, "message": "No direct path", "at": 9.0}


class Reader(HTMLParser):
    """Every tag with its attributes; fails on one that is not closed."""

    VOID = ("meta", "input", "!doctype")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self._open: list[str] = []
        self.feed(text)
        assert not self._open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def test_the_receivers_path_and_the_senders_rate_make_a_result() -> None:
    assert judge("a", "b", [PATH | {"at": 9.0}, DONE], [PATH]) == Result("a", "b", PUNCHED.path, 0.75, 100e6)


@pytest.mark.parametrize(
    ("sender", "receiver"), [([FAILED], []), ([], [FAILED]), ([FAILED | {"message": "x"}], [FAILED])]
)
def test_without_a_path_the_reason_is_kept(sender: list[dict[str, object]], receiver: list[dict[str, object]]) -> None:
    assert judge("a", "b", sender, receiver) == Result("a", "b", words="No direct path")


def test_a_path_that_carried_no_file_has_no_rate_but_the_reason() -> None:
    assert judge("a", "b", [PATH, FAILED], [PATH]) == Result("a", "b", PUNCHED.path, 0.75, None, "No direct path")


def test_a_path_that_took_over_later_is_told_too() -> None:
    relay = PATH | {"description": "relay 3 ms", "at": 2.0}
    result = judge("a", "b", [DONE], [relay, PATH | {"at": 4.0}])
    assert (result.path, result.seconds, result.later, result.later_seconds) == ("relay 3 ms", 2.0, PUNCHED.path, 4.0)


def test_programs_that_said_nothing_connected_nothing() -> None:
    assert judge("a", "b", [], []) == Result("a", "b")


def test_the_page_needs_nothing_outside_itself_and_is_the_same_each_time() -> None:
    text = page(RESULTS, size=8_000_000)
    assert text == page(RESULTS, size=8_000_000)
    assert not re.search(r"https?:|src=|href=|@import|url\(|fetch\(", text)
    assert "prefers-color-scheme: dark" in text


def test_each_pair_is_a_cell_with_its_path_time_and_rate() -> None:
    text = page(RESULTS, size=8_000_000, when="2030-01-01", about="Linux <9>")
    cells = [cell.group(0) for cell in re.finditer(r"<td class=\"(?!none).*?</td>", text)]
    assert len(cells) == 4
    assert '<td class="udp" tabindex="-1" style="--slow:50%;--fast:100%"><b>UDP</b><span>0.75 s</span>' in cells[1]
    assert "<span>100 MB/s</span>" in cells[1]
    assert "<dd>direct UDP 3 ms (punched)</dd>" in cells[1]
    assert cells[2].startswith('<td class="tcp" tabindex="-1" style="--slow:100%;--fast:50%"><b>TCP</b>')
    assert cells[0].startswith('<td class="relay"')
    assert "<dd>the sender did not end</dd>" in cells[0]
    assert cells[3].startswith('<td class="no" tabindex="-1"><b>no path</b>')
    assert "<dd>No direct path: &lt;both&gt; &amp; neither</dd>" in cells[3]
    assert "3 of 4 pairs connected · 8 MB sent in each · 2030-01-01 · Linux &lt;9&gt;" in text


def test_the_table_can_be_read_aloud_and_walked_by_keyboard() -> None:
    read = Reader(page(RESULTS, size=8_000_000))
    assert [head["scope"] for head in read.all("th")] == ["col", "col", "row", "row"]
    cells = [cell for cell in read.all("td") if cell["class"] != "none"]
    assert [cell["tabindex"] for cell in cells] == ["0", "-1", "-1", "-1"]  # one stop, then arrow keys
    assert len(read.all("caption")) == 1
    assert len(read.all("label")) == len(read.all("input")) == 3
    assert read.all("html") == [{"lang": "en"}]


def test_what_was_wanted_is_told_and_what_is_not_so_is_marked() -> None:
    good = replace(PUNCHED, wanted="direct UDP within 3 s")
    bad = replace(SLOW, wanted="direct UDP within 3 s", wrong="'direct TCP' where <UDP> was to be")
    late = Result("a", "a", "relay", 2.0, later="direct UDP 3 ms", later_seconds=4.0)
    lost = replace(NONE, wanted="relay within 3 s", wrong="no path")
    text = page((good, bad, late, lost), size=1)
    assert "3 of 4 pairs connected · 1 of 3 as wanted" in text
    classes = {cell["class"] for cell in Reader(text).all("td")}
    assert classes == {"none", "udp", "tcp wrong", "relay", "no wrong"}
    assert "<dt>wanted</dt><dd>direct UDP within 3 s</dd>" in text
    assert "<dt>not as wanted</dt><dd>&#x27;direct TCP&#x27; where &lt;UDP&gt; was to be</dd>" in text
    assert "<dt>after 4.00 s</dt><dd>direct UDP 3 ms</dd>" in text


def test_a_pair_that_was_not_run_is_an_empty_cell() -> None:
    read = Reader(page((PUNCHED, SLOW), size=1))
    assert [cell["class"] for cell in read.all("td")] == ["none", "udp", "none", "none", "tcp"]


def test_no_results_make_a_page_all_the_same() -> None:
    assert "0 of 0 pairs connected" in page((), size=1)
    Reader(page((), size=1))


@pytest.mark.netlab
def test_a_real_matrix_has_a_row_for_each_kind(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "x.html"
    arguments = ["--kinds", "port-restricted", "udp-blocked", "--size", "100000", "--jobs", "2"]
    assert main(["matrix", "-o", str(file), *arguments]) == 0
    said = capsys.readouterr()
    assert said.out == f"{file}\n"
    lines = said.err.splitlines()
    assert re.fullmatch(r"  1/4  port-restricted x port-restricted: direct UDP .* in \d+\.\d\d s", lines[0])
    assert [line[:5] for line in lines] == ["  1/4", "  2/4", "  3/4", "  4/4"]
    assert all("direct TCP" in line for line in lines[1:])
    read = Reader(file.read_text(encoding="utf-8"))
    assert [cell["class"] for cell in read.all("td")] == ["none", "udp", "tcp", "tcp", "tcp"]


@pytest.mark.netlab
def test_one_job_runs_the_pairs_in_this_process(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["matrix", "-o", str(tmp_path / "x.html"), "--kinds", "none", "--size", "1"]) == 0
    assert capsys.readouterr().err.startswith("  1/1  none x none: direct UDP")
