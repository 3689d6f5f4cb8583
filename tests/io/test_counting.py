"""The second walk counts what the first one sends."""

from __future__ import annotations

import os
import selectors
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from p2p.core.transfer.entries import Entry, File, Folder, Hardlink, Skipped, Symlink
from p2p.core.transfer.messages import Totals
from p2p.io.sending import counting, walk
from p2p.io.sending.counting import Count, Counter
from p2p.io.sending.sources import look_up
from p2p.io.sending.walk import Exclude, Walk

GUARD = 30.0  # seconds


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    folder = tmp_path / "tree"
    for number in range(30):
        inner = folder / str(number % 3) / str(number % 7)
        inner.mkdir(parents=True, exist_ok=True)
        (inner / f"{number}.txt").write_bytes(bytes(number))
    os.link(folder / "0" / "0" / "0.txt", folder / "another name")
    os.link(folder / "1" / "1" / "1.txt", folder / "1.o")
    os.mkfifo(folder / "pipe")
    (folder / "link").symlink_to("0")
    (folder / "out").symlink_to("/")
    return folder


@pytest.fixture
def selector() -> Iterator[selectors.BaseSelector]:
    with closing(selectors.DefaultSelector()) as selector:
        yield selector


def sent(paths: list[Path], exclude: Exclude) -> Totals:
    found, is_last = Walk(look_up(paths), exclude).take(1000)
    assert is_last
    sizes = [entry.size or 0 for entry, _ in found if isinstance(entry, File)]
    others = [entry for entry, _ in found if isinstance(entry, Folder | Symlink | Hardlink) or is_link_out(entry)]
    return Totals(len(sizes), sum(sizes), is_final=True, others=len(others))


def is_link_out(entry: Entry) -> bool:
    """Nobody follows a link only to count."""
    return isinstance(entry, Skipped) and "leads out" in entry.reason


@pytest.mark.parametrize("patterns", [[], ["1.*"], ["/2"], ["*"]])
def test_it_counts_what_is_sent(tree: Path, patterns: list[str]) -> None:
    paths, exclude = [tree, tree / "0" / "0" / "21.txt", tree / "1"], Exclude(patterns)
    count = Count(look_up(paths), exclude)
    assert count.step(1000) == sent(paths, exclude)
    if not patterns:
        assert sent(paths, exclude).files == 30 + 1 + 10 - 1  # of the file with two names the third one is no file


def test_it_counts_no_more_names_of_a_file_than_are_sent(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(counting, "MAX_LINKED", 1)
    monkeypatch.setattr(walk, "MAX_LINKED", 1)
    assert Count(look_up([tree]), Exclude([])).step(1000) == sent([tree], Exclude([]))


def test_it_tells_how_far_it_is(tree: Path) -> None:
    count = Count(look_up([tree]), Exclude([]))
    steps = [count.step(7)]
    while not steps[-1].is_final:
        steps.append(count.step(7))
    assert len(steps) == 9
    assert [step.files for step in steps] == sorted(step.files for step in steps)
    assert steps[-1] == sent([tree], Exclude([]))


def test_it_counts_beside_a_loop(tree: Path, selector: selectors.BaseSelector, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(counting, "BATCH", 4)
    with closing(Counter(look_up([tree]), Exclude([]), selector)) as counter:
        while not counter.totals.is_final:
            ready = selector.select(GUARD)
            assert ready, "the thread says nothing"
            for key, mask in ready:
                key.data(mask)
        assert counter.totals == sent([tree], Exclude([]))
    assert not selector.get_map()


def test_a_count_that_is_stopped_ends_at_once_and_leaves_nothing_open(tree: Path) -> None:
    before = os.listdir("/proc/self/fd")
    count = Count(look_up([tree]), Exclude([]))
    count.step(3)
    count.stop()
    assert count.step(1000).files <= 4
    count.close()
    assert os.listdir("/proc/self/fd") == before


def test_it_counts_holes(tmp_path: Path) -> None:
    path = tmp_path / "sparse"
    with path.open("wb") as file:
        for at in (0, 5, 9):
            file.seek(at * 2**22)
            file.write(bytes(range(256)) * 2**12)
        file.truncate(10 * 2**22)
    for named in (path, tmp_path):
        totals = Count(look_up([named]), Exclude([])).step(10)
        assert (totals.size, totals.holes) == (10 * 2**22, 10 * 2**22 - 3 * 2**20)
    (tmp_path / "plain").write_bytes(bytes(2**21))
    assert Count(look_up([tmp_path / "plain"]), Exclude([])).step(10).holes == 0
